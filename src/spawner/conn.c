#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "spawner/spawner.h"

#define CONNS_MAX 16
#define QUEUE_MAX 16384 /* messages; a daemon that lets so many pile up is not reading. LIST alone makes thousands */
#define LEAKS_MAX (WIRE_MAX - 4096)
#define LEFT_MAX 4096   /* messages; the socket of one that is gone holds hundreds at most */
#define RETRY_MS 20  /* after the kernel refused for another reason than a full socket */
#define ACCEPT_MS 100 /* after there was no descriptor for one that wants to connect */

/* What goes beside a message. A copy of its descriptors, should it have to wait, might not be had: that is when it waits. */
struct beside {
	int fd;             /* the message's own; -1 = none */
	conn_lend_fn *lend; /* NULL = none are lent */
	uint64_t number;    /* its argument */
};

static const struct beside nothing = { .fd = -1 };

struct message {
	struct list link;
	size_t len;
	struct beside beside;
	char data[];
};

struct conn {
	struct list link;
	struct spawner *sp;
	struct source source;
	uint64_t number;
	bool greeted; /* said HELLO */
	bool doomed;  /* to be closed by the loop's next look at it: never inside a call that uses it */
	struct waiter lister; /* of a LIST that was just read; conn 0 = none was */
	struct list queue;
	size_t n_queued;
	uint64_t retry_ms; /* when the queue is looked at again; 0 = when the socket has room */
};

/* -- out --------------------------------------------------------------------------------------------------------- */
static void message_free(struct message *m)
{
	list_remove(&m->link);
	fd_close(m->beside.fd);
	free(m);
}

/* The descriptor stays watched, and shutdown makes it readable: the loop comes back and closes. */
static void conn_doom(struct conn *c)
{
	c->doomed = true;
	shutdown(c->source.fd, SHUT_RDWR);
}

static void put_failure(struct wire_out *o, const char *stage, int error, const char *path, const char *text)
{
	wire_put_str(o, WIRE_T_STAGE, stage);
	wire_put_u64(o, WIRE_T_ERRNO, (uint64_t)-error);
	wire_put_str(o, WIRE_T_PATH, path && path[0] ? path : NULL);
	wire_put_str(o, WIRE_T_TEXT, text && text[0] ? text : NULL);
}

/* What was to be handed over is gone meanwhile. */
static int send_over(const struct conn *c, const struct wire_head *head)
{
	static _Alignas(8) char buf[256];
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), WIRE_FAILED, head->request);
	put_failure(&o, "hand it over", -ENOENT, NULL, "the sandbox has ended");
	return wire_send(c->source.fd, &o, NULL, 0);
}

static int send_now(const struct conn *c, const void *p, size_t len, const struct beside *b)
{
	int fds[FD_PASS_MAX];
	size_t n = b->lend ? b->lend(c->sp, b->number, fds) : 0;
	struct wire_head head;

	if (b->lend && n == 0) {
		memcpy(&head, p, sizeof(head));
		return send_over(c, &head);
	}
	if (b->fd >= 0)
		fds[n++] = b->fd;
	return fd_send(c->source.fd, p, len, fds, n);
}

