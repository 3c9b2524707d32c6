/* http/conn.c: one connection of the server. The states and the rules are in private.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "http/private.h"

static void on_timer(struct loop_timer *t, void *arg);

/* -- life ------------------------------------------------------------------------------------------------------ */

static void note_peer(struct http_conn *c, const struct sockaddr *peer, uint64_t tag)
{
	c->tag = tag;
	c->is_unix = peer->sa_family == AF_UNIX;
	c->peer.any.sa_family = peer->sa_family;
	if (peer->sa_family == AF_INET)
		memcpy(&c->peer.in4, peer, sizeof(c->peer.in4));
	else if (peer->sa_family == AF_INET6)
		memcpy(&c->peer.in6, peer, sizeof(c->peer.in6));
}

void conn_init(struct http_conn *c, struct http_server *s, size_t in_max)
{
	c->server = s;
	list_init(&c->link);
	list_init(&c->dirty);
	list_init(&c->unwatched);
	list_init(&c->fates);
	buf_init(&c->in, in_max);
	buf_init(&c->out, BUF_UNLIMITED); /* bounded by who produces: see http_reply_write() */
	c->read_ms = loop_now_ms(s->loop);
	loop_timer_init(&c->timer, s->loop, on_timer, c);
}

struct http_conn *conn_new(struct http_server *s, int fd, uint64_t tag, const struct sockaddr *peer, uint64_t acked_base)
{
	struct http_conn *c = NEW(struct http_conn);

	conn_init(c, s, s->limits.header_bytes + 2 * HTTP_READ_BYTES);
	note_peer(c, peer, tag);
	c->fd = fd;
	c->acked_base = acked_base;
	list_push_back(&s->conns, &c->link);
	s->stats.connections++;
	s->stats.open_connections++;
	return c;
}

/* At the end of the turn: to close costs the kernel as much as two answers, and whoever waits for one comes first. */
void conn_destroy(void *arg)
{
	struct http_conn *c = arg;

	if (c->tls && !conn_tls_let_go(c->tls))
		return;
	if (c->reset)
		fd_reset(c->fd);
	else if (c->adopted)
		fd_close_foreign(c->fd);
	else
		fd_close(c->fd);
	buf_done(&c->in);
	buf_done(&c->out);
	conn_tls_free(c->tls);
	h2_free(c->h2);
	free(c);
}

static void close_socket(struct http_conn *c)
{
	conn_tls_close(c);
	loop_io_close(&c->io);
	list_remove(&c->link);
	server_conn_closed(c->server, c);
}

static void conn_close(struct http_conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	conn_tell_fates(c, false);
	c->state = CONN_CLOSED;
	loop_timer_stop(&c->timer);
	list_remove(&c->dirty);
	list_remove(&c->unwatched);
	loop_release(c->server->loop, conn_destroy, c);
	if (c->wire)
		h2_stream_gone(c);
	else
		close_socket(c);
}

static void drop_request(struct http_conn *c, bool complete)
{
	struct http_req *r = c->req;

	if (!r)
		return;
	/* Before the callback: what it calls must not find this request in flight any more. */
	c->req = NULL;
	req_free(r, complete);
}

static bool is_idle(const struct http_conn *c)
{
	return c->state == CONN_OPEN && !c->req && c->rd_len == 0 && c->in.len == 0;
}

void conn_break(struct http_conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->h2)
		h2_break(c);
	if (is_idle(c)) /* an answer that is broken off must not look whole */
		conn_tls_bye(c);
	drop_request(c, false);
	conn_close(c);
}

void conn_mark_dirty(struct http_conn *c)
{
	if (!c->advancing && c->state != CONN_CLOSED)
		server_mark_dirty(c->server, c);
}

/* -- ends ------------------------------------------------------------------------------------------------------ */

static void enter_linger(struct http_conn *c)
{
	conn_tls_bye(c);
	if (c->eof || (!c->wire && shutdown(c->fd, SHUT_WR) < 0)) {
		conn_close(c);
		return;
	}
	c->state = CONN_LINGER;
	c->drained = 0;
	c->read_ms = loop_now_ms(c->server->loop);
	buf_clear(&c->in);
	c->rd_len = 0;
}

static void end_connection(struct http_conn *c)
{
	if (c->wire ? h2_may_linger(c) : c->want_linger) {
		enter_linger(c);
		return;
	}
	conn_tls_bye(c);
	conn_close(c);
}

