/* bench/load: many connections at once from one thread, for the gateway and what it is compared with. See
 * worker.h. An answer is read to its end: the last chunk, or, with `new`, the event `end` of a stream, where the Python
 * client closes. All of it on 127.0.0.1. Cases, all behind `do`:
 *   calls kept|new WIDTH SECONDS RATE FILE PORT   the request in FILE again and again, over WIDTH connections. RATE 0: each as
 *                                                 soon as its last was answered; else so many a second in all, and latency
 *                                                 counts from when one was due. Prints: answers, p50, p99 (µs)
 *   sessions WIDTH SECONDS KEY ENV PORT           create_session and delete_session. Prints: pairs, p50, p99 of a pair
 *   idle COUNT SECONDS KEY ENV PORT               COUNT sessions with a connection each: create_session, create; prints
 *                                                 "opened" and waits for a line; pings each every 10 s. Prints: pings, p50, p99
 *   slow MB FILE PORT                             reads an answer so long: nothing for a second, then 1 MB each 5 ms. Prints: MB
 *   upload MB FILE PORT                           FILE's header section and so many MB of body. Prints: MB */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macros.h"
#include "base/mem.h"
#include "worker.h"

#define ANSWER_MAX 8192
#define PING_PERIOD_US 10e6

struct conn {
	int fd; /* -1 = not connected */
	char *request;
	size_t request_len;
	char *in; /* of the answer so far; shared between those whose answers come in one piece */
	size_t in_len;
	double due_us; /* when the request ought to have left */
	bool busy;
	char sid[64];
	int step;
};

struct load {
	struct sockaddr_in address;
	int epoll_fd;
	bool fresh; /* a connection for each request */
	struct conn *conns;
	size_t n_conns;
	float *latencies; /* µs */
	size_t n_latencies, cap_latencies;
};

/* -- connections -------------------------------------------------------------------------------------------------------- */
static int load_connect(struct load *l, struct conn *c, struct err *err)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
	int on = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&l->address, sizeof(l->address)) < 0)
		return err_sys(err, "connect to port %u", ntohs(l->address.sin_port));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
		return err_sys(err, "epoll");
	return 0;
}

static int load_send(struct load *l, struct conn *c, double due_us, struct err *err)
{
	int r = c->fd < 0 ? load_connect(l, c, err) : 0;

	if (r < 0)
		return r;
	c->busy = true;
	c->due_us = due_us;
	c->in_len = 0;
	r = fd_write_all(c->fd, c->request, c->request_len);
	return r < 0 ? err_sys_code(err, r, "send a request") : 0;
}

static bool answered(const struct load *l, const struct conn *c)
{
	const char *end = strstr(c->in, "\r\n\r\n"), *length;

	if (!end)
		return false;
	end += 4;
	if (l->fresh && strstr(end, "event: end\n"))
		return true;
	length = strcasestr(c->in, "\r\ncontent-length:");
	if (length && length < end)
		return c->in_len >= (size_t)(end - c->in) + strtoul(length + 17, NULL, 10);
	return c->in_len >= 5 && memcmp(c->in + c->in_len - 5, "0\r\n\r\n", 5) == 0;
}

static void note_latency(struct load *l, double us)
{
	if (l->n_latencies == l->cap_latencies) {
		l->cap_latencies = MAX((size_t)4096, 2 * l->cap_latencies);
		l->latencies = xrealloc(l->latencies, l->cap_latencies * sizeof(*l->latencies));
	}
	l->latencies[l->n_latencies++] = (float)us;
}

/* 1 when the answer is whole, which must be a 200. */
static int load_read(struct load *l, struct conn *c, struct err *err)
{
	ssize_t n = read(c->fd, c->in + c->in_len, ANSWER_MAX - c->in_len);

	if (n < 0)
		return err_sys(err, "read an answer");
	if (n == 0)
		return err_set(err, -EPIPE, "the server closed the connection within an answer");
	c->in_len += (size_t)n;
	c->in[c->in_len] = 0;
	if (c->in_len == ANSWER_MAX)
		return err_set(err, -EMSGSIZE, "an answer is too long");
	if (!answered(l, c))
		return 0;
	c->busy = false;
	if (strncmp(c->in + 9, "200", 3) != 0)
		return err_set(err, -EIO, "answer: %.300s", c->in);
	if (l->fresh)
		c->fd = fd_close(c->fd);
	return 1;
}

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

static void print_latencies(struct load *l)
{
	size_t n = l->n_latencies;

	qsort(l->latencies, n, sizeof(float), compare);
	printf("%zu %.1f %.1f\n", n, n ? (double)l->latencies[n / 2] : 0, n ? (double)l->latencies[n - 1 - n / 100] : 0);
}

