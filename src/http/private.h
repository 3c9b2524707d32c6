/* http/private.h: what the files of the server share; nobody outside src/http includes it.
 *
 * A connection is in one of these states:
 *   OPEN     between requests (req NULL), or with one request in flight;
 *   CLOSING  its last answer is queued; when the kernel has it: LINGER, or closed where nothing can be lost;
 *   LINGER   our side is shut down; what the peer still sends is read and thrown away, bounded in bytes and time,
 *            because closing a socket with unread data makes the kernel send RST, which can destroy the answer
 *            before the peer reads it;
 *   CLOSED   waits for the loop's close phase.
 * conn_advance() (conn.c) makes every transition but the one to CLOSED, which conn_close() makes. It runs from the
 * connection's own event and, for everything that happened elsewhere (an answer from another callback, a resumed
 * body), once per turn from the server's list of dirty connections. So no callback of a request ever runs inside an
 * http_* call of that request, and all that was queued in a turn leaves in one system call. */
#pragma once

#include <netinet/in.h>

#include "base/list.h"
#include "http/origin.h"
#include "http/parse.h"
#include "http/server.h"

#define HTTP_STARTS_A_TURN 32       /* requests that came with one read */
#define HTTP_READ_BYTES 65536      /* one recv(2), into memory that the whole server shares */
#define HTTP_AHEAD_BYTES 16384     /* pipelined input kept while a request is in flight */
#define HTTP_DRAIN_BYTES (256 << 10) /* of a body that nobody wanted, to keep the connection */
#define HTTP_LINGER_BYTES (16 << 20)
#define HTTP_STOPPING_IDLE_MS 1000 /* of a new connection, once the server stops */
#define HTTP_LINGER_MS 5000
#define HTTP_DIRECT_BYTES 16384 /* from here on a piece is sent at once instead of being copied first */
#define HTTP_UNWATCHED_MS 10 /* that a request may take before its peer is watched: see watch.c */
#define HTTP_BUSY_ACCEPTS 16 /* so many within HTTP_BUSY_MS: new connections are not watched at once */
#define HTTP_BUSY_MS 4
#define HTTP_UNSPARING_MS 1000 /* after a peer that asked for more was not heard at once */
#define HTTP_FEW_HANDSHAKES 16 /* of TLS under way: up to here the loop itself answers one greeting in a millisecond */
#define HTTP_GREETINGS 4 /* of TLS that wait for their answer; while they do, none is accepted */
#define HTTP_ACCEPT_PAUSE_MS 100 /* after EMFILE and its like */
#define HTTP_METHODS_ALLOWED "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

struct http_listener {
	struct list link;
	struct http_server *server;
	struct loop_io io;
	int fd;
	struct http_tls *tls; /* NULL = plain */
};

struct http_server {
	struct loop *loop;
	struct http_limits limits;
	http_handler_fn *handler;
	void *handler_arg;
	struct list listeners, conns;
	struct list dirty;      /* connections to advance at the end of this turn */
	struct list handshaking; /* struct conn_tls, the oldest first */
	unsigned greetings;     /* of TLS that are with LOOP_LANE_TLS */
	uint64_t greeted_ms;    /* when the loop itself answered one */
	bool deferred;          /* run_dirty() is on its way */
	bool stopping;          /* connections close after their answer */
	bool accept_paused;
	bool dead;              /* freed by the last call that is on its way */
	bool looking;           /* look() of watch.c is on its way */
	struct list answered, answered_before, working; /* connections that are not watched (watch.c), the oldest first */
	uint64_t accepted_ms[HTTP_BUSY_ACCEPTS]; /* when the last ones were: a ring */
	unsigned n_accepted;
	uint64_t busy_ms;       /* HTTP_BUSY_MS; tests have their own */
	uint64_t sparing_from_ms; /* before it all are watched at once */
	struct loop_timer accept_timer;
	struct http_stats stats;
	size_t n_adopted;       /* of the open connections */
	uint32_t adopted[HTTP_TAGS]; /* the same, by tag modulo HTTP_TAGS */
	struct http_range *trusted; /* proxies */
	size_t n_trusted;
	uint64_t date_s;        /* of date[] */
	char date[32];          /* "Sun, 06 Nov 1994 08:49:37 GMT" */
	char *scratch;          /* HTTP_READ_BYTES */
};

enum conn_state { CONN_OPEN, CONN_CLOSING, CONN_LINGER, CONN_CLOSED };

