/* HTTP/2 from the handlers' side: callbacks and their order, offsets and what is known of them, planned ends. */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "http/h2.h"
#include "http/private.h"
#include "unit/http/h2_bytes.h"
#include "unit/http/harness.h"

#define STREAMS 8

static struct http_req *held[STREAMS]; /* by the digit that ends the path: requests that wait for their test */
static int closes[STREAMS], wholes[STREAMS], drains, fates, acked_fates;
static uint64_t asked_offset;      /* of the next close: a fate is asked for */
static bool in_call, told_acked;
static struct buf out;             /* of the client */

static int digit(struct http_req *r)
{
	const char *path = http_req_path(r);

	return (path[strlen(path) - 1] - '0') % STREAMS;
}

static void on_fate(void *arg UNUSED, bool acked)
{
	fates++;
	acked_fates += acked;
}

static void on_close(struct http_req *r, bool whole, void *arg UNUSED)
{
	int n = digit(r);

	cr_assert_not(in_call, "a callback ran inside a call");
	closes[n]++;
	wholes[n] += whole;
	held[n] = NULL;
	told_acked = http_reply_acked(r, http_reply_offset(r));
	if (asked_offset)
		http_reply_fate(r, asked_offset, on_fate, NULL);
}

static void on_piece(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	cr_assert_not(in_call, "a callback ran inside a call");
	if (!data)
		http_reply(r, 200, NULL, "end", 3);
	else if (len && *data == 'F')
		server = http_server_free(server);
}

static void on_body(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	http_reply(r, 200, NULL, data, len);
}

static void handle(struct http_req *r, void *arg UNUSED)
{
	const char *path = http_req_path(r);

	http_req_on_close(r, on_close, NULL);
	held[digit(r)] = r;
	in_call = true;
	if (path[1] == 'n')
		http_reply(r, 200, NULL, "now", 3);
	else if (path[1] == 's')
		http_req_stream(r, on_piece, NULL);
	else if (path[1] == 'b')
		http_req_body(r, 100, on_body, NULL);
	in_call = false;
}

static void begin(void)
{
	harness_begin(handle, NULL);
	buf_init(&out, 1 << 20);
}

static void end(void)
{
	buf_done(&out);
	harness_end();
}

TestSuite(http_h2, .init = begin, .fini = end, .timeout = 60);

/* -- a client --------------------------------------------------------------------------------------------------- */

static void leave(int fd)
{
	while (out.len) {
		ssize_t n = write(fd, out.data, out.len);

		cr_assert_gt(n, 0);
		buf_consume(&out, (size_t)n);
	}
	run_for(10);
}

static void greet(int fd)
{
	put_bytes(&out, H2_PREFACE, strlen(H2_PREFACE));
	put_frame(&out, H2_SETTINGS, 0, 0, "", 0);
	leave(fd);
}

/* A connection such as a listening unix socket accepts; the far end. */
static int connect_unix(void)
{
	const struct sockaddr peer = { .sa_family = AF_UNIX };
	struct err err = ERR_INIT;
	struct http_conn *c;
	int p[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	c = conn_new(server, p[0], 0, &peer, 0);
	cr_assert_eq(conn_begin(c, &err), 0, "%s", err.msg);
	greet(p[1]);
	return p[1];
}

static int connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	struct err err = ERR_INIT;
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(l, 5), 0);
	cr_assert_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
	cr_assert_eq(http_server_listen(server, l, NULL, &err), 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	greet(fd);
	return fd;
}

static void get(int fd, uint32_t stream, const char *path)
{
	put_request(&out, stream, false, path, true);
	leave(fd);
}

struct seen {
	unsigned types[10];  /* frames of each */
	size_t data_bytes;
	unsigned ends, resets;
	uint32_t reset_code, goaway_code, goaway_last;
	bool closed;
};

