/* api/deployments/logentry.h: one line of a server's log as clients see it: when, how severe, what.
 *
 * A line of JSON (servers get OPENREWARD_USE_STRUCTURED_LOGS=1) brings its own: message, msg or event; severity or level;
 * timestamp or time; an exception follows its message. In plain text a severity in front ("ERROR: ...", as uvicorn writes
 * it) counts; everything else is INFO at the time of the line's head (base/logline.h). Severities are Cloud Logging's. */
#pragma once

#include <stddef.h>

#include "base/logline.h"
#include "json/json.h"

#define LOG_SEVERITIES(X)                                                                                              \
	X(DEFAULT) X(DEBUG) X(INFO) X(NOTICE) X(WARNING) X(ERROR) X(CRITICAL) X(ALERT) X(EMERGENCY)
enum log_severity {
#define X(name) LOG_SEVERITY_##name,
	LOG_SEVERITIES(X)
#undef X
};
/* A static text, in capitals. */
const char *log_severity_name(enum log_severity s);
/* By its own name (len bytes) or another that loggers use ("warn", "fatal"), in any case. -EINVAL: none. */
MUST_CHECK int log_severity_find(const char *name, size_t len, enum log_severity *ret);

struct logentry {
	const char *timestamp; /* as time_iso() writes it; a line of JSON has whatever it says */
	enum log_severity severity;
	const char *message;   /* not ended by a NUL */
	size_t len;            /* bytes of it */
	char instance[LOGLINE_TAG_LEN + 1]; /* the end of its id; "" = not known */
	/* Private: what the texts point into. */
	json_t *object;
	char *joined;
	char stamp[TIME_ISO_LEN];
};

/* Any line: what is not understood is its message. It must outlive the entry, which must not be moved: it may point into itself.
 * fallback_ms: the time of a line that has none, since 1970. */
void logentry_read(struct logentry *ret, const char *line, size_t len, int64_t fallback_ms);
void logentry_done(struct logentry *e);
/* {"timestamp", "severity", "message"}, and with a deployment also {"deployment", "instance"}. */
void logentry_write(struct json_writer *w, const struct logentry *e, const char *deployment);
