/* How sessions end: teardowns, lost pings, crashes, redeployments, the end of the gateway; and what can cross them. */
#include "unit/gateway/slow.h"

/* -- teardown ------------------------------------------------------------------------------------------------------ */

FAKE_TEST(endings, a_teardown_comes_first_and_is_waited_for)
{
	struct client *c = dial(), *d = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/delete";
	ask_of(c, sid, "POST", "/delete_session", NULL);
	ask_of(d, sid, "POST", "/delete_session", NULL);
	run_until(held);
	cr_assert_str_eq(up_last()->sid, sid);
	run_for(20);
	cr_assert_eq(owned_ends, 0, "its sandboxes live as long as its teardown");
	cr_assert(!has(c, "200 OK"));
	let_go(200);
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(status_of(d), 200);
	cr_assert_eq(owned_ends, 1);
	hang_up(c);
	hang_up(d);
}

FAKE_TEST(endings, a_teardown_that_hangs_is_cut_off)
{
	struct client *c;

	settings.teardown_ms = 100;
	again();
	c = dial();
	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/delete";
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	run_until(!held);
	hang_up(c);
}

FAKE_TEST(endings, a_client_that_deletes_itself_is_not_torn_down_twice)
{
	struct client *c = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	cr_assert_eq(call(c, sid, "POST", "/delete"), 200);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	cr_assert_eq(up_count("POST /delete"), 1);
	hang_up(c);
}

/* Nothing is begun at the server any more: nobody would tear it down. */
FAKE_TEST(endings, deleted_while_its_create_waits_for_a_place)
{
	struct client *c = dial(), *d = dial(), *waiting = dial();

	fake_scale(1, 1);
	auto_free char *first = open_session(), *second = open_session();
	cr_assert_eq(call(c, first, "POST", "/create"), 200);
	ask_of(waiting, second, "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 1);
	hold_owned = true;
	ask_of(d, second, "POST", "/delete_session", NULL);
	run_until(owned_ends == 1);
	hold_owned = false;
	cr_assert_eq(call(c, first, "POST", "/delete_session"), 200);
	run_for(50);
	cr_assert_eq(up_count("POST /create"), 1, "the second one's place came when it was ending");
	cr_assert_eq(status_of(waiting), 410);
	cr_assert_eq(envs_waiting(envs), 0);
	owned_over(NULL);
	cr_assert_eq(status_of(d), 200);
	hang_up(c);
	hang_up(d);
	hang_up(waiting);
}

/* A server in the middle of a constructor does not know the session yet: its /delete has to come after. */
FAKE_TEST(endings, deleted_during_a_create)
{
	struct client *c = dial(), *d = dial(), *queued = dial();

	up_script = script;
	up_hold = "/create";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/create", "{}");
	run_until(held);
	ask_of(queued, sid, "POST", "/create", "{}");
	run_for(5);
	ask_of(d, sid, "POST", "/delete_session", NULL);
	cr_assert_eq(status_of(queued), 410, "what has not begun does not begin");
	run_for(20);
	cr_assert_eq(up_count("POST /delete"), 0);
	let_go(200);
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(status_of(d), 200);
	cr_assert_eq(up_count("POST /delete"), 1);
	cr_assert_eq(up_count("POST /create"), 1);
	hang_up(c);
	hang_up(d);
	hang_up(queued);
}

FAKE_TEST(endings, deleted_during_a_call)
{
	struct client *c = dial(), *d = dial();

	up_script = script;
	up_hold = "/counter/call";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/counter/call", "{}");
	run_until(held);
	cr_assert_eq(call(d, sid, "POST", "/delete_session"), 200);
	cr_assert_eq(status_of(c), 410);
	run_until(!held);
	hang_up(c);
	hang_up(d);
}

FAKE_TEST(endings, one_create_after_another)
{
	struct client *c = dial(), *d = dial();

	up_script = script;
	up_hold = "/create";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/create", "{}");
	ask_of(d, sid, "POST", "/create", "{}");
	run_until(held);
	run_for(20);
	cr_assert_eq(up_count("POST /create"), 1);
	let_go(200);
	cr_assert_eq(status_of(c), 200);
	run_until(held);
	let_go(400);
	cr_assert_eq(status_of(d), 400);
	hang_up(c);
	hang_up(d);
}

/* The first /create lies unread at a busy server, which says that it has no such session; the second is with it, unanswered. */
static void create_again(struct client *d)
{
	struct client *c = dial();

	up_script = script;
	up_hold = "/create";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/create", "{}");
	run_until(held);
	hang_up(c);
	run_until(!held);
	up_status = 404;
	ask_of(d, sid, "POST", "/create", "{}");
	run_until(held);
	cr_assert_eq(up_count("POST /ping"), 1);
}

/* By the second one's refusal it has the session, where `then` says so. */
static int create_twice(struct client *d, unsigned then)
{
	create_again(d);
	up_status = (int)then;
	let_go(400);
	int status = status_of(d);
	cr_assert_eq(up_count("POST /ping"), 2);
	return status;
}

FAKE_TEST(endings, a_create_that_came_through_late)
{
	struct client *d = dial();

	cr_assert_eq(create_twice(d, 200), 200);
	cr_assert(has(d, "\"sid\""), "%s", d->text);
	hang_up(d);
}

FAKE_TEST(endings, a_create_that_is_refused_both_times)
{
	struct client *d = dial();

	cr_assert_eq(create_twice(d, 404), 400);
	cr_assert(has(d, "application/json") && has(d, "{}"), "%s", d->text);
	hang_up(d);
}

/* Its end is known before whether it has the session. The body of the /create is spent: it must not be sent once more. */
FAKE_TEST(endings, a_create_that_is_refused_by_a_server_that_ends)
{
	struct client *d = dial();

	create_again(d);
	up_hold = "/ping";
	let_go(400);
	run_until(held);
	fake_main_over(&boxes[0], 3);
	let_go(200);
	cr_assert_eq(status_of(d), 410);
	cr_assert(has(d, "the instance exited with code 3"), "%s", d->text);
	run_for(20);
	cr_assert_eq(up_count("POST /create"), 2);
	hang_up(d);
	fake_box_over(&boxes[0]);
}

/* -- pings --------------------------------------------------------------------------------------------------------- */

FAKE_TEST(endings, pings_are_passed_on_between_create_and_delete_only)
{
	struct client *c = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	run_for(10);
	cr_assert_eq(up_count("POST /ping"), 0);
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	run_until(up_count("POST /ping") == 1);
	cr_assert_eq(call(c, sid, "POST", "/delete"), 200);
	run_for(40);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	run_for(10);
	cr_assert_eq(up_count("POST /ping"), 1);
	hang_up(c);
}

FAKE_TEST(endings, a_server_that_lost_the_session_ends_it)
{
	struct client *c = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_status = 404;
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200, "answered here, at once");
	run_until(figures().open == 0);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 410);
	cr_assert(has(c, "lost the session"));
	cr_assert_eq(up_count("POST /delete"), 0);
	hang_up(c);
}

