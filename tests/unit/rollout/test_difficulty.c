/* What is kept of tasks between questions, and brought up to date. */
#include "unit/rollout/records.h"

#include "rollout/difficulty.h"

TestSuite(difficulty, .init = set_up, .fini = tear_down, .timeout = 120);

static struct difficulty *kept;

/* What is kept between questions comes to what a question from nothing finds. */
static void look_twice(struct seen *s, struct store_reader *r)
{
	const struct record_task_filter any = { .min_model_params = -1, .max_model_params = -1, .task_index = -1 };
	const struct record_task_filter train = { .split = "train", .min_model_params = -1, .max_model_params = -1, .task_index = -1 };
	const struct record_task_filter *const filters[] = { &any, &train };

	for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
		struct difficulty *fresh = difficulty_new(1 << 20);
		auto_buf struct buf b = { 0 };
		struct json_writer w;
		buf_init(&b, BUF_UNLIMITED);
		json_write_begin(&w, &b);
		cr_assert_eq(difficulty_write(fresh, r, ENV, filters[i], &w, &s->err), 0);
		cr_assert_eq(json_write_end(&w), 0);
		json_write_begin(&w, &s->text);
		cr_assert_eq(difficulty_write(kept, r, ENV, filters[i], &w, &s->err), 0);
		cr_assert_eq(json_write_end(&w), 0);
		cr_assert_eq(s->text.len, b.len);
		cr_assert_eq(memcmp(s->text.data, b.data, b.len), 0, "%s\nbut %s", s->text.data, b.data);
		buf_consume(&s->text, b.len);
		difficulty_free(fresh);
	}
}

/* 40 tasks of two rollouts; each change after that concerns one. */
static void log_tasks(void)
{
	for (int i = 0; i < 80; i++) {
		auto_free char *text = xasprintf("{\"eventType\": \"rollout\", \"eventId\": \"t%d\", \"timestamp\": 1, \"runName\": \"a\","
						 " \"split\": \"%s\", \"rollout_info\": {\"task_index\": %d}}, {\"eventType\": \"message\","
						 " \"eventId\": \"tm%d\", \"timestamp\": 1, \"rolloutEventId\": \"t%d\", \"index\": 0,"
						 " \"type\": \"reasoning\", \"content\": \"%d\", \"reward\": %d}",
						 i, i % 3 ? "train" : "", i / 2, i, i, i * i * i, i % 7);
		post(NS, text);
	}
}

static void ask(void)
{
	free(see(NS, look_twice));
}

Test(difficulty, what_is_kept_of_tasks_is_brought_up_to_date)
{
	auto_free char *more = message("t7", "more", 3, 9);
	auto_free char *moved = xstrdup("{\"eventType\": \"rollout_update\", \"eventId\": \"t8\", \"timestamp\": 9, \"rollout_info\":"
					" {\"task_index\": 1000}}");

	kept = difficulty_new(1 << 20);
	log_tasks();
	ask();
	uint64_t all = difficulty_computed(kept);
	ask();
	cr_assert_eq(difficulty_computed(kept), all, "nothing has changed");
	post(NS, more);
	ask();
	cr_assert_eq(difficulty_computed(kept), all + 2, "one task for each of the two questions");
	post(NS, moved);
	ask();
	cr_assert_eq(difficulty_computed(kept), all + 6, "the one that it left, and the one that it came to");
	post(NS, more);
	post(NS, moved);
	ask();
	cr_assert_eq(difficulty_computed(kept), all + 6, "repeats change nothing");
	trim((struct record_limits){ .max_messages = 79 });
	ask();
	cr_assert_leq(difficulty_computed(kept), all + 12);
	kept = difficulty_free(kept);
	kept = difficulty_new(0);
	ask(); /* nothing is kept */
	kept = difficulty_free(kept);
}