static int load_begin(struct load *l, size_t n, const char *port, struct err *err)
{
	l->address.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
	l->n_latencies = 0;
	l->fresh = false;
	l->n_conns = n;
	l->conns = xcalloc(n, sizeof(*l->conns));
	for (size_t i = 0; i < n; i++) {
		l->conns[i].fd = -1;
		l->conns[i].in = xmalloc(ANSWER_MAX + 1);
	}
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return l->epoll_fd < 0 ? err_sys(err, "epoll") : 0;
}

static int load_end(struct load *l, int r)
{
	for (size_t i = 0; i < l->n_conns; i++) {
		fd_close(l->conns[i].fd);
		free(l->conns[i].in);
		free(l->conns[i].request);
	}
	free(l->conns);
	l->conns = NULL;
	fd_close(l->epoll_fd);
	return r;
}

/* -- turns ---------------------------------------------------------------------------------------------------------------- */
typedef int turn_fn(struct load *l, struct conn *c, void *arg, struct err *err); /* its answer is whole */

/* Waits until until_us at the latest and takes what has come. */
static int turn(struct load *l, double until_us, turn_fn *fn, void *arg, struct err *err)
{
	double wait_us = MAX(0.0, until_us - clock_us());
	struct timespec t = { .tv_sec = (time_t)(wait_us / 1e6), .tv_nsec = (long)((wait_us - 1e6 * (double)(time_t)(wait_us / 1e6)) * 1e3) };
	struct epoll_event events[256];
	int n = epoll_pwait2(l->epoll_fd, events, ARRAY_LEN(events), &t, NULL), r = 0;

	for (int i = 0; r >= 0 && i < n; i++) {
		r = load_read(l, events[i].data.ptr, err);
		if (r > 0)
			r = fn(l, events[i].data.ptr, arg, err);
	}
	return r < 0 ? r : 0;
}

static int on_measured(struct load *l, struct conn *c, void *arg UNUSED, struct err *err UNUSED)
{
	note_latency(l, clock_us() - c->due_us);
	return 0;
}

static int on_again(struct load *l, struct conn *c, void *arg, struct err *err)
{
	const double *end_us = arg;
	double now = clock_us();

	note_latency(l, now - c->due_us);
	return now < *end_us ? load_send(l, c, now, err) : 0;
}

static bool any_busy(const struct load *l)
{
	for (size_t i = 0; i < l->n_conns; i++)
		if (l->conns[i].busy)
			return true;
	return false;
}

static int finish(struct load *l, turn_fn *fn, void *arg, struct err *err)
{
	double limit = clock_us() + 20e6;
	int r = 0;

	while (r == 0 && any_busy(l)) {
		if (clock_us() > limit)
			return err_set(err, -ETIMEDOUT, "answers are missing");
		r = turn(l, clock_us() + 1e5, fn, arg, err);
	}
	return r;
}

/* -- calls ---------------------------------------------------------------------------------------------------------------- */
static char *read_request(const char *path, size_t *ret_len, struct err *err)
{
	FILE *f = fopen(path, "re");
	char *p = xmalloc(65536);

	if (!f) {
		err_sys(err, "open %s", path);
		free(p);
		return NULL;
	}
	*ret_len = fread(p, 1, 65535, f);
	p[*ret_len] = 0;
	fclose(f);
	return p;
}

static int flat_out(struct load *l, double seconds, struct err *err)
{
	double end = clock_us() + seconds * 1e6;
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n_conns; i++)
		r = load_send(l, &l->conns[i], clock_us(), err);
	while (r == 0 && clock_us() < end)
		r = turn(l, end, on_again, &end, err);
	return r == 0 ? finish(l, on_again, &end, err) : r;
}

/* The next connection that is free, NULL = all wait for answers: then what is due waits too, and its latency grows. */
static struct conn *next_free(struct load *l, size_t *at)
{
	for (size_t i = 0; i < l->n_conns; i++) {
		struct conn *c = &l->conns[(*at + i) % l->n_conns];

		if (!c->busy) {
			*at = (*at + i + 1) % l->n_conns;
			return c;
		}
	}
	return NULL;
}

static int at_rate(struct load *l, double seconds, double rate, struct err *err)
{
	double due = clock_us(), end = due + seconds * 1e6, period = 1e6 / rate;
	struct conn *c;
	size_t at = 0;
	int r = 0;

	while (r == 0 && due < end) {
		while (r == 0 && due <= clock_us() && (c = next_free(l, &at))) {
			r = load_send(l, c, due, err);
			due += period;
		}
		if (r == 0)
			r = turn(l, due, on_measured, NULL, err);
	}
	return r == 0 ? finish(l, on_measured, NULL, err) : r;
}

