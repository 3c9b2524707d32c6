/* api/common/question.h: a request whose answer a worker writes from the database. A handler fills one in on the loop, the
 * worker reads and writes JSON into it, and it is answered and freed here. Embedded at the start of what the handler
 * needs more. */
#pragma once

#include "api/api.h"
#include "store/record.h"

struct question {
	struct http_req *req; /* NULL = the client is gone */
	const struct signer *signer;
	char namespace_id[STORE_ID_LEN];
	struct buf out;
	struct json_writer w; /* into out */
	struct err err;       /* set by the worker: answered instead */
	store_read_fn *work;
	void (*done)(struct question *q); /* frees what is in it; may be NULL */
};

#define QUESTION_OUT_MAX (512u * 1024 * 1024) /* one message may be as large as a body, and each byte six as JSON */

/* size: of the whole. NULL after a 401 was answered. */
void *question_new(struct api *a, struct http_req *req, size_t size);
/* Runs work on a worker and answers 200 with what it wrote, or with its error. Takes q over. */
void question_ask(struct api *a, struct question *q);
void question_refuse(struct question *q, const struct err *err); /* instead of asking */
