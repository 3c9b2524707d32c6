/* env/deploy.c: the way of one deployment from its source to READY. The states are in env/env.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "env/private.h"
#include "image/image.h"
#include "store/envset.h"

#define NEWER_CAME "a newer one came"

/* What may be rolled back to. Not the table's moves to DEPLOYING and QUEUED: what is on its way makes them, too. */
static bool was_before(enum store_deployment_state s)
{
	return s == STORE_DEPLOYMENT_DRAINING || s == STORE_DEPLOYMENT_STOPPED || s == STORE_DEPLOYMENT_FAILED;
}

/* A move that the table does not have is a mistake of ours: the state stays, and the deployment's log tells it. */
void deployment_move(struct envs *e, struct store_deployment *d, enum store_deployment_state to, const char *reason)
{
	struct err err = ERR_INIT;
	if (store_deployment_move(e->store, d, to, reason, &err) == 0) {
		if (to == STORE_DEPLOYMENT_SUPERSEDED) /* no move leads out of it */
			deployment_forget_source(e, d);
		return;
	}
	e->counts.illegal_moves_total++;
	struct deploy p = { .env = env_of(e, d->environment), .d = d, .log_fd = -1 };
	list_init(&p.followers);
	deploy_log(&p, "%s", err.msg);
	fd_close(p.log_fd);
}

static void set_state(struct deploy *p, enum store_deployment_state state, const char *reason)
{
	deployment_move(p->env->envs, p->d, state, reason);
}

/* The end of the way, whatever it was: followers are told, the environment is free for the next. */
static void deploy_over(struct deploy *p)
{
	struct env *v = p->env;
	v->pending = NULL;
	follow_over(p);
	fd_close(p->log_fd);
	free(p);
}

static void deploy_end(struct deploy *p, enum store_deployment_state state, const char *reason)
{
	struct env *v = p->env;
	store_set_str(&p->d->reason, reason);
	set_state(p, state, reason);
	if (state == STORE_DEPLOYMENT_FAILED)
		v->envs->counts.deployments_failed_total++;
	deploy_log(p, "%s: %s", store_deployment_state_name(state), reason);
	deploy_over(p);
	env_keep(v);
}

static void deploy_fail(struct deploy *p, enum store_deployment_state state, const char *reason)
{
	struct env *v = p->env;
	struct err err = ERR_INIT;
	deploy_end(p, state, reason);
	if (v->serving)
		return;
	err_set(&err, -EIO, "the deployment of %s/%s %s: %s", v->record->ns->name, v->record->name,
		store_deployment_state_name(state), reason);
	env_waits_fail(v, &err);
}

void deploy_instance_healthy(struct deploy *p)
{
	struct env *v = p->env;
	struct instance *i = STEAL(p->instance);
	env_retire(v);
	env_serve(v, p->d, i);
	set_state(p, STORE_DEPLOYMENT_READY, NULL);
	deploy_log(p, "ready: the server answers on port %d", ENV_INSTANCE_PORT);
	deploy_over(p);
	env_waits_serve(v);
	env_keep(v);
}

void deploy_instance_ended(struct deploy *p, const char *reason)
{
	p->instance = NULL;
	if (p->d->state == STORE_DEPLOYMENT_DEPLOYING)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, reason);
}

/* The first instance of p, DEPLOYING. Takes the reference to img. */
static void start_first(struct deploy *p, struct image *img)
{
	struct err own = ERR_INIT;

	deploy_log(p, "deploying: starting the server and waiting for GET /health on port %d", ENV_INSTANCE_PORT);
	if (instance_start(&p->instance, p->env, p->d, img, NULL, &own) < 0)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, own.msg);
	image_unref(img);
}

static void on_built(void *arg, struct image *img, const struct err *err)
{
	struct deploy *p = arg;
	p->build = NULL;
	if (err) {
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, err->msg);
		return;
	}
	store_set_str(&p->d->image, img->name);
	if (p->d->state == STORE_DEPLOYMENT_QUEUED) /* so quick that no line told its beginning */
		set_state(p, STORE_DEPLOYMENT_BUILDING, NULL);
	set_state(p, STORE_DEPLOYMENT_DEPLOYING, NULL);
	start_first(p, img);
}

/* What a build, or the search for an image, calls. It goes on dying after its deployment was superseded; nothing of it may reach
 * the next one. */
struct deploy_call {
	struct deploy *deploy; /* NULL = superseded */
};

static void on_build_line(void *arg, const char *line)
{
	struct deploy *p = ((struct deploy_call *)arg)->deploy;
	if (!p)
		return;
	if (p->d->state == STORE_DEPLOYMENT_QUEUED && p->build && build_place(p->build) == 0)
		set_state(p, STORE_DEPLOYMENT_BUILDING, NULL);
	env_waits_progress(p->env, line);
	follow_line(p, line);
}

