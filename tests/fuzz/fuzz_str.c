/* The decoders of base/str.h: what they accept, they encode back; what they refuse leaves the buffer as it was. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void base64(const char *s, size_t len)
{
	auto_buf struct buf raw, again;

	buf_init(&raw, len);
	buf_init(&again, BUF_UNLIMITED);
	if (str_base64_decode(&raw, s, len) < 0) {
		check(raw.len == 0 && raw.data[0] == '\0');
		return;
	}
	check(str_base64_append(&again, raw.data, raw.len) == 0);
	check(again.len == len && memcmp(again.data, s, len) == 0);
}

static void percent(const char *s, size_t len, bool form)
{
	auto_buf struct buf raw, encoded, again;

	buf_init(&raw, len);
	buf_init(&encoded, BUF_UNLIMITED);
	buf_init(&again, BUF_UNLIMITED);
	if (str_percent_decode(&raw, s, len, form) < 0) {
		check(raw.len == 0);
		return;
	}
	check(strlen(raw.data) == raw.len);
	check(str_percent_encode(&encoded, raw.data) == 0);
	check(str_percent_decode(&again, encoded.data, encoded.len, form) == 0);
	check(again.len == raw.len && memcmp(again.data, raw.data, raw.len) == 0);
}

static void numbers(const char *s)
{
	uint64_t u;
	int64_t i;
	double d;

	if (str_to_u64(s, &u) == 0 && u <= INT64_MAX)
		check(str_to_i64(s, &i) == 0 && (uint64_t)i == u);
	if (str_to_i64(s, &i) == 0)
		check(str_to_double(s, &d) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *s = xstrndup((const char *)data, size);

	base64((const char *)data, size);
	percent((const char *)data, size, false);
	percent((const char *)data, size, true);
	numbers(s);
	return 0;
}
