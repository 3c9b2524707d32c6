#include "init/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/time.h"
#include "init/conf.h"
#include "init/files.h"
#include "init/init.h"
#include "init/stream.h"

#define RETRY_US 20000 /* after the kernel refused for lack of memory, or of room for passed descriptors */
#define AGAIN_US 10000 /* between two tries of a request that was put off */
#define AGAIN_MAX_US 5000000 /* for how long it is put off */
#define BIG_MESSAGE (16 * 1024) /* buffers that grew beyond this are given back to the kernel */
#define OWED_MAX 256 /* no request is read meanwhile: connects that end, and runs that are told of, are all that comes */

/* One that waits for room in the socket. */
struct answer {
	struct list link;
	size_t len, n_fds;
	int fds[FD_PASS_MAX]; /* dups owned here */
	char data[];
};

/* Requests whose answers could not be kept for lack of memory, or of descriptors: FAILED is owed to each. */
static struct owed {
	uint64_t request;
	int code;
} owed[OWED_MAX];
static size_t n_owed;

static _Alignas(4096) char in_buf[WIRE_MAX];
static _Alignas(4096) char out_buf[WIRE_MAX];
static struct wire_out out;

/* The request in in_buf. Outlives receive() only while it is put off. */
static struct wire_in held;
static struct request at_hand;
static size_t held_len;

static void give_back(char *buf, size_t used)
{
	if (used > BIG_MESSAGE)
		(void)madvise(buf, WIRE_MAX, MADV_DONTNEED);
}

static bool is_behind(const struct init *in)
{
	return !list_empty(&in->control.pending) || n_owed;
}

static void update_events(struct init *in)
{
	struct control *c = &in->control;
	uint32_t events = is_behind(in) || c->again_us ? 0 : EPOLLIN;

	if (!c->retry_us && (is_behind(in) || runs_waiting(in)))
		events |= EPOLLOUT;
	watch_set(in, &c->watch, events);
}

static void note_refusal(struct init *in, int r)
{
	if (r != -EAGAIN)
		in->control.retry_us = time_now_us() + RETRY_US;
}

static void drop(struct answer *a)
{
	for (size_t i = 0; i < a->n_fds; i++)
		fd_close(a->fds[i]);
	list_remove(&a->link);
	free(a);
}

static void drop_pending(struct control *c)
{
	list_foreach(&c->pending, struct answer, link, a)
		drop(a);
}

static int keep_pending(struct control *c, size_t len, const int *fds, size_t n_fds)
{
	struct answer *a = malloc(sizeof(*a) + len);

	if (!a)
		return -ENOMEM;
	*a = (struct answer){ .len = len };
	memcpy(a->data, out_buf, len);
	list_push_back(&c->pending, &a->link);
	for (; a->n_fds < n_fds; a->n_fds++) {
		a->fds[a->n_fds] = fcntl(fds[a->n_fds], F_DUPFD_CLOEXEC, BOOT_FD_END);
		if (a->fds[a->n_fds] < 0) {
			int r = -errno;

			drop(a);
			return r;
		}
	}
	return 0;
}

/* Without room for that either nobody is left waiting: the end of the socket tells all of them. */
static void owe(struct init *in, uint64_t request, int code)
{
	if (n_owed < OWED_MAX)
		owed[n_owed++] = (struct owed){ request, code };
	else
		in->over = true;
}

struct wire_out *control_begin(enum wire_type type, uint64_t request)
{
	wire_begin(&out, out_buf, sizeof(out_buf), type, request);
	return &out;
}

int control_try(struct init *in, struct wire_out *o, const int *fds, size_t n_fds)
{
	size_t len = 0;
	int r = wire_end(o, &len), kept = 0;

	if (in->control.watch.fd < 0 || r < 0)
		return r;
	r = is_behind(in) ? -EAGAIN : fd_send(in->control.watch.fd, o->buf, len, fds, n_fds);
	if (fd_send_later(r)) {
		kept = keep_pending(&in->control, len, fds, n_fds);
		note_refusal(in, r);
	}
	give_back(out_buf, len);
	update_events(in);
	return kept;
}

void control_reply(struct init *in, struct wire_out *o, const int *fds, size_t n_fds)
{
	const struct wire_head *head = (const struct wire_head *)out_buf;
	uint64_t request = head->request;
	int r = control_try(in, o, fds, n_fds);

	if (r == 0)
		return;
	owe(in, request, r);
	update_events(in);
}

int control_event(struct init *in, struct wire_out *o, const int *fds, size_t n_fds)
{
	size_t len = 0;
	int r = wire_end(o, &len);

	if (r < 0)
		return r;
	if (in->control.watch.fd < 0 || is_behind(in) || in->control.retry_us)
		return -EAGAIN;
	r = fd_send(in->control.watch.fd, o->buf, len, fds, n_fds);
	give_back(out_buf, len);
	if (!fd_send_later(r))
		return r;
	note_refusal(in, r);
	update_events(in);
	return -EAGAIN;
}

