/* api/runs.c: see runs.h. */
#include "api/runs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/api.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"
#include "sandbox/outcome.h"

#define BODY_MAX_BYTES (1u << 20)
#define CMD_SHOWN_BYTES 200
#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define ANSWER_MAX_BYTES (1u << 20)
#define WAIT_MAX_S 3600.0
#define TAIL_MIN_BYTES (64u * 1024)
#define SIZE_MAX_CELLS 10000

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

static void brun_free(struct brun *run)
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

/* Forgets the oldest that are over, where there are too many. */
static int make_room(struct sandbox *b, struct err *err)
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

static void reply_run(struct http_req *req, int status, const struct brun *run)
{
	auto_buf struct buf b = { 0 };
	struct json_writer w;

	buf_init(&b, ANSWER_MAX_BYTES);
	json_write_begin(&w, &b);
	put_run(&w, run);
	api_send(req, status, &w, &b);
}

static void reply_empty(struct http_req *req)
{
	http_reply(req, 200, "application/json", "{}", 2);
}

/* -- requests about one ------------------------------------------------------------------------------------------------------ */

static struct sandbox *sandbox_here(struct sandboxes *s, struct http_req *req, struct err *err)
{
	const struct auth_caller *caller;
	struct sandbox *b;

	if (auth_request(s->auth, req, &caller, err) < 0)
		return NULL;
	b = sandbox_find(s, caller, http_req_param(req, "id"), err);
	if (b && b->state == SANDBOX_CREATING) {
		err_set(err, -EBUSY, "sandbox %s is still being made", b->id);
		return NULL;
	}
	return b;
}

static struct brun *find(struct sandbox *b, const char *id, struct err *err)
{
	struct brun *run = b->runs ? map_get(b->runs->by_id, id) : NULL;

	if (!run)
		err_set(err, -ENOENT, "run %.64s is not known in this sandbox", id);
	return run;
}

struct brun *brun_of_request(struct sandboxes *s, struct http_req *req, struct use *use, void (*closed)(struct use *u))
{
	struct err err = ERR_INIT;
	struct sandbox *b = sandbox_here(s, req, &err);
	struct brun *run = b ? find(b, http_req_param(req, "run"), &err) : NULL;

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
		reply_run(w->use.req, 200, run);
	}
}

static void on_done(void *arg, struct engine_exec *x UNUSED, const struct engine_exec_result *res, const struct err *err)
{
	struct brun *run = arg;

	run->over = true;
	run->ended_ms = time_wall_ms();
	if (res)
		run->res = *res;
	if (err)
		run->error = xstrdup(err->msg);
	feed_end(run);
	answer_waiters(run);
	readers_more(run);
}

static void on_more(void *arg)
{
	readers_more(arg);
}

/* -- starting ---------------------------------------------------------------------------------------------------------------------- */

struct start_use { /* in the request's memory */
	struct use use;
};

struct wishes { /* what the body says beyond what /run takes */
	bool terminal, input, keep_last;
	int64_t rows, cols;
};

static int read_wishes(json_t *body, struct wishes *ret, struct err *err)
{
	const char *keep = "first";
	int r = json_get_bool(body, "tty", &ret->terminal, err);

	r = r < 0 ? r : json_get_bool(body, "stdin", &ret->input, err);
	r = r < 0 ? r : json_get_i64(body, "rows", 1, SIZE_MAX_CELLS, &ret->rows, err);
	r = r < 0 ? r : json_get_i64(body, "cols", 1, SIZE_MAX_CELLS, &ret->cols, err);
	r = r < 0 ? r : json_get_str(body, "keep", &keep, err);
	if (r < 0)
		return r;
	if (!str_eq(keep, "first") && !str_eq(keep, "last"))
		return err_set(err, -EINVAL, "keep: \"%.100s\": expected \"first\" or \"last\"", keep);
	ret->keep_last = str_eq(keep, "last");
	return 0;
}

static char *shown(const char *cmd)
{
	size_t len = strlen(cmd);

	return xstrndup(cmd, MIN(len, (size_t)CMD_SHOWN_BYTES));
}

