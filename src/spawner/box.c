/* Sandboxes, from MAKE to the moment nothing in them is alive.
 *
 *            MAKE                     'R' on the ready pipe                   END, lease, deadline,
 *    (none) ------> STARTING ------------------------------------> READY --------------------------+   init's own end
 *                      |                                                                           |
 *                      +--- END, time-out, builder's or init's failure ------------------------> ENDING --> buried
 *
 * STARTING  cgroups, folders and the range are taken; the builder runs; init's pid is known as soon as its report came.
 *           Nothing was answered. The loop goes on: many boxes start at a time.
 * READY     MADE was answered. The builder may not have been reaped yet. lease_at and hard_at are watched.
 * ENDING    SIGKILL was sent to all of it. Waits for builder and init to be reaped: init is pid 1 of its namespace, and
 *           the kernel reports its end only when every process of that namespace is gone.
 * buried    box_over() has answered everybody, freed the box and given cgroups, folders and range to the cleaner.
 *
 * Transitions: box_make (none -> STARTING), on_ready (-> READY), box_kill (-> ENDING), box_over (-> buried).
 * Invariants: 1. `reason` is set exactly when ENDING. 2. A box is in sp->boxes until box_over. 3. Descriptors of init's
 * control and egress sockets are kept until box_over, so that they can be handed over (TAKE, a new egress). */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"

#define START_TIMEOUT_MS 30000 /* a start takes milliseconds; on a machine that swaps, seconds */
#define ENDERS_MAX 4
#define READY_MAX 128

#define BOX_STATES(X) X(STARTING, "starting") X(READY, "ready") X(ENDING, "ending")
enum box_state {
#define X(name, text) BOX_##name,
	BOX_STATES(X)
#undef X
};

struct box {
	struct list link;
	struct spawner *sp;
	enum box_state state;
	char id[PLAN_ID_LEN];
	enum plan_kind kind;
	enum plan_net net;
	uint64_t number;
	uid_t first;
	struct child builder, init;
	int init_pid, init_pidfd;
	struct source report, ready;
	int control_fd; /* the daemon's end */
	int egress_fd;  /* egress' end */
	bool registered;
	uint64_t started_us, lease_ms;
	uint64_t lease_at_ms, hard_at_ms; /* 0 = never; STARTING: lease_at is the time-out of the start */
	uint64_t hard_ms;
	struct start_report failure; /* error < 0: why a start failed */
	char text[READY_MAX];        /* of a failure: init's words */
	struct waiter maker, enders[ENDERS_MAX];
	size_t n_enders;
	char reason[16];
	void *note; /* of whoever takes it over; NULL = none */
	size_t note_len;
	bool taken; /* the maker is one who takes over: it gets the note, too */
};

static struct box *find(const struct spawner *sp, const char *id)
{
	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		if (id && strcmp(b->id, id) == 0)
			return b;
	return NULL;
}

bool box_exists(const struct spawner *sp, const char *id)
{
	return find(sp, id) != NULL;
}

/* -- the end ----------------------------------------------------------------------------------------------------- */
static void close_source(struct box *b, struct source *s)
{
	int fd = s->fd;

	events_unwatch(&b->sp->ev, s);
	fd_close(fd);
}

static void tell_gone(struct box *b)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_GONE, (struct waiter){ 0, 0 });
	wire_put_str(&o, WIRE_T_ID, b->id);
	wire_put_str(&o, WIRE_T_REASON, b->reason);
	conns_tell(b->sp, &o);
}

static void tell_ended(struct box *b, struct waiter to)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_ENDED, to);
	wire_put_str(&o, WIRE_T_ID, b->id);
	conn_answer(b->sp, to, &o, NULL, 0);
}

static void tell_failure(struct box *b)
{
	const struct start_report *f = &b->failure;
	char text[READY_MAX + START_PATH_MAX + 128];

	snprintf(text, sizeof(text), "could not %s%s%s: %s", f->stage, f->path[0] ? ": " : "", f->path,
		 strerror(-f->error));
	conn_fail(b->sp, b->maker, f->stage, f->error, f->path, text);
}

