/* http/h2_guard.h: what a peer of HTTP/2 may ask for beside requests. Frames that cost the peer nearly nothing and that answer
 * nothing (SETTINGS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, empty DATA, CONTINUATION, unknown ones) are counted, and so many
 * may come at once and in a second. Older releases of nghttp2 have no such limits, or some of them.
 *
 * Two buckets: one for streams that are cut short (by the peer, or by us because of what it sent), each of which has made
 * a handler begin; one for all the others. What we send refills the second: a peer that reads much also grants much. And the
 * block of header fields has a length, in bytes and in frames, that its end need not be seen for. Pure, no I/O, no allocation. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "http/server.h"

struct h2_bucket {
	uint64_t per_s, burst;
	uint64_t milli; /* thousandths of what may still come */
	uint64_t ms;    /* when that was so */
};

struct h2_guard {
	struct h2_bucket resets, controls;
	size_t block_max;    /* bytes of a block of header fields, as sent */
	size_t block_bytes;  /* of the one that arrives */
	unsigned block_frames;
	uint64_t blocks;     /* that began */
	bool block_open;     /* the last of them has not come whole */
	bool block_last;     /* but for this frame's payload, which is its last */
	uint64_t sent;       /* bytes of bodies that were not yet paid for with a frame */
	size_t skip;         /* bytes until the next frame's header */
	uint8_t head[9];     /* of a frame, as far as it is here */
	size_t n_head;
};

void h2_guard_init(struct h2_guard *g, const struct http_limits *limits, uint64_t now_ms);
/* What the peer sends, from its preface on, cut anywhere: every frame is seen, also those that nghttp2 leaves out without a word.
 * NULL, or what is wrong: a static string, and the connection is to end with ENHANCE_YOUR_CALM. */
MUST_CHECK const char *h2_guard_bytes(struct h2_guard *g, uint64_t now_ms, const void *p, size_t len);
/* One frame's header; its numbers are those of RFC 9113. As above. */
MUST_CHECK const char *h2_guard_frame(struct h2_guard *g, uint64_t now_ms, unsigned type, unsigned flags, size_t length);
/* We reset a stream because of what the peer sent. As above. */
MUST_CHECK const char *h2_guard_reset(struct h2_guard *g, uint64_t now_ms);
void h2_guard_sent(struct h2_guard *g, size_t bytes); /* of a body, in a frame of ours */
