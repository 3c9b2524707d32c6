#include <criterion/criterion.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "json/json.h"

static struct buf out;
static struct json_writer w;

static void begin(void)
{
	buf_init(&out, BUF_UNLIMITED);
	json_write_begin(&w, &out);
}

static void done(void)
{
	buf_done(&out);
}

TestSuite(json_write, .init = begin, .fini = done);

static void expect(const char *s)
{
	cr_assert_eq(json_write_end(&w), 0);
	cr_assert_str_eq(out.data, s);
}

Test(json_write, places_commas)
{
	json_open_object(&w);
	json_kv_str(&w, "s", "x");
	json_kv_str(&w, "n", NULL);
	json_kv_i64(&w, "i", INT64_MIN);
	json_kv_bool(&w, "b", true);
	json_key(&w, "a");
	json_open_array(&w);
	json_i64(&w, 1);
	json_open_array(&w);
	json_close(&w);
	json_open_object(&w);
	json_close(&w);
	json_bool(&w, false);
	json_close(&w);
	json_key(&w, "r");
	json_raw(&w, "{\"x\":1}", 7);
	json_kv_double(&w, "d", 0.1);
	json_close(&w);
	expect("{\"s\":\"x\",\"n\":null,\"i\":-9223372036854775808,\"b\":true,\"a\":[1,[],{},false],\"r\":{\"x\":1},"
	       "\"d\":0.1}");
}

Test(json_write, escapes)
{
	json_str(&w, "\"\\/\b\f\n\r\t\x01\x1f\x7f caf\xc3\xa9 \xf0\x9f\x98\x80");
	expect("\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f caf\xc3\xa9 \xf0\x9f\x98\x80\"");
}

Test(json_write, invalid_utf8_becomes_the_replacement_character)
{
	json_str_len(&w, "a\xff\xc3(\xed\xa0\x80z\xe2\x82", 10);
	expect("\"a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\"");
}

Test(json_write, keys_are_escaped_and_nul_has_a_form)
{
	json_open_object(&w);
	json_kv_str(&w, "a\"b\n", "x");
	json_key(&w, "nul");
	json_str_len(&w, "a\0b", 3);
	json_close(&w);
	expect("{\"a\\\"b\\n\":\"x\",\"nul\":\"a\\u0000b\"}");
}

Test(json_write, doubles_read_back)
{
	static const double values[] = { 0.1, 1.0 / 3, DBL_MAX, DBL_MIN, 5e-324, -2.5, 1e22, 123456789.123 };

	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		auto_json v = NULL;

		buf_clear(&out);
		json_write_begin(&w, &out);
		json_double(&w, values[i]);
		cr_assert_eq(json_write_end(&w), 0);
		cr_assert_eq(json_read(&v, out.data, out.len, NULL), 0, "%s", out.data);
		cr_assert(json_is_real(v), "%s", out.data);
		cr_assert(json_real_value(v) == values[i], "%s", out.data);
	}
}

Test(json_write, whole_doubles_stay_floats_and_the_infinite_is_null)
{
	json_open_array(&w);
	json_double(&w, 1);
	json_double(&w, -0.0);
	json_double(&w, NAN);
	json_double(&w, -INFINITY);
	json_close(&w);
	expect("[1.0,-0.0,null,null]");
}

Test(json_write, values_of_jansson)
{
	auto_json v = json_pack("{s:[i,s],s:n}", "a", 1, "x\n", "b");

	json_open_array(&w);
	json_value(&w, v);
	json_value(&w, NULL);
	json_close(&w);
	expect("[{\"a\":[1,\"x\\n\"],\"b\":null},null]");
}

Test(json_write, an_open_level_is_an_error)
{
	json_open_object(&w);
	cr_assert_eq(json_write_end(&w), -EINVAL);
}

Test(json_write, closing_too_much_is_an_error)
{
	json_open_object(&w);
	json_close(&w);
	json_close(&w);
	cr_assert_eq(json_write_end(&w), -EINVAL);
}

Test(json_write, too_deep_is_an_error)
{
	for (int i = 0; i < JSON_WRITER_DEPTH; i++)
		json_open_array(&w);
	cr_assert_eq(w.error, 0);
	json_open_array(&w);
	cr_assert_eq(w.error, -EINVAL);
}

Test(json_write, the_first_failure_is_kept)
{
	struct buf small;

	buf_init(&small, 10);
	json_write_begin(&w, &small);
	json_open_array(&w);
	json_str(&w, "0123456789");
	json_i64(&w, 1);
	json_close(&w);
	cr_assert_eq(json_write_end(&w), -ENOBUFS);
	cr_assert_leq(small.len, 10);
	buf_done(&small);
}

Test(json_write, lists_of_strings)
{
	char *list[] = { "a", "", "\"", NULL };

	json_open_object(&w);
	json_kv_strv(&w, "some", list);
	json_kv_strv(&w, "empty", list + 3);
	json_kv_strv(&w, "none", NULL);
	json_close(&w);
	expect("{\"some\":[\"a\",\"\",\"\\\"\"],\"empty\":[],\"none\":[]}");
}
