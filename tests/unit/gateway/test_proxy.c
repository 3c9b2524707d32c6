/* What passes through the gateway: both ways, whole, unbuffered, and how it breaks. */
#include <sys/resource.h>

#include "gateway/private.h"
#include "json/json.h"
#include "unit/gateway/harness.h"

#define BIG (200ull << 20)

static uint64_t up_got, up_sum; /* bytes of bodies that reached the instance, and their sum */
static bool up_ended, up_stall;

static void on_up_body(struct http_req *req, const char *p, size_t len, void *arg UNUSED)
{
	up_got += len;
	for (size_t i = 0; i < len; i++)
		up_sum += (unsigned char)p[i];
	if (!p) {
		up_ended = true;
		http_reply(req, 200, NULL, NULL, 0);
	} else if (up_stall) {
		http_req_pause(req);
	}
}

struct producer {
	uint64_t left;
	char piece[65536];
};

static void produce(struct http_req *req, void *arg)
{
	struct producer *p = arg;
	bool room = true;

	while (room && p->left) {
		size_t n = (size_t)MIN(p->left, sizeof(p->piece));
		room = http_reply_write(req, p->piece, n);
		p->left -= n;
	}
	if (!p->left)
		http_reply_end(req);
}

static void start_big(struct http_req *req)
{
	struct producer *p = http_req_alloc(req, sizeof(*p));

	memset(p->piece, 'a', sizeof(p->piece));
	p->left = BIG;
	http_reply_start(req, 200, "application/octet-stream", (int64_t)BIG);
	http_reply_on_drain(req, produce, p);
	produce(req, p);
}

static void on_echo(struct http_req *req, const char *p, size_t len, void *arg UNUSED)
{
	http_reply(req, 200, "text/plain", p, len);
}

static void script(struct http_req *req, void *arg UNUSED)
{
	const char *path = http_req_path(req);

	if (!strcmp(path, "/echo")) {
		http_req_body(req, 0, on_echo, NULL);
	} else if (!strcmp(path, "/sink")) {
		hold(req);
		http_req_stream(req, on_up_body, NULL);
	} else if (!strcmp(path, "/big")) {
		start_big(req);
	} else if (!strcmp(path, "/refuse")) {
		http_reply_header(req, "Connection", "close");
		http_reply(req, 413, "text/plain", "too big", 7);
	} else if (!strcmp(path, "/break")) {
		http_req_abort(req);
	} else if (!strcmp(path, "/none")) {
		http_reply(req, 204, NULL, NULL, 0);
	} else if (!strcmp(path, "/same")) {
		http_reply_header(req, "ETag", "\"x\"");
		http_reply(req, 304, NULL, NULL, 0);
	} else if (!strcmp(path, "/moved")) {
		http_reply_header(req, "Location", "/counter/moved");
		http_reply(req, 308, NULL, NULL, 0);
	} else if (!strcmp(path, "/text")) {
		http_reply_header(req, "X-One", "1");
		http_reply_header(req, "X-Two", "a");
		http_reply_header(req, "X-Two", "b");
		http_reply(req, 418, "text/plain", "hello", 5);
	} else if (!strcmp(path, "/events") || !strcmp(path, "/partial")) {
		hold(req);
		http_reply_start(req, 200, "text/event-stream", -1);
		http_reply_write(req, "event: task_id\ndata: 1\n\n", 24);
	} else {
		hold(req);
	}
}

static char *start(void)
{
	up_script = script;
	return open_session();
}

/* -- one exchange ---------------------------------------------------------------------------------------------------- */

FAKE_TEST(proxy, headers_and_status_pass)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/text?a=%20b"), 418);
	cr_assert(has(c, "X-One: 1") && has(c, "X-Two: a") && has(c, "X-Two: b") && has(c, "hello"), "%s", c->text);
	cr_assert_str_eq(up_last()->line, "GET /text?a=%20b");
	cr_assert_str_eq(up_last()->sid, sid);
	cr_assert_str_eq(up_last()->user, ns->id);
	cr_assert_str_eq(up_last()->org, ns->id);
	cr_assert_str_eq(up_last()->deployment, "alice/counter");
	cr_assert_str_eq(up_last()->api_key, "", "the client's key stays here");
	hang_up(c);
}

