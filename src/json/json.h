/* json/json.h: strict reading with jansson, and a streaming writer of ours.
 *
 * Reading refuses duplicate keys, invalid UTF-8, NUL in strings, numbers beyond int64 or not finite, nesting beyond
 * 64, and values that would take more memory than 12 times their text (16 MiB are always allowed). The getters below make
 * the errors of the API: they name the field, the value and what was expected
 * ("machine_size: \"huge\": expected \"CPU:GIB\", as in \"1:2\""). Unknown keys are ignored. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/strv.h"

/* A reference that is given up at the end of its scope (json_decrefp is jansson's own). */
#define auto_json AUTO(json_decrefp) json_t *

/* Parses one value. -EINVAL with line, column, member ("events[3].content") and what was wrong. The caller owns *ret. */
MUST_CHECK int json_read(json_t **ret, const char *data, size_t len, struct err *err);
MUST_CHECK int json_read_object(json_t **ret, const char *data, size_t len, struct err *err); /* -EINVAL unless {...} */

/* Optional members: absent or null leaves *ret as it is and returns 0; a wrong type or range is -EINVAL.
 * Strings are borrowed from obj. */
MUST_CHECK int json_get_str(json_t *obj, const char *key, const char **ret, struct err *err);
MUST_CHECK int json_get_bool(json_t *obj, const char *key, bool *ret, struct err *err);
MUST_CHECK int json_get_i64(json_t *obj, const char *key, int64_t min, int64_t max, int64_t *ret, struct err *err);
MUST_CHECK int json_get_double(json_t *obj, const char *key, double min, double max, double *ret, struct err *err);
MUST_CHECK int json_get_object(json_t *obj, const char *key, json_t **ret, struct err *err); /* borrowed */
MUST_CHECK int json_get_array(json_t *obj, const char *key, json_t **ret, struct err *err);  /* borrowed */
/* The same, but absent or null is -EINVAL "KEY: missing: expected ...". */
MUST_CHECK int json_need_str(json_t *obj, const char *key, const char **ret, struct err *err);
/* An optional array of nothing but strings, as a copy that the caller frees with strv_free(). */
MUST_CHECK int json_get_strv(json_t *obj, const char *key, char ***ret, struct err *err);

/* -- writing ------------------------------------------------------------------------------------------------- */
/* Appends to a buffer; commas and escapes are placed by the writer. The first failure (-ENOBUFS) is kept and given by
 * json_write_end; calls after it do nothing, so callers check once.
 *   struct json_writer w; json_write_begin(&w, &b); json_open_object(&w); json_kv_str(&w, "id", id);
 *   json_close(&w); r = json_write_end(&w); */
#define JSON_WRITER_DEPTH 64
struct json_writer {
	struct buf *out;
	int error;                         /* first failure, negative errno */
	unsigned depth;
	char close[JSON_WRITER_DEPTH];     /* private: what closes each level */
	bool comma[JSON_WRITER_DEPTH + 1]; /* private */
};

void json_write_begin(struct json_writer *w, struct buf *out);
MUST_CHECK int json_write_end(struct json_writer *w); /* -EINVAL when a level was left open */
void json_open_object(struct json_writer *w);
void json_open_array(struct json_writer *w);
void json_close(struct json_writer *w);
void json_key(struct json_writer *w, const char *key);
void json_str(struct json_writer *w, const char *s); /* NULL writes null; invalid UTF-8 becomes U+FFFD */
void json_str_len(struct json_writer *w, const char *s, size_t len);
void json_i64(struct json_writer *w, int64_t v);
void json_double(struct json_writer *w, double v); /* not finite writes null */
void json_bool(struct json_writer *w, bool v);
void json_write_null(struct json_writer *w); /* json_null() is jansson's */
void json_raw(struct json_writer *w, const char *json, size_t len); /* a complete value, unchecked */
void json_value(struct json_writer *w, json_t *v);                  /* a jansson value, compact */

void json_kv_str(struct json_writer *w, const char *key, const char *s);
void json_kv_i64(struct json_writer *w, const char *key, int64_t v);
void json_kv_double(struct json_writer *w, const char *key, double v);
void json_kv_bool(struct json_writer *w, const char *key, bool v);
void json_kv_strv(struct json_writer *w, const char *key, char *const *list); /* ends with NULL; NULL = [] */
void json_kv_u64s(struct json_writer *w, const char *key, const uint64_t *list, size_t n); /* up to INT64_MAX each; NULL = [] */
