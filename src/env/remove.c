/* env/remove.c: the end of an environment: what runs of it ends, then its images go. The records are the caller's. */
#include <errno.h>

#include "base/mem.h"
#include "env/private.h"
#include "image/image.h"

#define LOOK_MS 20
#define GIVE_UP_MS (5 * 60 * 1000) /* whoever holds an ended instance for so long does not let go of it */

struct removing_env {
	struct env *v;
	char *reason;
	env_removed_fn *done;
	void *arg;
	struct loop_timer look; /* whether all is over */
	uint64_t give_up_ms;    /* CLOCK_MONOTONIC */
	bool in_use;            /* an image stays: a sandbox runs from it */
};

static void next_image(struct removing_env *x);

/* -- the end ------------------------------------------------------------------------------------------------------- */

/* v stays for those who hold an instance that ended. */
static void over(struct removing_env *x)
{
	struct env *v = x->v;

	loop_timer_stop(&v->backoff);
	loop_timer_stop(&v->due);
	loop_timer_stop(&v->keep);
	list_push_back(&v->envs->gone, &v->gone);
	x->done(x->arg);
	free(x->reason);
	free(x);
}

static void on_forgotten(void *arg, int status UNUSED, const struct err *err UNUSED)
{
	over(arg); /* a store that could not be removed has no records any more: pruning finds it */
}

static void forget_store(struct removing_env *x)
{
	const struct store_environment *r = x->v->record;
	struct image_jobs *jobs = x->v->envs->settings.jobs;
	auto_free char *name = xasprintf("%s/%s", r->ns->name, r->name);
	const char *argv[] = { name, NULL };
	uint64_t job;

	if (x->in_use || !jobs || jobs->start(jobs, "forget", argv, -1, NULL, on_forgotten, x, &job, NULL) < 0)
		over(x);
}

/* -- images ---------------------------------------------------------------------------------------------------------- */

static void on_image_removed(void *arg, const struct err *err)
{
	struct removing_env *x = arg;

	x->in_use |= err && err->code == -EBUSY;
	next_image(x);
}

static void next_image(struct removing_env *x)
{
	struct envs *e = x->v->envs;

	list_foreach(&x->v->record->deployments, struct store_deployment, of_environment, d) {
		if (!*d->image || !e->settings.images)
			continue;
		auto_free char *image = xstrdup(d->image);
		store_set_str(&d->image, "");
		images_remove(e->settings.images, image, on_image_removed, x);
		return;
	}
	forget_store(x);
}

/* -- what runs --------------------------------------------------------------------------------------------------------- */

static struct instance *running(const struct env *v)
{
	struct map_iter it = { 0 };

	while (map_next(v->envs->instances, &it)) {
		struct instance *i = it.value;
		if (i->env == v && i->state < INSTANCE_ENDING)
			return i;
	}
	return NULL;
}

static bool is_busy(const struct removing_env *x)
{
	const struct env *v = x->v;

	if (loop_now_ms(v->envs->loop) > x->give_up_ms)
		return false;
	return v->n_instances || v->preparing || v->removing || v->pending ||
	       builds_has(v->envs->builds, v->record->ns->name, v->record->name);
}

static void on_look(struct loop_timer *t, void *arg)
{
	struct removing_env *x = arg;

	/* One that was being prepared when the others were told may have begun since. */
	for (struct instance *i; (i = running(x->v));)
		instance_dismiss(i, x->reason);
	if (is_busy(x))
		loop_timer_start(t, LOOK_MS);
	else
		next_image(x);
}

void envs_remove(struct envs *e, struct store_environment *record, const char *reason, env_removed_fn *done, void *arg)
{
	struct removing_env *x = NEW(struct removing_env);

	*x = (struct removing_env){ .v = env_of(e, record), .reason = xstrdup(reason), .done = done, .arg = arg };
	x->give_up_ms = loop_now_ms(e->loop) + GIVE_UP_MS;
	loop_timer_init(&x->look, e->loop, on_look, x);
	record->removing = true;
	envs_stop(e, record, reason);
	loop_timer_start(&x->look, 0);
}