FAKE_TEST(proxy, what_only_the_way_has_put_in_front_is_taken_off)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "//text?x=1"), 418);
	cr_assert_str_eq(up_last()->line, "GET /text?x=1");
	cr_assert_eq(call(c, sid, "GET", "http://somewhere/text"), 418);
	cr_assert_str_eq(up_last()->line, "GET /text");
	cr_assert_eq(call(c, sid, "POST", "//ping"), 200);
	hang_up(c);
}

FAKE_TEST(proxy, bare_paths_go_to_the_first_environment)
{
	struct client *c = dial();

	up_listing = "[\"counter\", \"Other\"]";
	auto_free char *sid = open_session();
	auto_free char *second = open_session();
	cr_assert_eq(up_listed, 1, "once per instance");
	call(c, sid, "GET", "/prompt?x=1");
	cr_assert_str_eq(up_last()->line, "GET /counter/prompt?x=1");
	call(c, second, "POST", "//call");
	cr_assert_str_eq(up_last()->line, "POST /counter/call");
	static const char *const as_they_come[] = { "/create", "/other/prompt", "/counter/prompt", "/prompt/x", "/prompts", "/health2" };
	for (size_t i = 0; i < ARRAY_LEN(as_they_come); i++) {
		auto_free char *line = xasprintf("POST %s", as_they_come[i]);
		call(c, sid, "POST", as_they_come[i]);
		cr_assert_str_eq(up_last()->line, line);
	}
	hang_up(c);
}

/* An environment's name may be one that a bare path has, and then the path means what it says. */
FAKE_TEST(proxy, a_server_without_a_usable_list_gets_what_was_sent)
{
	static const char *const lists[] = {
		NULL, "", "{}", "[]", "[1]", "[\"a\", 1]", "[\"a/b\"]", "[\"..\"]", "[\"a b\"]", "[\"\"]", "[\"x\", \"prompt\"]",
		"[\"a\\r\\nX: y\"]", "[\"a",
	};

	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		auto_free char *name = lists[i] ? bare_first_environment(lists[i], strlen(lists[i])) : NULL;
		cr_assert_null(name, "%s", lists[i]);
	}
	struct client *c = dial();
	auto_free char *sid = open_session();
	call(c, sid, "GET", "/prompt");
	cr_assert_str_eq(up_last()->line, "GET /prompt");
	hang_up(c);
}

/* The server's own redirect is the client's business. */
FAKE_TEST(proxy, a_redirect_passes)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/moved"), 308);
	cr_assert(has(c, "Location: /counter/moved"), "%s", c->text);
	hang_up(c);
}

FAKE_TEST(proxy, answers_without_a_body)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/none"), 204);
	cr_assert_eq(call(c, sid, "GET", "/same"), 304);
	cr_assert(has(c, "ETag: \"x\""));
	cr_assert_eq(call(c, sid, "HEAD", "/text"), 418);
	run_for(10);
	cr_assert(has(c, "Content-Length: 5"), "%s", c->text);
	cr_assert_str_eq(strstr(c->text, "\r\n\r\n"), "\r\n\r\n", "a HEAD has no body");
	cr_assert_eq(call(c, sid, "GET", "/text"), 418, "and the connection is still in step");
	cr_assert_eq(n_connects, 1 + up_probes, "one connection served all four");
	hang_up(c);
}

FAKE_TEST(proxy, bodies_with_a_length_and_in_chunks)
{
	struct client *c = dial();
	auto_free char *sid = start();
	auto_free char *head = xasprintf("POST /echo HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nX-Session-ID: %s\r\n"
					 "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", key, sid);

	ask_of(c, sid, "POST", "/echo", "abc");
	cr_assert_eq(status_of(c), 200);
	run_until(has(c, "\r\n\r\nabc"));
	cr_assert_eq(write(c->fd, head, strlen(head)), (ssize_t)strlen(head));
	run_until(has(c, "\r\n\r\nhello world"));
	hang_up(c);
}

