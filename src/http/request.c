/* http/request.c: a request: its memory, its parts, its body. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/str.h"
#include "http/private.h"

/* -- memory ---------------------------------------------------------------------------------------------------- */

struct arena_block {
	struct arena_block *next;
	size_t used, cap;
	_Alignas(16) char data[];
};

#define ARENA_SPARE_BYTES 512 /* in the first block, for what handlers allocate */
#define ARENA_BLOCK_BYTES 4096

static struct arena_block *block_new(struct arena_block *next, size_t cap)
{
	struct arena_block *b = xmalloc(sizeof(*b) + cap);

	*b = (struct arena_block){ .next = next, .cap = cap };
	return b;
}

static void *block_take(struct arena_block *b, size_t size)
{
	void *p = b->data + b->used;

	b->used += (size + 15) & ~(size_t)15;
	return p;
}

void *http_req_alloc(struct http_req *r, size_t size)
{
	size_t need = (size + 15) & ~(size_t)15;

	if (need > r->arena->cap - r->arena->used)
		r->arena = block_new(r->arena, MAX(need, (size_t)ARENA_BLOCK_BYTES));
	return block_take(r->arena, size);
}

static char *req_strndup(struct http_req *r, const char *s, size_t len)
{
	char *p = http_req_alloc(r, len + 1);

	memcpy(p, s, len);
	p[len] = '\0';
	return p;
}

static void arena_free(void *newest)
{
	struct arena_block *b = newest;

	while (b) {
		struct arena_block *next = b->next;
		free(b);
		b = next;
	}
}

/* -- the target ------------------------------------------------------------------------------------------------ */

static int refuse(struct http_refusal *why, const char *text)
{
	*why = (struct http_refusal){ 400, text };
	return -EBADMSG;
}

/* The authority of an absolute target is the host (RFC 9112, 3.2.2): whatever Host says is replaced. */
static void set_host(struct http_req *r, const char *host)
{
	struct http_head *h = &r->head;

	for (size_t i = 0; i < h->n_headers; i++)
		if (!strcasecmp(h->headers[i].name, "Host")) {
			h->headers[i].value = host;
			return;
		}
	/* There is a slot: slots are counted with the request line. */
	h->headers[h->n_headers++] = (struct http_header){ "Host", host };
}

/* "http://HOST[/...]": the rest is at *ret_rest. */
static int take_authority(struct http_req *r, const char **ret_rest, struct http_refusal *why)
{
	const char *t = r->head.target;
	size_t scheme = !strncasecmp(t, "http://", 7) ? 7 : !strncasecmp(t, "https://", 8) ? 8 : 0;
	size_t len;

	if (!scheme)
		return refuse(why, "the request target is neither a path nor an http address");
	len = strcspn(t + scheme, "/?");
	if (!len || memchr(t + scheme, '@', len) || memchr(t + scheme, ',', len))
		return refuse(why, "the request target has no valid host");
	set_host(r, req_strndup(r, t + scheme, len));
	*ret_rest = t + scheme + len;
	return 0;
}

/* Copies the path with runs of '/' made one. */
static char *clean_path(struct http_req *r, const char *p, size_t len)
{
	char *path = http_req_alloc(r, len + 2), *to = path;

	if (!len || *p != '/')
		*to++ = '/';
	for (size_t i = 0; i < len; i++)
		if (p[i] != '/' || i == 0 || p[i - 1] != '/')
			*to++ = p[i];
	*to = '\0';
	return path;
}

static int split_target(struct http_req *r, struct http_refusal *why)
{
	const char *t = r->head.target, *q;
	int rc;

	r->query = "";
	if (!strcmp(t, "*") && !strcmp(r->head.method, "OPTIONS")) {
		r->path = r->head.target;
		return 0;
	}
	if (*t != '/') {
		rc = take_authority(r, &t, why);
		if (rc < 0)
			return rc;
	}
	q = strchr(t, '?');
	r->path = clean_path(r, t, q ? (size_t)(q - t) : strlen(t));
	if (q)
		r->query = q + 1;
	return 0;
}

/* -- life ------------------------------------------------------------------------------------------------------ */

static int req_parse(struct http_req *r, const char *p, size_t len, size_t n_lines, struct http_refusal *why)
{
	char *block = http_req_alloc(r, len + 1);
	struct http_header *slots = http_req_alloc(r, n_lines * sizeof(*slots));
	int rc;

	memcpy(block, p, len);
	rc = http_head_parse(&r->head, HTTP_SIDE_REQUEST, block, len, slots, why);
	return rc < 0 ? rc : split_target(r, why);
}

struct http_req *req_new(struct http_conn *c, const char *p, size_t len, size_t n_lines, struct http_refusal *why)
{
	/* One allocation holds the request, its header section twice (the path is a copy) and a little more. */
	size_t size = sizeof(struct http_req) + 2 * len + n_lines * sizeof(struct http_header) + ARENA_SPARE_BYTES;
	struct arena_block *b = block_new(NULL, size);
	struct http_req *r = block_take(b, sizeof(*r));

