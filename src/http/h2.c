/* http/h2.c: a connection of HTTP/2: what its frames mean, when it ends. The rules are in h2.h. */
#include "http/h2.h"

#include <string.h>
#include <sys/socket.h>

#include "base/mem.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define HEAD_EXCESS 4 /* so many times the maximum of header fields, decoded, are refused; beyond that the connection is */

char h2_ours;

void h2_wake(struct http2 *h)
{
	conn_mark_dirty(h->conn);
}

void h2_no_stream(struct http2 *h)
{
	if (list_empty(&h->streams))
		h->since_ms = loop_now_ms(h->conn->server->loop);
	conn_mark_dirty(h->conn);
}

static uint64_t now_of(const struct http2 *h)
{
	return loop_now_ms(h->conn->server->loop);
}

/* -- what comes ------------------------------------------------------------------------------------------------ */

static int check(struct http2 *h, const char *refusal)
{
	if (!refusal)
		return 0;
	h->refusal = refusal;
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static bool is_request(const nghttp2_frame *frame)
{
	return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
}

static int on_begin_headers(nghttp2_session *session UNUSED, const nghttp2_frame *frame UNUSED, void *arg)
{
	struct http2 *h = arg;

	h2_head_begin(&h->head);
	return 0;
}

/* Trailers are counted, too, and dropped. */
static int on_header(nghttp2_session *session UNUSED, const nghttp2_frame *frame UNUSED, const uint8_t *name, size_t name_len,
		     const uint8_t *value, size_t value_len, uint8_t flags UNUSED, void *arg)
{
	struct http2 *h = arg;

	h2_head_add(&h->head, (const char *)name, name_len, (const char *)value, value_len);
	return check(h, h->head.bytes > HEAD_EXCESS * h->head.max ? "the header fields are too long" : NULL);
}

/* Where HTTP/1.1 answers with 400: nghttp2 would only leave the field out. */
static int on_invalid_header(nghttp2_session *session UNUSED, const nghttp2_frame *frame UNUSED, const uint8_t *name UNUSED,
			     size_t name_len UNUSED, const uint8_t *value UNUSED, size_t value_len UNUSED, uint8_t flags UNUSED,
			     void *arg)
{
	struct http2 *h = arg;
	int r = check(h, h2_guard_reset(&h->guard, now_of(h)));

	return r < 0 ? r : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_invalid_frame(nghttp2_session *session UNUSED, const nghttp2_frame *frame UNUSED, int error UNUSED, void *arg)
{
	struct http2 *h = arg;

	return check(h, h2_guard_reset(&h->guard, now_of(h)));
}

static int begin_stream(struct http2 *h, const nghttp2_frame *frame)
{
	bool has_body = !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM);

	h->since_ms = now_of(h);
	return h2_stream_new(h, frame->hd.stream_id, has_body) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void body_came(struct h2_stream *s)
{
	s->body_came = true;
	if (s->conn.state == CONN_LINGER)
		conn_break(&s->conn);
	else
		conn_mark_dirty(&s->conn);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct http2 *h = arg;
	struct h2_stream *s = h2_stream_of(session, frame->hd.stream_id);

	h->settled = h->settled || (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK));
	if (is_request(frame))
		return begin_stream(h, frame);
	if (!s)
		return 0;
	if (frame->hd.type == NGHTTP2_RST_STREAM)
		s->reset = true;
	else if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		body_came(s);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags UNUSED, int32_t id, const uint8_t *data, size_t len, void *arg)
{
	struct http2 *h = arg;
	struct h2_stream *s = h2_stream_of(session, id);

	nghttp2_session_consume_connection(session, len);
	if (!s || s->conn.state == CONN_LINGER) {
		nghttp2_session_consume_stream(session, id, len);
		h2_drop_body(s, len);
		return 0;
	}
	s->conn.read_ms = now_of(h);
	if (buf_append(&s->conn.in, data, len) < 0)
		s->conn.failed = true; /* cannot be: a window is smaller */
	conn_mark_dirty(&s->conn);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
	struct http2 *h = arg;
	struct h2_stream *s = h2_stream_of(session, id);
	bool blame = s && error != NGHTTP2_NO_ERROR && !s->reset; /* what the peer resets was counted as it came */

	if (s)
		h2_stream_closed(s);
	return blame ? check(h, h2_guard_reset(&h->guard, now_of(h))) : 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct h2_stream *s = frame->hd.type == NGHTTP2_HEADERS ? h2_stream_of(session, frame->hd.stream_id) : NULL;
	struct http2 *h = arg;

	if (s)
		h2_head_sent(s, frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
	h->headed = s;
	return 0;
}

/* Its block is longer than nghttp2 will send. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error UNUSED, void *arg UNUSED)
{
	struct h2_stream *s = frame->hd.type == NGHTTP2_HEADERS ? h2_stream_of(session, frame->hd.stream_id) : NULL;

	if (s) {
		s->conn.failed = true;
		conn_mark_dirty(&s->conn);
	}
	return 0;
}

/* -- life ------------------------------------------------------------------------------------------------------ */

static void set_callbacks(nghttp2_session_callbacks *cb)
{
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_sent);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_sent);
	nghttp2_session_callbacks_set_send_data_callback(cb, h2_send_body);
}

