#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "json/json.h"

static json_t *must_read(const char *s)
{
	struct err err = ERR_INIT;
	json_t *v = NULL;

	cr_assert_eq(json_read(&v, s, strlen(s), &err), 0, "%s: %s", s, err.msg);
	return v;
}

static void must_refuse(const char *s, size_t len, const char *why)
{
	struct err err = ERR_INIT;
	json_t *v = NULL;

	cr_assert_eq(json_read(&v, s, len, &err), -EINVAL, "accepted: %s", s);
	cr_assert_null(v);
	cr_assert(strstr(err.msg, why), "%s: said \"%s\", wanted \"%s\"", s, err.msg, why);
}

Test(json_read, accepts_every_kind)
{
	static const char *const good[] = { "{}", "[]", "1", "-0.5e3", "\"x\"", "true", "false", "null", " [1 , 2]\n",
					    "\"\\ud83d\\ude00\"", "9223372036854775807", "-9223372036854775808" };

	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		json_decref(must_read(good[i]));
}

Test(json_read, refuses)
{
	static const char *const bad[] = {
		"{\"a\":1,\"a\":2}", "\"\xff\"",	 "\"\\u0000\"", "{\"a\\u0000b\":1}", "\"\\ud800\"",
		"9223372036854775808", "1e400",	 "NaN",		"Infinity",	     "[1,]",
		"{a:1}",	       "'x'",		 "[1] 2",	"01",		     "+1",
		"// c\n1",	       "\"\t\"",	 "tru",		"[",		     "\"\xed\xa0\x80\"",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		must_refuse(bad[i], strlen(bad[i]), "JSON: line ");
	must_refuse("", 0, "empty");
	must_refuse("[1]\0", 4, "line 1");
	must_refuse("\"a\0b\"", 5, "line 1");
}

Test(json_read, says_where)
{
	must_refuse("{\n  \"a\": 1,\n  \"b\": x\n}", 23, "line 3, column 8");
	must_refuse("{\"a\":1,\"a\":2}", 13, "duplicate object key");
}

static char *nested(size_t depth)
{
	char *s = xmalloc(2 * depth + 1);

	memset(s, '[', depth);
	memset(s + depth, ']', depth);
	s[2 * depth] = '\0';
	return s;
}

Test(json_read, depth)
{
	auto_free char *just = nested(64), *deeper = nested(65), *bomb = nested(1000000);

	json_decref(must_read(just));
	must_refuse(deeper, strlen(deeper), "line 1, column 65: nested deeper than 64");
	must_refuse(bomb, strlen(bomb), "nested deeper than 64");
	/* Brackets in strings are text, behind an escaped quote too. */
	json_decref(must_read("[\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"]"));
}

/* 16 MiB of a list of the same. */
static char *list_of(const char *piece)
{
	size_t n = (16u << 20) / strlen(piece);
	char *s = xmalloc(n * strlen(piece) + 1);

	for (size_t i = 0; i < n; i++)
		memcpy(s + i * strlen(piece), piece, strlen(piece));
	*s = '[';
	s[n * strlen(piece) - 1] = ']';
	s[n * strlen(piece)] = '\0';
	return s;
}

/* Each begins with a blank: the first becomes the list's bracket. */
Test(json_read, memory)
{
	static const char *const bombs[] = { " {},", " [],", " \"\",", " [{}],", " {\"a\":1},", " 1,", " \"\\\"\",", " [1,2]," };
	static const char *const good[] = {
		" -0.5,", " -1.25e-3,", " 12345,", " \"src/main.c\",", " null,", " \"{},{},{},{},{},{},\",",
		" {\"eventType\":\"message\",\"eventId\":\"m1\",\"timestamp\":1,\"index\":0,\"rolloutEventId\":\"r1\",\"type\":\"reasoning\"},",
	};

	for (size_t i = 0; i < ARRAY_LEN(bombs); i++) {
		auto_free char *s = list_of(bombs[i]);
		struct err err = ERR_INIT;
		json_t *v = NULL;
		cr_assert_eq(json_read(&v, s, strlen(s), &err), -EINVAL, "accepted: %s", bombs[i]);
		cr_assert(strstr(err.msg, "too many small values: expected what takes at most 201"), "%s", err.msg);
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		auto_free char *s = list_of(good[i]);
		struct err err = ERR_INIT;
		auto_json v = NULL;
		cr_assert_eq(json_read(&v, s, strlen(s), &err), 0, "%s: %s", good[i], err.msg);
	}
}

Test(json_read, object_only)
{
	struct err err = ERR_INIT;
	json_t *v = NULL;

	cr_assert_eq(json_read_object(&v, "[1]", 3, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "JSON: an array: expected an object");
	cr_assert_eq(json_read_object(&v, "{}", 2, &err), 0);
	json_decref(v);
}

Test(json_get, absent_and_null_leave_the_default)
{
	auto_json o = must_read("{\"n\": null}");
	static const char *const keys[] = { "absent", "n" };
	const char *s = "default";
	struct err err = ERR_INIT;
	json_t *v = NULL;
	int64_t i = 7;
	double d = 1.5;
	bool b = true;

	for (size_t k = 0; k < 2; k++) {
		cr_assert_eq(json_get_str(o, keys[k], &s, &err), 0);
		cr_assert_eq(json_get_bool(o, keys[k], &b, &err), 0);
		cr_assert_eq(json_get_i64(o, keys[k], 0, 1, &i, &err), 0);
		cr_assert_eq(json_get_double(o, keys[k], 0, 1, &d, &err), 0);
		cr_assert_eq(json_get_object(o, keys[k], &v, &err), 0);
		cr_assert_eq(json_get_array(o, keys[k], &v, &err), 0);
		cr_assert_eq(json_need_str(o, keys[k], &s, &err), -EINVAL);
		cr_assert(str_ends(err.msg, ": missing: expected a string"));
	}
	cr_assert_str_eq(s, "default");
	cr_assert(b && i == 7 && d == 1.5 && !v);
}

Test(json_get, values)
{
	auto_json o = must_read("{\"s\":\"x\",\"b\":false,\"i\":-5,\"d\":2.5,\"o\":{},\"a\":[]}");
	const char *s = NULL;
	json_t *v = NULL;
	int64_t i = 0;
	double d = 0;
	bool b = true;

	cr_assert_eq(json_need_str(o, "s", &s, NULL), 0);
	cr_assert_str_eq(s, "x");
	cr_assert_eq(json_get_bool(o, "b", &b, NULL), 0);
	cr_assert_not(b);
	cr_assert_eq(json_get_i64(o, "i", -5, 5, &i, NULL), 0);
	cr_assert_eq(i, -5);
	cr_assert_eq(json_get_double(o, "d", 0, INFINITY, &d, NULL), 0);
	cr_assert_float_eq(d, 2.5, 0);
	cr_assert_eq(json_get_double(o, "i", -INFINITY, INFINITY, &d, NULL), 0);
	cr_assert_float_eq(d, -5, 0);
	cr_assert_eq(json_get_object(o, "o", &v, NULL), 0);
	cr_assert(json_is_object(v));
	cr_assert_eq(json_get_array(o, "a", &v, NULL), 0);
	cr_assert(json_is_array(v));
}

Test(json_get, errors_name_field_value_and_expectation)
{
	auto_json o = must_read("{\"s\":5,\"b\":\"yes\",\"i\":11,\"f\":1.5,\"d\":\"x\",\"o\":[1],\"long\":"
				"[\"0123456789012345678901234567890123456789012345678901234567890123456789\"]}");
	struct err err = ERR_INIT;
	const char *s = NULL;
	json_t *v = NULL;
	int64_t i = 0;
	double d = 0;
	bool b;

	cr_assert_eq(json_get_str(o, "s", &s, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "s: 5: expected a string");
	cr_assert_eq(json_get_bool(o, "b", &b, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "b: \"yes\": expected true or false");
	cr_assert_eq(json_get_i64(o, "i", 1, 10, &i, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "i: 11: expected an integer from 1 to 10");
	cr_assert_eq(json_get_i64(o, "f", 1, INT64_MAX, &i, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "f: 1.5: expected an integer of at least 1");
	cr_assert_eq(json_get_i64(o, "f", INT64_MIN, INT64_MAX, &i, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "f: 1.5: expected an integer");
	cr_assert_eq(json_get_double(o, "d", 0, 10, &d, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "d: \"x\": expected a number from 0 to 10");
	cr_assert_eq(json_get_object(o, "o", &v, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "o: [1]: expected an object");
	cr_assert_eq(json_get_array(o, "s", &v, &err), -EINVAL);
	cr_assert_eq(json_get_str(o, "long", &s, &err), -EINVAL);
	cr_assert(str_ends(err.msg, "...: expected a string"));
	cr_assert_lt(strlen(err.msg), 100);
}

Test(json_read, names_the_member_that_cannot_be_parsed)
{
	static const struct {
		const char *text, *place;
	} bad[] = {
		{ "{\"a\": 1e400}", ", a: " },
		{ "{\"x\": 1, \"limit\": 18446744073709551616}", ", limit: " },
		{ "{\"e\": [{\"b\": 1}, {\"c\": {\"name\": \"\\ud800\"}}]}", ", e[1].c.name: " },
		{ "{\"a\": {\"b\": 2}, \"name\": \"x\\u0000\"}", ", name: " },
		{ "{\"name\": \"\xff\"}", ", name: " },
		{ "{\"env\": {\"\xff\": 1}}", ", env: " },
		{ "{\"a\": \"\\\"}: {\", \"b\": nope}", ", b: " },
		{ "[1, [2, x]]", ", [1][1]: " },
		{ "{\"a\" 1}", "column 6: " },
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		must_refuse(bad[i].text, strlen(bad[i].text), bad[i].place);
}

Test(json, an_array_of_strings_is_a_copy)
{
	auto_json obj = NULL;
	char **list = NULL;
	struct err err;
	const char text[] = "{\"a\": [\"x\", \"\"], \"empty\": [], \"mixed\": [\"x\", 2], \"no\": null, \"text\": \"x\"}";

	cr_assert_eq(json_read(&obj, text, strlen(text), &err), 0);
	cr_assert(json_get_strv(obj, "no", &list, &err) == 0 && !list);
	cr_assert_eq(json_get_strv(obj, "mixed", &list, &err), -EINVAL);
	cr_assert_str_eq(err.msg, "mixed: item 1: expected a string");
	cr_assert_eq(json_get_strv(obj, "text", &list, &err), -EINVAL);
	cr_assert_null(list);
	cr_assert_eq(json_get_strv(obj, "a", &list, &err), 0);
	cr_assert_str_eq(list[0], "x");
	cr_assert(!*list[1] && !list[2]);
	strv_free(list);
	cr_assert_eq(json_get_strv(obj, "empty", &list, &err), 0);
	cr_assert_null(list[0]);
	strv_free(list);
}
