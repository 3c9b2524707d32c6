/* A spawner and inits in one thread of the test: they speak the real protocol and run commands on the host, as nobody in
 * particular. Commands block it, so they are to be short. Files are what the paths say. */
#pragma once

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/plan.h"
#include "sandbox/wire.h"

#define FAKE_BOXES 64
#define FAKE_ARGS 64

struct fake_box {
	char id[PLAN_ID_LEN];
	int fd;           /* init's end; -1 = free */
	int daemon;       /* the other end, for a daemon that takes over */
	char note[4096];
	size_t note_len;
	uint64_t runs;    /* RUNS that is not answered: fake_tell_runs() */
};

static struct {
	char dir[64], path[96];
	int listener, daemon, egress; /* egress: its end of the channel that the daemon got */
	int wake[2];                  /* a byte ends the thread */
	struct fake_box boxes[FAKE_BOXES];
	pthread_t thread;
	char fail_make[64];           /* MAKE fails with this text */
	int fail_code;                /* and this errno; 0 = ENOSPC */
	char job_id[64];              /* of the last JOB */
	char cancelled_id[64];        /* of the last JOB_CANCEL */
	int ended, renewed, acked;    /* messages seen */
	int results;                  /* RESULTs that were answered */
	int over;                     /* runs whose ends were told */
	int connects;                 /* CONNECTs that were not answered */
	uint64_t lease_ms;            /* of the last MAKE or RENEW */
	char config[4096];            /* HOSTNAME|HOSTS|RESOLV|DIR of the last CONFIG */
	char old_id[PLAN_ID_LEN];     /* LIST tells of it beside those that were made: of a former daemon */
	char ended_id[PLAN_ID_LEN];
	char hostname[64];            /* MADE says that it is this; "" = it says nothing, and CONFIG is the daemon's */
	bool slow_take;               /* TAKE is answered by fake_take_late() */
	uint64_t take;                /* such a one */
	bool done_first;              /* init tells of a run's end, and later that it has started */
	bool quiet;                   /* init tells of a run's end in place of its start */
	bool mute;                    /* init reads a CONNECT, and says nothing */
	bool items;                   /* init answers an OPEN by pieces of a list, then as it should */
} fake;

static _Alignas(8) char fake_in[WIRE_MAX], fake_out[WIRE_MAX];

static struct wire_out fake_begin(enum wire_type type, uint64_t request)
{
	struct wire_out o;

	wire_begin(&o, fake_out, sizeof(fake_out), type, request);
	return o;
}

static void fake_send(int fd, struct wire_out *o, const int *fds, size_t n)
{
	int r = fd >= 0 ? wire_send(fd, o, fds, n) : 0;

	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		abort();
}

static void fake_fail(int fd, uint64_t request, int code, const char *text)
{
	struct wire_out o = fake_begin(WIRE_FAILED, request);

	wire_put_str(&o, WIRE_T_STAGE, "fake");
	wire_put_u64(&o, WIRE_T_ERRNO, (uint64_t)code);
	wire_put_str(&o, WIRE_T_TEXT, text);
	fake_send(fd, &o, NULL, 0);
}

static void fake_ok(int fd, uint64_t request)
{
	struct wire_out o = fake_begin(WIRE_OK, request);

	fake_send(fd, &o, NULL, 0);
}

/* -- init ---------------------------------------------------------------------------------------------------------------- */

static size_t fake_strings(const struct wire_in *in, enum wire_tag tag, char **ret)
{
	size_t n = 0;

	while (n < FAKE_ARGS - 1 && (ret[n] = (char *)(uintptr_t)wire_get_str(in, tag, n)))
		n++;
	ret[n] = NULL;
	return n;
}