/* What a connection of a TLS listener has beside the others (conn_tls.c). */
enum tls_over { TLS_OPEN, TLS_ENDED, TLS_BROKEN }; /* the peer said goodbye; no call into OpenSSL makes sense any more */

/* Which bytes of ours end where in what carries them: records of TLS, frames of HTTP/2. Of more pieces than there is room for
 * some are taken together with later ones: who asks for a byte in them learns of it later than it was so, never too early. */
#define WIRE_LOG 8
struct wire_log {
	size_t n;
	struct {
		uint64_t sent, wire; /* bytes of ours since the start, and of the carrier up to their end */
	} at[WIRE_LOG];
};

struct conn_tls {
	struct http_conn *conn;
	struct http_tls *tls;
	struct ssl_st *ssl;  /* NULL before its first byte */
	struct list node;    /* in the server's handshaking */
	bool handshaking;
	bool busy;           /* LOOP_LANE_TLS has ssl and the socket: nobody else touches them */
	bool gone;           /* the connection was destroyed meanwhile, as far as that could be */
	int why;             /* SSL_get_error() of the last step of the handshake */
	bool want_write;     /* reading, or the handshake, waits for room to write */
	bool pending;        /* there is more to be read that no event tells of */
	enum tls_over over;
	struct wire_log log;
};

struct http_fate {
	struct list node;
	struct http_conn *conn;
	uint64_t offset; /* from the start of the connection */
	bool now;        /* told at the connection's next turn, whatever it is */
	http_fate_fn *fn;
	void *arg;
};

struct http_conn {
	struct http_server *server;
	struct list link, dirty;
	struct list unwatched; /* in one of the server's lists of such; then io is not open */
	uint64_t working_ms;   /* since when it is in working */
	struct loop_io io;
	struct loop_timer timer; /* armed at or before the next deadline; checks and arms anew */
	int fd;
	uint64_t tag;
	enum conn_state state;
	bool advancing;     /* inside conn_advance(): what changes is seen by its loop */
	unsigned n_started; /* requests in this turn, with one that was put off */
	bool eof;           /* recv gave 0 */
	bool rdhup;         /* EPOLLRDHUP was seen: no longer asked for, it would fire for ever */
	bool blocked;       /* the kernel's buffer is full, for out or a pipe: wait for EPOLLOUT; of a stream always */
	bool failed;        /* a write failed: breaks at the next advance */
	bool want_linger;   /* when CLOSING is over */
	struct conn_tls *tls; /* NULL = plain */
	struct http2 *h2;     /* NULL = HTTP/1.1 (h2.h) */
	struct http_conn *wire; /* of a stream of HTTP/2: what carries it; NULL = it has a socket of its own */
	bool is_unix;
	bool adopted;       /* handed over by somebody: what its address says is another network's; who else holds it is unknown */
	bool reset;         /* it ends with an RST */
	bool spared;        /* it need not be watched while nothing is waited for but its peer's end (watch.c) */
	struct http_head_scan scan;
	struct buf in;      /* bytes received and not yet used; no memory while empty */
	struct buf out;     /* bytes not yet given to the kernel; no memory while empty */
	const char *rd;     /* unread input: in `in`, or in the server's scratch during its read event */
	size_t rd_len;
	bool rd_shared;     /* rd is in scratch */
	struct http_req *req;
	uint64_t sent;      /* bytes given to the kernel since the start of the connection */
	struct list fates;  /* struct http_fate: who wants to know whether an answer arrived */
	uint64_t acked_base; /* what tcpi_bytes_acked was before our first byte */
	uint64_t read_ms;   /* start of what is waited for on the reading side */
	uint64_t write_ms;  /* last progress of out */
	size_t drained;     /* bytes thrown away in LINGER or of an unwanted body */
	union {
		struct sockaddr any;
		struct sockaddr_in in4;
		struct sockaddr_in6 in6;
	} peer;
};

enum body_mode { BODY_UNASKED, BODY_WHOLE, BODY_STREAM, BODY_DRAIN };
enum reply_state { REPLY_NONE, REPLY_STARTED, REPLY_ENDED };
enum reply_framing { FRAME_LENGTH, FRAME_CHUNKED, FRAME_UNTIL_CLOSE, FRAME_NO_BODY };

struct http_param {
	const char *name, *value;
};

struct arena_block; /* request.c */

struct http_req {
	struct http_conn *conn;
	struct http_head head;
	struct arena_block *arena; /* newest block first; the request lives in the last one */
	struct http_origin *origin; /* http_req_peer() and its like; NULL = not looked for yet */
	char *path;
	const char *query;
	const struct http_param *params;
	size_t n_params;
	void *caller;      /* http_req_set_caller() */
	http_answer_fn *answer_fn;
	void *answer_arg;

