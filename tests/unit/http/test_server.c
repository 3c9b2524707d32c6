/* What the wire tests cannot see: callbacks, their order, acknowledged offsets. */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/str.h"
#include "http/private.h"
#include "unit/http/harness.h"

static struct http_req *held; /* a request that waits for its test */
static int closes, bodies, pieces;
static bool complete, in_call, acked_all, acked_more;
static uint64_t offset;
static unsigned handled, handled_before_other;

static void on_close(struct http_req *r, bool whole, void *arg UNUSED)
{
	cr_assert_not(in_call, "a callback ran inside a call");
	closes++;
	complete = whole;
	held = NULL;
	offset = http_reply_offset(r);
	acked_all = http_reply_acked(r, offset);
	acked_more = http_reply_acked(r, offset + 1);
}

static void on_body(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	cr_assert_not(in_call, "a callback ran inside a call");
	bodies++;
	cr_assert_eq(data[len], '\0');
	http_reply(r, 200, NULL, data, len);
}

static void on_piece(struct http_req *r, const char *data, size_t len UNUSED, void *arg UNUSED)
{
	pieces += data != NULL;
	if (data && *data == 'F') {
		server = http_server_free(server);
		return;
	}
	if (!data)
		http_reply(r, 200, NULL, "end", 3);
	else
		http_req_pause(r);
}

static void handle(struct http_req *r, void *arg UNUSED)
{
	const char *path = http_req_path(r);

	cr_assert_null(held, "a request came before the one before it was over");
	http_req_on_close(r, on_close, NULL);
	held = r;
	in_call = true;
	handled++;
	if (!strcmp(path, "/other"))
		handled_before_other = handled;
	if (!strcmp(path, "/now") || !strcmp(path, "/other"))
		http_reply(r, 200, NULL, "now", 3);
	else if (!strcmp(path, "/body"))
		http_req_body(r, 10, on_body, NULL);
	else if (!strcmp(path, "/pieces"))
		http_req_stream(r, on_piece, NULL);
	else if (!strcmp(path, "/abort"))
		http_req_abort(r);
	in_call = false;
}

static void begin(void)
{
	harness_begin(handle, NULL);
}

TestSuite(http_server, .init = begin, .fini = harness_end, .timeout = 30);

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST(path, headers, body) "POST " path " HTTP/1.1\r\nHost: h\r\n" headers "\r\n" body

static bool ends(const char *text, const char *tail)
{
	return str_ends(text, tail);
}

Test(http_server, who_asks_a_thousand_times_at_once_is_not_alone)
{
	static const char one[] = GET("/now");
	static char many[1000 * (sizeof(one) - 1)];
	int crowd = connect_pair(), other = connect_pair();

	for (size_t i = 0; i < 1000; i++)
		memcpy(many + i * (sizeof(one) - 1), one, sizeof(one) - 1);
	cr_assert_eq(write(crowd, many, sizeof(many)), (ssize_t)sizeof(many));
	cr_assert_eq(shutdown(crowd, SHUT_WR), 0); /* what came before its end counts all the same */
	cr_assert_eq(write(other, GET("/other"), strlen(GET("/other"))), (ssize_t)strlen(GET("/other")));
	for (int i = 0; i < 200 && handled < 1001; i++) {
		run_for(5);
		(void)read_now(crowd);
	}
	cr_assert_eq(handled, 1001);
	cr_assert_lt(handled_before_other, 200, "it was the %uth", handled_before_other);
	cr_assert(ends(read_now(other), "now"));
	close(crowd);
	close(other);
}

Test(http_server, answers_later)
{
	int fd = connect_pair();

	cr_assert_str_eq(talk(fd, GET("/hold")), "");
	cr_assert_not_null(held);
	cr_assert_eq(http_req_tag(held), 7);
	cr_assert_str_eq(http_req_peer(held), "unix");
	in_call = true;
	http_reply_header(held, "X-Evil", "a\r\nb: c");
	http_reply_header(held, "Bad Name", "x");
	http_reply_header(held, "Content-Length", "99");
	http_reply_error(held, 409, "a \"%s\"", "pot");
	http_reply(held, 200, NULL, "again", 5);
	in_call = false;
	cr_assert_eq(closes, 0);
	run_for(5);
	const char *text = read_now(fd);
	cr_assert(ends(text, "Content-Length: 44\r\nX-Evil: ab: c\r\n\r\n"
			     "{\"detail\":\"a \\\"pot\\\"\",\"message\":\"a \\\"pot\\\"\"}"), "%s", text);
	cr_assert_eq(closes, 1);
	cr_assert(complete);
	cr_assert_eq(offset, strlen(text));
	close(fd);
}

