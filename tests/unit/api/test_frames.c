/* Frames of stdout and stderr as JSON texts, read from an engine that has them in memory. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "api/sandbox/private.h"
#include "sandbox/wire.h"

TestSuite(frames, .timeout = 30);

static struct buf stored;
static size_t most; /* bytes of one reading; 0 = any */

static ssize_t fake_read(struct engine_exec *x UNUSED, uint64_t offset, void *p, size_t cap)
{
	size_t n = offset < stored.len ? MIN(cap, stored.len - (size_t)offset) : 0;

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

	buf_done(&text); /* of the call before */
	buf_init(&text, BUF_UNLIMITED);
	while ((n = frames_read(&f, pos, piece, sizeof(piece))) > 0)
		cr_assert_eq(buf_append(&text, piece, (size_t)n), 0);
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
