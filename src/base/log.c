#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/str.h"
#include "base/time.h"

#define LINE_MAX_BYTES ((size_t)16 * 1024) /* what does not fit is cut */

static struct {
	const char *program;
	enum log_level min_level;
	enum log_format format;
} config = { .min_level = LOG_INFO, .format = LOG_TEXT };

static const char *const level_names[] = {
	[LOG_DEBUG] = "DEBUG", [LOG_INFO] = "INFO", [LOG_WARN] = "WARN", [LOG_ERROR] = "ERROR",
};

void log_setup(const char *program, enum log_level min_level, enum log_format format)
{
	config.program = program;
	config.min_level = min_level;
	config.format = format;
}

/* A line being made. A failed append means that it is full; room for the end is kept apart. */
static void put(struct buf *line, const char *s, size_t len)
{
	int r UNUSED = buf_append(line, s, len);
}

static void put_str(struct buf *line, const char *s)
{
	put(line, s, strlen(s));
}

/* One character of untrusted text, which must neither end the line nor steer a terminal; valid in JSON strings too
 * where json is set. Returns the bytes taken from s. */
static size_t put_char(struct buf *line, const char *s, size_t len, bool json)
{
	unsigned char c = (unsigned char)*s;
	char escape[8];

	for (size_t n = 1; c >= 0x20 && c != 0x7f && n <= MIN(len, (size_t)4); n++) {
		if (!str_is_utf8(s, n))
			continue;
		if (c == '"' || (c == '\\' && json))
			put(line, "\\", 1);
		put(line, s, n);
		return n;
	}
	if (c == '\n')
		put(line, "\\n", 2);
	else if (c < 0x80 || !json) {
		snprintf(escape, sizeof(escape), json ? "\\u%04x" : "\\x%02x", c);
		put_str(line, escape);
	} else
		put_str(line, "\xef\xbf\xbd");
	return 1;
}

static void put_text(struct buf *line, const char *s, bool json)
{
	size_t len = strlen(s);

	while (len > 0) {
		size_t n;

		/* A cut inside an escape would break the JSON: stop well before the end. */
		if (line->max - line->len < 16)
			return;
		n = put_char(line, s, len, json);
		s += n;
		len -= n;
	}
}

static void put_json_field(struct buf *line, const char *key, const char *value)
{
	put_str(line, line->len > 0 ? ",\"" : "{\"");
	put_text(line, key, true);
	put_str(line, "\":\"");
	put_text(line, value, true);
	put_str(line, "\"");
}

static void make_json(struct buf *line, const char *ts, enum log_level level, const char *module, const char *msg,
		      const char *const *kv)
{
	put_json_field(line, "ts", ts);
	put_json_field(line, "level", level_names[level]);
	if (config.program)
		put_json_field(line, "program", config.program);
	put_json_field(line, "module", module);
	put_json_field(line, "msg", msg);
	/* The longest message leaves no room for fields; half of one would not parse. */
	for (; kv && kv[0]; kv += 2)
		if (kv[1] && line->max - line->len > 6 * (strlen(kv[0]) + strlen(kv[1])) + 16)
			put_json_field(line, kv[0], kv[1]);
	line->max += 2;
	put_str(line, "}\n");
}

static bool needs_quotes(const char *s)
{
	return !*s || s[strcspn(s, " \"=\n\t")] != '\0';
}

static void make_text(struct buf *line, const char *ts, enum log_level level, const char *module, const char *msg,
		      const char *const *kv)
{
	put_str(line, ts);
	put_str(line, " ");
	put_str(line, level_names[level]);
	put_str(line, " ");
	put_str(line, module);
	put_str(line, ": ");
	for (const char *p = msg; *p;) {
		/* In the message itself, quotes need no escape. */
		if (*p == '"') {
			put(line, p++, 1);
			continue;
		}
		p += put_char(line, p, strlen(p), false);
	}
	for (; kv && kv[0]; kv += 2) {
		const char *quote = kv[1] && needs_quotes(kv[1]) ? "\"" : "";

		if (!kv[1])
			continue;
		put_str(line, " ");
		put_str(line, kv[0]);
		put_str(line, "=");
		put_str(line, quote);
		put_text(line, kv[1], false);
		put_str(line, quote);
	}
	line->max += 1;
	put_str(line, "\n");
}

void log_event(enum log_level level, const char *module, const char *const *kv, const char *fmt, ...)
{
	char ts[TIME_ISO_LEN], msg[4096];
	auto_buf struct buf line = { 0 };
	int saved = errno;
	ssize_t n UNUSED;
	va_list ap;

	buf_init(&line, LINE_MAX_BYTES); /* before any return: leaving the scope frees it */
	if (level < config.min_level)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	time_iso(time_wall_ms(), ts);
	if (config.format == LOG_JSON)
		make_json(&line, ts, level, module, msg, kv);
	else
		make_text(&line, ts, level, module, msg, kv);
	n = write(STDERR_FILENO, line.data, line.len);
	errno = saved;
}
