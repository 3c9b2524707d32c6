/* env/env.c: what serves an environment's sessions: its instances, what follows from their ends, and all environments. */
#include "env/env.h"

#include <errno.h>

#include "base/mem.h"
#include "base/str.h"
#include "env/private.h"

static void on_backoff(struct loop_timer *t UNUSED, void *arg)
{
	env_rescale(arg);
}

struct env *env_of(struct envs *e, struct store_environment *record)
{
	struct env *v = record->user;
	if (v)
		return v;
	v = NEW(struct env);
	v->envs = e;
	v->record = record;
	list_init(&v->waits);
	list_init(&v->instances);
	list_init(&v->gone);
	fair_init(&v->places);
	loop_timer_init(&v->backoff, e->loop, on_backoff, v);
	loop_timer_init(&v->due, e->loop, env_on_due, v);
	loop_timer_init(&v->keep, e->loop, env_on_keep, v);
	record->user = v;
	return v;
}

/* -- the serving instances ------------------------------------------------------------------------------------------ */

static uint64_t backoff_ms(unsigned times)
{
	uint64_t wait = ENV_BACKOFF_FIRST_MS;
	for (unsigned k = 1; k < times && wait < ENV_BACKOFF_MAX_MS; k++)
		wait *= 2;
	return MIN(wait, (uint64_t)ENV_BACKOFF_MAX_MS);
}

/* A start that failed: where nothing else serves, who waits is told why; the next comer starts again, not before the
 * back-off. */
void env_start_failed(struct env *v, const char *reason)
{
	struct err err = ERR_INIT;
	v->failed_starts++;
	err_set(&err, -EIO, "%s/%s could not be started: %s", v->record->ns->name, v->record->name, reason);
	if (list_empty(&v->instances))
		env_waits_fail(v, &err);
	loop_timer_start(&v->backoff, backoff_ms(v->failed_starts));
}

/* Who waits for the environment hears it of the first of its instances. */
void env_instance_waits(struct instance *i, const char *line)
{
	struct env *v = i->env;
	if (v->pending && v->pending->instance == i) {
		env_waits_progress(v, line);
		follow_line(v->pending, line);
	} else if (i->own) {
		env_own_progress(i, line);
	} else {
		list_foreach(&v->instances, struct instance, node, first)
			if (first->waits) {
				if (first == i)
					env_waits_progress(v, line);
				return;
			}
	}
}

void env_serve(struct env *v, struct store_deployment *d, struct instance *first)
{
	v->serving = d;
	v->failed_starts = v->crashes = 0;
	loop_timer_stop(&v->backoff);
	list_push_back(&v->instances, &first->node);
}

/* What served so far lets its sessions finish. */
void env_retire(struct env *v)
{
	struct store_deployment *old = v->serving;
	if (!old)
		return;
	deployment_move(v->envs, old, env_has_instance(v->envs, old) ? STORE_DEPLOYMENT_DRAINING : STORE_DEPLOYMENT_STOPPED,
			"another one is ready");
	for (struct instance *i; (i = list_first(&v->instances, struct instance, node));) {
		v->envs->counts.draining++;
		instance_drain(i);
	}
}

void env_instance_healthy(struct instance *i)
{
	struct env *v = i->env;
	if (v->pending && v->pending->instance == i) {
		deploy_instance_healthy(v->pending);
		return;
	}
	v->failed_starts = 0;
	if (i->own)
		env_own_healthy(i);
	else if (i->draining)
		instance_drain(i); /* a newer deployment came meanwhile */
	else
		env_waits_serve(v);
}

bool env_has_instance(const struct envs *e, const struct store_deployment *d)
{
	struct map_iter it = { 0 };
	while (map_next(e->instances, &it))
		if (((struct instance *)it.value)->d == d)
			return true;
	return false;
}

/* A deployment that drains is over with its last instance, which may be a session's own, or one that was ending before. */
static void maybe_drained(struct instance *i)
{
	struct envs *e = i->env->envs;
	if (i->d->state != STORE_DEPLOYMENT_DRAINING || env_has_instance(e, i->d))
		return;
	deployment_move(e, i->d, STORE_DEPLOYMENT_STOPPED, NULL);
	env_keep(i->env);
}

/* The first crash is answered at once; a server that does it again and again waits longer each time. */
static void crashed(struct instance *i)
{
	struct env *v = i->env;
	v->envs->counts.instances_crashed_total++;
	v->crashes = loop_now_ms(v->envs->loop) - i->healthy_ms < ENV_STEADY_MS ? v->crashes + 1 : 1;
	if (v->crashes > 1)
		loop_timer_start(&v->backoff, backoff_ms(v->crashes - 1));
	env_waits_serve(v);
}

void env_instance_ended(struct instance *i)
{
	struct env *v = i->env;
	if (v->pending && v->pending->instance == i) {
		deploy_instance_ended(v->pending, i->end_reason);
	} else if (i->draining) {
		v->envs->counts.draining--;
	} else if (i->own) {
		env_own_ended(i);
	} else if (!i->asked_to_end) {
		if (i->served)
			crashed(i);
		else
			env_start_failed(v, i->end_reason);
	} else {
		env_waits_serve(v);
	}
	maybe_drained(i);
}

