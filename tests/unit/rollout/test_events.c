/* What clients post: read as it is meant, or refused with the event, the field, the value and what was expected. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "rollout/events.h"

static int read_text(struct record_batch *b, const char *text, struct err *err)
{
	return events_read(b, text, strlen(text), 5, err);
}

static struct record_batch good(const char *text)
{
	struct record_batch b = { 0 };
	struct err err = ERR_INIT;

	cr_assert_eq(read_text(&b, text, &err), 0, "%s", err.msg);
	return b;
}

Test(events, a_rollout_as_the_sdk_sends_it)
{
	struct record_batch b = good("{\"events\": [{\"eventType\": \"rollout\", \"eventId\": \"e\", \"timestamp\": 17, \"runName\": \"r\","
				     " \"environment\": \"a/b\", \"environment_id\": \"i\", \"rolloutName\": \"n\", \"variant\": \"v\","
				     " \"variant_id\": \"w\", \"split\": \"s\", \"step\": 4, \"metadata\": {\"x\": [1]}, \"task_spec\": {},"
				     " \"run_info\": {\"model_name\": \"m\", \"run_type\": \"train\", \"model_params\": 7,"
				     " \"training_stage\": \"rl\", \"lr\": 0.5}, \"rollout_info\": {\"task_index\": 3}, \"later\": 1}]}");
	const struct record_event *e = b.events;

	cr_assert_eq(b.n, 1);
	cr_assert_eq(e->kind, RECORD_ROLLOUT);
	cr_assert_str_eq(e->id, "e");
	cr_assert_eq(e->at_ms, 17);
	cr_assert_str_eq(e->run, "r");
	cr_assert_str_eq(e->environment, "a/b");
	cr_assert_str_eq(e->environment_id, "i");
	cr_assert_str_eq(e->name, "n");
	cr_assert_str_eq(e->variant, "v");
	cr_assert_str_eq(e->variant_id, "w");
	cr_assert_str_eq(e->split, "s");
	cr_assert_eq(e->step, 4);
	cr_assert_str_eq(e->metadata, "{\"x\":[1]}");
	cr_assert_null(e->task_spec, "an empty object says nothing");
	cr_assert_str_eq(e->model_name, "m");
	cr_assert_eq(e->model_params, 7);
	cr_assert_str_eq(e->training_stage, "rl");
	cr_assert(strstr(e->run_info, "\"lr\":0.5"));
	cr_assert_eq(json_integer_value(json_object_get(e->info, "task_index")), 3);
	b.free_owned(&b);
}

Test(events, a_message_as_the_sdk_sends_it)
{
	struct record_batch b = good("{\"events\": [{\"eventType\": \"message\", \"eventId\": \"e\", \"timestamp\": 1, \"index\": 2,"
				     " \"rolloutEventId\": \"r\", \"type\": \"tool_call\", \"content\": \"h\xc3\xa9\xe2\x82\xac\","
				     " \"name\": \"t\", \"callId\": \"c\", \"reward\": -1, \"isFinished\": true, \"metadata\": {}},"
				     " {\"eventType\": \"message\", \"eventId\": \"f\", \"timestamp\": 1, \"index\": 0,"
				     " \"rolloutEventId\": \"r\", \"type\": \"tool_result\", \"content\": \"four\", \"reward\": null},"
				     " {\"eventType\": \"rollout_update\", \"eventId\": \"r\", \"timestamp\": 3}]}");

	cr_assert_eq(b.n, 3);
	cr_assert_eq(b.events[0].kind, RECORD_MESSAGE);
	cr_assert_eq(b.events[0].position, 2);
	cr_assert_str_eq(b.events[0].rollout, "r");
	cr_assert_str_eq(b.events[0].name, "t");
	cr_assert_str_eq(b.events[0].call_id, "c");
	cr_assert_eq(b.events[0].chars, 3, "characters, not bytes");
	cr_assert_eq(b.events[0].reward, -1);
	cr_assert(b.events[0].is_finished);
	cr_assert_eq(b.events[1].chars, 0, "a tool's result is nothing that a model made");
	cr_assert(isnan(b.events[1].reward));
	cr_assert_eq(b.events[2].kind, RECORD_UPDATE);
	cr_assert_null(b.events[2].info);
	b.free_owned(&b);
}

#define EVENT(fields) "{\"events\": [{\"eventType\": \"message\", \"eventId\": \"e\", \"timestamp\": 1, \"index\": 0," \
		      " \"rolloutEventId\": \"r\", \"type\": \"reasoning\"}, {" fields "}]}"
#define MESSAGE "\"eventType\": \"message\", \"eventId\": \"e\", \"timestamp\": 1, "
#define ROLLOUT "\"eventType\": \"rollout\", \"eventId\": \"e\", \"timestamp\": 1, "

Test(events, bad_input_is_named)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
		{ "", "JSON: empty" },
		{ "[]", "expected an object" },
		{ "{}", "events: missing: expected a list" },
		{ "{\"events\": {}}", "events: {}: expected an array" },
		{ "{\"events\": [1]}", "events[0]: expected an object" },
		{ "{\"events\": [1, 2, 3, 4, 5, 6]}", "events: 6 of them: expected at most 5" },
		{ EVENT("\"x\": 1"), "events[1]: eventType: missing" },
		{ EVENT("\"eventType\": \"y\", \"eventId\": \"e\", \"timestamp\": 1"), "events[1]: eventType: \"y\": expected rollout, message" },
		{ EVENT("\"eventType\": \"message\", \"timestamp\": 1"), "events[1]: eventId: missing" },
		{ EVENT("\"eventType\": \"message\", \"eventId\": \"\", \"timestamp\": 1"), "eventId: \"\": expected a text that is not empty" },
		{ EVENT("\"eventType\": \"message\", \"eventId\": 5, \"timestamp\": 1"), "eventId: 5: expected a string" },
		{ EVENT("\"eventType\": \"message\", \"eventId\": \"e\""), "timestamp: missing: expected an integer from 0" },
		{ EVENT("\"eventType\": \"message\", \"eventId\": \"e\", \"timestamp\": -1"), "timestamp: -1: expected an integer from 0" },
		{ EVENT("\"eventType\": \"message\", \"eventId\": \"e\", \"timestamp\": 1.5"), "timestamp: 1.5: expected an integer" },
		{ EVENT(MESSAGE "\"index\": 0, \"type\": \"reasoning\""), "events[1]: rolloutEventId: missing" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"type\": \"reasoning\""), "events[1]: index: missing" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 3000000000, \"type\": \"reasoning\""), "index: 3000000000: expected" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0"), "events[1]: type: missing" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"shout\""), "type: \"shout\": expected reasoning" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"reasoning\", \"content\": 1"), "content: 1: expected a string" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"reasoning\", \"reward\": \"1\""), "reward: \"1\": expected a number" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"reasoning\", \"reward\": NaN"), "JSON: line 1" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"reasoning\", \"isFinished\": 1"), "isFinished: 1: expected true or false" },
		{ EVENT(MESSAGE "\"rolloutEventId\": \"r\", \"index\": 0, \"type\": \"reasoning\", \"metadata\": []"), "metadata: []: expected an object" },
		{ EVENT(ROLLOUT "\"split\": \"s\""), "events[1]: runName: missing" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"step\": -2"), "step: -2: expected an integer of at least 0" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"run_info\": 1"), "run_info: 1: expected an object" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"run_info\": {\"run_type\": \"play\"}"), "events[1]: run_info: run_type: \"play\": expected train" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"run_info\": {\"training_stage\": \"x\"}"), "training_stage: \"x\": expected pretrained" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"run_info\": {\"model_params\": -1}"), "model_params: -1: expected" },
		{ EVENT(ROLLOUT "\"runName\": \"r\", \"rollout_info\": {\"task_index\": \"3\"}"), "events[1]: rollout_info: task_index: \"3\": expected" },
		{ EVENT(ROLLOUT "\"runName\": \"a\\u0000b\""), "JSON: line 1" },
		{ EVENT("\"eventType\": \"rollout_update\", \"eventId\": \"e\", \"timestamp\": 1, \"rollout_info\": 4"), "rollout_info: 4: expected" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct record_batch b;
		struct err err = ERR_INIT;
		cr_assert_eq(read_text(&b, cases[i].text, &err), -EINVAL, "%s", cases[i].text);
		cr_assert(strstr(err.msg, cases[i].expected), "%s: %s", cases[i].text, err.msg);
	}
}

Test(events, names_have_a_length)
{
	char name[EVENT_NAME_MAX + 2];
	struct record_batch b;
	struct err err = ERR_INIT;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	auto_free char *text = xasprintf("{\"events\": [{" ROLLOUT "\"runName\": \"%s\"}]}", name);
	cr_assert_eq(read_text(&b, text, &err), -EINVAL);
	cr_assert(strstr(err.msg, "runName: \"nnnn") && strstr(err.msg, "(1001 bytes): expected at most 1000 bytes"), "%s", err.msg);
	name[EVENT_NAME_MAX] = '\0';
	auto_free char *fits = xasprintf("{\"events\": [{" ROLLOUT "\"runName\": \"%s\"}]}", name);
	b = good(fits);
	b.free_owned(&b);
}