/* The first event is with the client while the instance still works. */
FAKE_TEST(proxy, events_are_not_held_back)
{
	struct client *c = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/events", "{}");
	run_until(has(c, "event: task_id\ndata: 1\n\n"));
	cr_assert_not_null(held);
	http_reply_write(held, ": ping\n\n", 8);
	run_until(has(c, ": ping\n\n"));
	http_reply_end(STEAL(held));
	run_until(has(c, "0\r\n\r\n"));
	hang_up(c);
}

FAKE_TEST(proxy, two_calls_at_once)
{
	struct client *c = dial(), *d = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/hold", "{}");
	run_until(held);
	cr_assert_eq(call(d, sid, "GET", "/text"), 418);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	cr_assert_eq(status_of(c), 200);
	hang_up(c);
	hang_up(d);
}

/* -- a lot ------------------------------------------------------------------------------------------------------------ */

static long peak_kib(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}

/* The sanitizer keeps freed memory for a while, so that its figure says nothing. */
static void check_memory(long before_kib)
{
#ifndef __SANITIZE_ADDRESS__
	cr_assert_lt(peak_kib() - before_kib, 16 * 1024, "%ld KiB more for a body of %llu MiB", peak_kib() - before_kib, BIG >> 20);
#else
	(void)before_kib;
#endif
}

static void send_big_head(struct client *c, const char *sid, const char *path, uint64_t length)
{
	auto_free char *head = xasprintf("POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nX-Session-ID: %s\r\n"
					 "Content-Length: %llu\r\n\r\n", path, key, sid, (unsigned long long)length);

	cr_assert_eq(write(c->fd, head, strlen(head)), (ssize_t)strlen(head));
}

static uint64_t send_some(struct client *c, uint64_t at_most)
{
	static const char piece[65536] = { 1, 2, 3 };
	uint64_t sent = 0;
	ssize_t n;

	while (sent < at_most && (n = send(c->fd, piece, (size_t)MIN(at_most - sent, sizeof(piece)), MSG_NOSIGNAL)) > 0)
		sent += (uint64_t)n;
	return sent;
}

FAKE_TEST(proxy, two_hundred_megabytes_up)
{
	struct client *c = dial();
	auto_free char *sid = start();
	long before = peak_kib();
	uint64_t left = BIG;

	send_big_head(c, sid, "/sink", BIG);
	for (int i = 0; i < 60000 && !up_ended; i++) {
		left -= send_some(c, left);
		run_for(1);
	}
	cr_assert_eq(up_got, BIG);
	cr_assert_gt(up_sum, 0);
	cr_assert_eq(status_of(c), 200);
	check_memory(before);
	hang_up(c);
}

FAKE_TEST(proxy, two_hundred_megabytes_down)
{
	struct client *c = dial();
	auto_free char *sid = start();
	long before = peak_kib();

	ask_of(c, sid, "GET", "/big", NULL);
	for (int i = 0; i < 60000 && c->total < BIG; i++) {
		run_for(1);
		take(c);
	}
	cr_assert_geq(c->total, BIG);
	check_memory(before);
	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	hang_up(c);
}

/* A server that reads nothing stops the client, not this process's memory. */
FAKE_TEST(proxy, a_stalled_server_stalls_its_client)
{
	struct client *c = dial();
	auto_free char *sid = start();
	uint64_t sent = 0;

	up_stall = true;
	send_big_head(c, sid, "/sink", BIG);
	for (int i = 0; i < 200; i++) {
		sent += send_some(c, BIG - sent);
		run_for(1);
	}
	cr_assert_lt(sent, 32u << 20);
	cr_assert_lt(up_got, 1u << 20);
	up_stall = false;
	http_req_resume(held);
	for (int i = 0; i < 60000 && !up_ended; i++) {
		sent += send_some(c, BIG - sent);
		run_for(1);
	}
	cr_assert_eq(up_got, BIG);
	hang_up(c);
}

/* A client that reads nothing stops the server. */
FAKE_TEST(proxy, a_stalled_client_stalls_the_server)
{
	struct client *c = dial();
	auto_free char *sid = start();
	long before = peak_kib();

	ask_of(c, sid, "GET", "/big", NULL);
	run_for(300);
	check_memory(before);
	for (int i = 0; i < 60000 && c->total < BIG; i++) {
		take(c);
		run_for(1);
	}
	cr_assert_geq(c->total, BIG);
	hang_up(c);
}

