/* What the verbs read line by line. */
#include <criterion/criterion.h>
#include <string.h>

#include "cli/cli.h"

TestSuite(streams, .timeout = 10);

static void feed(cli_line_fn *fn, void *arg, const char *const *lines)
{
	for (; *lines; lines++)
		fn(arg, *lines, strlen(*lines));
}

Test(streams, events_join_chunks_and_end)
{
	struct cli_events e;

	cli_events_init(&e, 1000);
	feed(cli_events_line, &e, (const char *const[]){ "event: task_id", "data: abc", "", ": heartbeat", "", "event: chunk", "data: {\"a\":",
							 "", "event: end", "data: 1}", NULL });
	cr_assert_not(e.ended, "the blank line is missing");
	feed(cli_events_line, &e, (const char *const[]){ "", NULL });
	cr_assert(e.ended && !e.failed);
	cr_assert_str_eq(e.json.data, "{\"a\":1}");
	cli_events_done(&e);
}

Test(streams, an_error_event_is_a_failure)
{
	struct cli_events e;

	cli_events_init(&e, 1000);
	feed(cli_events_line, &e, (const char *const[]){ "event: error", "data: no room", "", NULL });
	cr_assert(e.failed && !e.ended);
	cr_assert_str_eq(e.error.data, "no room");
	cli_events_done(&e);
}

Test(streams, a_result_above_the_limit_is_a_failure)
{
	struct cli_events e;

	cli_events_init(&e, 4);
	feed(cli_events_line, &e, (const char *const[]){ "event: end", "data: 12345", "", NULL });
	cr_assert(e.failed);
	cli_events_done(&e);
}

Test(streams, progress_keeps_the_last_object_and_lines)
{
	struct cli_progress p;
	char line[64];

	cli_progress_init(&p, NULL);
	for (int i = 0; i < 25; i++) {
		snprintf(line, sizeof(line), "{\"line\":\"%d\"}", i);
		cli_progress_line(&p, line, strlen(line));
	}
	feed(cli_progress_line, &p, (const char *const[]){ "", "not json", "{\"status\":\"ready\"}", NULL });
	cr_assert_str_eq(p.last.data, "{\"status\":\"ready\"}");
	cr_assert_str_eq(p.tail[p.next % 20], "5", "the oldest of the twenty");
	cr_assert_str_eq(p.tail[(p.next + 19) % 20], "24");
	cli_progress_done(&p);
}
