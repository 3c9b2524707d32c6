/* rollout/difficulty.c: see tasks.h. */
#include "rollout/difficulty.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "rollout/stats.h"

struct task {
	char *split, *variant;
	int64_t index;
	char *json; /* NULL = no rollout counts for it */
	size_t len;
};

/* What is known of one question. Taken out of the list while a worker has it. */
struct answer {
	char *key;
	int64_t version; /* of the environment's tasks */
	struct map *by_name;
	struct task **list; /* in order, once sorted */
	size_t n, cap, bytes;
	bool sorted;
	struct list all;
};

struct difficulty {
	pthread_mutex_t lock; /* of the next three */
	struct list answers;  /* struct answer, the one that was asked for last first */
	size_t bytes, max_bytes;
	_Atomic uint64_t computed;
};

/* What a worker has at hand. */
struct work {
	struct difficulty *owner;
	struct answer *answer;
	struct store_reader *reader;
	const char *environment_id;
	const struct record_task_filter *filter;
	struct stats stats;
	struct task *task; /* that is being summed up; NULL = none */
	struct err *err;
};

/* -- answers ------------------------------------------------------------------------------------------------------- */

static void answer_free(struct answer *a)
{
	for (size_t i = 0; i < a->n; i++) {
		free(a->list[i]->split);
		free(a->list[i]->variant);
		free(a->list[i]->json);
		free(a->list[i]);
	}
	free(a->list);
	map_free(a->by_name);
	free(a->key);
	free(a);
}

static struct answer *answer_take(struct difficulty *d, const char *key)
{
	struct answer *found = NULL;

	pthread_mutex_lock(&d->lock);
	list_foreach(&d->answers, struct answer, all, a) {
		if (str_eq(a->key, key)) {
			list_remove(&a->all);
			d->bytes -= a->bytes;
			found = a;
			break;
		}
	}
	pthread_mutex_unlock(&d->lock);
	return found;
}

static void answer_put(struct difficulty *d, struct answer *a)
{
	pthread_mutex_lock(&d->lock);
	list_push_front(&d->answers, &a->all);
	d->bytes += a->bytes;
	while (d->bytes > d->max_bytes && !list_empty(&d->answers)) {
		struct answer *last = container_of(d->answers.prev, struct answer, all);
		list_remove(&last->all);
		d->bytes -= last->bytes;
		answer_free(last);
	}
	pthread_mutex_unlock(&d->lock);
}

static struct answer *answer_new(const char *key)
{
	struct answer *a = NEW(struct answer);

	a->key = xstrdup(key);
	a->bytes = sizeof(*a) + strlen(key);
	a->by_name = map_new();
	list_init(&a->all);
	return a;
}

static struct task *task_of(struct answer *a, const char *split, const char *variant, int64_t index)
{
	auto_free char *name = xasprintf("%zu:%s:%s:%lld", strlen(split), split, variant, (long long)index);
	struct task *t = map_get(a->by_name, name);

	if (t)
		return t;
	t = NEW(struct task);
	t->split = xstrdup(split);
	t->variant = xstrdup(variant);
	t->index = index;
	if (a->n == a->cap) {
		a->cap = MAX(16, a->cap * 2);
		a->list = xrealloc(a->list, a->cap * sizeof(struct task *));
	}
	a->list[a->n++] = t;
	a->bytes += sizeof(*t) + 2 * strlen(name);
	a->sorted = false;
	map_put(a->by_name, name, t);
	return t;
}

static int compare(const void *x, const void *y)
{
	const struct task *a = *(struct task *const *)x, *b = *(struct task *const *)y;
	int c = strcmp(a->split, b->split);

	c = c ? c : strcmp(a->variant, b->variant);
	return c ? c : (a->index > b->index) - (a->index < b->index);
}

/* -- summing up ---------------------------------------------------------------------------------------------------- */

static void write_chars(struct json_writer *w, struct stats *s)
{
	static const struct {
		const char *name;
		double percent;
	} percentiles[] = { { "p1", 1 },   { "p10", 10 }, { "p25", 25 }, { "p50", 50 },
			    { "p75", 75 }, { "p90", 90 }, { "p99", 99 } };

	stats_sort(s);
	json_key(w, "response_chars");
	json_open_object(w);
	json_kv_double(w, "mean", stats_mean(s));
	for (size_t i = 0; i < ARRAY_LEN(percentiles); i++)
		json_kv_double(w, percentiles[i].name, stats_percentile(s, percentiles[i].percent));
	json_close(w);
}

static void write_task(struct json_writer *w, const struct task *t, struct stats *s)
{
	json_open_object(w);
	json_kv_i64(w, "task_index", t->index);
	json_kv_double(w, "avg_reward", s->reward_sum / (double)s->n);
	json_kv_double(w, "min_reward", s->reward_min);
	json_kv_double(w, "max_reward", s->reward_max);
	json_kv_i64(w, "num_rollouts", (int64_t)s->n);
	write_chars(w, s);
	json_kv_str(w, "split", *t->split ? t->split : NULL);
	json_kv_str(w, "variant", *t->variant ? t->variant : NULL);
	json_close(w);
}

