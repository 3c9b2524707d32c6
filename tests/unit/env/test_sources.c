/* How long the source of a deployment is kept that has no image. */
#include "unit/env/lives.h"

static char *source_of(const struct store_deployment *d)
{
	return xasprintf("%s/builds/%s/source.tar", dir, d->id);
}

static bool has_source(const struct store_deployment *d)
{
	auto_free char *path = source_of(d);

	return access(path, F_OK) == 0;
}

FAKE_TEST(env, sources_without_an_image_are_kept_as_images_are)
{
	struct store_deployment *good, *d[3], *to = NULL;
	struct err err = ERR_INIT;

	fake_keep_images = 2;
	fake_begin_envs(1000);
	good = built();
	for (size_t k = 0; k < 3; k++) {
		unsigned job = n_jobs;
		d[k] = deploy();
		run_until(n_jobs == job + 1);
		job_ends(&jobs[job], 256, "STEP 1 failed");
		run_until(d[k]->state == STORE_DEPLOYMENT_FAILED);
	}
	run_until(!has_source(d[0]));
	cr_assert(has_source(d[1]) && has_source(d[2]) && has_source(good));
	cr_assert_eq(envs_rollback(envs, environment, d[0], &to, &err), -ENOENT);
	cr_assert_eq(envs_rollback(envs, environment, d[1], &to, &err), 0, "%s", err.msg);
	cr_assert_eq(envs_cancel(envs, d[1], "cancelled", &err), 0);
	run_for(20);
	cr_assert(has_source(d[1]) && has_source(d[2]) && has_source(good));
}

FAKE_TEST(env, a_superseded_one_keeps_no_source)
{
	fake_begin_envs(1000);
	struct store_deployment *first = deploy(), *second = deploy();

	cr_assert_eq(first->state, STORE_DEPLOYMENT_SUPERSEDED);
	cr_assert_not(has_source(first));
	cr_assert(has_source(second));
}

FAKE_TEST(env, a_start_removes_folders_that_no_record_knows)
{
	struct store_deployment *known = new_deployment(), *old = new_deployment();
	auto_free char *lost = xasprintf("%s/builds/11111111-2222-4333-8444-555555555555", dir);
	auto_free char *part = xasprintf("%s/source.tar", lost), *other = xasprintf("%s/builds/somebody's", dir);

	known->state = STORE_DEPLOYMENT_STOPPED;
	old->state = STORE_DEPLOYMENT_SUPERSEDED;
	cr_assert_eq(fd_mkdirs(lost, 0755, NULL), 0);
	cr_assert_eq(fd_mkdirs(other, 0755, NULL), 0);
	cr_assert_eq(fd_write_file(part, "half", 4, 0644, NULL), 0);
	fake_begin_envs(1000);
	cr_assert_neq(access(lost, F_OK), 0);
	cr_assert_eq(access(other, F_OK), 0, "its name is no id");
	cr_assert(has_source(known));
	cr_assert_not(has_source(old));
}
