/* api/common/send.h: a file as an answer, read by workers in pieces and no faster than the peer takes them. Loop thread only. */
#pragma once

#include "http/server.h"

struct send; /* lives until send_gone(), or a little longer when a worker has it */

struct send_range {
	int status;              /* 200 or 206 */
	uint64_t offset, length; /* bytes of the file; length is what Content-Length says */
};

/* Starts the answer; headers of the caller's come before. Takes ownership of fd. counter gets every byte that was sent; it
 * must outlive the request; may be NULL. A file that shrinks meanwhile breaks the answer off. A HEAD gets the headers. */
struct send *send_start(struct http_req *req, int fd, const char *content_type, const struct send_range *range,
			uint64_t *counter);
/* From the request's on_close, which is the caller's. */
void send_gone(struct send *s);