static void fake_run(int fd, const struct wire_in *in, const int *fds, size_t n_fds)
{
	char *argv[FAKE_ARGS], *envp[FAKE_ARGS], out[60000];
	uint64_t max = wire_get_u64(in, WIRE_T_MAX_BYTES, 0), flags = wire_get_u64(in, WIRE_T_FLAGS, 0), kept;
	const char *id = wire_get_str(in, WIRE_T_RUN_ID, 0);
	struct wire_out o = fake_begin(WIRE_STARTED, in->request);
	size_t len = 0;
	ssize_t n;
	int p[2], status = 0;
	pid_t pid;

	wire_put_str(&o, WIRE_T_RUN_ID, id);
	if (!fake.done_first && !fake.quiet)
		fake_send(fd, &o, NULL, 0);
	fake_strings(in, WIRE_T_ARG, argv);
	fake_strings(in, WIRE_T_ENV, envp);
	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	pid = fork();
	if (pid == 0) {
		dup2(p[1], 1);
		dup2(p[1], 2);
		if (flags & WIRE_RUN_SCRIPT && n_fds)
			dup2(fds[0], 9);
		execvpe(argv[0], argv, envp);
		_exit(127);
	}
	close(p[1]);
	while (len < sizeof(out) && (n = read(p[0], out + len, sizeof(out) - len)) > 0)
		len += (size_t)n;
	close(p[0]);
	waitpid(pid, &status, 0);
	kept = MIN(max, (uint64_t)len);
	o = fake_begin(WIRE_DONE, fake.quiet ? in->request : 0);
	wire_put_str(&o, WIRE_T_RUN_ID, id);
	wire_put_u64(&o, WIRE_T_STATUS, (uint64_t)(unsigned)status);
	wire_put_u64(&o, WIRE_T_BYTES, kept);
	wire_put_u64(&o, WIRE_T_STORED, kept);
	wire_put_u64(&o, WIRE_T_DROPPED, len - kept);
	wire_put_u64(&o, WIRE_T_DURATION_US, 1234);
	/* Even bytes inside a message, odd ones beside it: both ways are used. */
	if (kept % 2 == 0) {
		wire_put(&o, WIRE_T_OUTPUT, out, kept);
		fake_send(fd, &o, NULL, 0);
	} else {
		int spool = -1;

		if (fd_memfd(&spool, "spool", out, kept, NULL) < 0)
			abort();
		fake_send(fd, &o, &spool, 1);
		close(spool);
	}
	__atomic_add_fetch(&fake.over, 1, __ATOMIC_SEQ_CST);
}

/* Of whatever run: one that has written "again". */
static void fake_result(int fd, const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_DONE, in->request);
	int spool = -1;

	if (fd_memfd(&spool, "spool", "again", 5, NULL) < 0)
		abort();
	wire_put_str(&o, WIRE_T_RUN_ID, wire_get_str(in, WIRE_T_RUN_ID, 0));
	wire_put_u64(&o, WIRE_T_STORED, 5);
	__atomic_add_fetch(&fake.results, 1, __ATOMIC_SEQ_CST);
	fake_send(fd, &o, &spool, 1);
	close(spool);
}

/* As only a forged init does. */
static void fake_run_backwards(int fd, const struct wire_in *in, const int *fds, size_t n_fds)
{
	struct wire_out o;

	fake_run(fd, in, fds, n_fds);
	usleep(100000);
	o = fake_begin(WIRE_STARTED, in->request);
	fake_send(fd, &o, NULL, 0);
}

static void fake_open(int fd, const struct wire_in *in)
{
	const char *path = wire_get_str(in, WIRE_T_PATH, 0);
	int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct wire_out o;
	struct stat st;

	for (int i = 0; fake.items && i < 2; i++) {
		o = fake_begin(WIRE_ITEM, in->request);
		fake_send(fd, &o, &file, 1);
	}
	if (file < 0 || fstat(file, &st) < 0) {
		fake_fail(fd, in->request, errno, strerror(errno));
		return;
	}
	o = fake_begin(WIRE_OK, in->request);
	wire_put_u64(&o, WIRE_T_SIZE, (uint64_t)st.st_size);
	fake_send(fd, &o, &file, 1);
	close(file);
}

static void fake_connect(int fd, const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_OK, in->request);
	int p[2];

	if (wire_get_u64(in, WIRE_T_PORT, 0) != 8080) {
		fake_fail(fd, in->request, ECONNREFUSED, "nobody listens there");
		return;
	}
	if (pipe2(p, O_CLOEXEC) < 0 || write(p[1], "hello", 5) != 5)
		abort();
	fake_send(fd, &o, p, 1);
	close(p[0]);
	close(p[1]);
}

