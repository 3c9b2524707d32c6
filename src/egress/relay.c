#include "egress/relay.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"

#define PUMPS_A_TURN 4 /* buffers moved before the other connections have their turn */

enum { INSIDE, OUTSIDE };

#define CHUNK_MIN (16u * 1024)

struct side {
	int fd;
	struct loop_io io;     /* open only while something is asked for: a hang-up cannot be masked, and would spin */
	struct egress_relay *relay;
	uint32_t chunk; /* bytes looked at at once: grows while the other side takes them all, shrinks when not */
	bool full;             /* takes no more for now; the other side is not read until it does */
	bool finished;         /* its end of stream was read */
	bool broken;           /* takes nothing any more; what it sent before is still there to be read */
};

/* dialing -> open -> ended. dialing: OUTSIDE is not connected, INSIDE is watched for resets only. open: a side is read
 * unless the other is full. ended: waits for the close phase.
 * A side that broke off ends the other with a reset, behind all that it had sent; where that was everything, up to its end of
 * stream, the other has what it is owed and ends by itself, and what it still sends is dropped.
 * Bytes are looked at, sent on, and then only as many taken as were sent. So nothing is ever kept here: what a slow
 * receiver has not taken stays in the sender's socket, where the kernel limits it and tells the peer. */
struct egress_relay {
	struct list node; /* in sandbox.relays */
	struct egress_sandbox *sandbox;
	struct side sides[2];
	struct loop_timer timer; /* of the dial; later of silence after a half-close */
	uint64_t moved_ms;       /* when bytes last moved */
	bool dialing, ended;
};

static struct egress *egress_of(const struct egress_relay *r)
{
	return r->sandbox->egress;
}

static struct side *other(struct side *s)
{
	return &s->relay->sides[s == &s->relay->sides[INSIDE] ? OUTSIDE : INSIDE];
}

/* -- the end ----------------------------------------------------------------------------------------------------- */
static void end(struct egress_relay *r, bool reset)
{
	if (r->ended)
		return;
	r->ended = true;
	loop_timer_stop(&r->timer);
	for (int i = 0; i < 2; i++) {
		struct side *s = &r->sides[i];
		loop_io_close(&s->io);
		s->fd = reset ? fd_reset(s->fd) : fd_close_foreign(s->fd);
	}
	egress_fds_give(egress_of(r), 2);
	list_remove(&r->node);
	r->sandbox->n_connections--;
	loop_release(egress_of(r)->loop, free, r);
}

void egress_relay_end_all(struct egress_sandbox *s)
{
	list_foreach(&s->relays, struct egress_relay, node, r)
		end(r, true);
}

/* -- bytes ------------------------------------------------------------------------------------------------------- */
static void on_side(struct loop_io *io, uint32_t events, void *arg);

static int watch(struct side *s, uint32_t events)
{
	if (events == 0) {
		loop_io_close(&s->io);
		return 0;
	}
	if (s->io.loop) {
		loop_io_set(&s->io, events);
		return 0;
	}
	return loop_io_open(&s->io, egress_of(s->relay)->loop, s->fd, events, on_side, s, NULL);
}

static int watch_both(struct egress_relay *r)
{
	for (int i = 0; i < 2; i++) {
		struct side *s = &r->sides[i];
		uint32_t events = 0;
		if (!s->finished && !other(s)->full)
			events |= EPOLLIN;
		if (s->full)
			events |= EPOLLOUT;
		if (s->broken || (other(s)->broken && !other(s)->finished))
			events &= EPOLLOUT;
		if (s->broken)
			events = 0;
		int e = watch(s, events);
		if (e < 0)
			return e;
	}
	return 0;
}

static void start_silence(struct egress_relay *r)
{
	if (egress_of(r)->config.half_close_ms)
		loop_timer_start(&r->timer, egress_of(r)->config.half_close_ms);
}

/* What from sends is over: so is what goes to the other side. */
static int pass_end(struct side *from)
{
	struct egress_relay *r = from->relay;
	struct side *to = other(from);

	from->finished = true;
	if (shutdown(to->fd, SHUT_WR) < 0 && errno != ENOTCONN)
		return -errno;
	if (!to->finished)
		start_silence(r);
	return 0;
}

