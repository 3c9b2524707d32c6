/* bench/runtime SOCKET LAYER [memory]: speaks sandbox/wire.h to a running spawner, as the daemon does, and nothing else. See
 * worker.h. memory: what the sandboxes write is kept there. Cases:
 *   do pool COUNT       so many sandboxes may be prepared from now on (none at the start)
 *   do blanks COUNT     so many may be made as far as that needs no plan (none at the start)
 *   create COMMAND...   a sandbox is made, runs the command, and is gone (its last process dead). Parts: make, run, end
 *   run COMMAND...      the command in a sandbox that lives on
 *   do probe            a sandbox that runs /probe: its pid, its output, and it goes when a line comes
 *   do hold COUNT       that many idle sandboxes, until a line comes; then how long their ends took in milliseconds
 * Rates have that many sandboxes in flight on one connection, as the daemon has. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/plan.h"
#include "worker.h"

#define IN_FLIGHT_MAX 128

struct box {
	char id[PLAN_ID_LEN];
	int init; /* socket, or -1 */
	uint64_t pid;
};

struct runtime {
	int spawner;
	const char *socket_path, *layer;
	bool memory;
	uint64_t last_id;
	struct box living; /* of `run`; no id: none yet */
	_Alignas(8) char out_buf[WIRE_MAX], in_buf[WIRE_MAX];
	struct wire_in in;
	int fds[FD_PASS_MAX];
	size_t n_fds;
};

/* -- messages ----------------------------------------------------------------------------------------------------------- */
static void close_fds(struct runtime *rt, size_t from)
{
	for (size_t i = from; i < rt->n_fds; i++)
		fd_close(rt->fds[i]);
	rt->n_fds = MIN(from, rt->n_fds);
}

/* Answers that say "failed" are errors here. */
static int receive(struct runtime *rt, int sock, struct err *err)
{
	size_t len = 0;
	int r = fd_recv(sock, rt->in_buf, sizeof(rt->in_buf), &len, rt->fds, FD_PASS_MAX, &rt->n_fds);

	if (r == 0)
		r = len == 0 ? -ECONNRESET : wire_parse(&rt->in, rt->in_buf, len);
	if (r < 0)
		return err_sys_code(err, r, "receive");
	if (rt->in.type == WIRE_FAILED) {
		const char *text = wire_get_str(&rt->in, WIRE_T_TEXT, 0);

		close_fds(rt, 0);
		return err_set(err, -EIO, "%s", text ? text : "failed without a word");
	}
	return 0;
}

/* Whatever comes before it is an event that nobody here needs. */
static int receive_type(struct runtime *rt, int sock, enum wire_type type, struct err *err)
{
	for (;;) {
		int r = receive(rt, sock, err);

		if (r < 0 || rt->in.type == type)
			return r;
		close_fds(rt, 0);
	}
}

static int send_out(int sock, struct wire_out *o, struct err *err)
{
	int r = wire_send(sock, o, NULL, 0);

	return r < 0 ? err_sys_code(err, r, "send") : 0;
}

static int send_make(struct runtime *rt, struct box *b, uint64_t request, struct err *err)
{
	struct plan p = {
		.id = b->id, .kind = PLAN_SANDBOX, .net = PLAN_NET_OPEN, .layers = { rt->layer }, .n_layers = 1,
		.hostname = "bench", .cpu_milli = 1000, .memory_bytes = 1u << 30, .pids_max = 4096, .lease_ms = 3600000,
		.memory_upper = rt->memory, .disk_bytes = 512u << 20,
	};
	struct wire_out o;

	snprintf(b->id, sizeof(b->id), "00000000-0000-4000-8000-%012llx", (unsigned long long)++rt->last_id);
	b->init = -1;
	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_MAKE, request);
	plan_encode(&p, &o);
	return send_out(rt->spawner, &o, err);
}

static int take_made(struct runtime *rt, struct box *b, struct err *err)
{
	if (rt->in.type != WIRE_MADE || rt->n_fds < 1)
		return err_set(err, -EPROTO, "expected MADE with a socket");
	b->init = rt->fds[0];
	b->pid = wire_get_u64(&rt->in, WIRE_T_PID, 0);
	close_fds(rt, 1);
	/* Waiting is receive()'s. */
	return fd_set_nonblock(b->init, false);
}

