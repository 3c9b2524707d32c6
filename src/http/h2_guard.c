/* http/h2_guard.c: counts the frames that answer nothing. */
#include "http/h2_guard.h"

#include <string.h>

#define BYTES_PER_FRAME 512 /* of bodies that we send: pays for one frame that grants more */
#define BLOCK_FRAMES 8      /* of one block, and one more for each of: */
#define BLOCK_FRAME_BYTES 4096 /* of its maximum; a frame may have 16 KiB */
#define PREFACE_BYTES 24
#define PADDED_MAX 256      /* a frame of DATA up to here may be nothing but padding */

enum { DATA = 0, HEADERS = 1, CONTINUATION = 9, RST_STREAM = 3 }; /* RFC 9113, 6 */
enum { FLAG_END_HEADERS = 4, FLAG_PADDED = 8 };

static void bucket_init(struct h2_bucket *b, uint64_t per_s, uint64_t burst, uint64_t now_ms)
{
	*b = (struct h2_bucket){ .per_s = per_s, .burst = burst, .milli = burst * 1000, .ms = now_ms };
}

static bool bucket_take(struct h2_bucket *b, uint64_t now_ms)
{
	b->milli = MIN(b->milli + (now_ms - b->ms) * b->per_s, b->burst * 1000);
	b->ms = now_ms;
	if (b->milli < 1000)
		return false;
	b->milli -= 1000;
	return true;
}

void h2_guard_init(struct h2_guard *g, const struct http_limits *limits, uint64_t now_ms)
{
	*g = (struct h2_guard){ .block_max = limits->header_bytes, .skip = PREFACE_BYTES };
	bucket_init(&g->resets, limits->h2_resets, limits->h2_resets_burst, now_ms);
	bucket_init(&g->controls, limits->h2_controls, limits->h2_controls_burst, now_ms);
}

/* Compressed, a block that is not too long is no longer than this; with padding and a priority at the most. */
static const char *take_block(struct h2_guard *g, unsigned type, unsigned flags, size_t length)
{
	if (type == HEADERS) {
		g->block_bytes = g->block_frames = 0;
		g->blocks++;
	}
	g->block_open = true;
	g->block_last = flags & FLAG_END_HEADERS;
	g->block_bytes += length;
	g->block_frames++;
	if (g->block_bytes > g->block_max + PADDED_MAX + 5)
		return "the header fields are too long";
	if (g->block_frames > BLOCK_FRAMES + g->block_max / BLOCK_FRAME_BYTES)
		return "the header fields come in too many frames";
	return NULL;
}

/* A frame that brings something: a request, or bytes of its body. */
static bool is_useful(unsigned type, unsigned flags, size_t length)
{
	if (type == DATA)
		return length > (flags & FLAG_PADDED ? PADDED_MAX : 0);
	return type == HEADERS;
}

const char *h2_guard_frame(struct h2_guard *g, uint64_t now_ms, unsigned type, unsigned flags, size_t length)
{
	if (type == RST_STREAM)
		return h2_guard_reset(g, now_ms);
	if (!is_useful(type, flags, length) && !bucket_take(&g->controls, now_ms))
		return "too many frames that are no request and no body";
	return type == HEADERS || type == CONTINUATION ? take_block(g, type, flags, length) : NULL;
}

/* 24 bits of length, 8 of type, 8 of flags; the stream's number does not matter here. */
static const char *take_head(struct h2_guard *g, uint64_t now_ms)
{
	size_t length = (size_t)g->head[0] << 16 | (size_t)g->head[1] << 8 | g->head[2];

	g->n_head = 0;
	g->skip = length;
	return h2_guard_frame(g, now_ms, g->head[3], g->head[4], length);
}

const char *h2_guard_bytes(struct h2_guard *g, uint64_t now_ms, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	const char *refusal = NULL;

	while (len && !refusal) {
		size_t n = MIN(len, g->skip ? g->skip : sizeof(g->head) - g->n_head);

		if (g->skip) {
			g->skip -= n;
		} else {
			memcpy(g->head + g->n_head, p, n);
			g->n_head += n;
		}
		p += n;
		len -= n;
		if (g->n_head == sizeof(g->head))
			refusal = take_head(g, now_ms);
		if (g->block_last && !g->skip)
			g->block_open = g->block_last = false;
	}
	return refusal;
}

const char *h2_guard_reset(struct h2_guard *g, uint64_t now_ms)
{
	return bucket_take(&g->resets, now_ms) ? NULL : "too many streams are cut short";
}

void h2_guard_sent(struct h2_guard *g, size_t bytes)
{
	struct h2_bucket *b = &g->controls;

	g->sent += bytes;
	b->milli = MIN(b->milli + g->sent / BYTES_PER_FRAME * 1000, b->burst * 1000);
	g->sent %= BYTES_PER_FRAME;
}
