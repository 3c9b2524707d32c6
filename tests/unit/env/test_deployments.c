/* Deployments, over a stand-in for the engine: their moves, the images that are kept, the end. */
#include "env/private.h"
#include "json/json.h"
#include "store/envset.h"
#include "unit/env/lives.h"

/* -- deployments --------------------------------------------------------------------------------------------------- */

FAKE_TEST(env, from_source_to_ready)
{
	struct got g;

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	acquire(&g);
	run_until(n_jobs == 1);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_BUILDING);
	cr_assert_eq(g.calls, 0, "who comes early waits");
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	assert_moves(d, "queued building deploying ready ");
	run_until(g.calls);
	cr_assert_eq(g.instance->d, d);
	cr_assert_eq(env_of(envs, environment)->serving, d);
	instance_release(g.instance);
}

FAKE_TEST(env, a_failed_build_tells_who_waits_and_what_served_goes_on)
{
	struct got g;

	fake_begin_envs(1000);
	struct store_deployment *bad = deploy();
	acquire(&g);
	run_until(n_jobs == 1);
	job_ends(&jobs[0], 256, "STEP \"RUN false\" failed");
	run_until(g.calls);
	cr_assert_eq(bad->state, STORE_DEPLOYMENT_FAILED);
	cr_assert(strstr(g.err.msg, "RUN false"), "%s", g.err.msg);
	struct store_deployment *good = deploy();
	run_until(n_jobs == 2);
	job_succeeds(&jobs[1]);
	run_until(good->state == STORE_DEPLOYMENT_READY);
	bad = deploy();
	run_until(n_jobs == 3);
	job_ends(&jobs[2], 256, "STEP 1 failed");
	run_until(bad->state == STORE_DEPLOYMENT_FAILED);
	cr_assert_eq(env_of(envs, environment)->serving, good);
}

FAKE_TEST(env, a_newer_push_supersedes_a_build_and_who_waits_gets_the_newer)
{
	struct got g;

	fake_begin_envs(1000);
	struct store_deployment *first = deploy();
	acquire(&g);
	run_until(n_jobs == 1);
	struct store_deployment *second = deploy();
	cr_assert_eq(first->state, STORE_DEPLOYMENT_SUPERSEDED);
	cr_assert(jobs[0].cancelled);
	run_for(20);
	cr_assert_eq(g.calls, 0, "not an error: %s", g.err.msg);
	job_ends(&jobs[0], 9, NULL);
	job_ends(&jobs[1], 0, NULL); /* "clean" */
	run_until(n_jobs == 3);
	job_succeeds(&jobs[2]);
	run_until(g.calls);
	cr_assert_not_null(g.instance, "%s", g.err.msg);
	cr_assert_eq(g.instance->d, second);
	instance_release(g.instance);
}

/* Three pushes before the loop turned once: only the last may come to serve. */
FAKE_TEST(env, pushes_in_quick_succession)
{
	fake_begin_envs(1000);
	struct store_deployment *d[3] = { deploy(), deploy(), deploy() };

	for (unsigned k = 0; k < 10 && d[2]->state != STORE_DEPLOYMENT_READY; k++) {
		run_for(20);
		for (unsigned i = 0; i < n_jobs; i++)
			if (!jobs[i].over && !strcmp(jobs[i].kind, "build"))
				job_succeeds(&jobs[i]);
	}
	run_until(d[2]->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(d[0]->state, STORE_DEPLOYMENT_SUPERSEDED);
	cr_assert_eq(d[1]->state, STORE_DEPLOYMENT_SUPERSEDED);
	cr_assert_eq(boxes_running(), 1);
}

FAKE_TEST(env, superseded_while_its_first_instance_starts)
{
	fake_begin_envs(5000);
	up_unhealthy = true;
	struct store_deployment *first = deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(up_probes > 1);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DEPLOYING);
	struct store_deployment *second = deploy();
	up_unhealthy = false;
	run_until(n_jobs == 2);
	job_succeeds(&jobs[1]);
	run_until(second->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_SUPERSEDED);
	cr_assert(boxes[0].ended);
	cr_assert_eq(boxes_running(), 1);
}