static void fake_init(struct fake_box *b)
{
	int fds[FD_PASS_MAX];
	size_t len = 0, n = 0;
	struct wire_in in;

	if (fd_recv(b->fd, fake_in, sizeof(fake_in), &len, fds, FD_PASS_MAX, &n) < 0 || len == 0) {
		b->fd = fd_close(b->fd);
		return;
	}
	if (wire_parse(&in, fake_in, len) < 0)
		abort();
	if (in.type == WIRE_RUN && fake.done_first)
		fake_run_backwards(b->fd, &in, fds, n);
	else if (in.type == WIRE_RUN)
		fake_run(b->fd, &in, fds, n);
	else if (in.type == WIRE_OPEN)
		fake_open(b->fd, &in);
	else if (in.type == WIRE_RESULT && !fake.mute)
		fake_result(b->fd, &in);
	else if (in.type == WIRE_CONNECT && !fake.mute)
		fake_connect(b->fd, &in);
	else if (in.type == WIRE_CONNECT)
		__atomic_add_fetch(&fake.connects, 1, __ATOMIC_SEQ_CST);
	else if (in.type == WIRE_RUNS)
		__atomic_store_n(&b->runs, in.request, __ATOMIC_SEQ_CST);
	else if (in.type == WIRE_ACK)
		__atomic_add_fetch(&fake.acked, 1, __ATOMIC_SEQ_CST);
	else {
		if (in.type == WIRE_CONFIG)
			snprintf(fake.config, sizeof(fake.config), "%s|%s|%s|%s", wire_get_str(&in, WIRE_T_HOSTNAME, 0),
				 wire_get_str(&in, WIRE_T_HOSTS, 0), wire_get_str(&in, WIRE_T_RESOLV, 0),
				 wire_get_str(&in, WIRE_T_DIR, 0));
		fake_ok(b->fd, in.request);
	}
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static struct fake_box *fake_box_of(const char *id)
{
	for (size_t i = 0; i < FAKE_BOXES; i++)
		if (fake.boxes[i].fd >= 0 && str_eq(fake.boxes[i].id, id))
			return &fake.boxes[i];
	return NULL;
}

static void fake_close(struct fake_box *b)
{
	b->fd = fd_close(b->fd);
	b->daemon = fd_close(b->daemon);
}

/* -- spawner --------------------------------------------------------------------------------------------------------------- */

static void fake_welcome(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_WELCOME, in->request);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int p[2], l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p) < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(l, 8) < 0)
		abort();
	fds[0] = l;
	fds[1] = p[0];
	fd_close(fake.egress);
	fake.egress = p[1];
	wire_put_u64(&o, WIRE_T_N_FDS, 1);
	fake_send(fake.daemon, &o, fds, 2);
	close(l);
	close(p[0]);
}

static void fake_make(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_MADE, in->request);
	struct err err;
	struct plan p;
	int pair[2], fds[2];
	size_t i = 0;
	const void *note;

	if (fake.fail_make[0] || plan_decode(&p, in, &err) < 0) {
		fake_fail(fake.daemon, in->request, !fake.fail_make[0] ? EINVAL : fake.fail_code ? fake.fail_code : ENOSPC,
			  fake.fail_make[0] ? fake.fail_make : err.msg);
		return;
	}
	while (i < FAKE_BOXES - 1 && fake.boxes[i].fd >= 0)
		i++;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	fake.lease_ms = p.lease_ms;
	snprintf(fake.boxes[i].id, sizeof(fake.boxes[i].id), "%s", p.id);
	fake.boxes[i].fd = pair[1];
	fake.boxes[i].daemon = pair[0];
	note = wire_get(in, WIRE_T_NOTE, 0, &fake.boxes[i].note_len);
	memcpy(fake.boxes[i].note, note, MIN(fake.boxes[i].note_len, sizeof(fake.boxes[i].note)));
	fds[0] = pair[0];
	fds[1] = dup(0);
	wire_put_str(&o, WIRE_T_ID, p.id);
	if (fake.hostname[0])
		wire_put_str(&o, WIRE_T_HOSTNAME, fake.hostname);
	fake_send(fake.daemon, &o, fds, 2);
	close(fds[1]);
}