/* -- all of them --------------------------------------------------------------------------------------------------- */

/* What a stop in the middle leaves in the records is put right: see the essay in env.h. */
static void reconcile_deployment(struct env *v, struct store_deployment *d)
{
	switch (d->state) {
	case STORE_DEPLOYMENT_READY:
		if (v->serving)
			deployment_move(v->envs, d, STORE_DEPLOYMENT_STOPPED,
					"another revision was ready when the server was restarted");
		else
			v->serving = d;
		return;
	case STORE_DEPLOYMENT_QUEUED:
	case STORE_DEPLOYMENT_BUILDING:
	case STORE_DEPLOYMENT_DEPLOYING: /* envs_resume() lets it go on */
	case STORE_DEPLOYMENT_DRAINING:  /* envs_taken_over() knows whether its instance lives */
	case STORE_DEPLOYMENT_STOPPED:
	case STORE_DEPLOYMENT_FAILED:
	case STORE_DEPLOYMENT_SUPERSEDED: return;
	}
}

static bool reconcile_environment(void *arg, struct store_environment *record)
{
	struct env *v = env_of(arg, record);
	list_foreach(&record->deployments, struct store_deployment, of_environment, d)
		reconcile_deployment(v, d);
	return true;
}

int envs_new(struct envs **ret, struct loop *l, struct engine *engine, struct store *store, struct builds *builds,
	     const struct env_settings *settings, struct err *err UNUSED)
{
	struct envs *e = NEW(struct envs);
	e->loop = l;
	e->engine = engine;
	e->store = store;
	e->builds = builds;
	e->settings = *settings;
	if (!e->settings.idle_ms)
		e->settings.idle_ms = ENV_IDLE_MS;
	e->instances = map_new();
	tally_init(&e->waiting);
	list_init(&e->gone);
	store_environments(store, reconcile_environment, e);
	envs_tidy_sources(e);
	loop_timer_init(&e->tick, l, envs_tick, e);
	engine->full = envs_full;
	engine->full_arg = e;
	*ret = e;
	return 0;
}

static bool free_environment(void *arg UNUSED, struct store_environment *record)
{
	struct env *v = record->user;
	if (v) {
		loop_timer_stop(&v->backoff);
		loop_timer_stop(&v->due);
		loop_timer_stop(&v->keep);
	}
	free(v);
	env_logs_free(record);
	record->user = NULL;
	return true;
}

struct envs *envs_free(struct envs *e)
{
	struct map_iter it = { 0 };

	if (!e)
		return NULL;
	loop_timer_stop(&e->tick);
	e->engine->full = NULL;
	while (map_next(e->instances, &it))
		instance_forget(it.value);
	store_environments(e->store, free_environment, NULL);
	list_foreach(&e->gone, struct env, gone, v)
		free_environment(NULL, v->record);
	map_free(e->instances);
	tally_done(&e->waiting);
	free(e);
	return NULL;
}

void envs_stop(struct envs *e, struct store_environment *env, const char *reason)
{
	struct env *v = env_of(e, env);
	struct err err = ERR_INIT;
	err_set(&err, -EIDRM, "%s", reason);
	if (v->pending)
		deploy_supersede(v->pending, reason);
	env_waits_fail(v, &err);
	/* No crash: nobody is to start another one. */
	for (struct instance *i; (i = list_first(&v->instances, struct instance, node));)
		instance_dismiss(i, reason);
	if (v->serving)
		deployment_move(e, v->serving, STORE_DEPLOYMENT_STOPPED, reason);
	v->serving = NULL;
}

struct instance *envs_instance_by_box(struct envs *e, const char *box_id)
{
	return map_get(e->instances, box_id);
}

static bool add_waiting(void *arg, struct store_environment *record)
{
	const struct env *v = record->user;
	struct env_counts *c = arg;
	if (!v)
		return true;
	c->waiting += v->places.len;
	c->visiting += env_visitors(v);
	return true;
}

static bool add_queued(void *arg, struct store_environment *record)
{
	const struct env *v = record->user;
	size_t *n = arg;
	if (!v)
		return true;
	*n += v->places.len;
	list_foreach((struct list *)&v->waits, struct env_wait, node, w)
		*n += *w->rq.key != '\0';
	return true;
}

size_t envs_waiting(const struct envs *e)
{
	size_t n = 0;
	store_environments(e->store, add_queued, &n);
	return n;
}

size_t envs_waiting_of(const struct envs *e, const char *key)
{
	return tally_of(&e->waiting, key);
}

void envs_counts(const struct envs *e, struct env_counts *ret)
{
	unsigned queued = 0, running = 0;
	*ret = e->counts;
	builds_count(e->builds, &queued, &running);
	ret->builds = queued + running;
	store_environments(e->store, add_waiting, ret);
}
