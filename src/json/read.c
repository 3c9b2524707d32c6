/* Strict reading with jansson. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/strv.h"
#include "json/json.h"
#include "json/private.h"

#define SHOWN_BYTES 60 /* of a value in an error message */
#define PLACE_BYTES 200

/* What jansson 2.14 takes of malloc: an object with its first table, an array with its own; a string, or a member with its name;
 * a number; a place in a table. */
#define OBJECT_BYTES 240
#define ARRAY_BYTES 144
#define STRING_BYTES 80
#define NUMBER_BYTES 32
#define PLACE_IN_TABLE_BYTES 16
/* So 64 MiB of "{}," would be 5 GiB. Events with a word each come to 11 times their text, ids of tokens to 8, most bodies to
 * less than 3; a small body may be of anything. */
#define TREE_PER_BYTE 12
#define SMALL_TREE_BYTES ((size_t)16 << 20)

/* -- parsing -------------------------------------------------------------------------------------------------- */

/* Where in the text a byte lies, both counted from 1, the column in bytes. */
struct position {
	int line, column;
};

static struct position position_of(const char *data, size_t offset)
{
	struct position p = { 1, 1 };

	for (size_t i = 0; i < offset; i++) {
		p.column++;
		if (data[i] == '\n') {
			p.line++;
			p.column = 1;
		}
	}
	return p;
}

/* Outside of strings. */
static size_t bytes_of(char before, char c)
{
	switch (c) {
	case '{':
		return OBJECT_BYTES;
	case '[':
		return ARRAY_BYTES;
	case '"':
		return STRING_BYTES;
	case ',':
		return PLACE_IN_TABLE_BYTES;
	default:
		return (c == '-' || (c >= '0' && c <= '9')) && strchr(",:[ \t\r\n", before) ? NUMBER_BYTES : 0;
	}
}

/* jansson recurses, and its own limit is 2,048; and it knows none of memory. So both are counted before it starts. In text
 * that is not JSON the count may be wrong, but then jansson refuses it, with no more than was counted until then: both see the
 * same strings up to the first error. */
static int check_limits(const char *data, size_t len, struct err *err)
{
	const size_t most = MAX(SMALL_TREE_BYTES, len * TREE_PER_BYTE);
	struct position p;
	bool in_string = false;
	size_t bytes = 0, i;
	int depth = 0;

	for (i = 0; i < len && bytes <= most && depth <= JSON_DEPTH_MAX; i++) {
		char c = data[i];

		if (in_string) {
			i += c == '\\';
			in_string = c != '"';
			continue;
		}
		bytes += bytes_of(i ? data[i - 1] : ' ', c);
		in_string = c == '"';
		depth += (c == '{' || c == '[') - (c == '}' || c == ']');
	}
	if (bytes <= most && depth <= JSON_DEPTH_MAX)
		return 0;
	p = position_of(data, i - 1);
	if (depth > JSON_DEPTH_MAX)
		return err_set(err, -EINVAL, "JSON: line %d, column %d: nested deeper than %d", p.line, p.column, JSON_DEPTH_MAX);
	return err_set(err, -EINVAL, "JSON: line %d, column %d: too many small values: expected what takes at most %zu bytes of memory",
		       p.line, p.column, most);
}

/* What the parser says may hold bytes of the value, cut anywhere. */
static void make_ascii(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = '?';
}

int json_read(json_t **ret, const char *data, size_t len, struct err *err)
{
	char place[PLACE_BYTES]; /* the member where the parser stopped */
	json_error_t where;
	json_t *v;
	int r;

	if (len == 0)
		return err_set(err, -EINVAL, "JSON: empty: expected a value");
	r = check_limits(data, len, err);
	if (r < 0)
		return r;
	v = json_loadb(data, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
	if (!v) {
		json_where(data, MIN((size_t)MAX(where.position, 0), len), place, sizeof(place));
		make_ascii(where.text);
		return err_set(err, -EINVAL, "JSON: line %d, column %d%s%s: %s", where.line, where.column, *place ? ", " : "",
			       place,
			       where.text);
	}
	*ret = v;
	return 0;
}

static const char *type_name(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
	default:
		return "null";
	}
}