FAKE_TEST(env, cancelled_while_it_builds)
{
	struct err err = ERR_INIT;
	struct got g;

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	acquire(&g);
	run_until(n_jobs == 1);
	cr_assert_eq(envs_cancel(envs, d, "cancelled", &err), 0);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert(jobs[0].cancelled);
	run_until(g.calls);
	cr_assert(strstr(g.err.msg, "stopped: cancelled"), "who waits is told: %s", g.err.msg);
	cr_assert_eq(envs_cancel(envs, d, "again", &err), -EALREADY);
	cr_assert(strstr(err.msg, "stopped"), "%s", err.msg);
	job_ends(&jobs[0], 9, NULL);
	job_ends(&jobs[1], 0, NULL); /* "clean" */
	struct store_deployment *next = deploy();
	run_until(n_jobs == 3);
	job_succeeds(&jobs[2]);
	run_until(next->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(envs_cancel(envs, next, "late", &err), -EALREADY);
	cr_assert_eq(next->state, STORE_DEPLOYMENT_READY);
}

FAKE_TEST(env, cancelled_while_its_first_instance_starts)
{
	struct err err = ERR_INIT;
	struct store_deployment *old = fake_ready_deployment();

	fake_begin_envs(5000);
	up_unhealthy = true;
	struct store_deployment *d = deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(up_probes > 1);
	cr_assert_eq(envs_cancel(envs, d, "cancelled", &err), 0);
	run_until(boxes[0].ended);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert_eq(env_of(envs, environment)->serving, old, "what served goes on");
	cr_assert_eq(counts().deployments_failed_total, 0);
}

FAKE_TEST(env, superseded_before_its_box_was_made)
{
	fake_begin_envs(5000);
	fake_hold_create = true;
	deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(n_boxes == 1);
	deploy();
	fake_created(&boxes[0]);
	run_until(boxes[0].ended);
	cr_assert_eq(counts().instances, 0);
}

FAKE_TEST(env, an_old_instance_drains_until_its_last_use)
{
	struct got old, new;
	struct store_deployment *first = fake_ready_deployment();

	fake_begin_envs(1000);
	acquire(&old);
	run_until(old.calls);
	struct store_deployment *second = deploy();
	run_until(n_jobs == 1);
	acquire(&new); /* during the build: what serves is what serves */
	run_until(new.calls);
	cr_assert_eq(new.instance->d, first);
	instance_release(new.instance);
	job_succeeds(&jobs[0]);
	run_until(second->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING);
	cr_assert_eq(counts().draining, 1);
	acquire(&new);
	run_until(new.calls);
	cr_assert_eq(new.instance->d, second);
	cr_assert_eq(boxes_running(), 2);
	instance_release(old.instance);
	run_until(boxes[0].ended);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
	assert_moves(first, "queued draining stopped "); /* the fixture made it ready by hand */
	instance_release(new.instance);
}

static void acquire_as(struct got *g, enum env_want want)
{
	static const char *const vars[] = { "A=b", NULL };

	*g = (struct got){ 0 };
	g->wait = env_acquire(envs, environment, &(struct env_request){ .want = want, .vars = vars, .done = on_got, .arg = g });
	run_until(g->calls);
	cr_assert_not_null(g->instance, "%s", g->err.msg);
}

static void leave(struct got *g)
{
	instance_leave(g->instance);
	instance_release(g->instance);
}

FAKE_TEST(env, a_session_with_an_instance_of_its_own_may_be_the_last_that_drains)
{
	struct store_deployment *first = fake_ready_deployment();
	struct got shared, own;

	fake_begin_envs(1000);
	acquire_as(&shared, ENV_PLACE);
	acquire_as(&own, ENV_OWN);
	(void)built();
	leave(&shared);
	run_until(boxes[0].ended);
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING, "a session is open");
	leave(&own);
	run_until(boxes[1].ended);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
	assert_moves(first, "queued draining stopped ");
}

FAKE_TEST(env, it_may_be_all_that_drains)
{
	struct store_deployment *first = fake_ready_deployment();
	struct got own;

	fake_begin_envs(1000);
	acquire_as(&own, ENV_OWN);
	(void)built();
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING, "a session is open");
	leave(&own);
	run_until(boxes[0].ended);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
}

/* Of two instances one was ending already when a newer deployment became ready, and takes longer to end than the other. */
FAKE_TEST(env, one_that_ended_before_may_be_the_last_that_drains)
{
	struct store_deployment *first = fake_ready_deployment();
	struct got ending, draining;

	fake_scale(1, 2);
	fake_begin_envs(1000);
	acquire_as(&ending, ENV_PLACE);
	acquire_as(&draining, ENV_PLACE);
	leave(&ending);
	fake_hold_destroy = true;
	instance_dismiss(ending.instance, "nobody used it");
	(void)built();
	leave(&draining);
	fake_box_over(&boxes[1]);
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING, "the other one is there still");
	fake_box_over(&boxes[0]);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_STOPPED);
}

