/* Rollbacks, over a stand-in for the engine: an earlier revision serves again. */
#include "env/private.h"
#include "unit/env/lives.h"

FAKE_TEST(env, a_rollback_is_the_same_deployment_again)
{
	struct store_deployment *to = NULL, *first, *second;
	struct err err = ERR_INIT;
	struct got g;

	fake_begin_envs(1000);
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), -ENOENT);
	first = built();
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), -ENOENT);
	acquire(&g);
	run_until(g.calls);
	second = built();
	cr_assert_eq(envs_rollback(envs, environment, second, &to, &err), -EALREADY, "it serves");
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING, "a session is open");
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), 0, "%s", err.msg);
	cr_assert_eq(to, first);
	cr_assert_eq(env_of(envs, environment)->serving, second, "until the other is ready");
	run_until(first->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(env_of(envs, environment)->serving, first);
	run_until(second->state == STORE_DEPLOYMENT_STOPPED);
	instance_release(g.instance); /* of its first life: its end changes nothing */
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_READY);
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), 0, "%s", err.msg);
	cr_assert_eq(to, second, "there and back");
	run_until(second->state == STORE_DEPLOYMENT_READY);
}

/* As after a restore from a backup, and after a build that failed. */
FAKE_TEST(env, a_rollback_without_an_image_builds_the_kept_source)
{
	struct store_deployment *to = NULL, *first = NULL, *second;
	struct err err = ERR_INIT;
	unsigned job;

	fake_begin_envs(1000);
	first = deploy();
	run_until(n_jobs == 1);
	job_ends(&jobs[0], 1, "STEP 1: no such image");
	run_until(first->state == STORE_DEPLOYMENT_FAILED);
	second = built();
	job = n_jobs;
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), -ENOENT, "it never served: only by its name");
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0, "%s", err.msg);
	cr_assert_eq(to, first);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_QUEUED);
	cr_assert_str_eq(first->reason, "");
	cr_assert_eq(env_of(envs, environment)->serving, second, "until the other is ready");
	run_until(n_jobs == job + 1);
	job_succeeds(&jobs[job]);
	run_until(first->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(env_of(envs, environment)->serving, first);
}

FAKE_TEST(env, a_rollback_that_fails_leaves_what_serves)
{
	struct store_deployment *to = NULL, *first, *second;
	struct err err = ERR_INIT;

	fake_begin_envs(1000);
	first = built();
	second = built();
	run_until(first->state == STORE_DEPLOYMENT_STOPPED);
	fake_no_image = true;
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0);
	run_until(first->state == STORE_DEPLOYMENT_FAILED);
	cr_assert(strstr(first->reason, "is not here"), "%s", first->reason);
	cr_assert_eq(env_of(envs, environment)->serving, second);
	fake_no_image = false;
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0, "another try may succeed");
	cr_assert_eq(envs_cancel(envs, first, "cancelled", &err), 0);
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
}

FAKE_TEST(env, no_rollback_to_what_is_on_its_way)
{
	struct store_deployment *to = NULL, *d;
	struct err err = ERR_INIT;

	fake_begin_envs(1000);
	(void)built();
	d = deploy();
	auto_free char *source = deployment_source(envs, d);
	cr_assert_eq(envs_rollback(envs, environment, d, &to, &err), -EALREADY, "it is queued");
	run_until(n_jobs == 2);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_BUILDING);
	cr_assert_eq(envs_rollback(envs, environment, d, &to, &err), -EALREADY, "it is built");
	cr_assert(strstr(err.msg, "is building"), "%s", err.msg);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_BUILDING);
	cr_assert_not(jobs[1].cancelled);
	cr_assert_eq(access(source, R_OK), 0);
	cr_assert_eq(counts().illegal_moves_total, 0);
	up_unhealthy = true;
	job_succeeds(&jobs[1]);
	run_until(d->state == STORE_DEPLOYMENT_DEPLOYING);
	cr_assert_eq(envs_rollback(envs, environment, d, &to, &err), -EALREADY, "it starts");
	up_unhealthy = false;
	run_until(d->state == STORE_DEPLOYMENT_READY);
}

/* What is rolled back to was good once, or has an image: a newer one puts it back where it came from. */
FAKE_TEST(env, a_rollback_that_a_newer_deployment_ends_may_be_tried_again)
{
	struct store_deployment *to = NULL, *first, *second, *third;
	struct err err = ERR_INIT;

	fake_begin_envs(5000);
	first = built();
	second = built();
	run_until(first->state == STORE_DEPLOYMENT_STOPPED);
	auto_free char *source = deployment_source(envs, first);
	unsigned job = n_jobs;
	up_unhealthy = true;
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0, "%s", err.msg);
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DEPLOYING);
	third = deploy();
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert_str_eq(first->reason, "a newer one came");
	cr_assert_eq(access(source, R_OK), 0);
	up_unhealthy = false;
	run_until(n_jobs == job + 1);
	job_ends(&jobs[job], 1, "STEP 1 failed");
	run_until(third->state == STORE_DEPLOYMENT_FAILED);
	cr_assert_eq(env_of(envs, environment)->serving, second);
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0, "%s", err.msg);
	run_until(first->state == STORE_DEPLOYMENT_READY);
}

/* It never served: nothing does, and who waits is not told of what a newer one ended. */
FAKE_TEST(env, a_failed_one_that_is_tried_again_keeps_its_image_and_who_waits_gets_the_newer)
{
	struct store_deployment *to = NULL, *first, *second;
	struct err err = ERR_INIT;
	struct got g;

	fake_begin_envs(5000);
	first = deploy();
	fake_create_fails = true;
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(first->state == STORE_DEPLOYMENT_FAILED);
	fake_create_fails = false;
	up_unhealthy = true;
	cr_assert_eq(envs_rollback(envs, environment, first, &to, &err), 0, "%s", err.msg);
	acquire(&g);
	run_for(20);
	second = deploy();
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert(*first->image);
	up_unhealthy = false;
	run_until(n_jobs == 2);
	cr_assert_eq(g.calls, 0, "not an error: %s", g.err.msg);
	job_succeeds(&jobs[1]);
	run_until(g.calls);
	cr_assert_not_null(g.instance, "%s", g.err.msg);
	cr_assert_eq(g.instance->d, second);
	instance_release(g.instance);
}

/* A crash between two records left both on their way. */
FAKE_TEST(env, a_restart_stops_a_rollback_that_a_newer_deployment_ended)
{
	struct store_deployment *first = fake_ready_deployment(), *d;
	struct err err = ERR_INIT;

	first->state = STORE_DEPLOYMENT_STOPPED;
	cr_assert_eq(store_deployment_move(store, first, STORE_DEPLOYMENT_DEPLOYING, NULL, &err), 0, "%s", err.msg);
	d = new_deployment();
	fake_open_envs(1000);
	fake_take_over();
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
}
