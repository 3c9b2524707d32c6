/* api/sandbox/runs_start.c: the beginning of a run in the background, by a request or, of one that is there already, by a daemon
 * that takes over. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "api/sandbox/runs.h"
#include "base/mem.h"
#include "base/str.h"

#define TAIL_MIN_BYTES (64u * 1024)

/* -- starting ------------------------------------------------------------------------------------------------------ */

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
	r = r < 0 ? r : json_get_i64(body, "rows", 1, RUNS_CELLS_MAX, &ret->rows, err);
	r = r < 0 ? r : json_get_i64(body, "cols", 1, RUNS_CELLS_MAX, &ret->cols, err);
	r = r < 0 ? r : json_get_str(body, "keep", &keep, err);
	if (r < 0)
		return r;
	if (!str_eq(keep, "first") && !str_eq(keep, "last"))
		return err_set(err, -EINVAL, "keep: \"%.100s\": expected \"first\" or \"last\"", keep);
	ret->keep_last = str_eq(keep, "last");
	return 0;
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
	b->s->engine->ops->exec_on_more(x, brun_on_more);
	b->s->engine->ops->claim(x, brun_on_done, run);
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
	r = r < 0 ? r : runs_make_room(b, err);
	if (r < 0)
		return r;
	commands_make_room(b);
	spec.terminal = w.terminal;
	spec.input = w.input && !w.terminal;
	spec.keep_last = w.keep_last || w.terminal;
	spec.rows = (uint16_t)w.rows;
	spec.cols = (uint16_t)w.cols;
	spec.fetch = true;
	spec.more = brun_on_more;
	spec.env = w.terminal ? term : NULL;
	if (spec.keep_last)
		spec.max_bytes = MAX(spec.max_bytes, (uint64_t)TAIL_MIN_BYTES);
	task_make_id(id);
	run = brun_new(b, id, spec.cmd);
	run->terminal = spec.terminal;
	run->separate = spec.separate;
	run->input = spec.input;
	run->keep_last = spec.keep_last;
	label = label_of(run);
	spec.id = run->id;
	spec.label = &label;
	spec.label_len = sizeof(label);
	r = b->s->engine->ops->exec(b->box, &spec, brun_on_done, run, &run->exec, err);
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
		brun_reply(req, 201, run);
}

void run_start_handler(struct http_req *req, void *sandboxes)
{
	struct sandbox *b = runs_sandbox(sandboxes, req, run_start_handler);
	struct start_use *u;

	if (!b)
		return;
	u = http_req_alloc(req, sizeof(*u));
	use_start(&u->use, req, b, NULL);
	http_req_body(req, RUNS_BODY_MAX, on_start_body, u);
}