static int make_session(struct http2 *h)
{
	nghttp2_session_callbacks *cb = NULL;
	nghttp2_option *option = NULL;
	int r = nghttp2_session_callbacks_new(&cb);

	r = r < 0 ? r : nghttp2_option_new(&option);
	if (r == 0) {
		set_callbacks(cb);
		nghttp2_option_set_no_auto_window_update(option, 1);
		nghttp2_option_set_no_closed_streams(option, 1);
		nghttp2_option_set_max_send_header_block_length(option, H2_BLOCK_BYTES);
		r = nghttp2_session_server_new2(&h->session, cb, h, option);
	}
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(cb);
	return r;
}

static int greet(struct http2 *h)
{
	const struct http_limits *l = &h->conn->server->limits;
	const nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)l->h2_streams },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)l->header_bytes },
	};
	int r = nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings));

	return r < 0 ? r : nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, H2_CONN_WINDOW);
}

void h2_begin(struct http_conn *c)
{
	struct http2 *h = NEW(struct http2);

	h->conn = c;
	list_init(&h->streams);
	h->since_ms = loop_now_ms(c->server->loop);
	h2_guard_init(&h->guard, &c->server->limits, h->since_ms);
	h2_head_init(&h->head, c->server->limits.header_bytes);
	c->h2 = h;
	c->server->stats.h2_connections++;
	if (make_session(h) < 0 || greet(h) < 0)
		c->failed = true;
	else if (c->server->stopping)
		h2_stop(c);
}

void h2_free(struct http2 *h)
{
	if (!h)
		return;
	nghttp2_session_del(h->session);
	h2_head_done(&h->head);
	free(h);
}

/* The preface, or what may become it. TLS says by ALPN what is spoken, and sandboxes are given HTTP/1.1. */
bool h2_is_preface(const struct http_conn *c)
{
	return c->server->limits.h2 && !c->wire && !c->tls && !c->adopted &&
	       !memcmp(c->rd, PREFACE, MIN(c->rd_len, sizeof(PREFACE) - 1));
}

bool h2_greeted(struct http_conn *c)
{
	if (c->rd_len < sizeof(PREFACE) - 1)
		return false;
	h2_begin(c);
	return true;
}

/* -- ends ------------------------------------------------------------------------------------------------------ */

/* Callbacks of requests run here, and may free the server. */
void h2_break(struct http_conn *c)
{
	struct h2_stream *s;

	while ((s = list_first(&c->h2->streams, struct h2_stream, link)))
		conn_break(&s->conn);
}

static void say_goodbye(struct http2 *h, uint32_t error)
{
	h->stopped = true;
	h->goodbye = true;
	if (nghttp2_session_terminate_session2(h->session, nghttp2_session_get_last_proc_stream_id(h->session), error) < 0)
		h->conn->failed = true;
}

static uint32_t error_of(const struct http2 *h, ssize_t r)
{
	if (h->refusal || r == NGHTTP2_ERR_FLOODED)
		return NGHTTP2_ENHANCE_YOUR_CALM;
	return r == NGHTTP2_ERR_BAD_CLIENT_MAGIC ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_INTERNAL_ERROR;
}

static void refuse_peer(struct http2 *h, ssize_t r)
{
	struct http_conn *c = h->conn;

	c->server->stats.h2_refused += error_of(h, r) == NGHTTP2_ENHANCE_YOUR_CALM;
	say_goodbye(h, error_of(h, r));
	h2_break(c);
}

/* When the connection, apart from its streams, must have come on. */
uint64_t h2_deadline(const struct http_conn *c)
{
	const struct http2 *h = c->h2;
	const struct http_limits *l = &c->server->limits;
	uint64_t due = list_empty(&h->streams) ? h->since_ms + l->idle_ms : UINT64_MAX;

	/* Its last frames may wait for a peer that takes none, which has its own time: write_stall_ms. */
	if (h->goodbye)
		return UINT64_MAX;
	if (!h->settled)
		due = MIN(due, h->since_ms + l->header_deadline_ms);
	if (h->head_ms && h2_wants_input(c))
		due = MIN(due, h->head_ms + l->header_deadline_ms);
	if (h->stop_ms && !h->stopped)
		due = MIN(due, h->stop_ms + HTTP_STOPPING_IDLE_MS);
	return due;
}

/* The end that was announced: who is here goes on, nobody comes any more. */
static void stop_streams(struct http2 *h)
{
	h->stopped = true;
	if (nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
				  NGHTTP2_NO_ERROR,
				  NULL, 0) < 0)
		h->conn->failed = true;
}

