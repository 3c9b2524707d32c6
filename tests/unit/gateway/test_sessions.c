/* The first half of a session's life: opening, and what keeps it. */
#include "unit/gateway/slow.h"

/* -- opening ------------------------------------------------------------------------------------------------------- */

FAKE_TEST(sessions, open_use_delete)
{
	struct client *c = dial();
	auto_free char *sid = open_session();

	cr_assert_eq(call(c, sid, "GET", "/splits"), 200);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	run_until(has(c, sid));
	cr_assert_eq(up_count("POST /delete"), 0, "no /create: a listing's session costs no teardown");
	cr_assert_eq(call(c, sid, "GET", "/splits"), 410);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200, "repeats are harmless");
	cr_assert_eq(call(c, sid, "POST", "/delete"), 200);
	cr_assert_eq(call(c, "00000000-0000-8000-8000-000000000000", "GET", "/splits"), 404);
	cr_assert_eq(figures().open, 0);
	hang_up(c);
}

FAKE_TEST(sessions, who_asks_and_for_what)
{
	struct client *c = dial();

	ask(c, "POST", "/create_session", "", "{}");
	cr_assert_eq(status_of(c), 400);
	ask(c, "POST", "/create_session", "X-Deployment: alice/none\r\n", "{}");
	cr_assert_eq(status_of(c), 404);
	cr_assert(has(c, "Deployment not found."));
	ask(c, "POST", "/create_session", OPEN_SESSION, "[]");
	cr_assert_eq(status_of(c), 400);
	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"A=\":\"b\"}}");
	cr_assert_eq(status_of(c), 400);
	ask(c, "POST", "/delete_session", "", NULL);
	cr_assert_eq(status_of(c), 400);
	ask(c, "GET", "/splits", "", NULL);
	cr_assert_eq(status_of(c), 404);
	memset(key + 10, 'x', 5);
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	cr_assert_eq(status_of(c), 401);
	cr_assert_eq(call(c, "x", "POST", "/ping"), 401);
	hang_up(c);
}

FAKE_TEST(sessions, a_stranger_sees_nothing_of_it)
{
	struct store_namespace *other;
	char own[AUTH_KEY_LEN];
	struct client *c = dial();
	auto_free char *sid = open_session();

	memcpy(own, key, sizeof(own));
	cr_assert_eq(store_namespace_add(store, "bob", "user", &other, NULL), 0);
	cr_assert_eq(auth_key_make(auth, other, STORE_ROLE_MEMBER, "b", key, NULL), 0);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 404);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 404);
	cr_assert_eq(call(c, sid, "POST", "/delete"), 404);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 404);
	memcpy(key, own, sizeof(own));
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	hang_up(c);
}

FAKE_TEST(sessions, variables_bring_an_instance_of_its_own)
{
	struct client *c = dial(), *other = dial();
	auto_free char *plain = open_session();

	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"ANY\":\"thing\"}}");
	run_until(has(c, "event: end"));
	auto_free char *sid = sid_from(c);
	cr_assert_eq(n_boxes, 2);
	cr_assert_eq(call(other, sid, "GET", "/splits"), 200);
	cr_assert_eq(up_last()->box, 2);
	cr_assert_eq(call(other, plain, "GET", "/splits"), 200);
	cr_assert_eq(up_last()->box, 1);
	cr_assert_eq(call(other, sid, "POST", "/delete_session"), 200);
	run_until(boxes_running() == 1);
	cr_assert(!boxes[0].ended);
	hang_up(c);
	hang_up(other);
}