/* The queue is not empty: r says why. */
static int wait_for_room(struct conn *c, int r)
{
	c->retry_ms = r == -EAGAIN ? 0 : time_now_ms() + RETRY_MS;
	if (c->retry_ms)
		spawner_wake(c->sp, c->retry_ms);
	return events_change(&c->sp->ev, &c->source, c->retry_ms ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static int enqueue(struct conn *c, const void *p, size_t len, const struct beside *b)
{
	struct message *m = c->n_queued >= QUEUE_MAX ? NULL : calloc(1, sizeof(*m) + len);

	if (!m)
		return -ENOBUFS;
	memcpy(m->data, p, len);
	m->len = len;
	m->beside = *b;
	list_push_back(&c->queue, &m->link);
	c->n_queued++;
	return 0;
}

/* False: what goes beside it is still the caller's. */
static bool conn_send(struct conn *c, struct wire_out *o, const struct beside *b)
{
	bool first = list_empty(&c->queue), queued = false;
	size_t len = 0;
	int r = wire_end(o, &len);

	if (c->doomed)
		return false;
	if (r == 0)
		r = first ? send_now(c, o->buf, len, b) : -EAGAIN;
	if (fd_send_later(r)) {
		int q = enqueue(c, o->buf, len, b);

		queued = q == 0;
		r = queued && first ? wait_for_room(c, r) : q;
	}
	if (r < 0)
		conn_doom(c);
	return queued;
}

static void conn_flush(struct conn *c)
{
	struct message *m;
	int r = 0;

	while (r == 0 && (m = list_first(&c->queue, struct message, link))) {
		r = send_now(c, m->data, m->len, &m->beside);
		if (fd_send_later(r))
			break;
		message_free(m);
		c->n_queued--;
	}
	if (fd_send_later(r))
		r = wait_for_room(c, r);
	else if (r == 0)
		r = events_change(&c->sp->ev, &c->source, EPOLLIN);
	if (r < 0)
		conn_doom(c);
}

static struct conn *find(struct spawner *sp, uint64_t number)
{
	list_foreach(&sp->conns, struct conn, link, c)
		if (c->number == number)
			return c;
	return NULL;
}

void conn_begin(struct spawner *sp, struct wire_out *o, enum wire_type type, struct waiter to)
{
	wire_begin(o, sp->out_buf, WIRE_MAX, type, to.request);
}

static bool answer(struct spawner *sp, struct waiter to, struct wire_out *o, const struct beside *b)
{
	struct conn *c = to.conn ? find(sp, to.conn) : NULL;

	return c && conn_send(c, o, b);
}

void conn_answer(struct spawner *sp, struct waiter to, struct wire_out *o)
{
	(void)answer(sp, to, o, &nothing);
}

void conn_give(struct spawner *sp, struct waiter to, struct wire_out *o, int fd)
{
	if (!answer(sp, to, o, &(struct beside){ .fd = fd }))
		fd_close(fd);
}

void conn_lend(struct spawner *sp, struct waiter to, struct wire_out *o, conn_lend_fn *lend, uint64_t number)
{
	(void)answer(sp, to, o, &(struct beside){ .fd = -1, .lend = lend, .number = number });
}

void conns_tell(struct spawner *sp, struct wire_out *o)
{
	list_foreach(&sp->conns, struct conn, link, c)
		if (c->greeted)
			(void)conn_send(c, o, &nothing);
}

void conn_ok(struct spawner *sp, struct waiter to)
{
	struct wire_out o;

	conn_begin(sp, &o, WIRE_OK, to);
	conn_answer(sp, to, &o);
}

void conn_fail(struct spawner *sp, struct waiter to, const char *stage, int error, const char *path, const char *text)
{
	struct wire_out o;

	conn_begin(sp, &o, WIRE_FAILED, to);
	put_failure(&o, stage, error, path, text);
	conn_answer(sp, to, &o);
}

/* -- in ---------------------------------------------------------------------------------------------------------- */
static size_t lend_own(struct spawner *sp, uint64_t number, int fds[FD_PASS_MAX])
{
	(void)number;
	memcpy(fds, sp->listen_fd, sp->n_listen * sizeof(fds[0]));
	fds[sp->n_listen] = sp->egress.to_daemon[1];
	return sp->n_listen + 1;
}

static void welcome(struct conn *c, struct waiter to)
{
	struct spawner *sp = c->sp;
	struct wire_out o;

	c->greeted = true;
	conn_begin(sp, &o, WIRE_WELCOME, to);
	wire_put_u64(&o, WIRE_T_PID, (uint64_t)getpid());
	wire_put_str(&o, WIRE_T_BOOT, sp->boot);
	wire_put_u64(&o, WIRE_T_N_FDS, sp->n_listen);
	wire_put_u64(&o, WIRE_T_FLAGS, (sp->opt.keep ? WIRE_WELCOME_KEPT : 0u) | WIRE_WELCOME_INPUT);
	conn_lend(sp, to, &o, lend_own, 0);
	space_greet(sp, to);
}

static void tell_leaks(struct spawner *sp, struct waiter to)
{
	static char text[LEAKS_MAX];
	struct wire_out o;

	leaks_find(sp, text, sizeof(text));
	conn_begin(sp, &o, WIRE_OK, to);
	wire_put_str(&o, WIRE_T_TEXT, text);
	conn_answer(sp, to, &o);
}

/* input: a descriptor that came with it, or -1; borrowed. */
static void dispatch(struct conn *c, const struct wire_in *in, int input)
{
	struct spawner *sp = c->sp;
	struct waiter to = { c->number, in->request };

	if (!c->greeted && in->type != WIRE_HELLO) {
		conn_fail(sp, to, "greet", -EPROTO, NULL, "the first message must be HELLO");
		return;
	}
	switch ((int)in->type) {
	case WIRE_HELLO:
		welcome(c, to);
		break;
	case WIRE_MAKE:
		space_expect(sp);
		box_make(sp, in, to);
		break;
	case WIRE_END:
		box_end(sp, in, to);
		break;
	case WIRE_LIST:
		c->lister = to;
		break;
	case WIRE_TAKE:
		box_take(sp, in, to);
		break;
	case WIRE_RENEW:
		box_renew(sp, in);
		break;
	case WIRE_NOTE:
		box_note(sp, in);
		break;
	case WIRE_POOL:
		pool_set(sp, in);
		break;
	case WIRE_JOB:
		job_start(sp, in, input, to);
		break;
	case WIRE_JOB_CANCEL:
		job_cancel(sp, in, to);
		break;
	case WIRE_SHUTDOWN:
		spawner_close(sp, to);
		break;
	case WIRE_LEAKS:
		tell_leaks(sp, to);
		break;
	default:
		conn_fail(sp, to, "understand the request", -EOPNOTSUPP, NULL, wire_type_name(in->type));
	}
}

static void conn_close(struct conn *c)
{
	struct spawner *sp = c->sp;
	uint64_t number = c->number;
	struct message *m;

	while ((m = list_first(&c->queue, struct message, link)))
		message_free(m);
	list_remove(&c->link);
	events_close(&sp->ev, &c->source);
	free(c);
	jobs_close(sp, number);
}

/* They are lost to the kernel's rules, the request need not be. */
static void refuse_descriptors(struct conn *c, const void *p, size_t len)
{
	struct wire_in in;

	if (wire_parse(&in, p, len) == 0 && in.request)
		conn_fail(c->sp, (struct waiter){ c->number, in.request }, "take what came with the request", -EMFILE, NULL,
			  "the spawner has no descriptor left for what came with the request");
}

/* One message. False = c is no more. */
static bool conn_read(struct conn *c)
{
	static uint64_t buf[WIRE_MAX / 8];
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in in;
	int r = fd_recv(c->source.fd, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds);

	if (r == -EAGAIN)
		return true;
	if (r == -EMFILE) {
		refuse_descriptors(c, buf, len);
		return true;
	}
	auto_fd input = n_fds ? fds[0] : -1; /* no request brings more */
	for (size_t i = 1; i < n_fds; i++)
		fd_close(fds[i]);
	if (r < 0 || len == 0 || c->doomed) {
		conn_close(c);
		return false;
	}
	r = wire_parse(&in, buf, len);
	if (r == 0) {
		dispatch(c, &in, input);
		return true;
	}
	conn_fail(c->sp, (struct waiter){ c->number, 0 }, "understand the message", r, NULL,
		  r == -EPROTONOSUPPORT ? "this protocol version is not spoken here" : "the message is malformed");
	conn_doom(c);
	return true;
}

static bool is_left(const struct conn *c)
{
	struct pollfd p = { .fd = c->source.fd };

	return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

/* What a killed daemon has asked for comes first: made after the list, it would be nobody's. */
static void conn_list(struct conn *asking)
{
	const struct waiter to = asking->lister;
	struct spawner *sp = asking->sp;

	asking->lister = (struct waiter){ 0 };
	list_foreach(&sp->conns, struct conn, link, c)
		if (c != asking && is_left(c))
			for (int i = 0; i < LEFT_MAX && conn_read(c); i++)
				;
	boxes_list(sp, to);
}

static void on_conn(void *arg, uint32_t epoll_events)
{
	struct conn *c = arg;

	if (epoll_events & EPOLLOUT)
		conn_flush(c);
	if (epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR) && conn_read(c) && c->lister.conn)
		conn_list(c);
}

/* -- accepting --------------------------------------------------------------------------------------------------- */
static bool may_connect(const struct spawner *sp, int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return false;
	return who.uid == 0 || who.uid == sp->opt.uid;
}

static size_t count(const struct spawner *sp)
{
	size_t n = 0;

	for (const struct list *l = sp->conns.next; l != &sp->conns; l = l->next)
		n++;
	return n;
}

/* It waits in the backlog. */
static void accept_later(struct spawner *sp)
{
	sp->accept_at_ms = time_now_ms() + ACCEPT_MS;
	spawner_wake(sp, sp->accept_at_ms);
	(void)!events_change(&sp->ev, &sp->accept, 0);
}

static void on_accept(void *arg, uint32_t epoll_events)
{
	struct spawner *sp = arg;
	auto_fd fd = accept4(sp->accept.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	const int size = 2 * WIRE_MAX;
	struct conn *c;

	(void)epoll_events;
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
		accept_later(sp);
	if (fd < 0 || !may_connect(sp, fd) || count(sp) >= CONNS_MAX)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0)
		return;
	c = calloc(1, sizeof(*c));
	if (!c)
		return;
	*c = (struct conn){ .sp = sp, .number = ++sp->last_number, .source = { -1, on_conn, c } };
	list_init(&c->queue);
	list_push_back(&sp->conns, &c->link);
	if (events_watch(&sp->ev, &c->source, fd, EPOLLIN) < 0) {
		list_remove(&c->link);
		free(c);
		return;
	}
	fd_steal(&fd);
}

int conns_init(struct spawner *sp, struct err *err)
{
	char path[HOST_PATH_MAX + 32];
	int fd = -1, r;

	list_init(&sp->conns);
	snprintf(path, sizeof(path), "%s/run/spawner.sock", sp->host.data);
	r = listen_control(path, sp->opt.gid, &fd, err);
	if (r < 0)
		return r;
	sp->accept = (struct source){ -1, on_accept, sp };
	r = events_watch(&sp->ev, &sp->accept, fd, EPOLLIN);
	return r < 0 ? err_sys_code(err, r, "watch %s", path) : 0;
}

void conns_tick(struct spawner *sp, uint64_t now_ms)
{
	list_foreach(&sp->conns, struct conn, link, c) {
		if (c->retry_ms && c->retry_ms <= now_ms) {
			c->retry_ms = 0;
			conn_flush(c);
		} else if (c->retry_ms) {
			spawner_wake(sp, c->retry_ms);
		}
	}
	if (sp->accept_at_ms && sp->accept_at_ms <= now_ms) {
		sp->accept_at_ms = 0;
		(void)!events_change(&sp->ev, &sp->accept, EPOLLIN);
	} else if (sp->accept_at_ms) {
		spawner_wake(sp, sp->accept_at_ms);
	}
}

void conns_done(struct spawner *sp)
{
	char path[HOST_PATH_MAX + 32];
	struct conn *c;

	while ((c = list_first(&sp->conns, struct conn, link)))
		conn_close(c);
	snprintf(path, sizeof(path), "%s/run/spawner.sock", sp->host.data);
	unlink(path);
}
