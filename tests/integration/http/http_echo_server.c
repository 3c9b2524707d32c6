/* The server that the tests here drive: a handler per behaviour, limits from the command line (NAME=VALUE with the names of
 * struct http_limits; tls_certificate=FILE and tls_key=FILE make it listen with TLS as well, and read them anew on SIGHUP).
 * Prints its port, and then that with TLS; ends when its standard input does. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "http/router.h"
#include "http/sse.h"
#include "http/tls.h"

static struct http_server *server;
static struct http_tls *tls;
static unsigned reloads, failed_reloads;
static struct buf closes; /* a line per finished request */

static uint64_t number(struct http_req *r, const char *name, uint64_t fallback)
{
	const char *s = http_req_query(r, name);
	uint64_t v;

	return s && str_to_u64(s, &v) == 0 ? v : fallback;
}

/* -- simple answers -------------------------------------------------------------------------------------------- */

static void hello(struct http_req *r, void *arg UNUSED)
{
	http_reply(r, 200, "text/plain", "hello\n", 6);
}

static void show(struct http_req *r, void *arg UNUSED)
{
	char text[2048];
	const char *host = http_req_header(r, "host"), *scheme = http_req_scheme(r), *q = http_req_query(r, "q"), *x = http_req_param(r, "x");
	int n = snprintf(text, sizeof(text), "%s %s path=%s query=%s host=%s q=%s x=%s%s", http_req_method(r),
			 http_req_target(r), http_req_path(r), http_req_raw_query(r), host ? host : "-", q ? q : "-",
			 x ? x : "-", str_eq(scheme, "https") ? " https" : "");

	http_reply(r, 200, "text/plain", text, MIN((size_t)n, sizeof(text) - 1));
}

static void show_closes(struct http_req *r, void *arg UNUSED)
{
	http_reply(r, 200, "text/plain", closes.data, closes.len);
}

static void stats(struct http_req *r, void *arg UNUSED)
{
	const struct http_stats *s = http_server_stats(server);
	auto_buf struct buf b;

	buf_init(&b, BUF_UNLIMITED);
	if (buf_printf(&b,
		       "{\"connections\":%lu,\"requests\":%lu,\"refused\":%lu,\"in\":%lu,\"out\":%lu,\"open\":%zu,"
		       "\"handshakes\":%lu,\"failed\":%lu,\"dropped\":%lu,\"handshaking\":%zu,\"reloads\":%u,\"failed_reloads\":%u,"
		       "\"h2\":%lu,\"h2_refused\":%lu}",
		       s->connections, s->requests, s->refused, s->bytes_in, s->bytes_out, s->open_connections, s->handshakes,
		       s->failed_handshakes, s->dropped_handshakes, s->open_handshakes, reloads, failed_reloads, s->h2_connections, s->h2_refused) == 0)
		http_reply_json(r, 200, &b);
}

/* -- ends ------------------------------------------------------------------------------------------------------ */

static void note_close(struct http_req *r, bool complete, void *arg UNUSED)
{
	uint64_t offset = http_reply_offset(r);

	if (buf_printf(&closes, "%s %s offset=%s acked=%d\n", http_req_target(r), complete ? "complete" : "broken",
		       offset ? "some" : "0", offset && http_reply_acked(r, offset)) < 0)
		buf_clear(&closes);
}

static void never(struct http_req *r, void *arg UNUSED)
{
	http_req_on_close(r, note_close, NULL);
}

struct later {
	struct http_req *req;
	struct loop_timer timer;
};

static void later_fires(struct loop_timer *t UNUSED, void *arg)
{
	struct later *l = arg;

	http_reply(l->req, 200, "text/plain", "later\n", 6);
}

static void later_close(struct http_req *r, bool complete, void *arg)
{
	struct later *l = arg;

	loop_timer_stop(&l->timer);
	note_close(r, complete, NULL);
}

static void later(struct http_req *r, void *arg UNUSED)
{
	struct later *l = http_req_alloc(r, sizeof(*l));

	l->req = r;
	http_req_on_close(r, later_close, l);
	loop_timer_init(&l->timer, http_req_loop(r), later_fires, l);
	loop_timer_start(&l->timer, number(r, "ms", 100));
}