	*r = (struct http_req){ .conn = c, .arena = b };
	if (req_parse(r, p, len, n_lines, why) < 0) {
		arena_free(r->arena);
		return NULL;
	}
	r->expect = r->head.expect_continue;
	r->base = conn_offset(c);
	if (c->wire)
		h2_init_body(r);
	else
		http_body_init(&r->body, r->head.body_length);
	buf_init(&r->whole, BUF_UNLIMITED); /* take_whole() bounds it, to answer 413 itself */
	buf_init(&r->extra, 64 << 10);
	return r;
}

void req_free(struct http_req *r, bool complete)
{
	if (r->private_close_fn)
		r->private_close_fn(r, complete, r->private_close_arg);
	if (r->close_fn)
		r->close_fn(r, complete, r->close_arg);
	buf_done(&r->whole);
	buf_done(&r->extra);
	/* A connection may be broken inside a callback of its own request (by http_server_free): who called that callback
	 * still looks at the request. A complete one is only ever freed by conn_advance(). */
	if (complete)
		arena_free(r->arena);
	else
		loop_release(r->conn->server->loop, arena_free, r->arena);
}

void http_req_on_close(struct http_req *r, http_close_fn *fn, void *arg)
{
	r->close_fn = fn;
	r->close_arg = arg;
}

http_close_fn *http_req_close_fn(const struct http_req *r, void **ret_arg)
{
	*ret_arg = r->close_arg;
	return r->close_fn;
}

void http_req_watch_peer(struct http_req *r)
{
	r->ends_on_rdhup = true;
	if (r->conn->eof) /* no event tells of it once more */
		conn_mark_dirty(r->conn);
}

void req_on_private_close(struct http_req *r, http_close_fn *fn, void *arg)
{
	r->private_close_fn = fn;
	r->private_close_arg = arg;
}

/* -- parts ----------------------------------------------------------------------------------------------------- */

const char *http_req_method(const struct http_req *r)
{
	return r->head.method;
}

const char *http_req_target(const struct http_req *r)
{
	return r->head.target;
}

const char *http_req_path(const struct http_req *r)
{
	return r->path;
}

const char *http_req_raw_query(const struct http_req *r)
{
	return r->query;
}

const char *http_req_header(const struct http_req *r, const char *name)
{
	return http_header_find(r->head.headers, r->head.n_headers, name);
}

size_t http_req_n_headers(const struct http_req *r)
{
	return r->head.n_headers;
}

const struct http_header *http_req_header_at(const struct http_req *r, size_t i)
{
	return i < r->head.n_headers ? &r->head.headers[i] : NULL;
}

int64_t http_req_content_length(const struct http_req *r)
{
	return r->head.body_length;
}

uint64_t http_req_tag(const struct http_req *r)
{
	return r->conn->tag;
}

struct loop *http_req_loop(const struct http_req *r)
{
	return r->conn->server->loop;
}

void http_req_set_caller(struct http_req *r, void *caller)
{
	r->caller = caller;
}

void http_req_on_answer(struct http_req *r, http_answer_fn *fn, void *arg)
{
	r->answer_fn = fn;
	r->answer_arg = arg;
}

void *http_req_caller(const struct http_req *r)
{
	return r->caller;
}

/* Decodes into the request's memory; NULL for a bad escape. */
static const char *decode(struct http_req *r, const char *s, size_t len)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, len + 1);
	if (str_percent_decode(&b, s, len, true) < 0)
		return NULL;
	return req_strndup(r, b.data, b.len);
}

static bool query_name_is(struct http_req *r, const char *s, size_t len, const char *name)
{
	const char *got;

	if (!memchr(s, '%', len) && !memchr(s, '+', len))
		return strlen(name) == len && !memcmp(s, name, len);
	got = decode(r, s, len);
	return got && !strcmp(got, name);
}

const char *http_req_query(struct http_req *r, const char *name)
{
	for (const char *p = r->query; *p; p += *p == '&') {
		size_t len = strcspn(p, "&"), key = strcspn(p, "=&");

		if (len && query_name_is(r, p, key, name)) {
			const char *value = key < len ? decode(r, p + key + 1, len - key - 1) : "";
			return value ? value : "";
		}
		p += len;
	}
	return NULL;
}

void req_set_params(struct http_req *r, const struct http_param *params, size_t n)
{
	r->params = params;
	r->n_params = n;
}

const char *http_req_param(const struct http_req *r, const char *name)
{
	for (size_t i = 0; i < r->n_params; i++)
		if (!strcmp(r->params[i].name, name))
			return r->params[i].value;
	return NULL;
}

/* -- the body -------------------------------------------------------------------------------------------------- */

