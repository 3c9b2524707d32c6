/* api/sandbox/runs.c: see runs.h. */
#include "api/sandbox/runs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "api/sandbox/files.h"
#include "api/sandbox/sidecars.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "sandbox/outcome.h"

#define CMD_SHOWN_BYTES 200
#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define ANSWER_MAX_BYTES (LIST_MAX * 4096u) /* a command's beginning and an error, all of it escaped */
#define WAIT_MAX_S 3600.0

struct runs {
	struct map *by_id;
	struct list all;
};

struct run_waiter { /* a request that is answered when the run is over; in the request's memory */
	struct list node;
	struct use use;
	struct brun *run;
	struct loop_timer limit;
	uint64_t limit_ms;
};

/* -- the table ------------------------------------------------------------------------------------------------------------- */

static struct runs *runs_of(struct sandbox *b)
{
	if (!b->runs) {
		b->runs = NEW(struct runs);
		b->runs->by_id = map_new();
		list_init(&b->runs->all);
	}
	return b->runs;
}

void brun_free(struct brun *run)
{
	struct runs *rs = run->b->runs;

	readers_end(run);
	feed_end(run);
	list_remove(&run->node);
	map_del(rs->by_id, run->id);
	if (run->exec)
		run->b->s->engine->ops->exec_release(run->exec);
	free(run->cmd);
	free(run->error);
	free(run);
}

static void answer_waiters(struct brun *run);

void runs_free(struct sandbox *b)
{
	struct runs *rs = b->runs;

	if (!rs)
		return;
	while (!list_empty(&rs->all)) {
		struct brun *run = list_first(&rs->all, struct brun, node);

		run->over = true;
		answer_waiters(run);
		brun_free(run);
	}
	map_free(rs->by_id);
	free(rs);
	b->runs = NULL;
}

size_t runs_count(const struct sandbox *b)
{
	return b->runs ? map_len(b->runs->by_id) : 0;
}

void commands_make_room(struct sandbox *b)
{
	size_t others = runs_count(b);

	tasks_make_room(b->tasks, SANDBOX_COMMANDS_MAX - MIN(others, (size_t)SANDBOX_COMMANDS_MAX));
}

static char *shown(const char *cmd)
{
	size_t len = strlen(cmd);

	return xstrndup(cmd, MIN(len, (size_t)CMD_SHOWN_BYTES));
}

struct brun *brun_new(struct sandbox *b, const char *id, const char *cmd)
{
	struct brun *run = NEW(struct brun);

	run->b = b;
	snprintf(run->id, sizeof(run->id), "%s", id);
	run->cmd = shown(cmd);
	run->started_ms = time_wall_ms();
	list_init(&run->readers);
	list_init(&run->waiters);
	list_push_back(&runs_of(b)->all, &run->node);
	map_put(b->runs->by_id, run->id, run);
	return run;
}

/* Forgets the oldest that are over, where there are too many. */
int runs_make_room(struct sandbox *b, struct err *err)
{
	struct runs *rs = runs_of(b);
	size_t max = b->s->settings.runs_max;

	if (map_len(rs->by_id) < max)
		return 0;
	list_foreach(&rs->all, struct brun, node, run)
		if (run->over) {
			brun_free(run);
			return 0;
		}
	return err_set(err, -EUSERS, "%zu background runs are alive in this sandbox: end one first", max);
}

/* -- as JSON --------------------------------------------------------------------------------------------------------------- */

static void put_result(struct json_writer *w, const struct engine_exec_result *r)
{
	json_kv_i64(w, "return_code", r->return_code);
	json_kv_bool(w, "timed_out", r->timed_out);
	json_kv_str(w, "outcome", engine_outcome_name(r->outcome));
	json_kv_bool(w, "trainable", outcome_trainable(r->outcome));
	json_kv_double(w, "duration_ms", (double)r->duration_us / 1000);
	json_kv_double(w, "cpu_ms", (double)r->cpu_us / 1000);
	json_kv_i64(w, "peak_bytes", (int64_t)r->peak_bytes);
	json_kv_i64(w, "output_bytes", (int64_t)r->bytes);
	json_kv_i64(w, "dropped_bytes", (int64_t)r->dropped);
}