/* -- breaks ------------------------------------------------------------------------------------------------------------ */

FAKE_TEST(proxy, a_server_that_answers_before_the_body_is_read)
{
	struct client *c = dial();
	auto_free char *sid = start();
	uint64_t sent = 0;

	send_big_head(c, sid, "/refuse", BIG);
	for (int i = 0; i < 500 && !has(c, "too big"); i++) {
		sent += send_some(c, BIG - sent);
		run_for(1);
	}
	cr_assert(has(c, "413"), "%s", c->text);
	unsigned before = n_connects;
	hang_up(c);
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	cr_assert_eq(n_connects, before + 1, "a connection with half a request on it is of no use");
	hang_up(c);
}

FAKE_TEST(proxy, a_client_that_leaves_in_the_middle_of_its_upload)
{
	struct client *c = dial();
	auto_free char *sid = start();

	send_big_head(c, sid, "/sink", BIG);
	(void)send_some(c, 100000);
	run_until(up_got > 0);
	hang_up(c);
	run_until(!held);
	cr_assert(!up_ended, "the server sees a broken request, not a short one");
	c = dial();
	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	hang_up(c);
}

FAKE_TEST(proxy, a_client_that_leaves_before_the_answer)
{
	struct client *c = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/hold", "{}");
	run_until(held);
	hang_up(c);
	run_until(!held);
	run_until(figures().open == 1);
}

/* It asks and leaves at once: what it asked for is done. */
FAKE_TEST(proxy, a_delete_does_not_need_a_listener)
{
	struct client *c = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/delete", NULL);
	hang_up(c);
	run_until(up_count("POST /delete") == 1);
	run_for(20);
	cr_assert_not_null(held);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	run_for(5);
}

/* But a teardown that hangs holds nothing for ever on behalf of a client that is gone. */
FAKE_TEST(proxy, a_delete_that_hangs_holds_no_session_for_nobody)
{
	struct client *c, *patient;

	settings.lease_ms = 200;
	settings.teardown_ms = 100;
	again();
	c = dial();
	patient = dial();
	auto_free char *sid = start(), *awaited = start();
	ask_of(patient, awaited, "POST", "/delete", NULL);
	run_until(held);
	struct http_req *of_patient = held;
	ask_of(c, sid, "POST", "/delete", NULL);
	run_until(held != of_patient);
	hang_up(c);
	run_until(figures().open == 1);
	run_for(1500);
	cr_assert_eq(figures().open, 1, "who still waits is waited for");
	http_reply(of_patient, 200, NULL, NULL, 0);
	cr_assert_eq(status_of(patient), 200);
	hang_up(patient);
}

FAKE_TEST(proxy, a_server_that_breaks_off)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "POST", "/break"), 502);
	cr_assert_eq(up_count("POST /break"), 1, "never sent twice");
	cr_assert_eq(figures().upstream_errors_total, 1);
	fake_refuse = true;
	cr_assert_eq(call(c, sid, "POST", "/text"), 502);
	fake_refuse = false;
	cr_assert_eq(call(c, sid, "GET", "/text"), 418, "the session lives");
	ask_of(c, sid, "GET", "/partial", NULL);
	run_until(has(c, "task_id"));
	http_req_abort(held);
	run_until(is_over(c));
	cr_assert_null(strstr(c->text, "0\r\n\r\n"), "a broken answer looks broken");
	hang_up(c);
}

/* -- kept connections --------------------------------------------------------------------------------------------------- */

static void new_up_server(void)
{
	http_server_free(up_server); /* closes what is kept */
	cr_assert_eq(http_server_new(&up_server, loop, NULL, up_handler, NULL, NULL), 0);
}

FAKE_TEST(proxy, a_kept_connection_is_used_again)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	unsigned before = n_connects;
	for (int i = 0; i < 20; i++)
		cr_assert_eq(call(c, sid, "POST", "/text"), 418);
	cr_assert_eq(n_connects, before);
	hang_up(c);
}

FAKE_TEST(proxy, a_kept_connection_that_was_closed_costs_nothing)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	new_up_server();
	run_for(5);
	cr_assert_eq(call(c, sid, "POST", "/text"), 418, "the end was seen: a POST takes another");
	new_up_server();
	cr_assert_eq(call(c, sid, "GET", "/text"), 418, "closed in the same turn");
	cr_assert_eq(figures().upstream_errors_total, 0);
	hang_up(c);
}

