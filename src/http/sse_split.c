#include "http/sse_split.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "http/sse.h"

void sse_split_init(struct sse_split *s)
{
	*s = (struct sse_split){ 0 };
	buf_init(&s->text, 2 * SSE_SPLIT_MAX);
}

void sse_split_done(struct sse_split *s)
{
	buf_done(&s->text);
}

/* Follows strings and escapes over one byte. */
static void follow(bool *in_string, bool *escaped, char c)
{
	if (*escaped)
		*escaped = false;
	else if (*in_string && c == '\\')
		*escaped = true;
	else if (c == '"')
		*in_string = !*in_string;
}

static bool is_blank_byte(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}

void sse_split_add(struct sse_split *s, const char *p, size_t len)
{
	char *to;
	size_t n = 0;

	if (buf_reserve(&s->text, len, &to) < 0)
		return;
	for (size_t i = 0; i < len; i++) {
		follow(&s->in_string, &s->escaped, p[i]);
		/* Valid JSON has line ends between tokens only, where white space means nothing. */
		if (s->in_string ? p[i] != '\n' && p[i] != '\r' : !is_blank_byte(p[i]))
			to[n++] = p[i];
	}
	buf_commit(&s->text, n);
}

bool sse_split_hungry(const struct sse_split *s)
{
	return s->text.len <= SSE_SPLIT_MAX / 2;
}

/* The white space that the reader strips, by Python's str.isspace(). Returns the bytes of the character and its code
 * point, or 0 when it is none. p has at least 3 bytes or ends in a NUL. */
static size_t space_at(const char *p, unsigned *ret_code)
{
	const unsigned char *u = (const unsigned char *)p;
	unsigned code;

	*ret_code = u[0];
	if (u[0] < 0x80)
		return is_blank_byte((char)u[0]);
	if (u[0] == 0xc2 && (u[1] == 0x85 || u[1] == 0xa0)) {
		*ret_code = u[1];
		return 2;
	}
	if ((u[0] & 0xf0) != 0xe0 || (u[1] & 0xc0) != 0x80 || (u[2] & 0xc0) != 0x80)
		return 0;
	*ret_code = code = (u[0] & 0xfu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
	if (code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
	    code == 0x205f || code == 0x3000)
		return 3;
	return 0;
}

static bool is_continuation(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

/* The last place at or before `at` where a piece may begin; 0 = none. */
static size_t boundary(const char *p, size_t at)
{
	unsigned code;

	for (; at > 0; at--)
		if (!is_continuation(p[at]) && !space_at(p + at, &code))
			return at;
	return 0;
}

/* The whole piece is white space, or the text is not UTF-8. Makes the character after the piece an escape. */
static size_t force_boundary(struct sse_split *s)
{
	size_t at = SSE_PIECE_MAX, width;
	unsigned code;
	char escape[8];
	struct buf rest;

	/* 3 bytes back at most for a character; more are not UTF-8 and cannot be helped. */
	while (at > SSE_PIECE_MAX - 3 && is_continuation(s->text.data[at]))
		at--;
	width = space_at(s->text.data + at, &code);
	if (!width)
		return at;
	buf_init(&rest, s->text.max);
	snprintf(escape, sizeof(escape), "\\u%04x", code);
	/* The rest is copied, which happens once per 4 KiB of nothing but white space. */
	if (buf_append(&rest, s->text.data, at) < 0 || buf_append(&rest, escape, 6) < 0 ||
	    buf_append(&rest, s->text.data + at + width, s->text.len - at - width) < 0) {
		buf_done(&rest);
		return at;
	}
	buf_done(&s->text);
	s->text = rest;
	return at;
}

size_t sse_split_next(struct sse_split *s, bool final, bool *ret_last)
{
	size_t at;

	*ret_last = final && s->text.len <= SSE_PIECE_MAX;
	if (*ret_last)
		return s->text.len;
	if (s->text.len < SSE_PIECE_MAX + 3)
		if (!final)
			return 0;
	at = boundary(s->text.data, SSE_PIECE_MAX);
	return at ? at : force_boundary(s);
}

void sse_split_take(struct sse_split *s, size_t len)
{
	buf_consume(&s->text, len);
}
