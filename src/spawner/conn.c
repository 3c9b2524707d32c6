#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

struct message {
	struct list link;
	size_t len, n_fds;
	int fds[FD_PASS_MAX];
	char data[];
};

struct conn {
	struct list link;
	struct spawner *sp;
	struct source source;
	uint64_t number;
	bool greeted; /* said HELLO */
	bool doomed;  /* to be closed by the loop's next look at it: never inside a call that uses it */
	struct list queue;
	size_t n_queued;
};

/* -- out --------------------------------------------------------------------------------------------------------- */
static void message_free(struct message *m)
{
	list_remove(&m->link);
	for (size_t i = 0; i < m->n_fds; i++)
		fd_close(m->fds[i]);
	free(m);
}

/* The descriptor stays watched, and shutdown makes it readable: the loop comes back and closes. */
static void conn_doom(struct conn *c)
{
	c->doomed = true;
	shutdown(c->source.fd, SHUT_RDWR);
}

static int enqueue(struct conn *c, const void *p, size_t len, const int *fds, size_t n_fds)
{
	struct message *m = c->n_queued >= QUEUE_MAX ? NULL : calloc(1, sizeof(*m) + len);

	if (!m)
		return -ENOBUFS;
	memcpy(m->data, p, len);
	m->len = len;
	list_push_back(&c->queue, &m->link);
	c->n_queued++;
	for (; m->n_fds < n_fds; m->n_fds++) {
		m->fds[m->n_fds] = fcntl(fds[m->n_fds], F_DUPFD_CLOEXEC, 0);
		if (m->fds[m->n_fds] < 0)
			return -errno;
	}
	return events_change(&c->sp->ev, &c->source, EPOLLIN | EPOLLOUT);
}

static void conn_send(struct conn *c, struct wire_out *o, const int *fds, size_t n_fds)
{
	size_t len = 0;
	int r = wire_end(o, &len);

	if (c->doomed)
		return;
	if (r == 0)
		r = list_empty(&c->queue) ? fd_send(c->source.fd, o->buf, len, fds, n_fds) : -EAGAIN;
	if (r == -EAGAIN)
		r = enqueue(c, o->buf, len, fds, n_fds);
	if (r < 0)
		conn_doom(c);
}

static void conn_flush(struct conn *c)
{
	struct message *m;

	while ((m = list_first(&c->queue, struct message, link))) {
		int r = fd_send(c->source.fd, m->data, m->len, m->fds, m->n_fds);

		if (r == -EAGAIN)
			return;
		if (r < 0) {
			conn_doom(c);
			return;
		}
		message_free(m);
		c->n_queued--;
	}
	if (events_change(&c->sp->ev, &c->source, EPOLLIN) < 0)
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

void conn_answer(struct spawner *sp, struct waiter to, struct wire_out *o, const int *fds, size_t n_fds)
{
	struct conn *c = to.conn ? find(sp, to.conn) : NULL;

	if (c)
		conn_send(c, o, fds, n_fds);
}

void conns_tell(struct spawner *sp, struct wire_out *o)
{
	list_foreach(&sp->conns, struct conn, link, c)
		if (c->greeted)
			conn_send(c, o, NULL, 0);
}

void conn_ok(struct spawner *sp, struct waiter to)
{
	struct wire_out o;

	conn_begin(sp, &o, WIRE_OK, to);
	conn_answer(sp, to, &o, NULL, 0);
}

void conn_fail(struct spawner *sp, struct waiter to, const char *stage, int error, const char *path, const char *text)
{
	struct wire_out o;

	conn_begin(sp, &o, WIRE_FAILED, to);
	wire_put_str(&o, WIRE_T_STAGE, stage);
	wire_put_u64(&o, WIRE_T_ERRNO, (uint64_t)-error);
	wire_put_str(&o, WIRE_T_PATH, path && path[0] ? path : NULL);
	wire_put_str(&o, WIRE_T_TEXT, text && text[0] ? text : NULL);
	conn_answer(sp, to, &o, NULL, 0);
}

/* -- in ---------------------------------------------------------------------------------------------------------- */
static void welcome(struct conn *c, struct waiter to)
{
	struct spawner *sp = c->sp;
	int fds[SPAWNER_LISTEN_MAX + 1];
	struct wire_out o;

	memcpy(fds, sp->listen_fd, sp->n_listen * sizeof(fds[0]));
	fds[sp->n_listen] = sp->egress.to_daemon[1];
	c->greeted = true;
	conn_begin(sp, &o, WIRE_WELCOME, to);
	wire_put_u64(&o, WIRE_T_PID, (uint64_t)getpid());
	wire_put_str(&o, WIRE_T_BOOT, sp->boot);
	wire_put_u64(&o, WIRE_T_N_FDS, sp->n_listen);
	wire_put_u64(&o, WIRE_T_FLAGS, (sp->opt.keep ? WIRE_WELCOME_KEPT : 0u) | WIRE_WELCOME_INPUT);
	conn_answer(sp, to, &o, fds, sp->n_listen + 1);
	space_greet(sp, to);
}

static void tell_leaks(struct spawner *sp, struct waiter to)
{
	static char text[LEAKS_MAX];
	struct wire_out o;

	leaks_find(sp, text, sizeof(text));
	conn_begin(sp, &o, WIRE_OK, to);
	wire_put_str(&o, WIRE_T_TEXT, text);
	conn_answer(sp, to, &o, NULL, 0);
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
		boxes_list(sp, to);
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

static void conn_read(struct conn *c)
{
	static uint64_t buf[WIRE_MAX / 8];
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in in;
	int r = fd_recv(c->source.fd, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds);

	if (r == -EAGAIN)
		return;
	auto_fd input = n_fds ? fds[0] : -1; /* no request brings more */
	for (size_t i = 1; i < n_fds; i++)
		fd_close(fds[i]);
	if (r < 0 || len == 0 || c->doomed) {
		conn_close(c);
		return;
	}
	r = wire_parse(&in, buf, len);
	if (r == 0) {
		dispatch(c, &in, input);
		return;
	}
	conn_fail(c->sp, (struct waiter){ c->number, 0 }, "understand the message", r, NULL,
		  r == -EPROTONOSUPPORT ? "this protocol version is not spoken here" : "the message is malformed");
	conn_doom(c);
}

static void on_conn(void *arg, uint32_t epoll_events)
{
	struct conn *c = arg;

	if (epoll_events & EPOLLOUT)
		conn_flush(c);
	if (epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		conn_read(c);
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

static void on_accept(void *arg, uint32_t epoll_events)
{
	struct spawner *sp = arg;
	auto_fd fd = accept4(sp->accept.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	const int size = 2 * WIRE_MAX;
	struct conn *c;

	(void)epoll_events;
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

void conns_done(struct spawner *sp)
{
	char path[HOST_PATH_MAX + 32];
	struct conn *c;

	while ((c = list_first(&sp->conns, struct conn, link)))
		conn_close(c);
	snprintf(path, sizeof(path), "%s/run/spawner.sock", sp->host.data);
	unlink(path);
}
