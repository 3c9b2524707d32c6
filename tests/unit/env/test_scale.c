/* Many instances of one environment, over a stand-in for the engine: placement, places, queues, scaling up and down. */
#include "unit/env/fake.h"

#include "env/private.h"

#define IDLE_MS 1200

struct got { /* of one env_acquire */
	unsigned calls;
	struct instance *instance;
	struct err err;
	struct env_wait *wait;
	unsigned turn; /* the n-th that was served */
};

static unsigned turns;

static void on_got(void *arg, struct instance *i, const struct err *err)
{
	struct got *g = arg;

	g->calls++;
	g->instance = i;
	g->wait = NULL;
	g->turn = ++turns;
	err_copy(&g->err, err);
}

static char told[100]; /* the last line of progress */
static const void *told_to;

static void on_told(void *arg, const char *line)
{
	told_to = arg;
	snprintf(told, sizeof(told), "%s", line);
}

static void want(struct got *g, enum env_want what, const char *key_of_it)
{
	static const char *const vars[] = { "A=b", NULL };

	*g = (struct got){ 0 };
	g->wait = env_acquire(envs, environment, &(struct env_request){
		.want = what, .key = key_of_it, .vars = vars, .progress = on_told, .done = on_got, .arg = g });
}

static void leave(struct got *g, bool placed)
{
	if (placed)
		instance_leave(g->instance);
	instance_release(g->instance);
}

static struct env_counts counts(void)
{
	struct env_counts c;

	envs_counts(envs, &c);
	return c;
}

static void begin(void)
{
	fake_begin_store();
	fake_ready_deployment();
	fake_idle_ms = IDLE_MS;
	fake_begin_envs(5000);
}

static void end(void)
{
	fake_end_boxes();
	cr_assert_eq(counts().instances, 0);
	cr_assert_eq(counts().starting, 0);
	cr_assert_eq(counts().draining, 0);
	cr_assert_eq(counts().illegal_moves_total, 0, "a move that the table does not have");
	cr_assert_eq(counts().places, 0, "a place was not given back");
	cr_assert_eq(counts().own, 0);
	fake_end();
}

FAKE_TEST(scale, listings_never_start_a_second_one)
{
	struct got g[50];

	fake_scale(4, 10);
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		want(&g[k], ENV_VISIT, "a");
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		run_until(g[k].calls);
	run_for(1100);
	cr_assert_eq(n_boxes, 1);
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		leave(&g[k], false);
}

FAKE_TEST(scale, max_scale_0_is_a_pause)
{
	struct got waiting, late, found;

	fake_scale(1, 1);
	want(&found, ENV_PLACE, "a");
	run_until(found.calls);
	want(&waiting, ENV_PLACE, "a");
	fake_scale(1, 0);
	run_until(waiting.calls); /* who waits is told, */
	cr_assert_null(waiting.instance);
	cr_assert(strstr(waiting.err.msg, "max_scale is 0"), "%s", waiting.err.msg);
	for (int what = ENV_VISIT; what <= ENV_OWN; what++) { /* who comes is refused, */
		want(&late, (enum env_want)what, "a");
		run_until(late.calls);
		cr_assert_null(late.instance);
		cr_assert_eq(late.err.code, -EBUSY);
	}
	leave(&found, true); /* and who is there stays as long as it likes */
	run_until(counts().instances == 0);
	fake_scale(1, 1);
	want(&late, ENV_PLACE, "a");
	run_until(late.calls);
	cr_assert_not_null(late.instance);
	leave(&late, true);
}

FAKE_TEST(scale, twenty_sessions_get_five_and_then_none)
{
	struct got g[20];

	fake_scale(4, 10);
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		want(&g[k], ENV_PLACE, "a");
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		run_until(g[k].calls);
	cr_assert_eq(n_boxes, 5);
	for (size_t k = 0; k < ARRAY_LEN(g); k++) {
		size_t same = 0;
		for (size_t j = 0; j < ARRAY_LEN(g); j++)
			same += g[j].instance == g[k].instance;
		cr_assert_eq(same, 4);
	}
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		leave(&g[k], true);
	run_for(IDLE_MS / 2);
	cr_assert_eq(boxes_running(), 5, "not before the idle time");
	run_until(boxes_running() == 0);
	cr_assert_eq(counts().instances_crashed_total, 0);
}

