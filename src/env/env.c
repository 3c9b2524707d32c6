/* env/env.c: what serves an environment's sessions: the instance, those who wait for one, and its return after a crash. */
#include "env/env.h"

#include <errno.h>

#include "base/mem.h"
#include "base/str.h"
#include "env/private.h"
#include "image/image.h"

static void start_serving(struct env *v);

static void on_backoff(struct loop_timer *t UNUSED, void *arg)
{
	start_serving(arg);
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
	loop_timer_init(&v->backoff, e->loop, on_backoff, v);
	record->user = v;
	return v;
}

static void wait_enqueue(struct env_wait *w);

/* -- waiting ----------------------------------------------------------------------------------------------------- */

static void deliver_wait(void *arg)
{
	struct env_wait *w = arg;
	if (!w->cancelled && w->result && w->result->end_reason) { /* it died on the way here */
		w->delivering = false;
		instance_release(STEAL(w->result));
		wait_enqueue(w);
		return;
	}
	if (!w->cancelled)
		w->done(w->arg, w->result, w->result ? NULL : &w->err);
	else if (w->result)
		instance_release(w->result);
	free(w);
}

static void wait_over(struct env_wait *w, struct instance *i, const struct err *err)
{
	list_remove(&w->node);
	w->delivering = true;
	w->result = i;
	if (i)
		i->uses++;
	else
		err_copy(&w->err, err);
	loop_defer(w->env->envs->loop, deliver_wait, w);
}

void env_waits_progress(struct env *v, const char *line)
{
	list_foreach(&v->waits, struct env_wait, node, w)
		if (w->progress)
			w->progress(w->arg, line);
}

void env_waits_fail(struct env *v, const struct err *err)
{
	struct env_wait *w;

	while ((w = list_first(&v->waits, struct env_wait, node)))
		wait_over(w, NULL, err);
}

static bool env_is_up(const struct env *v)
{
	/* Between the end of its server and that of its box it looks healthy still. */
	return v->instance && v->instance->state == INSTANCE_HEALTHY && !v->instance->end_reason;
}

void env_waits_serve(struct env *v)
{
	for (struct env_wait *w; env_is_up(v) && (w = list_first(&v->waits, struct env_wait, node));)
		wait_over(w, v->instance, NULL);
	if (list_empty(&v->waits) || v->instance || loop_timer_armed(&v->backoff))
		return;
	if (v->serving)
		start_serving(v);
}

static void wait_enqueue(struct env_wait *w)
{
	struct env *v = w->env;
	struct err err = ERR_INIT;
	list_push_back(&v->waits, &w->node);
	if (!v->serving && !v->pending) {
		err_set(&err, -ENOENT, "%s/%s has no deployment that is ready", v->record->ns->name, v->record->name);
		wait_over(w, NULL, &err);
	}
	env_waits_serve(v);
}

struct env_wait *env_acquire(struct envs *e, struct store_environment *env, engine_progress_fn *progress, env_instance_fn *done,
			     void *arg)
{
	struct env_wait *w = NEW(struct env_wait);
	*w = (struct env_wait){ .env = env_of(e, env), .progress = progress, .done = done, .arg = arg };
	list_init(&w->node);
	wait_enqueue(w);
	return w;
}

void env_acquire_cancel(struct env_wait *w)
{
	w->cancelled = true;
	if (w->delivering)
		return; /* deliver_wait frees it */
	list_remove(&w->node);
	free(w);
}

/* -- the serving instance ------------------------------------------------------------------------------------------ */

/* A start that failed: who waits is told why; the next comer starts again, not before the back-off. */
static void start_failed(struct env *v, const char *reason)
{
	struct err err = ERR_INIT;
	v->failed_starts++;
	err_set(&err, -EIO, "%s/%s could not be started: %s", v->record->ns->name, v->record->name, reason);
	env_waits_fail(v, &err);
	uint64_t wait = ENV_BACKOFF_FIRST_MS;
	for (unsigned k = 1; k < v->failed_starts && wait < ENV_BACKOFF_MAX_MS; k++)
		wait *= 2;
	loop_timer_start(&v->backoff, MIN(wait, (uint64_t)ENV_BACKOFF_MAX_MS));
}