/* The instance of the old deployment is still starting for a session when the new one becomes ready. */
FAKE_TEST(env, a_session_that_waits_for_the_old_one_gets_the_new_one)
{
	struct got g;

	fake_ready_deployment();
	fake_begin_envs(5000);
	fake_hold_create = true;
	acquire(&g);
	run_until(n_boxes == 1);
	fake_hold_create = false;
	struct store_deployment *second = deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(g.calls);
	cr_assert_eq(g.instance->d, second);
	fake_created(&boxes[0]);
	run_until(boxes[0].ended);
	cr_assert_eq(counts().starting, 0);
	instance_release(g.instance);
}

/* An image that was asked for on behalf of a deployment must not start under the name of the next. */
FAKE_TEST(env, an_image_that_comes_late_is_not_mistaken_for_the_new_one)
{
	struct got g, h;

	fake_ready_deployment();
	fake_begin_envs(5000);
	fake_hold_image = true;
	acquire(&g);
	run_until(n_held_prepares == 1);
	struct store_deployment *second = deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(g.calls);
	fake_crash(&boxes[0], 1);
	fake_hold_image = false;
	acquire(&h);
	fake_release_images();
	run_until(h.calls);
	cr_assert_eq(h.instance->d, second);
	cr_assert_str_eq(boxes[1].image->name, second->image);
	instance_release(g.instance);
	instance_release(h.instance);
}

FAKE_TEST(env, a_stop_while_building)
{
	struct got g;

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	acquire(&g);
	run_until(n_jobs == 1);
	envs_stop(envs, environment, "deleted by its owner");
	run_until(g.calls);
	cr_assert(strstr(g.err.msg, "deleted by its owner"), "%s", g.err.msg);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_SUPERSEDED);
	job_ends(&jobs[0], 9, NULL);
	job_ends(&jobs[1], 0, NULL);
	run_for(10);
	cr_assert_eq(n_boxes, 0);
}

FAKE_TEST(env, a_restart_puts_the_records_right)
{
	struct store_deployment *old = fake_ready_deployment(), *draining = fake_ready_deployment(),
				*ready = fake_ready_deployment(), *building = fake_ready_deployment();

	draining->state = STORE_DEPLOYMENT_DRAINING;
	building->state = STORE_DEPLOYMENT_BUILDING;
	fake_open_envs(1000);
	fake_take_over();
	cr_assert_eq(env_of(envs, environment)->serving, ready, "the newest that was ready");
	cr_assert_eq(old->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert_eq(draining->state, STORE_DEPLOYMENT_STOPPED);
	cr_assert_eq(building->state, STORE_DEPLOYMENT_FAILED);
	cr_assert(strstr(building->reason, "the source of deployment"), "it has none: %s", building->reason);
}

FAKE_TEST(env, what_was_on_its_way_at_a_restart_begins_again)
{
	struct store_deployment *ready = fake_ready_deployment(), *older = new_deployment(), *d = new_deployment();

	older->state = STORE_DEPLOYMENT_BUILDING;
	d->state = STORE_DEPLOYMENT_BUILDING;
	fake_open_envs(1000);
	cr_assert_eq(env_of(envs, environment)->serving, ready);
	fake_take_over();
	cr_assert_eq(d->state, STORE_DEPLOYMENT_QUEUED);
	cr_assert_eq(older->state, STORE_DEPLOYMENT_SUPERSEDED, "the newest alone");
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(env_of(envs, environment)->serving, d);
}

FAKE_TEST(env, one_that_was_deploying_goes_on_from_its_image)
{
	struct store_deployment *d = fake_ready_deployment();

	d->state = STORE_DEPLOYMENT_DEPLOYING;
	fake_open_envs(1000);
	fake_take_over();
	run_until(d->state == STORE_DEPLOYMENT_READY);
	cr_assert_eq(n_jobs, 0, "it is not built again");
}

/* Those of the former daemon are still on their way here: they would be too many. */
FAKE_TEST(env, min_scale_waits_until_what_lives_is_taken_over)
{
	auto_json change = json_pack("{s:i}", "min_scale", 1);
	struct err err = ERR_INIT;

	fake_ready_deployment();
	cr_assert_eq(envset_change(store, environment, change, &err), 0, "%s", err.msg);
	fake_open_envs(1000);
	run_for(1200); /* longer than a tick */
	cr_assert_eq(n_boxes, 0);
	fake_take_over();
	run_until(n_boxes == 1);
}

/* -- images that are kept -------------------------------------------------------------------------------------------- */

static struct fake_job *removal_of(const struct store_deployment *d)
{
	for (unsigned k = 0; k < n_jobs; k++)
		if (!strcmp(jobs[k].kind, "remove") && strstr(jobs[k].deployment, d->id))
			return &jobs[k];
	return NULL;
}

FAKE_TEST(env, the_newest_images_are_kept)
{
	struct store_deployment *d[3], *to = NULL;
	struct err err = ERR_INIT;

	fake_keep_images = 2;
	fake_begin_envs(1000);
	for (size_t k = 0; k < 3; k++) {
		d[k] = built();
		if (k)
			run_until(d[k - 1]->state == STORE_DEPLOYMENT_STOPPED);
	}
	run_until(removal_of(d[0]));
	cr_assert_eq(envs_rollback(envs, environment, d[0], &to, &err), -ENOENT, "it is on its way out");
	cr_assert(strstr(err.msg, "the newest 2"), "%s", err.msg);
	cr_assert(*d[0]->image, "not before it is gone");
	job_ends(removal_of(d[0]), 0, NULL);
	run_until(!*d[0]->image);
	run_for(20);
	cr_assert(!removal_of(d[1]) && !removal_of(d[2]));
	cr_assert_eq(envs_rollback(envs, environment, d[0], &to, &err), -ENOENT);
	cr_assert_eq(envs_rollback(envs, environment, NULL, &to, &err), 0, "%s", err.msg);
	cr_assert_eq(to, d[1]);
	run_until(d[1]->state == STORE_DEPLOYMENT_READY);
}

FAKE_TEST(env, an_image_in_use_is_kept_and_looked_at_again)
{
	struct store_deployment *first, *second;
	struct got g;

	fake_keep_images = 1;
	fake_begin_envs(1000);
	first = built();
	acquire(&g);
	run_until(g.calls);
	second = built();
	run_for(20);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING);
	cr_assert(!removal_of(first), "a session is open");
	instance_release(g.instance);
	run_until(removal_of(first));
	job_ends(removal_of(first), 1, "the tool failed");
	run_for(20);
	cr_assert(*first->image, "it is there still, and another try follows the next deployment");
	cr_assert(!removal_of(second));
}

