#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

Test(str, equality_and_affixes)
{
	cr_assert(str_eq(NULL, NULL));
	cr_assert_not(str_eq("", NULL));
	cr_assert(str_ieq("Content-LENGTH", "content-length"));
	cr_assert_not(str_ieq("abc", "abcd"));
	cr_assert_not(str_ieq("[", "{")); /* differ by the bit that differs between cases */
	cr_assert(str_starts("prefix", "pre"));
	cr_assert_not(str_starts("pre", "prefix"));
	cr_assert_not(str_starts(NULL, ""));
	cr_assert(str_ends("a.tar.gz", ".gz"));
	cr_assert_not(str_ends("gz", ".gz"));
}

Test(str, u64_is_strict)
{
	static const char *const bad[] = { "", " 1", "1 ", "+1", "-1", "0x10", "1e3", "1.0", "1\n", "\xd9\xa1" };
	uint64_t v = 42;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(str_to_u64(bad[i], &v), -EINVAL, "\"%s\"", bad[i]);
	cr_assert_eq(str_to_u64(NULL, &v), -EINVAL);
	cr_assert_eq(str_to_u64("18446744073709551616", &v), -ERANGE);
	cr_assert_eq(str_to_u64("99999999999999999999999", &v), -ERANGE);
	cr_assert_eq(v, 42, "outputs are untouched on failure");
	cr_assert_eq(str_to_u64("18446744073709551615", &v), 0);
	cr_assert_eq(v, UINT64_MAX);
	cr_assert_eq(str_to_u64("000", &v), 0);
	cr_assert_eq(v, 0);
}

Test(str, i64_has_both_ends)
{
	int64_t v = 1;

	cr_assert_eq(str_to_i64("-9223372036854775808", &v), 0);
	cr_assert_eq(v, INT64_MIN);
	cr_assert_eq(str_to_i64("9223372036854775807", &v), 0);
	cr_assert_eq(v, INT64_MAX);
	cr_assert_eq(str_to_i64("9223372036854775808", &v), -ERANGE);
	cr_assert_eq(str_to_i64("-9223372036854775809", &v), -ERANGE);
	cr_assert_eq(str_to_i64("-", &v), -EINVAL);
	cr_assert_eq(str_to_i64("--1", &v), -EINVAL);
}

Test(str, double_is_plain_decimal)
{
	static const char *const bad[] = { "", "-", ".", "1.", ".5", "1e3", "0x1p3", "inf", "nan", "1,5", " 1", "1 " };
	auto_free char *huge = xmalloc(401);
	double v;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(str_to_double(bad[i], &v), -EINVAL, "\"%s\"", bad[i]);
	memset(huge, '9', 400);
	huge[400] = '\0';
	cr_assert_eq(str_to_double(huge, &v), -ERANGE);
	cr_assert_eq(str_to_double("0.5", &v), 0);
	cr_assert_float_eq(v, 0.5, 0);
	cr_assert_eq(str_to_double("-16", &v), 0);
	cr_assert_float_eq(v, -16, 0);
}

Test(str, names_are_safe_path_components)
{
	cr_assert(str_is_name("hello-world_1.2", 64));
	cr_assert(str_is_name("a", 1));
	cr_assert_not(str_is_name("ab", 1));
	cr_assert_not(str_is_name("", 64));
	cr_assert_not(str_is_name(NULL, 64));
	cr_assert_not(str_is_name(".", 64));
	cr_assert_not(str_is_name("..", 64));
	cr_assert_not(str_is_name(".hidden", 64));
	cr_assert_not(str_is_name("-flag", 64));
	cr_assert_not(str_is_name("a/b", 64));
	cr_assert_not(str_is_name("a b", 64));
	cr_assert_not(str_is_name("caf\xc3\xa9", 64));
}

