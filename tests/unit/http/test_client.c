#include "http/client.h"

#include "base/str.h"
#include "unit/http/harness.h"

static struct http_client *client;
static int peer = -1; /* the far end when a test plays the server itself */
static int status, heads, ends, errors, drains;
static int64_t length;
static bool reusable, got_bytes, restart, pause_in_head, free_in_data;
static struct buf data;
static struct err error;
static const struct http_client_events events;

static void start(const char *method, const char *target, int64_t content_length)
{
	static const struct http_header host = { "Host", "h" };

	error = (struct err)ERR_INIT;
	cr_assert_eq(http_client_start(client, method, target, &host, 1, content_length, &events, NULL, &error), 0, "%s",
		     error.msg);
}

static void on_head(struct http_client *c, int s, const struct http_header *h UNUSED, size_t n UNUSED, int64_t len,
		    void *arg UNUSED)
{
	status = s;
	length = len;
	heads++;
	if (pause_in_head)
		http_client_pause(c);
}

static void on_data(struct http_client *c, const char *p, size_t len, void *arg UNUSED)
{
	cr_assert_eq(buf_append(&data, p, len), 0);
	if (free_in_data)
		client = http_client_free(c);
}

static void on_end(struct http_client *c UNUSED, bool r, void *arg UNUSED)
{
	ends++;
	reusable = r;
	if (restart) {
		restart = false;
		start("GET", "/again", 0);
	}
}

static void on_error(struct http_client *c, bool got, const struct err *err, void *arg UNUSED)
{
	errors++;
	got_bytes = got;
	err_copy(&error, err);
	client = http_client_free(c);
}

static void on_drain(struct http_client *c UNUSED, void *arg UNUSED)
{
	drains++;
}

static const struct http_client_events events = { on_head, on_data, on_end, on_error, on_drain };

static void echo_body(struct http_req *r, const char *p, size_t len, void *arg UNUSED)
{
	http_reply_start(r, 200, "text/plain", strcmp(http_req_path(r), "/chunked") ? (int64_t)len : -1);
	http_reply_write(r, p, len);
	http_reply_end(r);
}

static void echo(struct http_req *r, void *arg UNUSED)
{
	http_req_body(r, 0, echo_body, NULL);
}

static void begin(void)
{
	harness_begin(echo, NULL);
	buf_init(&data, BUF_UNLIMITED);
}

static void end(void)
{
	http_client_free(client);
	harness_end();
	buf_done(&data);
	fd_close(peer);
}

TestSuite(http_client, .init = begin, .fini = end, .timeout = 30);

static void connect_server(void)
{
	struct err err = ERR_INIT;

	cr_assert_eq(http_client_new(&client, loop, connect_pair(), NULL, &err), 0);
}

