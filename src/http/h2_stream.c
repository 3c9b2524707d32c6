/* http/h2_stream.c: a stream of HTTP/2 as a connection that has one request. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "http/client.h"
#include "http/h2.h"

#define HEAD_SPARE 64 /* of a header section, beside what h2_head counts: "HTTP/1.1" and its like */
#define FRAME_HEAD 9  /* bytes */
#define OWN_FIELDS 4  /* :status, date, content-type, content-length */

/* -- life ------------------------------------------------------------------------------------------------------ */

struct h2_stream *h2_stream_of(nghttp2_session *session, int32_t id)
{
	void *p = id ? nghttp2_session_get_stream_user_data(session, id) : NULL;

	return p == &h2_ours ? NULL : p;
}

static void init_conn(struct h2_stream *s, struct http2 *h)
{
	struct http_conn *c = &s->conn, *wire = h->conn;

	conn_init(c, wire->server, wire->server->limits.header_bytes + HEAD_SPARE + H2_BODY_WINDOW);
	c->wire = wire;
	c->fd = -1;
	c->tag = wire->tag;
	c->is_unix = wire->is_unix;
	c->adopted = wire->adopted;
	c->peer = wire->peer;
	c->blocked = true; /* it is nghttp2 that takes from its queue */
}

struct h2_stream *h2_stream_new(struct http2 *h, int32_t id, bool has_body)
{
	struct h2_stream *s = NEW(struct h2_stream);
	const char *why;
	int status = h2_head_refusal(&h->head, &why);

	init_conn(s, h);
	s->id = id;
	s->open = true;
	s->has_body = has_body;
	s->body_came = !has_body;
	nghttp2_session_set_stream_user_data(h->session, id, s);
	list_push_back(&h->streams, &s->link);
	if (status)
		conn_refuse(&s->conn, status, why);
	else if (h2_head_end(&h->head, &s->conn.in) < 0)
		s->conn.failed = true; /* cannot be: see h2_head.h */
	conn_mark_dirty(&s->conn);
	return s;
}

/* A peer that resets a stream whose answer is on its way has it all the same, as far as anybody can say. */
void h2_stream_closed(struct h2_stream *s)
{
	s->open = false;
	if (s->conn.state == CONN_LINGER) {
		conn_break(&s->conn);
		return;
	}
	if (!s->fin_at)
		s->conn.failed = true;
	else if (s->conn.req)
		s->conn.req->close_after = true;
	conn_mark_dirty(&s->conn);
}

/* The connection closes: what nghttp2 still has of it goes, without an error where the answer is whole. */
void h2_stream_gone(struct http_conn *c)
{
	struct h2_stream *s = h2_of(c);
	struct http2 *h = c->wire->h2;
	bool whole = h2_all_sent(c);

	list_remove(&s->link);
	if (s->open && c->wire->state != CONN_CLOSED) {
		nghttp2_session_set_stream_user_data(h->session, s->id, &h2_ours);
		if (!whole || !s->body_came)
			nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id,
						  whole ? NGHTTP2_NO_ERROR : NGHTTP2_INTERNAL_ERROR);
	}
	s->open = false;
	h2_no_stream(h);
}

/* -- the request's body ---------------------------------------------------------------------------------------- */

/* Its end is the stream's; nghttp2 holds it against the length that was announced. */
void h2_init_body(struct http_req *r)
{
	bool has_body = h2_of(r->conn)->has_body;

	if (has_body && !http_req_header(r, "Content-Length"))
		r->head.body_length = HTTP_LENGTH_CHUNKED;
	http_body_init(&r->body, has_body ? HTTP_LENGTH_UNTIL_CLOSE : 0);
}

bool h2_body_came(const struct http_conn *c)
{
	return h2_of(c)->body_came;
}

void h2_body_used(struct http_conn *c, size_t len)
{
	struct h2_stream *s = h2_of(c);

	if (!len || !s->open)
		return;
	nghttp2_session_consume_stream(c->wire->h2->session, s->id, len);
	h2_wake(c->wire->h2);
}

