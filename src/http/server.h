/* http/server.h: the server of HTTP/1.1 and HTTP/2: connections, requests, streaming answers. Loop thread only.
 *
 * A request (struct http_req) is made when its header section is complete and valid, and is given to the router's
 * handler. The server owns it. It is alive until its on_close callback has run, which happens exactly once, always
 * last, and after the peer went away as well as after a complete exchange; afterwards no pointer into it is valid.
 * All strings of a request live as long as the request.
 *
 * A handler must, now or later, do one of: answer (http_reply*), or start an answer and end it (http_reply_start ...
 * http_reply_end), or http_req_abort(). It reads the body whole (http_req_body) or as a stream (http_req_stream); a
 * body that nobody asked for is drained up to a limit after the answer. "Expect: 100-continue" is answered when the
 * body is first asked for. Refused before any handler sees them: anything ambiguous about the length or the host of a
 * request (see docs/http.md, "What the parser refuses"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/err.h"
#include "loop/loop.h"

struct http_server;
struct http_req;
struct http_tls;

/* Every limit of the server; http_limits_default() fills in the defaults (see daemon/config.h for their names). */
struct http_limits {
	size_t header_bytes;         /* request line and headers, 64 KiB */
	size_t header_count;         /* 100 */
	size_t body_bytes;           /* for http_req_body when the caller gives no maximum; 64 MiB */
	size_t high_water_bytes;     /* reading from a producer pauses above this much unsent data; 256 KiB */
	size_t max_connections;      /* beyond it new ones wait in the backlog; 16,000 */
	uint64_t header_deadline_ms; /* total time for a header section, from its first byte; 15,000 */
	uint64_t idle_ms;            /* a kept connection without a request; 75,000 */
	uint64_t body_stall_ms;      /* no byte of a body for this long; 60,000 */
	uint64_t write_stall_ms;     /* a peer that takes no byte of an answer for this long; 120,000 */
	uint64_t handshake_ms;       /* total time for one of TLS; 10,000 */
	size_t handshakes;           /* of TLS under way; one more ends the oldest; 1,000 */
	bool h2;                     /* HTTP/2 for who begins with it, or chooses it by ALPN; true */
	size_t h2_streams;           /* at once on a connection; 128 */
	size_t h2_resets, h2_resets_burst;     /* streams cut short by or because of the peer, in a second and at once; 20, 200 */
	size_t h2_controls, h2_controls_burst; /* frames that are no request and no body; 250, 1,000 */
};
void http_limits_default(struct http_limits *ret);

typedef void http_handler_fn(struct http_req *req, void *arg);

struct http_stats { /* counters since the start; gauges where said */
	uint64_t connections, requests, refused, bytes_in, bytes_out;
	uint64_t handshakes, failed_handshakes, dropped_handshakes; /* of TLS: done; failed, plain HTTP included; see limits */
	uint64_t h2_connections, h2_refused; /* connections of HTTP/2; ended because the peer asked for too much */
	size_t open_connections, open_handshakes; /* gauges */
};

/* handler gets every valid request. */
MUST_CHECK int http_server_new(struct http_server **ret, struct loop *l, const struct http_limits *limits,
			       http_handler_fn *handler, void *arg, struct err *err);
struct http_server *http_server_free(struct http_server *s); /* closes everything; returns NULL */
/* Accepts from a listening socket; takes ownership of listen_fd, on failure too. May be called several times. tls: NULL = plain
 * HTTP; else it is the caller's and outlives s, and a request in plain HTTP is answered with 400. */
MUST_CHECK int http_server_listen(struct http_server *s, int listen_fd, struct http_tls *tls, struct err *err);
/* Serves an accepted connection that somebody else hands over; takes ownership of fd, on failure too. tag is free for
 * the caller (a sandbox's number, say) and is read with http_req_tag(); 0 for connections of the listening sockets.
 * -EMFILE: those of this tag (or of another that is the same modulo HTTP_TAGS) are a sixteenth of max_connections already, or
 * those of all tags half of it: what is inside keeps nobody outside from being accepted. */