/* Of a queue of four, with a share of once what is free: two places for one key, and one is left for the next. */
FAKE_TEST(sessions, one_key_cannot_fill_the_queue)
{
	struct client *c, *waiting[3];
	char greedy[AUTH_KEY_LEN], *sids[6];

	settings.queue = (struct share){ .max = 4, .times = 1 };
	again();
	c = dial();
	for (size_t i = 0; i < ARRAY_LEN(waiting); i++)
		waiting[i] = dial();
	fake_scale(1, 1);
	for (size_t i = 0; i < 4; i++)
		sids[i] = open_session();
	memcpy(greedy, key, sizeof(key));
	cr_assert_eq(auth_key_make(auth, ns, STORE_ROLE_MEMBER, "other", key, NULL), 0);
	sids[4] = open_session();
	sids[5] = open_session();
	cr_assert_eq(call(c, sids[5], "POST", "/create"), 200);
	memcpy(key, greedy, sizeof(key));
	for (size_t i = 0; i < 2; i++)
		ask_of(waiting[i], sids[i], "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 2);
	cr_assert_eq(call(c, sids[2], "POST", "/create"), 429);
	cr_assert(has(c, "Retry-After: 5"));
	cr_assert(has(c, "2 sessions wait for an instance already, 2 of them of this key, and queue.max is 4"), "%s", c->text);
	ask_of(waiting[2], sids[4], "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 3);
	for (size_t i = 0; i < ARRAY_LEN(sids); i++)
		free(sids[i]);
	for (size_t i = 0; i < ARRAY_LEN(waiting); i++)
		hang_up(waiting[i]);
	hang_up(c);
}

/* Nor by sessions whose clients left, one after the other, and come again all together. */
FAKE_TEST(sessions, nor_by_taking_up_what_it_left)
{
	struct client *c[2], *refused;
	char *bodies[5];

	settings.queue = (struct share){ .max = 4, .times = 1 };
	again();
	fake_no_room = true;
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		struct client *gone = dial();
		ask(gone, "POST", "/create_session", OPEN_SESSION, "{}");
		auto_free char *sid = sid_from(gone);
		bodies[i] = xasprintf("{\"task_id\":\"%s\"}", sid);
		hang_up(gone);
		run_until(envs_waiting(envs) == 0);
	}
	for (size_t i = 0; i < 2; i++) {
		c[i] = dial();
		ask(c[i], "POST", "/create_session", OPEN_SESSION, bodies[i]);
		run_until(envs_waiting(envs) == i + 1);
	}
	refused = dial();
	ask(refused, "POST", "/create_session", OPEN_SESSION, bodies[2]);
	cr_assert_eq(status_of(refused), 429, "%s", refused->text);
	cr_assert(has(refused, "Retry-After: 5"));
	hang_up(c[0]);
	run_until(envs_waiting(envs) == 1);
	ask(refused, "POST", "/create_session", OPEN_SESSION, bodies[2]);
	cr_assert_eq(status_of(refused), 200, "it was refused, not ended");
	run_until(envs_waiting(envs) == 2);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
		free(bodies[i]);
	hang_up(c[1]);
	hang_up(refused);
}

FAKE_TEST(sessions, those_with_variables_queue_like_others)
{
	struct client *c[2], *refused;

	settings.queue = (struct share){ .max = 4, .times = 1 };
	again();
	fake_no_room = true;
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		c[i] = dial();
		ask(c[i], "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"A\":\"b\"}}");
		run_until(has(c[i], "event: task_id"));
	}
	refused = dial();
	ask(refused, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"A\":\"b\"}}");
	cr_assert_eq(status_of(refused), 429, "%s", refused->text);
	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		hang_up(c[i]);
	hang_up(refused);
}

static void on_nobodys(void *arg UNUSED, struct instance *i UNUSED, const struct err *err UNUSED)
{
}

/* Who asks without a key what an environment lists waits, too, and takes nobody's place in the queue. */
FAKE_TEST(sessions, strangers_do_not_fill_the_queue)
{
	struct env_wait *strangers[8];
	struct client *c;

	settings.queue = (struct share){ .max = 4, .times = 1 };
	again();
	c = dial();
	fake_no_room = true;
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		strangers[i] = env_acquire(envs, environment, &(struct env_request){ .want = ENV_VISIT, .done = on_nobodys });
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	cr_assert_eq(status_of(c), 200, "%s", c->text);
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		env_acquire_cancel(strangers[i]);
	hang_up(c);
}

/* An environment's server takes /%63reate for /create: so it takes a place, too. */
FAKE_TEST(sessions, a_create_in_other_letters_takes_a_place)
{
	struct client *c = dial(), *waiting = dial();

	fake_scale(1, 1);
	auto_free char *first = open_session(), *second = open_session();
	cr_assert_eq(call(c, first, "POST", "/%63reate"), 200);
	ask_of(waiting, second, "POST", "/creat%65", NULL);
	run_until(envs_waiting(envs) == 1);
	cr_assert_eq(call(c, first, "POST", "/delete_session"), 200);
	cr_assert_eq(up_count("POST /delete"), 1, "what was created is torn down");
	cr_assert_eq(status_of(waiting), 200);
	hang_up(c);
	hang_up(waiting);
}

