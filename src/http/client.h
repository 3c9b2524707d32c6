/* http/client.h: one HTTP/1.1 client connection over a descriptor that somebody connected already. Loop thread only.
 *
 * One exchange at a time; the connection is kept when both sides allow it. Bodies stream in both directions with
 * back-pressure, and are not parsed. Hop-by-hop headers are the caller's business: see http_is_hop_by_hop(). */
#pragma once

#include "http/server.h"

struct http_client;

struct http_client_events {
	/* Header section of the final answer; 1xx are dropped. Strings live during the call. body_length -1 = unknown. */
	void (*on_head)(struct http_client *c, int status, const struct http_header *h, size_t n, int64_t body_length,
			void *arg);
	void (*on_data)(struct http_client *c, const char *p, size_t len, void *arg);
	/* The exchange is complete. reusable = another may be started, from inside this call too. */
	void (*on_end)(struct http_client *c, bool reusable, void *arg);
	/* Last call for this exchange: the connection broke or the answer was not HTTP. got_bytes = any byte of an
	 * answer came. */
	void (*on_error)(struct http_client *c, bool got_bytes, const struct err *err, void *arg);
	void (*on_drain)(struct http_client *c, void *arg); /* http_client_write has room again; may be NULL */
};

/* Takes ownership of fd (a connected stream socket), on failure too. */
MUST_CHECK int http_client_new(struct http_client **ret, struct loop *l, int fd, const struct http_limits *limits,
			       struct err *err);
/* Closes; no callback comes after it; allowed inside callbacks. */
struct http_client *http_client_free(struct http_client *c);

/* Starts an exchange. content_length -1 = chunked body to come, 0 = none. headers without Content-Length and
 * Transfer-Encoding; Host is the caller's. ev must outlive the exchange. */
MUST_CHECK int http_client_start(struct http_client *c, const char *method, const char *target,
				 const struct http_header *headers, size_t n, int64_t content_length,
				 const struct http_client_events *ev, void *arg, struct err *err);
bool http_client_write(struct http_client *c, const void *p, size_t len); /* false = above high water: await on_drain */
void http_client_finish(struct http_client *c); /* the body is complete */
void http_client_pause(struct http_client *c);  /* stop reading the answer */
void http_client_resume(struct http_client *c);
bool http_client_idle(const struct http_client *c); /* between exchanges and not closed by the peer */
/* The same, by the socket itself: also where the loop has not told of the end yet. One system call. */
bool http_client_alive(const struct http_client *c);

/* Connection, Keep-Alive, TE, Trailer, Transfer-Encoding, Upgrade, Proxy-*; any case. */
bool http_is_hop_by_hop(const char *name);
