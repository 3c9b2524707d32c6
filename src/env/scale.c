/* env/scale.c: carries out what the autoscaler decides. It is asked whenever something changed (once for many changes of
 * one turn of the loop) and each second; a change is logged with what it was decided from. */
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"
#include "env/autoscaler.h"
#include "env/private.h"
#include "image/image.h"
#include "store/envset.h"

/* -- settings ---------------------------------------------------------------------------------------------------- */

uint64_t env_concurrency(const struct env *v)
{
	return MAX(v->record->max_concurrency, (uint64_t)1);
}

static uint64_t env_min_scale(const struct env *v)
{
	return envset_number(v->record, ENVSET_MIN_SCALE);
}

static uint64_t env_idle_ms(const struct env *v)
{
	return envset_number_or(v->record, ENVSET_IDLE_TIMEOUT, v->envs->settings.idle_ms);
}

/* -- input ------------------------------------------------------------------------------------------------------- */

/* unused: room for each instance. */
static void look(const struct env *v, struct autoscaler_input *in, uint64_t *unused)
{
	uint64_t now = loop_now_ms(v->envs->loop);

	*in = (struct autoscaler_input){
		.waiting = v->places.len, .visitors = env_visitors(v), .unused_ms = unused, .concurrency = env_concurrency(v),
		.min = env_min_scale(v), .max = v->record->max_scale, .idle_ms = env_idle_ms(v), .capacity = UINT64_MAX,
	};
	in->replicas = v->preparing == v->serving ? v->asked : 0;
	list_foreach(&v->instances, struct instance, node, i) {
		in->replicas++;
		in->sessions += i->places;
		in->busy += i->uses != 0 && i->state == INSTANCE_HEALTHY;
		if (!i->uses && instance_is_up(i))
			unused[in->n_unused++] = now - i->unused_ms;
		else if (i->waits) /* for room: nobody keeps it when it is not needed any more */
			unused[in->n_unused++] = UINT64_MAX;
	}
}

static size_t count(const struct env *v)
{
	size_t n = 0;

	list_foreach(&v->instances, struct instance, node, i)
		n++;
	return n;
}

/* -- output ------------------------------------------------------------------------------------------------------ */

static void on_image(void *arg, struct image *img, const struct err *err)
{
	struct env *v = arg;
	struct err own = ERR_INIT;
	const struct store_deployment *wanted = STEAL(v->preparing);
	uint64_t asked = v->asked;

	v->asked = 0;
	if (v->serving != wanted) { /* a newer deployment came in between */
		image_unref(img);
		env_waits_serve(v);
		return;
	}
	if (err)
		err_copy(&own, err);
	for (uint64_t k = 0; img && k < asked && !own.code; k++) {
		struct instance *i;
		if (instance_start(&i, v, v->serving, img, NULL, &own) == 0)
			list_push_back(&v->instances, &i->node);
	}
	if (own.code)
		env_start_failed(v, own.msg);
	image_unref(img);
}

static void start(struct env *v, uint64_t n)
{
	v->preparing = v->serving;
	v->asked = n;
	env_waits_progress(v, "starting an instance");
	v->envs->engine->ops->prepare_image(v->envs->engine, v->serving->image, NULL, on_image, v);
}

static struct instance *longest_unused(const struct env *v)
{
	struct instance *found = NULL;

	list_foreach(&v->instances, struct instance, node, i)
		if (!i->uses && instance_is_up(i) && (!found || i->unused_ms < found->unused_ms))
			found = i;
	return found;
}

static struct instance *last_that_waits(const struct env *v)
{
	struct instance *found = NULL;

	list_foreach(&v->instances, struct instance, node, i)
		if (i->waits)
			found = i;
	return found;
}

/* Those that are not there yet go first. */
static void stop(struct env *v, uint64_t n)
{
	for (struct instance *i; n && ((i = last_that_waits(v)) || (i = longest_unused(v))); n--)
		instance_dismiss(i, "nobody used it");
}