/* Many servers close what was idle for some seconds: the end lies unread in the socket when the next request comes. */
FAKE_TEST(proxy, an_older_kept_connection_is_asked_first)
{
	struct client *c = dial();
	auto_free char *sid = start();

	cr_assert_eq(call(c, sid, "GET", "/text"), 418);
	run_for(1100);
	ask_of(c, sid, "POST", "/text", "{}");
	cr_assert_eq(shutdown(fake_served_fd, SHUT_RDWR), 0);
	cr_assert_eq(status_of(c), 418, "%s", c->text);
	cr_assert_eq(up_count("POST /text"), 1);
	cr_assert_eq(figures().upstream_errors_total, 0);
	unsigned before = n_connects;
	run_for(1100);
	cr_assert_eq(call(c, sid, "POST", "/text"), 418);
	cr_assert_eq(n_connects, before, "one that is open is used");
	hang_up(c);
}

/* A teardown is not lost to a kept connection that its server has just closed. */
FAKE_TEST(proxy, a_teardown_over_a_dead_connection_is_repeated)
{
	struct client *c = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/create", "{}");
	run_until(held);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	cr_assert_eq(status_of(c), 200);
	ask_of(c, sid, "POST", "/delete_session", NULL);
	new_up_server();
	run_until(held);
	cr_assert_eq(up_count("POST /delete"), 1);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	cr_assert_eq(status_of(c), 200);
	hang_up(c);
}

/* -- calls that are sent again --------------------------------------------------------------------------------------- */

FAKE_TEST(proxy, resent_calls_are_counted)
{
	struct client *c = dial();
	auto_free char *sid = start();

	ask_of(c, sid, "POST", "/counter/call", "{\"a\":1}");
	run_until(held);
	hang_up(c);
	run_until(!held);
	c = dial();
	ask_of(c, sid, "POST", "/counter/call", "{\"a\":1}");
	run_until(held);
	cr_assert_eq(figures().resent_calls_total, 1);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	cr_assert_eq(status_of(c), 200);
	ask_of(c, sid, "POST", "/counter/call", "{\"a\":1}"); /* after an answer: another step */
	run_until(held);
	cr_assert_eq(figures().resent_calls_total, 1);
	hang_up(c);
	run_until(!held);
	c = dial();
	ask_of(c, sid, "POST", "/counter/call", "{\"a\":22}"); /* of another length: another call */
	run_until(held);
	cr_assert_eq(figures().resent_calls_total, 1);
	hang_up(c);
	run_until(!held);
}

/* -- secrets ----------------------------------------------------------------------------------------------------------- */

static char *secrets_of(const char *json)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 65536);
	cr_assert_eq(str_base64_append(&b, json, strlen(json)), 0);
	return xasprintf("X-Secrets: %s\r\n", b.data);
}

static json_t *secrets_seen(void)
{
	auto_buf struct buf b = { 0 };
	json_t *j = NULL;

	buf_init(&b, 65536);
	cr_assert_eq(str_base64_decode(&b, up_last()->secrets, strlen(up_last()->secrets)), 0);
	cr_assert_eq(json_read_object(&j, b.data, b.len, NULL), 0);
	return j;
}

static void create_with(struct client *c, const char *sid, const char *secrets)
{
	auto_free char *headers = xasprintf("X-Session-ID: %s\r\n%s", sid, secrets);

	ask(c, "POST", "/create", headers, "{}");
	run_until(held);
	http_reply(STEAL(held), 200, NULL, NULL, 0);
	cr_assert_eq(status_of(c), 200);
}

static const char *value_of(json_t *secrets, const char *name)
{
	return json_string_value(json_object_get(json_object_get(secrets, name), "value"));
}

