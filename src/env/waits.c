/* env/waits.c: those who wait for an instance, and which one they get: the one with the most sessions that still fits, so
 * that others drain.
 *
 * Two queues: visitors (listings, and sessions that bring variables) take whatever is healthy; those who want a place wait
 * in a queue that is fair over keys until one is free. */
#include <errno.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "env/private.h"
#include "image/image.h"

static void wait_enqueue(struct env_wait *w);

static void wait_free(struct env_wait *w)
{
	strv_erase((char **)(uintptr_t)w->rq.vars);
	free((void *)(uintptr_t)w->rq.key);
	free(w);
}

/* -- delivery ---------------------------------------------------------------------------------------------------- */

static bool wants_place(const struct env_wait *w)
{
	return w->rq.want != ENV_VISIT;
}

static void give_back(struct env_wait *w)
{
	struct instance *i = STEAL(w->result);
	if (wants_place(w))
		instance_leave(i);
	instance_release(i);
}

static void deliver_wait(void *arg)
{
	struct env_wait *w = arg;
	if (!w->cancelled && w->result && w->result->end_reason && w->rq.want != ENV_OWN) { /* it died on the way here */
		w->delivering = false;
		give_back(w);
		wait_enqueue(w);
		return;
	}
	if (!w->cancelled)
		w->rq.done(w->rq.arg, w->result, w->result ? NULL : &w->err);
	else if (w->result)
		give_back(w);
	wait_free(w);
}

static void wait_over(struct env_wait *w, struct instance *i, const struct err *err)
{
	list_remove(&w->node);
	fair_remove(&w->env->places, &w->fair);
	tally_sub(&w->env->envs->waiting, w->rq.key);
	w->delivering = true;
	w->result = i;
	if (i) {
		instance_hold(i);
		i->places += wants_place(w);
		i->env->envs->counts.places += wants_place(w);
	} else {
		err_copy(&w->err, err);
	}
	loop_defer(w->env->envs->loop, deliver_wait, w);
}

static struct env_wait *wait_of(struct fair_item *it)
{
	return it ? container_of(it, struct env_wait, fair) : NULL;
}

static void tell(struct env_wait *w, const char *line)
{
	if (w->rq.progress)
		w->rq.progress(w->rq.arg, line);
}

static void tell_placed(struct fair_item *it, void *line)
{
	tell(wait_of(it), line);
}

void env_waits_progress(struct env *v, const char *line)
{
	list_foreach(&v->waits, struct env_wait, node, w)
		tell(w, line);
	fair_each(&v->places, tell_placed, (void *)(uintptr_t)line);
}

void env_own_progress(struct instance *i, const char *line)
{
	if (i->own_wait)
		tell(i->own_wait, line);
}

void env_waits_fail(struct env *v, const struct err *err)
{
	struct list visitors = LIST_INIT(visitors);
	for (struct env_wait *w; (w = list_first(&v->waits, struct env_wait, node));) {
		list_remove(&w->node);
		if (w->own || w->preparing) /* its own instance tells it */
			list_push_back(&visitors, &w->node);
		else
			wait_over(w, NULL, err);
	}
	for (struct env_wait *w; (w = list_first(&visitors, struct env_wait, node));) {
		list_remove(&w->node);
		list_push_back(&v->waits, &w->node);
	}
	for (struct fair_item *it; (it = fair_first(&v->places));)
		wait_over(wait_of(it), NULL, err);
}

/* -- placement --------------------------------------------------------------------------------------------------- */

static bool has_room(const struct instance *i)
{
	return instance_is_up(i) && !i->own && i->places < env_concurrency(i->env);
}

/* The fullest that still fits; with any: of those that are up. The visited one wins among equals, and where its revision
 * was replaced meanwhile: a session that began with a revision stays with it. */
static struct instance *best(const struct env *v, struct instance *visited, bool any)
{
	struct instance *found = NULL;
	if (visited && visited->draining && has_room(visited))
		return visited;
	list_foreach(&v->instances, struct instance, node, i) {
		if (any ? !instance_is_up(i) : !has_room(i))
			continue;
		bool better = !found || i->places > found->places || (i->places == found->places && i == visited);
		if (better && (!any || !found || i->places < env_concurrency(v)))
			found = i;
	}
	return found;
}

/* -- an instance of a session's own -------------------------------------------------------------------------------- */

static void own_fail(struct env_wait *w, const char *reason)
{
	struct err err = ERR_INIT;
	const struct store_environment *r = w->env->record;
	err_set(&err, -EIO, "%s/%s could not be started: %s", r->ns->name, r->name, reason);
	wait_over(w, NULL, &err);
}

static void on_own_image(void *arg, struct image *img, const struct err *err)
{
	struct env_wait *w = arg;
	struct err own = ERR_INIT;
	w->preparing = false;
	if (w->cancelled) {
		image_unref(img);
		wait_free(w);
		return;
	}
	if (!w->env->serving)
		err_set(&own, -EIDRM, "it was stopped meanwhile");
	else if (err)
		err_copy(&own, err);
	else if (instance_start(&w->own, w->env, w->env->serving, img, w->rq.vars, &own) == 0)
		w->own->own_wait = w;
	image_unref(img);
	if (!w->own)
		own_fail(w, own.msg);
}