/* Frees b. */
static void box_over(struct box *b)
{
	struct spawner *sp = b->sp;

	if (b->failure.error)
		tell_failure(b);
	else if (b->n_enders == 0)
		tell_gone(b);
	for (size_t i = 0; i < b->n_enders; i++)
		tell_ended(b, b->enders[i]);
	close_source(b, &b->report);
	close_source(b, &b->ready);
	fd_close(b->init_pidfd);
	fd_close(b->control_fd);
	fd_close(b->egress_fd);
	list_remove(&b->link);
	clean_bury(sp, b->id, b->first, true);
	free(b->note);
	free(b);
}

static void over_if_dead(struct box *b)
{
	if (b->state == BOX_ENDING && b->builder.pid == 0 && b->init.pid == 0)
		box_over(b);
}

/* Whoever calls it calls over_if_dead() last, or waits for the children's ends. */
static void box_kill(struct box *b, const char *reason)
{
	if (b->state == BOX_ENDING)
		return;
	b->state = BOX_ENDING;
	snprintf(b->reason, sizeof(b->reason), "%s", reason);
	if (b->init_pidfd >= 0)
		sys_pidfd_kill(b->init_pidfd, SIGKILL);
	cgroup_kill(&b->sp->host.cg, b->id);
	if (b->builder.pid > 0)
		kill(b->builder.pid, SIGKILL); /* it may have been on its way into the v1 cgroups */
}

static void box_fail(struct box *b, const char *stage, int error, const char *path)
{
	if (b->state == BOX_STARTING && !b->failure.error) {
		b->failure.error = error;
		snprintf(b->failure.stage, sizeof(b->failure.stage), "%s", stage);
		snprintf(b->failure.path, sizeof(b->failure.path), "%s", path);
	}
	box_kill(b, "failed");
}

/* -- what the children tell -------------------------------------------------------------------------------------- */
static void on_init_exit(void *arg, int status)
{
	struct box *b = arg;

	if (b->state == BOX_STARTING)
		box_fail(b, "run init", -ECHILD, "it ended before it was ready");
	else
		box_kill(b, WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "exited" : "killed");
	over_if_dead(b);
}

static void take_pid(struct box *b, int pid)
{
	b->init_pid = pid;
	b->init_pidfd = sys_pidfd_open(pid);
	events_child_add(&b->sp->ev, &b->init, pid);
	if (b->init_pidfd < 0)
		box_fail(b, "open a pidfd", -errno, "");
	else if (b->state == BOX_ENDING) /* cloned while it was being killed */
		sys_pidfd_kill(b->init_pidfd, SIGKILL);
}

/* True when there may be more. */
static bool read_report(struct box *b)
{
	struct start_report r;
	ssize_t n = b->report.fd < 0 ? 0 : read(b->report.fd, &r, sizeof(r));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n != (ssize_t)sizeof(r)) {
		close_source(b, &b->report);
		return false;
	}
	r.stage[sizeof(r.stage) - 1] = r.path[sizeof(r.path) - 1] = 0;
	if (r.pid > 0)
		take_pid(b, r.pid);
	else
		box_fail(b, r.stage, r.error, r.path);
	return true;
}

static void on_report(void *arg, uint32_t epoll_events)
{
	(void)epoll_events;
	(void)read_report(arg);
}

void boxes_read_reports(void *arg)
{
	struct spawner *sp = arg;

	list_foreach(&sp->boxes, struct box, link, b)
		if (b->init_pid == 0)
			(void)read_report(b);
}

static void on_builder_exit(void *arg, int status)
{
	struct box *b = arg;

	while (read_report(b)) /* its last words: init's pid, a failure */
		;
	close_source(b, &b->report);
	if (status != 0)
		box_fail(b, "build the sandbox", -ECHILD, "its builder died");
	over_if_dead(b);
}

