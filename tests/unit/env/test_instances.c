/* Instances, over a stand-in for the engine: how the first starts, and how they end. */
#include <sys/stat.h>

#include "unit/env/lives.h"

/* -- the first instance -------------------------------------------------------------------------------------------- */

FAKE_TEST(env, one_that_was_never_deployed_is_not_there)
{
	struct got g;

	fake_begin_envs(1000);
	acquire(&g);
	run_until(g.calls);
	cr_assert_eq(g.err.code, -ENOENT);
	cr_assert_eq(n_boxes, 0);
}

FAKE_TEST(env, all_who_wait_share_one_start)
{
	struct got g[20];

	fake_ready_deployment();
	fake_begin_envs(1000);
	for (size_t i = 0; i < ARRAY_LEN(g); i++)
		acquire(&g[i]);
	for (size_t i = 0; i < ARRAY_LEN(g); i++) {
		run_until(g[i].calls);
		cr_assert_eq(g[i].instance, g[0].instance, "%s", g[i].err.msg);
	}
	cr_assert_eq(n_prepares, 1);
	cr_assert_eq(n_boxes, 1);
	for (size_t i = 0; i < ARRAY_LEN(g); i++)
		instance_release(g[i].instance);
	run_for(5);
	cr_assert_eq(boxes_running(), 1, "the serving one stays");
}

FAKE_TEST(env, a_failed_start_backs_off_once_however_many_waited)
{
	struct got g[10], late;

	fake_ready_deployment();
	fake_no_image = true;
	fake_begin_envs(1000);
	for (size_t i = 0; i < ARRAY_LEN(g); i++)
		acquire(&g[i]);
	for (size_t i = 0; i < ARRAY_LEN(g); i++) {
		run_until(g[i].calls);
		cr_assert(strstr(g[i].err.msg, "is not here"), "%s", g[i].err.msg);
	}
	fake_no_image = false;
	acquire(&late);
	run_for(100);
	cr_assert_eq(late.calls, 0, "not before the back-off");
	for (int i = 0; i < 1000 && !late.calls; i++)
		run_for(1);
	cr_assert_eq(late.calls, 1, "the first back-off is half a second");
	cr_assert_not_null(late.instance);
	instance_release(late.instance);
}

FAKE_TEST(env, a_box_that_cannot_be_made_is_said)
{
	struct got g;

	fake_ready_deployment();
	fake_create_fails = true;
	fake_begin_envs(1000);
	acquire(&g);
	run_until(g.calls);
	cr_assert(strstr(g.err.msg, "no room for another box"), "%s", g.err.msg);
}

FAKE_TEST(env, a_server_that_is_never_healthy_is_ended_with_what_was_expected)
{
	struct got g;

	fake_ready_deployment();
	up_unhealthy = true;
	fake_begin_envs(100);
	acquire(&g);
	run_until(g.calls);
	cr_assert(strstr(g.err.msg, "GET /health"), "%s", g.err.msg);
	cr_assert_gt(up_probes, 2);
	cr_assert(boxes[0].ended);
	cr_assert_eq(counts().instances_crashed_total, 0, "it never served");
}

FAKE_TEST(env, a_server_that_accepts_and_says_nothing_is_ended_too)
{
	struct got g;

	fake_ready_deployment();
	up_deaf = true;
	fake_begin_envs(100);
	acquire(&g);
	run_until(g.calls);
	cr_assert_not_null(strstr(g.err.msg, "GET /health"));
}

FAKE_TEST(env, a_cancelled_wait_hears_nothing)
{
	struct got early, late;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&early);
	acquire(&late);
	env_acquire_cancel(early.wait);
	run_until(late.calls);
	cr_assert_eq(early.calls, 0);
	acquire(&early); /* an instance is there: the result is on its way at once */
	env_acquire_cancel(early.wait);
	run_for(5);
	cr_assert_eq(early.calls, 0);
	instance_release(late.instance);
}

/* -- ends ---------------------------------------------------------------------------------------------------------- */

static unsigned ends_heard;

