/* http/reply.c: answers: the header section, framing, streaming. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"
#include "base/mem.h"
#include "http/private.h"
#include "json/json.h"

#define EXTRA_BYTES 512 /* of headers, expected */
#define HEAD_BYTES 512  /* more than put_head() writes of its own */
#define BODY_BYTES 1024 /* expected behind a header section, in the same piece */

/* -- headers --------------------------------------------------------------------------------------------------- */

/* Headers that this file decides on. */
static bool is_ours(const char *name)
{
	switch (*name | 0x20) {
	case 'c':
		return str_ieq(name, "Content-Length");
	case 'd':
		return str_ieq(name, "Date");
	case 'k':
		return str_ieq(name, "Keep-Alive");
	case 't':
		return str_ieq(name, "Transfer-Encoding");
	default:
		return false;
	}
}

/* Without the bytes that could end a line. */
static char *put_clean(char *to, const char *s)
{
	for (; *s; s++)
		if (*s != '\r' && *s != '\n')
			*to++ = *s;
	return to;
}

static bool is_name(const char *s)
{
	for (; *s; s++)
		if (*s == ':' || *s == ' ' || *s == '\t' || *s == '\r' || *s == '\n')
			return false;
	return true;
}

void http_reply_header(struct http_req *r, const char *name, const char *value)
{
	size_t room = strlen(name) + strlen(value) + 4;
	char *to, *end;

	if (is_ours(name) || !is_name(name) || r->reply != REPLY_NONE)
		return;
	if (str_ieq(name, "Connection")) {
		r->close_after = r->close_after || str_ieq(value, "close");
		return;
	}
	/* The first one makes room for the usual number. One too many is left out whole. */
	if (buf_reserve(&r->extra, r->extra.len ? room : MAX(room, (size_t)EXTRA_BYTES), &to) < 0)
		return;
	end = str_put(put_clean(str_put(str_put(to, name), ": "), value), "\r\n");
	buf_commit(&r->extra, (size_t)(end - to));
}

static bool forbids_body(const struct http_req *r, int status)
{
	return status < 200 || status == 204 || status == 304 || !strcmp(r->head.method, "HEAD");
}

/* A body that is still to come and that nobody will read ends the connection, when it is long, or when the peer waits
 * for a 100 that it will not get: then nobody can tell whether it will send it. */
static void decide_close(struct http_req *r)
{
	bool unasked = r->body_mode == BODY_UNASKED && r->head.body_length != 0;

	if (unasked && (r->expect || r->head.body_length > HTTP_DRAIN_BYTES))
		r->close_after = true;
	if (!r->head.keep_alive || r->conn->server->stopping)
		r->close_after = true;
}

/* Content-Length or its replacement. */
static char *put_framing(struct http_req *r, char *p, int status, int64_t content_length)
{
	bool no_body = forbids_body(r, status);

	r->framing = no_body ? FRAME_NO_BODY : FRAME_LENGTH;
	r->reply_left = content_length > 0 && !no_body ? (uint64_t)content_length : 0;
	if (status < 200 || status == 204 || (status == 304 && content_length <= 0))
		return p;
	if (content_length >= 0)
		return str_put(str_put_u64(str_put(p, "Content-Length: "), (uint64_t)content_length), "\r\n");
	if (r->head.minor >= 1) {
		r->framing = no_body ? FRAME_NO_BODY : FRAME_CHUNKED;
		return str_put(p, "Transfer-Encoding: chunked\r\n");
	}
	r->framing = no_body ? FRAME_NO_BODY : FRAME_UNTIL_CLOSE;
	r->close_after = true;
	return p;
}

static char *put_status(struct http_req *r, char *p, int status)
{
	p = str_put(str_put_u64(str_put(p, "HTTP/1.1 "), (uint64_t)status), " ");
	return str_put(str_put(str_put(str_put(p, http_reason(status)), "\r\nDate: "), server_date(r->conn->server)), "\r\n");
}

