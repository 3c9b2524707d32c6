/* Whatever json_read() accepts, the writer writes so that it reads back as the same value. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(json_t *v)
{
	auto_buf struct buf b;
	struct json_writer w;
	auto_json again = NULL;

	buf_init(&b, BUF_UNLIMITED);
	json_write_begin(&w, &b);
	json_value(&w, v);
	if (json_write_end(&w) < 0 || json_read(&again, b.data, b.len, NULL) < 0 || !json_equal(v, again))
		abort();
}

static void escaped_string(const char *s, size_t len)
{
	auto_buf struct buf b;
	struct json_writer w;
	auto_json v = NULL;

	buf_init(&b, BUF_UNLIMITED);
	json_write_begin(&w, &b);
	json_str_len(&w, s, len);
	if (json_write_end(&w) < 0)
		abort();
	/* jansson refuses an escaped NUL; all else must come through, unchanged where it was valid. */
	if (memchr(s, '\0', len))
		return;
	if (json_read(&v, b.data, b.len, NULL) < 0)
		abort();
	if (str_is_utf8(s, len) &&
	    (json_string_length(v) != len || memcmp(json_string_value(v), s, len) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = ERR_INIT;
	auto_json v = NULL;

	if (json_read(&v, (const char *)data, size, &err) == 0)
		round_trip(v);
	else if (err.code >= 0 || !err.msg[0])
		abort();
	escaped_string((const char *)data, size);
	return 0;
}
