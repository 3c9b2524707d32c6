/* api/sandbox/frames.c: the output of a run whose stdout and stderr are apart, as three base64 texts of one JSON object: in the
 * order of arrival, stdout alone, stderr alone. The frames lie in memory or in a file and are read through once for each;
 * nothing is kept between two pieces but a place and at most two bytes. */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "api/sandbox/private.h"
#include "sandbox/wire.h"

#define STEP_BYTES (9u * 1024) /* of output at once: a multiple of 3, 12 KiB in base64 */
#define BLOCK_BYTES (32u * 1024)
#define BLOCKS_MAX 64 /* between two turns of the loop, which waits for them: of a GiB not a byte may be wanted */

enum phase { IN_ORDER = 1, OUT_ALONE = 2, ERR_ALONE = 3 };

struct place { /* what the reader's four words hold */
	uint64_t phase, offset;
	uint64_t left;       /* of the frame that offset is in; 0 = a head is next */
	unsigned stream;
	unsigned n_carry;    /* bytes that made no whole triple, 0 to 2 */
	unsigned char carry[2];
	unsigned n_blocks;   /* read since the last -EAGAIN */
};

static struct place unpack(const uint64_t *pos)
{
	return (struct place){
		.phase = pos[0], .offset = pos[1], .left = pos[2] & UINT32_MAX, .stream = (unsigned)(pos[2] >> 32),
		.n_carry = pos[3] & 3, .carry = { (unsigned char)(pos[3] >> 8), (unsigned char)(pos[3] >> 16) },
		.n_blocks = (unsigned)(pos[3] >> 24),
	};
}

static void pack(const struct place *l, uint64_t *pos)
{
	pos[0] = l->phase;
	pos[1] = l->offset;
	pos[2] = (uint64_t)l->stream << 32 | l->left;
	pos[3] = (uint64_t)l->n_blocks << 24 | (uint64_t)l->carry[1] << 16 | (uint64_t)l->carry[0] << 8 | l->n_carry;
}

static bool is_wanted(const struct place *l)
{
	return l->phase == IN_ORDER || l->stream == (l->phase == OUT_ALONE ? WIRE_STREAM_OUT : WIRE_STREAM_ERR);
}

/* Takes frames apart that lie at p; returns how many bytes of them are used up. -EPROTO: an empty one; init writes none. */
static ssize_t take(struct place *l, const unsigned char *p, size_t len, unsigned char *raw, size_t *n_raw)
{
	size_t used = 0;

	while (used < len && *n_raw < STEP_BYTES) {
		size_t n = MIN(l->left, (uint64_t)(len - used));

		if (l->left == 0) {
			if (len - used < WIRE_FRAME_HEAD)
				break;
			l->stream = p[used];
			l->left = wire_frame_len(p + used);
			if (l->left == 0)
				return -EPROTO;
			used += WIRE_FRAME_HEAD;
			continue;
		}
		if (is_wanted(l)) {
			n = MIN(n, STEP_BYTES - *n_raw);
			memcpy(raw + *n_raw, p + used, n);
			*n_raw += n;
		}
		used += n;
		l->left -= n;
	}
	return (ssize_t)used;
}

/* The next block, or less. Behind `stored` may lie what a full disk cut off. */
static ssize_t read_block(struct place *l, const struct frames *f, unsigned char *block)
{
	if (l->left > BLOCK_BYTES && !is_wanted(l)) {
		l->offset += l->left;
		l->left = 0;
	}
	if (l->offset >= f->stored)
		return 0;
	return f->engine->ops->exec_read(f->exec, l->offset, block, (size_t)MIN((uint64_t)BLOCK_BYTES, f->stored - l->offset));
}

/* Fills raw as far as there is something within BLOCKS_MAX; *ret_end: nothing follows. */
static int fill(struct place *l, const struct frames *f, unsigned char *raw, size_t *n_raw, bool *ret_end)
{
	unsigned char block[BLOCK_BYTES];

	for (; l->n_blocks < BLOCKS_MAX && *n_raw < STEP_BYTES && !*ret_end; l->n_blocks++) {
		ssize_t n = read_block(l, f, block), used = n > 0 ? take(l, block, (size_t)n, raw, n_raw) : n;

		if (used < 0)
			return (int)used;
		l->offset += (uint64_t)used;
		*ret_end = used == 0;
	}
	return 0;
}

/* What stands between the texts. */
static ssize_t close_phase(struct place *l, char *p, ssize_t len)
{
	static const char *const ends[] = { [IN_ORDER] = "\",\"stdout\":\"", [OUT_ALONE] = "\",\"stderr\":\"",
		[ERR_ALONE] = "\"}" };
	size_t n = strlen(ends[l->phase]);

	memcpy(p + len, ends[l->phase], n);
	*l = (struct place){ .phase = l->phase == ERR_ALONE ? UINT64_MAX : l->phase + 1, .n_blocks = l->n_blocks };
	return len + (ssize_t)n;
}

/* Whole triples in every piece but a text's last, so that the pieces join to one. */
ssize_t frames_read(const struct frames *f, uint64_t *pos, char *p, size_t cap)
{
	unsigned char raw[STEP_BYTES + 2];
	struct place l = unpack(pos);
	size_t n_raw = l.n_carry, whole;
	bool end = false;
	ssize_t len;
	int r;

	if (l.phase == UINT64_MAX)
		return 0;
	if (cap < STEP_BYTES / 3 * 4 + 32)
		return -ENOBUFS;
	memcpy(raw, l.carry, l.n_carry);
	r = fill(&l, f, raw, &n_raw, &end);
	if (r < 0)
		return r;
	whole = end ? n_raw : n_raw - n_raw % 3;
	len = EVP_EncodeBlock((unsigned char *)p, raw, (int)whole);
	l.n_carry = (unsigned)(n_raw - whole);
	memcpy(l.carry, raw + whole, l.n_carry);
	if (end)
		len = close_phase(&l, p, len);
	if (len == 0)
		l.n_blocks = 0;
	pack(&l, pos);
	return len ? len : -EAGAIN;
}