/* Clients that are still sending when their stream is reset may lose the answer: as over a connection of HTTP/1.1, some more is
 * read and thrown away. */
bool h2_may_linger(struct http_conn *c)
{
	struct h2_stream *s = h2_of(c);

	h2_body_used(c, c->in.len);
	return s->open && !s->body_came;
}

void h2_drop_body(struct h2_stream *s, size_t len)
{
	if (!s)
		return;
	s->conn.drained += len;
	if (s->conn.drained > HTTP_LINGER_BYTES)
		conn_break(&s->conn);
}

/* Somebody wants it: 100 where the peer waits for that, and more room than for a body that nobody may want. */
void h2_want_body(struct http_req *r)
{
	static const nghttp2_nv go_on = { (uint8_t *)":status", (uint8_t *)"100", 7, 3, NGHTTP2_NV_FLAG_NONE };
	struct h2_stream *s = h2_of(r->conn);
	nghttp2_session *session = r->conn->wire->h2->session;

	if (!s->open || s->body_came)
		return;
	nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, s->id, H2_BODY_WINDOW);
	if (r->expect && r->reply == REPLY_NONE)
		s->heads += nghttp2_submit_headers(session, NGHTTP2_FLAG_NONE, s->id, NULL, &go_on, 1, NULL) == 0;
	h2_wake(r->conn->wire->h2);
}

/* -- the answer's head ----------------------------------------------------------------------------------------- */

static void put_field(nghttp2_nv *to, char *name, size_t name_len, const char *value, size_t value_len)
{
	for (size_t i = 0; i < name_len; i++)
		name[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] | 0x20) : name[i];
	*to = (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, name_len, value_len, NGHTTP2_NV_FLAG_NONE };
}

