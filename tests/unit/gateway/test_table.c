/* What a gateway finds of the one before it: gateway/table.c. The former one is freed, which leaves its records as a kill does;
 * the instances live on. */
#include <fcntl.h>
#include <unistd.h>

#include "json/json.h"
#include "unit/gateway/slow.h"

static void begin_kept(void)
{
	begin();
	settings.state_dir = dir;
	settings.life = "one";
	again();
	up_script = script;
}

static void next_daemon(const char *life)
{
	end_gateway();
	settings.life = life;
	begin_gateway();
	gateway_take_over(gateway);
}

#define KEPT_TEST(name) Test(table, name, .init = begin_kept, .fini = end, .timeout = 60)

KEPT_TEST(a_session_goes_on_with_its_instance)
{
	struct client *c;
	auto_free char *sid = open_session();

	c = dial();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	hang_up(c);
	next_daemon("one");
	c = dial();
	cr_assert_eq(figures().adopted_total, 1);
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 200);
	cr_assert_str_eq(up_last()->sid, sid);
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	cr_assert_eq(up_count("POST /delete"), 1, "its teardown is still owed");
	hang_up(c);
}

KEPT_TEST(what_has_ended_is_remembered_with_its_reason)
{
	struct client *c;
	auto_free char *sid = open_session();

	c = dial();
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	hang_up(c);
	next_daemon("one");
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410);
	cr_assert(has(c, "deleted by its client"));
	cr_assert_eq(figures().adopted_total, 0);
	hang_up(c);
}

KEPT_TEST(those_of_another_life_are_lost)
{
	struct client *c;
	auto_free char *sid = open_session();

	next_daemon("two");
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410);
	cr_assert(has(c, "outcome infra"));
	hang_up(c);
	next_daemon("two");
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410, "and stay remembered");
	hang_up(c);
}

KEPT_TEST(one_whose_instance_is_gone_has_crashed)
{
	struct client *c;
	auto_free char *sid = open_session();

	c = dial();
	cr_assert_eq(call(c, sid, "POST", "/create"), 200);
	hang_up(c);
	end_gateway();
	fake_end_boxes();
	run_for(5);
	begin_gateway();
	gateway_take_over(gateway);
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410);
	cr_assert(has(c, "outcome infra") || has(c, "ended"));
	hang_up(c);
}

/* Its sandboxes take their time, and a next daemon comes when its instance, if it had one, is gone. */
static void ending_goes_on(const char *sid)
{
	struct client *c = dial();

	hold_owned = true;
	ask_of(c, sid, "POST", "/delete_session", NULL);
	run_until(owned_done);
	hold_owned = false;
	end_gateway();
	owned_over(NULL);
	hang_up(c);
	fake_end_boxes();
	begin_gateway();
	gateway_take_over(gateway);
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410);
	run_until(figures().open == 0);
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 410);
	cr_assert(has(c, "has ended: deleted by its client") && !has(c, "outcome infra"), "%s", c->text);
	hang_up(c);
}

KEPT_TEST(one_that_was_ending_keeps_its_reason)
{
	auto_free char *sid = open_session();

	ending_goes_on(sid);
}

/* What it waits for is waited for again; its client comes with the id. */
static char *opening_session(const char *body)
{
	struct client *c = dial();
	char *sid;

	up_unhealthy = true;
	ask(c, "POST", "/create_session", OPEN_SESSION, body);
	sid = sid_from(c);
	hang_up(c);
	return sid;
}

static struct client *come_again(const char *sid, const char *env)
{
	auto_free char *body = xasprintf("{\"task_id\":\"%s\"%s%s}", sid, env ? ",\"env\":" : "", env ? env : "");
	struct client *c = dial();

	ask(c, "POST", "/create_session", OPEN_SESSION, body);
	return c;
}

KEPT_TEST(an_opening_that_was_ending_keeps_its_reason)
{
	auto_free char *sid = opening_session("{}");

	ending_goes_on(sid);
}

KEPT_TEST(an_opening_goes_on)
{
	struct client *c;
	auto_free char *sid = opening_session("{}");

	next_daemon("one");
	up_unhealthy = false;
	c = come_again(sid, NULL);
	run_until(has(c, "event: end"));
	cr_assert(has(c, sid));
	hang_up(c);
}

