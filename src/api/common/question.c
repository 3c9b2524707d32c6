#include "api/common/question.h"

#include <string.h>

#include "api/common/errors.h"
#include "base/mem.h"

void *question_new(struct api *a, struct http_req *req, size_t size)
{
	const struct auth_caller *c = api_caller(a, req);

	if (!c)
		return NULL;
	struct question *q = xcalloc(1, size);
	q->req = req;
	q->signer = &a->bucket.signer;
	memcpy(q->namespace_id, c->ns->id, sizeof(q->namespace_id));
	buf_init(&q->out, QUESTION_OUT_MAX);
	json_write_begin(&q->w, &q->out);
	return q;
}

static void question_free(struct question *q)
{
	if (q->done)
		q->done(q);
	buf_done(&q->out);
	free(q);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct question *q = arg;

	q->req = NULL;
}

static void on_work(void *arg, struct store_reader *r)
{
	struct question *q = arg;

	q->work(q, r);
}

static void on_done(void *arg)
{
	struct question *q = arg;

	if (q->req) {
		http_req_on_close(q->req, NULL, NULL);
		if (q->err.code)
			api_reply_err(q->req, &q->err);
		else
			api_send(q->req, 200, &q->w, &q->out);
	}
	question_free(q);
}

void question_ask(struct api *a, struct question *q)
{
	http_req_on_close(q->req, on_gone, q);
	store_read(a->store, on_work, on_done, q);
}

void question_refuse(struct question *q, const struct err *err)
{
	api_reply_err(q->req, err);
	question_free(q);
}
