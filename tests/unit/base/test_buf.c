#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/buf.h"

Test(buf, is_a_string_from_the_start)
{
	auto_buf struct buf b;

	buf_init(&b, 10);
	cr_assert_not_null(b.data);
	cr_assert_str_eq(b.data, "");
	cr_assert_eq(b.len, 0);
}

Test(buf, holds_exactly_its_maximum)
{
	auto_buf struct buf b;

	buf_init(&b, 10);
	cr_assert_eq(buf_append(&b, "0123456789", 10), 0);
	cr_assert_eq(buf_append(&b, "x", 1), -ENOBUFS);
	cr_assert_eq(buf_append(&b, "", 0), 0);
	cr_assert_str_eq(b.data, "0123456789");
}

Test(buf, unchanged_by_what_does_not_fit)
{
	auto_buf struct buf b;
	char *to;

	buf_init(&b, 5);
	cr_assert_eq(buf_puts(&b, "abc"), 0);
	cr_assert_eq(buf_puts(&b, "def"), -ENOBUFS);
	cr_assert_eq(buf_printf(&b, "%d", 123), -ENOBUFS);
	cr_assert_eq(buf_reserve(&b, SIZE_MAX, &to), -ENOBUFS);
	cr_assert_str_eq(b.data, "abc");
	cr_assert_eq(b.len, 3);
}

Test(buf, unlimited_still_refuses_nonsense)
{
	auto_buf struct buf b;
	char *to;

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_reserve(&b, SIZE_MAX - 1, &to), -ENOBUFS);
	cr_assert_eq(buf_append(&b, "x", 1), 0);
}

Test(buf, consuming_makes_room_for_more)
{
	auto_buf struct buf b;

	buf_init(&b, 8);
	for (int i = 0; i < 10000; i++) {
		cr_assert_eq(buf_append(&b, "abcd", 4), 0);
		cr_assert_eq(buf_append(&b, "efgh", 4), 0);
		buf_consume(&b, 3);
		cr_assert_str_eq(b.data, "defgh");
		buf_consume(&b, 5);
	}
	cr_assert_eq(b.len, 0);
	cr_assert_leq(b.cap, 64);
}

Test(buf, a_queue_keeps_order_and_stays_small)
{
	auto_buf struct buf b;
	unsigned char in = 0, out = 0;

	buf_init(&b, 1000);
	for (int i = 0; i < 100000; i++) {
		for (int k = 0; k < 7; k++, in++)
			cr_assert_eq(buf_append(&b, &in, 1), 0);
		while (b.len > 500 - (size_t)(i % 50)) {
			cr_assert_eq((unsigned char)b.data[0], out++);
			buf_consume(&b, 1);
		}
		cr_assert_eq(b.data[b.len], '\0');
	}
	cr_assert_leq(b.cap, 4096);
}

Test(buf, gives_up_large_memory_when_drained)
{
	auto_buf struct buf b;
	char *to;

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_reserve(&b, 1 << 20, &to), 0);
	memset(to, 'x', 1 << 20);
	buf_commit(&b, 1 << 20);
	buf_consume(&b, 1 << 20);
	cr_assert_eq(b.cap, 0);
	cr_assert_str_eq(b.data, "");
	cr_assert_eq(buf_puts(&b, "again"), 0);
	cr_assert_str_eq(b.data, "again");
}

Test(buf, printf_grows_as_needed)
{
	auto_buf struct buf b;

	buf_init(&b, BUF_UNLIMITED);
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(buf_printf(&b, "%04d,", i), 0);
	cr_assert_eq(b.len, 5000);
	cr_assert_eq(strncmp(b.data + 4990, "0998,0999,", 10), 0);
}

Test(buf, steal_passes_the_content_on)
{
	auto_buf struct buf b;
	size_t len;
	char *s;

	buf_init(&b, 100);
	cr_assert_eq(buf_puts(&b, "hello world"), 0);
	buf_consume(&b, 6);
	s = buf_steal(&b, &len);
	cr_assert_str_eq(s, "world");
	cr_assert_eq(len, 5);
	cr_assert_eq(b.len, 0);
	free(s);
	s = buf_steal(&b, NULL);
	cr_assert_str_eq(s, "");
	free(s);
	cr_assert_eq(buf_puts(&b, "usable"), 0);
	cr_assert_eq(b.max, 100);
}