/* -- the end of a revision, and of an environment ---------------------------------------------------------------------- */

FAKE_TEST(env, drain_timeout_ends_what_drains)
{
	auto_json change = json_pack("{s:s}", "drain_timeout", "1s");
	struct store_deployment *first;
	struct err err = ERR_INIT;
	struct got g;

	fake_begin_envs(1000);
	first = built();
	acquire(&g);
	run_until(g.calls);
	(void)built();
	run_for(1100);
	cr_assert_eq(first->state, STORE_DEPLOYMENT_DRAINING, "without the setting it drains as long as it likes");
	cr_assert_eq(envset_change(store, environment, change, &err), 0, "%s", err.msg);
	run_until(first->state == STORE_DEPLOYMENT_STOPPED);
	cr_assert(strstr(instance_end_reason(g.instance), "drain_timeout"), "%s", instance_end_reason(g.instance));
	cr_assert_eq(counts().instances_crashed_total, 0);
	instance_release(g.instance);
}

static void on_removed(void *arg)
{
	++*(unsigned *)arg;
}

FAKE_TEST(env, removing_ends_everything_first)
{
	struct store_deployment *first, *second;
	struct got draining, serving;
	unsigned removed = 0;

	fake_begin_envs(1000);
	first = built();
	acquire(&draining);
	run_until(draining.calls);
	second = built();
	acquire(&serving);
	run_until(serving.calls);
	envs_remove(envs, environment, "the environment was deleted", on_removed, &removed);
	cr_assert(environment->removing);
	run_until(counts().instances == 0);
	run_for(50);
	cr_assert_eq(removed, 0, "two sessions hold an instance");
	cr_assert(strstr(instance_end_reason(draining.instance), "was deleted"));
	instance_release(draining.instance);
	instance_release(serving.instance);
	run_until(removal_of(second));
	job_ends(removal_of(second), 0, NULL);
	run_until(removal_of(first));
	cr_assert_eq(removed, 0);
	job_ends(removal_of(first), 0, NULL);
	run_until(removed);
	cr_assert_eq(second->state, STORE_DEPLOYMENT_STOPPED);
	store_environment_remove(store, environment);
}
