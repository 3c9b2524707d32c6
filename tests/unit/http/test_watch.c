/* Connections that are not watched while many come: that nothing of theirs is missed. */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/str.h"
#include "http/private.h"
#include "unit/http/harness.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define BIG (8 << 20)

static struct http_req *held; /* a request that waits for its test */
static int begun, closes;
static bool complete;
static struct sockaddr_in address;
static char *big;

static void on_close(struct http_req *r UNUSED, bool whole, void *arg UNUSED)
{
	closes++;
	complete = whole;
	held = NULL;
}

static void on_body(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	http_reply(r, 200, NULL, data, len);
}

static void handle(struct http_req *r, void *arg UNUSED)
{
	const char *path = http_req_path(r);

	begun++;
	http_req_on_close(r, on_close, NULL);
	held = r;
	if (!strcmp(path, "/now"))
		http_reply(r, 200, NULL, "now", 3);
	else if (!strcmp(path, "/big"))
		http_reply(r, 200, NULL, big, BIG);
	else if (!strcmp(path, "/body"))
		http_req_body(r, 0, on_body, NULL);
	else if (!strcmp(path, "/watched"))
		http_req_watch_peer(r);
}

static void listen_at(void)
{
	struct err err = ERR_INIT;
	socklen_t len = sizeof(address);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	cr_assert_eq(bind(l, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(l, 100), 0);
	cr_assert_eq(getsockname(l, (struct sockaddr *)&address, &len), 0);
	cr_assert_eq(http_server_listen(server, l, NULL, &err), 0, "%s", err.msg);
}

static void begin(void)
{
	harness_begin(handle, NULL);
	listen_at();
	server->busy_ms = UINT64_MAX;
}

TestSuite(http_watch, .init = begin, .fini = harness_end, .timeout = 60);

/* Lets the loop work until the condition holds; the suite's limit is the only one. */
#define UNTIL(condition)            \
	do {                        \
		while (!(condition)) \
			run_for(1); \
	} while (0)

static int dial(const char *request)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(fd_set_nonblock(fd, true), 0);
	cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
	return fd;
}

static void ask(int fd, const char *request)
{
	cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
}

/* Reads to the end of an answer, with the loop at work. */
static void wait_for_answer(int fd, const char *tail)
{
	struct buf got;

	buf_init(&got, BUF_UNLIMITED);
	while (got.len == 0 || !str_ends(got.data, tail)) {
		run_for(1);
		const char *more = read_now(fd);
		cr_assert_eq(buf_append(&got, more, strlen(more) + 1), 0);
		got.len--;
	}
	buf_done(&got);
}

static size_t n_open(void)
{
	return http_server_stats(server)->open_connections;
}

static bool all_gone(void)
{
	return n_open() == 0;
}

static struct http_conn *newest(void)
{
	return container_of(server->conns.prev, struct http_conn, link);
}

static bool is_watched(void)
{
	return n_open() > 0 && newest()->io.loop;
}

Test(http_watch, at_once_where_few_come)
{
	server->busy_ms = 0;
	int fd = dial(GET("/watched"));
	UNTIL(held);
	cr_assert(is_watched());
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, few_and_many)
{
	server->busy_ms = 1;
	for (int i = 0; i < HTTP_BUSY_ACCEPTS; i++)
		cr_assert_not(watch_may_spare(server));
	cr_assert(watch_may_spare(server));
	run_for(5);
	cr_assert_not(watch_may_spare(server));
}

Test(http_watch, one_that_is_used_once_never_is)
{
	server->looking = true; /* no time passes for it: the newer connection alone is what tells */
	int first = dial(GET("/hold"));
	UNTIL(held);
	cr_assert_not(is_watched());
	struct http_conn *c = newest();
	http_reply(held, 200, NULL, "yes", 3);
	wait_for_answer(first, "yes");
	cr_assert_not(is_watched());
	close(first);
	int second = dial(GET("/hold"));
	UNTIL(held);
	cr_assert_neq(newest(), c);
	UNTIL(n_open() == 1);
	server->looking = false;
	http_reply(held, 200, NULL, "yes", 3);
	close(second);
	http_server_stop_accepting(server);
	UNTIL(all_gone());
}

Test(http_watch, a_peer_that_closed_is_found_in_time)
{
	int fd = dial(GET("/now"));
	wait_for_answer(fd, "now");
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, a_kept_one_is_watched_after_its_answer)
{
	int fd = dial(GET("/now"));
	wait_for_answer(fd, "now");
	UNTIL(is_watched());
	cr_assert(loop_timer_armed(&newest()->timer));
	for (int i = 0; i < 3; i++) {
		ask(fd, GET("/now"));
		wait_for_answer(fd, "now");
	}
	cr_assert_eq(begun, 4);
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, a_second_request_before_it_is_watched)
{
	int fd = dial(GET("/now"));
	UNTIL(closes == 1);
	ask(fd, GET("/hold"));
	UNTIL(held);
	http_reply(held, 200, NULL, "second", 6);
	wait_for_answer(fd, "second");
	close(fd);
	UNTIL(all_gone());
	cr_assert_eq(closes, 2);
}

