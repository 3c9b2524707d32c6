/* sandbox/chan.c: see chan.h. */
#include "sandbox/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

#define MESSAGES_PER_TURN 64 /* others get a turn then */
#define QUEUE_MAX 8192       /* requests */
#define TOLD_MAX (2 * WIRE_ITEMS_MAX) /* messages without an answer: chan_tell() */
#define RETRY_MS 20          /* after the kernel refused to carry more descriptors */

struct pending {
	struct list node; /* in chan.pending: oldest first, so deadlines too are in order */
	uint64_t request, due_ms;
	bool lists;         /* ITEMs may come before the answer */
	size_t n_items;
	chan_answer_fn *fn; /* NULL = the answer is dropped */
	void *arg;
};

struct queued {
	struct list node;
	size_t len, n_fds;
	size_t *count; /* in chan: of its kind */
	int fds[FD_PASS_MAX];
	char data[];
};

struct chan {
	struct loop *loop;
	struct loop_io io;
	int fd;
	uint64_t timeout_ms, next;
	const struct chan_events *ev;
	void *arg;
	struct list pending, queue;
	size_t n_queued, n_told; /* in queue: requests; messages without an answer */
	struct loop_timer deadline, retry;
	struct wire_out out;
	bool foreign; /* chan_foreign() was called */
	bool dead;  /* freed, or lost */
	bool freed; /* memory only; until the end of this turn */
	bool failing; /* answers with an error are being told: some may be owed that are not in pending */
};

static _Alignas(8) char in_buf[WIRE_MAX];
static _Alignas(8) char out_buf[WIRE_MAX];

/* -- answers ---------------------------------------------------------------------------------------------------------- */

static void arm_deadline(struct chan *c)
{
	struct pending *p = list_first(&c->pending, struct pending, node);
	uint64_t now = loop_now_ms(c->loop);

	if (!p || !c->timeout_ms)
		loop_timer_stop(&c->deadline);
	else if (!loop_timer_armed(&c->deadline))
		loop_timer_start(&c->deadline, p->due_ms > now ? p->due_ms - now : 0);
}

static void answer(struct pending *p, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	list_remove(&p->node);
	if (p->fn)
		p->fn(p->arg, in, fds, n_fds, err);
	free(p);
}

void chan_fail_all(struct chan *c, const struct err *err)
{
	struct list all = LIST_INIT(all);
	bool nested = c->failing;

	c->failing = true;
	/* What the callbacks ask anew is not of this lot. */
	while (!list_empty(&c->pending)) {
		struct list *first = c->pending.next;

		list_remove(first);
		list_push_back(&all, first);
	}
	while (!list_empty(&all)) {
		struct pending *p = list_first(&all, struct pending, node);

		if (c->freed)
			p->fn = NULL;
		answer(p, NULL, NULL, 0, err);
	}
	c->failing = nested;
}

void chan_forget(struct chan *c, const void *arg)
{
	if (!c)
		return;
	list_foreach(&c->pending, struct pending, node, p)
		if (p->arg == arg)
			p->fn = NULL;
}

bool chan_is_idle(const struct chan *c)
{
	return !c->failing && list_empty(&c->pending) && list_empty(&c->queue);
}

static void on_deadline(struct loop_timer *t UNUSED, void *arg)
{
	struct chan *c = arg;
	struct err err;

	err_set(&err, -ETIMEDOUT, "no answer within %llu seconds", (unsigned long long)c->timeout_ms / 1000);
	while (!c->dead && !list_empty(&c->pending)) {
		struct pending *p = list_first(&c->pending, struct pending, node);

		if (p->due_ms > loop_now_ms(c->loop))
			break;
		answer(p, NULL, NULL, 0, &err);
	}
	if (!c->dead)
		arm_deadline(c);
}

static void read_failure(const struct wire_in *in, struct err *ret)
{
	uint64_t code = wire_get_u64(in, WIRE_T_ERRNO, EIO);
	const char *text = wire_get_str(in, WIRE_T_TEXT, 0), *path = wire_get_str(in, WIRE_T_PATH, 0);
	const char *stage = wire_get_str(in, WIRE_T_STAGE, 0);
	int e = code > 0 && code < 4096 ? (int)code : EIO;

	if (!str_empty(text))
		err_set(ret, -e, "%s", text);
	else
		err_set(ret, -e, "%s%s%s: %s", str_empty(stage) ? "failed" : stage, path ? " " : "", path ? path : "", strerror(e));
}