FAKE_TEST(sessions, one_that_waits_for_a_place_outlives_the_instance_it_visits)
{
	struct client *c = dial(), *waiting = dial();

	fake_scale(1, 1);
	auto_free char *first = open_session(), *second = open_session();
	cr_assert_eq(call(c, first, "POST", "/create"), 200);
	ask_of(waiting, second, "POST", "/create", NULL);
	run_for(20);
	cr_assert(!has(waiting, "HTTP/1.1"), "there is no place");
	fake_crash(&boxes[0], 3);
	cr_assert_eq(status_of(waiting), 200, "%s", waiting->text);
	cr_assert_eq(up_last()->box, 2);
	cr_assert_eq(call(c, first, "GET", "/splits"), 410);
	hang_up(c);
	hang_up(waiting);
}

/* One session has the only place, the /create of another waits for it, and the instance is gone. */
static char *visited_one_crashes(struct client *waiting)
{
	struct client *c = dial();

	fake_scale(1, 1);
	auto_free char *first = open_session();
	char *second = open_session();
	cr_assert_eq(call(c, first, "POST", "/create"), 200);
	ask_of(waiting, second, "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 1);
	fake_hold_create = true;
	fake_crash(&boxes[0], 3);
	run_until(n_boxes == 2);
	hang_up(c);
	return second;
}

FAKE_TEST(sessions, nor_does_it_end_where_its_client_waits_no_longer)
{
	struct client *c = dial(), *waiting = dial();
	auto_free char *sid = visited_one_crashes(waiting);

	cr_assert_eq(call(c, sid, "GET", "/splits"), 503, "%s", c->text);
	cr_assert(has(c, "X-Backend-State: starting"));
	hang_up(waiting);
	run_for(20);
	fake_created(&boxes[1]);
	run_until(up_listed == 2);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 200, "%s", c->text);
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	cr_assert_eq(up_last()->box, 2);
	hang_up(c);
}

FAKE_TEST(sessions, it_ends_where_no_other_can_be_started)
{
	struct client *c = dial(), *waiting = dial();
	auto_free char *sid = visited_one_crashes(waiting);

	fake_create_fails = true;
	fake_created(&boxes[1]);
	cr_assert_eq(status_of(waiting), 410);
	cr_assert(has(waiting, "no room for another box"), "%s", waiting->text);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 410);
	hang_up(c);
	hang_up(waiting);
}

static void on_other(void *arg, struct instance *i, const struct err *err UNUSED)
{
	*(struct instance **)arg = i;
}

/* The place is on its way already when the instance that it visits is gone. */
FAKE_TEST(sessions, a_place_may_come_before_another_visit)
{
	struct env_request rq = { .want = ENV_PLACE, .key = "other", .done = on_other };
	struct client *c = dial(), *waiting = dial();
	struct instance *other = NULL;

	fake_scale(1, 2);
	rq.arg = &other;
	auto_free char *first = open_session();
	cr_assert_eq(call(c, first, "POST", "/create"), 200);
	(void)env_acquire(envs, environment, &rq);
	run_until(other);
	auto_free char *second = open_session();
	ask_of(waiting, second, "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 1);
	instance_leave(other);
	instance_release(other);
	fake_crash(&boxes[0], 3);
	cr_assert_eq(figures().opening, 1);
	cr_assert_eq(status_of(waiting), 200, "%s", waiting->text);
	cr_assert_eq(figures().opening, 0);
	cr_assert_eq(call(c, second, "GET", "/splits"), 200);
	cr_assert_eq(up_last()->box, 2);
	hang_up(c);
	hang_up(waiting);
}

FAKE_TEST(sessions, a_stranger_sets_providers_alone)
{
	struct store_namespace *other;
	struct client *c = dial();

	environment->is_private = false;
	cr_assert_eq(store_namespace_add(store, "bob", "user", &other, NULL), 0);
	cr_assert_eq(auth_key_make(auth, other, STORE_ROLE_MEMBER, "b", key, NULL), 0);
	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"PATH\":\"/tmp\"}}");
	cr_assert_eq(status_of(c), 400);
	cr_assert(has(c, "env.PATH"));
	cr_assert_eq(n_boxes, 0);
	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"OPENAI_API_KEY\":\"x\"}}");
	run_until(has(c, "event: end"));
	cr_assert_eq(n_boxes, 1);
	hang_up(c);
}

