/* rollout/recorder.c: see recorder.h. */
#include "rollout/recorder.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "rollout/events.h"

#define SMALL_PART 256 /* of pending_bytes: what is smaller does not wait */
#define TRIM_EVERY_MS 60000
#define TRIM_NEXT_MS 20 /* between pieces, so that events come between them */

struct recorder {
	struct loop *loop;
	struct store *store; /* NULL = closed: it waits for the last of the calls that it asked for */
	struct recorder_settings settings;
	struct recorder_stats stats;
	struct list waiting; /* struct recorder_turn */
	struct list holding; /* the same, of those that are not small: few */
	struct loop_timer trim;
};

/* -- turns --------------------------------------------------------------------------------------------------------- */

/* A client that announces much and sends it slowly takes up what it announced for as long as it likes: so no namespace has
 * more than it leaves, and who has little never waits. */
static bool is_small(const struct recorder *r, uint64_t bytes)
{
	return bytes <= r->settings.pending_bytes / SMALL_PART;
}

static bool fits(const struct recorder *r, uint64_t bytes)
{
	return is_small(r, bytes) || r->stats.pending_bytes == 0 ||
	       r->stats.pending_bytes + bytes <= r->settings.pending_bytes;
}

static bool has_its_share(struct recorder *r, const struct recorder_turn *t)
{
	uint64_t own = 0, all = 0;

	list_foreach(&r->holding, struct recorder_turn, all, other) {
		all += other->bytes;
		own += other->ns == t->ns ? other->bytes : 0;
	}
	return own && !is_small(r, t->bytes) && all + t->bytes + own + t->bytes > r->settings.pending_bytes;
}

/* In order, but for those who wait for what their own namespace has. */
static struct recorder_turn *next_turn(struct recorder *r)
{
	const struct recorder_turn *passed = NULL; /* many of one namespace may wait behind each other */

	list_foreach(&r->waiting, struct recorder_turn, all, t) {
		if (passed && passed->ns == t->ns && passed->bytes <= t->bytes)
			continue;
		if (!has_its_share(r, t))
			return fits(r, t->bytes) ? t : NULL;
		passed = t;
	}
	return NULL;
}

static void next_turns(struct recorder *r)
{
	struct recorder_turn *t;

	while ((t = next_turn(r))) {
		list_remove(&t->all);
		if (!is_small(r, t->bytes))
			list_push_back(&r->holding, &t->all);
		t->waiting = false;
		r->stats.pending_bytes += t->bytes;
		t->fn(t->arg);
	}
}

static void on_turns(void *arg)
{
	next_turns(arg);
}

void recorder_wait(struct recorder *r, struct recorder_turn *t, const struct store_namespace *ns, uint64_t bytes, loop_fn *fn,
		   void *arg)
{
	*t = (struct recorder_turn){ .recorder = r, .ns = ns, .bytes = bytes, .waiting = true, .fn = fn, .arg = arg };
	if (is_small(r, bytes))
		list_push_front(&r->waiting, &t->all);
	else
		list_push_back(&r->waiting, &t->all);
	loop_defer(r->loop, on_turns, r);
}

void recorder_leave(struct recorder_turn *t)
{
	struct recorder *r = t->recorder;

	if (!r)
		return;
	t->recorder = NULL;
	list_remove(&t->all);
	if (!t->waiting)
		r->stats.pending_bytes -= t->bytes;
	t->waiting = false;
	if (!list_empty(&r->waiting))
		loop_defer(r->loop, on_turns, r);
}

/* -- recording ----------------------------------------------------------------------------------------------------- */

struct recording {
	struct recorder *recorder;
	struct auth_caller caller; /* its request may be gone: what it points to belongs to the store */
	struct record_batch batch;
	char *body;
	size_t len, events_max;
	struct err err;
	recorder_done_fn *done;
	void *arg;
};

static void on_parse(void *arg)
{
	struct recording *rec = arg;
	struct record_batch b;

	if (events_read(&b, rec->body, rec->len, rec->events_max, &rec->err) == 0) {
		memcpy(b.namespace_id, rec->batch.namespace_id, sizeof(b.namespace_id));
		rec->batch = b;
	}
	free(rec->body);
}