#define HTTP_TAGS 1024
MUST_CHECK int http_server_adopt(struct http_server *s, int fd, uint64_t tag, struct err *err);
/* Whose word about the client of a request is believed (http/origin.h): addresses and ranges, ending in NULL. Before the first
 * connection. -EINVAL names the one that is neither. */
MUST_CHECK int http_server_trust(struct http_server *s, const char *const *proxies, struct err *err);
/* Idle connections close, open exchanges go on, and so do new connections that send their first request within a second. */
void http_server_stop_accepting(struct http_server *s);
const struct http_stats *http_server_stats(const struct http_server *s);

/* -- the request ---------------------------------------------------------------------------------------------- */
struct http_header {
	const char *name;  /* as sent */
	const char *value; /* blanks trimmed */
};

const char *http_req_method(const struct http_req *r);  /* "GET" */
const char *http_req_target(const struct http_req *r);  /* as sent: "/a%20b?x=1" */
const char *http_req_path(const struct http_req *r);    /* raw path without the query, runs of '/' made one */
const char *http_req_raw_query(const struct http_req *r); /* without '?'; "" = none */
const char *http_req_header(const struct http_req *r, const char *name); /* any case; first one; NULL = absent */
size_t http_req_n_headers(const struct http_req *r);
const struct http_header *http_req_header_at(const struct http_req *r, size_t i);
/* A decoded query parameter; NULL = absent; "" = present without a value. First one wins. */
const char *http_req_query(struct http_req *r, const char *name);
/* A decoded parameter of the route's pattern ("owner" of "/v1/environments/{owner}"); NULL = not in the pattern. */
const char *http_req_param(const struct http_req *r, const char *name);
int64_t http_req_content_length(const struct http_req *r); /* -1 = chunked; 0 = no body */
uint64_t http_req_tag(const struct http_req *r);
/* Who asks, for logs and the audit: "127.0.0.1:4711", "[::1]:4711", "unix", "sandbox"; what a trusted proxy names has no port
 * ("203.0.113.9"). Lives as long as the request. */
const char *http_req_peer(struct http_req *r);
/* Of a connection of this machine that no trusted proxy passed on for somebody elsewhere; false for sandboxes. */
bool http_req_is_local(struct http_req *r);
const char *http_req_scheme(struct http_req *r); /* "http" or "https", as the client used it; of trusted proxies, as they say */
const char *http_req_host(struct http_req *r);   /* the authority that the client used; "localhost" where it named none */
/* Who sends it: free for auth/, NULL at first. Lives as long as the request. */
void http_req_set_caller(struct http_req *r, void *caller);
void *http_req_caller(const struct http_req *r);
/* Called once when an answer begins, with its status; not where there is none. For one that only looks. */
typedef void http_answer_fn(int status, void *arg);
void http_req_on_answer(struct http_req *r, http_answer_fn *fn, void *arg);
/* Memory that lives as long as the request. Never NULL. */
void *http_req_alloc(struct http_req *r, size_t size);
struct loop *http_req_loop(const struct http_req *r);

/* Called once, last, whatever happened. complete = the whole answer was given to the kernel. */
typedef void http_close_fn(struct http_req *r, bool complete, void *arg);
void http_req_on_close(struct http_req *r, http_close_fn *fn, void *arg);
/* The one that is set, for who takes its place for a while and calls it, or sets it again. NULL = none. */
http_close_fn *http_req_close_fn(const struct http_req *r, void **ret_arg);

/* From now on a peer that shuts its side down is taken for gone, as those of event streams always are: for exchanges
 * that cost while they last. A client that half-closes and still waits for its answer loses it. */
void http_req_watch_peer(struct http_req *r);

/* Reads the whole body; max 0 = the server's limit. Beyond it the server answers 413 itself and fn is not called.
 * fn runs once; data is NUL-terminated and lives as long as the request. */