/* The answer is with the kernel: what becomes of the connection? */
static void finish_request(struct http_conn *c)
{
	struct http_req *r = c->req;
	bool unread = !r->body_done;
	bool keep = r->head.keep_alive && !r->close_after && r->body_done && !c->server->stopping && !c->wire;

	drop_request(c, true);
	if (c->state == CONN_CLOSED)
		return;
	c->read_ms = loop_now_ms(c->server->loop);
	c->drained = 0;
	if (keep && !c->server->stopping)
		return;
	c->state = CONN_CLOSING;
	c->want_linger = unread || c->rd_len > 0;
}

/* -- progress -------------------------------------------------------------------------------------------------- */

static void take_input(struct http_conn *c, size_t n)
{
	c->rd += n;
	c->rd_len -= n;
}

/* Looks for a request in the input. True = there was one, or it was refused. */
static bool start_request(struct http_conn *c)
{
	struct http_server *s = c->server;
	struct http_refusal why;
	size_t end, begin;
	int r;

	if (!c->sent && *c->rd == 'P' && h2_is_preface(c))
		return h2_greeted(c);
	r = http_head_find(&c->scan, HTTP_SIDE_REQUEST, c->rd, c->rd_len, &s->limits, &end, &why);
	if (r == 0)
		return false;
	begin = c->scan.start;
	if (r > 0)
		c->req = req_new(c, c->rd + begin, end - begin, c->scan.n_lines, &why);
	c->scan = (struct http_head_scan){ 0 };
	if (!c->req) {
		conn_refuse(c, why.status, why.why);
		return true;
	}
	take_input(c, end);
	conn_tell_fates(c, true);
	if (c->tls)
		conn_tls_new_answer(c);
	s->stats.requests++;
	c->read_ms = loop_now_ms(s->loop);
	s->handler(c->req, s->handler_arg);
	return true;
}

/* The peer will send nothing more, and what it sent is used up as far as it can be. */
static void handle_eof(struct http_conn *c)
{
	struct http_req *r = c->req;

	if (c->h2) {
		h2_eof(c);
		return;
	}
	/* Its EPOLLRDHUP may have come together with the request, before anybody could ask for it. */
	if (r && r->ends_on_rdhup && r->reply != REPLY_ENDED)
		conn_break(c);
	else if (!r || (!r->body_done && r->body_mode != BODY_UNASKED && !r->body_paused))
		conn_break(c);
}

static bool all_sent(const struct http_conn *c)
{
	return c->out.len == 0 && (!c->wire || h2_all_sent(c));
}

static bool request_is_over(const struct http_conn *c)
{
	const struct http_req *r = c->req;

	if (!r || r->reply != REPLY_ENDED || !all_sent(c))
		return false;
	return r->body_done || r->close_after;
}

/* An answer that lasts until the connection ends can only be seen to be broken when that end is a RST. */
static void break_off(struct http_conn *c)
{
	if (c->req && c->req->reply == REPLY_STARTED && c->req->framing == FRAME_UNTIL_CLOSE)
		c->reset = true;
	conn_break(c);
}

/* Thousands of requests may have come with one read: the next one has its turn later, after the others'. */
static bool is_put_off(const struct http_conn *c)
{
	return c->n_started > HTTP_STARTS_A_TURN;
}

static bool may_start(struct http_conn *c)
{
	c->n_started++;
	return !is_put_off(c);
}

/* One step; false when nothing more can be done now. */
static bool step(struct http_conn *c)
{
	if (c->failed || (c->req && c->req->aborted)) {
		break_off(c);
		return false;
	}
	if (c->h2 && c->state == CONN_OPEN)
		return h2_step(c);
	conn_flush(c);
	if (c->wire)
		h2_push(c);
	if (c->failed)
		return true;
	if (c->state == CONN_CLOSING) {
		if (all_sent(c))
			end_connection(c);
		return false;
	}
	if (request_is_over(c)) {
		finish_request(c);
		return c->state != CONN_CLOSED;
	}
	if (!c->req)
		return c->rd_len > 0 && may_start(c) && start_request(c);
	return req_eat(c->req);
}

/* Keeps what is left of the input, and no memory when nothing is. */
static void stash_input(struct http_conn *c)
{
	if (c->rd_shared && c->rd_len && buf_append(&c->in, c->rd, c->rd_len) < 0)
		c->failed = true; /* cannot be: reading pauses far below the maximum */
	else if (!c->rd_shared)
		buf_consume(&c->in, c->in.len - c->rd_len);
	if (c->in.len == 0)
		buf_done(&c->in);
	c->rd_shared = false;
	c->rd = c->in.data;
	c->rd_len = c->in.len;
}

