/* GET /v1/environments/{owner}/{name}/task-difficulty: rewards and lengths by task, from the rollouts that were logged. Sums of
 * one rollout are made as its events come (store/record.h); here are read only those of the environment, without messages. */
#include <errno.h>
#include <string.h>

#include "api/errors.h"
#include "api/question.h"
#include "base/mem.h"
#include "base/str.h"
#include "rollout/stats.h"

struct difficulty {
	struct question q;
	char environment_id[STORE_ID_LEN];
	bool everybody; /* not only the namespace's own rollouts */
	char *variant, *split, *model_name, *training_stage; /* NULL = any */
	int64_t min_params, max_params;                      /* -1 = any */
	/* the worker's: the task that is being summed up */
	char *task_split, *task_variant;
	int64_t task_index;
	struct stats stats;
};

static void difficulty_done(struct question *q)
{
	struct difficulty *d = (struct difficulty *)q;

	free(d->variant);
	free(d->split);
	free(d->model_name);
	free(d->training_stage);
	free(d->task_split);
	free(d->task_variant);
	stats_done(&d->stats);
}

/* -- the worker's -------------------------------------------------------------------------------------------------- */

static void write_chars(struct json_writer *w, struct stats *s)
{
	static const struct {
		const char *name;
		double percent;
	} percentiles[] = { { "p1", 1 }, { "p10", 10 }, { "p25", 25 }, { "p50", 50 }, { "p75", 75 }, { "p90", 90 }, { "p99", 99 } };

	stats_sort(s);
	json_key(w, "response_chars");
	json_open_object(w);
	json_kv_double(w, "mean", stats_mean(s));
	for (size_t i = 0; i < ARRAY_LEN(percentiles); i++)
		json_kv_double(w, percentiles[i].name, stats_percentile(s, percentiles[i].percent));
	json_close(w);
}

static void write_task(struct difficulty *d)
{
	struct json_writer *w = &d->q.w;
	struct stats *s = &d->stats;

	if (!s->n)
		return;
	json_open_object(w);
	json_kv_i64(w, "task_index", d->task_index);
	json_kv_double(w, "avg_reward", s->reward_sum / (double)s->n);
	json_kv_double(w, "min_reward", s->reward_min);
	json_kv_double(w, "max_reward", s->reward_max);
	json_kv_i64(w, "num_rollouts", (int64_t)s->n);
	write_chars(w, s);
	json_kv_str(w, "split", *d->task_split ? d->task_split : NULL);
	json_kv_str(w, "variant", *d->task_variant ? d->task_variant : NULL);
	json_close(w);
	stats_clear(s);
}

static void on_task(void *arg, const struct record_task *t)
{
	struct difficulty *d = arg;

	if (t->task_index != d->task_index || !str_eq(d->task_split, t->split) || !str_eq(d->task_variant, t->variant)) {
		write_task(d);
		store_set_str(&d->task_split, t->split);
		store_set_str(&d->task_variant, t->variant);
		d->task_index = t->task_index;
	}
	stats_add(&d->stats, t->reward, t->response_chars);
}

static void on_work(void *arg, struct store_reader *r)
{
	struct difficulty *d = arg;
	struct json_writer *w = &d->q.w;
	const struct record_task_filter f = {
		.namespace_id = d->everybody ? NULL : d->q.namespace_id, .variant = d->variant, .split = d->split,
		.model_name = d->model_name, .training_stage = d->training_stage, .min_model_params = d->min_params,
		.max_model_params = d->max_params,
	};

	json_open_object(w);
	json_key(w, "tasks");
	json_open_array(w);
	if (store_tasks(r, d->environment_id, &f, on_task, d, &d->q.err) < 0)
		return;
	write_task(d);
	json_close(w);
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

static int read_stage(struct difficulty *d, struct http_req *req, struct err *err)
{
	const char *text = http_req_query(req, "training_stage");

	if (str_empty(text))
		return 0;
	if (!str_eq(text, "pretrained") && !str_eq(text, "sft") && !str_eq(text, "rl"))
		return err_set(err, -EINVAL, "training_stage: \"%.100s\": expected pretrained, sft or rl", text);
	d->training_stage = xstrdup(text);
	return 0;
}

static char *text_or_any(struct http_req *req, const char *name)
{
	const char *text = http_req_query(req, name);

	return str_empty(text) ? NULL : xstrdup(text);
}

static int read_filter(struct difficulty *d, struct http_req *req, struct err *err)
{
	int r = read_count(req, "min_model_params", &d->min_params, err);

	r = r < 0 ? r : read_count(req, "max_model_params", &d->max_params, err);
	r = r < 0 ? r : read_stage(d, req, err);
	d->variant = text_or_any(req, "variant");
	d->split = text_or_any(req, "split");
	d->model_name = text_or_any(req, "model_name");
	return r;
}

/* What others did with an environment is its owner's to know, and nobody else's. */
static int find_environment(struct difficulty *d, struct api *a, struct http_req *req, struct err *err)
{
	const struct auth_caller *c;
	struct store_environment *e = NULL;
	int r = auth_request(a->auth, req, &c, err);

	r = r < 0 ? r : auth_find_environment(a->auth, c, http_req_param(req, "owner"), http_req_param(req, "name"), &e, err);
	if (r < 0)
		return r;
	memcpy(d->environment_id, e->id, sizeof(d->environment_id));
	d->everybody = c->role == STORE_ROLE_ADMIN || c->ns == e->ns;
	return 0;
}

static void on_difficulty(struct http_req *req, void *arg)
{
	struct difficulty *d = question_new(arg, req, sizeof(*d));
	struct err err;

	if (!d)
		return;
	stats_init(&d->stats);
	d->q.work = on_work;
	d->q.done = difficulty_done;
	if (find_environment(d, arg, req, &err) < 0 || read_filter(d, req, &err) < 0)
		question_refuse(&d->q, &err);
	else
		question_ask(arg, &d->q);
}

void api_difficulty_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/task-difficulty", on_difficulty, a);
}