static void on_image(void *arg, struct image *img, const struct err *err)
{
	struct env *v = arg;
	struct err own = ERR_INIT;
	const struct store_deployment *wanted = STEAL(v->preparing);
	if (v->serving != wanted || v->instance) { /* a newer deployment came in between */
		image_unref(img);
		env_waits_serve(v);
		return;
	}
	if (err)
		err_copy(&own, err);
	else
		(void)!instance_start(&v->instance, v, v->serving, img, &own);
	if (!v->instance)
		start_failed(v, own.msg);
	if (img)
		image_unref(img);
}

static void start_serving(struct env *v)
{
	if (list_empty(&v->waits) || v->instance || !v->serving || v->preparing)
		return;
	v->preparing = v->serving;
	env_waits_progress(v, "starting an instance");
	v->envs->engine->ops->prepare_image(v->envs->engine, v->serving->image, NULL, on_image, v);
}

void env_instance_healthy(struct instance *i)
{
	struct env *v = i->env;
	if (v->pending && v->pending->instance == i) {
		deploy_instance_healthy(v->pending);
		return;
	}
	v->failed_starts = 0;
	env_waits_serve(v);
}

/* A deployment that drains is over with its instance. */
static void drained(struct instance *i)
{
	i->env->envs->counts.draining--;
	if (i->d->state != STORE_DEPLOYMENT_DRAINING)
		return;
	i->d->state = STORE_DEPLOYMENT_STOPPED;
	store_deployment_save(i->env->envs->store, i->d);
}

static void crashed(struct env *v)
{
	v->envs->counts.instances_crashed_total++;
	env_waits_serve(v);
}

void env_instance_ended(struct instance *i)
{
	struct env *v = i->env;
	if (v->pending && v->pending->instance == i) {
		deploy_instance_ended(v->pending, i->end_reason);
	} else if (v->instance == i) {
		v->instance = NULL;
		if (i->served)
			crashed(v);
		else
			start_failed(v, i->end_reason);
	} else if (i->draining) {
		drained(i);
	}
}

/* -- all of them --------------------------------------------------------------------------------------------------- */

/* What a stop in the middle leaves in the records is put right: see the essay in env.h. */
static void reconcile_deployment(struct env *v, struct store_deployment *d)
{
	switch (d->state) {
	case STORE_DEPLOYMENT_QUEUED:
	case STORE_DEPLOYMENT_BUILDING:
	case STORE_DEPLOYMENT_DEPLOYING:
		d->state = STORE_DEPLOYMENT_FAILED;
		store_set_str(&d->reason, "the server was restarted");
		break;
	case STORE_DEPLOYMENT_DRAINING:
		d->state = STORE_DEPLOYMENT_STOPPED;
		break;
	case STORE_DEPLOYMENT_READY:
		if (!v->serving) {
			v->serving = d;
			return;
		}
		d->state = STORE_DEPLOYMENT_STOPPED;
		break;
	case STORE_DEPLOYMENT_STOPPED:
	case STORE_DEPLOYMENT_FAILED:
	case STORE_DEPLOYMENT_SUPERSEDED:
		return;
	}
	store_deployment_save(v->envs->store, d);
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
	e->instances = map_new();
	store_environments(store, reconcile_environment, e);
	*ret = e;
	return 0;
}

static bool free_environment(void *arg UNUSED, struct store_environment *record)
{
	struct env *v = record->user;
	if (v)
		loop_timer_stop(&v->backoff);
	free(v);
	record->user = NULL;
	return true;
}

struct envs *envs_free(struct envs *e)
{
	if (!e)
		return NULL;
	store_environments(e->store, free_environment, NULL);
	map_free(e->instances);
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
	if (v->instance)
		instance_end(STEAL(v->instance), reason); /* no crash: nobody is to start another one */
	if (v->serving) {
		v->serving->state = STORE_DEPLOYMENT_STOPPED;
		store_deployment_save(e->store, v->serving);
	}
	v->serving = NULL;
}

struct store_deployment *env_serving(struct envs *e, struct store_environment *env)
{
	return env_of(e, env)->serving;
}

struct instance *envs_instance_by_box(struct envs *e, const char *box_id)
{
	return map_get(e->instances, box_id);
}

void envs_counts(const struct envs *e, struct env_counts *ret)
{
	unsigned queued = 0, running = 0;
	*ret = e->counts;
	builds_count(e->builds, &queued, &running);
	ret->builds = queued + running;
}
