/* http/output.c: the output queue of a connection, and what the peer's TCP has acknowledged of it. */
#include <errno.h>
#include <fcntl.h>
/* Not <netinet/tcp.h>: its struct tcp_info ends before tcpi_bytes_acked. */
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "http/private.h"

uint64_t conn_offset(const struct http_conn *c)
{
	return c->sent + c->out.len + (c->wire ? h2_heads(c) : 0);
}

void conn_queue(struct http_conn *c, const void *p, size_t len)
{
	if (c->out.len == 0)
		c->write_ms = loop_now_ms(c->server->loop);
	if (buf_append(&c->out, p, len) < 0)
		c->failed = true; /* cannot be: out has no maximum */
}

static bool kernel_has(const struct http_conn *c, uint64_t offset)
{
	return c->sent >= offset && (!c->wire || h2_on_wire(c, offset) <= c->wire->sent);
}

void conn_mark(const struct http_conn *c)
{
	struct http_req *r = c->req;

	if (!r || !r->mark || !kernel_has(c, r->mark_at))
		return;
	__atomic_fetch_or(r->mark, r->mark_bits, __ATOMIC_RELAXED);
	r->mark = NULL;
}

static void note_sent(struct http_conn *c, size_t n)
{
	c->sent += n;
	conn_mark(c);
	c->server->stats.bytes_out += n;
	c->write_ms = loop_now_ms(c->server->loop);
}

/* Sends out and then p; returns the bytes taken. Failures are only noted: who called is often inside a handler. */
static size_t send_now(struct http_conn *c, const void *p, size_t len, int flags)
{
	struct iovec iov[2] = { { c->out.data, c->out.len }, { (void *)p, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	do /* the plain call where it will do: it costs less */
		n = len ? sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) :
			  send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT | flags);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN)
		c->failed = true;
	c->blocked = n < 0 ? !c->failed : (size_t)n < c->out.len + len;
	if (n <= 0)
		return 0;
	note_sent(c, (size_t)n);
	return (size_t)n;
}

/* A piece that is worth no copy goes straight from the caller's memory to the kernel, with all that is queued. */
void conn_queue_big(struct http_conn *c, const void *p, size_t len)
{
	size_t n, queued;

	/* With TLS it is encrypted from wherever it lies: better in whole records, with what comes before and behind. */
	if (len < HTTP_DIRECT_BYTES || c->blocked || c->failed || c->tls || c->wire) {
		conn_queue(c, p, len);
		return;
	}
	n = send_now(c, p, len, 0);
	queued = MIN(n, c->out.len);
	buf_consume(&c->out, queued);
	n -= queued;
	if (n < len)
		conn_queue(c, (const char *)p + n, len - n);
}

static size_t send_tls(struct http_conn *c)
{
	size_t n = conn_tls_send(c, c->out.data, c->out.len);

	if (n)
		note_sent(c, n);
	return n;
}

static void send_queue(struct http_conn *c, int flags)
{
	size_t n = c->tls ? send_tls(c) : send_now(c, NULL, 0, flags);

	buf_consume(&c->out, n);
	if (c->out.len == 0)
		buf_done(&c->out); /* an idle connection owns no buffer */
}

/* Pages of files go as they are: on their way to a peer on this machine they are copied once, by whoever reads them. */
size_t conn_splice(struct http_conn *c, int pipe, size_t len)
{
	ssize_t n;

	if (c->out.len && !c->blocked && !c->failed)
		send_queue(c, MSG_MORE);
	if (c->blocked || c->failed)
		return 0;
	c->write_ms = loop_now_ms(c->server->loop);
	do
		n = splice(pipe, NULL, c->fd, NULL, len, SPLICE_F_NONBLOCK);
	while (n < 0 && errno == EINTR);
	c->failed = n == 0 || (n < 0 && errno != EAGAIN);
	c->blocked = !c->failed && n < (ssize_t)len;
	if (n <= 0)
		return 0;
	note_sent(c, (size_t)n);
	return (size_t)n;
}

bool conn_is_writing(const struct http_conn *c)
{
	return c->out.len || (c->blocked && !c->wire);
}

/* Short enough that who produces may go on. */
static bool is_short(const struct http_conn *c)
{
	return c->out.len ? c->out.len <= c->server->limits.high_water_bytes / 2 : !conn_is_writing(c);
}

void conn_flush(struct http_conn *c)
{
	struct http_req *r = c->req;

	if (c->out.len && !c->blocked && !c->failed)
		send_queue(c, 0);
	if (c->failed || !r || !r->want_drain || r->reply != REPLY_STARTED)
		return;
	if (!is_short(c))
		return;
	r->want_drain = false;
	if (r->drain_fn)
		r->drain_fn(r, r->drain_arg);
}

/* -- acknowledged ---------------------------------------------------------------------------------------------- */

void wire_log_add(struct wire_log *l, uint64_t sent, uint64_t wire, bool first)
{
	if (l->n < WIRE_LOG)
		l->n++;
	else if (!first)
		memmove(&l->at[0], &l->at[1], sizeof(l->at) - sizeof(l->at[0]));
	l->at[l->n - 1].sent = sent;
	l->at[l->n - 1].wire = wire;
}

uint64_t wire_log_find(const struct wire_log *l, uint64_t sent)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->at[i].sent >= sent)
			return l->at[i].wire;
	return UINT64_MAX;
}

uint64_t conn_kernel_acked(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return info.tcpi_bytes_acked;
}

/* On a connection that this side opened (one that was handed over may be), the kernel counts the SYN as a byte:
 * acked_base is what it said before our first byte. After our FIN it counts one more, which no offset reaches. */
bool conn_acked(const struct http_conn *c, uint64_t offset)
{
	if (c->wire)
		return c->sent >= offset && conn_acked(c->wire, h2_on_wire(c, offset));
	if (c->fd < 0 || c->sent < offset)
		return false;
	if (c->is_unix)
		return true;
	return conn_kernel_acked(c->fd) >= c->acked_base + (c->tls ? conn_tls_wire(c, offset) : offset);
}