static void tell_made(struct box *b, struct waiter to)
{
	int fds[] = { b->control_fd, b->init_pidfd };
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_MADE, to);
	wire_put_str(&o, WIRE_T_ID, b->id);
	wire_put_u64(&o, WIRE_T_DURATION_US, time_now_us() - b->started_us);
	wire_put_u64(&o, WIRE_T_PID, (uint64_t)b->init_pid);
	wire_put_u64(&o, WIRE_T_NUMBER, b->number);
	if (b->taken && b->note)
		wire_put(&o, WIRE_T_NOTE, b->note, b->note_len);
	conn_answer(b->sp, to, &o, fds, ARRAY_LEN(fds));
}

static uint64_t due(uint64_t now_ms, uint64_t ms)
{
	return ms ? now_ms + ms : 0;
}

static void watch_clock(struct box *b)
{
	if (b->lease_at_ms)
		spawner_wake(b->sp, b->lease_at_ms);
	if (b->hard_at_ms)
		spawner_wake(b->sp, b->hard_at_ms);
}

static void box_ready(struct box *b)
{
	uint64_t now = time_now_ms();

	b->state = BOX_READY;
	b->lease_at_ms = due(now, b->lease_ms);
	b->hard_at_ms = due(now, b->hard_ms);
	watch_clock(b);
	close_source(b, &b->ready);
	tell_made(b, b->maker);
}

/* "STAGE\0ERRNO\0" of boot.h. */
static void init_refused(struct box *b, char *text, size_t len)
{
	const char *number = memchr(text, 0, len);
	int error = EPROTO;

	text[len] = 0;
	if (number && number + 1 < text + len) {
		uint64_t v;

		if (str_to_u64(number + 1, &v) == 0 && v > 0 && v < 4096)
			error = (int)v;
	}
	box_fail(b, "start init", -error, text);
}

static void on_ready(void *arg, uint32_t epoll_events)
{
	struct box *b = arg;
	char text[READY_MAX + 1];
	ssize_t n = read(b->ready.fd, text, READY_MAX);

	(void)epoll_events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) { /* init's exit tells the rest */
		close_source(b, &b->ready);
		return;
	}
	/* init may write before the builder's report is read: its pid has to be known first. */
	if (b->init_pid == 0)
		(void)read_report(b);
	if (text[0] == 'R' && b->state == BOX_STARTING && b->init_pid > 0)
		box_ready(b);
	else if (b->state == BOX_STARTING)
		init_refused(b, text, (size_t)n);
	over_if_dead(b);
}

/* -- the beginning ----------------------------------------------------------------------------------------------- */
static struct box *box_new(struct spawner *sp, const struct plan *p, struct waiter to)
{
	struct box *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	*b = (struct box){
		.sp = sp, .kind = p->kind, .net = p->net, .number = ++sp->last_number, .maker = to,
		.init_pidfd = -1, .control_fd = -1, .egress_fd = -1,
		.report = { -1, on_report, b }, .ready = { -1, on_ready, b },
		.builder = { .fn = on_builder_exit, .arg = b }, .init = { .fn = on_init_exit, .arg = b },
		.started_us = time_now_us(), .lease_ms = p->lease_ms, .hard_ms = p->hard_ms,
		.lease_at_ms = time_now_ms() + START_TIMEOUT_MS,
	};
	snprintf(b->id, sizeof(b->id), "%s", p->id);
	list_push_back(&sp->boxes, &b->link);
	return b;
}