	struct http_body body;
	enum body_mode body_mode;
	bool body_done, body_paused;
	bool expect;        /* 100 Continue is owed when the body is asked for */
	struct buf whole;   /* BODY_WHOLE */
	size_t whole_room;  /* bytes that were made room for */
	size_t body_max;
	http_body_fn *body_fn;
	void *body_arg;

	enum reply_state reply;
	enum reply_framing framing;
	uint64_t reply_left; /* FRAME_LENGTH: bytes still to come */
	uint64_t base;       /* offset of the answer in the connection's output */
	uint64_t mark_at;    /* of the connection's output: http_reply_mark() */
	uint32_t *mark;      /* NULL = none */
	uint32_t mark_bits;
	struct buf extra;    /* headers from http_reply_header() */
	bool close_after;    /* the connection cannot be kept */
	bool aborted;
	bool ends_on_rdhup;  /* http_req_watch_peer(): EPOLLRDHUP is the peer's end; a client of events never half-closes */
	bool want_drain;
	http_drain_fn *drain_fn;
	void *drain_arg;
	http_close_fn *close_fn, *private_close_fn;
	void *close_arg, *private_close_arg;
};

enum handshake { HANDSHAKE_AGAIN, HANDSHAKE_DONE, HANDSHAKE_PLAIN /* it speaks HTTP */, HANDSHAKE_FAILED };

/* conn.c */
/* Takes ownership of fd. Goes on with conn_read() where it may be unwatched (watch.c), else with conn_begin(). */
struct http_conn *conn_new(struct http_server *s, int fd, uint64_t tag, const struct sockaddr *peer, uint64_t acked_base);
/* What connections and streams have in common, in a struct of zeros. */
void conn_init(struct http_conn *c, struct http_server *s, size_t in_max);
MUST_CHECK int conn_begin(struct http_conn *c, struct err *err); /* waits for input; closed on failure */
void conn_read(struct http_conn *c); /* takes what has come already; may run the handler */
void conn_turn(struct http_conn *c); /* of a dirty connection */
void conn_advance(struct http_conn *c);
void conn_mark_dirty(struct http_conn *c); /* advance at the end of the turn */
void conn_break(struct http_conn *c);      /* on_close(false), then close */
bool conn_wants_input(const struct http_conn *c);
void conn_on_io(struct loop_io *io, uint32_t events, void *arg);
void conn_look(struct http_conn *c); /* not watched, and idle since its answer: what does the peer do? */
void conn_destroy(void *conn);             /* in the close phase, or when conn_tls_let_go() said no before */
void conn_shaken(struct http_conn *c, enum handshake r); /* on from a step of the handshake */
void conn_stop(struct http_conn *c);       /* the server stops: closes it when it is idle, and no request is on its way */

/* watch.c */
MUST_CHECK int conn_watch(struct http_conn *c, struct err *err); /* from now on */
void conn_update_watch(struct http_conn *c); /* asks the loop for what is wanted now */
bool watch_may_spare(struct http_server *s);           /* one more is accepted: whether it need not be watched */
void watch_was_late(struct http_server *s);            /* one that was not had a request waiting */
void watch_accepted(struct http_conn *c);              /* it was: what was answered first has probably ended */

/* tls.c */
struct ssl_st *tls_session(const struct http_tls *t, int fd, bool h2); /* h2 = it may be chosen; NULL = no memory */

/* conn_tls.c: for connections that have it, but for the last three */
void conn_tls_begin(struct http_conn *c, struct http_tls *tls);
enum handshake conn_tls_handshake(struct http_conn *c); /* AGAIN also while it is busy; conn_shaken() then tells how it went on */
bool conn_tls_let_go(struct conn_tls *t); /* false = it is busy: conn_destroy() is called again when it is not */
ssize_t conn_tls_recv(struct http_conn *c, char *p, size_t cap);           /* as recv(2) */
size_t conn_tls_send(struct http_conn *c, const char *p, size_t len);      /* sets blocked and failed */
uint64_t conn_tls_wire(const struct http_conn *c, uint64_t offset);        /* of what was sent; for conn_acked() */
bool conn_tls_is_h2(const struct http_conn *c);                            /* the handshake chose it */
void conn_tls_new_answer(struct http_conn *c);
void conn_tls_bye(struct http_conn *c);   /* tells the peer that this is the end, as far as there is one to tell */
void conn_tls_close(struct http_conn *c); /* it is no handshake any more */
void conn_tls_free(struct conn_tls *t);

