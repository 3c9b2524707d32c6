/* The streaming writer. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/json.h"

static void put(struct json_writer *w, const char *s, size_t len)
{
	if (w->error == 0)
		w->error = buf_append(w->out, s, len);
}

static void put_str(struct json_writer *w, const char *s)
{
	put(w, s, strlen(s));
}

static void fail(struct json_writer *w, int code)
{
	if (w->error == 0)
		w->error = code;
}

/* Called before every value and key. */
static void separate(struct json_writer *w)
{
	if (w->comma[w->depth])
		put(w, ",", 1);
	w->comma[w->depth] = true;
}

void json_write_begin(struct json_writer *w, struct buf *out)
{
	*w = (struct json_writer){ .out = out };
}

int json_write_end(struct json_writer *w)
{
	if (w->depth > 0)
		fail(w, -EINVAL);
	return w->error;
}

static void open_level(struct json_writer *w, const char *open, char close)
{
	if (w->depth == JSON_WRITER_DEPTH) {
		fail(w, -EINVAL);
		return;
	}
	separate(w);
	put(w, open, 1);
	w->close[w->depth++] = close;
	w->comma[w->depth] = false;
}

void json_open_object(struct json_writer *w)
{
	open_level(w, "{", '}');
}

void json_open_array(struct json_writer *w)
{
	open_level(w, "[", ']');
}

void json_close(struct json_writer *w)
{
	if (w->depth == 0) {
		fail(w, -EINVAL);
		return;
	}
	w->depth--;
	put(w, &w->close[w->depth], 1);
}

/* Length of the UTF-8 sequence at s; 0 = not one. */
static size_t sequence(const char *s, size_t len)
{
	for (size_t n = 2; n <= MIN(len, (size_t)4); n++)
		if (str_is_utf8(s, n))
			/* "\xc3\xa9x" is valid as a whole as well, but the first fit is the sequence. */
			return n;
	return 0;
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void put_escaped(struct json_writer *w, unsigned char c)
{
	static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
	char text[8];

	for (size_t i = 0; i + 1 < sizeof(names); i += 2) {
		if ((unsigned char)names[i] != c)
			continue;
		text[0] = '\\';
		text[1] = names[i + 1];
		put(w, text, 2);
		return;
	}
	snprintf(text, sizeof(text), "\\u%04x", c);
	put_str(w, text);
}

static void put_quoted(struct json_writer *w, const char *s, size_t len)
{
	put(w, "\"", 1);
	for (size_t i = 0, n; i < len && w->error == 0; i += n) {
		for (n = 0; i + n < len && is_plain((unsigned char)s[i + n]); n++)
			;
		if (n > 0) {
			put(w, s + i, n);
			continue;
		}
		n = 1;
		if ((unsigned char)s[i] < 0x80) {
			put_escaped(w, (unsigned char)s[i]);
			continue;
		}
		n = sequence(s + i, len - i);
		if (n > 0) {
			put(w, s + i, n);
			continue;
		}
		n = 1;
		put_str(w, "\xef\xbf\xbd");
	}
	put(w, "\"", 1);
}

void json_key(struct json_writer *w, const char *key)
{
	separate(w);
	put_quoted(w, key, strlen(key));
	put(w, ":", 1);
	w->comma[w->depth] = false;
}

void json_str_len(struct json_writer *w, const char *s, size_t len)
{
	separate(w);
	put_quoted(w, s, len);
}

void json_str(struct json_writer *w, const char *s)
{
	if (s)
		json_str_len(w, s, strlen(s));
	else
		json_write_null(w);
}

void json_raw(struct json_writer *w, const char *json, size_t len)
{
	separate(w);
	put(w, json, len);
}

void json_i64(struct json_writer *w, int64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, v);
	json_raw(w, text, strlen(text));
}

/* The shortest of the forms that read back as the same number; with a point, so that it stays a float for readers
 * that tell the two apart. */
void json_double(struct json_writer *w, double v)
{
	char text[40];

	if (!isfinite(v)) {
		json_write_null(w);
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text) - 2, "%.*g", digits, v);
		if (strtod(text, NULL) == v)
			break;
	}
	if (!strpbrk(text, ".e"))
		memcpy(text + strlen(text), ".0", 3);
	json_raw(w, text, strlen(text));
}

void json_bool(struct json_writer *w, bool v)
{
	json_raw(w, v ? "true" : "false", v ? 4 : 5);
}

void json_write_null(struct json_writer *w)
{
	json_raw(w, "null", 4);
}

static int on_dump(const char *s, size_t len, void *arg)
{
	struct json_writer *w = arg;

	put(w, s, len);
	return w->error < 0 ? -1 : 0;
}

void json_value(struct json_writer *w, json_t *v)
{
	if (!v) {
		json_write_null(w);
		return;
	}
	separate(w);
	if (json_dump_callback(v, on_dump, w, JSON_COMPACT | JSON_ENCODE_ANY) < 0)
		fail(w, -EINVAL);
}

void json_kv_str(struct json_writer *w, const char *key, const char *s)
{
	json_key(w, key);
	json_str(w, s);
}

void json_kv_i64(struct json_writer *w, const char *key, int64_t v)
{
	json_key(w, key);
	json_i64(w, v);
}

void json_kv_double(struct json_writer *w, const char *key, double v)
{
	json_key(w, key);
	json_double(w, v);
}

void json_kv_bool(struct json_writer *w, const char *key, bool v)
{
	json_key(w, key);
	json_bool(w, v);
}

void json_kv_strv(struct json_writer *w, const char *key, char *const *list)
{
	json_key(w, key);
	json_open_array(w);
	for (; list && *list; list++)
		json_str(w, *list);
	json_close(w);
}

void json_kv_u64s(struct json_writer *w, const char *key, const uint64_t *list, size_t n)
{
	json_key(w, key);
	json_open_array(w);
	for (size_t i = 0; list && i < n; i++)
		json_i64(w, (int64_t)list[i]);
	json_close(w);
}
