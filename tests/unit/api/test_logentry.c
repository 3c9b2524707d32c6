/* What clients see of the lines of a server's log, and logs of several revisions as one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/deployments/logs.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define AT "2026-01-02T03:04:05.678Z"
#define HEAD AT " 1a2b3c4d "

TestSuite(logentry, .timeout = 20);

Test(logentry, severity_time_and_message)
{
	static const struct {
		const char *line, *timestamp, *severity, *message;
	} cases[] = {
		{ HEAD "plain text", AT, "INFO", "plain text" },
		{ "no head at all", "1970-01-02T00:00:00.000Z", "INFO", "no head at all" },
		{ HEAD "{\"severity\": \"ERROR\", \"message\": \"m\"}", AT, "ERROR", "m" },
		{ HEAD "{\"level\": \"warn\", \"msg\": \"m\", \"time\": \"2025-12-12T00:00:00Z\"}", "2025-12-12T00:00:00Z", "WARNING", "m" },
		{ HEAD "{\"level\": \"critical\", \"event\": \"m\", \"timestamp\": \"t\"}", "t", "CRITICAL", "m" },
		{ HEAD "{\"level\": \"error\", \"event\": \"m\", \"exception\": \"Traceback\\n  x\"}", AT, "ERROR", "m\nTraceback\n  x" },
		{ HEAD "{\"level\": \"shout\", \"message\": \"m\"}", AT, "DEFAULT", "m" },
		{ HEAD "{\"level\": 30, \"message\": \"m\"}", AT, "INFO", "m" },
		{ HEAD "{\"severity\": \"NOTICE\"}", AT, "NOTICE", "{\"severity\": \"NOTICE\"}" },
		{ HEAD "{\"severity\": \"ERROR\", \"message\"", AT, "INFO", "{\"severity\": \"ERROR\", \"message\"" },
		{ HEAD "ERROR:    Exception in ASGI application", AT, "ERROR", "ERROR:    Exception in ASGI application" },
		{ HEAD "WARNING: x", AT, "WARNING", "WARNING: x" },
		{ HEAD "Note: x", AT, "INFO", "Note: x" },
		{ HEAD ": x", AT, "INFO", ": x" },
		{ HEAD "", AT, "INFO", "" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct logentry e;
		logentry_read(&e, cases[i].line, strlen(cases[i].line), 86400000);
		auto_free char *message = xstrndup(e.message, e.len);
		cr_assert_str_eq(e.timestamp, cases[i].timestamp, "%s", cases[i].line);
		cr_assert_str_eq(log_severity_name(e.severity), cases[i].severity, "%s", cases[i].line);
		cr_assert_str_eq(message, cases[i].message);
		cr_assert_str_eq(e.instance, strstr(cases[i].line, "1a2b3c4d") ? "1a2b3c4d" : "");
		logentry_done(&e);
	}
}

/* -- several logs ------------------------------------------------------------------------------------------------ */

static struct log_source *sources(const char *const *texts, size_t n, size_t max)
{
	struct log_source *list = xcalloc(n, sizeof(*list));

	for (size_t i = 0; i < n; i++) {
		char path[] = "/tmp/test-logs-XXXXXX";
		int fd = mkstemp(path);
		cr_assert_eq(fd_write_all(fd, texts[i], strlen(texts[i])), 0);
		close(fd);
		list[i].path = xstrdup(path);
		snprintf(list[i].id, sizeof(list[i].id), "%zu", i);
	}
	log_sources_read(list, n, max);
	for (size_t i = 0; i < n; i++)
		unlink(list[i].path);
	return list;
}

static void collect(void *arg, const struct log_source *s, const struct logentry *e)
{
	cr_assert_eq(buf_printf(arg, "%s:%.*s ", s->id, (int)e->len, e->message), 0);
}

static void check(const char *const *texts, size_t n, size_t max, const struct log_query *q, const char *expected)
{
	struct log_source *list = sources(texts, n, max);
	auto_buf struct buf b = { 0 };

	buf_init(&b, 1u << 20);
	log_sources_merge(list, n, q, collect, &b);
	cr_assert_str_eq(b.data ? b.data : "", expected);
	log_sources_free(list, n);
}

#define LINE(second, text) "2026-01-02T03:04:0" #second ".000Z 1a2b3c4d " text "\n"

Test(logentry, revisions_are_merged_by_time)
{
	static const char *const texts[] = {
		LINE(1, "a") LINE(3, "c") LINE(3, "{\"level\": \"error\", \"message\": \"d\"}") "raw\n" LINE(6, "g"),
		LINE(2, "b") LINE(5, "ERROR: f") "\n",
		"old\n",
	};

	check(texts, 3, 4096, &(struct log_query){ .limit = 100 }, "2:old 0:a 1:b 0:c 0:d 0:raw 1:ERROR: f 0:g ");
	check(texts, 3, 4096, &(struct log_query){ .limit = 2 }, "1:ERROR: f 0:g ");
	check(texts, 3, 4096, &(struct log_query){ .limit = 0 }, "");
	check(texts, 3, 4096, &(struct log_query){ .limit = 2, .severity = LOG_SEVERITY_WARNING }, "0:d 1:ERROR: f ");
	check(texts, 3, 4096, &(struct log_query){ .limit = 1, .severity = LOG_SEVERITY_ERROR }, "1:ERROR: f ");
	check(texts, 3, 4096, &(struct log_query){ .limit = 100, .since = "2026-01-02T03:04:05" }, "1:ERROR: f 0:g ");
	check(texts, 2, 60, &(struct log_query){ .limit = 100 }, "0:raw 1:ERROR: f 0:g ");
}

Test(logentry, a_log_that_is_not_there_is_empty)
{
	struct log_source *list = xcalloc(1, sizeof(*list));
	auto_buf struct buf b = { 0 };

	buf_init(&b, 1u << 20);
	list->path = xstrdup("/nonexistent/log");
	log_sources_read(list, 1, 4096);
	log_sources_merge(list, 1, &(struct log_query){ .limit = 100 }, collect, &b);
	cr_assert_eq(b.len, 0);
	log_sources_free(list, 1);
}