FAKE_TEST(scale, the_fullest_is_filled_first)
{
	struct got g[8], next;

	fake_scale(4, 10);
	for (size_t k = 0; k < ARRAY_LEN(g); k++) {
		want(&g[k], ENV_PLACE, "a");
		run_until(g[k].calls);
	}
	cr_assert_eq(n_boxes, 2);
	struct instance *full = g[7].instance, *other = g[0].instance;
	cr_assert_neq(full, other);
	leave(&g[7], true); /* 3 */
	leave(&g[0], true);
	leave(&g[1], true); /* 2 */
	want(&next, ENV_PLACE, "a");
	run_until(next.calls);
	cr_assert_eq(next.instance, full);
	leave(&next, true);
	for (size_t k = 2; k < 7; k++)
		leave(&g[k], true);
}

FAKE_TEST(scale, a_full_one_is_waited_for_in_turns)
{
	struct got taken, a[3], b;

	fake_scale(1, 1);
	want(&taken, ENV_PLACE, "a");
	run_until(taken.calls);
	for (size_t k = 0; k < ARRAY_LEN(a); k++)
		want(&a[k], ENV_PLACE, "a");
	want(&b, ENV_PLACE, "b");
	run_for(1100);
	cr_assert_eq(a[0].calls + b.calls, 0);
	cr_assert_eq(envs_waiting(envs), 4);
	cr_assert(env_would_wait(envs, environment, ENV_PLACE) && !env_would_wait(envs, environment, ENV_VISIT));
	env_acquire_cancel(a[1].wait);
	leave(&taken, true);
	run_until(a[0].calls);
	leave(&a[0], true);
	run_until(b.calls);
	cr_assert_eq(a[2].calls, 0, "the other key's turn");
	leave(&b, true);
	run_until(a[2].calls);
	leave(&a[2], true);
	cr_assert_eq(n_boxes, 1);
}

FAKE_TEST(scale, a_crash_of_one_is_the_others_peace)
{
	struct got g[6], more;

	fake_scale(2, 3);
	for (size_t k = 0; k < ARRAY_LEN(g); k++) {
		want(&g[k], ENV_PLACE, "a");
		run_until(g[k].calls);
	}
	cr_assert_eq(n_boxes, 3);
	fake_crash(&boxes[1], 3);
	run_for(5);
	size_t dead = 0;
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		dead += instance_end_reason(g[k].instance) != NULL;
	cr_assert_eq(dead, 2);
	want(&more, ENV_PLACE, "a");
	run_until(more.calls);
	cr_assert_null(instance_end_reason(more.instance));
	cr_assert_eq(counts().instances_crashed_total, 1);
	leave(&more, true);
	for (size_t k = 0; k < ARRAY_LEN(g); k++)
		leave(&g[k], true);
}

FAKE_TEST(scale, one_of_its_own_ends_with_its_session)
{
	struct got own, other;

	fake_scale(1, 1);
	want(&other, ENV_PLACE, "a");
	run_until(other.calls);
	want(&own, ENV_OWN, "a");
	run_until(own.calls);
	cr_assert_not_null(own.instance, "%s", own.err.msg);
	cr_assert_neq(own.instance, other.instance);
	cr_assert_eq(counts().own, 1);
	cr_assert_eq(told_to, &own, "somebody else was told: %s", told);
	leave(&own, true);
	run_until(boxes_running() == 1);
	cr_assert_eq(counts().own, 0);
	leave(&other, true);
	cr_assert_eq(counts().instances_crashed_total, 0);
}