static void deliver(struct pending *p, const struct wire_in *in, int *fds, size_t n_fds)
{
	struct err err;

	if (in->type == WIRE_ITEM && p->lists && ++p->n_items > WIRE_ITEMS_MAX) {
		err_set(&err, -EPROTO, "the answer is a list of more than %u", WIRE_ITEMS_MAX);
		answer(p, NULL, NULL, 0, &err);
	} else if (in->type == WIRE_ITEM && p->lists) {
		if (p->fn)
			p->fn(p->arg, in, fds, n_fds, NULL);
	} else if (in->type == WIRE_ITEM) {
		err_set(&err, -EPROTO, "the answer is a list, which was not asked for");
		answer(p, NULL, NULL, 0, &err);
	} else if (in->type == WIRE_FAILED) {
		read_failure(in, &err);
		answer(p, NULL, NULL, 0, &err);
	} else {
		answer(p, in, fds, n_fds, NULL);
	}
}

static void deliver_answer(struct chan *c, const struct wire_in *in, int *fds, size_t n_fds)
{
	list_foreach(&c->pending, struct pending, node, p)
		if (p->request == in->request) {
			deliver(p, in, fds, n_fds);
			return;
		}
}

/* -- the socket ------------------------------------------------------------------------------------------------------- */

static void stop(struct chan *c)
{
	c->dead = true;
	loop_timer_stop(&c->deadline);
	loop_timer_stop(&c->retry);
	loop_io_close(&c->io);
	c->fd = fd_close(c->fd);
}

static void drop_queued(struct queued *q)
{
	list_remove(&q->node);
	(*q->count)--;
	for (size_t i = 0; i < q->n_fds; i++)
		fd_close(q->fds[i]);
	free(q);
}

static void lose(struct chan *c, int code)
{
	struct err err;

	stop(c);
	if (c->ev && c->ev->over)
		err_set(&err, -EIDRM, "%s", c->ev->over);
	else if (code)
		err_set(&err, -ECONNRESET, "the connection failed: %s", strerror(-code));
	else
		err_set(&err, -ECONNRESET, "the other end closed the connection");
	/* The owner may free the chan in any of these; its memory lasts until the end of this turn. */
	chan_fail_all(c, &err);
	if (c->ev)
		c->ev->lost(c->arg, &err);
}

static void update(struct chan *c, int refused)
{
	bool waiting = !list_empty(&c->queue);

	if (refused && refused != -EAGAIN)
		loop_timer_start(&c->retry, RETRY_MS);
	loop_io_set(&c->io, EPOLLIN | (waiting && !loop_timer_armed(&c->retry) ? EPOLLOUT : 0));
}

static void flush(struct chan *c)
{
	int r = 0;

	while (!list_empty(&c->queue)) {
		struct queued *q = list_first(&c->queue, struct queued, node);

		r = fd_send(c->fd, q->data, q->len, q->fds, q->n_fds);
		if (fd_send_later(r))
			break;
		/* A broken connection shows at the reading side. */
		drop_queued(q);
		r = 0;
	}
	update(c, r);
}

static void on_retry(struct loop_timer *t UNUSED, void *arg)
{
	flush(arg);
}

static void close_all(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fds[i] = fd_close_foreign(fds[i]);
}

/* An answer is none without what belongs to it; of an event its receiver has to know. */
static void deliver_without_fds(struct chan *c, const struct wire_in *in)
{
	struct err err;

	if (!in->request && c->ev && c->ev->event)
		c->ev->event(c->arg, in, NULL, 0);
	list_foreach(&c->pending, struct pending, node, p)
		if (in->request && p->request == in->request) {
			err_set(&err, -EMFILE, "too many open files here for what came with the answer");
			answer(p, NULL, NULL, 0, &err);
			return;
		}
}

/* False when there is nothing more to read. */
static bool receive(struct chan *c)
{
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in in = { 0 };
	int r = (c->foreign ? fd_recv_foreign : fd_recv)(c->fd, in_buf, sizeof(in_buf), &len, fds, FD_PASS_MAX, &n_fds);

	if (r == -EAGAIN)
		return false;
	if (r == -EMFILE && wire_parse(&in, in_buf, len) == 0) {
		deliver_without_fds(c, &in);
		return !c->dead;
	}
	if (r == 0 && len > 0)
		r = wire_parse(&in, in_buf, len);
	if (r < 0 || len == 0) {
		if (r == 0)
			close_all(fds, n_fds);
		lose(c, r);
		return false;
	}
	if (in.request)
		deliver_answer(c, &in, fds, n_fds);
	else if (c->ev && c->ev->event)
		c->ev->event(c->arg, &in, fds, n_fds);
	close_all(fds, n_fds);
	return !c->dead;
}

static void on_io(struct loop_io *io UNUSED, uint32_t events, void *arg)
{
	struct chan *c = arg;

	if (events & EPOLLOUT)
		flush(c);
	/* Also on a hang-up: what the peer said last is still there to be read. */
	for (int i = 0; i < MESSAGES_PER_TURN && receive(c); i++)
		;
	if (!c->dead)
		arm_deadline(c);
}

/* -- life ------------------------------------------------------------------------------------------------------------- */