void h2_time_out(struct http_conn *c)
{
	struct http2 *h = c->h2;
	bool idle = list_empty(&h->streams) && h->settled && !h->head_ms;

	if (h->stop_ms && !h->stopped && !idle) {
		stop_streams(h);
	} else {
		say_goodbye(h, idle ? NGHTTP2_NO_ERROR : NGHTTP2_ENHANCE_YOUR_CALM);
		h2_break(c);
	}
	conn_advance(c);
}

/* As in HTTP/1.1, who is new has a moment left for a first request; and others, to hear of it (RFC 9113, 6.8). */
void h2_stop(struct http_conn *c)
{
	struct http2 *h = c->h2;
	char byte;
	bool quiet = !(c->tls && c->tls->pending) && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;

	if (h->stop_ms)
		return;
	h->stop_ms = MAX(now_of(h), (uint64_t)1);
	if (list_empty(&h->streams) && nghttp2_session_get_last_proc_stream_id(h->session) && quiet)
		say_goodbye(h, NGHTTP2_NO_ERROR);
	else if (nghttp2_submit_shutdown_notice(h->session) < 0)
		c->failed = true;
	conn_mark_dirty(c);
}

/* What it sent before still begins: streams have their turn before the connection has its next. */
void h2_eof(struct http_conn *c)
{
	if (c->h2->eof_seen)
		conn_break(c);
	else
		server_mark_dirty(c->server, c);
	c->h2->eof_seen = true;
}

/* -- progress -------------------------------------------------------------------------------------------------- */

/* A block that is no request is one that nghttp2 says nothing of at its end: the guard knows. */
static void note_block(struct http2 *h)
{
	const struct h2_guard *g = &h->guard;

	if (!g->block_open)
		h->head_ms = 0;
	else if (!h->head_ms || h->head_number != g->blocks)
		h->head_ms = now_of(h);
	h->head_number = g->blocks;
}

static void take_input(struct http2 *h)
{
	struct http_conn *c = h->conn;
	int r = check(h, h2_guard_bytes(&h->guard, now_of(h), c->rd, c->rd_len));
	ssize_t n = r < 0 ? r : nghttp2_session_mem_recv(h->session, (const uint8_t *)c->rd, c->rd_len);

	c->rd_len = 0;
	note_block(h);
	if (n < 0)
		refuse_peer(h, n);
}

/* Frames to the wire's queue; bodies go there by h2_send_body(). */
static void fill_queue(struct http2 *h)
{
	struct http_conn *c = h->conn;
	const uint8_t *p;
	ssize_t n;

	do {
		n = nghttp2_session_mem_send(h->session, &p);
		if (n > 0)
			conn_queue(c, p, (size_t)n);
		/* nghttp2 told of it before it gave it out. */
		if (h->headed)
			h2_head_queued(h->headed);
		h->headed = NULL;
	} while (n > 0 && c->out.len < H2_OUT_BYTES);
	if (n < 0)
		c->failed = true;
}

/* The kernel has more of the wire: marks of streams, and the ends of some. */
static void tell_streams(struct http2 *h)
{
	if (h->told_sent == h->conn->sent)
		return;
	h->told_sent = h->conn->sent;
	list_foreach(&h->streams, struct h2_stream, link, s) {
		conn_mark(&s->conn);
		if (s->fin_at && s->fin_at <= h->told_sent)
			conn_mark_dirty(&s->conn);
	}
}

/* A stream that nghttp2 will not serve any more, and that does not only wait for the kernel. */
static struct h2_stream *unserved(const struct http2 *h)
{
	list_foreach(&h->streams, struct h2_stream, link, s)
		if (!s->fin_at)
			return s;
	return NULL;
}

/* Also where nghttp2 has ended the session of its own accord. */
static bool is_over(struct http2 *h)
{
	struct h2_stream *s;

	if (nghttp2_session_want_read(h->session) || nghttp2_session_want_write(h->session))
		return false;
	while ((s = unserved(h)))
		conn_break(&s->conn);
	return list_empty(&h->streams);
}

bool h2_wants_input(const struct http_conn *c)
{
	return c->out.len < H2_OUT_BYTES;
}

bool h2_has_more(const struct http_conn *c)
{
	return c->state == CONN_OPEN && c->out.len < H2_OUT_BYTES && nghttp2_session_want_write(c->h2->session);
}

bool h2_step(struct http_conn *c)
{
	struct http2 *h = c->h2;

	/* Whoever is not read can't come to the end of its block. */
	if (h->head_ms && !h2_wants_input(c))
		h->head_ms = now_of(h);
	if (c->rd_len)
		take_input(h);
	if (c->state != CONN_OPEN || c->failed)
		return c->failed;
	if (c->out.len < H2_OUT_BYTES)
		fill_queue(h);
	conn_flush(c);
	tell_streams(h);
	conn_tell_acked(c);
	if (c->state != CONN_OPEN || c->failed || !is_over(h) || c->state != CONN_OPEN)
		return c->failed;
	c->state = CONN_CLOSING;
	c->want_linger = true;
	return true;
}