static void fake_take(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_MADE, in->request);
	const struct fake_box *b = fake_box_of(wire_get_str(in, WIRE_T_ID, 0));

	if (b) {
		wire_put_str(&o, WIRE_T_ID, b->id);
		wire_put(&o, WIRE_T_NOTE, b->note, b->note_len);
		if (fake.hostname[0])
			wire_put_str(&o, WIRE_T_HOSTNAME, fake.hostname);
	}
	fake_send(fake.daemon, &o, b ? &b->daemon : NULL, b ? 1 : 0);
}

static void fake_end(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_ENDED, in->request);
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	struct fake_box *b = fake_box_of(id);

	if (b)
		fake_close(b);
	snprintf(fake.ended_id, sizeof(fake.ended_id), "%s", id);
	__atomic_add_fetch(&fake.ended, 1, __ATOMIC_SEQ_CST);
	wire_put_str(&o, WIRE_T_ID, id);
	fake_send(fake.daemon, &o, NULL, 0);
}

/* Kind "say": the arguments are lines; "fail": the same, status 3; "busy": status 4. */
static void fake_job(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_JOB_STARTED, in->request);
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *line;
	const char *kind = wire_get_str(in, WIRE_T_JOB_KIND, 0);
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	wire_put_str(&o, WIRE_T_ID, id);
	snprintf(fake.job_id, sizeof(fake.job_id), "%s", id);
	fake_send(fake.daemon, &o, p, 1);
	for (size_t i = 0; (line = wire_get_str(in, WIRE_T_ARG, i)); i++)
		if (dprintf(p[1], "%s\n", line) < 0)
			abort();
	close(p[0]);
	close(p[1]);
	o = fake_begin(WIRE_JOB_DONE, 0);
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_u64(&o, WIRE_T_STATUS, str_eq(kind, "fail") ? 3 << 8 : str_eq(kind, "busy") ? 4 << 8 : 0);
	fake_send(fake.daemon, &o, NULL, 0);
}

static void fake_list(const struct wire_in *in)
{
	struct wire_out o;

	for (size_t i = 0; i <= FAKE_BOXES; i++) {
		const char *id = i == FAKE_BOXES ? fake.old_id : fake.boxes[i].fd >= 0 ? fake.boxes[i].id : "";

		if (!*id)
			continue;
		o = fake_begin(WIRE_ITEM, in->request);
		wire_put_str(&o, WIRE_T_ID, id);
		fake_send(fake.daemon, &o, NULL, 0);
	}
	fake_ok(fake.daemon, in->request);
}

static void fake_text(const struct wire_in *in)
{
	struct wire_out o = fake_begin(WIRE_OK, in->request);

	wire_put_str(&o, WIRE_T_TEXT, "mount /x");
	fake_send(fake.daemon, &o, NULL, 0);
}

static void fake_spawner(void)
{
	struct wire_in in;
	size_t len = 0, n = 0;
	int fds[FD_PASS_MAX];

	if (fd_recv(fake.daemon, fake_in, sizeof(fake_in), &len, fds, FD_PASS_MAX, &n) < 0 || len == 0) {
		fake.daemon = fd_close(fake.daemon);
		return;
	}
	if (wire_parse(&in, fake_in, len) < 0)
		abort();
	if (in.type == WIRE_HELLO)
		fake_welcome(&in);
	else if (in.type == WIRE_MAKE)
		fake_make(&in);
	else if (in.type == WIRE_END)
		fake_end(&in);
	else if (in.type == WIRE_JOB)
		fake_job(&in);
	else if (in.type == WIRE_LIST)
		fake_list(&in);
	else if (in.type == WIRE_TAKE && fake.slow_take)
		__atomic_store_n(&fake.take, in.request, __ATOMIC_SEQ_CST);
	else if (in.type == WIRE_TAKE)
		fake_take(&in);
	else if (in.type == WIRE_LEAKS)
		fake_text(&in);
	else if (in.type == WIRE_RENEW) {
		fake.lease_ms = wire_get_u64(&in, WIRE_T_LEASE_MS, 0);
		__atomic_add_fetch(&fake.renewed, 1, __ATOMIC_SEQ_CST);
	} else {
		if (in.type == WIRE_JOB_CANCEL)
			snprintf(fake.cancelled_id, sizeof(fake.cancelled_id), "%s", wire_get_str(&in, WIRE_T_ID, 0));
		fake_ok(fake.daemon, in.request);
	}
}