/* Ends the task at hand: its text becomes what was added since the last one. */
static void task_end(struct work *k)
{
	struct json_writer w;
	struct task *t = k->task;
	auto_buf struct buf b = { 0 };

	if (!t)
		return;
	k->answer->bytes -= t->len;
	free(t->json);
	t->json = NULL;
	t->len = 0;
	k->task = NULL;
	k->owner->computed++;
	if (!k->stats.n)
		return;
	buf_init(&b, BUF_UNLIMITED);
	json_write_begin(&w, &b);
	write_task(&w, t, &k->stats);
	if (json_write_end(&w) < 0)
		abort(); /* an unlimited buffer has no way to fail */
	t->json = buf_steal(&b, &t->len);
	k->answer->bytes += t->len;
	stats_clear(&k->stats);
}

static void on_task(void *arg, const struct record_task *row)
{
	struct work *k = arg;
	const struct task *t = k->task;

	if (!t || t->index != row->task_index || !str_eq(t->split, row->split) || !str_eq(t->variant, row->variant)) {
		task_end(k);
		k->task = task_of(k->answer, row->split, row->variant, row->task_index);
	}
	stats_add(&k->stats, row->reward, row->response_chars);
}

static int compute_all(struct work *k)
{
	int r = store_tasks(k->reader, k->environment_id, k->filter, on_task, k, k->err);

	task_end(k);
	return r;
}

/* Only of tasks that the filter lets through. */
static void on_changed(void *arg, const char *split, const char *variant, int64_t index)
{
	struct work *k = arg;
	struct record_task_filter one = *k->filter;
	struct err ignored; /* the reader keeps its failure, and is asked at the end */

	if ((one.split && !str_eq(one.split, split)) || (one.variant && !str_eq(one.variant, variant)))
		return;
	one.split = split;
	one.variant = variant;
	one.task_index = index;
	k->task = task_of(k->answer, split, variant, index);
	if (store_tasks(k->reader, k->environment_id, &one, on_task, k, &ignored) == 0)
		task_end(k);
	k->task = NULL;
}

static int bring_up_to_date(struct work *k, bool is_new)
{
	int64_t since = is_new ? INT64_MAX : k->answer->version;
	int r = is_new ? compute_all(k) : 0;

	return r < 0 ? r
		     : store_task_changes(k->reader, k->environment_id, since, on_changed, k, &k->answer->version,
					  k->err);
}

static void write_all(struct answer *a, struct json_writer *w)
{
	if (!a->sorted && a->n)
		qsort(a->list, a->n, sizeof(*a->list), compare);
	a->sorted = true;
	json_open_array(w);
	for (size_t i = 0; i < a->n; i++)
		if (a->list[i]->json)
			json_raw(w, a->list[i]->json, a->list[i]->len);
	json_close(w);
}

/* -- the question -------------------------------------------------------------------------------------------------- */

/* Each text with its length, so that no two questions have one key. */
static char *key_of(const char *environment_id, const struct record_task_filter *f)
{
	const char *texts[] = {
		environment_id, f->namespace_id, f->split, f->variant, f->model_name, f->training_stage
	};
	auto_buf struct buf b = { 0 };
	int r;

	buf_init(&b, BUF_UNLIMITED);
	r = buf_printf(&b, "%lld:%lld", (long long)f->min_model_params, (long long)f->max_model_params);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(texts); i++)
		r = texts[i] ? buf_printf(&b, ":%zu:%s", strlen(texts[i]), texts[i]) : buf_puts(&b, ":-");
	return r < 0 ? NULL : buf_steal(&b, NULL);
}

int difficulty_write(struct difficulty *d, struct store_reader *r, const char *environment_id,
		     const struct record_task_filter *f, struct json_writer *w, struct err *err)
{
	auto_free char *key = key_of(environment_id, f);
	struct answer *a = answer_take(d, key);
	bool is_new = !a;
	struct work k = { .owner = d, .reader = r, .environment_id = environment_id, .filter = f, .err = err };

	k.answer = a ? a : answer_new(key);
	stats_init(&k.stats);
	int e = bring_up_to_date(&k, is_new);
	stats_done(&k.stats);
	if (e < 0) {
		answer_free(k.answer);
		return e;
	}
	write_all(k.answer, w);
	answer_put(d, k.answer);
	return 0;
}

struct difficulty *difficulty_new(size_t max_bytes)
{
	struct difficulty *d = NEW(struct difficulty);

	pthread_mutex_init(&d->lock, NULL);
	list_init(&d->answers);
	d->max_bytes = max_bytes;
	return d;
}

struct difficulty *difficulty_free(struct difficulty *d)
{
	struct answer *a;

	if (!d)
		return NULL;
	while ((a = list_first(&d->answers, struct answer, all))) {
		list_remove(&a->all);
		answer_free(a);
	}
	pthread_mutex_destroy(&d->lock);
	free(d);
	return NULL;
}

uint64_t difficulty_computed(const struct difficulty *d)
{
	return d->computed;
}
