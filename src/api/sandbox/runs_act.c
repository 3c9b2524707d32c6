/* api/sandbox/runs_act.c: what is done to a run while it is alive: signals, a new size of its terminal. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/api.h"
#include "api/sandbox/runs.h"
#include "base/mem.h"
#include "base/str.h"

struct act { /* a request whose answer waits for the engine's; outlives it */
	struct use *u; /* NULL = the request is gone */
};

/* That nobody is there whom it could reach, at the front of its terminal or any more, is no fault of ours. */
static void refuse(struct http_req *req, const struct err *err)
{
	struct err e = *err;

	if (e.code == -ESRCH || e.code == -ENOTTY)
		e.code = -EEXIST;
	api_reply_err(req, &e);
}

static void on_acted(void *arg, const struct err *err)
{
	struct act *a = arg;

	if (a->u)
		a->u->back = NULL;
	if (a->u && err)
		refuse(a->u->req, err);
	else if (a->u)
		runs_reply_empty(a->u->req);
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
	struct brun *run = runs_find(u->use.b, u->id, err);

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
	int r = run ? json_get_i64(body, "rows", 1, RUNS_CELLS_MAX, &rows, err) : err->code;

	r = r < 0 ? r : json_get_i64(body, "cols", 1, RUNS_CELLS_MAX, &cols, err);
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

static void act_handler(struct http_req *req, struct sandboxes *s, http_handler_fn *handler, http_body_fn *fn)
{
	struct act_use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run = brun_of_request(s, req, handler, &u->use, NULL);

	if (!run)
		return;
	snprintf(u->id, sizeof(u->id), "%s", run->id);
	http_req_body(req, RUNS_BODY_MAX, fn, u);
}

void run_signal_handler(struct http_req *req, void *sandboxes)
{
	act_handler(req, sandboxes, run_signal_handler, on_signal_body);
}

void run_resize_handler(struct http_req *req, void *sandboxes)
{
	act_handler(req, sandboxes, run_resize_handler, on_resize_body);
}
