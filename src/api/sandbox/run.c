/* api/sandbox/run.c: POST /run: commands as tasks (tasks.h). */
#include <errno.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "api/sandbox/private.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/outcome.h"

#define PARSE_INLINE_BYTES (256u * 1024) /* larger bodies are parsed by a worker */
#define TIMEOUT_MAX_S 2.0e9
#define OUTPUT_STEP (9u * 1024)          /* of output at once: a multiple of 3, 12 KiB in base64 */

struct run_use { /* one request; in its memory */
	struct use use;
	struct task_stream stream;
	struct held *held;  /* NULL = it does not wait */
};

/* A request that waits until those who know their task_id have come: tasks.h. */
struct held {
	struct run_use *u;
	json_t *body;
	unsigned char key[TASK_KEY_LEN];
	struct loop_timer timer;
};

/* One body on its way through a worker. */
struct parse {
	struct use *u;  /* NULL = the request is gone */
	char *data;     /* owned when a worker reads it */
	size_t len;
	json_t *body;
	unsigned char key[TASK_KEY_LEN];
	struct err err;
};

/* A run's result, for its task. */
struct run {
	struct task *task;      /* NULL = over, and nobody's */
	struct engine *engine;
	struct engine_exec *exec;
	struct engine_exec_result res;
};

/* -- results ------------------------------------------------------------------------------------------------------- */

static void run_release(void *arg)
{
	struct run *run = arg;

	if (run->exec)
		run->engine->ops->exec_release(run->exec);
	free(run);
}

static ssize_t put_head(const struct run *run, char *p, size_t cap)
{
	const struct engine_exec_result *r = &run->res;
	int n = snprintf(p, cap,
			 "{\"return_code\":%d,\"timed_out\":%s,\"outcome\":\"%s\",\"trainable\":%s,\"duration_ms\":%.3f,\"cpu_ms\":%.3f,"
			 "\"peak_bytes\":%llu,\"output_bytes\":%llu,\"dropped_bytes\":%llu,\"output\":\"",
			 r->return_code, r->timed_out ? "true" : "false", engine_outcome_name(r->outcome),
			 outcome_trainable(r->outcome) ? "true" : "false", (double)r->duration_us / 1000, (double)r->cpu_us / 1000,
			 (unsigned long long)r->peak_bytes, (unsigned long long)r->bytes, (unsigned long long)r->dropped);

	return n > 0 && (size_t)n < cap ? n : -ENOBUFS;
}

/* Whole triples in every step but the last, so the pieces join to one base64 text. */
static ssize_t put_output(const struct run *run, uint64_t offset, char *p, size_t cap, size_t *ret_read)
{
	char raw[OUTPUT_STEP];
	size_t want = MIN(sizeof(raw), cap / 4 * 3 - 3), got = 0;
	ssize_t n = 1;

	want -= want % 3;
	while (got < want && (n = run->engine->ops->exec_read(run->exec, offset + got, raw + got, want - got)) > 0)
		got += (size_t)n;
	*ret_read = got;
	/* EVP_EncodeBlock writes a NUL behind, for which cap leaves room. */
	return n < 0 ? n : EVP_EncodeBlock((unsigned char *)p, (const unsigned char *)raw, (int)got);
}

/* pos: 0 = at the head, n = n - 1 bytes of output are told, UINT64_MAX = all is. */
static ssize_t run_read(void *arg, uint64_t *pos, char *p, size_t cap)
{
	struct run *run = arg;
	size_t got = 0;
	ssize_t n;

	if (*pos == UINT64_MAX)
		return 0;
	if (*pos == 0) {
		n = put_head(run, p, cap);
		*pos = 1;
		return n;
	}
	if (run->res.separate)
		return frames_read(&(struct frames){ run->engine, run->exec, run->res.stored }, pos, p, cap);
	n = put_output(run, *pos - 1, p, cap, &got);
	*pos += got;
	if (n != 0)
		return n;
	*pos = UINT64_MAX;
	memcpy(p, "\"}", 2);
	return 2;
}

