#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* What an empty buffer points to: data is never NULL, and an idle connection costs nothing. Never written. */
static char empty[1];

void buf_init(struct buf *b, size_t max_bytes)
{
	*b = (struct buf){ .data = empty, .max = max_bytes };
}

void buf_done(struct buf *b)
{
	free(b->base);
	buf_init(b, b->max);
}

/* Consumed space is taken back by moving only when at least half of the allocation is free: each byte then moves at
 * most once per byte appended. */
static void make_room(struct buf *b, size_t len)
{
	size_t offset = b->base ? (size_t)(b->data - b->base) : 0;
	size_t need = b->len + len + 1;
	char *base;

	if (offset + need <= b->cap)
		return;
	if (b->base && need <= b->cap / 2) {
		memmove(b->base, b->data, b->len);
		b->data = b->base;
		b->data[b->len] = '\0';
		return;
	}
	b->cap = MAX(need, MAX(b->cap + b->cap / 2, (size_t)64));
	base = xmalloc(b->cap);
	memcpy(base, b->data, b->len);
	base[b->len] = '\0';
	free(b->base);
	b->base = b->data = base;
}

static int check_room(const struct buf *b, size_t len)
{
	return b->len > b->max || len > b->max - b->len || len >= SIZE_MAX / 4 ? -ENOBUFS : 0;
}

int buf_reserve(struct buf *b, size_t len, char **ret)
{
	int r = check_room(b, len);

	if (r < 0)
		return r;
	make_room(b, len);
	*ret = b->data + b->len;
	return 0;
}

void buf_commit(struct buf *b, size_t len)
{
	if (len == 0)
		return;
	assert((size_t)(b->data - b->base) + b->len + len < b->cap);
	b->len += len;
	b->data[b->len] = '\0';
}

int buf_append(struct buf *b, const void *p, size_t len)
{
	char *to;
	int r = buf_reserve(b, len, &to);

	if (r < 0)
		return r;
	if (len)
		memcpy(to, p, len);
	buf_commit(b, len);
	return 0;
}

int buf_puts(struct buf *b, const char *s)
{
	return buf_append(b, s, strlen(s));
}

int buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	char *to;
	int n, r;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0)
		return -EINVAL;
	r = buf_reserve(b, (size_t)n, &to);
	if (r < 0)
		return r;
	vsnprintf(to, (size_t)n + 1, fmt, ap);
	buf_commit(b, (size_t)n);
	return 0;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = buf_vprintf(b, fmt, ap);
	va_end(ap);
	return r;
}

/* A connection that once moved a large body and now idles should not keep its buffers. */
#define KEEP_WHEN_EMPTY_BYTES ((size_t)64 * 1024)

void buf_consume(struct buf *b, size_t len)
{
	assert(len <= b->len);
	b->len -= len;
	if (b->len > 0)
		b->data += len;
	else if (b->cap > KEEP_WHEN_EMPTY_BYTES)
		buf_done(b);
	else
		buf_clear(b);
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	if (!b->base)
		return;
	b->data = b->base;
	b->data[0] = '\0';
}

char *buf_steal(struct buf *b, size_t *ret_len)
{
	char *s;

	if (ret_len)
		*ret_len = b->len;
	if (b->base && b->data == b->base)
		s = STEAL(b->base);
	else
		s = xmemdup(b->data, b->len + 1);
	buf_done(b);
	return s;
}