/* The fields that the daemon sends for /run. */
static int send_run(struct runtime *rt, const struct box *b, uint64_t id, char **argv, struct err *err)
{
	struct wire_out o;

	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_RUN, id);
	wire_put_u64(&o, WIRE_T_RUN_ID, id);
	for (; *argv; argv++)
		wire_put_str(&o, WIRE_T_ARG, *argv);
	wire_put_str(&o, WIRE_T_ENV, "PATH=/usr/local/bin:/usr/bin:/bin");
	wire_put_str(&o, WIRE_T_CWD, "/");
	wire_put_str(&o, WIRE_T_USER, "");
	wire_put_u64(&o, WIRE_T_TIMEOUT_MS, 60000);
	wire_put_u64(&o, WIRE_T_MAX_BYTES, 1 << 20);
	wire_put_u64(&o, WIRE_T_FLAGS, WIRE_RUN_QUIET);
	return send_out(b->init, &o, err);
}

static int send_ack(struct runtime *rt, const struct box *b, uint64_t id, struct err *err)
{
	struct wire_out o;

	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_ACK, 0);
	wire_put_u64(&o, WIRE_T_RUN_ID, id);
	return send_out(b->init, &o, err);
}

static int send_end(struct runtime *rt, const struct box *b, uint64_t request, struct err *err)
{
	struct wire_out o;

	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_END, request);
	wire_put_str(&o, WIRE_T_ID, b->id);
	wire_put_str(&o, WIRE_T_REASON, "deleted");
	return send_out(rt->spawner, &o, err);
}

static int check_done(struct runtime *rt, struct err *err)
{
	uint64_t status = wire_get_u64(&rt->in, WIRE_T_STATUS, UINT64_MAX);

	return status == 0 ? 0 : err_set(err, -EIO, "the command ended with status %llu", (unsigned long long)status);
}