void control_ok(struct init *in, uint64_t request)
{
	control_reply(in, control_begin(WIRE_OK, request), NULL, 0);
}

static struct wire_out *put_failure(uint64_t request, const char *stage, int code, const char *text)
{
	struct wire_out *o = control_begin(WIRE_FAILED, request);

	wire_put_str(o, WIRE_T_STAGE, stage);
	wire_put_u64(o, WIRE_T_ERRNO, (uint64_t)-code);
	wire_put_str(o, WIRE_T_TEXT, text);
	return o;
}

void control_failed(struct init *in, uint64_t request, const char *stage, int code, const struct err *err)
{
	control_reply(in, put_failure(request, stage, code, err && err->msg[0] ? err->msg : strerror(-code)), NULL, 0);
}

static int status_request(struct init *in, struct request *q, struct err *err)
{
	struct wire_out *o = control_begin(WIRE_OK, q->msg->request);
	uint64_t current = group_read_u64(BOOT_FD_STATS, "memory.current", 0);
	uint64_t peak = group_read_u64(BOOT_FD_STATS, "memory.peak", 0);
	struct statvfs fs;

	(void)err;
	wire_put_u64(o, WIRE_T_N_RUNS, in->runs.n);
	wire_put_u64(o, WIRE_T_CPU_US, groups_cpu_us(in));
	wire_put_u64(o, WIRE_T_N_PROCS, group_read_u64(BOOT_FD_PIDS, "pids.current", 0));
	wire_put_u64(o, WIRE_T_MEMORY, group_read_u64(BOOT_FD_STATS, "memory.usage_in_bytes", current));
	wire_put_u64(o, WIRE_T_MEMORY_PEAK, group_read_u64(BOOT_FD_STATS, "memory.max_usage_in_bytes", peak));
	if (statvfs("/", &fs) == 0)
		wire_put_u64(o, WIRE_T_DISK_FREE, (uint64_t)fs.f_bavail * fs.f_frsize);
	control_reply(in, o, NULL, 0);
	return 0;
}

static int handle(struct init *in, struct request *q, struct err *err)
{
	/* Every other number is answered -ENOSYS, those of newer programs too. */
	switch ((int)q->msg->type) {
	case WIRE_CONFIG:
		return conf_request(in, q, err);
	case WIRE_RUN:
		return run_request(in, q, err);
	case WIRE_RESULT:
		return run_result(in, q, err);
	case WIRE_ACK:
		run_ack(in, q);
		return 0;
	case WIRE_KILL:
		return run_kill(in, q, err);
	case WIRE_RUNS:
		return runs_request(in, q, err);
	case WIRE_READ:
		return stream_read(in, q, err);
	case WIRE_INPUT:
		return stream_input(in, q, err);
	case WIRE_INPUT_END:
		return stream_input_end(in, q, err);
	case WIRE_RESIZE:
		return stream_resize(in, q, err);
	case WIRE_CONNECT:
		return net_connect_request(in, q, err);
	case WIRE_OPEN:
		return files_open(in, q, err);
	case WIRE_COMMIT:
		return files_commit(in, q, err);
	case WIRE_DISCARD:
		return files_discard(in, q, err);
	case WIRE_STATUS:
		return status_request(in, q, err);
	default:
		return err_set(err, -ENOSYS, "request type %d is not known", (int)q->msg->type);
	}
}

static void forget_request(struct init *in)
{
	for (size_t i = 0; i < at_hand.n_fds; i++)
		fd_close(at_hand.fds[i]);
	at_hand.n_fds = 0;
	in->control.again_us = 0;
	give_back(in_buf, held_len);
}

/* False: it was for long enough, or another one was. What does not die is no reason to let each of many wait for as long, since
 * behind them is what would kill it. */
static bool put_off(struct init *in)
{
	struct control *c = &in->control;
	uint64_t now_us = time_now_us();

	if (!at_hand.give_up_us)
		at_hand.give_up_us = c->in_vain ? now_us : now_us + AGAIN_MAX_US;
	c->again_us = now_us < at_hand.give_up_us ? now_us + AGAIN_US : 0;
	c->in_vain = !c->again_us;
	return c->again_us;
}

static void refuse(struct init *in, int r, const struct err *err)
{
	/* The spawner waits for no answer to its own: who gets the sandbox takes it for granted. */
	if (held.request || held.type != WIRE_CONFIG) {
		control_failed(in, held.request, at_hand.stage, r, err);
		return;
	}
	in->status = 70;
	in->over = true;
}