static void on_done(void *arg, struct engine_exec *x UNUSED, const struct engine_exec_result *res, const struct err *err)
{
	struct run *run = arg;
	struct task *task = run->task;

	run->task = NULL;
	if (res)
		run->res = *res;
	if (err)
		task_fail(task, err->msg);
	else
		task_finish(task, run_read);
}

/* -- the request's body -------------------------------------------------------------------------------------------- */

static int read_timeout(json_t *body, uint64_t *ret_ms, struct err *err)
{
	double s = 0;
	int r = json_get_double(body, "timeout_s", 0, TIMEOUT_MAX_S, &s, err);

	*ret_ms = (uint64_t)ceil(s * 1000);
	return r;
}

int run_spec_read(const struct sandboxes *s, json_t *body, struct engine_exec_spec *ret, struct err *err)
{
	int64_t max = -1;
	int r = json_need_str(body, "cmd", &ret->cmd, err);

	r = r < 0 ? r : json_get_str(body, "shell", &ret->shell, err);
	r = r < 0 ? r : json_get_bool(body, "separate", &ret->separate, err);
	r = r < 0 ? r : json_get_i64(body, "max_bytes", 0, INT64_MAX, &max, err);
	r = r < 0 ? r : read_timeout(body, &ret->timeout_ms, err);
	if (r < 0)
		return r;
	ret->cmd_len = strlen(ret->cmd);
	ret->max_bytes = max >= 0 ? (uint64_t)max : s->settings.result_bytes ? s->settings.result_bytes : UINT64_MAX;
	ret->log_fd = -1;
	return 0;
}

static struct run *run_new(struct sandbox *b)
{
	struct run *run = NEW(struct run);

	run->engine = b->s->engine;
	return run;
}

void run_adopt(struct sandbox *b, struct engine_exec *x, const struct engine_left *left)
{
	struct run *run = run_new(b);

	run->exec = x;
	run->task = task_restore(b->tasks, x->id, left->label, left->label_len,
				 &(struct task_result){ .release = run_release, .arg = run });
	run->engine->ops->claim(x, on_done, run);
}

static int start(struct sandbox *b, json_t *body, const unsigned char *key, struct task **ret, struct err *err)
{
	struct engine_exec_spec spec = { .log_fd = -1 };
	unsigned char label[TASK_LABEL_LEN];
	struct run *run;
	int r = run_spec_read(b->s, body, &spec, err);

	if (r < 0)
		return r;
	commands_make_room(b);
	run = run_new(b);
	run->task = task_new(b->tasks, key, &(struct task_result){ .release = run_release, .arg = run });
	spec.id = task_id(run->task);
	task_label(run->task, label);
	spec.label = label;
	spec.label_len = sizeof(label);
	r = run->engine->ops->exec(b->box, &spec, on_done, run, &run->exec, err);
	if (r < 0) {
		task_drop(run->task);
		free(run);
		return r;
	}
	b->s->counts.runs_total++;
	*ret = run->task;
	return 0;
}

static void resume(struct run_use *u, const char *id)
{
	struct task *task = task_find(u->use.b->tasks, id);

	if (!task) {
		sse_error(sse_start(u->use.req), "unknown task_id");
		return;
	}
	u->use.b->s->counts.resumed_total++;
	task_claim(task);
	task_attach(task, &u->stream, u->use.req, false);
}

static int run_new_or_twin(struct run_use *u, json_t *body, const unsigned char *key, struct err *err)
{
	struct sandbox *b = u->use.b;
	struct task *task = task_find_twin(b->tasks, key);
	int r = 0;

	if (task)
		b->s->counts.twins_total++;
	else
		r = start(b, body, key, &task, err);
	if (r == 0)
		task_attach(task, &u->stream, u->use.req, true);
	return r;
}

static void held_free(struct held *h)
{
	loop_timer_stop(&h->timer);
	if (h->u->use.b)
		tasks_waited(h->u->use.b->tasks, h->key);
	h->u->held = NULL;
	json_decref(h->body);
	free(h);
}

static void on_held(struct loop_timer *t UNUSED, void *arg)
{
	struct held *h = arg;
	struct run_use *u = h->u;
	struct err err = ERR_INIT;

	if (!use_alive(&u->use))
		err.code = 0; /* answered */
	else if (u->use.b->state == SANDBOX_ENDING)
		sandbox_explain(u->use.b->s, u->use.b->end_reason, &err);
	else if (run_new_or_twin(u, h->body, h->key, &err) == 0)
		err.code = 0;
	if (err.code < 0)
		api_reply_err(u->use.req, &err);
	held_free(h);
}