static void *fake_main(void *arg)
{
	(void)arg;
	for (;;) {
		struct pollfd p[3 + FAKE_BOXES] = {
			{ .fd = fake.wake[0], .events = POLLIN }, { .fd = fake.listener, .events = POLLIN },
			{ .fd = fake.daemon, .events = POLLIN },
		};

		for (size_t i = 0; i < FAKE_BOXES; i++)
			p[3 + i] = (struct pollfd){ .fd = fake.boxes[i].fd, .events = POLLIN };
		if (poll(p, ARRAY_LEN(p), -1) < 0 || p[0].revents)
			return NULL;
		if (p[1].revents) {
			fd_close(fake.daemon);
			fake.daemon = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);
			continue;
		}
		if (p[2].revents)
			fake_spawner();
		for (size_t i = 0; i < FAKE_BOXES; i++)
			if (p[3 + i].revents)
				fake_init(&fake.boxes[i]);
	}
}

/* An event of the spawner's own: from the test's thread, between other messages. */
static inline void fake_gone(const char *id, const char *reason)
{
	static _Alignas(8) char buf[512];
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), WIRE_GONE, 0);
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_str(&o, WIRE_T_REASON, reason);
	cr_assert_eq(wire_send(fake.daemon, &o, NULL, 0), 0);
}

static inline void fake_take_late(void)
{
	static _Alignas(8) char buf[512];
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), WIRE_MADE, fake.take);
	cr_assert_eq(wire_send(fake.daemon, &o, &fake.boxes[0].daemon, 1), 0);
}

/* What init owes, from the test's thread: one run that is alive, with its label. */
static inline void fake_tell_item(const struct fake_box *b, const char *run)
{
	static _Alignas(8) char buf[512];
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), WIRE_ITEM, b->runs);
	wire_put_str(&o, WIRE_T_RUN_ID, run);
	cr_assert_eq(wire_send(b->fd, &o, NULL, 0), 0);
}

static inline void fake_tell_runs(struct fake_box *b, const char *run, const char *label)
{
	static _Alignas(8) char buf[512];
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), WIRE_ITEM, b->runs);
	wire_put_str(&o, WIRE_T_RUN_ID, run);
	wire_put_u64(&o, WIRE_T_AGE_MS, 1000);
	wire_put(&o, WIRE_T_LABEL, label, strlen(label));
	cr_assert_eq(wire_send(b->fd, &o, NULL, 0), 0);
	wire_begin(&o, buf, sizeof(buf), WIRE_OK, b->runs);
	wire_put_u64(&o, WIRE_T_CONFIGURED, 1);
	cr_assert_eq(wire_send(b->fd, &o, NULL, 0), 0);
}

static inline void fake_start(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	fake.daemon = fake.egress = -1;
	for (size_t i = 0; i < FAKE_BOXES; i++)
		fake.boxes[i].fd = fake.boxes[i].daemon = -1;
	snprintf(fake.dir, sizeof(fake.dir), "/tmp/fake-spawner-XXXXXX");
	cr_assert_not_null(mkdtemp(fake.dir));
	snprintf(fake.path, sizeof(fake.path), "%s/socket", fake.dir);
	memcpy(a.sun_path, fake.path, sizeof(fake.path));
	fake.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fake.listener, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fake.listener, 4), 0);
	cr_assert_eq(pipe2(fake.wake, O_CLOEXEC), 0);
	cr_assert_eq(pthread_create(&fake.thread, NULL, fake_main, NULL), 0);
}

/* As if it had been killed: connections and sandboxes are gone. */
static inline void fake_die(void)
{
	cr_assert_eq(write(fake.wake[1], "x", 1), 1);
	pthread_join(fake.thread, NULL);
	fake.daemon = fd_close(fake.daemon);
	fake.egress = fd_close(fake.egress);
	fake.listener = fd_close(fake.listener);
	for (size_t i = 0; i < FAKE_BOXES; i++)
		fake_close(&fake.boxes[i]);
	unlink(fake.path);
}

static inline void fake_stop(void)
{
	if (fake.listener >= 0)
		fake_die();
	rmdir(fake.dir);
	close(fake.wake[0]);
	close(fake.wake[1]);
}