bool conn_wants_input(const struct http_conn *c)
{
	const struct http_req *r = c->req;

	if (c->eof)
		return false;
	if (c->state == CONN_LINGER)
		return true;
	if (c->state != CONN_OPEN)
		return false;
	if (c->h2)
		return h2_wants_input(c);
	if (!r || (!r->body_done && r->body_mode != BODY_UNASKED))
		return !r || !r->body_paused;
	return c->in.len < HTTP_AHEAD_BYTES;
}

/* -- deadlines ------------------------------------------------------------------------------------------------- */

/* Of a connection without a request. A new one is most likely to send its first within this time. */
static uint64_t idle_allowance(const struct http_conn *c)
{
	return c->server->stopping ? HTTP_STOPPING_IDLE_MS : c->server->limits.idle_ms;
}

/* What the reading side may take, in ms since read_ms; 0 = for ever. */
static uint64_t read_allowance(const struct http_conn *c)
{
	const struct http_limits *l = &c->server->limits;
	const struct http_req *r = c->req;

	if (c->state == CONN_LINGER)
		return HTTP_LINGER_MS;
	if (c->state != CONN_OPEN)
		return 0;
	if (c->tls && c->tls->handshaking)
		return c->server->stopping ? HTTP_STOPPING_IDLE_MS : l->handshake_ms;
	if (!r)
		return c->in.len ? l->header_deadline_ms : idle_allowance(c);
	return !r->body_done && r->body_mode != BODY_UNASKED && !r->body_paused ? l->body_stall_ms : 0;
}

static uint64_t next_deadline(const struct http_conn *c)
{
	uint64_t allowance = read_allowance(c);
	uint64_t due = allowance ? c->read_ms + allowance : UINT64_MAX;

	if (c->h2 && c->state == CONN_OPEN)
		due = h2_deadline(c);
	if (conn_is_writing(c))
		due = MIN(due, c->write_ms + c->server->limits.write_stall_ms);
	return due;
}

/* The timer is only ever moved to an earlier time here; when it fires too early it is armed anew. So a kept
 * connection under load costs no timer operations. */
static void update_timer(struct http_conn *c)
{
	uint64_t due = next_deadline(c), now = loop_now_ms(c->server->loop);

	if (due == UINT64_MAX || (loop_timer_armed(&c->timer) && c->timer.due_ms <= due))
		return;
	loop_timer_start(&c->timer, due > now ? due - now : 0);
}

static void time_out(struct http_conn *c)
{
	if (c->h2 && c->state == CONN_OPEN && h2_deadline(c) <= loop_now_ms(c->server->loop)) {
		h2_time_out(c);
		return;
	}
	if (c->state != CONN_OPEN || conn_is_writing(c) || (!c->req && !c->in.len)) {
		conn_break(c);
		return;
	}
	if (!c->req)
		conn_refuse(c, 408, "the header section did not arrive in time");
	else
		req_fail(c->req, 408, "the body of the request stopped arriving");
	conn_advance(c);
}

static void on_timer(struct loop_timer *t UNUSED, void *arg)
{
	struct http_conn *c = arg;

	if (next_deadline(c) <= loop_now_ms(c->server->loop))
		time_out(c);
	else
		update_timer(c);
}