FAKE_TEST(scale, one_of_its_own_that_nobody_waits_for_any_more)
{
	struct got early, late;

	fake_hold_image = true;
	want(&early, ENV_OWN, "a");
	run_for(5);
	env_acquire_cancel(early.wait);
	fake_hold_image = false;
	fake_release_images();
	run_for(5);
	cr_assert_eq(n_boxes, 0);
	fake_hold_create = true;
	want(&late, ENV_OWN, "a");
	run_until(n_boxes == 1);
	env_acquire_cancel(late.wait);
	fake_created(&boxes[0]);
	run_until(boxes[0].ended);
	cr_assert_eq(early.calls + late.calls, 0);
}

FAKE_TEST(scale, one_of_its_own_that_does_not_start_says_why)
{
	struct got own;

	fake_create_fails = true;
	want(&own, ENV_OWN, "a");
	run_until(own.calls);
	cr_assert(strstr(own.err.msg, "no room for another box"), "%s", own.err.msg);
}

FAKE_TEST(scale, a_server_that_crashes_again_and_again_waits_longer)
{
	struct got g;

	for (int n = 0; n < 3; n++) {
		want(&g, ENV_PLACE, "a");
		run_until(g.calls);
		fake_crash(&boxes[n], 1);
		leave(&g, true);
		run_for(2);
	}
	size_t before = n_boxes;
	want(&g, ENV_PLACE, "a");
	run_for(300);
	cr_assert_eq(n_boxes, before, "not before the back-off");
	run_until(g.calls);
	leave(&g, true);
}

FAKE_TEST(scale, what_waits_for_room_is_told_and_taken_back_when_nobody_wants_it)
{
	struct got a, b, own;

	fake_no_room = true;
	fake_scale(1, 10);
	want(&a, ENV_PLACE, "a");
	want(&b, ENV_PLACE, "a");
	want(&own, ENV_OWN, "a");
	run_until(n_boxes == 3 && boxes[2].waits);
	cr_assert_str_eq(told, "waiting for room: 1 of 1");
	run_for(1100); /* longer than a tick: nothing more is asked for, nothing times out */
	cr_assert_eq(n_boxes, 3);
	cr_assert_eq(a.calls + b.calls + own.calls, 0);
	env_acquire_cancel(b.wait);
	env_acquire_cancel(own.wait);
	run_until(boxes_running() == 1);
	fake_no_room = false;
	for (size_t k = 0; k < n_boxes; k++)
		if (boxes[k].waits)
			fake_room_for(&boxes[k]);
	run_until(a.calls);
	cr_assert_not_null(a.instance, "%s", a.err.msg);
	cr_assert_eq(b.calls + own.calls, 0);
	leave(&a, true);
	cr_assert_eq(counts().instances_crashed_total, 0);
}

FAKE_TEST(scale, an_instance_that_nobody_uses_makes_room_for_others)
{
	struct got a, b;

	fake_scale(1, 10);
	want(&a, ENV_PLACE, "a");
	want(&b, ENV_PLACE, "a");
	run_until(a.calls && b.calls);
	leave(&b, true);
	fake_engine.full(fake_engine.full_arg);
	cr_assert_eq(boxes_running(), 2, "it has only just become free");
	for (int k = 0; k < 50 && boxes_running() == 2; k++) {
		run_for(100);
		fake_engine.full(fake_engine.full_arg);
	}
	cr_assert_eq(boxes_running(), 1);
	cr_assert_null(instance_end_reason(a.instance), "one in use ended");
	leave(&a, true);
}

/* The last pause before it answers is what a start costs too much. */
FAKE_TEST(scale, asking_for_health_adds_little_to_a_start)
{
	for (uint64_t elapsed = 0; elapsed < 600000; elapsed = elapsed * 11 / 10 + 1) {
		uint64_t pause = health_pause_ms(elapsed, 100);

		cr_assert(pause >= 2 && pause <= 100);
		cr_assert(pause <= 50 || elapsed >= 1600, "%llu ms after %llu", (unsigned long long)pause, (unsigned long long)elapsed);
	}
	uint64_t asked = 0;
	for (uint64_t t = 0; t < 60000; t += health_pause_ms(t, 100))
		asked++;
	cr_assert_lt(asked, 1000, "it is asked %llu times in a minute", (unsigned long long)asked);
}
