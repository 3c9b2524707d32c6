/* rollout/events.c: see events.h. */
#include "rollout/events.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "json/json.h"

#define BYTES_PER_BODY_BYTE 2 /* of a batch in memory */

struct owned {
	json_t *root;
	char **texts; /* of JSON values; ends with NULL */
	size_t n, cap;
};

struct reading {
	struct owned *owned;
	json_t *from;
	struct record_event *to;
	struct err *err;
	int r; /* the first failure; everything after it does nothing */
};

static void free_owned(struct record_batch *b)
{
	struct owned *o = b->owned;

	for (size_t i = 0; i < o->n; i++)
		free(o->texts[i]);
	free(o->texts);
	json_decref(o->root);
	free(o);
	free(b->events);
	b->events = NULL;
	b->owned = NULL;
}

/* -- fields -------------------------------------------------------------------------------------------------------- */

/* A value in a message: names may be long. */
#define SHOWN 60

static int too_long(struct err *err, const char *key, const char *value, size_t max)
{
	return err_set(err, -EINVAL, "%s: \"%.*s...\" (%zu bytes): expected at most %zu bytes", key, SHOWN, value,
		       strlen(value), max);
}

/* max 0 = as long as the body may be. */
static const char *text(struct reading *x, const char *key, size_t max)
{
	const char *v = NULL;

	if (x->r == 0)
		x->r = json_get_str(x->from, key, &v, x->err);
	if (x->r == 0 && v && max && strlen(v) > max)
		x->r = too_long(x->err, key, v, max);
	return x->r == 0 ? v : NULL;
}

static const char *needed(struct reading *x, const char *key, size_t max)
{
	const char *v = NULL;

	if (x->r == 0)
		x->r = json_need_str(x->from, key, &v, x->err);
	if (x->r == 0 && !*v)
		x->r = err_set(x->err, -EINVAL, "%s: \"\": expected a text that is not empty", key);
	return text(x, key, max);
}

static int64_t whole(struct reading *x, json_t *from, const char *key, int64_t max, int64_t fallback)
{
	int64_t v = fallback;

	if (x->r == 0)
		x->r = json_get_i64(from, key, 0, max, &v, x->err);
	return v;
}

static int64_t whole_needed(struct reading *x, const char *key, int64_t max)
{
	int64_t v = whole(x, x->from, key, max, -1);

	if (x->r == 0 && v < 0)
		x->r = err_set(x->err, -EINVAL, "%s: missing: expected an integer from 0 to %lld", key, (long long)max);
	return v;
}

static json_t *object(struct reading *x, const char *key)
{
	json_t *v = NULL;

	if (x->r == 0)
		x->r = json_get_object(x->from, key, &v, x->err);
	return v;
}

/* Kept as text; NULL for an empty one. */
static const char *object_text(struct reading *x, const char *key)
{
	json_t *v = object(x, key);
	struct owned *o = x->owned;

	if (!v || json_object_size(v) == 0)
		return NULL;
	if (o->n == o->cap) {
		o->cap = MAX(16, o->cap * 2);
		o->texts = xrealloc(o->texts, o->cap * sizeof(*o->texts));
	}
	return o->texts[o->n++] = json_dumps(v, JSON_COMPACT);
}

static const char *one_of(struct reading *x, json_t *from, const char *key, const char *const *words,
			  const char *expected)
{
	const char *v = NULL;

	if (x->r == 0)
		x->r = json_get_str(from, key, &v, x->err);
	if (x->r < 0 || !v)
		return NULL;
	for (; *words; words++)
		if (str_eq(*words, v))
			return v;
	x->r = err_set(x->err, -EINVAL, "%s: \"%.*s\": expected %s", key, SHOWN, v, expected);
	return NULL;
}

/* -- a message ----------------------------------------------------------------------------------------------------- */

static const char *const message_types[] = { "reasoning",         "tool_call",      "tool_result", "user_message",
					     "assistant_message", "system_message", NULL };