/* It is the instance that asks the provider, and it has the owner's key where the session brings none. */
FAKE_TEST(sessions, a_stranger_brings_the_key_for_an_address)
{
	struct store_namespace *other;
	struct client *c = dial();

	environment->is_private = false;
	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"OPENAI_BASE_URL\":\"http://a\"}}");
	run_until(has(c, "event: end")); /* the owner's to say */
	hang_up(c);
	c = dial();
	cr_assert_eq(store_namespace_add(store, "bob", "user", &other, NULL), 0);
	cr_assert_eq(auth_key_make(auth, other, STORE_ROLE_MEMBER, "b", key, NULL), 0);
	ask(c, "POST", "/create_session", OPEN_SESSION,
	    "{\"env\":{\"OPENAI_BASE_URL\":\"http://b\",\"ANTHROPIC_API_KEY\":\"x\"}}");
	cr_assert_eq(status_of(c), 400);
	cr_assert(has(c, "env.OPENAI_BASE_URL") && has(c, "env.OPENAI_API_KEY"), "%s", c->text);
	ask(c, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"ANTHROPIC_BASE_URL\":\"http://b\"}}");
	cr_assert_eq(status_of(c), 400);
	cr_assert(has(c, "env.ANTHROPIC_BASE_URL") && has(c, "env.ANTHROPIC_API_KEY"), "%s", c->text);
	cr_assert_eq(n_boxes, 1);
	ask(c, "POST", "/create_session", OPEN_SESSION,
	    "{\"env\":{\"OPENAI_BASE_URL\":\"http://b\",\"OPENAI_API_KEY\":\"x\"}}");
	run_until(has(c, "event: end"));
	cr_assert_eq(n_boxes, 2);
	hang_up(c);
}

FAKE_TEST(sessions, a_client_that_goes_waits_no_longer)
{
	struct client *first = dial(), *own = dial(), *again = dial();

	fake_no_room = true;
	ask(first, "POST", "/create_session", OPEN_SESSION, "{}");
	ask(own, "POST", "/create_session", OPEN_SESSION, "{\"env\":{\"A\":\"b\"}}");
	auto_free char *sid = sid_from(first);
	run_until(has(first, ": waiting for room: 1 of 1"));
	run_until(has(own, ": waiting for room: 1 of 1"));
	cr_assert_eq(n_boxes, 2);
	hang_up(first);
	hang_up(own);
	run_until(envs_waiting(envs) == 0);
	run_until(boxes_running() == 0); /* nothing is started for nobody */
	auto_free char *body = xasprintf("{\"task_id\":\"%s\"}", sid);
	fake_no_room = false;
	ask(again, "POST", "/create_session", OPEN_SESSION, body);
	run_until(has(again, "event: end"));
	cr_assert(has(again, sid));
	cr_assert_eq(figures().sessions_total, 2);
	hang_up(again);
}

FAKE_TEST(sessions, a_stream_that_broke_is_taken_up_again)
{
	struct client *first = dial(), *second = dial(), *third = dial();

	fake_hold_create = true;
	ask(first, "POST", "/create_session", OPEN_SESSION, "{}");
	auto_free char *sid = sid_from(first);
	auto_free char *body = xasprintf("{\"task_id\":\"%s\"}", sid);
	cr_assert_eq(call(second, sid, "GET", "/splits"), 503);
	cr_assert(has(second, "X-Backend-State: starting"));
	ask(second, "POST", "/create_session", OPEN_SESSION, body);
	run_until(has(second, sid));
	run_until(is_over(first)); /* one stream per session */
	hang_up(second);
	run_for(5);
	ask(third, "POST", "/create_session", OPEN_SESSION, body);
	run_until(has(third, sid));
	fake_created(&boxes[0]);
	run_until(has(third, "event: end"));
	cr_assert_eq(n_boxes, 1);
	cr_assert_eq(figures().sessions_total, 1);
	ask(third, "POST", "/create_session", OPEN_SESSION, body); /* when it is ready already */
	run_until(has(third, "event: end"));
	ask(third, "POST", "/create_session", OPEN_SESSION, "{\"task_id\":\"none\"}");
	run_until(has(third, "event: error\ndata: unknown task_id"));
	cr_assert_eq(call(third, sid, "POST", "/delete_session"), 200);
	ask(third, "POST", "/create_session", OPEN_SESSION, body);
	run_until(has(third, "event: error\ndata: deleted by its client"));
	hang_up(first);
	hang_up(third);
}

FAKE_TEST(sessions, opening_has_an_end)
{
	struct client *c = dial();

	settings.open_ms = 50;
	again();
	hang_up(c);
	c = dial();
	up_unhealthy = true;
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	run_until(has(c, "event: error"));
	cr_assert(has(c, "no instance of alice/counter was ready within"), "%s", c->text);
	run_until(figures().open == 0);
	hang_up(c);
}

FAKE_TEST(sessions, an_instance_that_cannot_start_is_an_error_event)
{
	struct client *c = dial();

	fake_no_image = true;
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	auto_free char *sid = sid_from(c);
	run_until(has(c, "event: error"));
	run_until(figures().open == 0);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 410);
	hang_up(c);
}

