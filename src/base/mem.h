/* base/mem.h: allocation that cannot fail. The daemon and the command line abort on out-of-memory with one line on
 * stderr; the spawner and init do not use these. Results are freed with free(). */
#pragma once

#include "base/macros.h"

void *xmalloc(size_t size); /* a size of 0 gives a pointer that is not NULL, here and below */
void *xcalloc(size_t n, size_t size); /* zeroed; aborts on overflow of n * size */
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);                 /* NULL gives NULL */
char *xstrndup(const char *s, size_t max_bytes); /* up to the NUL or max_bytes, and NUL-terminated */
void *xmemdup(const void *p, size_t size);    /* p may be NULL when size is 0 */
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* A zeroed object of a type. */
#define NEW(type) ((type *)xcalloc(1, sizeof(type)))