static void make_id(char ret[TASK_ID_LEN])
{
	char uuid[UUID_LEN];
	size_t n = 0;

	random_uuid(uuid);
	for (const char *p = uuid; *p; p++)
		if (*p != '-')
			ret[n++] = *p;
	ret[n] = 0;
}

static struct brun *brun_new(struct sandbox *b, const char *id, const char *cmd)
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

/* -- for a daemon that takes over ---------------------------------------------------------------------------------------- */

#define LABEL_MAGIC "bg1:"
enum { HAS_TERMINAL = 1, IS_SEPARATE = 2, HAS_INPUT = 4, KEEPS_LAST = 8 };

struct run_label {
	char magic[4]; /* no zero behind it */
	unsigned char flags;
	char cmd[59];  /* its beginning, filled up with zeros */
};

static struct run_label label_of(const struct brun *run)
{
	struct run_label l = {
		.flags = (unsigned char)((run->terminal ? HAS_TERMINAL : 0) | (run->separate ? IS_SEPARATE : 0) |
					 (run->input ? HAS_INPUT : 0) | (run->keep_last ? KEEPS_LAST : 0)),
	};

	memcpy(l.magic, LABEL_MAGIC, sizeof(l.magic));
	memcpy(l.cmd, run->cmd, MIN(strlen(run->cmd), sizeof(l.cmd)));
	return l;
}

bool runs_adopt(struct sandbox *b, struct engine_exec *x, const struct engine_left *left)
{
	struct run_label l;
	auto_free char *cmd = NULL;
	struct brun *run;

	if (left->label_len != sizeof(l) || memcmp(left->label, LABEL_MAGIC, sizeof(l.magic)) != 0)
		return false;
	memcpy(&l, left->label, sizeof(l));
	cmd = xstrndup(l.cmd, strnlen(l.cmd, sizeof(l.cmd)));
	run = brun_new(b, x->id, cmd);
	run->exec = x;
	run->adopted = true;
	run->started_ms -= (int64_t)left->age_ms;
	run->terminal = l.flags & HAS_TERMINAL;
	run->separate = l.flags & IS_SEPARATE;
	run->input = l.flags & HAS_INPUT;
	run->keep_last = l.flags & KEEPS_LAST;
	b->s->engine->ops->exec_on_more(x, on_more);
	b->s->engine->ops->claim(x, on_done, run);
	return true;
}

/* -- starting, from the body ----------------------------------------------------------------------------------------------- */

static int start(struct sandbox *b, json_t *body, struct brun **ret, struct err *err)
{
	static const char *const term[] = { "TERM=xterm-256color", NULL };
	struct engine_exec_spec spec = { .log_fd = -1 };
	struct wishes w = { .rows = 24, .cols = 80 };
	char id[TASK_ID_LEN];
	struct run_label label;
	struct brun *run;
	int r = run_spec_read(b->s, body, &spec, err);

	r = r < 0 ? r : read_wishes(body, &w, err);
	if (r == 0 && w.terminal && spec.separate)
		r = err_set(err, -EINVAL, "separate: a terminal has one output; expected false with tty");
	r = r < 0 ? r : make_room(b, err);
	if (r < 0)
		return r;
	spec.terminal = w.terminal;
	spec.input = w.input && !w.terminal;
	spec.keep_last = w.keep_last || w.terminal;
	spec.rows = (uint16_t)w.rows;
	spec.cols = (uint16_t)w.cols;
	spec.fetch = true;
	spec.more = on_more;
	spec.env = w.terminal ? term : NULL;
	if (spec.keep_last)
		spec.max_bytes = MAX(spec.max_bytes, (uint64_t)TAIL_MIN_BYTES);
	make_id(id);
	run = brun_new(b, id, spec.cmd);
	run->terminal = spec.terminal;
	run->separate = spec.separate;
	run->input = spec.input;
	run->keep_last = spec.keep_last;
	label = label_of(run);
	spec.id = run->id;
	spec.label = &label;
	spec.label_len = sizeof(label);
	r = b->s->engine->ops->exec(b->box, &spec, on_done, run, &run->exec, err);
	if (r < 0) {
		brun_free(run);
		return r;
	}
	b->s->counts.runs_total++;
	*ret = run;
	return 0;
}