static void connect_peer(void)
{
	struct err err = ERR_INIT;
	int p[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	peer = p[1];
	cr_assert_eq(http_client_new(&client, loop, p[0], NULL, &err), 0);
}

/* Starts GET / and answers it with a text, as the peer. */
static void answer(const char *text)
{
	start("GET", "/", 0);
	run_for(3);
	cr_assert_str_eq(read_now(peer), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
	cr_assert_eq(write(peer, text, strlen(text)), (ssize_t)strlen(text));
	run_for(3);
}

Test(http_client, exchanges_on_one_connection)
{
	connect_server();
	for (int i = 1; i <= 3; i++) {
		buf_clear(&data);
		start("POST", i == 2 ? "/chunked" : "/", i == 3 ? -1 : 5);
		cr_assert(http_client_write(client, "he", 2));
		run_for(3);
		cr_assert(http_client_write(client, "llo", 3));
		http_client_finish(client);
		run_for(3);
		cr_assert_eq(ends, i);
		cr_assert(reusable);
		cr_assert(http_client_idle(client));
		cr_assert_str_eq(data.data, "hello");
		cr_assert_eq(length, i == 2 ? -1 : 5);
	}
	cr_assert_eq(http_server_stats(server)->connections, 1);
}

Test(http_client, starts_again_inside_on_end)
{
	connect_server();
	restart = true;
	start("GET", "/", 0);
	run_for(5);
	cr_assert_eq(ends, 2);
	cr_assert_eq(http_server_stats(server)->requests, 2);
}

Test(http_client, heads_have_no_body)
{
	connect_peer();
	start("HEAD", "/", 0);
	run_for(3);
	cr_assert_eq(write(peer, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 38), 38);
	run_for(3);
	cr_assert_eq(ends, 1);
	cr_assert(reusable);
}

Test(http_client, interim_answers_are_dropped)
{
	connect_peer();
	answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\n"
	       "Content-Length: 1\r\n\r\na");
	cr_assert_eq(heads, 1);
	cr_assert_eq(status, 201);
	cr_assert_eq(ends, 1);
	cr_assert(reusable);
}

/* The deadline is for a header section that has begun: after an interim answer the server may think as long as before it. */
Test(http_client, an_interim_answer_begins_no_deadline)
{
	static const char begun[] = "HTTP/1.1 200 OK\r\n";
	struct err err = ERR_INIT;
	int p[2];

	http_limits_default(&limits);
	limits.header_deadline_ms = 100;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	peer = p[1];
	cr_assert_eq(http_client_new(&client, loop, p[0], &limits, &err), 0);
	answer("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
	run_for(300);
	cr_assert_eq(errors, 0, "%s", error.msg);
	cr_assert_eq(write(peer, begun, strlen(begun)), (ssize_t)strlen(begun));
	run_for(300);
	cr_assert_eq(errors, 1, "this one has begun");
	cr_assert(got_bytes);
}

Test(http_client, bodies_until_the_end_of_the_stream)
{
	connect_peer();
	answer("HTTP/1.1 200 OK\r\n\r\nabc");
	cr_assert_eq(ends, 0);
	cr_assert_eq(length, -1);
	peer = fd_close(peer);
	run_for(3);
	cr_assert_eq(ends, 1);
	cr_assert_not(reusable);
	cr_assert_str_eq(data.data, "abc");
}

Test(http_client, bytes_after_the_answer_spoil_the_connection)
{
	connect_peer();
	answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
	cr_assert_eq(ends, 1);
	cr_assert_not(reusable);
	cr_assert_not(http_client_idle(client));
}

Test(http_client, answers_before_the_request_is_over)
{
	connect_peer();
	start("POST", "/", 100);
	http_client_write(client, "x", 1);
	run_for(3);
	cr_assert_eq(write(peer, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", 38), 38);
	run_for(3);
	cr_assert_eq(ends, 1);
	cr_assert_eq(status, 413);
	cr_assert_not(reusable);
}

static const char *const broken[] = {
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	"HTTP/1.1 200 OK\r\nContent-",
};

Test(http_client, answers_that_break_off)
{
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		connect_peer();
		answer(broken[i]);
		peer = fd_close(peer);
		run_for(3);
		cr_assert_eq(errors, (int)i + 1);
		cr_assert(got_bytes);
		cr_assert_eq(error.code, -EPIPE, "%s", error.msg);
	}
	cr_assert_eq(ends, 0);
}

static const char *const garbage[] = {
	"SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: a\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\n",
};

Test(http_client, answers_that_are_not_http)
{
	for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
		connect_peer();
		answer(garbage[i]);
		cr_assert_eq(errors, (int)i + 1, "%s", garbage[i]);
		peer = fd_close(peer);
	}
}

Test(http_client, no_byte_of_an_answer)
{
	connect_peer();
	start("GET", "/", 0);
	run_for(3);
	peer = fd_close(peer);
	run_for(3);
	cr_assert_eq(errors, 1);
	cr_assert_not(got_bytes);
}

Test(http_client, an_idle_connection_that_closes)
{
	connect_peer();
	cr_assert(http_client_idle(client) && http_client_alive(client));
	peer = fd_close(peer);
	cr_assert_not(http_client_alive(client), "before the loop has told of it");
	run_for(3);
	cr_assert_not(http_client_idle(client));
	cr_assert_lt(http_client_start(client, "GET", "/", NULL, 0, 0, &events, NULL, &error), 0);
	cr_assert_eq(errors, 0);
}

Test(http_client, pauses)
{
	connect_peer();
	pause_in_head = true;
	answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
	cr_assert_eq(heads, 1);
	peer = fd_close(peer); /* with the end of the stream behind the data: nothing may be lost, and nothing may spin */
	run_for(20);
	cr_assert_eq(data.len, 0);
	cr_assert_eq(ends, 0);
	http_client_resume(client);
	run_for(5);
	cr_assert_str_eq(data.data, "abc");
	cr_assert_eq(ends, 1);
}

Test(http_client, a_pause_with_the_end_unread)
{
	static char big[100000];

	connect_peer();
	pause_in_head = true;
	answer("HTTP/1.1 200 OK\r\n\r\n");
	memset(big, 'x', sizeof(big));
	cr_assert_eq(write(peer, big, sizeof(big)), (ssize_t)sizeof(big));
	peer = fd_close(peer);
	run_for(20);
	http_client_resume(client);
	run_for(20);
	cr_assert_eq(data.len, sizeof(big));
	cr_assert_eq(ends, 1);
}

Test(http_client, a_slow_server_stops_the_writer)
{
	static char big[100000];
	int n = 0;
	size_t got = 0;

	connect_peer();
	start("PUT", "/", -1);
	while (http_client_write(client, big, sizeof(big))) {
		cr_assert_lt(++n, 100);
		run_for(1);
	}
	cr_assert_eq(drains, 0);
	for (int i = 0; i < 1000 && !drains; i++) {
		got += strlen(read_now(peer));
		run_for(1);
	}
	cr_assert_eq(drains, 1);
}

Test(http_client, freed_inside_a_callback)
{
	connect_peer();
	free_in_data = true;
	answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n");
	cr_assert_str_eq(data.data, "a");
	cr_assert_eq(ends + errors, 0);
}

Test(http_client, requests_that_would_be_two)
{
	static const struct http_header bad[] = { { "A", "x\r\nB: y" }, { "A\r\nB", "x" }, { "A B", "x" } };

	connect_peer();
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(http_client_start(client, "GET", "/", &bad[i], 1, 0, &events, NULL, &error), -EINVAL);
	cr_assert_eq(http_client_start(client, "GET", "/ HTTP/1.1\r\nX: y", NULL, 0, 0, &events, NULL, &error), -EINVAL);
	cr_assert_eq(http_client_start(client, "GET /", "/", NULL, 0, 0, &events, NULL, &error), -EINVAL);
	run_for(3);
	cr_assert_str_eq(read_now(peer), "");
	cr_assert(http_client_idle(client));
}

Test(http_client, hop_by_hop)
{
	cr_assert(http_is_hop_by_hop("connection"));
	cr_assert(http_is_hop_by_hop("Transfer-Encoding"));
	cr_assert(http_is_hop_by_hop("te"));
	cr_assert(http_is_hop_by_hop("Proxy-Authorization"));
	cr_assert_not(http_is_hop_by_hop("Content-Type"));
	cr_assert_not(http_is_hop_by_hop("TEX"));
}
