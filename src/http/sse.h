/* http/sse.h: server-sent events as the clients read them. Loop thread only.
 *
 * Rules, from the client's reader: `event: NAME`, `data: LINE`, blank line; data in pieces of at most 4 KiB; no piece
 * begins with white space, because the client strips leading blanks of every piece; a comment line as heartbeat at
 * least every 10 s, because it gives up after 30 s of silence; Content-Type text/event-stream. */
#pragma once

#include "http/server.h"

#define SSE_PIECE_MAX 4096 /* bytes of data in one event */
#define SSE_HEARTBEAT_MS 8000

struct sse;

/* Starts a 200 answer and its heartbeat on req. Owned by the request: gone after its on_close. */
struct sse *sse_start(struct http_req *req);
/* One event; data may be "" and must hold no newline and at most SSE_PIECE_MAX bytes. False = above high water. */
bool sse_event(struct sse *s, const char *event, const char *data, size_t len);
void sse_comment(struct sse *s, const char *text); /* newlines become blanks */
/* A whole JSON text as `chunk` events and a final `end`, split so that no piece begins with white space. Ends the
 * answer. Large texts go out under back-pressure; json is copied. */
void sse_result(struct sse *s, const char *json, size_t len);
void sse_error(struct sse *s, const char *text); /* `event: error`, newlines become blanks; ends the answer */

/* A result that is produced piece by piece, without holding it in memory: fill() writes up to cap bytes of the JSON
 * text to p and returns how many, 0 at the end, or a negative errno (which ends the answer with an `error` event; -EAGAIN:
 * it has worked long enough, and is called again in the next turn of the loop).
 * Called on the loop's thread whenever there is room. done runs after the last piece, or when the peer is gone. */
typedef ssize_t sse_fill_fn(void *arg, char *p, size_t cap);
void sse_result_from(struct sse *s, sse_fill_fn *fill, loop_fn *done, void *arg);