typedef void http_body_fn(struct http_req *r, const char *data, size_t len, void *arg);
void http_req_body(struct http_req *r, size_t max_bytes, http_body_fn *fn, void *arg);
/* In fn: the body becomes the caller's (malloc'ed), without a copy; data stays valid as long as it. */
char *http_req_take_body(struct http_req *r, size_t *ret_len);

/* Reads the body piece by piece: fn(data, len) for each, then fn(NULL, 0) at its end. */
void http_req_stream(struct http_req *r, http_body_fn *fn, void *arg);
void http_req_pause(struct http_req *r);  /* stops reading from the peer; pieces already read may still come, once */
void http_req_resume(struct http_req *r);

/* -- the answer ------------------------------------------------------------------------------------------------ */
/* A complete answer. body may be NULL with len 0. content_type NULL = none. Adds Content-Length. */
void http_reply(struct http_req *r, int status, const char *content_type, const void *body, size_t len);
void http_reply_json(struct http_req *r, int status, const struct buf *json);
/* {"detail": MESSAGE, "message": MESSAGE}: what the session clients and the command line read. */
void http_reply_error(struct http_req *r, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Before http_reply*: one more header. Values are copied; CR, LF and NUL in them are dropped. */
void http_reply_header(struct http_req *r, const char *name, const char *value);

/* A streamed answer. content_length -1 = chunked (or until close for an HTTP/1.0 peer). */
void http_reply_start(struct http_req *r, int status, const char *content_type, int64_t content_length);
/* Queues bytes (copied). Returns true while the queue is below the high-water mark; false = wait for on_drain. */
bool http_reply_write(struct http_req *r, const void *p, size_t len);
/* The same out of a pipe that holds len bytes, without a copy. Returns how many the kernel took: fewer than len = wait for
 * on_drain, which runs once there is room. Only where http_reply_splices(): elsewhere bytes are changed on their way. The process
 * must ignore SIGPIPE. */
size_t http_reply_splice(struct http_req *r, int pipe, size_t len);
/* Once it has started: in plain, of a known length, not in a stream of HTTP/2, and not on an adopted connection. */
bool http_reply_splices(const struct http_req *r);
typedef void http_drain_fn(struct http_req *r, void *arg);
void http_reply_on_drain(struct http_req *r, http_drain_fn *fn, void *arg); /* runs when the queue is down to half */
size_t http_reply_queued(const struct http_req *r); /* bytes not yet given to the kernel */
void http_reply_end(struct http_req *r);
bool http_reply_started(const struct http_req *r);
void http_req_abort(struct http_req *r); /* closes the connection without an end: the peer sees a broken answer */

/* Bytes of this answer, headers and framing included, that http_reply_* produced so far; and whether the peer's TCP has
 * acknowledged at least that offset (TCP_INFO; a unix socket counts as acknowledged once written). Valid in on_close,
 * which after a complete answer comes as soon as the kernel has it: its acknowledgement is then still on its way. */
uint64_t http_reply_offset(const struct http_req *r);
bool http_reply_acked(const struct http_req *r, uint64_t offset);
/* Sets bits in *word the moment that the kernel has the answer up to offset, for whoever must know it after this process was
 * killed. One at a time for a request; word lasts as long as the request. */
void http_reply_mark(struct http_req *r, uint64_t offset, uint32_t *word, uint32_t bits);

/* In on_close, for an answer whose last bytes may still be on their way although it was complete: what becomes of them.
 * fn runs once, from the loop: acked = the peer asked for more on the same connection, or its TCP had taken the answer up
 * to offset when the connection ended. The handle is valid until then; it is forgotten with the server. */
struct http_fate;
typedef void http_fate_fn(void *arg, bool acked);
struct http_fate *http_reply_fate(struct http_req *r, uint64_t offset, http_fate_fn *fn, void *arg);
bool http_fate_acked(const struct http_fate *f); /* as it stands now */
void http_fate_cancel(struct http_fate *f); /* fn will not run; NULL is allowed */