static int calls(struct load *l, char **a, struct err *err)
{
	size_t width = strtoul(a[1], NULL, 10), len = 0;
	double seconds = strtod(a[2], NULL), rate = strtod(a[3], NULL);
	auto_free char *request = read_request(a[4], &len, err);
	int r = request ? load_begin(l, width, a[5], err) : -EIO;

	if (!request)
		return r;
	l->fresh = strcmp(a[0], "new") == 0;
	for (size_t i = 0; i < width; i++) {
		l->conns[i].request = xstrdup(request);
		l->conns[i].request_len = len;
	}
	if (r == 0)
		r = rate > 0 ? at_rate(l, seconds, rate, err) : flat_out(l, seconds, err);
	if (r == 0)
		print_latencies(l);
	return load_end(l, r);
}

/* -- sessions ------------------------------------------------------------------------------------------------------------- */
static void make_request(struct conn *c, const char *path, const char *key, const char *env)
{
	free(c->request);
	c->request = xasprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-API-Key: %s\r\nX-Deployment: %s\r\n%s%s%sAccept: */*\r\n"
			       "Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.9\r\nContent-Length: 2\r\n"
			       "Content-Type: application/json\r\n\r\n{}", path, key, env, *c->sid ? "X-Session-ID: " : "", c->sid,
			       *c->sid ? "\r\n" : "");
	c->request_len = strlen(c->request);
}

static int take_sid(struct conn *c, struct err *err)
{
	const char *id = strstr(c->in, "event: task_id");

	id = id ? strstr(id, "data: ") : NULL;
	if (!id || strlen(id) < 42)
		return err_set(err, -EIO, "no task_id in %.300s", c->in);
	snprintf(c->sid, sizeof(c->sid), "%.36s", id + 6);
	return 0;
}

struct session_run {
	const char *key, *env;
	double end_us;
	size_t opened;
};

/* One after the other: create_session, delete_session. */
static int on_session_step(struct load *l, struct conn *c, void *arg, struct err *err)
{
	struct session_run *s = arg;
	double now = clock_us(), due = c->due_us;
	int r = 0;

	if (!*c->sid) {
		r = take_sid(c, err);
		make_request(c, "/delete_session", s->key, s->env);
		return r < 0 ? r : load_send(l, c, due, err);
	}
	note_latency(l, now - c->due_us);
	*c->sid = 0;
	if (now >= s->end_us)
		return 0;
	make_request(c, "/create_session", s->key, s->env);
	return load_send(l, c, now, err);
}

static int sessions(struct load *l, char **a, struct err *err)
{
	size_t width = strtoul(a[0], NULL, 10);
	struct session_run s = { .key = a[2], .env = a[3], .end_us = clock_us() + strtod(a[1], NULL) * 1e6 };
	int r = load_begin(l, width, a[4], err);

	for (size_t i = 0; r == 0 && i < width; i++) {
		make_request(&l->conns[i], "/create_session", s.key, s.env);
		r = load_send(l, &l->conns[i], clock_us(), err);
	}
	while (r == 0 && clock_us() < s.end_us)
		r = turn(l, s.end_us, on_session_step, &s, err);
	if (r == 0)
		r = finish(l, on_session_step, &s, err);
	if (r == 0)
		print_latencies(l);
	return load_end(l, r);
}

/* -- idle sessions ---------------------------------------------------------------------------------------------------------- */
static int on_opening(struct load *l, struct conn *c, void *arg, struct err *err)
{
	static const char *const next[] = { "/create", "/ping" };
	struct session_run *s = arg;
	int r = *c->sid ? 0 : take_sid(c, err);

	if (r < 0)
		return r;
	make_request(c, next[c->step], s->key, s->env);
	if (c->step++ == 0)
		return load_send(l, c, clock_us(), err);
	s->opened++;
	return 0;
}

static int open_all(struct load *l, struct session_run *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n_conns; i++) {
		make_request(&l->conns[i], "/create_session", s->key, s->env);
		r = load_send(l, &l->conns[i], clock_us(), err);
		while (r == 0 && i + 1 - s->opened > 64)
			r = turn(l, clock_us() + 1e6, on_opening, s, err);
	}
	return r == 0 ? finish(l, on_opening, s, err) : r;
}