static int start_body(struct start_use *u, const char *data, size_t len, struct brun **ret, struct err *err)
{
	struct sandbox *b = u->use.b;
	auto_json body = NULL;
	int r = json_read_object(&body, data, len, err);

	if (r < 0)
		return r;
	if (b->state != SANDBOX_READY) {
		sandbox_explain(b->s, b->end_reason, err);
		return err->code;
	}
	return start(b, body, ret, err);
}

static void on_start_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct start_use *u = arg;
	struct brun *run = NULL;
	struct err err;

	if (!use_alive(&u->use))
		return;
	if (start_body(u, data, len, &run, &err) < 0)
		api_reply_err(req, &err);
	else
		reply_run(req, 201, run);
}

static void start_handler(struct http_req *req, void *sandboxes)
{
	struct start_use *u = http_req_alloc(req, sizeof(*u));
	struct err err;
	struct sandbox *b = sandbox_here(sandboxes, req, &err);

	if (!b) {
		api_reply_err(req, &err);
		return;
	}
	use_start(&u->use, req, b, NULL);
	http_req_body(req, BODY_MAX_BYTES, on_start_body, u);
}

/* -- looking ----------------------------------------------------------------------------------------------------------------------- */

static void list_handler(struct http_req *req, void *sandboxes)
{
	struct err err;
	struct sandbox *b = sandbox_here(sandboxes, req, &err);
	uint64_t limit, offset, i = 0;
	auto_buf struct buf text = { 0 };
	struct json_writer w;

	if (!b || api_page(req, LIST_DEFAULT, LIST_MAX, &limit, &offset, &err) < 0) {
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
	struct brun *run = brun_of_request(sandboxes, req, u, NULL);

	if (run)
		reply_run(req, 200, run);
}

static void on_wait_closed(struct use *u)
{
	waiter_leaves(container_of(u, struct run_waiter, use));
}

static void on_wait_limit(struct loop_timer *t UNUSED, void *arg)
{
	struct run_waiter *w = arg;

	waiter_leaves(w);
	reply_run(w->use.req, 200, w->run);
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
	w->run = brun_of_request(s, req, &w->use, on_wait_closed);
	if (!w->run)
		return;
	if (w->run->over) {
		reply_run(req, 200, w->run);
		return;
	}
	http_req_watch_peer(req);
	list_push_back(&w->run->waiters, &w->node);
	loop_timer_start(&w->limit, w->limit_ms);
}

/* -- acting ------------------------------------------------------------------------------------------------------------------------ */

struct act { /* a request whose answer waits for the engine's; outlives it */
	struct use *u; /* NULL = the request is gone */
};

static void on_acted(void *arg, const struct err *err)
{
	struct act *a = arg;

	if (a->u)
		a->u->back = NULL;
	if (a->u && err)
		api_reply_err(a->u->req, err);
	else if (a->u)
		reply_empty(a->u->req);
	free(a);
}

static struct act *act_new(struct use *u)
{
	struct act *a = NEW(struct act);

	a->u = u;
	u->back = &a->u;
	return a;
}

struct act_use { /* in the request's memory */
	struct use use;
	char id[TASK_ID_LEN]; /* the run may be gone when the body is there */
};

/* Of a request with a body: the run again, which must be alive. */
static struct brun *alive_again(struct act_use *u, struct err *err)
{
	struct brun *run = find(u->use.b, u->id, err);

	if (run && run->over) {
		err_set(err, -EEXIST, "run %s is over", run->id);
		return NULL;
	}
	return run;
}

static int signal_number(json_t *v)
{
	static const struct {
		const char *name;
		int number;
	} names[] = {
		{ "HUP", SIGHUP }, { "INT", SIGINT }, { "QUIT", SIGQUIT }, { "KILL", SIGKILL }, { "USR1", SIGUSR1 },
		{ "USR2", SIGUSR2 }, { "TERM", SIGTERM }, { "CONT", SIGCONT }, { "STOP", SIGSTOP }, { "TSTP", SIGTSTP },
		{ "WINCH", SIGWINCH },
	};
	const char *text = json_string_value(v);

	if (json_is_integer(v))
		return json_integer_value(v) >= 1 && json_integer_value(v) <= 64 ? (int)json_integer_value(v) : -EINVAL;
	if (!text)
		return -EINVAL;
	text += strncasecmp(text, "SIG", 3) == 0 ? 3 : 0;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcasecmp(names[i].name, text) == 0)
			return names[i].number;
	return -EINVAL;
}