/* The 404 of a ping that was under way when the client sent /delete says nothing. */
FAKE_TEST(endings, a_ping_overtaken_by_a_delete)
{
	struct client *c = dial(), *d = dial();

	settings.ping_forward_ms = 5000; /* the limit of a ping, too */
	again();
	hang_up(c);
	hang_up(d);
	c = dial();
	d = dial();
	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/ping";
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	run_until(held);
	struct http_req *ping = STEAL(held);
	up_hold = "/delete";
	ask_of(d, sid, "POST", "/delete", NULL);
	run_until(held);
	http_reply(ping, 404, NULL, NULL, 0);
	run_for(20);
	cr_assert_eq(figures().open, 1);
	let_go(200);
	cr_assert_eq(status_of(d), 200);
	hang_up(c);
	hang_up(d);
}

/* The session is closed and gone while a ping of it is still unanswered. */
FAKE_TEST(endings, closed_with_a_ping_under_way)
{
	struct client *c;

	settings.ping_forward_ms = 5000;
	again();
	c = dial();
	up_script = script;
	up_hold = "/ping";
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	cr_assert_eq(call(c, sid, "POST", "/ping"), 200);
	run_until(held);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	run_until(!held);
	cr_assert_eq(figures().open, 0);
	hang_up(c);
}

/* -- crashes ------------------------------------------------------------------------------------------------------- */

FAKE_TEST(endings, a_crash_while_idle)
{
	struct client *c = dial();
	auto_free char *sid = open_session();

	cr_assert_eq(call(c, sid, "GET", "/splits"), 200); /* leaves a kept connection */
	fake_crash(&boxes[0], 3);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 410);
	cr_assert(has(c, "the instance exited with code 3"), "%s", c->text);
	auto_free char *other = open_session();
	cr_assert_eq(call(c, other, "GET", "/splits"), 200);
	cr_assert_eq(n_boxes, 2);
	hang_up(c);
}

/* The connections of a dying server break before its end is known: 410 all the same, not 502. */
FAKE_TEST(endings, a_crash_under_an_open_call)
{
	struct client *c = dial();

	up_script = script;
	up_hold = "/counter/call";
	auto_free char *sid = open_session();
	ask_of(c, sid, "POST", "/counter/call", "{}");
	run_until(held);
	http_req_abort(held);
	run_until(!held);
	run_for(50);
	fake_crash(&boxes[0], 137);
	cr_assert_eq(status_of(c), 410);
	cr_assert(has(c, "the instance exited with code 137"), "%s", c->text);
	hang_up(c);
}

FAKE_TEST(endings, a_crash_during_a_teardown)
{
	struct client *c = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/delete";
	ask_of(c, sid, "POST", "/delete_session", NULL);
	run_until(held);
	fake_crash(&boxes[0], 1);
	cr_assert_eq(status_of(c), 200);
	hang_up(c);
}