static int connect_spawner(struct runtime *rt, struct err *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct wire_out o;
	int r;

	rt->spawner = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", rt->socket_path);
	if (rt->spawner < 0 || connect(rt->spawner, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_sys(err, "connect to %s", rt->socket_path);
	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_HELLO, 1);
	wire_put_str(&o, WIRE_T_PROGRAM_VERSION, "bench");
	r = send_out(rt->spawner, &o, err);
	if (r == 0)
		r = receive_type(rt, rt->spawner, WIRE_WELCOME, err);
	close_fds(rt, 0);
	return r;
}

/* -- one at a time ---------------------------------------------------------------------------------------------------- */
static int box_make(struct runtime *rt, struct box *b, struct err *err)
{
	int r = send_make(rt, b, 2, err);

	if (r == 0)
		r = receive_type(rt, rt->spawner, WIRE_MADE, err);
	return r < 0 ? r : take_made(rt, b, err);
}

static int box_end(struct runtime *rt, struct box *b, struct err *err)
{
	int r = send_end(rt, b, 3, err);

	if (r == 0)
		r = receive_type(rt, rt->spawner, WIRE_ENDED, err);
	b->init = fd_close(b->init);
	return r;
}

static int box_run(struct runtime *rt, struct box *b, char **argv, struct err *err)
{
	uint64_t id = ++rt->last_id;
	int r = send_run(rt, b, id, argv, err);

	if (r == 0)
		r = receive_type(rt, b->init, WIRE_DONE, err);
	if (r == 0)
		r = check_done(rt, err);
	return r < 0 ? r : send_ack(rt, b, id, err);
}

static int create(struct runtime *rt, char **argv, struct sample *s, struct err *err)
{
	struct box b;
	struct err second;
	int r;

	sample_begin(s);
	r = box_make(rt, &b, err);
	if (r < 0)
		return r;
	sample_part(s);
	r = box_run(rt, &b, argv, err);
	sample_part(s);
	if (box_end(rt, &b, r < 0 ? &second : err) < 0 && r == 0)
		r = -EIO;
	sample_part(s);
	return r;
}

static int once(void *arg, char **args, struct sample *s, struct err *err)
{
	struct runtime *rt = arg;
	int r = 0;

	if (strcmp(args[0], "create") == 0 && args[1])
		return create(rt, args + 1, s, err);
	if (strcmp(args[0], "run") != 0 || !args[1])
		return err_set(err, -EINVAL, "runtime: unknown case \"%s\"", args[0]);
	if (!rt->living.id[0])
		r = box_make(rt, &rt->living, err);
	sample_begin(s);
	if (r == 0)
		r = box_run(rt, &rt->living, args + 1, err);
	sample_part(s);
	return r;
}

static int probe(struct runtime *rt, struct err *err)
{
	struct box b;
	int r = box_make(rt, &b, err);

	if (r < 0)
		return r;
	r = box_run(rt, &b, (char *[]){ (char[]){ "/probe" }, NULL }, err);
	if (r == 0) {
		size_t len = 0;
		const char *output = wire_get(&rt->in, WIRE_T_OUTPUT, 0, &len);

		printf("pid %d\n%.*s== end\n", (int)b.pid, (int)len, output ? output : "");
		worker_wait_line();
	}
	return box_end(rt, &b, err) < 0 ? -EIO : r;
}

/* All ends are asked for at once. */
static int end_held(struct runtime *rt, struct box *boxes, int n, struct err *err)
{
	int r = 0, ended = 0;

	for (int i = 0; r == 0 && i < n; i++) {
		r = send_end(rt, &boxes[i], 3, err);
		fd_close(boxes[i].init);
	}
	while (r == 0 && ended++ < n)
		r = receive_type(rt, rt->spawner, WIRE_ENDED, err);
	return r;
}

static int hold(struct runtime *rt, int count, struct err *err)
{
	struct box *boxes = calloc((size_t)count, sizeof(*boxes));
	double start = clock_us();
	int n = 0, r = 0;

	while (boxes && r == 0 && n < count) {
		r = box_make(rt, &boxes[n], err);
		n += r == 0;
	}
	printf("held %d in %.0f ms\n", n, (clock_us() - start) / 1e3);
	if (r == 0)
		worker_wait_line();
	start = clock_us();
	if (end_held(rt, boxes, n, r < 0 ? NULL : err) < 0)
		r = -EIO;
	printf("ended in %.0f ms\n", (clock_us() - start) / 1e3);
	free(boxes);
	return r;
}

static int set_pool(struct runtime *rt, uint64_t count, uint64_t blanks, struct err *err)
{
	struct wire_out o;

	wire_begin(&o, rt->out_buf, sizeof(rt->out_buf), WIRE_POOL, 0);
	wire_put_u64(&o, WIRE_T_POOL_MAX, count);
	wire_put_u64(&o, WIRE_T_POOL_BLANKS, blanks);
	wire_put_u64(&o, WIRE_T_POOL_KEEP_MS, 60000);
	wire_put_u64(&o, WIRE_T_POOL_BYTES, count << 20);
	return send_out(rt->spawner, &o, err);
}

static int other(void *arg, char **args, struct err *err)
{
	if (strcmp(args[0], "probe") == 0)
		return probe(arg, err);
	if (strcmp(args[0], "pool") == 0 && args[1])
		return set_pool(arg, (uint64_t)strtol(args[1], NULL, 10), 0, err);
	if (strcmp(args[0], "blanks") == 0 && args[1])
		return set_pool(arg, 0, (uint64_t)strtol(args[1], NULL, 10), err);
	if (strcmp(args[0], "hold") == 0 && args[1])
		return hold(arg, (int)strtol(args[1], NULL, 10), err);
	return err_set(err, -EINVAL, "runtime: do what?");
}

/* -- many at a time ---------------------------------------------------------------------------------------------------- */
/* Request numbers tell the box: its index and, for the spawner's answers, nothing else. */
struct flight {
	struct runtime *rt;
	struct box boxes[IN_FLIGHT_MAX];
	char **argv;
	int epoll_fd, width, flying;
	double until_us, done;
};

static int launch(struct flight *f, int i, struct err *err)
{
	if (clock_us() >= f->until_us)
		return 0;
	f->flying++;
	return send_make(f->rt, &f->boxes[i], (uint64_t)i + 100, err);
}

static int on_spawner(struct flight *f, struct err *err)
{
	struct epoll_event e = { .events = EPOLLIN };
	struct runtime *rt = f->rt;
	int r = receive(rt, rt->spawner, err), i = (int)rt->in.request - 100;

	if (r < 0 || i < 0 || i >= f->width) /* an event */
		return r;
	if (rt->in.type == WIRE_ENDED) {
		f->done++;
		f->flying--;
		f->boxes[i].init = fd_close(f->boxes[i].init);
		return launch(f, i, err);
	}
	r = take_made(rt, &f->boxes[i], err);
	if (r < 0)
		return r;
	e.data.u32 = (uint32_t)i;
	if (epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, f->boxes[i].init, &e) < 0)
		return err_sys(err, "epoll");
	return send_run(rt, &f->boxes[i], 1, f->argv, err);
}