static void abort_it(struct http_req *r, void *arg UNUSED)
{
	http_req_on_close(r, note_close, NULL);
	http_reply_start(r, 200, "text/plain", -1);
	http_reply_write(r, "abc", 3);
	http_req_abort(r);
}

static void early(struct http_req *r, void *arg UNUSED)
{
	http_reply_error(r, 403, "no: %s", "you may not");
}

/* -- bodies ---------------------------------------------------------------------------------------------------- */

static void echo_whole(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	http_reply(r, 200, "application/octet-stream", data, len);
}

static void echo(struct http_req *r, void *arg UNUSED)
{
	http_req_on_close(r, note_close, NULL);
	http_req_body(r, number(r, "max", 0), echo_whole, NULL);
}

static void stream_drained(struct http_req *r, void *arg UNUSED)
{
	http_req_resume(r);
}

static void stream_piece(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	if (!data)
		http_reply_end(r);
	else if (!http_reply_write(r, data, len))
		http_req_pause(r);
}

static void stream_echo(struct http_req *r, void *arg UNUSED)
{
	http_req_on_close(r, note_close, NULL);
	http_reply_start(r, 200, "application/octet-stream", -1);
	http_reply_on_drain(r, stream_drained, NULL);
	http_req_stream(r, stream_piece, NULL);
}

static void count_piece(struct http_req *r, const char *data, size_t len, void *arg)
{
	uint64_t *total = arg;
	char text[32];

	*total += len;
	if (!data)
		http_reply(r, 200, "text/plain", text, (size_t)snprintf(text, sizeof(text), "%lu\n", *total));
}

static void count(struct http_req *r, void *arg UNUSED)
{
	uint64_t *total = http_req_alloc(r, sizeof(*total));

	*total = 0;
	http_req_on_close(r, note_close, NULL);
	http_req_stream(r, count_piece, total);
}

/* -- big answers ----------------------------------------------------------------------------------------------- */

struct big {
	uint64_t left;
};

static void produce(struct http_req *r, void *arg)
{
	static char piece[32768];
	struct big *b = arg;
	bool room = true;

	memset(piece, 'x', sizeof(piece));
	while (b->left && room) {
		size_t n = MIN((uint64_t)sizeof(piece), b->left);
		room = http_reply_write(r, piece, n);
		b->left -= n;
	}
	if (!b->left)
		http_reply_end(r);
}

static void big(struct http_req *r, void *arg UNUSED)
{
	struct big *b = http_req_alloc(r, sizeof(*b));

	b->left = number(r, "bytes", 1000000);
	http_req_on_close(r, note_close, NULL);
	http_reply_on_drain(r, produce, b);
	http_reply_start(r, 200, "text/plain", number(r, "chunked", 0) ? -1 : (int64_t)b->left);
	produce(r, b);
}

/* -- events ---------------------------------------------------------------------------------------------------- */

static ssize_t fill(void *arg, char *p, size_t cap)
{
	struct big *b = arg;
	size_t n = MIN((uint64_t)cap, b->left);

	memset(p, '1', n);
	b->left -= n;
	return (ssize_t)n;
}

static void sse_body(struct http_req *r, const char *data, size_t len, void *arg UNUSED)
{
	struct sse *s = sse_start(r);

	sse_event(s, "task_id", "t1", 2);
	sse_result(s, data, len);
}

static void sse(struct http_req *r, void *arg UNUSED)
{
	struct big *b = http_req_alloc(r, sizeof(*b));
	struct sse *s;

	http_req_on_close(r, note_close, NULL);
	if (!strcmp(http_req_method(r), "POST")) {
		http_req_body(r, 0, sse_body, NULL);
		return;
	}
	s = sse_start(r);
	sse_event(s, "task_id", "t1", 2);
	if (http_req_query(r, "open"))
		return;
	if (http_req_query(r, "error")) {
		sse_error(s, "it\nbroke");
		return;
	}
	b->left = number(r, "bytes", 10);
	sse_result_from(s, fill, NULL, b);
}