/* Characters, not bytes. */
static uint64_t count_chars(const char *s)
{
	uint64_t n = 0;

	for (; s && *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static bool of_a_model(const char *type)
{
	return str_eq(type, "assistant_message") || str_eq(type, "tool_call") || str_eq(type, "reasoning");
}

static void read_message(struct reading *x)
{
	struct record_event *e = x->to;

	e->kind = RECORD_MESSAGE;
	e->rollout = needed(x, "rolloutEventId", EVENT_ID_MAX);
	e->position = whole_needed(x, "index", INT32_MAX);
	needed(x, "type", 0);
	e->type = one_of(x, x->from, "type", message_types,
			 "reasoning, tool_call, tool_result, user_message, assistant_message or system_message");
	e->content = text(x, "content", 0);
	e->content_reference = text(x, "contentReference", 0);
	e->summary = text(x, "summary", 0);
	e->name = text(x, "name", EVENT_NAME_MAX);
	e->call_id = text(x, "callId", EVENT_NAME_MAX);
	if (x->r == 0)
		x->r = json_get_double(x->from, "reward", -INFINITY, INFINITY, &e->reward, x->err);
	if (x->r == 0)
		x->r = json_get_bool(x->from, "isFinished", &e->is_finished, x->err);
	e->environment_id = text(x, "environment_id", EVENT_NAME_MAX);
	if (x->r == 0 && of_a_model(e->type))
		e->chars = count_chars(e->content);
}

/* -- a rollout ----------------------------------------------------------------------------------------------------- */

static const char *const run_types[] = { "train", "eval", "adhoc", NULL };
static const char *const training_stages[] = { "pretrained", "sft", "rl", NULL };

static void read_run_info(struct reading *x)
{
	struct record_event *e = x->to;
	json_t *info = object(x, "run_info");

	if (!info)
		return;
	one_of(x, info, "run_type", run_types, "train, eval or adhoc");
	e->training_stage = one_of(x, info, "training_stage", training_stages, "pretrained, sft or rl");
	e->model_params = whole(x, info, "model_params", INT64_MAX, -1);
	if (x->r == 0)
		x->r = json_get_str(info, "model_name", &e->model_name, x->err);
	if (x->r == 0 && e->model_name && strlen(e->model_name) > EVENT_NAME_MAX)
		x->r = too_long(x->err, "model_name", e->model_name, EVENT_NAME_MAX);
	if (x->r < 0)
		err_wrap(x->err, x->r, "run_info");
	e->run_info = object_text(x, "run_info");
}

static void read_info(struct reading *x)
{
	x->to->info = object(x, "rollout_info");
	if (!x->to->info)
		return;
	whole(x, x->to->info, "task_index", INT64_MAX, -1);
	if (x->r < 0)
		err_wrap(x->err, x->r, "rollout_info");
}

static void read_rollout(struct reading *x)
{
	struct record_event *e = x->to;

	e->kind = RECORD_ROLLOUT;
	e->run = needed(x, "runName", EVENT_NAME_MAX);
	e->name = text(x, "rolloutName", EVENT_NAME_MAX);
	e->environment = text(x, "environment", EVENT_NAME_MAX);
	e->environment_id = text(x, "environment_id", EVENT_NAME_MAX);
	e->variant = text(x, "variant", EVENT_NAME_MAX);
	e->variant_id = text(x, "variant_id", EVENT_NAME_MAX);
	e->split = text(x, "split", EVENT_NAME_MAX);
	e->step = whole(x, x->from, "step", INT64_MAX, -1);
	e->task_spec = object_text(x, "task_spec");
	read_run_info(x);
	read_info(x);
}

static void read_update(struct reading *x)
{
	x->to->kind = RECORD_UPDATE;
	read_info(x);
}

/* -- the list ------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *type;
	void (*read)(struct reading *x);
} kinds[] = { { "rollout", read_rollout }, { "message", read_message }, { "rollout_update", read_update } };

static void read_event(struct reading *x)
{
	const char *type = needed(x, "eventType", 0);

	x->to->reward = NAN;
	x->to->model_params = x->to->step = -1;
	x->to->id = needed(x, "eventId", EVENT_ID_MAX);
	x->to->at_ms = whole_needed(x, "timestamp", EVENT_TIME_MAX);
	if (x->r < 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		if (str_eq(kinds[i].type, type)) {
			kinds[i].read(x);
			x->to->metadata = object_text(x, "metadata");
			return;
		}
	}
	x->r = err_set(x->err, -EINVAL, "eventType: \"%.*s\": expected rollout, message or rollout_update", SHOWN,
		       type);
}

static int read_list(struct record_batch *b, json_t *list, struct err *err)
{
	struct reading x = { .owned = b->owned, .err = err };

	for (size_t i = 0; x.r == 0 && i < b->n; i++) {
		x.from = json_array_get(list, i);
		x.to = &b->events[i];
		if (json_is_object(x.from))
			read_event(&x);
		else
			x.r = err_set(err, -EINVAL, "expected an object");
		if (x.r < 0)
			err_wrap(err, x.r, "events[%zu]", i);
	}
	return x.r;
}

static int find_list(json_t *root, size_t max_events, json_t **ret, struct err *err)
{
	json_t *list = NULL;
	int r = json_get_array(root, "events", &list, err);

	if (r < 0)
		return r;
	if (!list)
		return err_set(err, -EINVAL, "events: missing: expected a list of events");
	if (json_array_size(list) > max_events)
		return err_set(err, -EINVAL, "events: %zu of them: expected at most %zu in one request",
			       json_array_size(list), max_events);
	*ret = list;
	return 0;
}

int events_read(struct record_batch *ret, const char *body, size_t len, size_t max_events, struct err *err)
{
	auto_json root = NULL;
	json_t *list = NULL;
	int r = json_read_object(&root, body, len, err);

	r = r < 0 ? r : find_list(root, max_events, &list, err);
	if (r < 0)
		return r;
	struct record_batch b = { .n = json_array_size(list),
				  .bytes = len * BYTES_PER_BODY_BYTE,
				  .free_owned = free_owned };
	struct owned *o = NEW(struct owned);
	o->root = STEAL(root);
	b.owned = o;
	b.events = xcalloc(b.n, sizeof(*b.events));
	r = read_list(&b, list, err);
	if (r < 0)
		free_owned(&b);
	else
		*ret = b;
	return r;
}
