/* Whose turn it is to send events: rollout/recorder.h. */
#include "rollout/recorder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rmtree.h"
#include "store/store.h"

#define MIB (1ull << 20)

static char dir[64];
static struct loop *loop;
static struct store *store;
static struct recorder *recorder;
static struct store_namespace *greedy, *other;

static void begin(void)
{
	const struct recorder_settings settings = { .pending_bytes = 256 * MIB, .events_max = 1000 };
	struct err err = ERR_INIT;

	snprintf(dir, sizeof(dir), "/tmp/test-recorder-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	auto_free char *path = xasprintf("%s/x.db", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(store_open(&store, loop, path, &err), 0, "%s", err.msg);
	cr_assert_eq(store_namespace_add(store, "greedy", "user", &greedy, &err), 0);
	cr_assert_eq(store_namespace_add(store, "other", "user", &other, &err), 0);
	recorder = recorder_new(loop, store, &settings);
}

static void end(void)
{
	recorder = recorder_free(recorder);
	store = store_free(store);
	loop = loop_free(loop);
	cr_assert_eq(rmtree(AT_FDCWD, dir), 0);
}

TestSuite(recorder, .init = begin, .fini = end, .timeout = 60);

static void count(void *arg)
{
	++*(int *)arg;
}

static void stop(void *arg)
{
	(void)arg;
	loop_stop(loop, 0);
}

/* All that is due now. */
static void settle(void)
{
	for (int i = 0; i < 3; i++) {
		loop_defer(loop, stop, NULL);
		cr_assert_eq(loop_run(loop), 0);
	}
}

/* One that announces much and never sends it. */
Test(recorder, one_namespace_does_not_hold_up_the_others)
{
	struct recorder_turn slow[8], mine[2], little;
	int slow_turns = 0, turns = 0;

	for (size_t i = 0; i < ARRAY_LEN(slow); i++)
		recorder_wait(recorder, &slow[i], greedy, 64 * MIB, count, &slow_turns);
	recorder_wait(recorder, &mine[0], other, 64 * MIB, count, &turns);
	recorder_wait(recorder, &little, greedy, MIB, count, &turns);
	settle();
	cr_assert_eq(slow_turns, 2, "it leaves as much as it has");
	cr_assert_eq(turns, 2);
	recorder_wait(recorder, &mine[1], other, 64 * MIB, count, &turns);
	settle();
	cr_assert_eq(turns, 2);
	recorder_leave(&mine[0]);
	settle();
	cr_assert_eq(turns, 3, "its own place is its own again");
	recorder_leave(&mine[1]);
	for (size_t i = 0; i < ARRAY_LEN(slow); i++) {
		recorder_leave(&slow[i]);
		settle();
	}
	cr_assert_eq(slow_turns, (int)ARRAY_LEN(slow), "in the end each has its turn");
	recorder_leave(&little);
	cr_assert_eq(recorder_stats(recorder)->pending_bytes, 0);
}