/* Both ends can hold two of the largest messages, else a sender could never send one. */
static int socket_pair(int ret[2], struct err *err)
{
	const int size = 2 * WIRE_MAX;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret) < 0)
		return err_sys(err, "socketpair");
	for (int i = 0; i < 2; i++)
		if (setsockopt(ret[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0) {
			int r = err_sys(err, "SO_SNDBUF");

			ret[0] = fd_close(ret[0]);
			ret[1] = fd_close(ret[1]);
			return r;
		}
	return 0;
}

static int watched_pipe(struct box *b, struct source *s, int *ret_write, struct err *err)
{
	int p[2], r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	r = fd_set_nonblock(p[0], true);
	if (r == 0)
		r = events_watch(&b->sp->ev, s, p[0], EPOLLIN);
	if (r < 0) {
		fd_close(p[0]);
		fd_close(p[1]);
		return err_sys_code(err, r, "watch a pipe");
	}
	*ret_write = p[1];
	return 0;
}

/* init's ends; closed here after the fork. */
struct inner {
	int control, egress, ready, report;
};

static int make_channels(struct box *b, struct inner *in, struct err *err)
{
	int control[2], egress[2];
	int r = socket_pair(control, err);

	if (r < 0)
		return r;
	b->control_fd = control[0];
	in->control = control[1];
	r = socket_pair(egress, err);
	if (r < 0)
		return r;
	b->egress_fd = egress[0];
	in->egress = egress[1];
	r = watched_pipe(b, &b->ready, &in->ready, err);
	return r < 0 ? r : watched_pipe(b, &b->report, &in->report, err);
}

static int prepare(struct box *b, const struct plan *p, struct err *err)
{
	const struct cgroup_limits limits = { p->cpu_milli, p->memory_bytes, p->pids_max };
	int r = ids_take(&b->sp->ids, &b->first);

	if (r < 0)
		return err_set(err, r, "all %u id ranges are in use", IDS_RANGES);
	/* The rest of cgroups and folders is the builder's: only what it is born into has to be there before. */
	return cgroup_make_v2(&b->sp->host.cg, b->id, &limits, b->first, err);
}

static int fork_builder(struct box *b, const struct plan *p, const struct inner *in, struct err *err)
{
	struct start s = {
		.host = &b->sp->host, .plan = p, .first = b->first, .control_fd = in->control, .egress_fd = in->egress,
		.ready_fd = in->ready, .report_fd = in->report,
	};
	pid_t pid = start_fork(&s, err);

	if (pid < 0)
		return (int)pid;
	events_child_add(&b->sp->ev, &b->builder, pid);
	return 0;
}

static void register_box(struct box *b)
{
	b->registered = egress_register(b->sp, b->id, b->number, b->net, b->egress_fd) == 0;
}

static void box_start(struct box *b, const struct plan *p)
{
	struct inner in = { -1, -1, -1, -1 };
	struct err err = ERR_INIT;
	int r = prepare(b, p, &err);

	if (r == 0)
		r = make_channels(b, &in, &err);
	if (r == 0)
		r = fork_builder(b, p, &in, &err);
	fd_close(in.control);
	fd_close(in.egress);
	fd_close(in.ready);
	fd_close(in.report);
	if (r < 0) {
		box_fail(b, "prepare the sandbox", r, err.msg);
		over_if_dead(b);
		return;
	}
	register_box(b);
	watch_clock(b);
}

/* Without memory for a new one there is none: the sandbox then ends with the daemon that made it. */
static void take_note(struct box *b, const struct wire_in *in)
{
	size_t len = 0;
	const void *p = wire_get(in, WIRE_T_NOTE, 0, &len);

	if (!p || len > WIRE_NOTE_MAX)
		return;
	free(b->note);
	b->note_len = len;
	b->note = malloc(MAX(len, (size_t)1));
	if (b->note)
		memcpy(b->note, p, len);
}

void box_make(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	struct err err = ERR_INIT;
	struct plan p;
	struct box *b;
	int r = plan_decode(&p, in, &err);

	if (r < 0) {
		conn_fail(sp, to, "check the plan", r, NULL, err.msg);
	} else if (sp->closing_ms) {
		conn_fail(sp, to, "make a sandbox", -ESHUTDOWN, NULL, "the spawner is ending");
	} else if (find(sp, p.id) || clean_has(sp, p.id)) {
		conn_fail(sp, to, "make a sandbox", -EEXIST, p.id, "a sandbox of this id exists");
	} else {
		b = box_new(sp, &p, to);
		if (b) {
			take_note(b, in);
			box_start(b, &p);
		}
		else
			conn_fail(sp, to, "make a sandbox", -ENOMEM, NULL, NULL);
	}
}

/* -- requests ---------------------------------------------------------------------------------------------------- */
void box_end(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *reason = wire_get_str(in, WIRE_T_REASON, 0);
	struct box *b = find(sp, id);

	if (!b) {
		conn_fail(sp, to, "end a sandbox", -ENOENT, id, "there is no such sandbox");
		return;
	}
	if (b->n_enders == ENDERS_MAX) {
		conn_fail(sp, to, "end a sandbox", -EBUSY, id, "it is being ended already");
		return;
	}
	b->enders[b->n_enders++] = to;
	if (b->state == BOX_STARTING)
		box_fail(b, "make a sandbox", -ECANCELED, "ended while it started");
	else
		box_kill(b, reason ? reason : "deleted");
	over_if_dead(b);
}

void box_take(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	struct box *b = find(sp, id);

	if (!b || b->state == BOX_ENDING) {
		conn_fail(sp, to, "take over a sandbox", b ? -EBUSY : -ENOENT, id,
			  b ? "it is ending" : "there is no such sandbox");
		return;
	}
	b->taken = true;
	if (b->state == BOX_READY)
		tell_made(b, to);
	else
		b->maker = to; /* its own is dead, or would not share it */
}

void box_note(struct spawner *sp, const struct wire_in *in)
{
	struct box *b = find(sp, wire_get_str(in, WIRE_T_ID, 0));

	if (b)
		take_note(b, in);
}

void box_renew(struct spawner *sp, const struct wire_in *in)
{
	struct box *b = find(sp, wire_get_str(in, WIRE_T_ID, 0));

	if (!b || b->state != BOX_READY)
		return;
	b->lease_at_ms = due(time_now_ms(), MIN(wire_get_u64(in, WIRE_T_LEASE_MS, b->lease_ms), UINT64_MAX / 2));
	watch_clock(b);
}

static uint64_t left(const struct box *b, uint64_t now_ms)
{
	return b->lease_at_ms > now_ms ? b->lease_at_ms - now_ms : 0;
}

void boxes_list(struct spawner *sp, struct waiter to)
{
	uint64_t now = time_now_ms();

	list_foreach(&sp->boxes, struct box, link, b) {
		struct wire_out o;

		if (b->state == BOX_ENDING)
			continue;
		conn_begin(sp, &o, WIRE_ITEM, to);
		wire_put_str(&o, WIRE_T_ID, b->id);
		wire_put_u64(&o, WIRE_T_KIND, b->kind);
		wire_put_u64(&o, WIRE_T_PID, b->state == BOX_READY ? (uint64_t)b->init_pid : 0);
		wire_put_u64(&o, WIRE_T_LEASE_MS, left(b, now));
		conn_answer(sp, to, &o, NULL, 0);
	}
	conn_ok(sp, to);
}

/* -- the clock, egress, the spawner's end ------------------------------------------------------------------------ */
static void box_tick(struct box *b, uint64_t now_ms)
{
	bool lease = b->lease_at_ms && b->lease_at_ms <= now_ms;
	bool hard = b->hard_at_ms && b->hard_at_ms <= now_ms;

	if (b->state == BOX_ENDING)
		return;
	if (b->state == BOX_STARTING && lease)
		box_fail(b, "start within 30 seconds", -ETIMEDOUT, "");
	else if (lease || hard)
		box_kill(b, hard ? "deadline" : "lease");
	else
		watch_clock(b);
	over_if_dead(b);
}

void boxes_tick(struct spawner *sp, uint64_t now_ms)
{
	list_foreach(&sp->boxes, struct box, link, b)
		box_tick(b, now_ms);
}

void boxes_close(struct spawner *sp)
{
	list_foreach(&sp->boxes, struct box, link, b) {
		if (b->state == BOX_STARTING)
			box_fail(b, "make a sandbox", -ESHUTDOWN, "the spawner is ending");
		else
			box_kill(b, "host");
		over_if_dead(b);
	}
}

void boxes_register(struct spawner *sp, bool again)
{
	list_foreach(&sp->boxes, struct box, link, b)
		if (b->state != BOX_ENDING && (again || !b->registered))
			register_box(b);
}
