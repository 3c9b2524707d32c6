#include "http/sse.h"

#include <limits.h>

#include "unit/http/harness.h"
#include "http/sse_split.h"

static void dispatch(struct http_req *r, void *arg UNUSED);

static void begin(void)
{
	harness_begin(dispatch, NULL);
}

TestSuite(http_sse, .init = begin, .fini = harness_end, .timeout = 60);
TestSuite(http_sse_split, .timeout = 60);

/* -- splitting ------------------------------------------------------------------------------------------------- */

/* Whether a piece that begins here would lose bytes in the client: Python's str.isspace(), or half a character. */
static bool bad_begin(const char *p)
{
	static const char *const blanks[] = {
		" ", "\t", "\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x1f", "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80",
		"\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
		"\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf",
		"\xe2\x81\x9f", "\xe3\x80\x80",
	};

	for (size_t i = 0; i < ARRAY_LEN(blanks); i++)
		if (!strncmp(p, blanks[i], strlen(blanks[i])))
			return true;
	return ((unsigned char)*p & 0xc0) == 0x80;
}

/* Splits a text that arrives in steps, checks every piece, and returns the joined pieces. */
static void split(const char *text, size_t len, size_t step, struct buf *ret)
{
	struct sse_split s;
	bool last = false;
	size_t off = 0;

	sse_split_init(&s);
	while (!last) {
		while (sse_split_hungry(&s) && off < len) {
			size_t n = MIN(step, len - off);
			sse_split_add(&s, text + off, n);
			off += n;
		}
		size_t n = sse_split_next(&s, off == len, &last);
		cr_assert(n > 0 || last);
		cr_assert_leq(n, SSE_PIECE_MAX);
		cr_assert(n == 0 || !bad_begin(s.text.data), "a piece begins with %02x", (unsigned char)*s.text.data);
		cr_assert_null(memchr(s.text.data, '\n', n));
		cr_assert_eq(buf_append(ret, s.text.data, n), 0);
		sse_split_take(&s, n);
	}
	sse_split_done(&s);
}

static void check_same(const char *text, size_t len, size_t step)
{
	struct buf joined;

	buf_init(&joined, BUF_UNLIMITED);
	split(text, len, step, &joined);
	cr_assert_eq(joined.len, len);
	cr_assert_arr_eq(joined.data, text, len);
	buf_done(&joined);
}

/* Compact JSON of strings of letters, escapes, blanks and wide characters, in random runs below a piece's size. */
static size_t random_json(char *p, size_t max, unsigned *seed)
{
	static const char *const units[] = { "a", " ", "\xc2\xa0", "\xe3\x80\x80", "\xe2\x80\xa8", "\xf0\x9f\x98\x80", "\\\"",
					     "\\n", "\",\"", "\xc3\xa4" };
	size_t len = 0;

	p[len++] = '[';
	p[len++] = '"';
	while (len < max - 8000) {
		const char *unit = units[(size_t)rand_r(seed) % ARRAY_LEN(units)];
		size_t run = (size_t)rand_r(seed) % (rand_r(seed) % 8 ? 20 : 1300);

		for (size_t i = 0; i < run; i++, len += strlen(unit))
			memcpy(p + len, unit, strlen(unit));
		p[len++] = '.'; /* ends the run: white space in a row stays below a piece */
	}
	p[len++] = '"';
	p[len++] = ']';
	return len;
}

Test(http_sse_split, random_texts_join_to_themselves)
{
	static char text[100000];

	for (unsigned i = 0; i < 400; i++) {
		unsigned seed = i;
		size_t len = random_json(text, 9000 + 200 * i, &seed);
		check_same(text, len, 1 + (size_t)rand_r(&seed) % 20000);
	}
}