static void log_change(const struct env *v, const struct autoscaler_input *in, const struct autoscaler_output *out)
{
	auto_free char *name = xasprintf("%s/%s", v->record->ns->name, v->record->name);
	auto_free char *input = xasprintf("sessions=%llu waiting=%llu visitors=%llu busy=%llu unused=%zu concurrency=%llu min=%llu"
					  " max=%llu idle_ms=%llu", (unsigned long long)in->sessions,
					  (unsigned long long)in->waiting, (unsigned long long)in->visitors,
					  (unsigned long long)in->busy, in->n_unused, (unsigned long long)in->concurrency,
					  (unsigned long long)in->min, (unsigned long long)in->max,
					  (unsigned long long)in->idle_ms);

	log_event(LOG_INFO, "autoscaler", LOG_KV("environment", name, "why", out->why, "input", input), "replicas %llu -> %llu",
		  (unsigned long long)in->replicas, (unsigned long long)out->replicas);
}

static void decide(struct env *v)
{
	auto_free uint64_t *unused = xcalloc(count(v) + 1, sizeof(*unused));
	struct autoscaler_input in;

	look(v, &in, unused);
	struct autoscaler_output out = autoscaler_decide(&in);
	bool more = out.replicas > in.replicas;
	if (out.replicas == in.replicas || (more && (v->preparing || loop_timer_armed(&v->backoff))))
		return;
	log_change(v, &in, &out);
	v->envs->counts.scaled_up_total += more;
	v->envs->counts.scaled_down_total += !more;
	if (more)
		start(v, out.replicas - in.replicas);
	else
		stop(v, in.replicas - out.replicas);
}

/* -- room for others --------------------------------------------------------------------------------------------- */

static bool look_for_unused(void *arg, struct store_environment *record)
{
	struct instance **found = arg;
	const struct env *v = record->user;
	struct instance *i = v && count(v) > env_min_scale(v) ? longest_unused(v) : NULL;

	/* One that has just come up is for somebody who is on the way to it. */
	if (i && loop_now_ms(v->envs->loop) - i->unused_ms >= ENV_KEEP_MS && (!*found || i->unused_ms < (*found)->unused_ms))
		*found = i;
	return true;
}

void envs_full(void *envs)
{
	struct envs *e = envs;
	struct instance *i = NULL;

	store_environments(e->store, look_for_unused, &i);
	if (!i)
		return;
	log_event(LOG_INFO, "autoscaler", LOG_KV("environment", i->env->record->name, "instance", i->id),
		  "an instance that nobody uses makes room");
	e->counts.scaled_down_total++;
	instance_dismiss(i, "others needed the room");
}

/* -- when -------------------------------------------------------------------------------------------------------- */

void env_on_due(struct loop_timer *t UNUSED, void *arg)
{
	struct env *v = arg;

	env_waits_check(v);
	if (v->serving)
		decide(v);
}

void env_rescale(struct env *v)
{
	if (v->serving && v->envs->taken_over && !loop_timer_armed(&v->due))
		loop_timer_start(&v->due, 0);
}

static bool tick(void *arg UNUSED, struct store_environment *record)
{
	struct env *v = record->user;

	if (!v || !v->serving)
		return true;
	if (!list_empty(&v->instances) || env_min_scale(v) || v->places.len || !list_empty(&v->waits))
		env_rescale(v);
	return true;
}

/* When the instance's deployment began to drain, by its record: so it holds over a restart. */
static bool is_overdue(const struct instance *i)
{
	uint64_t limit_ms = i->draining && i->state < INSTANCE_ENDING ? envset_number(i->env->record, ENVSET_DRAIN_TIMEOUT) : 0;
	int64_t since_ms = INT64_MAX;

	if (!limit_ms)
		return false;
	list_foreach(&i->d->transitions, struct store_transition, of_deployment, t)
		if (t->to == STORE_DEPLOYMENT_DRAINING)
			since_ms = t->at_ms;
	return since_ms != INT64_MAX && time_wall_ms() - since_ms >= (int64_t)limit_ms;
}

static void end_overdue(struct envs *e)
{
	struct map_iter it = { 0 };

	while (map_next(e->instances, &it)) {
		struct instance *i = it.value;
		if (is_overdue(i))
			instance_dismiss(i, "a newer revision replaced this one, and its drain_timeout is over");
	}
}

void envs_tick(struct loop_timer *t, void *envs)
{
	struct envs *e = envs;

	end_overdue(e);
	store_environments(e->store, tick, e);
	loop_timer_start(t, ENV_TICK_MS);
}
