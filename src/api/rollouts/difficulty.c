/* GET /v1/environments/{owner}/{name}/task-difficulty: rewards and lengths by task, from the rollouts that were logged
 * (rollout/difficulty.h). */
#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/common/question.h"
#include "base/mem.h"
#include "base/str.h"
#include "rollout/difficulty.h"

struct asked {
	struct question q;
	char environment_id[STORE_ID_LEN];
	bool everybody;                                      /* not only the namespace's own rollouts */
	char *variant, *split, *model_name, *training_stage; /* NULL = any */
	int64_t min_params, max_params;                      /* -1 = any */
	struct difficulty *known;
};

static void asked_done(struct question *q)
{
	struct asked *d = (struct asked *)q;

	free(d->variant);
	free(d->split);
	free(d->model_name);
	free(d->training_stage);
}

static void on_work(void *arg, struct store_reader *r)
{
	struct asked *d = arg;
	struct json_writer *w = &d->q.w;
	const struct record_task_filter f = {
		.namespace_id = d->everybody ? NULL : d->q.namespace_id,
		.variant = d->variant,
		.split = d->split,
		.model_name = d->model_name,
		.training_stage = d->training_stage,
		.min_model_params = d->min_params,
		.max_model_params = d->max_params,
		.task_index = -1,
	};

	json_open_object(w);
	json_key(w, "tasks");
	if (difficulty_write(d->known, r, d->environment_id, &f, w, &d->q.err) < 0)
		return; /* q.err is answered */
	json_close(w);
}

/* -- the request --------------------------------------------------------------------------------------------------- */

static int read_count(struct http_req *req, const char *name, int64_t *ret, struct err *err)
{
	const char *text = http_req_query(req, name);

	*ret = -1;
	if (str_empty(text) || (str_to_i64(text, ret) == 0 && *ret >= 0))
		return 0;
	return err_set(err, -EINVAL, "%s: \"%.100s\": expected a whole number", name, text);
}

static int read_stage(struct asked *d, struct http_req *req, struct err *err)
{
	const char *text = http_req_query(req, "training_stage");

	if (str_empty(text))
		return 0;
	if (!str_eq(text, "pretrained") && !str_eq(text, "sft") && !str_eq(text, "rl"))
		return err_set(err, -EINVAL, "training_stage: \"%.100s\": expected pretrained, sft or rl", text);
	d->training_stage = xstrdup(text);
	return 0;
}

static int read_text(struct http_req *req, const char *name, char **ret, struct err *err)
{
	const char *text = NULL;
	int r = api_text(req, name, &text, err);

	*ret = r == 0 && text ? xstrdup(text) : NULL;
	return r;
}

static int read_filter(struct asked *d, struct http_req *req, struct err *err)
{
	int r = read_count(req, "min_model_params", &d->min_params, err);

	r = r < 0 ? r : read_count(req, "max_model_params", &d->max_params, err);
	r = r < 0 ? r : read_stage(d, req, err);
	r = r < 0 ? r : read_text(req, "variant", &d->variant, err);
	r = r < 0 ? r : read_text(req, "split", &d->split, err);
	return r < 0 ? r : read_text(req, "model_name", &d->model_name, err);
}

/* What others did with an environment is its owner's to know, and nobody else's. */
static int find_environment(struct asked *d, struct api *a, struct http_req *req, struct err *err)
{
	const struct auth_caller *c;
	struct store_environment *e = NULL;
	int r = auth_request(a->auth, req, &c, err);

	r = r < 0 ? r
		  : auth_find_environment(a->auth, c, http_req_param(req, "owner"), http_req_param(req, "name"), &e,
					  err);
	if (r < 0)
		return r;
	memcpy(d->environment_id, e->id, sizeof(d->environment_id));
	d->everybody = auth_role_in(c, e->ns) != AUTH_NOBODY;
	return 0;
}

static void on_difficulty(struct http_req *req, void *arg)
{
	struct asked *d = question_new(arg, req, sizeof(*d));
	struct err err;

	if (!d)
		return;
	d->known = ((struct api *)arg)->difficulty;
	d->q.work = on_work;
	d->q.done = asked_done;
	if (find_environment(d, arg, req, &err) < 0 || read_filter(d, req, &err) < 0)
		question_refuse(&d->q, &err);
	else
		question_ask(arg, &d->q);
}

void api_difficulty_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/task-difficulty", on_difficulty, a);
}