static void on_build_done(void *arg, struct image *img, const struct err *err)
{
	struct deploy_call *c = arg;
	struct deploy *p = c->deploy;
	free(c);
	if (p) {
		p->call = NULL;
		on_built(p, img, err);
	} else if (img) {
		image_unref(img);
	}
}

/* It ends before its time: nothing of its build or its instance reaches what comes next. */
static void deploy_abandon(struct deploy *p, const char *reason)
{
	if (p->call)
		p->call->deploy = NULL;
	if (p->build)
		build_cancel(p->build);
	if (p->instance) /* not wanted any more: no failed start */
		instance_dismiss(STEAL(p->instance), reason);
}

/* What a newer one makes of d, which is on its way: no move leads out of SUPERSEDED, and its source goes. One that had its end
 * before, and was rolled back to or restored, keeps what it has, and may be rolled back to once more. */
static enum store_deployment_state when_superseded(const struct store_deployment *d)
{
	list_foreach(&d->transitions, struct store_transition, of_deployment, t)
		if (t->from == STORE_DEPLOYMENT_READY || was_before(t->from))
			return STORE_DEPLOYMENT_STOPPED;
	return STORE_DEPLOYMENT_SUPERSEDED;
}

/* Who waits for it gets the newer one, or hears of it from envs_stop(). */
void deploy_supersede(struct deploy *p, const char *reason)
{
	deploy_abandon(p, reason);
	deploy_end(p, when_superseded(p->d), reason);
}

int envs_cancel(struct envs *e, struct store_deployment *d, const char *reason, struct err *err)
{
	struct env *v = env_of(e, d->environment);

	if (!v->pending || v->pending->d != d)
		return err_set(err, -EALREADY, "the deployment is %s: expected one that is queued, building or deploying",
			       store_deployment_state_name(d->state));
	deploy_abandon(v->pending, reason);
	deploy_fail(v->pending, STORE_DEPLOYMENT_STOPPED, reason);
	return 0;
}

/* What the build is told beside its source; malloc'ed, NULL = nothing. The texts of maps are JSON objects. */
static char *build_input(const struct store_environment *r)
{
	const char *args = envset_text(r, ENVSET_BUILD_ARGS), *secrets = envset_text(r, ENVSET_BUILD_SECRETS);

	if (!*args && !*secrets)
		return NULL;
	return xasprintf("{\"args\": %s, \"secrets\": %s}", *args ? args : "{}", *secrets ? secrets : "{}");
}

static int start_build(struct deploy *p, struct err *err)
{
	struct store_environment *r = p->env->record;
	char *input = build_input(r);
	struct build_spec spec = { .deployment = p->d->id, .owner = r->ns->name, .name = r->name, .input = input,
				   .dockerfile = envset_text(r, ENVSET_DOCKERFILE) };
	p->call = NEW(struct deploy_call);
	p->call->deploy = p;
	int result = builds_start(p->env->envs->builds, &spec, on_build_line, on_build_done, p->call, &p->build, err);
	if (input)
		explicit_bzero(input, strlen(input));
	free(input);
	if (result < 0) {
		free(p->call);
		p->call = NULL;
	}
	return result;
}

/* What is on its way gives way. */
static struct deploy *deploy_new(struct env *v, struct store_deployment *d)
{
	if (v->pending)
		deploy_supersede(v->pending, NEWER_CAME);
	struct deploy *p = NEW(struct deploy);
	p->env = v;
	p->d = d;
	p->log_fd = -1;
	list_init(&p->followers);
	v->pending = p;
	return p;
}

int envs_deploy(struct envs *e, struct store_deployment *d, struct err *err)
{
	struct deploy *p = deploy_new(env_of(e, d->environment), d);

	e->counts.deployments_total++;
	int r = start_build(p, err);
	if (r < 0)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, err ? err->msg : "the build could not be queued");
	return r;
}

/* -- from an image that is here ------------------------------------------------------------------------------------- */

static void on_kept_image(void *arg, struct image *img, const struct err *err)
{
	auto_free struct deploy_call *c = arg;
	struct deploy *p = c->deploy;

	if (p)
		p->call = NULL;
	if (p && img)
		start_first(p, img);
	else if (p)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, err->msg);
	else
		image_unref(img);
}

/* d is DEPLOYING. */
static void start_kept(struct env *v, struct store_deployment *d)
{
	struct deploy *p = deploy_new(v, d);

	p->call = NEW(struct deploy_call);
	p->call->deploy = p;
	v->envs->engine->ops->prepare_image(v->envs->engine, d->image, NULL, on_kept_image, p->call);
}