KEPT_TEST(one_whose_visited_instance_is_gone_while_it_waits_for_a_place_opens_again)
{
	struct client *c = dial(), *waiting = dial();

	fake_scale(1, 1);
	auto_free char *first = open_session(), *second = open_session();
	cr_assert_eq(call(c, first, "POST", "/create"), 200);
	ask_of(waiting, second, "POST", "/create", NULL);
	run_until(envs_waiting(envs) == 1);
	fake_hold_create = true;
	fake_crash(&boxes[0], 3);
	run_until(n_boxes == 2);
	next_daemon("one");
	hang_up(c);
	hang_up(waiting);
	fake_created(&boxes[1]);
	c = come_again(second, NULL);
	run_until(has(c, "event: end"));
	cr_assert_eq(call(c, second, "GET", "/splits"), 200);
	hang_up(c);
}

/* The environments are replaced as well, as the daemon does it. Nothing of theirs runs, but d is built; the memory of that, which a
 * process leaves to the kernel, is given back by a cancel. */
static void next_daemon_with_envs(struct store_deployment *d)
{
	end_gateway();
	cr_assert_eq(envs_cancel(envs, d, "x", NULL), 0);
	job_ends(&jobs[0], 9, NULL);
	job_ends(&jobs[1], 0, NULL); /* "clean" */
	run_for(5);
	d->state = STORE_DEPLOYMENT_BUILDING;
	fake_close_envs();
	fake_open_envs(2000);
	begin_gateway();
	envs_resume(envs);
	gateway_take_over(gateway);
	envs_taken_over(envs);
}

KEPT_TEST(one_that_waits_for_a_first_deployment_goes_on_waiting)
{
	struct client *c = dial();

	cr_assert_eq(store_environment_add(store, ns, "second", &environment, NULL), 0);
	struct store_deployment *d = new_deployment();
	cr_assert_eq(envs_deploy(envs, d, NULL), 0);
	ask(c, "POST", "/create_session", "X-Deployment: alice/second\r\n", "{}");
	auto_free char *sid = sid_from(c);
	run_until(n_jobs == 1);
	next_daemon_with_envs(d);
	hang_up(c);
	c = come_again(sid, NULL);
	run_until(n_jobs == 3);
	cr_assert(!has(c, "event: error"), "%s", c->text);
	job_succeeds(&jobs[2]);
	run_until(has(c, "event: end"));
	hang_up(c);
}

#define VARS "{\"SPECIAL\":\"yes\"}"

KEPT_TEST(an_opening_of_an_own_instance_has_its_variables_from_the_client)
{
	struct client *c;
	auto_free char *sid = opening_session("{\"env\":" VARS "}");

	next_daemon("one");
	next_daemon("one"); /* and again, before the client was there */
	up_unhealthy = false;
	c = come_again(sid, NULL);
	cr_assert_eq(status_of(c), 400);
	cr_assert(has(c, "env: missing"));
	hang_up(c);
	c = come_again(sid, VARS);
	run_until(has(c, "event: end"));
	cr_assert_eq(call(c, sid, "GET", "/prompt"), 200);
	hang_up(c);
}

KEPT_TEST(a_client_that_never_comes_again_leaves_nothing)
{
	auto_free char *sid = opening_session("{\"env\":" VARS "}");

	settings.lease_ms = 100;
	next_daemon("one");
	cr_assert_eq(figures().open, 1);
	run_until(figures().open == 0);
}

/* Slots are used again, so a younger session may lie before an older one: as here, where two have changed places. */
static void swap_first_two(void)
{
	auto_free char *path = xasprintf("%s/sessions", dir);
	auto_fd fd = open(path, O_RDWR | O_CLOEXEC);
	uint32_t bytes;

	cr_assert_eq(pread(fd, &bytes, sizeof(bytes), 20), (ssize_t)sizeof(bytes)); /* base/slots.c: header.record_bytes */
	auto_free char *both = xmalloc(2 * (size_t)bytes);
	cr_assert_eq(pread(fd, both, 2 * (size_t)bytes, 4096), 2 * (ssize_t)bytes);
	cr_assert_eq(pwrite(fd, both + bytes, bytes, 4096), (ssize_t)bytes);
	cr_assert_eq(pwrite(fd, both, bytes, 4096 + (off_t)bytes), (ssize_t)bytes);
}

KEPT_TEST(the_oldest_end_first_wherever_their_records_are)
{
	auto_free char *old = open_session();

	run_for(1500);
	auto_free char *young = open_session();
	end_gateway();
	swap_first_two();
	settings.hard_ms = 1800;
	begin_gateway();
	gateway_take_over(gateway);
	cr_assert_eq(figures().adopted_total, 2);
	run_for(1200); /* one sweep */
	struct client *c = dial();
	cr_assert_eq(call(c, young, "POST", "/ping"), 200);
	cr_assert_eq(call(c, old, "POST", "/ping"), 410, "it has reached its longest life");
	hang_up(c);
}