FAKE_TEST(endings, a_crash_while_its_sandboxes_end)
{
	struct client *c = dial(), *d = dial(), *third = dial();

	up_script = script;
	up_hold = "/counter/call";
	auto_free char *sid = open_session();
	ask_of(d, sid, "POST", "/counter/call", "{}");
	run_until(held);
	hold_owned = true;
	ask_of(c, sid, "POST", "/delete_session", NULL);
	run_until(owned_done);
	fake_crash(&boxes[0], 1);
	run_for(5);
	cr_assert_eq(call(third, sid, "GET", "/x"), 410);
	hang_up(third);
	owned_over(NULL);
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(status_of(d), 410);
	cr_assert_eq(owned_ends, 1);
	hang_up(c);
	hang_up(d);
}

FAKE_TEST(endings, an_environment_that_is_stopped)
{
	struct client *c = dial();
	auto_free char *sid = open_session();

	envs_stop(envs, environment, "the environment was deleted");
	run_until(figures().open == 0);
	cr_assert_eq(call(c, sid, "GET", "/splits"), 410);
	cr_assert(has(c, "the environment was deleted"));
	hang_up(c);
}

/* A session stays with its instance; new ones go to the newer deployment. */
FAKE_TEST(endings, a_redeploy_under_a_session)
{
	struct client *c = dial();
	auto_free char *sid = open_session();
	struct store_deployment *d = new_deployment();

	cr_assert_eq(envs_deploy(envs, d, NULL), 0);
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	auto_free char *other = open_session();
	cr_assert_eq(call(c, sid, "GET", "/splits"), 200);
	cr_assert_eq(up_last()->box, 1);
	cr_assert_eq(call(c, other, "GET", "/splits"), 200);
	cr_assert_eq(up_last()->box, 2);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	run_until(boxes[0].ended);
	hang_up(c);
}

/* -- the end of the gateway ---------------------------------------------------------------------------------------- */

static bool shut;

static void on_shut(void *arg UNUSED)
{
	shut = true;
}

FAKE_TEST(endings, a_shutdown_without_sessions)
{
	gateway_shutdown(gateway, "x", on_shut, NULL);
	cr_assert(!shut, "never inside the call");
	run_until(shut);
}

FAKE_TEST(endings, a_shutdown_in_every_state)
{
	struct client *c = dial(), *opening = dial(), *ending = dial();

	up_script = script;
	auto_free char *ready = open_session(), *going = open_session();
	cr_assert_eq(call(c, going, "POST", "/create"), 200);
	up_hold = "/delete";
	ask_of(ending, going, "POST", "/delete_session", NULL);
	run_until(held);
	cr_assert_eq(store_environment_add(store, ns, "second", &environment, NULL), 0);
	struct store_deployment *d = new_deployment();
	cr_assert_eq(envs_deploy(envs, d, NULL), 0);
	ask(opening, "POST", "/create_session", "X-Deployment: alice/second\r\n", "{}"); /* waits for that build */
	auto_free char *sid = sid_from(opening);
	cr_assert_eq(figures().opening, 1);
	gateway_shutdown(gateway, "the server is stopping", on_shut, NULL);
	run_until(has(opening, "event: error\ndata: the server is stopping"));
	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	cr_assert_eq(status_of(c), 503);
	cr_assert_eq(call(c, ready, "GET", "/x"), 410);
	cr_assert(!shut);
	let_go(200);
	run_until(shut);
	cr_assert_eq(status_of(ending), 200);
	hang_up(c);
	hang_up(opening);
	hang_up(ending);
	job_ends(&jobs[0], 1, "x");
	run_for(5);
}

FAKE_TEST(endings, a_shutdown_waits_for_teardowns)
{
	struct client *c = dial();

	up_script = script;
	auto_free char *sid = open_session();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	up_hold = "/delete";
	gateway_shutdown(gateway, "the server is stopping", on_shut, NULL);
	run_until(held);
	run_for(20);
	cr_assert(!shut);
	let_go(200);
	run_until(shut);
	hang_up(c);
}

/* Without waiting, in the middle of everything: nothing may be touched or lost afterwards. */
FAKE_TEST(endings, the_gateway_is_freed_under_open_sessions)
{
	struct client *c = dial(), *d = dial(), *e = dial();

	up_script = script;
	auto_free char *idle = open_session(), *calling = open_session(), *ending = open_session();
	cr_assert_eq(call(c, ending, "POST", "/create"), 200);
	up_hold = "/counter/call";
	ask_of(c, calling, "POST", "/counter/call", "{}");
	run_until(held);
	up_hold = "/delete";
	ask_of(d, ending, "POST", "/delete_session", NULL);
	run_until(up_count("POST /delete") == 1);
	ask(e, "POST", "/create_session", OPEN_SESSION, "{}");
	auto_free char *opening = sid_from(e);
	cr_assert_gt(figures().open, 2);
	hang_up(c);
	hang_up(d);
	hang_up(e);
}