static uint32_t word(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static struct seen seen; /* since the test emptied it */

static void see_frame(const uint8_t *p, size_t len)
{
	const uint8_t *payload = p + 9;
	struct seen *s = &seen;

	cr_assert_lt(p[3], 10);
	s->types[p[3]]++;
	s->ends += (p[3] == H2_DATA || p[3] == H2_HEADERS) && p[4] & H2_END_STREAM;
	s->data_bytes += p[3] == H2_DATA ? len : 0;
	if (p[3] == H2_RST_STREAM) {
		s->resets++;
		s->reset_code = word(payload);
	} else if (p[3] == H2_GOAWAY) {
		s->goaway_last = word(payload);
		s->goaway_code = word(payload + 4);
	}
}

/* All that has come by now. */
static void look(int fd)
{
	static uint8_t text[1 << 21];
	static size_t len;
	size_t at = 0;
	ssize_t n;

	while ((n = read(fd, text + len, sizeof(text) - len)) > 0)
		len += (size_t)n;
	seen.closed = n == 0;
	while (len - at >= 9) {
		size_t length = (size_t)text[at] << 16 | (size_t)text[at + 1] << 8 | text[at + 2];

		if (len - at < 9 + length)
			break;
		see_frame(text + at, length);
		at += 9 + length;
	}
	memmove(text, text + at, len -= at);
}

static void forget(int fd)
{
	look(fd);
	seen = (struct seen){ 0 };
}

/* Lets the loop work until it is so; far longer than it ever takes. */
#define UNTIL(fd, condition)                                                                                                       \
	do {                                                                                                                       \
		for (int turns_ = 0; turns_ < 2000 && !(condition); turns_++) {                                                    \
			run_for(5);                                                                                                \
			look(fd);                                                                                                  \
		}                                                                                                                  \
		cr_assert(condition);                                                                                              \
	} while (0)

/* -- requests --------------------------------------------------------------------------------------------------- */

Test(http_h2, streams_are_requests_of_one_connection)
{
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	get(fd, 3, "/hold2");
	UNTIL(fd, held[1] && held[2]);
	cr_assert_str_eq(http_req_peer(held[1]), "unix");
	cr_assert(http_req_is_local(held[1]));
	cr_assert_str_eq(http_req_host(held[1]), "h");
	cr_assert_str_eq(http_req_scheme(held[1]), "http");
	in_call = true;
	http_reply_header(held[2], "X-Name", " v\r\n ");
	http_reply_header(held[2], "Connection", "keep-alive");
	http_reply_header(held[2], "Upgrade", "x");
	http_reply(held[2], 200, NULL, "two", 3);
	in_call = false;
	UNTIL(fd, closes[2] && seen.ends == 1);
	cr_assert_eq(seen.data_bytes, 3);
	cr_assert_eq(wholes[2], 1);
	cr_assert_eq(closes[1], 0);
	cr_assert_eq(http_server_stats(server)->requests, 2);
	cr_assert_eq(http_server_stats(server)->open_connections, 1);
	shutdown(fd, SHUT_WR);
	UNTIL(fd, closes[1]);
	cr_assert_eq(wholes[1], 0);
	UNTIL(fd, http_server_stats(server)->open_connections == 0);
	close(fd);
}

Test(http_h2, bodies)
{
	int fd = connect_unix();

	put_request(&out, 1, true, "/body1", false);
	put_frame(&out, H2_DATA, 0, 1, "abc", 3);
	leave(fd);
	cr_assert_eq(closes[1], 0);
	put_frame(&out, H2_DATA, H2_END_STREAM, 1, "def", 3);
	leave(fd);
	UNTIL(fd, wholes[1] && seen.data_bytes == 6);
	put_request(&out, 3, true, "/stream2", true);
	leave(fd);
	UNTIL(fd, seen.ends == 2);
	cr_assert_eq(seen.data_bytes, 9);
	put_request(&out, 5, true, "/body3", false);
	for (int i = 0; i < 11; i++)
		put_frame(&out, H2_DATA, 0, 5, "0123456789", 10);
	leave(fd);
	UNTIL(fd, seen.ends == 3); /* 413 */
	cr_assert_eq(seen.resets, 0, "what else comes of it is thrown away");
	close(fd);
}

Test(http_h2, a_paused_body_grants_no_more)
{
	char piece[16000];
	int fd = connect_unix();

	memset(piece, 'x', sizeof(piece));
	put_request(&out, 1, true, "/stream1", false);
	leave(fd);
	UNTIL(fd, held[1] && seen.types[H2_WINDOW_UPDATE] == 2); /* of the connection, and of the body that is wanted */
	http_req_pause(held[1]);
	forget(fd);
	for (int i = 0; i < 12; i++)
		put_frame(&out, H2_DATA, 0, 1, piece, sizeof(piece));
	leave(fd);
	run_for(50);
	look(fd);
	cr_assert_eq(seen.types[H2_WINDOW_UPDATE], 0);
	http_req_resume(held[1]);
	UNTIL(fd, seen.types[H2_WINDOW_UPDATE] == 1);
	put_frame(&out, H2_DATA, H2_END_STREAM, 1, "", 0);
	leave(fd);
	UNTIL(fd, wholes[1]);
	close(fd);
}

static void on_drain(struct http_req *r UNUSED, void *arg UNUSED)
{
	cr_assert_not(in_call, "a callback ran inside a call");
	drains++;
}

Test(http_h2, a_queue_waits_for_the_window_and_tells_when_it_is_short)
{
	static char megabyte[1 << 20];
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	in_call = true;
	http_reply_on_drain(held[1], on_drain, NULL);
	http_reply_start(held[1], 200, NULL, -1);
	cr_assert_not(http_reply_write(held[1], megabyte, sizeof(megabyte)));
	in_call = false;
	UNTIL(fd, seen.data_bytes == 65535);
	cr_assert_eq(http_reply_queued(held[1]), sizeof(megabyte) - 65535);
	cr_assert_eq(drains, 0);
	put_word_frame(&out, H2_WINDOW_UPDATE, 0, 1 << 20);
	put_word_frame(&out, H2_WINDOW_UPDATE, 1, 1 << 20);
	leave(fd);
	UNTIL(fd, seen.data_bytes == sizeof(megabyte));
	UNTIL(fd, drains == 1);
	http_reply_end(held[1]);
	UNTIL(fd, wholes[1] && seen.ends == 1);
	close(fd);
}

Test(http_h2, the_server_may_be_freed_by_a_callback)
{
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	put_request(&out, 3, true, "/stream2", false);
	put_frame(&out, H2_DATA, 0, 3, "F", 1);
	leave(fd);
	UNTIL(fd, !server);
	cr_assert_eq(closes[1] + closes[2], 2);
	close(fd);
}

Test(http_h2, an_answer_shorter_than_announced_is_broken_off)
{
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	http_reply_start(held[1], 200, NULL, 10);
	http_reply_write(held[1], "abc", 3);
	http_reply_end(held[1]);
	UNTIL(fd, closes[1]);
	UNTIL(fd, seen.resets == 1);
	cr_assert_eq(seen.ends, 0);
	cr_assert_eq(wholes[1], 0);
	get(fd, 3, "/now2");
	UNTIL(fd, seen.ends == 1);
	close(fd);
}

/* -- offsets ---------------------------------------------------------------------------------------------------- */

Test(http_h2, offsets_are_those_of_the_stream)
{
	uint32_t marked = 0;
	int fd = connect_tcp();

	get(fd, 1, "/hold1");
	get(fd, 3, "/hold2");
	UNTIL(fd, held[1] && held[2]);
	http_reply_start(held[1], 200, NULL, -1);
	http_reply_start(held[2], 200, NULL, -1);
	http_reply_write(held[1], "abc", 3);
	uint64_t last = http_reply_offset(held[1]);
	cr_assert_eq(last, 4, "a header section counts as one byte");
	http_reply_mark(held[1], last, &marked, 5);
	cr_assert_eq(marked, 0, "nothing has left");
	cr_assert_not(http_reply_acked(held[1], 1));
	UNTIL(fd, marked == 5);
	UNTIL(fd, http_reply_acked(held[1], last));
	cr_assert_not(http_reply_acked(held[1], last + 1));
	UNTIL(fd, http_reply_acked(held[2], 1));
	cr_assert_not(http_reply_acked(held[2], 2));
	close(fd);
}

/* The wire's queue waits for a peer that does not read: the answer behind it is not over before its own bytes left. */
Test(http_h2, an_answer_without_a_body_ends_with_its_head)
{
	static char piece[60000];
	int fd = connect_unix(), room = 4096;
	struct http_conn *wire;

	get(fd, 1, "/hold1");
	get(fd, 3, "/hold2");
	UNTIL(fd, held[1] && held[2]);
	wire = held[2]->conn->wire;
	cr_assert_eq(setsockopt(wire->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
	http_reply(held[1], 200, NULL, piece, sizeof(piece));
	run_for(20);
	cr_assert_gt(wire->out.len, 0);
	http_reply(held[2], 204, NULL, NULL, 0);
	run_for(20);
	cr_assert_not_null(held[2], "it is over, and the kernel has nothing of it");
	cr_assert_eq(h2_of(held[2]->conn)->fin_at, wire->sent + wire->out.len);
	UNTIL(fd, !held[1] && !held[2]);
	cr_assert_eq(wholes[2], 1);
	close(fd);
}

/* nghttp2 takes 12 bytes more for each field than it has. */
Test(http_h2, as_many_fields_as_an_answer_may_have)
{
	int fd = connect_unix();
	char name[8], value[640];

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	seen = (struct seen){ 0 };
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "x-%d", 100 + i);
		http_reply_header(held[1], name, value);
	}
	http_reply(held[1], 204, NULL, NULL, 0);
	UNTIL(fd, seen.ends == 1);
	cr_assert_eq(wholes[1], 1);
	close(fd);
}

Test(http_h2, what_the_window_holds_back_is_not_marked)
{
	static char piece[70000];
	uint32_t marked = 0;
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	http_reply_start(held[1], 200, NULL, -1);
	http_reply_write(held[1], piece, sizeof(piece));
	http_reply_mark(held[1], http_reply_offset(held[1]), &marked, 1);
	UNTIL(fd, http_reply_acked(held[1], 65536));
	cr_assert_not(http_reply_acked(held[1], 65537));
	cr_assert_eq(marked, 0);
	put_word_frame(&out, H2_WINDOW_UPDATE, 0, 10000);
	put_word_frame(&out, H2_WINDOW_UPDATE, 1, 10000);
	leave(fd);
	UNTIL(fd, marked == 1);
	close(fd);
}

Test(http_h2, a_fate_outlives_its_stream)
{
	int fd = connect_tcp();

	asked_offset = 4;
	get(fd, 1, "/now1");
	UNTIL(fd, wholes[1]);
	asked_offset = 0;
	for (uint32_t stream = 3; stream < 2000 && !fates; stream += 2) /* whatever wakes the connection */
		get(fd, stream, "/now2");
	cr_assert_eq(fates, 1);
	cr_assert_eq(acked_fates, 1);
	close(fd);
}

Test(http_h2, what_was_broken_off_is_told_at_once)
{
	int fd = connect_tcp();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	http_reply_start(held[1], 200, NULL, -1);
	http_reply_write(held[1], "abc", 3);
	asked_offset = 100; /* more than there was */
	put_word_frame(&out, H2_RST_STREAM, 1, 8);
	leave(fd);
	UNTIL(fd, fates == 1 && closes[1] == 1);
	cr_assert_eq(wholes[1], 0);
	cr_assert_eq(acked_fates, 0);
	asked_offset = 0;
	get(fd, 3, "/now2");
	UNTIL(fd, seen.ends == 1);
	cr_assert_eq(seen.resets, 0);
	close(fd);
}

Test(http_h2, what_arrived_before_it_was_broken_off_did_arrive)
{
	int fd = connect_tcp();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	http_reply_start(held[1], 200, NULL, -1);
	http_reply_write(held[1], "abc", 3);
	UNTIL(fd, http_reply_acked(held[1], 4));
	asked_offset = 4;
	put_word_frame(&out, H2_RST_STREAM, 1, 8);
	leave(fd);
	UNTIL(fd, fates == 1);
	cr_assert_eq(acked_fates, 1);
	cr_assert(told_acked);
	asked_offset = 0;
	close(fd);
}

/* -- planned ends ----------------------------------------------------------------------------------------------- */

Test(http_h2, who_is_idle_is_told_goodbye)
{
	int fd = connect_unix();

	get(fd, 1, "/now1");
	UNTIL(fd, wholes[1]);
	http_server_stop_accepting(server);
	UNTIL(fd, seen.closed);
	cr_assert_eq(seen.types[H2_GOAWAY], 1);
	cr_assert_eq(seen.goaway_code, 0);
	cr_assert_eq(seen.goaway_last, 1);
	close(fd);
}

Test(http_h2, open_streams_finish)
{
	int fd = connect_unix();

	get(fd, 1, "/hold1");
	UNTIL(fd, held[1]);
	http_server_stop_accepting(server);
	UNTIL(fd, seen.types[H2_GOAWAY] == 1);
	cr_assert_eq(seen.goaway_last, 0x7fffffff, "a notice: streams that are on their way still begin");
	UNTIL(fd, seen.types[H2_GOAWAY] == 2);
	cr_assert_eq(seen.goaway_last, 1);
	get(fd, 3, "/now2");
	run_for(20);
	cr_assert_eq(closes[2], 0, "it came too late");
	cr_assert_not(seen.closed);
	http_reply(held[1], 200, NULL, "one", 3);
	UNTIL(fd, seen.closed);
	cr_assert_eq(seen.ends, 1);
	cr_assert_eq(wholes[1], 1);
	close(fd);
}
