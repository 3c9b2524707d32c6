/* http/h2_head.h: the header fields of a request of HTTP/2, made into the header section that the same request would have in
 * HTTP/1.1: one parser looks at both, with the same limits and the same refusals. No I/O; nothing that could end a line passes.
 *
 * Owned by a connection, which has one block of header fields at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct h2_slice {
	size_t at, len; /* of text */
	bool given;
};

struct h2_head {
	struct buf text;   /* values of pseudo-header fields, then lines */
	struct buf cookie; /* its crumbs, put together (RFC 9113, 8.2.3) */
	struct h2_slice method, scheme, authority, path;
	size_t lines_at;   /* of text: where the lines begin */
	size_t max, bytes; /* of the section; what is beyond the maximum is counted and not kept */
	size_t path_bytes;
	const char *bad;   /* why it is no request; NULL = none */
};

void h2_head_init(struct h2_head *h, size_t max_bytes);
void h2_head_done(struct h2_head *h);
void h2_head_begin(struct h2_head *h); /* of another block */
void h2_head_add(struct h2_head *h, const char *name, size_t name_len, const char *value, size_t value_len);
/* The status that refuses the block, with *ret_why (static), or 0. */
int h2_head_refusal(const struct h2_head *h, const char **ret_why);
/* Appends the section, its empty line included. -ENOBUFS. Nothing of the block is kept. */
MUST_CHECK int h2_head_end(struct h2_head *h, struct buf *to);
