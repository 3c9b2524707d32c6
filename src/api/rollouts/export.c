/* GET /v1/runs/{id}/export: all messages of a run as JSON lines, oldest rollout first. Written in pieces by workers,
 * each when the client has taken the one before; what comes to the run meanwhile is in it where it lies after the
 * piece at hand. */
#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/common/question.h"
#include "base/mem.h"
#include "rollout/write.h"

#define PIECE_BYTES (256u * 1024)
#define PAGE 500 /* messages of one query */

struct export {
	struct http_req *req; /* NULL = the client is gone */
	struct api *api;
	char namespace_id[STORE_ID_LEN];
	char *id;
	bool busy, parked; /* a worker has it; it waits for the client */
	/* the worker's */
	struct buf out;
	struct err err;
	int64_t run; /* its key; 0 = not looked up yet */
	char run_id[STORE_ID_LEN];
	char *run_name;
	int64_t ordinal;       /* of the rollout at hand */
	int64_t rollout;       /* its key; 0 = the next one from ordinal on is to be found */
	struct buf head;       /* that rollout as JSON */
	int64_t position, key; /* of the last message written */
	uint64_t n;            /* of this query */
	bool still;            /* the rollout at hand was found again */
	bool ended;
};

static void export_free(struct export *x)
{
	free(x->id);
	free(x->run_name);
	buf_done(&x->out);
	buf_done(&x->head);
	free(x);
}

/* -- the worker's -------------------------------------------------------------------------------------------------- */

static void on_run(void *arg, const struct record_run *run)
{
	struct export *x = arg;

	x->run = run->key;
	memcpy(x->run_id, run->id, sizeof(x->run_id));
	x->run_name = xstrdup(run->name);
}

static void on_rollout(void *arg, const struct record_rollout *o)
{
	struct export *x = arg;
	struct json_writer w;

	x->rollout = o->key;
	x->ordinal = o->ordinal;
	x->position = INT64_MIN;
	x->key = 0;
	buf_clear(&x->head);
	json_write_begin(&w, &x->head);
	json_open_object(&w);
	write_rollout(&w, o);
	json_close(&w);
	if (json_write_end(&w) < 0)
		abort(); /* an unlimited buffer has no way to fail */
}

static bool on_message(void *arg, const struct record_message *m)
{
	struct export *x = arg;
	struct json_writer w;

	json_write_begin(&w, &x->out);
	json_open_object(&w);
	json_kv_str(&w, "runId", x->run_id);
	json_kv_str(&w, "runName", x->run_name);
	json_key(&w, "rollout");
	json_raw(&w, x->head.data, x->head.len);
	write_message(&w, m);
	json_close(&w);
	if (json_write_end(&w) < 0 || buf_puts(&x->out, "\n") < 0) {
		err_set(&x->err, -EMSGSIZE, "a message is too large");
		return false;
	}
	x->position = m->position;
	x->key = m->key;
	x->n++;
	return x->out.len < PIECE_BYTES;
}

static void on_again(void *arg, const struct record_rollout *o)
{
	struct export *x = arg;

	x->still = o->key == x->rollout && o->ordinal == x->ordinal;
}

/* Between two pieces retention may take the rollout at hand, and the database then gives its key to whoever's comes next.
 * Its place in the run is never given again. */
static int find_again(struct export *x, struct store_reader *r)
{
	if (!x->rollout)
		return 0;
	x->still = false;
	int e = store_rollouts(r, x->run, x->ordinal, false, 1, on_again, x, &x->err);
	if (e == 0 && !x->still) {
		x->rollout = 0;
		x->ordinal++;
	}
	return e;
}

/* One query's worth. */
static int step(struct export *x, struct store_reader *r)
{
	int e;

	if (!x->rollout) {
		e = store_rollouts(r, x->run, x->ordinal, false, 1, on_rollout, x, &x->err);
		x->ended = !x->rollout;
		return e;
	}
	x->n = 0;
	e = store_messages(r, x->rollout, x->position, x->key, 0, PAGE, on_message, x, &x->err);
	if (e == 0 && x->n < PAGE && x->out.len < PIECE_BYTES) {
		x->rollout = 0;
		x->ordinal++;
	}
	return e < 0 ? e : x->err.code;
}

static void on_work(void *arg, struct store_reader *r)
{
	struct export *x = arg;
	int e = x->run ? 0 : store_run_find(r, x->namespace_id, x->id, on_run, x, &x->err);

	e = e < 0 ? e : find_again(x, r);
	while (e == 0 && !x->ended && x->out.len < PIECE_BYTES)
		e = step(x, r);
}

/* -- the loop's ---------------------------------------------------------------------------------------------------- */

static void on_piece(void *arg);

static void next_piece(struct export *x)
{
	x->busy = true;
	store_read(x->api->store, on_work, on_piece, x);
}

static void on_drained(struct http_req *req UNUSED, void *arg)
{
	struct export *x = arg;

	if (!x->parked)
		return;
	x->parked = false;
	next_piece(x);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct export *x = arg;

	x->req = NULL;
	if (!x->busy)
		export_free(x);
}

/* An answer that has begun can only be cut: clients see that its last chunk is missing. */
static void give_up(struct export *x)
{
	if (http_reply_started(x->req))
		http_req_abort(x->req);
	else
		api_reply_err(x->req, &x->err);
}

static void on_piece(void *arg)
{
	struct export *x = arg;

	x->busy = false;
	if (!x->req) {
		export_free(x);
		return;
	}
	if (x->err.code) {
		give_up(x);
		return;
	}
	if (!http_reply_started(x->req))
		http_reply_start(x->req, 200, "application/x-ndjson", -1);
	bool room = !x->out.len || http_reply_write(x->req, x->out.data, x->out.len);
	buf_clear(&x->out);
	if (x->ended)
		http_reply_end(x->req);
	else if (room)
		next_piece(x);
	else
		x->parked = true;
}

static void on_export(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);

	if (!c)
		return;
	struct export *x = NEW(struct export);
	x->req = req;
	x->api = a;
	x->id = xstrdup(http_req_param(req, "id"));
	memcpy(x->namespace_id, c->ns->id, sizeof(x->namespace_id));
	buf_init(&x->out, QUESTION_OUT_MAX);
	buf_init(&x->head, BUF_UNLIMITED);
	http_req_on_close(req, on_gone, x);
	http_reply_on_drain(req, on_drained, x);
	next_piece(x);
}

void api_export_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/runs/{id}/export", on_export, a);
}