int json_read_object(json_t **ret, const char *data, size_t len, struct err *err)
{
	auto_json v = NULL;
	int r = json_read(&v, data, len, err);

	if (r < 0)
		return r;
	if (!json_is_object(v))
		return err_set(err, -EINVAL, "JSON: %s: expected an object", type_name(v));
	*ret = STEAL(v);
	return 0;
}

/* -- members -------------------------------------------------------------------------------------------------- */

/* The value in short, for a message. ASCII, so that no character is cut in two. */
static void show(const json_t *v, char *ret)
{
	auto_free char *s = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	bool cut = s && strlen(s) > SHOWN_BYTES;

	snprintf(ret, SHOWN_BYTES + 4, "%.*s%s", SHOWN_BYTES, s ? s : "?", cut ? "..." : "");
}

static int PRINTF_LIKE(4, 5) bad_value(struct err *err, const char *key, const json_t *v, const char *fmt, ...)
{
	char expected[160], value[SHOWN_BYTES + 4];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(expected, sizeof(expected), fmt, ap);
	va_end(ap);
	show(v, value);
	return err_set(err, -EINVAL, "%s: %s: expected %s", key, value, expected);
}

/* NULL when absent or null. */
static json_t *member(json_t *obj, const char *key)
{
	json_t *v = json_object_get(obj, key);

	return json_is_null(v) ? NULL : v;
}

int json_get_str(json_t *obj, const char *key, const char **ret, struct err *err)
{
	const json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (!json_is_string(v))
		return bad_value(err, key, v, "a string");
	*ret = json_string_value(v);
	return 0;
}

int json_get_strv(json_t *obj, const char *key, char ***ret, struct err *err)
{
	json_t *array = NULL, *item;
	struct strv list = { 0 };
	size_t i;
	int r = json_get_array(obj, key, &array, err);

	if (r < 0 || !array)
		return r;
	json_array_foreach(array, i, item)
		if (!json_is_string(item))
			return err_set(err, -EINVAL, "%s: item %zu: expected a string", key, i);
	json_array_foreach(array, i, item)
		strv_add(&list, xstrdup(json_string_value(item)));
	*ret = strv_take(&list);
	return 0;
}

int json_need_str(json_t *obj, const char *key, const char **ret, struct err *err)
{
	if (!member(obj, key))
		return err_set(err, -EINVAL, "%s: missing: expected a string", key);
	return json_get_str(obj, key, ret, err);
}

int json_get_bool(json_t *obj, const char *key, bool *ret, struct err *err)
{
	const json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return bad_value(err, key, v, "true or false");
	*ret = json_is_true(v);
	return 0;
}

int json_get_i64(json_t *obj, const char *key, int64_t min, int64_t max, int64_t *ret, struct err *err)
{
	const json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max) {
		*ret = json_integer_value(v);
		return 0;
	}
	if (max == INT64_MAX)
		return bad_value(err, key, v, min == INT64_MIN ? "an integer" : "an integer of at least %lld",
				 (long long)min);
	return bad_value(err, key, v, "an integer from %lld to %lld", (long long)min, (long long)max);
}

int json_get_double(json_t *obj, const char *key, double min, double max, double *ret, struct err *err)
{
	const json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (json_is_number(v) && json_number_value(v) >= min && json_number_value(v) <= max) {
		*ret = json_number_value(v);
		return 0;
	}
	if (isinf(max))
		return bad_value(err, key, v, isinf(min) ? "a number" : "a number of at least %g", min);
	return bad_value(err, key, v, "a number from %g to %g", min, max);
}

int json_get_object(json_t *obj, const char *key, json_t **ret, struct err *err)
{
	json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (!json_is_object(v))
		return bad_value(err, key, v, "an object");
	*ret = v;
	return 0;
}

int json_get_array(json_t *obj, const char *key, json_t **ret, struct err *err)
{
	json_t *v = member(obj, key);

	if (!v)
		return 0;
	if (!json_is_array(v))
		return bad_value(err, key, v, "an array");
	*ret = v;
	return 0;
}