FAKE_TEST(proxy, the_platforms_key_becomes_the_sessions)
{
	struct client *c = dial();
	auto_free char *sid = start();
	auto_free char *json = xasprintf("{\"api_key\":{\"value\":\"%s\",\"allowed_domains\":[\"x\"]},\"OTHER\":{\"value\":\"%s\"},"
					 "\"FOREIGN\":{\"value\":\"f\\u00e4\"},\"odd\":7,\"plain\":\"%s\"}", key, key, key);
	auto_free char *header = secrets_of(json);
	struct auth_caller who;

	create_with(c, sid, header);
	auto_json seen = secrets_seen();
	auto_free char *own = xstrdup(value_of(seen, "api_key"));
	cr_assert_str_neq(own, key);
	cr_assert_eq(auth_key(auth, own, &who, NULL), 0);
	cr_assert_str_eq(who.session_id, sid);
	cr_assert_str_eq(value_of(seen, "OTHER"), own, "under whatever name");
	cr_assert_str_eq(json_string_value(json_object_get(seen, "plain")), own);
	cr_assert_str_eq(value_of(seen, "FOREIGN"), "f\xc3\xa4");
	cr_assert_eq(json_integer_value(json_object_get(seen, "odd")), 7);
	create_with(c, sid, header);
	auto_json again = secrets_seen();
	cr_assert_str_eq(value_of(again, "api_key"), own, "a second /create must not make the first one's key invalid");
	cr_assert_eq(auth_key(auth, own, &who, NULL), 0);
	up_script = NULL;
	cr_assert_eq(call(c, sid, "POST", "/delete_session"), 200);
	cr_assert_lt(auth_key(auth, own, &who, NULL), 0, "gone with the session");
	hang_up(c);
}

FAKE_TEST(proxy, secrets_that_cannot_be_read_pass_as_they_are)
{
	static const char *const odd[] = { "!!!", "e30", "W10=", "bm90IGpzb24=" }; /* not base64, {} without padding, [], text */
	struct client *c = dial();
	auto_free char *sid = start();

	for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
		auto_free char *header = xasprintf("X-Secrets: %s\r\n", odd[i]);
		create_with(c, sid, header);
		cr_assert_str_eq(up_last()->secrets, odd[i]);
	}
	hang_up(c);
}

/* A server that takes the last of them would serve another's session. */
FAKE_TEST(proxy, one_session_id_reaches_the_instance)
{
	struct client *c = dial();
	auto_free char *sid = start(), *other = start();
	auto_free char *headers = xasprintf("X-Session-ID: %s\r\nx-session-id: %s\r\n", sid, other);

	ask(c, "GET", "/text", headers, NULL);
	cr_assert_eq(status_of(c), 418);
	cr_assert_str_eq(up_last()->sid, sid);
	cr_assert_eq(up_last()->n_sids, 1);
	hang_up(c);
}

FAKE_TEST(proxy, a_key_of_another_namespace_stays_here_too)
{
	struct client *c = dial();
	auto_free char *sid = start();
	struct store_namespace *second;
	char other[AUTH_KEY_LEN];
	struct err err;

	cr_assert_eq(store_namespace_add(store, "second", "user", &second, &err), 0);
	cr_assert_eq(auth_key_make(auth, second, STORE_ROLE_MEMBER, "test", other, &err), 0);
	auto_free char *json = xasprintf("{\"api_key\":{\"value\":\"%s\"}}", other);
	auto_free char *header = secrets_of(json);
	create_with(c, sid, header);
	auto_json seen = secrets_seen();
	struct auth_caller who;
	cr_assert_eq(auth_key(auth, value_of(seen, "api_key"), &who, NULL), 0);
	cr_assert_str_eq(who.session_id, sid);
	cr_assert_eq(who.ns, ns);
	hang_up(c);
}

/* On any other request too: a key in a header that nobody expects is a key all the same. */
FAKE_TEST(proxy, no_request_carries_the_platforms_key_inside)
{
	struct client *c = dial();
	auto_free char *sid = start();
	auto_free char *json = xasprintf("{\"api_key\":{\"value\":\"%s\"}}", key);
	auto_free char *header = secrets_of(json);
	auto_free char *headers = xasprintf("X-Session-ID: %s\r\n%s", sid, header);

	ask(c, "GET", "/text", headers, NULL);
	cr_assert_eq(status_of(c), 418);
	auto_json seen = secrets_seen();
	cr_assert_str_neq(value_of(seen, "api_key"), key);
	hang_up(c);
}