static void hold(struct run_use *u, json_t *body, const unsigned char *key)
{
	struct sandboxes *s = u->use.b->s;
	struct held *h = NEW(struct held);

	h->u = u;
	h->body = json_incref(body);
	memcpy(h->key, key, TASK_KEY_LEN);
	u->held = h;
	/* One that has gone begins nothing, and takes no place of those who may wait: its client comes again. */
	http_req_watch_peer(u->use.req);
	loop_timer_init(&h->timer, s->loop, on_held, h);
	loop_timer_start(&h->timer, s->settings.claim_ms);
}

static int run_body(struct run_use *u, json_t *body, const unsigned char *key, struct err *err)
{
	struct engine_exec_spec unused = { .log_fd = -1 };
	const char *id = NULL;
	int r = json_get_str(body, "task_id", &id, err);

	if (r == 0 && id) /* it comes with the same body, which is held to the same */
		r = run_spec_read(u->use.b->s, body, &unused, err);
	if (r < 0)
		return r;
	if (id)
		resume(u, id);
	else if (tasks_wait(u->use.b->tasks, key))
		hold(u, body, key);
	else
		return run_new_or_twin(u, body, key, err);
	return 0;
}

/* -- parsing ------------------------------------------------------------------------------------------------------- */

static void parse(void *arg)
{
	struct parse *p = arg;

	if (EVP_Digest(p->data, p->len, p->key, NULL, EVP_sha256(), NULL) != 1)
		err_set(&p->err, -EIO, "SHA-256 is not to be had");
	else if (json_read_object(&p->body, p->data, p->len, &p->err) == 0)
		p->err.code = 0;
}

static void parsed(struct parse *p)
{
	struct use *u = p->u;

	if (!u || !use_alive(u))
		return;
	if (p->err.code == 0 && u->b->state == SANDBOX_ENDING)
		sandbox_explain(u->b->s, u->b->end_reason, &p->err);
	if (p->err.code < 0 || run_body(container_of(u, struct run_use, use), p->body, p->key, &p->err) < 0)
		api_reply_err(u->req, &p->err);
}

static void on_parsed(void *arg)
{
	struct parse *p = arg;

	if (p->u)
		p->u->back = NULL;
	parsed(p);
	json_decref(p->body);
	free(p->data);
	free(p);
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct run_use *u = arg;
	struct parse *p;

	if (len <= PARSE_INLINE_BYTES) {
		struct parse here = { .u = &u->use, .data = (char *)(uintptr_t)data, .len = len };

		parse(&here);
		parsed(&here);
		json_decref(here.body);
		return;
	}
	p = NEW(struct parse);
	/* Taken: the request may be gone before the worker is. */
	*p = (struct parse){ .u = &u->use, .data = http_req_take_body(req, NULL), .len = len };
	u->use.back = &p->u;
	loop_work(http_req_loop(req), LOOP_LANE_ANY, parse, on_parsed, p);
}

static void on_closed(struct use *u)
{
	struct run_use *r = container_of(u, struct run_use, use);

	if (r->held)
		held_free(r->held);
	task_stream_closed(&r->stream, u->complete);
}

void run_handler(struct http_req *req, void *sandboxes)
{
	struct sandbox *b = sandbox_of_request(sandboxes, req, run_handler);
	struct run_use *u;

	if (!b)
		return;
	u = http_req_alloc(req, sizeof(*u));
	*u = (struct run_use){ .stream = { .task = NULL } };
	use_start(&u->use, req, b, on_closed);
	http_req_body(req, 0, on_body, u);
}

/* -- /set_network -------------------------------------------------------------------------------------------------- */

void set_network_handler(struct http_req *req, void *sandboxes)
{
	struct err err;

	if (!sandbox_of_request(sandboxes, req, set_network_handler))
		return;
	err_set(&err, -EINVAL, "network: policies are not supported here yet; no sandbox was made with one");
	api_reply_err(req, &err);
}