FAKE_TEST(sessions, deleted_while_it_opens)
{
	struct client *c = dial(), *d = dial();

	fake_hold_create = true;
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	auto_free char *sid = sid_from(c);
	cr_assert_eq(call(d, sid, "POST", "/ping"), 200);
	cr_assert_eq(call(d, sid, "POST", "/delete"), 200);
	cr_assert_eq(figures().opening, 1);
	cr_assert_eq(call(d, sid, "POST", "/delete_session"), 200);
	run_until(has(c, "event: error"));
	fake_created(&boxes[0]);
	run_for(30);
	cr_assert_eq(figures().open, 0);
	hang_up(c);
	hang_up(d);
}

FAKE_TEST(sessions, more_than_the_limit_are_refused)
{
	struct client *c;

	settings.sessions_max = 2;
	again();
	c = dial();
	auto_free char *a = open_session(), *b = open_session();
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	cr_assert_eq(status_of(c), 429);
	cr_assert(has(c, "Retry-After: "));
	cr_assert_eq(call(c, a, "POST", "/delete_session"), 200);
	auto_free char *again_ = open_session();
	cr_assert_str_neq(b, again_);
	hang_up(c);
}

/* -- leases -------------------------------------------------------------------------------------------------------- */

FAKE_TEST(sessions, the_oldest_that_ended_are_forgotten_first)
{
	char *sids[5];
	struct client *c;

	settings.remember_max = 3;
	again();
	c = dial();
	for (size_t i = 0; i < ARRAY_LEN(sids); i++) {
		sids[i] = open_session();
		cr_assert_eq(call(c, sids[i], "POST", "/delete_session"), 200);
	}
	for (size_t i = 0; i < ARRAY_LEN(sids); i++) {
		cr_assert_eq(call(c, sids[i], "GET", "/splits"), i < 2 ? 404 : 410, "%zu", i);
		cr_assert_eq(call(c, sids[i], "POST", "/ping"), i < 2 ? 404 : 410, "%zu", i);
		cr_assert_eq(call(c, sids[i], "POST", "/delete_session"), i < 2 ? 404 : 200, "%zu", i);
	}
	cr_assert_eq(call(c, sids[4], "GET", "/splits"), 410);
	cr_assert(has(c, "deleted by its client"));
	cr_assert_eq(call(c, "00000000-0000-8000-8000-00000000000g", "GET", "/splits"), 404, "no UUID");
	for (size_t i = 0; i < ARRAY_LEN(sids); i++)
		free(sids[i]);
	hang_up(c);
}

FAKE_TEST(sessions, silence_ends_one_and_an_open_request_holds_it)
{
	struct client *c, *d;

	settings.lease_ms = 300;
	again();
	c = dial();
	d = dial();
	up_script = script;
	up_hold = "/create";
	auto_free char *silent = open_session(), *busy = open_session();
	ask_of(c, busy, "POST", "/create", "{}");
	run_until(figures().open == 1);
	cr_assert_eq(figures().expired_total, 1);
	cr_assert_eq(call(d, silent, "POST", "/ping"), 410);
	cr_assert(has(d, "no ping and no request"));
	run_for(1200);
	cr_assert_eq(figures().open, 1, "its constructor takes long");
	let_go(200);
	cr_assert_eq(status_of(c), 200);
	run_until(figures().open == 0);
	cr_assert_eq(up_count("POST /delete"), 1, "what was created is torn down");
	hang_up(c);
	hang_up(d);
}

/* A client that is gone must not hold the lease by a request that nobody waits for. */
FAKE_TEST(sessions, a_client_that_went_away_holds_nothing)
{
	struct client *c;

	settings.lease_ms = 200;
	again();
	c = dial();
	up_script = script;
	up_hold = "/create";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/create", "{}");
	run_until(held);
	hang_up(c);
	run_until(!held); /* its server hears of it */
	run_until(figures().open == 0);
	cr_assert_eq(up_count("POST /delete"), 1, "it may have been created");
}

FAKE_TEST(sessions, the_hard_deadline_counts_once)
{
	struct client *c;

	settings.hard_ms = 100;
	settings.teardown_ms = 3000;
	again();
	c = dial();
	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/delete";
	run_until(held);
	run_for(2200); /* two more sweeps while the teardown takes its time */
	cr_assert_eq(figures().expired_total, 1);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 410);
	let_go(200);
	run_until(figures().open == 0);
	hang_up(c);
}
