/* env/deploy.c: the way of one deployment from its source to READY. The states are in env/env.h. */
#include <errno.h>

#include "base/fd.h"
#include "base/mem.h"
#include "env/private.h"
#include "image/image.h"

/* A move that the table does not have is a mistake of ours: the state stays, and the deployment's log tells it. */
void deployment_move(struct envs *e, struct store_deployment *d, enum store_deployment_state to, const char *reason)
{
	struct err err = ERR_INIT;
	if (store_deployment_move(e->store, d, to, reason, &err) == 0)
		return;
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

static void deploy_fail(struct deploy *p, enum store_deployment_state state, const char *reason)
{
	struct env *v = p->env;
	struct err err = ERR_INIT;
	store_set_str(&p->d->reason, reason);
	if (p->d->state != state) /* one that is superseded was moved before its instance's end */
		set_state(p, state, reason);
	if (state == STORE_DEPLOYMENT_FAILED)
		v->envs->counts.deployments_failed_total++;
	deploy_log(p, "%s: %s", store_deployment_state_name(state), reason);
	deploy_over(p);
	/* Who waits for one that was superseded gets the newer one, or hears of it from envs_stop(). */
	if (v->serving || state == STORE_DEPLOYMENT_SUPERSEDED)
		return;
	err_set(&err, -EIO, "the deployment of %s/%s failed: %s", v->record->ns->name, v->record->name, reason);
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
}

void deploy_instance_ended(struct deploy *p, const char *reason)
{
	p->instance = NULL;
	if (p->d->state == STORE_DEPLOYMENT_DEPLOYING)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, reason);
}

static void on_built(void *arg, struct image *img, const struct err *err)
{
	struct deploy *p = arg;
	struct err own = ERR_INIT;
	p->build = NULL;
	if (err) {
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, err->msg);
		return;
	}
	store_set_str(&p->d->image, img->name);
	if (p->d->state == STORE_DEPLOYMENT_QUEUED) /* so quick that no line told its beginning */
		set_state(p, STORE_DEPLOYMENT_BUILDING, NULL);
	set_state(p, STORE_DEPLOYMENT_DEPLOYING, NULL);
	deploy_log(p, "deploying: starting the server and waiting for GET /health on port %d", ENV_INSTANCE_PORT);
	if (instance_start(&p->instance, p->env, p->d, img, NULL, &own) < 0)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, own.msg);
	image_unref(img);
}

/* What a build calls. It goes on dying after its deployment was superseded; nothing of it may reach the next one. */
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

void deploy_supersede(struct deploy *p, const char *reason)
{
	if (p->call)
		p->call->deploy = NULL;
	if (p->build)
		build_cancel(p->build);
	store_set_str(&p->d->reason, reason);
	set_state(p, STORE_DEPLOYMENT_SUPERSEDED, reason); /* before the instance's end is heard of */
	if (p->instance)
		instance_end(STEAL(p->instance), reason);
	deploy_fail(p, STORE_DEPLOYMENT_SUPERSEDED, reason);
}

static int start_build(struct deploy *p, struct err *err)
{
	struct store_environment *r = p->env->record;
	struct build_spec spec = { .deployment = p->d->id, .owner = r->ns->name, .name = r->name };
	p->call = NEW(struct deploy_call);
	p->call->deploy = p;
	int result = builds_start(p->env->envs->builds, &spec, on_build_line, on_build_done, p->call, &p->build, err);
	if (result < 0) {
		free(p->call);
		p->call = NULL;
	}
	return result;
}

int envs_deploy(struct envs *e, struct store_deployment *d, struct err *err)
{
	struct env *v = env_of(e, d->environment);
	if (v->pending)
		deploy_supersede(v->pending, "superseded by a newer deployment");
	struct deploy *p = NEW(struct deploy);
	p->env = v;
	p->d = d;
	p->log_fd = -1;
	list_init(&p->followers);
	v->pending = p;
	e->counts.deployments_total++;
	int r = start_build(p, err);
	if (r < 0)
		deploy_fail(p, STORE_DEPLOYMENT_FAILED, err ? err->msg : "the build could not be queued");
	return r;
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
