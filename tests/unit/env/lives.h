/* unit/env/lives.h: what the tests of instances, deployments and followers share: who asks for an instance, and deployments
 * that go their way. */
#pragma once

#include "unit/env/fake.h"

struct got { /* of one env_acquire */
	unsigned calls;
	struct instance *instance;
	struct err err;
	struct env_wait *wait;
};

static inline void on_got(void *arg, struct instance *i, const struct err *err)
{
	struct got *g = arg;

	g->calls++;
	g->instance = i;
	g->wait = NULL;
	err_copy(&g->err, err);
	cr_assert(!i == !!err, "exactly one of the two");
}

static inline void acquire(struct got *g)
{
	*g = (struct got){ 0 };
	g->wait = env_acquire(envs, environment, &(struct env_request){ .done = on_got, .arg = g });
	cr_assert_eq(g->calls, 0, "a callback never runs inside the call");
}

static inline struct env_counts counts(void)
{
	struct env_counts c;

	envs_counts(envs, &c);
	return c;
}

static inline void begin(void)
{
	fake_begin_store();
}

static inline void end(void)
{
	fake_end_boxes();
	cr_assert_eq(counts().instances, 0, "an instance was never heard of again");
	cr_assert_eq(counts().starting, 0, "the gauge of starting ones did not go back");
	cr_assert_eq(counts().draining, 0, "the gauge of draining ones did not go back");
	cr_assert_eq(counts().illegal_moves_total, 0, "a move that the table does not have");
	fake_end();
}

static inline struct store_deployment *deploy(void)
{
	struct store_deployment *d = new_deployment();
	struct err err = ERR_INIT;

	cr_assert_eq(envs_deploy(envs, d, &err), 0, "%s", err.msg);
	return d;
}

static inline void assert_moves(const struct store_deployment *d, const char *expected)
{
	char got[200] = "";

	list_foreach(&d->transitions, struct store_transition, of_deployment, t)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ", store_deployment_state_name(t->to));
	cr_assert_str_eq(got, expected);
}

static inline struct store_deployment *built(void)
{
	struct store_deployment *d = deploy();
	unsigned job = n_jobs;

	run_until(n_jobs == job + 1);
	job_succeeds(&jobs[job]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	return d;
}