/* Into memory that is reserved once, together with what a short answer needs. */
static int put_head(struct http_req *r, struct buf *b, int status, const char *content_type, int64_t content_length)
{
	size_t room = HEAD_BYTES + BODY_BYTES + (content_type ? strlen(content_type) : 0) + r->extra.len;
	char *begin, *p;
	int e = buf_reserve(b, room, &begin);

	if (e < 0)
		return e;
	p = put_status(r, begin, status);
	if (content_type)
		p = str_put(str_put(str_put(p, "Content-Type: "), content_type), "\r\n");
	p = put_framing(r, p, status, content_length);
	if (r->close_after)
		p = str_put(p, "Connection: close\r\n");
	else if (r->head.minor == 0)
		p = str_put(p, "Connection: keep-alive\r\n");
	memcpy(p, r->extra.data, r->extra.len);
	p = str_put(p + r->extra.len, "\r\n");
	buf_commit(b, (size_t)(p - begin));
	return 0;
}

/* The head of a stream of HTTP/2. Its body's end is that of the stream. */
static int begin_stream(struct http_req *r, int status, const char *content_type, int64_t content_length)
{
	bool no_body = forbids_body(r, status), no_length = status < 200 || status == 204 || (status == 304 && content_length <= 0);

	r->framing = no_body ? FRAME_NO_BODY : content_length >= 0 ? FRAME_LENGTH : FRAME_UNTIL_CLOSE;
	r->reply_left = content_length > 0 && !no_body ? (uint64_t)content_length : 0;
	return h2_put_head(r, status, content_type, no_length ? -1 : content_length, !no_body && content_length != 0);
}

/* -- answers --------------------------------------------------------------------------------------------------- */

static void begin(struct http_req *r, int status, const char *content_type, int64_t content_length)
{
	struct http_conn *c = r->conn;

	decide_close(r);
	r->base = conn_offset(c);
	if (c->out.len == 0)
		c->write_ms = loop_now_ms(c->server->loop);
	if ((c->wire ? begin_stream(r, status, content_type, content_length) :
		       put_head(r, &c->out, status, content_type, content_length)) < 0)
		c->failed = true; /* of a stream that is gone; out has no maximum */
	buf_done(&r->extra);
	r->reply = REPLY_STARTED;
	if (r->answer_fn)
		r->answer_fn(status, r->answer_arg);
	conn_mark_dirty(c);
}

void http_reply_start(struct http_req *r, int status, const char *content_type, int64_t content_length)
{
	if (r->reply == REPLY_NONE)
		begin(r, status, content_type, content_length);
}

static void write_chunk(struct http_conn *c, const void *p, size_t len)
{
	char size[20];

	conn_queue(c, size, (size_t)(str_put(str_put_hex(size, len), "\r\n") - size));
	conn_queue_big(c, p, len);
	conn_queue(c, "\r\n", 2);
}

static void write_body(struct http_req *r, const void *p, size_t len)
{
	if (r->framing == FRAME_LENGTH) {
		len = MIN((uint64_t)len, r->reply_left); /* more than was announced would be read as the next answer */
		r->reply_left -= len;
	}
	if (len == 0 || r->framing == FRAME_NO_BODY)
		return;
	if (r->framing == FRAME_CHUNKED)
		write_chunk(r->conn, p, len);
	else
		conn_queue_big(r->conn, p, len);
}

bool http_reply_write(struct http_req *r, const void *p, size_t len)
{
	struct http_conn *c = r->conn;
	bool room;

	if (r->reply != REPLY_STARTED)
		return false;
	write_body(r, p, len);
	room = c->out.len < c->server->limits.high_water_bytes;
	r->want_drain = r->want_drain || !room;
	conn_mark_dirty(c);
	return room;
}

bool http_reply_splices(const struct http_req *r)
{
	/* splice(2) asks the socket's O_NONBLOCK, which whoever handed it over may have changed. */
	return r->reply == REPLY_STARTED && r->framing == FRAME_LENGTH && !r->conn->tls && !r->conn->wire && !r->conn->adopted;
}

size_t http_reply_splice(struct http_req *r, int pipe, size_t len)
{
	size_t n;

	if (!http_reply_splices(r))
		return 0;
	n = conn_splice(r->conn, pipe, MIN((uint64_t)len, r->reply_left));
	r->reply_left -= n;
	r->want_drain = r->want_drain || n < len;
	conn_mark_dirty(r->conn);
	return n;
}