Test(http_server, one_request_at_a_time)
{
	int fd = connect_pair();

	cr_assert_str_eq(talk(fd, GET("/hold") GET("/now") GET("/hold")), "");
	cr_assert_str_eq(http_req_path(held), "/hold");
	http_reply(held, 200, NULL, "first", 5);
	run_for(5);
	const char *text = read_now(fd);
	cr_assert_not_null(strstr(text, "first"));
	cr_assert(ends(text, "now"));
	cr_assert_eq(closes, 2);
	http_reply(held, 200, NULL, "third", 5);
	run_for(5);
	cr_assert(ends(read_now(fd), "third"));
	close(fd);
}

Test(http_server, bodies_are_read_whole)
{
	int fd = connect_pair();

	cr_assert(ends(talk(fd, POST("/body", "Content-Length: 4\r\n", "abcd")), "\r\n\r\nabcd"));
	cr_assert(ends(talk(fd, POST("/body", "Content-Length: 0\r\n", "")), "\r\n\r\n"));
	cr_assert(ends(talk(fd, POST("/body", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n")), ""));
	cr_assert(ends(talk(fd, "9\r\nbcdefghij\r\n0\r\n\r\n"), "\r\n\r\nabcdefghij"));
	cr_assert_eq(bodies, 3);
	cr_assert_not_null(strstr(talk(fd, POST("/body", "Transfer-Encoding: chunked\r\n", "a\r\nabcdefghij\r\n1\r\n")), ""));
	cr_assert_not_null(strstr(talk(fd, "k\r\n"), "HTTP/1.1 413"));
	cr_assert_eq(bodies, 3);
	cr_assert_eq(closes, 4);
	close(fd);
}

Test(http_server, a_body_too_long_by_its_own_word)
{
	int fd = connect_pair();
	const char *text = talk(fd, POST("/body", "Content-Length: 11\r\n", ""));

	cr_assert_not_null(strstr(text, "HTTP/1.1 413"));
	cr_assert_not_null(strstr(text, "Connection: close\r\n"));
	cr_assert_eq(bodies, 0);
	close(fd);
}

/* A paused body stays where it is until it is resumed. */
Test(http_server, pieces_and_pauses)
{
	int fd = connect_pair();

	talk(fd, POST("/pieces", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n1\r\nb\r\n"));
	cr_assert_eq(pieces, 1);
	talk(fd, "1\r\nc\r\n0\r\n\r\n");
	for (int i = 1; i <= 3; i++) {
		cr_assert_eq(pieces, i);
		http_req_resume(held);
		run_for(3);
	}
	cr_assert(ends(read_now(fd), "end"));
	cr_assert_eq(closes, 1);
	cr_assert(complete);
	close(fd);
}

Test(http_server, a_body_that_was_not_asked_for_is_skipped)
{
	int fd = connect_pair();
	const char *text = talk(fd, POST("/now", "Content-Length: 5\r\n", "abcde") GET("/now"));

	cr_assert_eq(closes, 2);
	cr_assert(ends(text, "now"));
	cr_assert_null(strstr(text, "close"));
	close(fd);
}

Test(http_server, peers_that_leave)
{
	int fd = connect_pair();

	talk(fd, GET("/hold"));
	close(fd);
	run_for(5);
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	cr_assert_eq(http_server_stats(server)->open_connections, 0);
}

/* shutdown(SHUT_WR) after a request means: nothing more will be asked. It is still answered. */
Test(http_server, half_closed_peers_get_their_answer)
{
	int fd = connect_pair();

	cr_assert_eq(write(fd, GET("/hold"), strlen(GET("/hold"))), (ssize_t)strlen(GET("/hold")));
	shutdown(fd, SHUT_WR);
	run_for(5);
	cr_assert_eq(closes, 0);
	http_reply(held, 200, NULL, "yes", 3);
	run_for(5);
	cr_assert(ends(read_now(fd), "yes"));
	cr_assert(complete);
	cr_assert_eq(read(fd, &(char){ 0 }, 1), 0);
	close(fd);
}

Test(http_server, a_body_that_breaks_off)
{
	int fd = connect_pair();

	talk(fd, POST("/body", "Content-Length: 4\r\n", "ab"));
	shutdown(fd, SHUT_WR);
	run_for(5);
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	close(fd);
}

Test(http_server, aborts)
{
	int fd = connect_pair();

	cr_assert_str_eq(talk(fd, GET("/abort")), "");
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	cr_assert_eq(read(fd, &(char){ 0 }, 1), 0);
	close(fd);
}

/* What was announced must come; less breaks the connection, more is cut. */
Test(http_server, lengths_are_kept)
{
	int fd = connect_pair();

	talk(fd, GET("/hold"));
	http_reply_start(held, 200, NULL, 3);
	http_reply_write(held, "abcdef", 6);
	http_reply_end(held);
	run_for(5);
	cr_assert(ends(read_now(fd), "\r\n\r\nabc"));
	talk(fd, GET("/hold"));
	http_reply_start(held, 200, NULL, 3);
	http_reply_write(held, "ab", 2);
	run_for(5);
	http_reply_end(held);
	run_for(5);
	cr_assert(ends(read_now(fd), "\r\n\r\nab"));
	cr_assert_not(complete);
	close(fd);
}

Test(http_server, stops_accepting)
{
	int idle = connect_pair(), busy = connect_pair();

	talk(idle, GET("/now"));
	talk(busy, GET("/hold"));
	http_server_stop_accepting(server);
	run_for(5);
	cr_assert_eq(read(idle, &(char){ 0 }, 1), 0);
	http_reply(held, 200, NULL, "last", 4);
	run_for(5);
	cr_assert_not_null(strstr(read_now(busy), "Connection: close\r\n\r\nlast"));
	cr_assert_eq(http_server_stats(server)->open_connections, 0);
	close(idle);
	close(busy);
}

Test(http_server, answers_what_is_on_its_way_when_it_stops)
{
	int unread = connect_pair(), fresh = connect_pair(), silent = connect_pair();

	talk(unread, GET("/now"));
	cr_assert_gt(write(unread, GET("/now"), strlen(GET("/now"))), 0);
	http_server_stop_accepting(server);
	run_for(5);
	cr_assert_not_null(strstr(read_now(unread), "Connection: close\r\n\r\nnow"));
	cr_assert_not_null(strstr(talk(fresh, GET("/now")), "Connection: close\r\n\r\nnow"));
	cr_assert_lt(read(silent, &(char){ 0 }, 1), 0);
	run_for(1500);
	cr_assert_eq(read(silent, &(char){ 0 }, 1), 0, "which is not waited for any longer");
	cr_assert_eq(http_server_stats(server)->open_connections, 0);
	close(unread);
	close(fresh);
	close(silent);
}

Test(http_server, freed_with_a_request_in_flight)
{
	int fd = connect_pair();

	talk(fd, GET("/hold"));
	server = http_server_free(server);
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	run_for(5);
	close(fd);
}

Test(http_server, freed_inside_a_callback)
{
	int fd = connect_pair();

	talk(fd, POST("/pieces", "Content-Length: 1\r\n", "F"));
	cr_assert_eq(pieces, 1);
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	cr_assert_null(server);
	close(fd);
}

/* -- acknowledged ---------------------------------------------------------------------------------------------- */

/* A TCP connection over loopback; either end may be the one that connected. */
static void tcp_pair(int *ret_active, int *ret_passive)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(l, 1), 0);
	cr_assert_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
	*ret_active = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(*ret_active, (struct sockaddr *)&a, sizeof(a)), 0);
	*ret_passive = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	cr_assert_geq(*ret_passive, 0);
	close(l);
}

static void check_acked(int ours, int theirs)
{
	struct err err = ERR_INIT;

	cr_assert_eq(fd_set_nonblock(theirs, true), 0);
	cr_assert_eq(http_server_adopt(server, ours, 1, &err), 0);
	for (int i = 1; i <= 3; i++) { /* kept: each answer has offsets of its own */
		talk(theirs, GET("/hold"));
		http_reply_start(held, 200, NULL, -1);
		http_reply_write(held, "abc", 3);
		run_for(5);
		read_now(theirs);
		run_for(80); /* acknowledgements may be delayed by 40 ms */
		offset = http_reply_offset(held);
		cr_assert(http_reply_acked(held, offset));
		cr_assert_not(http_reply_acked(held, offset + 1));
		http_reply_write(held, "d", 1); /* not sent yet */
		cr_assert_not(http_reply_acked(held, offset + 1), "one byte that was never sent counts as acknowledged");
		http_reply_end(held);
		run_for(5);
		cr_assert_eq(closes, i);
		cr_assert(complete);
		cr_assert_not(acked_more);
	}
	close(theirs);
	run_for(5);
}

Test(http_server, acknowledged_where_the_peer_connected)
{
	int active, passive;

	tcp_pair(&active, &passive);
	check_acked(passive, active);
}

/* Why a connection that was handed over has its own base: the kernel counts the SYN of the side that connected. */
Test(http_server, what_the_kernel_counts)
{
	int active, passive;

	tcp_pair(&active, &passive);
	cr_assert_eq(conn_kernel_acked(active), 1);
	cr_assert_eq(conn_kernel_acked(passive), 0);
	cr_assert_eq(write(active, "abc", 3), 3);
	cr_assert_eq(write(passive, "abc", 3), 3);
	cr_assert_eq(read(active, (char[3]){ 0 }, 3), 3);
	cr_assert_eq(read(passive, (char[3]){ 0 }, 3), 3);
	usleep(80000);
	cr_assert_eq(conn_kernel_acked(active), 4);
	cr_assert_eq(conn_kernel_acked(passive), 3);
	close(active);
	close(passive);
}

Test(http_server, acknowledged_where_we_connected)
{
	int active, passive;

	tcp_pair(&active, &passive);
	check_acked(active, passive);
}

static int adopt_one(struct http_server *s, uint64_t tag, int *ret_peer)
{
	struct err err = ERR_INIT;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*ret_peer = pair[1];
	return http_server_adopt(s, pair[0], tag, &err);
}

Test(http_server, what_is_inside_has_a_share_of_the_connections)
{
	struct http_limits few;
	struct http_server *s;
	int peers[32], n = 0;

	http_limits_default(&few);
	few.max_connections = 32;
	cr_assert_eq(http_server_new(&s, loop, &few, handle, NULL, NULL), 0);
	for (uint64_t tag = 1; tag <= 8; tag++)
		for (int i = 0; i < 2; i++)
			cr_assert_eq(adopt_one(s, tag, &peers[n++]), 0, "%d of tag %d", i + 1, (int)tag);
	cr_assert_eq(adopt_one(s, 1, &peers[n++]), -EMFILE);
	cr_assert_eq(adopt_one(s, 9, &peers[n++]), -EMFILE); /* sixteen are half of all */
	cr_assert_eq(http_server_stats(s)->open_connections, 16);
	close(peers[0]);
	run_for(20);
	cr_assert_eq(http_server_stats(s)->open_connections, 15);
	cr_assert_eq(adopt_one(s, 1, &peers[0]), 0);
	http_server_free(s);
	run_for(5);
	for (int i = 0; i < n; i++)
		close(peers[i]);
}

/* A peer that stops reading and dies: what is in our buffers is not acknowledged, and on_close can tell. */
Test(http_server, not_acknowledged_by_a_dead_peer)
{
	static char big[8 << 20];
	struct linger reset = { .l_onoff = 1 };
	struct err err = ERR_INIT;
	int active, passive;

	tcp_pair(&active, &passive);
	cr_assert_eq(http_server_adopt(server, passive, 1, &err), 0);
	cr_assert_eq(write(active, GET("/hold"), strlen(GET("/hold"))), (ssize_t)strlen(GET("/hold")));
	run_for(5);
	http_reply(held, 200, NULL, big, sizeof(big));
	run_for(20);
	cr_assert_eq(closes, 0);
	cr_assert_gt(http_reply_queued(held), 0);
	cr_assert(http_reply_acked(held, 1000));
	cr_assert_not(http_reply_acked(held, http_reply_offset(held)));
	setsockopt(active, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(active);
	run_for(20);
	cr_assert_eq(closes, 1);
	cr_assert_not(complete);
	cr_assert_not(acked_all);
}
