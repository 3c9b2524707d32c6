/* base/buf.h: a growing byte buffer with a maximum, also usable as a queue (append at the end, consume at the front).
 * Owned by whoever embeds it; any thread, one at a time. The bytes are always followed by a NUL that does not count,
 * so data may be handed to string functions when it is known to hold none. Aborts on out-of-memory. */
#pragma once

#include <stdarg.h>
#include <stdint.h>

#include "base/macros.h"

struct buf {
	char *data;       /* first unconsumed byte; never NULL after buf_init */
	size_t len;       /* unconsumed bytes */
	size_t max;       /* bytes that len may not exceed */
	char *base;       /* private: the allocation */
	size_t cap;       /* private: its size */
};

#define BUF_UNLIMITED SIZE_MAX

void buf_init(struct buf *b, size_t max_bytes);
void buf_done(struct buf *b); /* frees; b may be used again only after buf_init */
#define auto_buf AUTO(buf_done) /* frees itself at the end of its scope: auto_buf struct buf b = { 0 }; */

/* Append. -ENOBUFS when len would exceed max; the buffer is then unchanged. */
MUST_CHECK int buf_append(struct buf *b, const void *p, size_t len);
MUST_CHECK int buf_puts(struct buf *b, const char *s);
MUST_CHECK int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
MUST_CHECK int buf_vprintf(struct buf *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

/* Room for at least len more bytes at *ret; buf_commit() then says how many were written. -ENOBUFS as above. */
MUST_CHECK int buf_reserve(struct buf *b, size_t len, char **ret);
void buf_commit(struct buf *b, size_t len);

/* Drops len bytes from the front; len <= b->len. Amortised O(1). When all is consumed, more than 64 KiB of memory is
 * given back, so an idle connection stays small; pointers into data do not outlive these calls. */
void buf_consume(struct buf *b, size_t len);
void buf_clear(struct buf *b);

/* Passes on the content as a malloc'ed, NUL-terminated string; the buffer is empty afterwards. */
char *buf_steal(struct buf *b, size_t *ret_len);
