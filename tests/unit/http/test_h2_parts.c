/* What HTTP/2 is made of that does no I/O: frames that are counted, header fields that become a header section. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/mem.h"
#include "http/h2_guard.h"
#include "http/h2_head.h"

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, CONTINUATION = 9, UNKNOWN = 200 };

static struct h2_guard guard;
static struct http_limits limits;

static void begin(void)
{
	http_limits_default(&limits);
	limits.h2_resets = 10;
	limits.h2_resets_burst = 5;
	limits.h2_controls = 100;
	limits.h2_controls_burst = 50;
	h2_guard_init(&guard, &limits, 1000);
}

TestSuite(h2_parts, .init = begin, .timeout = 30);

static int count(uint64_t now, unsigned type, unsigned flags, size_t length)
{
	int n = 0;

	while (n < 1000 && !h2_guard_frame(&guard, now, type, flags, length))
		n++;
	return n;
}

Test(h2_parts, a_burst_and_then_so_many_in_a_second)
{
	cr_assert_eq(count(1000, RST_STREAM, 0, 4), 5);
	cr_assert_eq(count(1099, RST_STREAM, 0, 4), 0);
	cr_assert_eq(count(1100, RST_STREAM, 0, 4), 1);
	cr_assert_eq(count(9000, RST_STREAM, 0, 4), 5);
	cr_assert_eq(count(9000, SETTINGS, 0, 0), 50, "another bucket");
	cr_assert_eq(count(9100, UNKNOWN, 0, 1000), 10);
	cr_assert_not_null(h2_guard_reset(&guard, 9000));
}

Test(h2_parts, what_brings_something_is_free)
{
	cr_assert_eq(count(1000, DATA, 0, 1), 1000);
	cr_assert_eq(count(1000, DATA, 8, 257), 1000);
	cr_assert_eq(count(1000, HEADERS, 0, 100), 1000);
	cr_assert_eq(count(1000, DATA, 0, 0), 50);
	cr_assert_eq(count(2000, DATA, 8, 256), 50);
	cr_assert_eq(count(2000, PRIORITY, 0, 5), 0);
}

Test(h2_parts, what_is_sent_pays_for_frames)
{
	cr_assert_eq(count(1000, SETTINGS, 0, 0), 50);
	h2_guard_sent(&guard, 511);
	cr_assert_eq(count(1000, SETTINGS, 0, 0), 0);
	h2_guard_sent(&guard, 1);
	cr_assert_eq(count(1000, SETTINGS, 0, 0), 1);
	h2_guard_sent(&guard, 100 << 20);
	cr_assert_eq(count(1000, SETTINGS, 0, 0), 50, "never more than the burst");
}

Test(h2_parts, a_block_of_fields_has_an_end)
{
	limits.h2_controls_burst = 1000;
	h2_guard_init(&guard, &limits, 0);
	for (int i = 0; i < 3; i++) {
		cr_assert_null(h2_guard_frame(&guard, 0, HEADERS, 0, 16384));
		cr_assert_eq(count(0, CONTINUATION, 0, 16384), 3);
	}
	cr_assert_null(h2_guard_frame(&guard, 0, HEADERS, 0, 1));
	cr_assert_lt(count(0, CONTINUATION, 0, 0), 30);
}

static void feed(const void *p, size_t len)
{
	cr_assert_null(h2_guard_bytes(&guard, 0, p, len));
}

Test(h2_parts, a_block_is_open_until_its_last_byte)
{
	feed("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	cr_assert_not(guard.block_open);
	feed("\0\0\2\1\0\0\0\0\1xy", 11);
	cr_assert(guard.block_open);
	feed("\0\0\2\11\4\0\0\0\1x", 10);
	cr_assert(guard.block_open);
	feed("y", 1);
	cr_assert_not(guard.block_open);
	feed("\0\0\0\1\4\0\0\0\3", 9);
	cr_assert_not(guard.block_open);
	cr_assert_eq(guard.blocks, 2);
}

Test(h2_parts, frames_are_found_however_they_are_cut)
{
	/* The preface; DATA with 300 bytes; SETTINGS that is empty, 60 times. */
	char sent[24 + 9 + 300 + 60 * 9];

	memset(sent, 'x', sizeof(sent));
	memcpy(sent + 24, "\0\1\54\0\0\0\0\0\1", 9);
	for (int i = 0; i < 60; i++)
		memcpy(sent + 333 + (size_t)i * 9, "\0\0\0\4\0\0\0\0\0", 9);
	for (size_t step = 1; step <= sizeof(sent); step++) {
		size_t at = 0;

		h2_guard_init(&guard, &limits, 0);
		while (at < sizeof(sent) && !h2_guard_bytes(&guard, 0, sent + at, MIN(step, sizeof(sent) - at)))
			at += step;
		cr_assert(at < 333 + 51 * 9 && at + step >= 333 + 51 * 9, "steps of %zu: %zu", step, at);
	}
}