void conn_stop(struct http_conn *c)
{
	char byte;

	if (c->h2 && c->state == CONN_OPEN)
		h2_stop(c);
	if (!is_idle(c) || c->h2)
		return;
	if (c->sent && !(c->tls && c->tls->pending) && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
		conn_break(c);
	else
		update_timer(c);
}

int conn_begin(struct http_conn *c, struct err *err)
{
	int r = conn_watch(c, err);

	if (r < 0)
		conn_break(c);
	else
		update_timer(c);
	return r;
}

/* -- events ---------------------------------------------------------------------------------------------------- */

/* What a drain callback did inside conn_flush() is left to the next turn, which keeps connections fair. */
static bool has_more_to_do(const struct http_conn *c)
{
	return c->failed || is_put_off(c) || (c->req && c->req->aborted) || (c->out.len && !c->blocked) ||
	       (c->h2 && h2_has_more(c)) || (c->tls && c->tls->pending && conn_wants_input(c));
}

void conn_advance(struct http_conn *c)
{
	if (c->state == CONN_CLOSED || c->advancing)
		return;
	if (!c->rd_shared) {
		c->rd = c->in.data;
		c->rd_len = c->in.len;
	}
	c->advancing = true;
	c->n_started = 0;
	while (c->state != CONN_CLOSED && c->state != CONN_LINGER && step(c))
		continue;
	c->advancing = false;
	if (c->state == CONN_CLOSED)
		return;
	stash_input(c);
	if (c->eof && c->state == CONN_OPEN && !is_put_off(c))
		handle_eof(c);
	if (c->state == CONN_CLOSED)
		return;
	if (has_more_to_do(c))
		server_mark_dirty(c->server, c);
	conn_update_watch(c);
	if (list_empty(&c->unwatched))
		update_timer(c);
}

static void read_linger(struct http_conn *c)
{
	ssize_t n = recv(c->fd, c->server->scratch, HTTP_READ_BYTES, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	c->drained += n > 0 ? (size_t)n : 0;
	if (n <= 0 || c->drained > HTTP_LINGER_BYTES)
		conn_close(c);
}

/* Puts new bytes where conn_advance() finds them: in place when nothing was left over, else behind what was. */
static void add_input(struct http_conn *c, size_t n)
{
	struct http_server *s = c->server;

	s->stats.bytes_in += n;
	/* A header section has one deadline from its first byte, however slowly it trickles in; a body has a new one
	 * with every byte. */
	if (c->req ? !c->req->body_done : !c->in.len)
		c->read_ms = loop_now_ms(s->loop);
	if (c->in.len) {
		if (buf_append(&c->in, s->scratch, n) < 0)
			c->failed = true;
		return;
	}
	c->rd = s->scratch;
	c->rd_len = n;
	c->rd_shared = true;
}

static void read_input(struct http_conn *c)
{
	bool ahead = c->req && (c->req->body_done || c->req->body_mode == BODY_UNASKED);
	size_t cap = ahead ? HTTP_AHEAD_BYTES : HTTP_READ_BYTES;
	ssize_t n = c->tls ? conn_tls_recv(c, c->server->scratch, cap) : recv(c->fd, c->server->scratch, cap, MSG_DONTWAIT);

	if (n > 0)
		add_input(c, (size_t)n);
	else if (n == 0)
		c->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		c->failed = true;
}

/* Plain HTTP where TLS is expected: told in the tongue that it speaks. */
static void refuse_plain(struct http_conn *c)
{
	conn_tls_free(c->tls);
	c->tls = NULL;
	conn_refuse(c, 400, "this port speaks HTTPS, and the request is in plain HTTP: use an address that begins with https://");
	conn_advance(c);
}

/* When the handshake is over, on with the request that came behind it. */
void conn_shaken(struct http_conn *c, enum handshake r)
{
	switch (r) {
	case HANDSHAKE_AGAIN:
		loop_io_set(&c->io, c->tls->busy ? 0 : c->tls->want_write ? EPOLLOUT : EPOLLIN);
		update_timer(c);
		break;
	case HANDSHAKE_DONE:
		c->read_ms = loop_now_ms(c->server->loop);
		if (conn_tls_is_h2(c))
			h2_begin(c);
		conn_read(c);
		break;
	case HANDSHAKE_PLAIN: refuse_plain(c); break;
	case HANDSHAKE_FAILED: /* lingering: it may have been told why */
		enter_linger(c);
		if (c->state == CONN_LINGER) {
			conn_update_watch(c);
			update_timer(c);
		}
		break;
	}
}

void conn_read(struct http_conn *c)
{
	if (c->tls && c->tls->handshaking) {
		conn_shaken(c, conn_tls_handshake(c));
		return;
	}
	read_input(c);
	conn_advance(c);
}

void conn_look(struct http_conn *c)
{
	read_input(c);
	c->spared = false;
	if (c->rd_len)
		watch_was_late(c->server);
	conn_advance(c);
}

void conn_turn(struct http_conn *c)
{
	bool room = c->in.len < c->server->limits.header_bytes + HTTP_READ_BYTES; /* see conn_new() */

	if (c->state == CONN_OPEN && c->tls && c->tls->pending && room && conn_wants_input(c))
		read_input(c);
	conn_advance(c);
}

void conn_on_io(struct loop_io *io UNUSED, uint32_t events, void *arg)
{
	struct http_conn *c = arg;

	if (c->state == CONN_LINGER) {
		read_linger(c);
		return;
	}
	if (events & (EPOLLERR | EPOLLHUP)) {
		conn_break(c);
		return;
	}
	if (c->tls && c->tls->handshaking) {
		conn_shaken(c, conn_tls_handshake(c));
		return;
	}
	if (events & EPOLLOUT)
		c->blocked = false;
	if (events & EPOLLRDHUP) {
		c->rdhup = true;
		if ((c->req && c->req->ends_on_rdhup) || (c->h2 && c->state == CONN_OPEN && !conn_wants_input(c))) {
			conn_break(c);
			return;
		}
	}
	if ((events & EPOLLIN || (c->tls && c->tls->want_write)) && conn_wants_input(c))
		read_input(c);
	conn_advance(c);
}
