/* http/h2_head.c: header fields of HTTP/2 as a header section of HTTP/1.1. */
#include "http/h2_head.h"

#include <string.h>

#include "base/macros.h"
#include "base/mem.h"

#define KEPT_BYTES 4096    /* of memory, between two blocks */
#define LINE_BYTES 4       /* of a line beside its name and value */

void h2_head_init(struct h2_head *h, size_t max_bytes)
{
	*h = (struct h2_head){ .max = max_bytes };
	buf_init(&h->text, max_bytes + LINE_BYTES);
	buf_init(&h->cookie, max_bytes + LINE_BYTES);
}

void h2_head_done(struct h2_head *h)
{
	buf_done(&h->text);
	buf_done(&h->cookie);
}

static void forget(struct buf *b, size_t max)
{
	if (b->len > KEPT_BYTES) {
		buf_done(b);
		buf_init(b, max);
	}
	buf_clear(b);
}

void h2_head_begin(struct h2_head *h)
{
	forget(&h->text, h->max + LINE_BYTES);
	forget(&h->cookie, h->max + LINE_BYTES);
	h->method = h->scheme = h->authority = h->path = (struct h2_slice){ 0 };
	h->lines_at = h->bytes = h->path_bytes = 0;
	h->bad = NULL;
}

static bool is(const char *a, size_t len, const char *b)
{
	return strlen(b) == len && !memcmp(a, b, len);
}

static bool ends_lines(const char *p, size_t len)
{
	return memchr(p, '\n', len) || memchr(p, '\r', len) || memchr(p, '\0', len);
}

static void keep(struct h2_head *h, struct buf *b, const char *p, size_t len)
{
	if (buf_append(b, p, len) < 0)
		h->bad = "the header section could not be kept"; /* cannot be: it was counted before */
}

static struct h2_slice *pseudo(struct h2_head *h, const char *name, size_t len)
{
	if (is(name, len, ":method"))
		return &h->method;
	if (is(name, len, ":scheme"))
		return &h->scheme;
	if (is(name, len, ":authority"))
		return &h->authority;
	return is(name, len, ":path") ? &h->path : NULL;
}

static void add_pseudo(struct h2_head *h, const char *name, size_t name_len, const char *value, size_t len)
{
	struct h2_slice *s = pseudo(h, name, name_len);

	if (!s || s->given) {
		h->bad = "a pseudo-header field is unknown, or given twice";
		return;
	}
	*s = (struct h2_slice){ h->text.len, len, true };
	keep(h, &h->text, value, len);
	h->lines_at = h->text.len;
}

static void add_line(struct h2_head *h, const char *name, size_t name_len, const char *value, size_t len)
{
	keep(h, &h->text, name, name_len);
	keep(h, &h->text, ": ", 2);
	keep(h, &h->text, value, len);
	keep(h, &h->text, "\r\n", 2);
}

static void add_cookie(struct h2_head *h, const char *value, size_t len)
{
	if (h->cookie.len)
		keep(h, &h->cookie, "; ", 2);
	keep(h, &h->cookie, value, len);
}

static bool same_as_authority(const struct h2_head *h, const char *value, size_t len)
{
	return h->authority.given && h->authority.len == len && !memcmp(h->text.data + h->authority.at, value, len);
}

void h2_head_add(struct h2_head *h, const char *name, size_t name_len, const char *value, size_t value_len)
{
	h->bytes += name_len + value_len + LINE_BYTES;
	if (is(name, name_len, ":path"))
		h->path_bytes = value_len;
	if (h->bytes > h->max)
		return;
	if (ends_lines(name, name_len) || ends_lines(value, value_len))
		h->bad = "the header section holds a control character";
	else if (name_len && *name == ':')
		add_pseudo(h, name, name_len, value, value_len);
	else if (is(name, name_len, "cookie"))
		add_cookie(h, value, value_len);
	else if (!is(name, name_len, "host") || !same_as_authority(h, value, value_len))
		add_line(h, name, name_len, value, value_len);
}

static bool scheme_is_known(const struct h2_head *h)
{
	const char *scheme = h->text.data + h->scheme.at;

	return !h->scheme.given || is(scheme, h->scheme.len, "http") || is(scheme, h->scheme.len, "https");
}

int h2_head_refusal(const struct h2_head *h, const char **ret_why)
{
	bool long_path = h->path_bytes > h->max;

	if (h->bytes > h->max) {
		*ret_why = long_path ? "the request target is too long" : "the header section is too long";
		return long_path ? 414 : 431;
	}
	*ret_why = h->bad ? h->bad : "the scheme is neither http nor https";
	return h->bad || !scheme_is_known(h) ? 400 : 0;
}

/* A request without a path is CONNECT, whose target is the authority. */
static int put_first_lines(const struct h2_head *h, struct buf *to)
{
	const char *text = h->text.data;
	const struct h2_slice *target = h->path.given ? &h->path : &h->authority;
	int r = buf_printf(to, "%.*s %.*s HTTP/1.1\r\n", (int)h->method.len, text + h->method.at, (int)target->len,
			   text + target->at);

	if (r < 0 || !h->authority.given)
		return r;
	return buf_printf(to, "Host: %.*s\r\n", (int)h->authority.len, text + h->authority.at);
}

int h2_head_end(struct h2_head *h, struct buf *to)
{
	int r = put_first_lines(h, to);

	r = r < 0 ? r : buf_append(to, h->text.data + h->lines_at, h->text.len - h->lines_at);
	if (r == 0 && h->cookie.len)
		r = buf_printf(to, "cookie: %.*s\r\n", (int)h->cookie.len, h->cookie.data);
	r = r < 0 ? r : buf_puts(to, "\r\n");
	h2_head_begin(h);
	return r;
}
