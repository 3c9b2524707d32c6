/* A loop, a server on it, and the far end of a connection as a plain socket. One of each per test process. */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "http/server.h"

static struct loop *loop;
static struct http_server *server;
static struct http_limits limits;

static void harness_stop(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 0);
}

/* Lets the loop work for some time. */
static inline void run_for(uint64_t ms)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, harness_stop, NULL);
	loop_timer_start(&t, ms);
	cr_assert_eq(loop_run(loop), 0);
	loop_timer_stop(&t);
}

static inline void harness_begin(http_handler_fn *handler, void *arg)
{
	struct err err = ERR_INIT;

	http_limits_default(&limits);
	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
	cr_assert_eq(http_server_new(&server, loop, &limits, handler, arg, &err), 0, "%s", err.msg);
}

static inline void harness_end(void)
{
	server = http_server_free(server);
	loop = loop_free(loop);
}

/* A connection to the server; its far end is returned, non-blocking. */
static inline int connect_pair(void)
{
	struct err err = ERR_INIT;
	int p[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	cr_assert_eq(http_server_adopt(server, p[0], 7, &err), 0, "%s", err.msg);
	return p[1];
}

/* What has come by now, NUL-terminated, in static memory. */
static inline const char *read_now(int fd)
{
	static char text[1 << 20];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(text) - 1 && (n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	return text;
}

/* Sends a request and returns what the server answers within a few milliseconds. */
static inline const char *talk(int fd, const char *request)
{
	cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
	run_for(5);
	return read_now(fd);
}
