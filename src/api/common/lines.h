/* api/common/lines.h: an answer that comes as JSON objects, one a line (application/x-ndjson): what happens while somebody
 * waits, then how it ended. {"line": TEXT} any number of times, an empty line as heartbeat, then one last object with
 * whatever the route documents. A client that got no last object knows that the connection broke.
 * Owned by its request: gone after the request's on_close, which this module uses. Loop thread only. */
#pragma once

#include "http/server.h"
#include "json/json.h"

struct lines;

/* Starts a 200 answer. gone runs when the client went away before the end; NULL = nobody cares. */
struct lines *lines_start(struct http_req *req, loop_fn *gone, void *arg);
void lines_line(struct lines *l, const char *text); /* invalid UTF-8 is replaced; a client that does not read is cut off */
/* Objects of the route's own in between, each with its newline. A client that does not read is cut off. */
void lines_objects(struct lines *l, const struct buf *text);
/* The last object; ends the answer. Nothing may be sent after it, and gone does not run any more. */
void lines_end(struct lines *l, const struct buf *json);
/* The last object {"status": "failed", "error": MESSAGE}. */
void lines_fail(struct lines *l, const struct err *err);