Test(http_sse_split, sizes_around_a_piece)
{
	static char text[3 * SSE_PIECE_MAX];

	memset(text, 'x', sizeof(text));
	text[0] = '"';
	for (size_t len = 1; len < 20; len++)
		check_same(text, len, 7);
	for (size_t len = SSE_PIECE_MAX - 5; len < SSE_PIECE_MAX + 5; len++)
		check_same(text, len, 4000);
	for (size_t at = SSE_PIECE_MAX - 10; at < SSE_PIECE_MAX + 5; at++) {
		memset(text, 'x', sizeof(text));
		text[0] = '"';
		memset(text + at, ' ', 9);
		check_same(text, sizeof(text), 1000);
		memcpy(text + at, "\xe3\x80\x80\xf0\x9f\x98\x80\xc2\xa0", 9);
		check_same(text, sizeof(text), 1000);
	}
}

/* A whole piece of white space in a string: its first character comes as an escape. */
Test(http_sse_split, endless_white_space)
{
	static char text[50002];
	struct buf joined;

	memset(text, ' ', sizeof(text));
	text[0] = text[sizeof(text) - 1] = '"';
	buf_init(&joined, BUF_UNLIMITED);
	split(text, sizeof(text), 9999, &joined);
	size_t blanks = 0;
	for (const char *p = joined.data + 1; p < joined.data + joined.len - 1; p++, blanks++)
		if (*p == '\\') {
			cr_assert(!strncmp(p, "\\u0020", 6));
			p += 5;
		}
	cr_assert_eq(blanks, sizeof(text) - 2);
	buf_clear(&joined);
	for (size_t i = 1; i + 3 < sizeof(text); i += 3)
		memcpy(text + i, "\xe3\x80\x80", 3);
	split(text, sizeof(text), 9999, &joined);
	cr_assert_not_null(strstr(joined.data, "\\u3000"));
	buf_done(&joined);
}

Test(http_sse_split, white_space_between_tokens_goes)
{
	static const char text[] = " {\r\n  \"a b\" : [ 1 ,\n\t\"\\\" \" ] }\n";
	struct buf joined;

	buf_init(&joined, BUF_UNLIMITED);
	split(text, sizeof(text) - 1, 3, &joined);
	cr_assert_str_eq(joined.data, "{\"a b\":[1,\"\\\" \"]}");
	buf_done(&joined);
}

/* -- answers --------------------------------------------------------------------------------------------------- */

static struct sse *open_stream;
static int closes, dones;
static bool close_complete;
static char result[100000];
static size_t result_len, result_pos;
static int again; /* -EAGAIN that fill_slowly() has yet to say */

static void on_close(struct http_req *r UNUSED, bool complete, void *arg UNUSED)
{
	closes++;
	close_complete = complete;
	open_stream = NULL;
}

static ssize_t fill(void *arg, char *p, size_t cap)
{
	size_t n = MIN(MIN(cap, (size_t)777), result_len - result_pos);

	if (arg && result_pos > 5000)
		return -EIO;
	memcpy(p, result + result_pos, n);
	result_pos += n;
	return (ssize_t)n;
}

static ssize_t fill_slowly(void *arg, char *p, size_t cap)
{
	static int calls;

	if (again || ++calls % 3 == 0) {
		again -= again > 0;
		return -EAGAIN;
	}
	return fill(arg, p, cap);
}

static void done(void *arg UNUSED)
{
	dones++;
}

static void dispatch(struct http_req *r, void *arg UNUSED)
{
	const char *path = http_req_path(r);
	struct sse *s;

	http_req_on_close(r, on_close, NULL);
	s = open_stream = sse_start(r);
	if (!strcmp(path, "/copy"))
		sse_result(s, result, result_len);
	else if (!strcmp(path, "/fill"))
		sse_result_from(s, fill, done, NULL);
	else if (!strcmp(path, "/slow"))
		sse_result_from(s, fill_slowly, done, NULL);
	else if (!strcmp(path, "/fail"))
		sse_result_from(s, fill, done, r);
	else if (!strcmp(path, "/error"))
		sse_error(s, "a\nb\r\nc");
}

static const char *ask(int fd, const char *path)
{
	char request[200];

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path);
	return talk(fd, request);
}

