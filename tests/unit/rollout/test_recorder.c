/* Whose turn it is to send events: rollout/recorder.h. */
#include "rollout/recorder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* -- whose environments ------------------------------------------------------------------------------------------- */

static void on_recorded(void *arg, size_t recorded, size_t repeated, const struct err *err)
{
	(void)arg;
	(void)repeated;
	cr_assert(!err && recorded == 1, "%s", err ? err->msg : "");
	loop_stop(loop, 0);
}

static void keep_environment(void *arg, const struct record_rollout *o)
{
	snprintf(arg, STORE_ID_LEN, "%s", o->environment_id ? o->environment_id : "");
}

static void look(void *arg, struct store_reader *r)
{
	struct err err = ERR_INIT;

	cr_assert_eq(store_rollout_find(r, other->id, arg, keep_environment, arg, &err), 0, "%s", err.msg);
}

/* The environment of a rollout that c logs; "" = none. */
static const char *logged(struct auth_caller c, const char *id, const char *environment_id)
{
	static char found[STORE_ID_LEN];
	char *body = xasprintf("{\"events\": [{\"eventType\": \"rollout\", \"eventId\": \"%s\", \"timestamp\": 1, \"runName\": \"r\","
			       " \"environment_id\": \"%s\"}]}", id, environment_id);

	recorder_record(recorder, &c, body, strlen(body), on_recorded, NULL);
	memset(&c, 0xff, sizeof(c));
	cr_assert_eq(loop_run(loop), 0);
	snprintf(found, sizeof(found), "%s", id);
	store_read(store, look, stop, found);
	cr_assert_eq(loop_run(loop), 0);
	return found;
}

Test(recorder, a_private_environment_counts_for_who_may_see_it)
{
	const struct store_key_spec spec = { .ns = other, .user = other, .label = "", .role = STORE_ROLE_MEMBER };
	struct auth_caller c = { .ns = other, .role = STORE_ROLE_MEMBER, .user = other };
	struct store_namespace *org;
	struct store_environment *env;
	struct err err = ERR_INIT;

	cr_assert_eq(store_key_add(store, &spec, (const unsigned char[STORE_HASH_LEN]){ 1 }, &c.key, &err), 0, "%s", err.msg);
	cr_assert_eq(store_namespace_add(store, "org", "org", &org, &err), 0);
	cr_assert_eq(store_environment_add(store, org, "e", &env, &err), 0);
	env->is_private = true;
	cr_assert_str_eq(logged(c, "stranger", env->id), "");
	store_member_put(store, org, other, STORE_ROLE_READER);
	cr_assert_str_eq(logged(c, "member", env->id), env->id);
	c.user = NULL;
	cr_assert_str_eq(logged(c, "not-by-this-key", env->id), "");
	c.role = STORE_ROLE_ADMIN;
	cr_assert_str_eq(logged(c, "admin", env->id), env->id);
	env->removing = true;
	cr_assert_str_eq(logged(c, "too-late", env->id), "");
}
