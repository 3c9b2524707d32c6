/* A connection of HTTP/2: bytes of a peer into a server whose handlers answer in every way there is. The first byte chooses how
 * the input is cut and whether the preface and SETTINGS are put in front. Nothing may crash, leak or last: every request that began
 * is over when the server is freed. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "http/private.h"
#include "http/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GREETING "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
#define TURNS 12 /* of the loop after each piece */

static struct loop *loop;
static int begun, over;

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void on_close(struct http_req *r UNUSED, bool complete UNUSED, void *arg UNUSED)
{
	over++;
}

static void on_whole(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	http_reply(r, 200, "text/plain", data, len);
}

static void on_drain(struct http_req *r, void *arg UNUSED)
{
	http_req_resume(r);
}

static void on_piece(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	if (!data)
		http_reply_end(r);
	else if (!http_reply_write(r, data, len))
		http_req_pause(r);
}

static void check_request(struct http_req *r)
{
	check(http_req_path(r)[0] == '/' || !strcmp(http_req_path(r), "*"));
	for (size_t i = 0; i < http_req_n_headers(r); i++) {
		const struct http_header *h = http_req_header_at(r, i);

		check(!h->name[strcspn(h->name, " \t\r\n:")] && !h->value[strcspn(h->value, "\r\n")]);
	}
}

/* By the path's second byte. */
static void handle(struct http_req *r, void *arg UNUSED)
{
	begun++;
	check_request(r);
	http_req_on_close(r, on_close, NULL);
	switch (http_req_path(r)[1]) {
	case 'a':
		http_req_abort(r);
		break;
	case 'b':
		http_req_body(r, 1000, on_whole, NULL);
		break;
	case 'e':
		sse_result(sse_start(r), "\"result\"", 8);
		break;
	case 'h':
		break; /* never */
	case 's':
		http_reply_start(r, 200, NULL, -1);
		http_reply_on_drain(r, on_drain, NULL);
		http_req_stream(r, on_piece, NULL);
		break;
	default:
		http_reply_header(r, "X-Path", http_req_path(r));
		http_reply(r, 200, "text/plain", "hello", 5);
	}
}

static void on_stop(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 0);
}

static void turn(void)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, on_stop, NULL);
	loop_timer_start(&t, 0);
	loop_run(loop);
	loop_timer_stop(&t);
}

/* What the server says is read, so that nothing is held up by us. */
static void turns(int fd, int n)
{
	static char sink[65536];

	for (int i = 0; i < n; i++) {
		turn();
		while (read(fd, sink, sizeof(sink)) > 0)
			continue;
	}
}

static void feed(int fd, const char *p, size_t len, size_t step)
{
	while (len) {
		size_t n = MIN(step, len);

		if (write(fd, p, n) != (ssize_t)n)
			return; /* it has closed */
		turns(fd, 1);
		p += n;
		len -= n;
	}
	turns(fd, TURNS);
}

static struct http_server *server_new(void)
{
	struct http_limits limits;
	struct http_server *s;

	http_limits_default(&limits);
	limits.header_bytes = 4096;
	limits.h2_streams = 10;
	if (!loop && loop_new(&loop, NULL) < 0)
		abort();
	if (http_server_new(&s, loop, &limits, handle, NULL, NULL) < 0)
		abort();
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct sockaddr peer = { .sa_family = AF_UNIX };
	struct http_conn *c;
	struct http_server *s;
	int p[2];

	if (size < 2 || size > 20000)
		return 0;
	begun = over = 0;
	s = server_new();
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p) == 0);
	c = conn_new(s, p[0], 0, &peer, 0);
	check(conn_begin(c, NULL) == 0);
	if (data[0] & 1)
		feed(p[1], GREETING, sizeof(GREETING) - 1, sizeof(GREETING));
	feed(p[1], (const char *)data + 1, size - 1, data[0] & 2 ? (size_t)1 + (data[0] >> 2) : size);
	if (data[0] & 4)
		http_server_stop_accepting(s);
	turns(p[1], 1);
	close(p[1]);
	turn();
	http_server_free(s);
	turn();
	check(begun == over);
	return 0;
}