void http_reply_on_drain(struct http_req *r, http_drain_fn *fn, void *arg)
{
	r->drain_fn = fn;
	r->drain_arg = arg;
}

size_t http_reply_queued(const struct http_req *r)
{
	return r->conn->out.len;
}

bool http_reply_started(const struct http_req *r)
{
	return r->reply != REPLY_NONE;
}

/* Nobody reads the body any more: what is left of it is in the way of the next request. */
static void drop_body(struct http_req *r)
{
	if (r->body_done)
		return;
	if (r->head.body_length == 0) {
		r->body_done = true;
		return;
	}
	r->body_mode = r->close_after ? BODY_UNASKED : BODY_DRAIN;
	r->body_paused = false;
	r->conn->drained = 0;
	r->conn->read_ms = loop_now_ms(r->conn->server->loop);
}

void http_reply_end(struct http_req *r)
{
	if (r->reply != REPLY_STARTED)
		return;
	if (r->framing == FRAME_LENGTH && r->reply_left) {
		http_req_abort(r); /* shorter than announced: only a broken connection can say so */
		return;
	}
	if (r->framing == FRAME_CHUNKED)
		conn_queue(r->conn, "0\r\n\r\n", 5);
	r->reply = REPLY_ENDED;
	drop_body(r);
	conn_mark_dirty(r->conn);
}

void http_req_abort(struct http_req *r)
{
	r->aborted = true;
	conn_mark_dirty(r->conn);
}

void http_reply(struct http_req *r, int status, const char *content_type, const void *body, size_t len)
{
	if (r->reply != REPLY_NONE)
		return;
	begin(r, status, content_type, (int64_t)len);
	if (body)
		write_body(r, body, len);
	http_reply_end(r);
}

void http_reply_json(struct http_req *r, int status, const struct buf *json)
{
	http_reply(r, status, "application/json", json->data, json->len);
}

static void reply_error_json(struct buf *ret, const char *text)
{
	struct json_writer w;

	json_write_begin(&w, ret);
	json_open_object(&w);
	json_kv_str(&w, "detail", text);
	json_kv_str(&w, "message", text);
	json_close(&w);
	if (json_write_end(&w) < 0)
		buf_clear(ret);
}

static void queue_refusal(struct http_conn *c, int status, size_t length)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
			 "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
			 "%sConnection: close\r\n\r\n",
			 status, http_reason(status), server_date(c->server), length,
			 status == 405 ? "Allow: " HTTP_METHODS_ALLOWED "\r\n" : "");

	conn_queue(c, head, (size_t)n);
}

void conn_refuse(struct http_conn *c, int status, const char *why)
{
	struct buf json;

	buf_init(&json, BUF_UNLIMITED);
	reply_error_json(&json, why);
	if (c->wire)
		h2_refuse(c, status, &json);
	else
		queue_refusal(c, status, json.len);
	conn_queue(c, json.data, json.len);
	buf_done(&json);
	c->server->stats.refused++;
	c->state = CONN_CLOSING;
	c->want_linger = true;
}

void http_reply_error(struct http_req *r, int status, const char *fmt, ...)
{
	auto_buf struct buf text = { 0 }, json = { 0 };
	va_list ap;

	buf_init(&text, BUF_UNLIMITED);
	buf_init(&json, BUF_UNLIMITED);
	va_start(ap, fmt);
	if (buf_vprintf(&text, fmt, ap) < 0)
		buf_clear(&text);
	va_end(ap);
	reply_error_json(&json, text.data);
	http_reply_json(r, status, &json);
}

/* -- offsets --------------------------------------------------------------------------------------------------- */

uint64_t http_reply_offset(const struct http_req *r)
{
	return r->reply == REPLY_NONE ? 0 : conn_offset(r->conn) - r->base;
}

bool http_reply_acked(const struct http_req *r, uint64_t offset)
{
	return r->reply != REPLY_NONE && conn_acked(r->conn, r->base + offset);
}

void http_reply_mark(struct http_req *r, uint64_t offset, uint32_t *word, uint32_t bits)
{
	r->mark_at = r->base + offset;
	r->mark = word;
	r->mark_bits = bits;
	conn_mark(r->conn);
}