static void on_end(void *arg UNUSED, struct instance *i)
{
	ends_heard++;
	cr_assert_not_null(strstr(instance_end_reason(i), "exited with code 3"));
}

FAKE_TEST(env, a_crash_is_told_and_the_next_comer_gets_another)
{
	struct got a, b;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&a);
	run_until(a.calls);
	instance_on_end(a.instance, &a, on_end, NULL);
	fake_crash(&boxes[0], 3);
	cr_assert_eq(ends_heard, 1);
	cr_assert_eq(counts().instances_crashed_total, 1);
	cr_assert_eq(boxes_running(), 0, "nobody waits");
	acquire(&b);
	run_until(b.calls);
	cr_assert_neq(b.instance, a.instance);
	instance_release(a.instance);
	instance_release(b.instance);
}

/* Before its lease is renewed for the first time. */
FAKE_TEST(env, the_log_of_one_that_crashes_at_once_is_cut)
{
	struct store_deployment *d = fake_ready_deployment();
	auto_free char *path = xasprintf("%s/logs/%s", dir, d->id);
	struct stat st;
	struct got g;

	fake_begin_envs(1000);
	for (unsigned k = 0; k < 2; k++) {
		acquire(&g);
		run_until(g.calls);
		cr_assert_eq(stat(path, &st), 0);
		cr_assert_eq(truncate(path, st.st_size + (3 << 20)), 0); /* as if it had written so much */
		fake_crash(&boxes[k], 1);
		instance_release(g.instance);
		cr_assert_eq(stat(path, &st), 0);
		cr_assert_leq(st.st_size, 1 << 20);
	}
	cr_assert_geq(env_log_cut(d), 5 << 20);
}

/* The server is dead, its box is not yet: it must not be given to anybody. */
FAKE_TEST(env, a_dying_instance_is_not_given_away)
{
	struct got a, b;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&a);
	run_until(a.calls);
	fake_main_over(&boxes[0], 1);
	acquire(&b);
	run_for(20);
	cr_assert_eq(b.calls, 0);
	fake_box_over(&boxes[0]);
	run_until(b.calls);
	cr_assert_not_null(b.instance, "%s", b.err.msg);
	cr_assert_neq(b.instance, a.instance);
	instance_release(a.instance);
	instance_release(b.instance);
}

FAKE_TEST(env, one_that_dies_on_its_way_to_who_waited_is_replaced)
{
	struct got a, b;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&a);
	run_until(a.calls);
	acquire(&b); /* delivered at the end of the next turn */
	fake_crash(&boxes[0], 1);
	run_until(b.calls);
	cr_assert_not_null(b.instance, "%s", b.err.msg);
	cr_assert_null(instance_end_reason(b.instance));
	instance_release(a.instance);
	instance_release(b.instance);
}

FAKE_TEST(env, a_stop_ends_all_without_a_crash)
{
	struct got a, b;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&a);
	run_until(a.calls);
	envs_stop(envs, environment, "deleted by its owner");
	run_until(boxes[0].ended);
	cr_assert_str_eq(instance_end_reason(a.instance), "deleted by its owner");
	cr_assert_eq(counts().instances_crashed_total, 0);
	acquire(&b);
	run_until(b.calls);
	cr_assert_eq(b.err.code, -ENOENT);
	instance_release(a.instance);
}

static void on_refused(void *arg, int fd, const struct err *err)
{
	cr_assert_lt(fd, 0);
	err_copy(arg, err);
}

FAKE_TEST(env, a_connection_to_one_that_is_gone_is_an_error)
{
	struct got a;

	fake_ready_deployment();
	fake_begin_envs(1000);
	acquire(&a);
	run_until(a.calls);
	fake_crash(&boxes[0], 1);
	unsigned before = n_connects;
	struct err seen = ERR_INIT;
	instance_connect(a.instance, on_refused, &seen);
	run_until(seen.code);
	cr_assert_eq(seen.code, -EIDRM);
	cr_assert_eq(n_connects, before);
	instance_release(a.instance);
}
