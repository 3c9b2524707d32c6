/* http/h2.h: HTTP/2 inside the server, private to src/http.
 *
 * A connection that speaks it has c->h2, and never a request of its own. Each of its streams is a struct http_conn too, one
 * without a socket (its wire is the connection that carries it): input are the header section, written as HTTP/1.1 has it
 * (h2_head.h), and behind it the body as it is; output are the bytes of the answer's body. So requests, bodies, queues and
 * deadlines are those of HTTP/1.1, and what is different is here:
 *   - both sides of a stream run in turns of their own (conn_advance()), never inside a callback of nghttp2. Those only move bytes
 *     and mark who has something to do;
 *   - a stream's output goes to the wire when nghttp2 asks for it, which is when the windows let it and the wire's own queue is
 *     short. An answer is over when the kernel has the wire's bytes up to its end;
 *   - the connection's window opens as bytes arrive, a stream's as they are used: one that is not read holds nobody else up,
 *     and costs no more memory than its own window.
 * An offset in a stream's output counts a header section as one byte. A log says where on the wire it ended; between two of its
 * entries the later one counts, so nothing is taken for acknowledged too early. */
#pragma once

#include <nghttp2/nghttp2.h>

#include "http/h2_guard.h"
#include "http/h2_head.h"
#include "http/private.h"

#define H2_OUT_BYTES (128 << 10)         /* of the wire's queue: above it nobody adds to it, and nothing is read */
#define H2_BLOCK_BYTES (1 << 20)         /* of an answer's header fields, as nghttp2 estimates: more than a reply can have */
#define H2_CONN_WINDOW (1 << 20)
#define H2_STREAM_WINDOW 65535           /* before its body is asked for */
#define H2_BODY_WINDOW (256 << 10)       /* from then on */

struct http2 {
	struct http_conn *conn;
	nghttp2_session *session;
	struct list streams;
	struct h2_guard guard;
	struct h2_head head;
	uint64_t head_ms;     /* when the block of header fields that arrives began; 0 = none does */
	uint64_t head_number; /* which one that is */
	uint64_t since_ms;    /* when it began, or its last stream ended */
	uint64_t stop_ms;     /* when its end was announced; 0 = it was not */
	uint64_t told_sent;   /* of the wire: up to here streams know */
	struct h2_stream *headed; /* its header section is the frame that nghttp2 gives out now */
	const char *refusal;  /* of the guard */
	bool settled;         /* the peer's SETTINGS came */
	bool stopped;         /* no more streams */
	bool goodbye;         /* nor anything else, once its last GOAWAY is sent */
	bool eof_seen;
};

struct h2_stream {
	struct http_conn conn; /* the first member: conn_destroy() frees it */
	struct list link;
	int32_t id;
	bool open;        /* nghttp2 has it */
	bool has_body;    /* its headers did not end the request */
	bool body_came;   /* up to its end */
	bool reset;       /* by the peer */
	bool last;        /* nothing will be queued any more */
	bool deferred;    /* nghttp2 waits for bytes */
	unsigned heads;   /* header sections given to nghttp2 that are not on the wire yet */
	uint64_t fin_at;  /* of the wire: the answer's end; 0 = not there yet */
	struct wire_log log;
};

static inline struct h2_stream *h2_of(const struct http_conn *c)
{
	return container_of(c, struct h2_stream, conn);
}

/* h2.c: the connection */
extern char h2_ours; /* the user data of a stream that was ended here */
void h2_wake(struct http2 *h);  /* nghttp2 has something to send */
void h2_no_stream(struct http2 *h); /* one has ended */

/* h2_stream.c */
struct h2_stream *h2_stream_of(nghttp2_session *session, int32_t id); /* NULL = it has ended, or is none yet */
/* Of the block of header fields that has come; marks it dirty. NULL = no memory for its section. */
struct h2_stream *h2_stream_new(struct http2 *h, int32_t id, bool has_body);
void h2_drop_body(struct h2_stream *s, size_t len); /* of one that lingers; NULL is allowed */
void h2_stream_closed(struct h2_stream *s); /* nghttp2 does not have it any more */
ssize_t h2_read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
		     nghttp2_data_source *source,
		     void *user_data);
int h2_send_body(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length, nghttp2_data_source *source,
		 void *user_data);
void h2_head_sent(struct h2_stream *s, bool last);
void h2_head_queued(struct h2_stream *s); /* the wire's queue has it now */