static void start_own(struct env_wait *w)
{
	struct engine *engine = w->env->envs->engine;
	w->preparing = true;
	tell(w, "starting an instance of this session's own");
	engine->ops->prepare_image(engine, w->env->serving->image, NULL, on_own_image, w);
}

void env_own_healthy(struct instance *i)
{
	struct env_wait *w = STEAL(i->own_wait);
	if (!w) /* nobody wants it any more */
		return;
	w->own = NULL;
	wait_over(w, i, NULL);
}

void env_own_ended(struct instance *i)
{
	struct env_wait *w = STEAL(i->own_wait);
	if (i->served && !i->asked_to_end && i->uses > 1) /* one is its own end's */
		i->env->envs->counts.instances_crashed_total++;
	if (!w)
		return;
	w->own = NULL;
	own_fail(w, i->end_reason);
}

/* -- queues ------------------------------------------------------------------------------------------------------ */

uint64_t env_visitors(const struct env *v)
{
	uint64_t n = 0;
	list_foreach(&v->waits, struct env_wait, node, w)
		n += w->rq.want == ENV_VISIT;
	return n;
}

static void serve_visitors(struct env *v)
{
	list_foreach(&v->waits, struct env_wait, node, w) {
		struct instance *i = w->rq.want == ENV_VISIT ? best(v, NULL, true) : NULL;
		if (i)
			wait_over(w, i, NULL);
		else if (w->rq.want == ENV_OWN && !w->own && !w->preparing && v->serving)
			start_own(w);
	}
}

static void serve_places(struct env *v)
{
	for (struct env_wait *w; (w = wait_of(fair_first(&v->places)));) {
		struct instance *i = best(v, w->rq.visited, false);
		if (!i)
			return;
		fair_pop(&v->places); /* its key's turn is over */
		wait_over(w, i, NULL);
	}
}

void env_waits_serve(struct env *v)
{
	serve_visitors(v);
	serve_places(v);
	env_rescale(v);
}

/* max_scale 0 is its owner's word that nothing runs: waiting would be for nothing. */
static int check_scale(const struct env *v, struct err *err)
{
	if (v->record->max_scale)
		return 0;
	return err_set(err, -EBUSY, "%s/%s is paused: its max_scale is 0", v->record->ns->name, v->record->name);
}

void env_waits_check(struct env *v)
{
	struct err err = ERR_INIT;
	if (check_scale(v, &err) < 0)
		env_waits_fail(v, &err);
}

static void wait_enqueue(struct env_wait *w)
{
	struct env *v = w->env;
	struct err err = ERR_INIT;
	tally_add(&v->envs->waiting, w->rq.key);
	if (w->rq.want == ENV_PLACE)
		fair_push(&v->places, &w->fair, w->rq.key);
	else
		list_push_back(&v->waits, &w->node);
	if (!v->serving && !v->pending) {
		err_set(&err, -ENOENT, "%s/%s has no deployment that is ready", v->record->ns->name, v->record->name);
		wait_over(w, NULL, &err);
	} else if (check_scale(v, &err) < 0) {
		wait_over(w, NULL, &err);
	}
	env_waits_serve(v);
}

struct env_wait *env_acquire(struct envs *e, struct store_environment *env, const struct env_request *rq)
{
	struct env_wait *w = NEW(struct env_wait);
	w->env = env_of(e, env);
	w->rq = *rq;
	w->rq.key = xstrdup(rq->key ? rq->key : "");
	w->rq.vars = rq->want == ENV_OWN ? (const char *const *)strv_dup(rq->vars) : NULL;
	list_init(&w->node);
	wait_enqueue(w);
	return w;
}

bool env_wait_for_room(const struct env_wait *w)
{
	const struct env *v = w->env;
	if (w->rq.want == ENV_OWN)
		return w->own && w->own->waits;
	if (v->pending && v->pending->instance && v->pending->instance->waits)
		return true;
	list_foreach(&v->instances, struct instance, node, i)
		if (i->waits)
			return true;
	return false;
}

void env_acquire_unvisit(struct env_wait *w)
{
	w->rq.visited = NULL;
}

bool env_would_wait(struct envs *e, struct store_environment *env, enum env_want want)
{
	const struct env *v = env_of(e, env);
	return want == ENV_OWN || (want == ENV_PLACE && v->places.len) || !best(v, NULL, want == ENV_VISIT);
}

void env_acquire_cancel(struct env_wait *w)
{
	w->cancelled = true;
	if (w->delivering)
		return; /* deliver_wait frees it */
	list_remove(&w->node);
	fair_remove(&w->env->places, &w->fair);
	tally_sub(&w->env->envs->waiting, w->rq.key);
	if (w->preparing)
		return; /* on_own_image does */
	if (w->own) {
		w->own->own_wait = NULL;
		instance_dismiss(w->own, "its session ended");
	}
	wait_free(w);
}