/* Reads the answer as the client does and joins the data of `chunk` and `end`. */
static bool join_events(const char *answer, struct buf *ret)
{
	const char *event = "";

	for (const char *line = answer; (line = strstr(line, "\r\n")) != NULL;) {
		const char *p = line + 2;
		bool end;

		line = p;
		event = strstr(p, "event: ");
		if (event != p)
			continue;
		end = !strncmp(p, "event: end\n", 11);
		p = strstr(p, "data: ") + 6;
		if (end || !strncmp(event, "event: chunk\n", 13))
			cr_assert_eq(buf_append(ret, p, strcspn(p, "\n")), 0);
		if (end)
			return true;
	}
	return false;
}

static void check_result(const char *path)
{
	unsigned seed = 1;
	struct buf joined;
	int fd = connect_pair();

	buf_init(&joined, BUF_UNLIMITED);
	result_pos = 0;
	result_len = random_json(result, sizeof(result), &seed);
	cr_assert(join_events(ask(fd, path), &joined));
	cr_assert_eq(joined.len, result_len);
	cr_assert_arr_eq(joined.data, result, result_len);
	cr_assert_eq(closes, 1);
	cr_assert(close_complete);
	buf_done(&joined);
	close(fd);
}

Test(http_sse, a_long_result)
{
	check_result("/copy");
}

Test(http_sse, a_result_that_is_produced)
{
	check_result("/fill");
	cr_assert_eq(dones, 1);
}

Test(http_sse, a_result_whose_producer_takes_turns)
{
	check_result("/slow");
	cr_assert_eq(dones, 1);
}

Test(http_sse, others_are_served_while_a_producer_has_nothing)
{
	int fd = connect_pair(), other = connect_pair();

	again = INT_MAX;
	result_len = 0;
	cr_assert_null(strstr(ask(fd, "/slow"), "event: "));
	cr_assert_not_null(strstr(ask(other, "/error"), "event: error"));
	cr_assert_lt(again, INT_MAX);
	cr_assert_eq(closes, 1);
	close(fd); /* it is given up with its client */
	run_for(5);
	cr_assert_eq(closes, 2);
	cr_assert_eq(dones, 1);
	close(other);
}

Test(http_sse, an_empty_result)
{
	const char *answer = ask(connect_pair(), "/copy");

	cr_assert_str_eq(strstr(answer, "\r\n\r\n"), "\r\n\r\n13\r\nevent: end\ndata: \n\n\r\n0\r\n\r\n");
	cr_assert_not_null(strstr(answer, "\r\nContent-Type: text/event-stream\r\n"));
}

Test(http_sse, a_producer_that_fails)
{
	const char *answer;

	result_len = sizeof(result);
	memset(result, 'x', sizeof(result));
	answer = ask(connect_pair(), "/fail");
	cr_assert_not_null(strstr(answer, "event: error\ndata: Input/output error\n\n"));
	cr_assert_null(strstr(answer, "event: end"));
	cr_assert_eq(dones, 1);
}

Test(http_sse, an_error_is_one_line)
{
	cr_assert_not_null(strstr(ask(connect_pair(), "/error"), "event: error\ndata: a b  c\n\n\r\n0\r\n\r\n"));
}

Test(http_sse, an_open_stream_ends_with_its_peer)
{
	int fd = connect_pair();

	ask(fd, "/open");
	sse_comment(open_stream, "still\nhere");
	sse_event(open_stream, "task_id", "x", 1);
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), ": still here\n\n\r\n18\r\nevent: task_id\ndata: x\n\n\r\n"));
	cr_assert_eq(closes, 0);
	shutdown(fd, SHUT_WR);
	run_for(5);
	cr_assert_eq(closes, 1);
	cr_assert_not(close_complete);
	close(fd);
}

Test(http_sse, heartbeats_come_by_themselves)
{
	int fd = connect_pair();

	ask(fd, "/open");
	run_for(SSE_HEARTBEAT_MS + 200);
	cr_assert_str_eq(read_now(fd), "8\r\n: ping\n\n\r\n");
	close(fd);
}
