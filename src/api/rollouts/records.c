/* GET /v1/runs, /v1/runs/{id}, /v1/runs/{id}/rollouts, /v1/rollouts/{id}: what was recorded, of the key's own
 * namespace. */
#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/common/paging.h"
#include "api/common/question.h"
#include "base/mem.h"
#include "base/str.h"
#include "rollout/events.h"
#include "rollout/write.h"

#define LIST_DEFAULT 20
#define LIST_MAX 1000
#define MESSAGES_DEFAULT 1000
#define MESSAGES_MAX 10000
#define MESSAGES_BYTES (8u * 1024 * 1024) /* a page ends behind the message that goes beyond this */

struct records {
	struct question q;
	char *id;             /* of the path; NULL = none */
	char *search, *token; /* of the query; NULL = none */
	uint64_t limit, offset;
	/* the worker's */
	uint64_t n;             /* written */
	bool more;              /* there is something after the last of them */
	int64_t last, last_key; /* where it stands */
	struct record_run run;  /* its texts are not kept */
	char run_id[STORE_ID_LEN];
	char *run_name;
	struct record_rollout rollout; /* likewise */
};

static void records_done(struct question *q)
{
	struct records *x = (struct records *)q;

	free(x->id);
	free(x->search);
	free(x->token);
	free(x->run_name);
}

static int check_texts(const struct records *x, struct err *err)
{
	if (x->search && !str_is_utf8(x->search, strlen(x->search)))
		return err_set(err, -EINVAL, "search: expected a text in UTF-8");
	if (x->search && strlen(x->search) > EVENT_NAME_MAX)
		return err_set(err, -EINVAL, "search: \"%.60s...\" (%zu bytes): expected at most %d bytes", x->search,
			       strlen(x->search), EVENT_NAME_MAX);
	if (x->id && strlen(x->id) > EVENT_NAME_MAX)
		return err_set(err, -ENOENT, "\"%.60s...\" not found", x->id);
	return 0;
}

static void on_asked(struct http_req *req, struct api *a, store_read_fn *work, uint64_t default_limit,
		     uint64_t max_limit)
{
	struct records *x = question_new(a, req, sizeof(*x));
	struct err err;

	if (!x)
		return;
	x->q.work = work;
	x->q.done = records_done;
	x->id = xstrdup(http_req_param(req, "id"));
	x->search = xstrdup(http_req_query(req, "search"));
	x->token = xstrdup(http_req_query(req, "pageToken"));
	if (check_texts(x, &err) < 0 || api_page(req, default_limit, max_limit, &x->limit, &x->offset, &err) < 0)
		question_refuse(&x->q, &err);
	else
		question_ask(a, &x->q);
}

static void next_token(struct records *x, const struct paging_list *list, int64_t position, int64_t second)
{
	auto_free char *token = x->more && x->n ? paging_token(x->q.signer, list, position, second) : NULL;

	json_kv_str(&x->q.w, "nextPageToken", token);
}

/* -- runs ---------------------------------------------------------------------------------------------------------- */

/* One more than the page is asked for: it says that there is a next one. */
static void on_run_listed(void *arg, const struct record_run *run)
{
	struct records *x = arg;

	if (x->n == x->limit) {
		x->more = true;
		return;
	}
	json_open_object(&x->q.w);
	write_run(&x->q.w, run);
	json_close(&x->q.w);
	x->last = run->key;
	x->n++;
}

static void list_runs(void *arg, struct store_reader *r)
{
	struct records *x = arg;
	struct json_writer *w = &x->q.w;
	const struct paging_list list = { { "runs", x->q.namespace_id, x->search } };
	int64_t before = 0, unused = 0;
	uint64_t total;

	if (paging_read(x->q.signer, &list, x->token, &before, &unused, &x->q.err) < 0)
		return;
	json_open_object(w);
	json_key(w, "runs");
	json_open_array(w);
	if (store_runs(r, x->q.namespace_id, x->search, before, x->offset, x->limit + 1, on_run_listed, x, &total,
		       &x->q.err) < 0)
		return;
	json_close(w);
	json_kv_i64(w, "total", (int64_t)total);
	next_token(x, &list, x->last, 0);
	json_close(w);
}

static void on_list(struct http_req *req, void *arg)
{
	on_asked(req, arg, list_runs, LIST_DEFAULT, LIST_MAX);
}

static void on_run_found(void *arg, const struct record_run *run)
{
	struct records *x = arg;

	json_open_object(&x->q.w);
	write_run(&x->q.w, run);
	json_close(&x->q.w);
}

