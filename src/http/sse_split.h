/* http/sse_split.h: cuts a JSON text into pieces that survive the clients' reader. Pure, no I/O.
 *
 * That reader decodes every line on its own, dropping bytes that are not UTF-8, and strips leading white space, of
 * Unicode too. So a piece never begins within a character and never begins with white space: the boundary moves back
 * until it does not. White space so long that this is impossible (a whole piece of it) is in a string if it means
 * anything: its first character is then written as a \u escape. Between tokens it is dropped, and so are line ends. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/macros.h"

struct sse_split {
	struct buf text; /* what waits to be cut */
	bool in_string;  /* at the end of text */
	bool escaped;    /* the last byte of text is a '\' that escapes the next */
};

#define SSE_SPLIT_MAX 65536 /* bytes that may wait */

void sse_split_init(struct sse_split *s);
void sse_split_done(struct sse_split *s);

/* Adds text; len <= SSE_SPLIT_MAX / 2 and only when sse_split_hungry(). */
void sse_split_add(struct sse_split *s, const char *p, size_t len);
bool sse_split_hungry(const struct sse_split *s); /* too little to cut a piece from, unless it is the end */

/* The next piece, at most SSE_PIECE_MAX bytes, at s->text.data; then sse_split_take() drops it. Returns its length.
 * 0 = more text is needed. With final set all that is left is cut; *ret_last says that this is the last piece, which
 * may be empty. */
size_t sse_split_next(struct sse_split *s, bool final, bool *ret_last);
void sse_split_take(struct sse_split *s, size_t len);
