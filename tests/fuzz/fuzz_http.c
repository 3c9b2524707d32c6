/* The HTTP codec. The first byte chooses the side and where the input is cut. What is accepted whole must be accepted,
 * with the same meaning, when it comes in two pieces or byte by byte; what is refused must be refused either way. Also
 * here: what http_head_parse() gives holds no byte that could start another message. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exact.h"
#include "http/parse.h"
#include "http/sse.h"
#include "http/sse_split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
	int verdict; /* -1 refused, 0 incomplete, 1 complete header section, 2 complete message */
	struct http_head head;
	char *block;
	struct http_header *slots;
	struct buf body;
	size_t used;
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_head(const struct http_head *h, enum http_side side)
{
	for (size_t i = 0; i < h->n_headers; i++) {
		check(h->headers[i].name[strcspn(h->headers[i].name, " \t\r\n:")] == '\0' && *h->headers[i].name);
		check(h->headers[i].value[strcspn(h->headers[i].value, "\r\n")] == '\0');
	}
	check(h->minor == 0 || h->minor == 1);
	if (side == HTTP_SIDE_REQUEST) {
		check(*h->target && !h->target[strcspn(h->target, " \t\r\n#")]);
		check(h->body_length >= HTTP_LENGTH_CHUNKED);
	}
}

/* Feeds p[0..len) as if `step` bytes came at a time, each look at memory of which no more is there. */
static void feed_body(struct outcome *o, const char *p, size_t len, size_t step)
{
	struct http_body_piece piece = { 0 };
	struct http_refusal why;
	struct http_body b;
	size_t end = o->used;

	http_body_init(&b, o->head.body_length);
	do {
		end = MIN(len, MAX(end, o->used + step));
		exact_until(p, len, end);
		if (http_body_next(&b, p + o->used, end - o->used, &piece, &why) < 0) {
			o->verdict = -1;
			return;
		}
		check(piece.used <= end - o->used && piece.len <= piece.used);
		check(buf_append(&o->body, piece.data ? piece.data : "", piece.len) == 0);
		o->used += piece.used;
	} while (!piece.end && o->used < len);
	o->verdict = piece.end ? 2 : 1;
}

static void run(struct outcome *o, enum http_side side, const char *p, size_t len, size_t step)
{
	struct http_head_scan scan = { 0 };
	struct http_refusal why = { 0 };
	struct http_limits limits;
	size_t end = 0, at = 0;
	int r = 0;

	*o = (struct outcome){ 0 };
	buf_init(&o->body, BUF_UNLIMITED);
	http_limits_default(&limits);
	limits.header_bytes = 4096;
	while (r == 0 && at < len) {
		at = MIN(len, at + step);
		exact_until(p, len, at);
		r = http_head_find(&scan, side, p, at, &limits, &end, &why);
	}
	o->verdict = r;
	if (r <= 0)
		return;
	o->block = xmalloc(end - scan.start + 1);
	o->slots = xcalloc(scan.n_lines, sizeof(*o->slots));
	memcpy(o->block, p + scan.start, end - scan.start);
	o->used = end;
	if (http_head_parse(&o->head, side, o->block, end - scan.start, o->slots, &why) < 0) {
		check(why.status >= 400 && why.why);
		o->verdict = -1;
		return;
	}
	check_head(&o->head, side);
	feed_body(o, p, len, step);
}

static void done(struct outcome *o)
{
	free(o->block);
	free(o->slots);
	buf_done(&o->body);
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
	check(a->verdict == b->verdict);
	if (a->verdict < 1)
		return;
	check(a->used == b->used && a->head.body_length == b->head.body_length);
	check(a->head.n_headers == b->head.n_headers && a->head.keep_alive == b->head.keep_alive);
	check(a->body.len == b->body.len && !memcmp(a->body.data, b->body.data, a->body.len));
}

static void split_events(const char *p, size_t len)
{
	struct sse_split s;
	bool last = false;

	sse_split_init(&s);
	sse_split_add(&s, p, MIN(len, (size_t)SSE_SPLIT_MAX / 2));
	while (!last) {
		size_t n = sse_split_next(&s, true, &last);
		check(n <= SSE_PIECE_MAX && (n > 0 || last));
		sse_split_take(&s, n);
	}
	sse_split_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome whole, cut, bytes;

	if (size < 2 || size > 20000)
		return 0;
	auto_free char *p = xmemdup(data + 1, size - 1);
	enum http_side side = data[0] & 1 ? HTTP_SIDE_RESPONSE : HTTP_SIDE_REQUEST;
	run(&whole, side, p, size - 1, size);
	run(&cut, side, p, size - 1, 1 + (data[0] >> 1));
	run(&bytes, side, p, size - 1, 1);
	check_same(&whole, &cut);
	check_same(&whole, &bytes);
	done(&whole);
	done(&cut);
	done(&bytes);
	exact_until(p, size - 1, size - 1);
	split_events(p, size - 1);
	return 0;
}
