#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

static int saved_stderr, out;

static void capture(void)
{
	saved_stderr = dup(STDERR_FILENO);
	cr_assert_eq(fd_memfd(&out, "log", "", 0, NULL), 0);
	dup2(out, STDERR_FILENO);
}

/* What was logged since capture(); stderr is back where it was. */
static char *logged(void)
{
	auto_buf struct buf b;

	dup2(saved_stderr, STDERR_FILENO);
	lseek(out, 0, SEEK_SET);
	buf_init(&b, 1 << 20);
	cr_assert_eq(fd_read_to_end(out, &b), 0);
	return buf_steal(&b, NULL);
}

Test(log, text_with_fields)
{
	auto_free char *s = NULL;

	capture();
	log_event(LOG_WARN, "gateway", LOG_KV("sid", "abc", "none", NULL, "why", "two words", "empty", ""), "gone after %d ms", 5);
	s = logged();
	cr_assert_eq(s[10], 'T');
	cr_assert_str_eq(s + 24, " WARN gateway: gone after 5 ms sid=abc why=\"two words\" empty=\"\"\n");
}

Test(log, text_stays_on_one_line_and_steers_no_terminal)
{
	auto_free char *s = NULL;

	capture();
	log_event(LOG_INFO, "m", LOG_KV("k", "a\nb\"c"), "x\n2026 INFO forged\x1b[2J \"q\" caf\xc3\xa9 \xff");
	s = logged();
	cr_assert_str_eq(s + 24, " INFO m: x\\n2026 INFO forged\\x1b[2J \"q\" caf\xc3\xa9 \\xff k=\"a\\nb\\\"c\"\n");
}

Test(log, json)
{
	auto_free char *s = NULL;

	log_setup("openreward", LOG_DEBUG, LOG_JSON);
	capture();
	log_event(LOG_DEBUG, "m", LOG_KV("k", "a\\b\t\"\xff"), "say \"%s\"", "hi\n");
	s = logged();
	cr_assert(str_starts(s, "{\"ts\":\"2"));
	cr_assert_str_eq(strchr(s, ','), ",\"level\":\"DEBUG\",\"program\":\"openreward\",\"module\":\"m\",\"msg\":\"say "
					 "\\\"hi\\n\\\"\",\"k\":\"a\\\\b\\u0009\\\"\xef\xbf\xbd\"}\n");
}

Test(log, below_the_level_nothing)
{
	auto_free char *s = NULL;

	log_setup("t", LOG_WARN, LOG_TEXT);
	capture();
	log_info("m", "quiet");
	log_error("m", "loud");
	s = logged();
	cr_assert(strstr(s, "ERROR m: loud\n"));
	cr_assert_not(strstr(s, "quiet"));
}

Test(log, huge_lines_are_cut_but_whole_json)
{
	auto_free char *big = xmalloc(100001), *s = NULL;

	memset(big, '\n', 100000);
	big[100000] = '\0';
	log_setup("t", LOG_INFO, LOG_JSON);
	capture();
	log_event(LOG_INFO, "m", LOG_KV("big", big, "small", "kept"), "%s", big);
	s = logged();
	cr_assert_lt(strlen(s), 20000);
	cr_assert(str_ends(s, "\"small\":\"kept\"}\n"));
	cr_assert_eq(strchr(s, '\n'), s + strlen(s) - 1);
}
