/* base/log.h: one line per event to stderr, as text or JSON. Only programs log (daemon, spawner, egress, cli); library
 * layers return errors. Thread-safe: one write(2) per line. Secrets are never passed here.
 *
 *   2026-01-02T03:04:05.678Z INFO gateway: session opened sid=0a1b why="two words"
 *   {"ts":"2026-...","level":"INFO","program":"openreward","module":"gateway","msg":"session opened","sid":"0a1b",...}
 *
 * Text from outside may be passed as it is: control characters and invalid UTF-8 are escaped or replaced, so that it
 * neither forges a line nor steers a terminal. A line has at most 16 KiB; fields that do not fit are left out. errno is
 * kept. A reader that is gone or slow is not waited for beyond the write itself, and a failed write is not reported. */
#pragma once

#include "base/macros.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

/* Before any thread starts. program is kept, not copied. Default: LOG_INFO, LOG_TEXT. */
void log_setup(const char *program, enum log_level min_level, enum log_format format);

/* module: "gateway". kv: pairs of strings ("sid", sid, ..., NULL) that become fields; a NULL value is left out. */
void log_event(enum log_level level, const char *module, const char *const *kv, const char *fmt, ...)
	PRINTF_LIKE(4, 5);

/* For kv: log_event(LOG_INFO, "env", LOG_KV("name", name, "id", id), "ready after %d ms", ms). */
#define LOG_KV(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define log_debug(module, ...) log_event(LOG_DEBUG, module, NULL, __VA_ARGS__)
#define log_info(module, ...) log_event(LOG_INFO, module, NULL, __VA_ARGS__)
#define log_warn(module, ...) log_event(LOG_WARN, module, NULL, __VA_ARGS__)
#define log_error(module, ...) log_event(LOG_ERROR, module, NULL, __VA_ARGS__)