int chan_new(struct chan **ret, struct loop *l, int fd, uint64_t timeout_ms, const struct chan_events *ev, void *arg,
	     struct err *err)
{
	struct chan *c = NEW(struct chan);
	int r = fd_set_nonblock(fd, true), room = 2 * (int)WIRE_MAX;

	/* Where the system's limit is lower the largest messages are refused, each with its own error. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	*c = (struct chan){ .loop = l, .fd = fd, .timeout_ms = timeout_ms, .ev = ev, .arg = arg };
	/* The socket may have been another process': what it was answered and did not read must not be taken for our own. */
	c->next = random_u64() >> 1 | 1;
	list_init(&c->pending);
	list_init(&c->queue);
	loop_timer_init(&c->deadline, l, on_deadline, c);
	loop_timer_init(&c->retry, l, on_retry, c);
	if (r < 0)
		r = err_sys_code(err, r, "make a socket non-blocking");
	else
		r = loop_io_open(&c->io, l, fd, EPOLLIN, on_io, c, err);
	if (r < 0) {
		fd_close(fd);
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void chan_foreign(struct chan *c)
{
	c->foreign = true;
}

static void release(void *arg)
{
	struct chan *c = arg;

	list_foreach(&c->pending, struct pending, node, p)
		free(p);
	for (struct queued *it; (it = list_first(&c->queue, struct queued, node));)
		drop_queued(it);
	free(c);
}

struct chan *chan_end(struct chan *c)
{
	if (c && !c->dead) {
		loop_io_close(&c->io);
		c->fd = fd_close_channel(c->fd);
	}
	return chan_free(c);
}

struct chan *chan_free(struct chan *c)
{
	if (!c)
		return NULL;
	stop(c);
	c->freed = true;
	c->ev = NULL;
	list_foreach(&c->pending, struct pending, node, p)
		p->fn = NULL;
	loop_release(c->loop, release, c);
	return NULL;
}

/* -- sending ---------------------------------------------------------------------------------------------------------- */

struct wire_out *chan_begin(struct chan *c, enum wire_type type, bool answered)
{
	wire_begin(&c->out, out_buf, sizeof(out_buf), type, answered ? c->next++ : 0);
	return &c->out;
}

static int enqueue(struct chan *c, bool answered, size_t len, const int *fds, size_t n_fds, struct err *err)
{
	size_t *count = answered ? &c->n_queued : &c->n_told, max = answered ? QUEUE_MAX : TOLD_MAX;
	struct queued *q;

	if (*count >= max)
		return err_set(err, -ENOBUFS, "%zu messages wait already", *count);
	q = xmalloc(sizeof(*q) + len);
	*q = (struct queued){ .len = len, .count = count };
	memcpy(q->data, out_buf, len);
	for (; q->n_fds < n_fds; q->n_fds++) {
		q->fds[q->n_fds] = fcntl(fds[q->n_fds], F_DUPFD_CLOEXEC, 0);
		if (q->fds[q->n_fds] < 0)
			break;
	}
	list_push_back(&c->queue, &q->node);
	(*count)++;
	if (q->n_fds < n_fds) {
		drop_queued(q);
		return err_set(err, -EMFILE, "too many open files");
	}
	return 0;
}

static void expect(struct chan *c, const struct wire_head *head, chan_answer_fn *fn, void *arg)
{
	struct pending *p = NEW(struct pending);

	*p = (struct pending){ .request = head->request, .due_ms = UINT64_MAX, .fn = fn, .arg = arg };
	p->lists = head->type == WIRE_LIST || head->type == WIRE_RUNS;
	if (c->timeout_ms)
		p->due_ms = loop_now_ms(c->loop) + c->timeout_ms;
	list_push_back(&c->pending, &p->node);
	arm_deadline(c);
}

int chan_send(struct chan *c, struct wire_out *o, const int *fds, size_t n_fds, chan_answer_fn *fn, void *arg, struct err *err)
{
	struct wire_head head;
	size_t len = 0;
	int r = wire_end(o, &len);

	if (r < 0)
		return err_set(err, r, "the message would be over %u bytes", WIRE_MAX);
	if (c->dead)
		return err_set(err, -EPIPE, "the connection is closed");
	memcpy(&head, o->buf, sizeof(head));
	r = list_empty(&c->queue) ? fd_send(c->fd, o->buf, len, fds, n_fds) : -EAGAIN;
	if (fd_send_later(r)) {
		int q = enqueue(c, head.request, len, fds, n_fds, err);

		if (q < 0)
			return q;
		update(c, r);
	} else if (r < 0) {
		return err_sys_code(err, r, "send");
	}
	if (head.request)
		expect(c, &head, fn, arg);
	return 0;
}

void chan_tell(struct chan *c, struct wire_out *o)
{
	(void)!chan_send(c, o, NULL, 0, NULL, NULL, NULL);
}