static void put_own(nghttp2_nv *fields, size_t *n, const char *name, const char *value)
{
	fields[(*n)++] = (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

/* "Name: value\r\n" at p, as http_reply_header() wrote it; false for what means nothing in HTTP/2, or may not be there. */
static bool put_line(nghttp2_nv *to, char *p, char *end)
{
	char *colon = memchr(p, ':', (size_t)(end - p)), *value = colon + 2;

	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*colon = '\0';
	put_field(to, p, (size_t)(colon - p), value, (size_t)(end - value));
	return !http_is_hop_by_hop(p) && nghttp2_check_header_name(to->name, to->namelen) &&
	       nghttp2_check_header_value(to->value, to->valuelen);
}

static void put_lines(nghttp2_nv *fields, size_t *n, char *lines, size_t len)
{
	for (char *p = lines, *nl; p < lines + len; p = nl + 1) {
		nl = memchr(p, '\n', (size_t)(lines + len - p));
		*n += put_line(&fields[*n], p, nl - 1);
	}
}

static size_t count_lines(const struct buf *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->len; i++)
		n += b->data[i] == '\n';
	return n;
}

static int submit(struct h2_stream *s, const nghttp2_nv *fields, size_t n, bool has_body)
{
	const nghttp2_data_provider body = { .read_callback = h2_read_body };
	struct http2 *h = s->conn.wire->h2;
	int r = s->open ? nghttp2_submit_response(h->session, s->id, fields, n, has_body ? &body : NULL) : -1;

	s->heads += r == 0;
	h2_wake(h);
	return r;
}

int h2_put_head(struct http_req *r, int status, const char *content_type, int64_t content_length, bool has_body)
{
	nghttp2_nv *fields = http_req_alloc(r, (OWN_FIELDS + count_lines(&r->extra)) * sizeof(*fields));
	char code[24], length[24];
	size_t n = 0;

	*str_put_u64(code, (uint64_t)status) = '\0';
	put_own(fields, &n, ":status", code);
	put_own(fields, &n, "date", server_date(r->conn->server));
	if (content_type)
		put_own(fields, &n, "content-type", content_type);
	if (content_length >= 0) {
		*str_put_u64(length, (uint64_t)content_length) = '\0';
		put_own(fields, &n, "content-length", length);
	}
	put_lines(fields, &n, r->extra.data, r->extra.len);
	return submit(h2_of(r->conn), fields, n, has_body);
}

void h2_refuse(struct http_conn *c, int status, const struct buf *json)
{
	struct h2_stream *s = h2_of(c);
	nghttp2_nv fields[OWN_FIELDS + 1];
	char code[24], length[24];
	size_t n = 0;

	*str_put_u64(code, (uint64_t)status) = '\0';
	*str_put_u64(length, json->len) = '\0';
	put_own(fields, &n, ":status", code);
	put_own(fields, &n, "date", server_date(c->server));
	put_own(fields, &n, "content-type", "application/json");
	put_own(fields, &n, "content-length", length);
	if (status == 405)
		put_own(fields, &n, "allow", HTTP_METHODS_ALLOWED);
	s->last = true;
	c->failed = c->failed || submit(s, fields, n, true) < 0;
}

/* -- its body -------------------------------------------------------------------------------------------------- */

ssize_t h2_read_body(nghttp2_session *session, int32_t id, uint8_t *buf UNUSED, size_t length, uint32_t *flags,
		     nghttp2_data_source *source UNUSED, void *arg UNUSED)
{
	struct h2_stream *s = h2_stream_of(session, id);
	size_t n;

	if (!s)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	n = MIN(length, s->conn.out.len);
	s->deferred = n == 0 && !s->last;
	if (s->deferred)
		return NGHTTP2_ERR_DEFERRED;
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (s->last && n == s->conn.out.len)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static void note_wire(struct h2_stream *s, bool last)
{
	uint64_t at = conn_offset(s->conn.wire);

	wire_log_add(&s->log, s->conn.sent, at, true);
	if (last)
		s->fin_at = at;
}

/* No frame of ours is padded. */
int h2_send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
		 nghttp2_data_source *source UNUSED, void *arg)
{
	struct h2_stream *s = h2_stream_of(session, frame->hd.stream_id);
	struct http2 *h = arg;
	struct http_conn *wire = h->conn, *c = &s->conn;

	conn_queue(wire, head, FRAME_HEAD);
	conn_queue(wire, c->out.data, length);
	buf_consume(&c->out, length);
	c->sent += length;
	c->write_ms = loop_now_ms(c->server->loop);
	note_wire(s, frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
	h2_guard_sent(&h->guard, length);
	if (c->req && c->req->want_drain)
		conn_mark_dirty(c);
	return wire->out.len < H2_OUT_BYTES ? 0 : NGHTTP2_ERR_PAUSE;
}

void h2_head_sent(struct h2_stream *s, bool last)
{
	s->heads -= s->heads > 0;
	s->conn.sent++;
	note_wire(s, last);
}

void h2_head_queued(struct h2_stream *s)
{
	uint64_t at = conn_offset(s->conn.wire);

	s->log.at[s->log.n - 1].wire = at;
	if (s->fin_at)
		s->fin_at = at;
}

void h2_push(struct http_conn *c)
{
	struct h2_stream *s = h2_of(c);

	s->last = s->last || (c->req && c->req->reply == REPLY_ENDED);
	if (!s->open || !s->deferred || (!c->out.len && !s->last))
		return;
	s->deferred = false;
	if (nghttp2_session_resume_data(c->wire->h2->session, s->id) < 0)
		c->failed = true;
	h2_wake(c->wire->h2);
}

/* -- offsets --------------------------------------------------------------------------------------------------- */

bool h2_all_sent(const struct http_conn *c)
{
	const struct h2_stream *s = h2_of(c);

	return s->fin_at && s->fin_at <= c->wire->sent;
}

size_t h2_heads(const struct http_conn *c)
{
	return h2_of(c)->heads;
}

uint64_t h2_on_wire(const struct http_conn *c, uint64_t offset)
{
	return wire_log_find(&h2_of(c)->log, offset);
}