static void ask_for_body(struct http_req *r, enum body_mode mode, http_body_fn *fn, void *arg)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct http_conn *c = r->conn;

	if (r->body_mode != BODY_UNASKED || r->reply == REPLY_ENDED)
		return;
	r->body_mode = mode;
	r->body_fn = fn;
	r->body_arg = arg;
	c->read_ms = loop_now_ms(c->server->loop);
	if (c->wire)
		h2_want_body(r);
	else if (r->expect && r->reply == REPLY_NONE)
		conn_queue(c, go_on, sizeof(go_on) - 1);
	r->expect = r->expect && r->reply != REPLY_NONE;
	conn_mark_dirty(c);
}

static void refuse_length(struct http_req *r)
{
	char why[96];

	snprintf(why, sizeof(why), "the body of the request is too large: expected at most %zu bytes", r->body_max);
	req_fail(r, 413, why);
}

void http_req_body(struct http_req *r, size_t max_bytes, http_body_fn *fn, void *arg)
{
	r->body_max = max_bytes ? max_bytes : r->conn->server->limits.body_bytes;
	if (r->head.body_length > 0 && (uint64_t)r->head.body_length > r->body_max) {
		refuse_length(r);
		return;
	}
	ask_for_body(r, BODY_WHOLE, fn, arg);
}

void http_req_stream(struct http_req *r, http_body_fn *fn, void *arg)
{
	ask_for_body(r, BODY_STREAM, fn, arg);
}

void http_req_pause(struct http_req *r)
{
	r->body_paused = r->body_mode != BODY_DRAIN;
	conn_mark_dirty(r->conn);
}

void http_req_resume(struct http_req *r)
{
	if (!r->body_paused)
		return;
	r->body_paused = false;
	r->conn->read_ms = loop_now_ms(r->conn->server->loop);
	conn_mark_dirty(r->conn);
}

void req_fail(struct http_req *r, int status, const char *why)
{
	r->close_after = true;
	if (r->reply == REPLY_NONE)
		http_reply_error(r, status, "%s", why);
	else if (r->reply == REPLY_STARTED)
		http_req_abort(r);
	else
		r->body_mode = BODY_UNASKED; /* its answer is on its way: nobody waits for the rest */
}

/* Growing step by step would copy a long body several times. What is announced counts up to four times what has arrived: a
 * length is only a promise. */
static void make_room(struct http_req *r, size_t len)
{
	size_t have = r->whole.len + len;
	char *at;

	if (r->head.body_length <= 0 || have <= r->whole_room)
		return;
	r->whole_room = (size_t)MIN((uint64_t)r->head.body_length, (uint64_t)have * 4);
	if (r->whole_room > r->whole.len && buf_reserve(&r->whole, r->whole_room - r->whole.len, &at) < 0)
		r->whole_room = 0; /* appending will say so */
}

char *http_req_take_body(struct http_req *r, size_t *ret_len)
{
	return buf_steal(&r->whole, ret_len);
}

static void take_whole(struct http_req *r, const struct http_body_piece *piece)
{
	/* Grows with what has arrived, not with what was announced: a length is only a promise. */
	if (piece->len > r->body_max - r->whole.len) {
		refuse_length(r);
		return;
	}
	make_room(r, piece->len);
	if (piece->len && buf_append(&r->whole, piece->data, piece->len) < 0)
		req_fail(r, 500, "the body of the request could not be kept");
}

static void take_piece(struct http_req *r, const struct http_body_piece *piece)
{
	if (r->body_mode == BODY_DRAIN) {
		r->conn->drained += piece->len;
		r->close_after = r->close_after || r->conn->drained > HTTP_DRAIN_BYTES;
	} else if (r->body_mode == BODY_WHOLE) {
		take_whole(r, piece);
	} else if (piece->len) {
		r->body_fn(r, piece->data, piece->len, r->body_arg);
	}
}

/* The callback may end the answer, which turns the mode into BODY_DRAIN, but it cannot end the request. */
static void tell_end(struct http_req *r)
{
	if (r->reply == REPLY_ENDED)
		return;
	if (r->body_mode == BODY_WHOLE)
		r->body_fn(r, r->whole.data, r->whole.len, r->body_arg);
	else if (r->body_mode == BODY_STREAM)
		r->body_fn(r, NULL, 0, r->body_arg);
}

bool req_eat(struct http_req *r)
{
	struct http_conn *c = r->conn;
	struct http_body_piece piece;
	struct http_refusal why;

	if (r->body_done || r->body_mode == BODY_UNASKED || r->body_paused)
		return false;
	if (http_body_next(&r->body, c->rd, c->rd_len, &piece, &why) < 0) {
		r->body_mode = BODY_UNASKED; /* no byte after this one means anything */
		req_fail(r, why.status, why.why);
		return true;
	}
	c->rd += piece.used;
	c->rd_len -= piece.used;
	if (c->wire) {
		h2_body_used(c, piece.used);
		piece.end = piece.end || (c->rd_len == 0 && h2_body_came(c));
	}
	take_piece(r, &piece);
	if (c->req != r)
		return true;
	if (piece.end && !r->body_paused) {
		r->body_done = true;
		tell_end(r);
	}
	return piece.used || piece.end;
}