static int ping_all(struct load *l, double seconds, struct err *err)
{
	double due = clock_us(), end = due + seconds * 1e6, period = PING_PERIOD_US / (double)l->n_conns;
	size_t at = 0;
	int r = 0;

	while (r == 0 && due < end) {
		for (; r == 0 && due <= clock_us(); due += period, at = (at + 1) % l->n_conns)
			if (!l->conns[at].busy)
				r = load_send(l, &l->conns[at], due, err);
		if (r == 0)
			r = turn(l, due, on_measured, NULL, err);
	}
	return r == 0 ? finish(l, on_measured, NULL, err) : r;
}

static int on_closing(struct load *l UNUSED, struct conn *c UNUSED, void *arg UNUSED, struct err *err UNUSED)
{
	return 0;
}

static int close_all(struct load *l, const struct session_run *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n_conns; i++) {
		if (!*l->conns[i].sid)
			continue;
		make_request(&l->conns[i], "/delete_session", s->key, s->env);
		r = load_send(l, &l->conns[i], clock_us(), err);
		if (r == 0 && i % 16 == 0)
			r = finish(l, on_closing, NULL, err);
	}
	return r == 0 ? finish(l, on_closing, NULL, err) : r;
}

static int idle(struct load *l, char **a, struct err *err)
{
	struct session_run s = { .key = a[2], .env = a[3] };
	int r = load_begin(l, strtoul(a[0], NULL, 10), a[4], err);

	if (r == 0)
		r = open_all(l, &s, err);
	if (r == 0) {
		printf("opened\n");
		worker_wait_line();
		r = ping_all(l, strtod(a[1], NULL), err);
	}
	if (r == 0) {
		print_latencies(l);
		worker_wait_line();
		r = close_all(l, &s, err);
	}
	return load_end(l, r);
}

/* -- long bodies ------------------------------------------------------------------------------------------------------------ */
static int one_connection(struct load *l, const char *file, const char *port, struct err *err)
{
	size_t len = 0;
	auto_free char *request = read_request(file, &len, err);
	int r = request ? load_begin(l, 1, port, err) : -EIO;

	if (r < 0)
		return r;
	l->conns[0].request = STEAL(request);
	l->conns[0].request_len = len;
	return load_send(l, &l->conns[0], 0, err);
}

static void pause_us(long us)
{
	nanosleep(&(struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 }, NULL);
}

static int slow(struct load *l, char **a, struct err *err)
{
	size_t want = strtoul(a[0], NULL, 10) << 20, got = 0, part = 1 << 20;
	int r = one_connection(l, a[1], a[2], err);
	auto_free char *p = xmalloc(part);
	ssize_t n = 1;

	pause_us(1000000);
	while (r == 0 && got < want && n > 0) {
		n = recv(l->conns[0].fd, p, part, MSG_WAITALL);
		got += n > 0 ? (size_t)n : 0;
		pause_us(5000);
	}
	if (r == 0 && got < want)
		r = err_set(err, -EPIPE, "the answer ended after %zu bytes", got);
	if (r == 0)
		printf("%zu\n", got >> 20);
	return load_end(l, r);
}

static int upload(struct load *l, char **a, struct err *err)
{
	size_t left = strtoul(a[0], NULL, 10);
	int r = one_connection(l, a[1], a[2], err);
	auto_free char *p = xcalloc(1, 1 << 20);

	for (; r == 0 && left > 0; left--)
		if (fd_write_all(l->conns[0].fd, p, 1 << 20) < 0)
			r = err_set(err, -EPIPE, "the upload broke off with %zu MB to go", left);
	if (r == 0)
		r = finish(l, on_closing, NULL, err);
	if (r == 0)
		printf("%s\n", a[0]);
	return load_end(l, r);
}

/* -- the cases ---------------------------------------------------------------------------------------------------------------- */
static int other(void *arg, char **args, struct err *err)
{
	static const struct {
		const char *name;
		int n_args;
		int (*fn)(struct load *l, char **args, struct err *err);
	} cases[] = {
		{ "calls", 6, calls }, { "sessions", 5, sessions }, { "idle", 5, idle }, { "slow", 3, slow }, { "upload", 3, upload },
	};
	int n = 0;

	while (args[n + 1])
		n++;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (strcmp(args[0], cases[i].name) == 0 && n == cases[i].n_args)
			return cases[i].fn(arg, args + 1, err);
	return err_set(err, -EINVAL, "load: unknown case \"%s\" with %d arguments", args[0], n);
}

int main(void)
{
	static struct load l = { .address = { .sin_family = AF_INET } };
	const struct worker w = { .arg = &l, .other = other };
	struct rlimit files;

	l.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	return worker_loop(&w);
}