static struct h2_head head;

static void add(const char *name, const char *value)
{
	h2_head_add(&head, name, strlen(name), value, strlen(value));
}

static void add_pseudo(const char *method, const char *path)
{
	add(":method", method);
	add(":scheme", "https");
	add(":authority", "h:1");
	add(":path", path);
}

/* The section, in static memory. */
static const char *section(void)
{
	static char text[1000];
	struct buf b;

	buf_init(&b, sizeof(text));
	cr_assert_eq(h2_head_end(&head, &b), 0);
	memcpy(text, b.data, b.len + 1);
	buf_done(&b);
	return text;
}

static int refusal(void)
{
	const char *why;

	return h2_head_refusal(&head, &why);
}

Test(h2_parts, fields_become_a_section)
{
	h2_head_init(&head, 500);
	for (int i = 0; i < 2; i++) {
		h2_head_begin(&head);
		add_pseudo("GET", "/a?b");
		add("x", "1");
		add("cookie", "a=1");
		add("host", "h:1");
		add("y", "");
		add("cookie", "b=2");
		cr_assert_eq(refusal(), 0);
		cr_assert_str_eq(section(), "GET /a?b HTTP/1.1\r\nHost: h:1\r\nx: 1\r\ny: \r\ncookie: a=1; b=2\r\n\r\n");
	}
	h2_head_begin(&head);
	add(":method", "CONNECT");
	add(":authority", "h:2");
	cr_assert_str_eq(section(), "CONNECT h:2 HTTP/1.1\r\nHost: h:2\r\n\r\n");
	h2_head_done(&head);
}

Test(h2_parts, what_could_be_read_in_two_ways_is_refused)
{
	static const char *const bad[][2] = { { "x", "a\r\nb: c" }, { "x", "a\nb" }, { "x\r\ny", "a" }, { ":path", "/again" }, { ":other", "x" } };

	h2_head_init(&head, 500);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		h2_head_begin(&head);
		add_pseudo("GET", "/");
		add(bad[i][0], bad[i][1]);
		cr_assert_eq(refusal(), 400, "%s", bad[i][0]);
	}
	h2_head_begin(&head);
	h2_head_add(&head, "x", 1, "a\0b", 3);
	cr_assert_eq(refusal(), 400);
	h2_head_begin(&head);
	add(":scheme", "ftp");
	cr_assert_eq(refusal(), 400);
	h2_head_done(&head);
}

Test(h2_parts, too_much_is_counted_and_not_kept)
{
	char value[400];

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	h2_head_init(&head, 500);
	add_pseudo("GET", "/");
	add("x", value);
	cr_assert_eq(refusal(), 0);
	for (int i = 0; i < 100; i++)
		add("x", value);
	cr_assert_eq(refusal(), 431);
	cr_assert_leq(head.text.len, 500);
	cr_assert_gt(head.bytes, 40000);
	h2_head_begin(&head);
	add_pseudo("GET", value);
	add(":path", value);
	cr_assert_eq(refusal(), 431);
	limits.header_bytes = 100;
	h2_head_done(&head);
	h2_head_init(&head, 100);
	add_pseudo("GET", value);
	cr_assert_eq(refusal(), 414);
	h2_head_done(&head);
}
