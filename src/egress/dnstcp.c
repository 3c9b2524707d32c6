/* egress/dnstcp.c: DNS over a connection; see dns.h. */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "egress/dns.h"

#define IDLE_MS 10000
#define READ_BYTES 4096

/* reading -> asking -> writing -> reading: `ask` is set while asking, `out` holds bytes while writing. What the client
 * sends meanwhile waits in the socket, but for what was read along with a question. */
struct egress_dnstcp {
	struct list node; /* in sandbox.dns_streams */
	struct egress_sandbox *sandbox;
	int fd;
	struct loop_io io;
	struct loop_timer timer;
	struct buf in, out;
	struct egress_ask *ask;
	bool finished; /* the client sends no more */
	bool ended;
};

static void release(void *arg)
{
	struct egress_dnstcp *d = arg;

	buf_done(&d->in);
	buf_done(&d->out);
	free(d);
}

static void end(struct egress_dnstcp *d, bool reset)
{
	if (d->ended)
		return;
	d->ended = true;
	egress_ask_end(d->ask);
	d->ask = NULL;
	loop_timer_stop(&d->timer);
	loop_io_close(&d->io);
	d->fd = reset ? fd_reset(d->fd) : fd_close_foreign(d->fd);
	egress_fds_give(d->sandbox->egress, 1);
	list_remove(&d->node);
	d->sandbox->n_connections--;
	loop_release(d->sandbox->egress->loop, release, d);
}

void egress_dnstcp_end_all(struct egress_sandbox *s)
{
	list_foreach(&s->dns_streams, struct egress_dnstcp, node, d)
		end(d, true);
}

static int put_reply(struct egress_dnstcp *d, const uint8_t *reply, size_t len)
{
	uint8_t frame[2] = { (uint8_t)(len >> 8), (uint8_t)len };
	int r = buf_append(&d->out, frame, sizeof(frame));

	return r < 0 ? r : buf_append(&d->out, reply, len);
}

static void step(struct egress_dnstcp *d);

static void on_reply(const uint8_t *reply, size_t len, void *arg)
{
	struct egress_dnstcp *d = arg;

	d->ask = NULL;
	if (put_reply(d, reply, len) < 0)
		end(d, true);
	else
		step(d);
}

/* One question that has come whole. 0 = it waits for its answer or has it; 1 = none is there; -EBADMSG = not DNS. */
static int take_question(struct egress_dnstcp *d)
{
	uint8_t reply[EGRESS_DNS_SHORT_MAX];
	const uint8_t *p = (const uint8_t *)d->in.data;
	size_t reply_len = 0;

	if (d->in.len < 2)
		return 1;
	size_t len = (size_t)p[0] << 8 | p[1];
	if (d->in.len < len + 2)
		return 1;
	int r = egress_ask(d->sandbox, p + 2, len, true, on_reply, d, &d->ask, reply, &reply_len);
	buf_consume(&d->in, len + 2);
	if (r == EGRESS_ASK_DROPPED)
		return -EBADMSG;
	return r == EGRESS_ASK_ANSWERED ? put_reply(d, reply, reply_len) : 0;
}

static int write_out(struct egress_dnstcp *d)
{
	while (d->out.len > 0) {
		ssize_t n = send(d->fd, d->out.data, d->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		buf_consume(&d->out, (size_t)n);
	}
	return 0;
}

/* As far as it goes: writes what is to be written, then takes the next question, and so on. */
static int advance(struct egress_dnstcp *d)
{
	for (;;) {
		int r = write_out(d);
		if (r < 0)
			return r;
		if (d->out.len > 0 || d->ask)
			return 0;
		r = take_question(d);
		if (r != 0)
			return r;
	}
}

static void step(struct egress_dnstcp *d)
{
	int r = advance(d);

	if (r < 0 || (r == 1 && d->finished)) {
		end(d, r < 0);
		return;
	}
	/* While asking nothing is watched but errors; after the client's end of stream EPOLLIN would never cease. */
	loop_io_set(&d->io, d->out.len > 0 ? EPOLLOUT : d->ask || d->finished ? 0 : EPOLLIN);
	loop_timer_start(&d->timer, IDLE_MS);
}

static void on_event(struct loop_io *io, uint32_t events, void *arg)
{
	struct egress_dnstcp *d = arg;
	char *room;

	(void)io;
	if (events & (EPOLLERR | EPOLLHUP)) {
		end(d, true);
		return;
	}
	if (events & EPOLLIN) {
		if (buf_reserve(&d->in, READ_BYTES, &room) < 0) {
			end(d, true);
			return;
		}
		ssize_t n = recv(d->fd, room, READ_BYTES, MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN) {
			end(d, true);
			return;
		}
		buf_commit(&d->in, (size_t)MAX(n, 0));
		d->finished = n == 0;
	}
	step(d);
}

static void on_timeout(struct loop_timer *t, void *arg)
{
	(void)t;
	end(arg, false);
}

static struct egress_dnstcp *make(struct egress_sandbox *s, int fd)
{
	struct egress_dnstcp *d = NEW(struct egress_dnstcp);

	d->sandbox = s;
	d->fd = fd;
	buf_init(&d->in, EGRESS_DNS_MAX + 2 + READ_BYTES);
	buf_init(&d->out, EGRESS_DNS_MAX + 2);
	loop_timer_init(&d->timer, s->egress->loop, on_timeout, d);
	list_push_back(&s->dns_streams, &d->node);
	s->n_connections++;
	return d;
}

int egress_dnstcp_new(struct egress_sandbox *s, int fd, struct err *err)
{
	struct egress *e = s->egress;
	int code = fd_set_nonblock(fd, true);

	if (code == 0 && s->n_connections >= e->config.max_connections)
		code = err_set(err, -EUSERS, "the sandbox has %u connections already", s->n_connections);
	else if (code == 0 && !egress_sandbox_fds_take(s, 1))
		code = err_set(err, -EMFILE, "no descriptor is left");
	if (code < 0) {
		fd_reset(fd);
		return code;
	}
	struct egress_dnstcp *d = make(s, fd);
	code = loop_io_open(&d->io, e->loop, fd, EPOLLIN, on_event, d, err);
	if (code < 0)
		end(d, true);
	else
		loop_timer_start(&d->timer, IDLE_MS);
	return code;
}