/* output.c */
void conn_queue(struct http_conn *c, const void *p, size_t len);
void conn_queue_big(struct http_conn *c, const void *p, size_t len); /* may send at once */
size_t conn_splice(struct http_conn *c, int pipe, size_t len); /* all that is queued first; what was taken of the pipe */
bool conn_is_writing(const struct http_conn *c); /* something waits for the peer to take it */
void conn_flush(struct http_conn *c);
uint64_t conn_offset(const struct http_conn *c); /* bytes queued since the start of the connection */
void conn_mark(const struct http_conn *c); /* what its request is to mark, if it is due */
bool conn_acked(const struct http_conn *c, uint64_t offset);
/* first: the first pieces are told apart, and of what follows only the last is known; else the last pieces are. */
void wire_log_add(struct wire_log *l, uint64_t sent, uint64_t wire, bool first);
uint64_t wire_log_find(const struct wire_log *l, uint64_t sent); /* UINT64_MAX = not there yet */
uint64_t conn_kernel_acked(int fd); /* tcpi_bytes_acked; 0 where there is none */

/* request.c */
/* The request whose header section is p[0..len). NULL = refused, with *why. */
struct http_req *req_new(struct http_conn *c, const char *p, size_t len, size_t n_lines, struct http_refusal *why);
void req_free(struct http_req *r, bool complete); /* runs the close callbacks */
bool req_eat(struct http_req *r); /* takes body bytes from the connection; true = progress */
/* Answers where that is still possible, else breaks the answer off; the connection ends either way. */
void req_fail(struct http_req *r, int status, const char *why);
void req_set_params(struct http_req *r, const struct http_param *params, size_t n);
void req_on_private_close(struct http_req *r, http_close_fn *fn, void *arg); /* runs before the public one */

/* fate.c */
/* again: the peer asks for more, so it has what came before. Else only its TCP can say. */
void conn_tell_fates(struct http_conn *c, bool again);
void conn_tell_acked(struct http_conn *c); /* only those that are known by now */

/* h2.c: of a connection */
bool h2_is_preface(const struct http_conn *c); /* its input is that of HTTP/2, as far as it goes; nothing was sent yet */
bool h2_greeted(struct http_conn *c);          /* the preface is whole: c->h2 is there now */
void h2_begin(struct http_conn *c);
void h2_free(struct http2 *h);
bool h2_step(struct http_conn *c);             /* true = the connection is in another state */
bool h2_has_more(const struct http_conn *c);
uint64_t h2_deadline(const struct http_conn *c); /* UINT64_MAX = none */
void h2_time_out(struct http_conn *c);
void h2_stop(struct http_conn *c);  /* the server does */
void h2_eof(struct http_conn *c);
bool h2_wants_input(const struct http_conn *c);
void h2_break(struct http_conn *c); /* its streams */

/* h2_stream.c: of a stream */
void h2_push(struct http_conn *c);           /* what is queued may leave */
bool h2_all_sent(const struct http_conn *c); /* the kernel has the end of the answer */
size_t h2_heads(const struct http_conn *c);  /* header sections queued: each counts as a byte */
uint64_t h2_on_wire(const struct http_conn *c, uint64_t offset);
void h2_stream_gone(struct http_conn *c);
void h2_refuse(struct http_conn *c, int status, const struct buf *json); /* the body is json, which is queued next */
void h2_init_body(struct http_req *r);
bool h2_body_came(const struct http_conn *c);
bool h2_may_linger(struct http_conn *c); /* the answer is over, and a body still comes that will be thrown away */
void h2_body_used(struct http_conn *c, size_t len);
void h2_want_body(struct http_req *r);
MUST_CHECK int h2_put_head(struct http_req *r, int status, const char *content_type, int64_t content_length, bool has_body);

/* reply.c */
void conn_refuse(struct http_conn *c, int status, const char *why); /* answers and closes; no request in flight */

/* server.c */
const char *server_date(struct http_server *s);
void server_conn_closed(struct http_server *s, const struct http_conn *c); /* one less: accepting may go on */
void server_greetings(struct http_server *s, int change); /* 1 = LOOP_LANE_TLS has one more, -1 = one less */
void server_mark_dirty(struct http_server *s, struct http_conn *c);
void server_destroy_later(struct http_server *s); /* of a dead one: when nothing that looks at it is on its way */