static int send_signal(struct act_use *u, json_t *body, struct err *err)
{
	bool foreground = false;
	struct brun *run = alive_again(u, err);
	int signo = signal_number(json_object_get(body, "signal"));

	if (!run || json_get_bool(body, "foreground", &foreground, err) < 0)
		return err->code;
	if (signo < 0)
		return err_set(err, -EINVAL, "signal: expected 1 to 64, or a name such as \"TERM\"");
	if (foreground && !run->terminal)
		return err_set(err, -EINVAL, "foreground: the run has no terminal");
	u->use.b->s->engine->ops->exec_signal(run->exec, signo, foreground, on_acted, act_new(&u->use));
	return 0;
}

static int resize(struct act_use *u, json_t *body, struct err *err)
{
	int64_t rows = 0, cols = 0;
	struct brun *run = alive_again(u, err);
	int r = run ? json_get_i64(body, "rows", 1, SIZE_MAX_CELLS, &rows, err) : err->code;

	r = r < 0 ? r : json_get_i64(body, "cols", 1, SIZE_MAX_CELLS, &cols, err);
	if (r < 0)
		return r;
	if (!rows || !cols)
		return err_set(err, -EINVAL, "%s: missing: expected the terminal's size", rows ? "cols" : "rows");
	if (!run->terminal)
		return err_set(err, -EINVAL, "the run has no terminal: start it with \"tty\": true");
	u->use.b->s->engine->ops->exec_resize(run->exec, (uint16_t)rows, (uint16_t)cols, on_acted, act_new(&u->use));
	return 0;
}

static void act_body(struct act_use *u, const char *data, size_t len, int (*fn)(struct act_use *, json_t *, struct err *))
{
	auto_json body = NULL;
	struct err err;

	if (use_alive(&u->use) && (json_read_object(&body, data, len, &err) < 0 || fn(u, body, &err) < 0))
		api_reply_err(u->use.req, &err);
}

static void on_signal_body(struct http_req *req UNUSED, const char *data, size_t len, void *arg)
{
	act_body(arg, data, len, send_signal);
}

static void on_resize_body(struct http_req *req UNUSED, const char *data, size_t len, void *arg)
{
	act_body(arg, data, len, resize);
}

static void act_handler(struct http_req *req, struct sandboxes *s, http_body_fn *fn)
{
	struct act_use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run = brun_of_request(s, req, &u->use, NULL);

	if (!run)
		return;
	snprintf(u->id, sizeof(u->id), "%s", run->id);
	http_req_body(req, BODY_MAX_BYTES, fn, u);
}

static void signal_handler(struct http_req *req, void *sandboxes)
{
	act_handler(req, sandboxes, on_signal_body);
}

static void resize_handler(struct http_req *req, void *sandboxes)
{
	act_handler(req, sandboxes, on_resize_body);
}

/* One that runs is killed; its end is nobody's concern any more. */
static void delete_handler(struct http_req *req, void *sandboxes)
{
	struct use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run = brun_of_request(sandboxes, req, u, NULL);

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
	reply_empty(req);
}

void runs_routes(struct sandboxes *s, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs", start_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs", list_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs/{run}", get_handler, s);
	http_router_add(r, "DELETE", "/v1/sandboxes/{id}/runs/{run}", delete_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}/runs/{run}/output", run_output_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/stdin", run_input_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/signal", signal_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/resize", resize_handler, s);
	http_router_add(r, "POST", "/v1/sandboxes/{id}/runs/{run}/wait", wait_handler, s);
}