Test(http_watch, a_newer_connection_and_a_second_request)
{
	int fd, other;

	server->looking = true; /* see above */
	fd = dial(GET("/now"));
	UNTIL(closes == 1);
	struct http_conn *c = newest();
	cr_assert_null(c->io.loop);
	ask(fd, GET("/now"));
	other = dial(GET("/now"));
	wait_for_answer(other, "now");
	wait_for_answer(fd, "now");
	cr_assert_eq(begun, 3);
	cr_assert_not_null(c->io.loop, "it keeps its connection");
	close(other);
	other = dial(GET("/watched"));
	UNTIL(held);
	cr_assert(is_watched(), "it had to wait, so for some time nobody has to");
	server->looking = false;
	server->sparing_from_ms = 0;
	close(fd);
	close(other);
	fd = dial(GET("/now"));
	UNTIL(closes == 5);
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, pipelined)
{
	int fd = dial(GET("/now") GET("/hold") GET("/now") "GET /no");

	UNTIL(held);
	cr_assert_eq(begun, 2);
	http_reply(held, 200, NULL, "held", 4);
	UNTIL(closes == 3);
	UNTIL(is_watched());
	ask(fd, "w HTTP/1.1\r\nHost: h\r\n\r\n");
	UNTIL(closes == 4);
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, half_a_request)
{
	int fd = dial("GET /now HT");

	UNTIL(is_watched());
	ask(fd, "TP/1.1\r\nHost: h\r\n\r\n");
	wait_for_answer(fd, "now");
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, half_a_body)
{
	int fd = dial("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab");

	UNTIL(begun);
	cr_assert(is_watched());
	ask(fd, "cd");
	wait_for_answer(fd, "\r\n\r\nabcd");
	close(fd);
	UNTIL(all_gone());
}

Test(http_watch, a_peer_that_leaves_in_a_long_request)
{
	struct linger reset = { .l_onoff = 1 };

	for (int i = 1; i <= 2; i++) {
		int fd = dial(i == 1 ? GET("/watched") : GET("/hold"));

		UNTIL(held);
		if (i == 2)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
		UNTIL(closes == i);
		cr_assert_not(complete);
		UNTIL(all_gone());
	}
}

Test(http_watch, a_peer_that_shuts_its_side)
{
	int fd = dial(GET("/watched"));

	UNTIL(held);
	shutdown(fd, SHUT_WR);
	UNTIL(closes == 1);
	cr_assert_not(complete);
	close(fd);
	fd = dial(GET("/hold"));
	UNTIL(held);
	shutdown(fd, SHUT_WR);
	UNTIL(is_watched());
	http_reply(held, 200, NULL, "yes", 3);
	wait_for_answer(fd, "yes");
	UNTIL(all_gone());
	cr_assert(complete);
	close(fd);
}

Test(http_watch, a_slow_reader)
{
	int fd;

	big = xmalloc(BIG);
	memset(big, 'x', BIG - 3);
	memcpy(big + BIG - 3, "end", 3);
	fd = dial(GET("/big"));
	UNTIL(begun);
	UNTIL(is_watched());
	cr_assert_eq(closes, 0);
	wait_for_answer(fd, "end");
	UNTIL(closes == 1);
	cr_assert(complete);
	close(fd);
	UNTIL(all_gone());
	free(big);
}

Test(http_watch, idle_ones_are_ended)
{
	server->limits.idle_ms = 50;
	int fd = dial(GET("/now")); /* kept open */
	wait_for_answer(fd, "now");
	UNTIL(all_gone());
	cr_assert_eq(read(fd, &(char){ 0 }, 1), 0);
	close(fd);
}

Test(http_watch, the_server_stops)
{
	int idle = dial(GET("/now")), busy;

	UNTIL(closes == 1);
	busy = dial(GET("/hold"));
	UNTIL(held);
	http_server_stop_accepting(server);
	UNTIL(n_open() == 1);
	http_reply(held, 200, NULL, "last", 4);
	wait_for_answer(busy, "last");
	UNTIL(all_gone());
	close(idle);
	close(busy);
}

Test(http_watch, the_server_is_freed)
{
	int idle = dial(GET("/now")), busy;

	UNTIL(closes == 1);
	busy = dial(GET("/hold"));
	UNTIL(held);
	server = http_server_free(server);
	cr_assert_eq(closes, 2);
	run_for(20);
	close(idle);
	close(busy);
}

Test(http_watch, http2_without_tls)
{
	int fd = dial("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

	UNTIL(is_watched());
	cr_assert_not_null(newest()->h2);
	close(fd);
	UNTIL(all_gone());
}