/* What goes to a side that takes nothing. */
static int drop_once(struct side *from)
{
	ssize_t n = recv(from->fd, NULL, EGRESS_BUFFER_BYTES, MSG_TRUNC | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	from->finished = n == 0;
	return n > 0;
}

static int pump(struct side *from);

/* It was reset, or refused what it was sent. */
static int break_side(struct side *s)
{
	s->broken = true;
	s->full = false;
	start_silence(s->relay);
	return pump(s);
}

/* One chunk. 1 = there may be more, 0 = not now. */
static int pump_once(struct side *from)
{
	struct egress *e = egress_of(from->relay);
	struct side *to = other(from);

	if (to->broken)
		return to->finished ? drop_once(from) : from->broken ? -ECONNRESET : 0;
	/* MSG_DONTWAIT: whoever gave us the socket may hold it still, and O_NONBLOCK is everybody's. */
	ssize_t n = recv(from->fd, e->scratch, from->chunk, MSG_PEEK | MSG_DONTWAIT);

	if (n <= 0 && from->broken)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return pass_end(from);
	ssize_t sent = send(to->fd, e->scratch, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno != EAGAIN)
		return break_side(to);
	to->full = sent < n;
	if (to->full)
		from->chunk = MAX(from->chunk / 2, CHUNK_MIN);
	if (sent <= 0)
		return 0;
	/* Without a buffer TCP drops them. */
	if (recv(from->fd, NULL, (size_t)sent, MSG_TRUNC | MSG_DONTWAIT) != sent)
		return -EIO;
	from->relay->moved_ms = loop_now_ms(e->loop);
	if (sent < (ssize_t)from->chunk)
		return 0;
	from->chunk = MIN(2 * from->chunk, EGRESS_BUFFER_BYTES);
	return 1;
}

static int pump(struct side *from)
{
	int r = !from->finished;

	/* A broken one is not watched any more, and has no more than its socket's buffer. */
	for (int i = 0; (i < PUMPS_A_TURN || from->broken) && r > 0; i++)
		r = pump_once(from);
	return MIN(r, 0);
}

/* -- the dial ---------------------------------------------------------------------------------------------------- */
static void set_options(struct egress_relay *r)
{
	int on = 1, idle_s = 120, interval_s = 30, count = 4, outside = r->sides[OUTSIDE].fd;

	/* Whoever writes has decided about delay already. */
	(void)setsockopt(r->sides[INSIDE].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(outside, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* Idle connections have no limit here, so a peer that is gone must show. */
	(void)setsockopt(outside, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(outside, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(outside, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(outside, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static int dialled(struct egress_relay *r)
{
	struct side *s = &r->sides[OUTSIDE];
	int e = 0;
	socklen_t len = sizeof(e);

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0)
		return -errno;
	/* It may have answered and broken off at once. */
	if (e && recv(s->fd, &(char){ 0 }, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
		return -e;
	r->dialing = false;
	loop_timer_stop(&r->timer);
	set_options(r);
	r->moved_ms = loop_now_ms(egress_of(r)->loop);
	return e ? break_side(s) : 0;
}

static int on_open_event(struct side *s, uint32_t events)
{
	int r = 0;

	if (events & EPOLLERR && !s->broken)
		r = break_side(s);
	if (r < 0 || s->broken)
		return r;
	if (s->full && events & (EPOLLOUT | EPOLLHUP)) {
		s->full = false;
		r = pump(other(s));
	}
	if (r == 0 && !s->finished && !other(s)->full && events & (EPOLLIN | EPOLLHUP))
		r = pump(s);
	return r;
}

static void on_side(struct loop_io *io, uint32_t events, void *arg)
{
	struct side *s = arg;
	struct egress_relay *r = s->relay;
	int e;

	(void)io;
	if (!r->dialing)
		e = on_open_event(s, events);
	else
		e = s == &r->sides[OUTSIDE] ? dialled(r) : -ECONNRESET;
	if (e < 0) {
		end(r, true);
		return;
	}
	if (r->sides[INSIDE].finished && r->sides[OUTSIDE].finished)
		end(r, false);
	else if (watch_both(r) < 0)
		end(r, true);
}

static void on_timer(struct loop_timer *t, void *arg)
{
	struct egress_relay *r = arg;
	struct egress *e = egress_of(r);
	uint64_t quiet_ms = loop_now_ms(e->loop) - r->moved_ms;

	if (r->dialing || quiet_ms >= e->config.half_close_ms)
		end(r, true);
	else
		loop_timer_start(t, e->config.half_close_ms - quiet_ms);
}

/* Starts to connect; the socket is the caller's. */
static int dial(const struct egress_addr *to, uint16_t port, int *ret_fd, struct err *err)
{
	struct sockaddr_storage sa;
	socklen_t len = egress_addr_to_sockaddr(to, port, &sa);
	auto_fd fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_sys(err, "open a socket");
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		return err_sys(err, "connect");
	*ret_fd = fd_steal(&fd);
	return 0;
}

static struct egress_relay *make(struct egress_sandbox *s, int inside, int outside)
{
	struct egress_relay *r = NEW(struct egress_relay);

	r->sandbox = s;
	r->dialing = true;
	r->sides[INSIDE] = (struct side){ .fd = inside, .relay = r, .chunk = 4 * CHUNK_MIN };
	r->sides[OUTSIDE] = (struct side){ .fd = outside, .relay = r, .chunk = 4 * CHUNK_MIN };
	loop_timer_init(&r->timer, s->egress->loop, on_timer, r);
	list_push_back(&s->relays, &r->node);
	s->n_connections++;
	return r;
}

int egress_relay_new(struct egress_sandbox *s, int fd, const struct egress_addr *to, uint16_t port, struct err *err)
{
	struct egress *e = s->egress;
	int outside = -1, code = 0;

	if (s->n_connections >= e->config.max_connections)
		code = err_set(err, -EUSERS, "the sandbox has %u connections already", s->n_connections);
	else if (!egress_sandbox_fds_take(s, 2))
		code = err_set(err, -EMFILE, "no descriptor is left");
	if (code < 0) {
		fd_reset(fd);
		return code;
	}
	code = fd_set_nonblock(fd, true);
	if (code == 0)
		code = dial(to, port, &outside, err);
	if (code < 0) {
		fd_reset(fd);
		egress_fds_give(e, 2);
		return code;
	}

	struct egress_relay *r = make(s, fd, outside);
	code = loop_io_open(&r->sides[OUTSIDE].io, e->loop, outside, EPOLLOUT, on_side, &r->sides[OUTSIDE], err);
	if (code == 0) /* no events: errors and hang-ups come all the same */
		code = loop_io_open(&r->sides[INSIDE].io, e->loop, fd, 0, on_side, &r->sides[INSIDE], err);
	if (code < 0)
		end(r, true);
	else
		loop_timer_start(&r->timer, e->config.dial_ms);
	return code;
}