static void put_run(struct json_writer *w, const struct brun *run)
{
	char at[TIME_ISO_LEN];

	json_open_object(w);
	json_kv_str(w, "id", run->id);
	json_kv_str(w, "state", !run->over ? "running" : run->error ? "failed" : "ended");
	json_kv_str(w, "cmd", run->cmd);
	json_kv_bool(w, "tty", run->terminal);
	json_kv_bool(w, "separate", run->separate);
	json_kv_bool(w, "stdin", run->input || run->terminal);
	json_kv_str(w, "started_at", time_iso(run->started_ms, at));
	if (run->over)
		json_kv_str(w, "ended_at", time_iso(run->ended_ms, at));
	if (run->error) {
		json_kv_str(w, "error", run->error);
		json_kv_str(w, "outcome", engine_outcome_name(ENGINE_INFRA));
		json_kv_bool(w, "trainable", outcome_trainable(ENGINE_INFRA));
	} else if (run->over) {
		put_result(w, &run->res);
	}
	json_close(w);
}

void brun_reply(struct http_req *req, int status, const struct brun *run)
{
	auto_buf struct buf b = { 0 };
	struct json_writer w;

	buf_init(&b, ANSWER_MAX_BYTES);
	json_write_begin(&w, &b);
	put_run(&w, run);
	api_send(req, status, &w, &b);
}

void runs_reply_empty(struct http_req *req)
{
	http_reply(req, 200, "application/json", "{}", 2);
}

/* -- requests about one ------------------------------------------------------------------------------------------------------ */

struct sandbox *runs_sandbox(struct sandboxes *s, struct http_req *req, http_handler_fn *handler)
{
	return sandbox_ready(s, req, http_req_param(req, "id"), handler);
}

struct brun *runs_find(struct sandbox *b, const char *id, struct err *err)
{
	struct brun *run = b->runs ? map_get(b->runs->by_id, id) : NULL;

	if (!run)
		err_set(err, -ENOENT, "run %.64s is not known in this sandbox", id);
	return run;
}

struct brun *brun_of_request(struct sandboxes *s, struct http_req *req, http_handler_fn *handler, struct use *use,
			     void (*closed)(struct use *u))
{
	struct sandbox *b = runs_sandbox(s, req, handler);
	const char *sidecar = http_req_param(req, "sidecar");
	struct brun *run;
	struct err err;

	if (!b)
		return NULL;
	run = sidecar ? sidecar_run(b, sidecar, file_flag(req, "previous"), &err) : runs_find(b, http_req_param(req, "run"), &err);
	if (run)
		use_start(use, req, b, closed);
	else
		api_reply_err(req, &err);
	return run;
}

/* -- the end ------------------------------------------------------------------------------------------------------------------- */

static void waiter_leaves(struct run_waiter *w)
{
	list_remove(&w->node);
	loop_timer_stop(&w->limit);
}

static void answer_waiters(struct brun *run)
{
	while (!list_empty(&run->waiters)) {
		struct run_waiter *w = list_first(&run->waiters, struct run_waiter, node);

		waiter_leaves(w);
		brun_reply(w->use.req, 200, run);
	}
}

void brun_over(struct brun *run, const struct engine_exec_result *res, const struct err *err)
{
	run->over = true;
	run->ended_ms = time_wall_ms();
	if (res)
		run->res = *res;
	if (err)
		run->error = xstrdup(err->msg);
}

void brun_on_done(void *arg, struct engine_exec *x UNUSED, const struct engine_exec_result *res, const struct err *err)
{
	struct brun *run = arg;

	brun_over(run, res, err);
	feed_end(run);
	answer_waiters(run);
	readers_more(run);
}