static int on_init(struct flight *f, int i, struct err *err)
{
	int r = receive(f->rt, f->boxes[i].init, err);

	if (r < 0 || f->rt->in.type != WIRE_DONE)
		return r;
	r = check_done(f->rt, err);
	if (r == 0)
		r = send_ack(f->rt, &f->boxes[i], 1, err);
	/* Nothing more is wanted of it. */
	epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, f->boxes[i].init, NULL);
	return r < 0 ? r : send_end(f->rt, &f->boxes[i], (uint64_t)i + 100, err);
}

static int fly(struct flight *f, struct err *err)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = IN_FLIGHT_MAX };
	int r = epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, f->rt->spawner, &e) < 0 ? err_sys(err, "epoll") : 0;

	for (int i = 0; r == 0 && i < f->width; i++)
		r = launch(f, i, err);
	while (r == 0 && f->flying > 0) {
		int n = epoll_wait(f->epoll_fd, &e, 1, 20000);

		if (n <= 0)
			return n == 0 ? err_set(err, -ETIMEDOUT, "nothing for 20 seconds") : err_sys(err, "epoll_wait");
		r = e.data.u32 == IN_FLIGHT_MAX ? on_spawner(f, err) : on_init(f, (int)e.data.u32, err);
	}
	return r;
}

static int rate(void *arg, int width, double seconds, char **args, double *ret_done, struct err *err)
{
	static struct flight f;
	int r;

	if (width > IN_FLIGHT_MAX || strcmp(args[0], "create") != 0 || !args[1])
		return err_set(err, -EINVAL, "runtime: rate of at most %d \"create COMMAND\"", IN_FLIGHT_MAX);
	f = (struct flight){
		.rt = arg, .argv = args + 1, .width = width, .until_us = clock_us() + seconds * 1e6,
		.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
	};
	r = f.epoll_fd < 0 ? err_sys(err, "epoll") : fly(&f, err);
	fd_close(f.epoll_fd);
	*ret_done = f.done;
	return r;
}

int main(int argc, char **argv)
{
	static struct runtime rt;
	const struct worker w = { .arg = &rt, .once = once, .rate = rate, .other = other };
	struct err err = ERR_INIT;
	int r;

	rt.memory = argc == 4 && strcmp(argv[3], "memory") == 0;
	rt.last_id = rt.memory ? 1ull << 40 : 0; /* two may speak to one spawner */
	if (argc != 3 && !rt.memory) {
		fprintf(stderr, "usage: runtime SOCKET LAYER [memory]\n");
		return 2;
	}
	rt.socket_path = argv[1];
	rt.layer = argv[2];
	r = connect_spawner(&rt, &err);
	if (r < 0) {
		printf("error %s\n", err.msg);
		return 1;
	}
	r = worker_loop(&w);
	if (rt.living.id[0] && box_end(&rt, &rt.living, &err) < 0)
		fprintf(stderr, "runtime: %s\n", err.msg);
	return r;
}
