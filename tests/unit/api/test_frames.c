/* Frames of stdout and stderr as JSON texts, read from an engine that has them in memory. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "api/sandbox/private.h"
#include "base/mem.h"
#include "sandbox/wire.h"

TestSuite(frames, .timeout = 30);

static struct buf stored;
static size_t most; /* bytes of one reading; 0 = any */
static int reads;   /* since somebody last had the turn */

static ssize_t fake_read(struct engine_exec *x UNUSED, uint64_t offset, void *p, size_t cap)
{
	size_t n = offset < stored.len ? MIN(cap, stored.len - (size_t)offset) : 0;

	reads++;
	if (most)
		n = MIN(n, most);
	memcpy(p, stored.data + offset, n);
	return (ssize_t)n;
}

static const struct engine_ops ops = { .exec_read = fake_read };
static struct engine engine = { .ops = &ops };
static struct engine_exec exec;

static void add(int stream, const void *p, size_t len)
{
	const char head[WIRE_FRAME_HEAD] = { (char)stream, 0, 0, 0, 0, (char)(len >> 16), (char)(len >> 8), (char)len };

	cr_assert_eq(buf_append(&stored, head, sizeof(head)), 0);
	cr_assert_eq(buf_append(&stored, p, len), 0);
}

static const char *all(void)
{
	static struct buf text;
	const struct frames f = { &engine, &exec, stored.len };
	uint64_t pos[TASK_POS] = { 1 };
	char piece[16384];
	ssize_t n;

	reads = 0;
	buf_done(&text); /* of the call before */
	buf_init(&text, BUF_UNLIMITED);
	while ((n = frames_read(&f, pos, piece, sizeof(piece))) > 0 || n == -EAGAIN) {
		cr_assert_leq(reads, 64, "%d blocks were read in one turn of the loop", reads);
		if (n == -EAGAIN)
			reads = 0;
		else
			cr_assert_eq(buf_append(&text, piece, (size_t)n), 0);
	}
	cr_assert_eq(n, 0);
	return text.data;
}

Test(frames, nothing)
{
	buf_init(&stored, BUF_UNLIMITED);
	cr_assert_str_eq(all(), "\",\"stdout\":\"\",\"stderr\":\"\"}");
	buf_done(&stored);
}

Test(frames, pieces_join_to_one_text)
{
	buf_init(&stored, BUF_UNLIMITED);
	add(WIRE_STREAM_OUT, "o", 1);
	add(WIRE_STREAM_ERR, "ee", 2);
	add(WIRE_STREAM_OUT, "pq", 2);
	add(WIRE_STREAM_ERR, "f", 1);
	cr_assert_str_eq(all(), "b2VlcHFm\",\"stdout\":\"b3Bx\",\"stderr\":\"ZWVm\"}");
	most = 9; /* a head and a byte */
	cr_assert_str_eq(all(), "b2VlcHFm\",\"stdout\":\"b3Bx\",\"stderr\":\"ZWVm\"}");
	buf_done(&stored);
}

Test(frames, large_ones_are_read_in_whole_triples)
{
	static char block[100001];
	size_t outs = 0;
	const char *text;

	buf_init(&stored, BUF_UNLIMITED);
	add(WIRE_STREAM_OUT, block, sizeof(block));
	add(WIRE_STREAM_ERR, block, 50000);
	text = all();
	outs = strcspn(text, "\"");
	cr_assert_eq(outs, (150001 + 2) / 3 * 4);
	text = strstr(text, "\"stdout\":\"") + 10;
	cr_assert_eq(strcspn(text, "\""), (100001 + 2) / 3 * 4);
	text = strstr(text, "\"stderr\":\"") + 10;
	cr_assert_eq(strcspn(text, "\""), (50000 + 2) / 3 * 4);
	cr_assert_eq(strspn(text, "A"), 50000 / 3 * 4 + 3);
	buf_done(&stored);
}

Test(frames, what_a_full_disk_cut_off_is_not_read)
{
	struct frames f = { &engine, &exec, 0 };
	uint64_t pos[TASK_POS] = { 1 };
	char piece[16384];

	buf_init(&stored, BUF_UNLIMITED);
	add(WIRE_STREAM_OUT, "abc", 3);
	f.stored = stored.len;
	cr_assert_eq(buf_append(&stored, "\1\0\0\0\0", 5), 0);
	cr_assert_eq(frames_read(&f, pos, piece, sizeof(piece)), 16);
	cr_assert_eq(memcmp(piece, "YWJj\",\"stdout\":\"", 16), 0);
	cr_assert_eq(frames_read(&f, pos, piece, 100), -ENOBUFS, "too little room for a piece");
	buf_done(&stored);
}

/* -- many ----------------------------------------------------------------------------------------------------------------- */

static struct buf told[4]; /* what is to come out: in order, and by stream */