/* -- the session's own key ---------------------------------------------------------------------------------------------------- */

/* Creates the session with secrets of which one is the platform's key, and says what the server got instead. */
static void create_with_key(const char *sid, char ret[AUTH_KEY_LEN])
{
	auto_buf struct buf header = { 0 }, seen = { 0 };
	auto_free char *json = xasprintf("{\"k\":{\"value\":\"%s\"}}", key);
	auto_json secrets = NULL;
	struct client *c = dial();

	buf_init(&header, 65536);
	buf_init(&seen, 65536);
	cr_assert_eq(str_base64_append(&header, json, strlen(json)), 0);
	auto_free char *headers = xasprintf("X-Session-ID: %s\r\nX-Secrets: %s\r\n", sid, header.data);
	ask(c, "POST", "/create", headers, "{}");
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(str_base64_decode(&seen, up_last()->secrets, strlen(up_last()->secrets)), 0);
	cr_assert_eq(json_read_object(&secrets, seen.data, seen.len, NULL), 0);
	snprintf(ret, AUTH_KEY_LEN, "%s", json_string_value(json_object_get(json_object_get(secrets, "k"), "value")));
	hang_up(c);
}

static bool key_is_good(const char *text)
{
	struct auth_caller who;

	return auth_key(auth, text, &who, NULL) == 0;
}

KEPT_TEST(a_key_of_a_removed_user_is_none_for_the_next_daemon_either)
{
	struct store_namespace *user;
	struct store_key *k;
	char text[AUTH_KEY_LEN], admin[AUTH_KEY_LEN];

	memcpy(admin, key, sizeof(admin));
	cr_assert_eq(store_namespace_add(store, "bob", "user", &user, NULL), 0);
	store_member_put(store, ns, user, STORE_ROLE_MEMBER);
	struct store_key_spec spec = { .ns = ns, .user = user, .role = STORE_ROLE_MEMBER, .label = "b" };
	cr_assert_eq(auth_key_make_as(auth, &spec, key, &k, NULL), 0);
	auto_free char *sid = open_session();
	create_with_key(sid, text);
	cr_assert(key_is_good(text));
	store_user_remove(store, user);
	memcpy(key, admin, sizeof(admin));
	cr_assert(!key_is_good(text));
	next_daemon("one");
	cr_assert_eq(figures().adopted_total, 1);
	cr_assert(!key_is_good(text), "its user was removed");
}

/* -- a /create whose answer was lost ------------------------------------------------------------------------------------------ */

static void lose_create(const char *sid)
{
	struct client *c = dial();

	up_hold = "/create";
	ask_of(c, sid, "POST", "/create", "{\"a\":1}");
	run_until(held);
	up_hold = "";
	hang_up(c);
	run_until(!held);
}

static void create_again(const char *sid, size_t sent)
{
	struct client *c = dial();

	ask_of(c, sid, "POST", "/create", "{\"a\":1}");
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(up_count("POST /ping"), 1, "the server is asked whether it has the session");
	cr_assert_eq(up_count("POST /create"), sent);
	hang_up(c);
}

KEPT_TEST(a_create_that_came_through_is_not_sent_twice)
{
	auto_free char *sid = open_session();

	lose_create(sid);
	create_again(sid, 1);
}

KEPT_TEST(nor_by_the_next_daemon)
{
	auto_free char *sid = open_session();

	lose_create(sid);
	next_daemon("one");
	create_again(sid, 1);
}

KEPT_TEST(a_create_that_the_server_knows_nothing_of_is_sent)
{
	auto_free char *sid = open_session();

	lose_create(sid);
	up_status = 404;
	struct client *c = dial();
	ask_of(c, sid, "POST", "/create", "{\"a\":1}");
	cr_assert_eq(status_of(c), 404);
	cr_assert_eq(up_count("POST /create"), 2);
	hang_up(c);
}

KEPT_TEST(another_create_is_passed_on_as_it_is)
{
	struct client *c;
	auto_free char *sid = open_session();

	lose_create(sid);
	c = dial();
	ask_of(c, sid, "POST", "/create", "{\"another\":1}");
	cr_assert_eq(status_of(c), 200);
	ask_of(c, sid, "POST", "/create", "{\"another\":1}");
	cr_assert_eq(status_of(c), 200);
	cr_assert_eq(up_count("POST /ping"), 0);
	cr_assert_eq(up_count("POST /create"), 3);
	hang_up(c);
}