void brun_on_more(void *arg)
{
	readers_more(arg);
}

/* -- looking ------------------------------------------------------------------------------------------------------- */

static void list_handler(struct http_req *req, void *sandboxes)
{
	struct err err;
	struct sandbox *b = runs_sandbox(sandboxes, req, list_handler);
	uint64_t limit, offset, i = 0;
	auto_buf struct buf text = { 0 };
	struct json_writer w;

	if (!b)
		return;
	if (api_page(req, LIST_DEFAULT, LIST_MAX, &limit, &offset, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&text, ANSWER_MAX_BYTES);
	json_write_begin(&w, &text);
	json_open_object(&w);
	json_key(&w, "runs");
	json_open_array(&w);
	if (b->runs)
		list_foreach(&b->runs->all, struct brun, node, run) {
			if (i >= offset && i < offset + limit)
				put_run(&w, run);
			i++;
		}
	json_close(&w);
	json_kv_i64(&w, "total", (int64_t)i);
	json_close(&w);
	api_send(req, 200, &w, &text);
}

static void get_handler(struct http_req *req, void *sandboxes)
{
	struct use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run = brun_of_request(sandboxes, req, get_handler, u, NULL);

	if (run)
		brun_reply(req, 200, run);
}

static void on_wait_closed(struct use *u)
{
	waiter_leaves(container_of(u, struct run_waiter, use));
}

static void on_wait_limit(struct loop_timer *t UNUSED, void *arg)
{
	struct run_waiter *w = arg;

	waiter_leaves(w);
	brun_reply(w->use.req, 200, w->run);
}

static int wait_limit(struct http_req *req, uint64_t *ret_ms, struct err *err)
{
	const char *text = http_req_query(req, "timeout_s");
	double s = WAIT_MAX_S;

	if (text && (str_to_double(text, &s) < 0 || s < 0 || s > WAIT_MAX_S))
		return err_set(err, -EINVAL, "timeout_s: \"%.100s\": expected 0 to %.0f seconds", text, WAIT_MAX_S);
	*ret_ms = (uint64_t)(s * 1000);
	return 0;
}

static void wait_handler(struct http_req *req, void *sandboxes)
{
	struct run_waiter *w = http_req_alloc(req, sizeof(*w));
	struct sandboxes *s = sandboxes;
	struct err err;

	list_init(&w->node);
	loop_timer_init(&w->limit, s->loop, on_wait_limit, w);
	if (wait_limit(req, &w->limit_ms, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	w->run = brun_of_request(s, req, wait_handler, &w->use, on_wait_closed);
	if (!w->run)
		return;
	if (w->run->over) {
		brun_reply(req, 200, w->run);
		return;
	}
	http_req_watch_peer(req);
	list_push_back(&w->run->waiters, &w->node);
	loop_timer_start(&w->limit, w->limit_ms);
}

/* One that runs is killed; its end is nobody's concern any more. */
static void delete_handler(struct http_req *req, void *sandboxes)
{
	struct use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run = brun_of_request(sandboxes, req, delete_handler, u, NULL);

	if (!run)
		return;
	if (!run->over) {
		run->b->s->engine->ops->exec_kill(run->exec, SIGKILL);
		run->over = true;
		run->ended_ms = time_wall_ms();
		run->error = xstrdup("the run was deleted");
		answer_waiters(run);
	}
	brun_free(run);
	runs_reply_empty(req);
}

void runs_routes(struct sandboxes *s, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs", run_start_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs", list_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs/{run}", get_handler, s);
	http_router_add(r, "DELETE", "/v1/sandboxes/{id}/runs/{run}", delete_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs/{run}/output", run_output_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/sidecars/{sidecar}/output", run_output_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/stdin", run_input_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/signal", run_signal_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/resize", run_resize_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/wait", wait_handler, s);
}
