/* A gateway with its HTTP server in front, over the stand-ins of unit/env/fake.h; clients are plain TCP sockets. */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>

#include "gateway/session.h"
#include "http/router.h"
#include "unit/env/fake.h"

static struct gateway *gateway;
static struct http_server *front;
static struct http_router *router;
static struct gateway_settings settings;
static uint16_t port;
static unsigned owned_ends; /* end_owned() calls */
static bool hold_owned;     /* do not say that the sandboxes are dead */
static void (*owned_done)(void *);
static void *owned_arg;

static inline void owned_over(void *arg UNUSED)
{
	void (*done)(void *) = STEAL(owned_done);

	done(owned_arg);
}

static void end_owned(void *arg UNUSED, const char *sid UNUSED, void (*done)(void *), void *done_arg)
{
	owned_ends++;
	if (!hold_owned) {
		loop_defer(loop, done, done_arg);
		return;
	}
	owned_done = done;
	owned_arg = done_arg;
}

static bool not_mine(void *arg UNUSED, struct http_req *req UNUSED, const char *sid UNUSED)
{
	return false;
}

static inline void open_front(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(listen(fd, 64), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	port = ntohs(a.sin_port);
	router = http_router_new();
	cr_assert_eq(http_server_new(&front, loop, NULL, http_router_dispatch, router, NULL), 0);
	cr_assert_eq(http_server_listen(front, fd, NULL, NULL), 0);
}

/* What is set in `settings` before is kept. */
static inline void begin_gateway(void)
{
	struct gateway_sandboxes sandboxes = { end_owned, not_mine, not_mine, NULL };
	struct gateway_settings d = {
		.lease_ms = 120000, .hard_ms = 86400000, .teardown_ms = 2000, .remember_ms = 3600000, .ping_forward_ms = 30,
		.sessions_max = 20000, .idle_upstreams_max = 64, .upstream_idle_ms = 30000,
	};

	d.lease_ms = settings.lease_ms ? settings.lease_ms : d.lease_ms;
	d.hard_ms = settings.hard_ms ? settings.hard_ms : d.hard_ms;
	d.teardown_ms = settings.teardown_ms ? settings.teardown_ms : d.teardown_ms;
	d.remember_ms = settings.remember_ms ? settings.remember_ms : d.remember_ms;
	d.remember_max = settings.remember_max;
	d.queue = settings.queue;
	d.sessions_max = settings.sessions_max ? settings.sessions_max : d.sessions_max;
	d.ping_forward_ms = settings.ping_forward_ms ? settings.ping_forward_ms : d.ping_forward_ms;
	d.open_ms = settings.open_ms;
	d.state_dir = settings.state_dir;
	d.life = settings.life;
	http_limits_default(&d.http);
	open_front();
	cr_assert_eq(gateway_new(&gateway, loop, auth, store, envs, &sandboxes, &d, NULL), 0);
	gateway_routes(gateway, router);
}

static inline void end_gateway(void)
{
	http_server_free(front);
	run_for(2);
	gateway_free(gateway);
	http_router_free(router);
	run_for(2);
}

static inline struct gateway_counts figures(void)
{
	struct gateway_counts c;

	gateway_counts(gateway, &c);
	return c;
}

/* -- clients ------------------------------------------------------------------------------------------------------ */

struct client {
	int fd;
	char text[1 << 17]; /* what came since the last request */
	size_t len;
	uint64_t total;
	bool over;          /* the server closed */
};

static inline struct client *dial(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	struct client *c = NEW(struct client);

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(c->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(fd_set_nonblock(c->fd, true), 0);
	return c;
}

static inline void hang_up(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}

/* Takes what has come. */
static inline void take(struct client *c)
{
	char p[65536];
	ssize_t n;

	while (!c->over && (n = read(c->fd, p, sizeof(p))) != -1) {
		size_t fits = MIN((size_t)n, sizeof(c->text) - 1 - c->len);
		c->over = n == 0;
		memcpy(c->text + c->len, p, fits);
		c->len += fits;
		c->total += (uint64_t)n;
	}
	c->over = c->over || errno != EAGAIN;
	c->text[c->len] = '\0';
}

static inline bool has(struct client *c, const char *text)
{
	take(c);
	return strstr(c->text, text);
}

static inline bool is_over(struct client *c)
{
	take(c);
	return c->over;
}

/* headers: whole lines; body: NULL = none. */
static inline void ask(struct client *c, const char *method, const char *target, const char *headers, const char *body)
{
	auto_free char *text = xasprintf("%s %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n%sContent-Length: %zu\r\n\r\n%s", method,
					 target, key, headers, body ? strlen(body) : 0, body ? body : "");

	take(c);
	c->len = 0;
	c->text[0] = '\0';
	cr_assert_eq(write(c->fd, text, strlen(text)), (ssize_t)strlen(text));
}

static inline void ask_of(struct client *c, const char *sid, const char *method, const char *target, const char *body)
{
	auto_free char *headers = xasprintf("X-Session-ID: %s\r\n", sid);

	ask(c, method, target, headers, body);
}

/* The status of the answer; waits for its header section. */
static inline int status_of(struct client *c)
{
	run_until(has(c, "\r\n\r\n") || c->over);
	cr_assert_gt(c->len, 12, "the connection broke without an answer");
	return (int)strtol(c->text + 9, NULL, 10);
}

static inline int call(struct client *c, const char *sid, const char *method, const char *target)
{
	ask_of(c, sid, method, target, NULL);
	return status_of(c);
}

#define OPEN_SESSION "X-Deployment: alice/counter\r\n"

/* The id that a creation stream has named. */
static inline char *sid_from(struct client *c)
{
	run_until(has(c, "event: task_id\ndata: ") && strstr(strstr(c->text, "task_id\n"), "\n\n"));
	return xstrndup(strstr(c->text, "task_id\ndata: ") + 14, 36);
}

/* A session that is ready. */
static inline char *open_session(void)
{
	struct client *c = dial();

	ask(c, "POST", "/create_session", OPEN_SESSION, "{}");
	char *sid = sid_from(c);
	run_until(has(c, "event: end"));
	run_until(up_listed); /* the gateway's own question: its connection is kept from then on */
	run_for(5);
	hang_up(c);
	return sid;
}

/* -- tests -------------------------------------------------------------------------------------------------------- */

static inline void begin(void)
{
	fake_begin_store();
	fake_ready_deployment();
	fake_begin_envs(2000);
	begin_gateway();
}

static inline void end(void)
{
	end_gateway();
	fake_end_boxes();
	fake_end();
}

/* With other settings. */
static inline void again(void)
{
	end_gateway();
	begin_gateway();
}

static struct http_req *held; /* the last request that an instance did not answer yet */

static inline void held_gone(struct http_req *req, bool complete UNUSED, void *arg UNUSED)
{
	if (held == req)
		held = NULL;
}

static inline void hold(struct http_req *req)
{
	held = req;
	http_req_on_close(req, held_gone, NULL);
}