/* The environment that an event means, where the key may see it; what it does not see it may not add to. */
static struct store_environment *environment_of(struct store *s, const struct record_event *e, const struct auth_caller *c)
{
	const char *slash = e->environment ? strchr(e->environment, '/') : NULL;
	struct store_environment *env = e->environment_id ? store_environment_by_id(s, e->environment_id) : NULL;

	if (!env && slash && !strchr(slash + 1, '/')) {
		auto_free char *owner = xstrndup(e->environment, (size_t)(slash - e->environment));
		env = store_environment_find(s, owner, slash + 1);
	}
	return env && auth_may_see(c, env, NULL) == 0 ? env : NULL;
}

static void find_environments(struct store *s, struct record_batch *b, const struct auth_caller *c)
{
	for (size_t i = 0; i < b->n; i++) {
		struct record_event *e = &b->events[i];
		if (e->kind != RECORD_ROLLOUT)
			continue;
		const struct store_environment *env = environment_of(s, e, c);
		e->environment_id = env ? env->id : NULL; /* records last as long as the store */
	}
}

static void finish(struct recording *rec, const struct err *err)
{
	struct recorder *r = rec->recorder;

	if (!err) {
		r->stats.recorded += rec->batch.recorded;
		r->stats.repeated += rec->batch.repeated;
	}
	rec->done(rec->arg, rec->batch.recorded, rec->batch.repeated, err);
	free(rec);
}

static void on_recorded(void *arg, const struct err *err)
{
	finish(arg, err);
}

static void on_parsed(void *arg)
{
	struct recording *rec = arg;

	if (rec->err.code) {
		finish(rec, &rec->err);
		return;
	}
	if (!rec->recorder->store) {
		rec->batch.free_owned(&rec->batch);
		err_set(&rec->err, -ECANCELED, "the server is stopping");
		finish(rec, &rec->err);
		return;
	}
	rec->batch.done = on_recorded;
	rec->batch.arg = rec;
	find_environments(rec->recorder->store, &rec->batch, &rec->caller);
	store_record(rec->recorder->store, &rec->batch);
}

void recorder_record(struct recorder *r, const struct auth_caller *c, char *body, size_t len, recorder_done_fn *done, void *arg)
{
	struct recording *rec = NEW(struct recording);

	rec->recorder = r;
	rec->caller = *c;
	rec->caller.session_id = NULL; /* the request's own */
	rec->body = body;
	rec->len = len;
	rec->events_max = r->settings.events_max;
	rec->done = done;
	rec->arg = arg;
	memcpy(rec->batch.namespace_id, c->ns->id, sizeof(rec->batch.namespace_id));
	loop_work(r->loop, LOOP_LANE_ANY, on_parse, on_parsed, rec);
}

/* -- retention ----------------------------------------------------------------------------------------------------- */

static void on_trimmed(void *arg, bool more, const struct err *err)
{
	struct recorder *r = arg;

	if (err)
		log_warn("rollouts", "what is to be removed could not be: %s", err->msg);
	loop_timer_start(&r->trim, more && !err ? TRIM_NEXT_MS : TRIM_EVERY_MS);
}

static void on_trim(struct loop_timer *t, void *arg)
{
	struct recorder *r = arg;

	(void)t;
	store_record_trim(r->store, &r->settings.keep, on_trimmed, r);
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

struct recorder *recorder_new(struct loop *l, struct store *store, const struct recorder_settings *s)
{
	struct recorder *r = NEW(struct recorder);

	r->loop = l;
	r->store = store;
	r->settings = *s;
	list_init(&r->waiting);
	list_init(&r->holding);
	loop_timer_init(&r->trim, l, on_trim, r);
	loop_timer_start(&r->trim, TRIM_NEXT_MS);
	return r;
}

struct recorder *recorder_free(struct recorder *r)
{
	if (!r)
		return NULL;
	loop_timer_stop(&r->trim);
	r->store = NULL;
	loop_release(r->loop, free, r);
	return NULL;
}

const struct recorder_stats *recorder_stats(const struct recorder *r)
{
	return &r->stats;
}