Test(str, utf8_is_strict)
{
	static const char *const good[] = { "", "plain", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf",
					    "\xee\x80\x80", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = {
		"\x80",             /* continuation alone */
		"\xc3",             /* cut short */
		"\xc0\xaf",         /* overlong '/' */
		"\xe0\x80\xaf",     /* overlong */
		"\xf0\x80\x80\xaf", /* overlong */
		"\xed\xa0\x80",     /* surrogate */
		"\xf4\x90\x80\x80", /* beyond U+10FFFF */
		"\xf8\x88\x80\x80", /* five bytes */
		"\xff",
		"\xc3\x28",
		"\xe2\x82",
	};

	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		cr_assert(str_is_utf8(good[i], strlen(good[i])), "good %zu", i);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_not(str_is_utf8(bad[i], strlen(bad[i])), "bad %zu", i);
	cr_assert_not(str_is_utf8("a\0b", 3));
}

Test(str, hex_both_ways)
{
	unsigned char raw[4] = { 0x00, 0x9f, 0xA0, 0xff }, back[4] = { 1, 2, 3, 4 };
	char text[9];

	str_hex(raw, 4, text);
	cr_assert_str_eq(text, "009fa0ff");
	cr_assert_eq(str_unhex("009FA0fg", back, 4), -EINVAL);
	cr_assert_eq(str_unhex("009fa0", back, 4), -EINVAL);
	cr_assert_eq(str_unhex("009fa0ff0", back, 4), -EINVAL);
	cr_assert_eq(back[0], 1, "untouched on failure");
	cr_assert_eq(str_unhex("009FA0ff", back, 4), 0);
	cr_assert_arr_eq(back, raw, 4);
}

Test(str, hex_digits)
{
	for (int i = 0; i < 16; i++) {
		cr_assert_eq(str_hex_digit("0123456789abcdef"[i]), i);
		cr_assert_eq(str_hex_digit("0123456789ABCDEF"[i]), i);
	}
	for (const char *s = "/:@G`g \x80"; *s; s++)
		cr_assert_eq(str_hex_digit(*s), -1);
	cr_assert_eq(str_hex_digit('\0'), -1);
}

Test(str, base64_vectors_of_the_rfc)
{
	static const char *const pairs[][2] = {
		{ "", "" },
		{ "f", "Zg==" },
		{ "fo", "Zm8=" },
		{ "foo", "Zm9v" },
		{ "foob", "Zm9vYg==" },
		{ "fooba", "Zm9vYmE=" },
		{ "foobar", "Zm9vYmFy" },
		{ "\xfb\xff\xbf", "+/+/" },
	};

	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		auto_buf struct buf enc, dec;

		buf_init(&enc, 100);
		buf_init(&dec, 100);
		cr_assert_eq(str_base64_append(&enc, pairs[i][0], strlen(pairs[i][0])), 0);
		cr_assert_str_eq(enc.data, pairs[i][1]);
		cr_assert_eq(str_base64_decode(&dec, enc.data, enc.len), 0);
		cr_assert_str_eq(dec.data, pairs[i][0]);
	}
}

Test(str, base64_refuses)
{
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Zm9v\n", "Zm-_",
					   "Zm 9", "=Zm9", "Zm9v====" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		auto_buf struct buf b;

		buf_init(&b, 100);
		cr_assert_eq(buf_puts(&b, "kept"), 0);
		cr_assert_eq(str_base64_decode(&b, bad[i], strlen(bad[i])), -EINVAL, "%s", bad[i]);
		cr_assert_str_eq(b.data, "kept");
	}
}

Test(str, base64_respects_the_maximum)
{
	auto_buf struct buf b;

	buf_init(&b, 5);
	cr_assert_eq(str_base64_append(&b, "foob", 4), -ENOBUFS);
	cr_assert_eq(str_base64_decode(&b, "Zm9vYmFy", 8), -ENOBUFS);
	cr_assert_eq(str_base64_decode(&b, "Zm9vYmE=", 8), 0);
}

Test(str, base64_random_round_trips)
{
	unsigned char raw[200];

	for (size_t n = 0; n < sizeof(raw); n++) {
		auto_buf struct buf enc, dec;

		buf_init(&enc, BUF_UNLIMITED);
		buf_init(&dec, BUF_UNLIMITED);
		random_bytes(raw, n);
		cr_assert_eq(str_base64_append(&enc, raw, n), 0);
		cr_assert_eq(str_base64_decode(&dec, enc.data, enc.len), 0);
		cr_assert_eq(dec.len, n);
		cr_assert_eq(memcmp(dec.data, raw, n), 0);
	}
}

static int decode(const char *s, bool form, char *ret)
{
	auto_buf struct buf b;
	int r;

	buf_init(&b, 100);
	r = str_percent_decode(&b, s, strlen(s), form);
	if (r == 0)
		memcpy(ret, b.data, b.len + 1);
	else
		cr_assert_eq(b.len, 0);
	return r;
}

Test(str, percent_decodes)
{
	char s[101];

	cr_assert_eq(decode("a%2Fb%c3%A9+c", false, s), 0);
	cr_assert_str_eq(s, "a/b\xc3\xa9+c");
	cr_assert_eq(decode("a+b%2B", true, s), 0);
	cr_assert_str_eq(s, "a b+");
	cr_assert_eq(decode("", true, s), 0);
	cr_assert_str_eq(s, "");
}

Test(str, percent_refuses)
{
	static const char *const bad[] = { "%", "a%2", "%zz", "%2g", "%%20", "%00", "x%0" };
	auto_buf struct buf b;
	char s[101];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(decode(bad[i], false, s), -EINVAL, "%s", bad[i]);
	buf_init(&b, 100);
	cr_assert_eq(str_percent_decode(&b, "a\0b", 3, false), -EINVAL);
	/* The bytes beyond len do not count, whatever they are. */
	cr_assert_eq(str_percent_decode(&b, "%20", 2, false), -EINVAL);
}

Test(str, percent_encodes_all_but_unreserved)
{
	auto_buf struct buf b;

	buf_init(&b, 100);
	cr_assert_eq(str_percent_encode(&b, "aZ0-._~ /?&=+%\xc3"), 0);
	cr_assert_str_eq(b.data, "aZ0-._~%20%2F%3F%26%3D%2B%25%C3");
}

Test(str, constant_time_equality)
{
	cr_assert(str_ct_eq("abc", "abc", 3));
	cr_assert_not(str_ct_eq("abc", "abd", 3));
	cr_assert_not(str_ct_eq("\0bc", "\x80" "bc", 3));
	cr_assert(str_ct_eq("abX", "abY", 2));
	cr_assert(str_ct_eq("", "", 0));
}
