/* http/parse_body.c: the framing of bodies: by length, chunked, until the end of the stream. */
#include "http/parse.h"

#include <errno.h>

#include "base/str.h"

/* In a chunked body every byte that is not payload passes through one of these states, one byte at a time. A size is
 * 1 to 15 hexadecimal digits and nothing else: no sign, no blank, no "0x". CR and LF come as a pair only. */
enum body_state {
	BODY_LENGTH,
	BODY_UNTIL_CLOSE,
	BODY_SIZE_FIRST, /* the first digit of a chunk's size */
	BODY_SIZE,
	BODY_EXT,     /* after ';', dropped */
	BODY_SIZE_LF, /* the LF that ends the size line */
	BODY_DATA,
	BODY_DATA_CR,
	BODY_DATA_LF,
	BODY_TRAILER,    /* in a trailer line, or at its first byte when line_bytes is 0 */
	BODY_TRAILER_LF, /* the LF of a trailer line */
	BODY_END_LF,     /* the LF of the empty line at the end */
	BODY_DONE,
};

#define SIZE_DIGITS_MAX 15 /* below 2^60: no overflow in any sum */

void http_body_init(struct http_body *b, int64_t length)
{
	*b = (struct http_body){ .left = length > 0 ? length : 0, .state = BODY_LENGTH };
	if (length == HTTP_LENGTH_CHUNKED)
		b->state = BODY_SIZE_FIRST;
	else if (length == HTTP_LENGTH_UNTIL_CLOSE)
		b->state = BODY_UNTIL_CLOSE;
	else if (length == 0)
		b->state = BODY_DONE;
}

bool http_body_may_end(const struct http_body *b)
{
	return b->state == BODY_UNTIL_CLOSE || b->state == BODY_DONE;
}

static int refuse(struct http_refusal *why, const char *text)
{
	*why = (struct http_refusal){ 400, text };
	return -EBADMSG;
}

static int step_size(struct http_body *b, char c, struct http_refusal *why)
{
	int digit = str_hex_digit(c);

	if (digit >= 0) {
		if (++b->digits > SIZE_DIGITS_MAX)
			return refuse(why, "the size of a chunk has too many digits");
		b->left = b->left * 16 + digit;
		b->state = BODY_SIZE;
		return 0;
	}
	if (b->state == BODY_SIZE_FIRST || (c != ';' && c != '\r'))
		return refuse(why, "the size of a chunk is not a hexadecimal number");
	b->state = c == ';' ? BODY_EXT : BODY_SIZE_LF;
	return 0;
}

static int step_ext(struct http_body *b, char c, struct http_refusal *why)
{
	if (c == '\r') {
		b->state = BODY_SIZE_LF;
		return 0;
	}
	if (++b->extra_bytes > HTTP_EXT_MAX)
		return refuse(why, "the extensions of the chunks are too long");
	if ((unsigned char)c < 0x20 && c != '\t')
		return refuse(why, "a chunk extension holds a control character");
	return 0;
}

static int step_trailer(struct http_body *b, char c, struct http_refusal *why)
{
	if (c == '\r') {
		b->state = b->line_bytes ? BODY_TRAILER_LF : BODY_END_LF;
		return 0;
	}
	if (++b->extra_bytes > HTTP_TRAILER_MAX)
		return refuse(why, "the trailers are too long");
	if (((unsigned char)c < 0x20 && c != '\t') || c == 0x7f)
		return refuse(why, "a trailer holds a control character");
	b->line_bytes++;
	return 0;
}

static int step_expect(struct http_body *b, char c, char expected, enum body_state next, struct http_refusal *why)
{
	if (c != expected)
		return refuse(why, "a line of a chunked body does not end in CR LF");
	b->state = next;
	return 0;
}

static enum body_state after_size(struct http_body *b)
{
	b->digits = 0;
	if (b->left)
		return BODY_DATA;
	b->extra_bytes = 0; /* from here on it counts trailers */
	b->line_bytes = 0;
	return BODY_TRAILER;
}

static int step(struct http_body *b, char c, struct http_refusal *why)
{
	switch ((enum body_state)b->state) {
	case BODY_SIZE_FIRST:
	case BODY_SIZE:
		return step_size(b, c, why);
	case BODY_EXT:
		return step_ext(b, c, why);
	case BODY_SIZE_LF:
		return step_expect(b, c, '\n', after_size(b), why);
	case BODY_DATA_CR:
		return step_expect(b, c, '\r', BODY_DATA_LF, why);
	case BODY_DATA_LF:
		return step_expect(b, c, '\n', BODY_SIZE_FIRST, why);
	case BODY_TRAILER:
		return step_trailer(b, c, why);
	case BODY_TRAILER_LF:
		b->line_bytes = 0;
		return step_expect(b, c, '\n', BODY_TRAILER, why);
	case BODY_END_LF:
		return step_expect(b, c, '\n', BODY_DONE, why);
	case BODY_LENGTH:
	case BODY_UNTIL_CLOSE:
	case BODY_DATA:
	case BODY_DONE:
		break;
	}
	return refuse(why, "the body is in an impossible state");
}

/* One run of payload. */
static void take_data(struct http_body *b, const char *p, size_t len, struct http_body_piece *ret)
{
	size_t n = len;

	if (b->state != BODY_UNTIL_CLOSE) {
		n = (uint64_t)b->left < len ? (size_t)b->left : len;
		b->left -= (int64_t)n;
		if (!b->left)
			b->state = b->state == BODY_LENGTH ? BODY_DONE : BODY_DATA_CR;
	}
	ret->data = n ? p : NULL;
	ret->len = n;
	ret->used += n;
}

int http_body_next(struct http_body *b, const char *p, size_t len, struct http_body_piece *ret,
		   struct http_refusal *why)
{
	*ret = (struct http_body_piece){ 0 };
	while (b->state != BODY_DONE && ret->used < len) {
		if (b->state == BODY_LENGTH || b->state == BODY_UNTIL_CLOSE || b->state == BODY_DATA) {
			take_data(b, p + ret->used, len - ret->used, ret);
			break;
		}
		int r = step(b, p[ret->used], why);
		if (r < 0)
			return r;
		ret->used++;
	}
	ret->end = b->state == BODY_DONE;
	return 0;
}
