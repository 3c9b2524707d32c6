/* http/sse.c: server-sent events over a streamed answer. */
#include "http/sse.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "http/private.h"
#include "http/sse_split.h"

#define FILL_BYTES 16384

struct sse {
	struct http_req *req;
	struct loop_timer heartbeat;
	struct loop_timer again; /* runs after fill() said -EAGAIN */
	bool ended;
	struct sse_split split; /* while fill is set */
	sse_fill_fn *fill;
	loop_fn *done;
	void *arg;
	bool filled;    /* fill() has given 0 */
	char *copy;     /* sse_result(): what copy_fill() reads */
	size_t copy_len, copy_pos;
};

/* -- plain events ---------------------------------------------------------------------------------------------- */

static void on_heartbeat(struct loop_timer *t, void *arg)
{
	struct sse *s = arg;

	/* With output waiting the peer has something to read, or is gone and the write stall will tell. */
	if (http_reply_queued(s->req) == 0)
		sse_comment(s, "ping");
	loop_timer_start(t, SSE_HEARTBEAT_MS);
}

static void on_drain(struct http_req *req, void *arg);
static void on_again(struct loop_timer *t, void *arg);
static void on_close(struct http_req *req, bool complete, void *arg);

struct sse *sse_start(struct http_req *req)
{
	struct sse *s = http_req_alloc(req, sizeof(*s));

	*s = (struct sse){ .req = req };
	req->ends_on_rdhup = true;
	req_on_private_close(req, on_close, s);
	http_reply_on_drain(req, on_drain, s);
	http_reply_header(req, "Cache-Control", "no-cache");
	http_reply_header(req, "X-Accel-Buffering", "no"); /* nginx would hold events back */
	http_reply_start(req, 200, "text/event-stream", -1);
	loop_timer_init(&s->again, http_req_loop(req), on_again, s);
	loop_timer_init(&s->heartbeat, http_req_loop(req), on_heartbeat, s);
	loop_timer_start(&s->heartbeat, SSE_HEARTBEAT_MS);
	return s;
}

bool sse_event(struct sse *s, const char *event, const char *data, size_t len)
{
	auto_buf struct buf b = { 0 };

	if (s->ended)
		return false;
	/* One write, hence one chunk: readers get whole events. */
	buf_init(&b, BUF_UNLIMITED);
	if (buf_printf(&b, "event: %s\ndata: ", event) < 0 || buf_append(&b, data, len) < 0 || buf_puts(&b, "\n\n") < 0)
		return false;
	return http_reply_write(s->req, b.data, b.len);
}

/* Appends text with line ends made blanks. */
static int append_line(struct buf *b, const char *text)
{
	size_t len = strnlen(text, SSE_PIECE_MAX);
	char *to;
	int r = buf_reserve(b, len, &to);

	if (r < 0)
		return r;
	for (size_t i = 0; i < len; i++)
		to[i] = text[i] == '\n' || text[i] == '\r' ? ' ' : text[i];
	buf_commit(b, len);
	return 0;
}

void sse_comment(struct sse *s, const char *text)
{
	auto_buf struct buf b = { 0 };

	if (s->ended)
		return;
	buf_init(&b, BUF_UNLIMITED);
	if (buf_puts(&b, ": ") == 0 && append_line(&b, text) == 0 && buf_puts(&b, "\n\n") == 0)
		http_reply_write(s->req, b.data, b.len);
}

/* -- ends ------------------------------------------------------------------------------------------------------ */

static void stop(struct sse *s)
{
	loop_fn *done = s->done;

	loop_timer_stop(&s->heartbeat);
	loop_timer_stop(&s->again);
	s->ended = true;
	if (s->fill)
		sse_split_done(&s->split);
	s->fill = NULL;
	s->done = NULL;
	free(s->copy);
	s->copy = NULL;
	if (done)
		done(s->arg);
}

static void on_close(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	stop(arg);
}

static void end_answer(struct sse *s)
{
	http_reply_end(s->req);
	stop(s);
}

void sse_error(struct sse *s, const char *text)
{
	auto_buf struct buf line = { 0 };

	if (s->ended)
		return;
	buf_init(&line, BUF_UNLIMITED);
	if (append_line(&line, text) == 0)
		sse_event(s, "error", line.data, line.len);
	end_answer(s);
}

/* -- results --------------------------------------------------------------------------------------------------- */

static void fail_fill(struct sse *s, ssize_t code)
{
	sse_error(s, strerror((int)-code));
}

/* Gets more text. False when fill() failed, which has ended the answer, or gives none in this turn. */
static bool feed(struct sse *s)
{
	char p[FILL_BYTES];
	ssize_t n;

	while (!s->filled && sse_split_hungry(&s->split)) {
		n = s->fill(s->arg, p, sizeof(p));
		if (n == -EAGAIN) {
			loop_timer_start(&s->again, 0);
			return false;
		}
		if (n < 0) {
			fail_fill(s, n);
			return false;
		}
		s->filled = n == 0;
		sse_split_add(&s->split, p, (size_t)n);
	}
	return true;
}

/* Sends pieces until the queue is full (on_drain() calls again) or the text has ended. */
static void pump(struct sse *s)
{
	bool last = false, room = true;

	while (room && s->fill && feed(s)) {
		size_t n = sse_split_next(&s->split, s->filled, &last);

		room = sse_event(s, last ? "end" : "chunk", s->split.text.data, n);
		sse_split_take(&s->split, n);
		if (last) {
			end_answer(s);
			return;
		}
	}
}

static void on_drain(struct http_req *req UNUSED, void *arg)
{
	struct sse *s = arg;

	if (s->fill && !s->ended)
		pump(s);
}

static void on_again(struct loop_timer *t UNUSED, void *arg)
{
	struct sse *s = arg;

	if (s->fill && !s->ended)
		pump(s);
}

void sse_result_from(struct sse *s, sse_fill_fn *fill, loop_fn *done, void *arg)
{
	if (s->ended || s->fill) {
		if (done)
			loop_defer(http_req_loop(s->req), done, arg);
		return;
	}
	sse_split_init(&s->split);
	s->fill = fill;
	s->done = done;
	s->arg = arg;
	http_reply_on_drain(s->req, on_drain, s); /* whatever the caller used it for until now */
	/* The first call comes from the loop, like the others. */
	s->req->want_drain = true;
	conn_mark_dirty(s->req->conn);
}

static ssize_t copy_fill(void *arg, char *p, size_t cap)
{
	struct sse *s = arg;
	size_t n = MIN(cap, s->copy_len - s->copy_pos);

	memcpy(p, s->copy + s->copy_pos, n);
	s->copy_pos += n;
	return (ssize_t)n;
}

static bool fits_one_piece(const char *json, size_t len)
{
	if (len == 0)
		return true;
	return len <= SSE_PIECE_MAX && *json > ' ' && !memchr(json, '\n', len) && !memchr(json, '\r', len);
}

void sse_result(struct sse *s, const char *json, size_t len)
{
	if (s->ended || s->fill)
		return;
	if (fits_one_piece(json, len)) { /* nearly all of them */
		sse_event(s, "end", json, len);
		end_answer(s);
		return;
	}
	s->copy = xmemdup(json, len);
	s->copy_len = len;
	sse_result_from(s, copy_fill, NULL, s);
}
