#include "api/deployments/logentry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/str.h"

/* -- severities -------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	enum log_severity severity;
} names[] = {
#define X(name) { #name, LOG_SEVERITY_##name },
	LOG_SEVERITIES(X)
#undef X
	{ "TRACE", LOG_SEVERITY_DEBUG },      { "WARN", LOG_SEVERITY_WARNING },  { "EXCEPTION", LOG_SEVERITY_ERROR },
	{ "ERR", LOG_SEVERITY_ERROR },        { "FATAL", LOG_SEVERITY_CRITICAL }, { "CRIT", LOG_SEVERITY_CRITICAL },
	{ "PANIC", LOG_SEVERITY_CRITICAL },   { "EMERG", LOG_SEVERITY_EMERGENCY },
};

const char *log_severity_name(enum log_severity s)
{
	return names[s].name;
}

int log_severity_find(const char *name, size_t len, enum log_severity *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strlen(names[i].name) == len && !strncasecmp(names[i].name, name, len)) {
			*ret = names[i].severity;
			return 0;
		}
	return -EINVAL;
}

/* -- reading ----------------------------------------------------------------------------------------------------- */

/* What loggers call the same thing; NULL = none of them is there. */
static const char *member(json_t *obj, const char *const *keys)
{
	for (; *keys; keys++) {
		const char *s = json_string_value(json_object_get(obj, *keys));
		if (s)
			return s;
	}
	return NULL;
}

static void take_object(struct logentry *e)
{
	static const char *const messages[] = { "message", "msg", "event", NULL };
	static const char *const severities[] = { "severity", "level", NULL };
	static const char *const times[] = { "timestamp", "time", NULL };
	static const char *const exceptions[] = { "exception", "stack_trace", "stack", NULL };
	const char *message = member(e->object, messages), *severity = member(e->object, severities);
	const char *when = member(e->object, times), *exception = member(e->object, exceptions);

	if (severity && log_severity_find(severity, strlen(severity), &e->severity) < 0)
		e->severity = LOG_SEVERITY_DEFAULT;
	if (when)
		e->timestamp = when;
	if (!message)
		return; /* the whole line then */
	if (exception)
		e->joined = xasprintf("%s\n%s", message, exception);
	e->message = e->joined ? e->joined : message;
	e->len = strlen(e->message);
}

/* "ERROR:    Exception in ASGI application" */
static void take_prefix(struct logentry *e)
{
	const char *colon = memchr(e->message, ':', MIN(e->len, (size_t)16));
	size_t n = colon ? (size_t)(colon - e->message) : 0;

	for (size_t i = 0; i < n; i++)
		if (e->message[i] < 'A' || e->message[i] > 'Z')
			return;
	if (n)
		(void)!log_severity_find(e->message, n, &e->severity);
}

void logentry_read(struct logentry *ret, const char *line, size_t len, int64_t fallback_ms)
{
	size_t skip = logline_skip(line, len);

	*ret = (struct logentry){ .severity = LOG_SEVERITY_INFO, .message = line + skip, .len = len - skip };
	if (skip)
		snprintf(ret->stamp, sizeof(ret->stamp), "%.*s", TIME_ISO_LEN - 1, line);
	else
		time_iso(fallback_ms, ret->stamp);
	ret->timestamp = ret->stamp;
	if (skip == LOGLINE_HEAD_LEN)
		snprintf(ret->instance, sizeof(ret->instance), "%.*s", LOGLINE_TAG_LEN, line + TIME_ISO_LEN);
	if (ret->len && *ret->message == '{' && json_read_object(&ret->object, ret->message, ret->len, NULL) == 0)
		take_object(ret);
	else
		take_prefix(ret);
}

void logentry_done(struct logentry *e)
{
	json_decref(e->object);
	free(e->joined);
	e->object = NULL;
	e->joined = NULL;
}

void logentry_write(struct json_writer *w, const struct logentry *e, const char *deployment)
{
	json_open_object(w);
	json_kv_str(w, "timestamp", e->timestamp);
	json_kv_str(w, "severity", log_severity_name(e->severity));
	json_key(w, "message");
	json_str_len(w, e->message, e->len);
	if (deployment) {
		json_kv_str(w, "deployment", deployment);
		json_kv_str(w, "instance", *e->instance ? e->instance : NULL);
	}
	json_close(w);
}