static void add_known(int stream, const void *p, size_t len)
{
	add(stream, p, len);
	cr_assert_eq(buf_append(&told[0], p, len), 0);
	cr_assert_eq(buf_append(&told[stream], p, len), 0);
}

static void begin_known(void)
{
	buf_init(&stored, BUF_UNLIMITED);
	for (size_t i = 0; i < ARRAY_LEN(told); i++)
		buf_init(&told[i], BUF_UNLIMITED);
}

static const char *check_text(const char *text, const struct buf *want, const char *behind)
{
	size_t len = (want->len + 2) / 3 * 4;
	char *encoded = xmalloc(len + 1);

	EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)want->data, (int)want->len);
	cr_assert_eq(strncmp(text, encoded, len), 0, "of the text before %s", behind);
	free(encoded);
	cr_assert_eq(strncmp(text + len, behind, strlen(behind)), 0, "%s does not follow", behind);
	return text + len + strlen(behind);
}

static void check_known(void)
{
	const char *text = check_text(all(), &told[0], "\",\"stdout\":\"");

	text = check_text(text, &told[WIRE_STREAM_OUT], "\",\"stderr\":\"");
	cr_assert_str_empty(check_text(text, &told[WIRE_STREAM_ERR], "\"}"));
}

/* Stretches of MiBs of which a text has nothing, or one byte, and short frames of both. */
Test(frames, of_many_all_is_told_and_a_turn_reads_a_bounded_part)
{
	static char block[65000];
	unsigned seed = 7;

	begin_known();
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)rand_r(&seed);
	for (int i = 0; i < 6; i++) {
		int stream = i % 2 ? WIRE_STREAM_OUT : WIRE_STREAM_ERR;

		for (int k = 0; k < 20000; k++)
			add_known(stream, block + k % 1000, 1 + (size_t)rand_r(&seed) % 300);
		for (int k = 0; k < 2000; k++)
			add_known(k % 500 ? stream : WIRE_STREAM_OUT, block, 1 + (size_t)rand_r(&seed) % (k % 50 ? 100 : sizeof(block)));
		for (int k = 0; k < 20000; k++)
			add_known(1 + (int)((unsigned)rand_r(&seed) % 2), block + k % 1000, 1 + (size_t)rand_r(&seed) % 9);
	}
	cr_assert_gt(stored.len, 128u * 32 * 1024);
	check_known();
	most = 5003;
	check_known();
	buf_done(&stored);
}

Test(frames, of_what_is_all_on_stderr_stdout_is_empty)
{
	static char block[1000];

	begin_known();
	for (int k = 0; k < 20000; k++)
		add_known(WIRE_STREAM_ERR, block, sizeof(block));
	check_known();
	buf_done(&stored);
}

/* -- of an init that is none of ours -------------------------------------------------------------------------------------- */

static ssize_t zeros(struct engine_exec *x UNUSED, uint64_t offset UNUSED, void *p, size_t cap)
{
	cr_assert_lt(++reads, 1000);
	memset(p, 0, cap);
	return (ssize_t)cap;
}

static ssize_t ones(struct engine_exec *x UNUSED, uint64_t offset UNUSED, void *p, size_t cap)
{
	cr_assert_lt(++reads, 1000);
	memset(p, WIRE_STREAM_OUT, cap); /* and each head says 16 MiB of it */
	return (ssize_t)cap;
}

Test(frames, an_empty_one_is_an_error)
{
	static const struct engine_ops forged = { .exec_read = zeros };
	struct engine e = { .ops = &forged };
	uint64_t pos[TASK_POS] = { 1 };
	char piece[16384];

	cr_assert_eq(frames_read(&(struct frames){ &e, &exec, 1ull << 60 }, pos, piece, sizeof(piece)), -EPROTO);
	cr_assert_eq(reads, 1);
}

Test(frames, what_never_ends_ends_each_turn)
{
	static const struct engine_ops forged = { .exec_read = ones };
	struct engine e = { .ops = &forged };
	const struct frames f = { &e, &exec, 1ull << 60 };
	uint64_t pos[TASK_POS] = { 3 }, before; /* stderr, of which there is nothing */
	char piece[16384];

	for (int i = 0; i < 10; i++) {
		reads = 0;
		before = pos[1];
		cr_assert_eq(frames_read(&f, pos, piece, sizeof(piece)), -EAGAIN);
		cr_assert_eq(reads, 64);
		cr_assert_gt(pos[1], before);
	}
}

Test(frames, one_that_is_longer_than_all_is_the_last)
{
	static const struct engine_ops forged = { .exec_read = ones };
	struct engine e = { .ops = &forged };
	uint64_t pos[TASK_POS] = { 3 };
	char piece[16384];

	cr_assert_eq(frames_read(&(struct frames){ &e, &exec, 40000 }, pos, piece, sizeof(piece)), 2);
	cr_assert_eq(memcmp(piece, "\"}", 2), 0);
	cr_assert_eq(reads, 1);
}
