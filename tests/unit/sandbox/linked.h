/* A loop and a link to the spawner of fake_spawner.h. */
#pragma once

#include <sys/resource.h>

#include "sandbox/link.h"
#include "unit/sandbox/fake_spawner.h"

#define ID "00000000-0000-8000-8000-0123456789ab"

static struct loop *loop;
static struct link *spawner;
static struct err err;
static int n_done;

static inline void halt(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 1);
}

/* Turns the loop until stop() or for ms; true = stop() was called. */
static inline bool turn(uint64_t ms)
{
	struct loop_timer t;
	int r;

	loop_timer_init(&t, loop, halt, NULL);
	loop_timer_start(&t, ms);
	r = loop_run(loop);
	loop_timer_stop(&t);
	return r == 0;
}

static inline void stop(void)
{
	loop_stop(loop, 0);
}

static inline void on_done(void *arg UNUSED, const struct err *e)
{
	cr_assert_null(e);
	n_done++;
}

/* Nothing more can be opened; what gives the limit back. */
static inline struct rlimit use_up_descriptors(void)
{
	struct rlimit old, now;
	int lowest = dup(0);

	cr_assert_geq(lowest, 0);
	close(lowest);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
	now = (struct rlimit){ .rlim_cur = (rlim_t)lowest, .rlim_max = old.rlim_max };
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &now), 0);
	return old;
}

static inline void linked_begin(void)
{
	fake_start();
	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
	cr_assert_eq(link_new(&spawner, loop, fake.path, &err), 0, "%s", err.msg);
}

static inline void linked_end(void)
{
	link_free(spawner);
	fake_stop();
}