static void show_run(void *arg, struct store_reader *r)
{
	struct records *x = arg;

	if (store_run_find(r, x->q.namespace_id, x->id, on_run_found, x, &x->q.err) < 0)
		return; /* q.err is answered */
}

static void on_show_run(struct http_req *req, void *arg)
{
	on_asked(req, arg, show_run, LIST_DEFAULT, LIST_MAX);
}

/* -- rollouts of a run --------------------------------------------------------------------------------------------- */

static void on_run_known(void *arg, const struct record_run *run)
{
	struct records *x = arg;

	x->run = *run;
	snprintf(x->run_id, sizeof(x->run_id), "%s", run->id);
	x->run_name = xstrdup(run->name);
}

static void on_rollout_listed(void *arg, const struct record_rollout *o)
{
	struct records *x = arg;

	if (x->n == x->limit) {
		x->more = true;
		return;
	}
	json_open_object(&x->q.w);
	write_rollout(&x->q.w, o);
	json_close(&x->q.w);
	x->last = o->ordinal - 1;
	x->n++;
}

static void list_rollouts(void *arg, struct store_reader *r)
{
	struct records *x = arg;
	struct json_writer *w = &x->q.w;
	int64_t from, unused = 0;

	if (store_run_find(r, x->q.namespace_id, x->id, on_run_known, x, &x->q.err) < 0)
		return;
	const struct paging_list list = { { "rollouts", x->q.namespace_id, x->run_id } };
	from = x->run.last_ordinal;
	if (paging_read(x->q.signer, &list, x->token, &from, &unused, &x->q.err) < 0)
		return;
	from -= (int64_t)MIN(x->offset, (uint64_t)INT32_MAX);
	json_open_object(w);
	json_key(w, "rollouts");
	json_open_array(w);
	if (store_rollouts(r, x->run.key, from, true, x->limit + 1, on_rollout_listed, x, &x->q.err) < 0)
		return;
	json_close(w);
	json_kv_i64(w, "total", (int64_t)x->run.num_rollouts);
	next_token(x, &list, x->last, 0);
	json_close(w);
}

static void on_list_rollouts(struct http_req *req, void *arg)
{
	on_asked(req, arg, list_rollouts, LIST_DEFAULT, LIST_MAX);
}

/* -- one rollout --------------------------------------------------------------------------------------------------- */

static void on_rollout_found(void *arg, const struct record_rollout *o)
{
	struct records *x = arg;

	x->rollout = *o;
	write_rollout(&x->q.w, o);
	write_rollout_detail(&x->q.w, o);
}

static bool on_message(void *arg, const struct record_message *m)
{
	struct records *x = arg;

	if (x->n == x->limit || (x->n && x->q.out.len > MESSAGES_BYTES)) {
		x->more = true;
		return false;
	}
	json_open_object(&x->q.w);
	write_message(&x->q.w, m);
	json_close(&x->q.w);
	x->last = m->position;
	x->last_key = m->key;
	x->n++;
	return true;
}

static int write_run_of(struct records *x, struct store_reader *r)
{
	int e = x->rollout.run ? store_run_by_key(r, x->rollout.run, on_run_known, x, &x->q.err) : 0;

	json_kv_str(&x->q.w, "runId", *x->run_id ? x->run_id : NULL);
	json_kv_str(&x->q.w, "runName", x->run_name);
	return e;
}

static void show_rollout(void *arg, struct store_reader *r)
{
	struct records *x = arg;
	struct json_writer *w = &x->q.w;
	const struct paging_list list = { { "messages", x->q.namespace_id, x->id } };
	int64_t position = INT64_MIN, key = 0;

	if (paging_read(x->q.signer, &list, x->token, &position, &key, &x->q.err) < 0)
		return;
	json_open_object(w);
	if (store_rollout_find(r, x->q.namespace_id, x->id, on_rollout_found, x, &x->q.err) < 0 ||
	    write_run_of(x, r) < 0)
		return;
	json_key(w, "messages");
	json_open_array(w);
	if (store_messages(r, x->rollout.key, position, key, x->offset, x->limit + 1, on_message, x, &x->q.err) < 0)
		return;
	json_close(w);
	next_token(x, &list, x->last, x->last_key);
	json_close(w);
}

static void on_show_rollout(struct http_req *req, void *arg)
{
	on_asked(req, arg, show_rollout, MESSAGES_DEFAULT, MESSAGES_MAX);
}

void api_records_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/runs", on_list, a);
	http_router_add(r, "GET", "/v1/runs/{id}", on_show_run, a);
	http_router_add(r, "GET", "/v1/runs/{id}/rollouts", on_list_rollouts, a);
	http_router_add(r, "GET", "/v1/rollouts/{id}", on_show_rollout, a);
}