static bool has_image(const struct env *v, const struct store_deployment *d)
{
	return *d->image && v->removing != d;
}

/* An operator may have removed it by hand, which no record of a deployment tells. */
static bool is_here(const struct env *v, const struct store_deployment *d)
{
	struct images *images = v->envs->settings.images;

	return !images || images_has(images, d->image);
}

/* Whether it can be built again. */
static bool has_source(const struct env *v, const struct store_deployment *d)
{
	auto_free char *path = deployment_source(v->envs, d);

	return v->removing != d && store_deployment_may_move(d->state, STORE_DEPLOYMENT_QUEUED) && access(path, R_OK) == 0;
}

static bool is_kept(const struct env *v, const struct store_deployment *d)
{
	return has_image(v, d) && was_before(d->state);
}

/* The one that served before what serves now. */
static struct store_deployment *previous(struct env *v)
{
	struct store_deployment *best = NULL;

	list_foreach(&v->record->deployments, struct store_deployment, of_environment, d)
		if (d != v->serving && is_kept(v, d) && deployment_ready_ms(d) > (best ? deployment_ready_ms(best) : 0))
			best = d;
	return best;
}

int envs_rollback(struct envs *e, struct store_environment *env, struct store_deployment *d, struct store_deployment **ret,
		  struct err *err)
{
	struct env *v = env_of(e, env);
	struct store_deployment *to = d ? d : previous(v);

	if (!to)
		return err_set(err, -ENOENT, "%s/%s has no earlier revision whose image is kept", env->ns->name, env->name);
	if (to->environment != env)
		return err_set(err, -ENOENT, "%s/%s has no deployment %s", env->ns->name, env->name, to->id);
	if (!was_before(to->state))
		return err_set(err, -EALREADY, "the deployment is %s: expected one that is draining, stopped or failed",
			       store_deployment_state_name(to->state));
	bool here = has_image(v, to) && is_here(v, to);
	if (!here && has_source(v, to)) {
		store_set_str(&to->image, "");
		store_set_str(&to->reason, "");
		deployment_move(e, to, STORE_DEPLOYMENT_QUEUED, NULL);
		*ret = to;
		return envs_deploy(e, to, err);
	}
	if (!here)
		return err_set(err, -ENOENT, "the image of deployment %s was removed: the newest %llu of an environment are kept (keep_images)",
			       to->id, (unsigned long long)envset_number_or(env, ENVSET_KEEP_IMAGES, e->settings.keep_images));
	store_set_str(&to->reason, "");
	deployment_move(e, to, STORE_DEPLOYMENT_DEPLOYING, NULL);
	start_kept(v, to);
	*ret = to;
	return 0;
}

/* -- after a restart of the daemon ---------------------------------------------------------------------------------- */

static void resume(struct env *v, struct store_deployment *d)
{
	struct err err = ERR_INIT;

	if (d->state == STORE_DEPLOYMENT_DEPLOYING) {
		start_kept(v, d);
		deploy_log(v->pending, "the server was restarted: going on from the image");
		return;
	}
	if (d->state == STORE_DEPLOYMENT_BUILDING)
		deployment_move(v->envs, d, STORE_DEPLOYMENT_QUEUED, "the server was restarted");
	if (envs_deploy(v->envs, d, &err) == 0)
		deploy_log(v->pending, "queued again: the server was restarted");
}

bool deploys_resume(void *envs, struct store_environment *record)
{
	struct env *v = env_of(envs, record);

	list_foreach(&record->deployments, struct store_deployment, of_environment, d) {
		if (d->state != STORE_DEPLOYMENT_QUEUED && d->state != STORE_DEPLOYMENT_BUILDING &&
		    d->state != STORE_DEPLOYMENT_DEPLOYING)
			continue;
		if (v->pending && v->pending->d == d)
			continue;
		if (v->pending) /* newest first: a crash between two records left it */
			deployment_move(envs, d, when_superseded(d), NEWER_CAME);
		else
			resume(v, d);
	}
	return true;
}

void envs_reject(struct envs *e, struct store_deployment *d, enum store_deployment_state state, const char *reason)
{
	struct deploy p = { .env = env_of(e, d->environment), .d = d, .log_fd = -1 };
	list_init(&p.followers);
	store_set_str(&d->reason, reason);
	set_state(&p, state, reason);
	if (state == STORE_DEPLOYMENT_FAILED)
		e->counts.deployments_failed_total++;
	deploy_log(&p, "%s: %s", store_deployment_state_name(state), reason);
	fd_close(p.log_fd);
}