static void handle_request(struct init *in)
{
	struct err err = ERR_INIT;
	int r;

	if (held.type != WIRE_RUN && held.type != WIRE_ACK)
		in->runs.still = false;
	at_hand.again = false;
	r = handle(in, &at_hand, &err);
	if (r < 0 && at_hand.again && put_off(in))
		return;
	if (r == 0 && held.type == WIRE_RUN)
		in->control.in_vain = false;
	if (r < 0)
		refuse(in, r, &err);
	forget_request(in);
}

static int read_request(struct init *in)
{
	held_len = 0;
	held = (struct wire_in){ 0 };
	at_hand = (struct request){ .msg = &held, .stage = "request" };
	return fd_recv(in->control.watch.fd, in_buf, sizeof(in_buf), &held_len, at_hand.fds, FD_PASS_MAX, &at_hand.n_fds);
}

int control_first(struct init *in, const char **ret_stage, struct err *err)
{
	int r = read_request(in);

	if (r == -EAGAIN)
		return 0;
	if (r == 0)
		r = held_len ? wire_parse(&held, in_buf, held_len) : -ECONNRESET;
	if (r == 0 && (held.type != WIRE_CONFIG || held.request))
		r = -EPROTO;
	if (r == 0)
		r = conf_request(in, &at_hand, err);
	if (r < 0)
		*ret_stage = at_hand.stage; /* in the request, maybe, which stays until the process ends */
	else
		forget_request(in);
	return r;
}

static void receive(struct init *in)
{
	int r = read_request(in);

	if ((r == 0 && held_len == 0) || r == -ECONNRESET) {
		/* Every holder of the other end is gone, the spawner among them: nobody is left who could take over, or end
		 * this sandbox. */
		drop_pending(&in->control);
		n_owed = 0;
		watch_close(in, &in->control.watch);
		in->over = true;
		return;
	}
	if (r == -EMFILE && wire_parse(&held, in_buf, held_len) == 0 && held.request)
		control_failed(in, held.request, "descriptors", r, NULL);
	if (r == 0)
		r = wire_parse(&held, in_buf, held_len);
	if (r < 0) {
		forget_request(in);
		return;
	}
	handle_request(in);
}

/* Each 0, or why the rest has to wait. */
static int flush_pending(struct control *c)
{
	struct answer *a;

	while ((a = list_first(&c->pending, struct answer, link))) {
		int r = fd_send(c->watch.fd, a->data, a->len, a->fds, a->n_fds);

		if (fd_send_later(r))
			return r;
		drop(a);
	}
	return 0;
}

static int flush_owed(struct control *c)
{
	while (n_owed) {
		const struct owed *w = &owed[n_owed - 1];
		struct wire_out *o = put_failure(w->request, "answer", w->code, "init had no room to keep the answer in");
		int r = wire_send(c->watch.fd, o, NULL, 0);

		if (fd_send_later(r))
			return r;
		n_owed--;
	}
	return 0;
}

static void flush(struct init *in)
{
	int r = flush_pending(&in->control);

	if (r == 0)
		r = flush_owed(&in->control);
	if (r < 0)
		note_refusal(in, r);
	else
		runs_flush(in);
	update_events(in);
}

static void on_control(struct init *in, struct watch *w, uint32_t events)
{
	if (events & (EPOLLHUP | EPOLLERR) && in->control.again_us)
		forget_request(in);
	/* Reading first: it is what finds out that the socket is dead. */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !is_behind(in) && !in->control.again_us)
		receive(in);
	else if (events & (EPOLLHUP | EPOLLERR)) {
		drop_pending(&in->control);
		n_owed = 0;
	}
	if (w->fd >= 0)
		flush(in);
}

int control_open(struct init *in)
{
	int size = 4 * WIRE_MAX;

	in->control = (struct control){ .watch = WATCH_INIT };
	list_init(&in->control.pending);
	/* Best effort: the maker of the socket pair has done the same. */
	(void)setsockopt(BOOT_FD_CONTROL, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return watch_open(in, &in->control.watch, BOOT_FD_CONTROL, EPOLLIN, on_control);
}

uint64_t control_next_us(const struct init *in)
{
	const struct control *c = &in->control;

	return MIN(c->retry_us ? c->retry_us : UINT64_MAX, c->again_us ? c->again_us : UINT64_MAX);
}

void control_tick(struct init *in, uint64_t now_us)
{
	struct control *c = &in->control;

	if (c->again_us && now_us >= c->again_us) {
		c->again_us = 0;
		handle_request(in);
		update_events(in);
	}
	if (!c->retry_us || now_us < c->retry_us)
		return;
	c->retry_us = 0;
	if (c->watch.fd >= 0)
		flush(in);
}