/* -- main ------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *method, *pattern;
	http_handler_fn *fn;
} routes[] = {
	{ "GET", "/hello", hello },	{ "GET", "/show", show },	  { "GET", "/show/{x}", show },
	{ "GET", "/closes", show_closes }, { "GET", "/stats", stats },	  { "GET", "/never", never },
	{ "GET", "/later", later },	{ "GET", "/abort", abort_it },	  { "POST", "/early", early },
	{ "POST", "/echo", echo },	{ "POST", "/stream", stream_echo }, { "POST", "/count", count },
	{ "GET", "/big", big },		{ "GET", "/sse", sse },		  { "POST", "/sse", sse },
};

static void on_stdin(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	char c;

	if (read(io->fd, &c, 1) <= 0)
		loop_stop(arg, 0);
}

static void set_limit(struct http_limits *l, const char *arg)
{
	unsigned long v = 0;
	char name[32];

	if (sscanf(arg, "%31[a-z_0-9]=%lu", name, &v) != 2)
		return;
	if (!strcmp(name, "header_bytes"))
		l->header_bytes = v;
	else if (!strcmp(name, "header_deadline_ms"))
		l->header_deadline_ms = v;
	else if (!strcmp(name, "idle_ms"))
		l->idle_ms = v;
	else if (!strcmp(name, "body_stall_ms"))
		l->body_stall_ms = v;
	else if (!strcmp(name, "write_stall_ms"))
		l->write_stall_ms = v;
	else if (!strcmp(name, "max_connections"))
		l->max_connections = v;
	else if (!strcmp(name, "handshake_ms"))
		l->handshake_ms = v;
	else if (!strcmp(name, "handshakes"))
		l->handshakes = v;
	else if (!strcmp(name, "h2"))
		l->h2 = v;
	else if (!strcmp(name, "h2_streams"))
		l->h2_streams = v;
	else if (!strcmp(name, "h2_resets_burst"))
		l->h2_resets_burst = v;
	else if (!strcmp(name, "h2_controls_burst"))
		l->h2_controls_burst = v;
}

static const char *text_of(int argc, char **argv, const char *name)
{
	for (int i = 1; i < argc; i++)
		if (str_starts(argv[i], name))
			return argv[i] + strlen(name);
	return NULL;
}

static void on_hangup(int signo UNUSED, void *arg UNUSED)
{
	struct err err = ERR_INIT;
	bool ok = tls && http_tls_reload(tls, &err) == 0;

	reloads += ok;
	failed_reloads += !ok;
	if (!ok)
		fprintf(stderr, "%s\n", err.msg);
}

static int listen_loopback(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 4096) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		exit(1);
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);
	return fd;
}

static int listen_tls(int argc, char **argv, struct loop *l, struct err *err)
{
	const char *certificate = text_of(argc, argv, "tls_certificate="), *key = text_of(argc, argv, "tls_key=");

	if (!certificate)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	int r = http_tls_new(&tls, certificate, key, err);
	r = r < 0 ? r : loop_signal(l, SIGHUP, on_hangup, NULL, err);
	return r < 0 ? r : http_server_listen(server, listen_loopback(), tls, err);
}

static void raise_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	struct http_router *router = http_router_new();
	struct http_limits limits;
	struct loop_io in;
	struct loop *l;
	struct err err;

	raise_limit();
	buf_init(&closes, BUF_UNLIMITED);
	http_limits_default(&limits);
	for (int i = 1; i < argc; i++)
		set_limit(&limits, argv[i]);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++)
		http_router_add(router, routes[i].method, routes[i].pattern, routes[i].fn, NULL);
	if (loop_new(&l, &err) < 0 || http_server_new(&server, l, &limits, http_router_dispatch, router, &err) < 0 ||
	    http_server_listen(server, listen_loopback(), NULL, &err) < 0 || listen_tls(argc, argv, l, &err) < 0 ||
	    loop_io_open(&in, l, 0, EPOLLIN, on_stdin, l, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	loop_run(l);
	loop_io_close(&in);
	http_server_free(server);
	http_router_free(router);
	loop_free(l);
	http_tls_free(tls);
	buf_done(&closes);
	return 0;
}
