/* env/instance.c: one running environment server: a box with the image's command as its main process, asked for /health
 * until it answers, then held while it is used.
 *
 *   STARTING  the box waits for room on the machine (without a deadline), is being made, or its server does not answer yet.
 *                                                                            instance_start()
 *   HEALTHY   /health answered 200 once. Nothing probes it any more: a busy server's event loop may block for seconds,
 *             and a slow answer is not a death.                              env/health.c
 *   ENDING    the engine was asked to destroy the box.                       instance_end()
 *   ENDED     the last process is dead; freed with the last use.             instance_ended()
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth/sid.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "bucket/bucket.h"
#include "bucket/tree.h"
#include "env/private.h"
#include "image/image.h"
#include "store/envset.h"

struct instance_watch {
	struct list node;
	const void *token;
	instance_end_fn *fn;
	void *arg;
};

static void free_memory(void *p)
{
	free(p);
}

/* Gives the object back once it is over and nobody uses it. */
static void instance_maybe_free(struct instance *i)
{
	if (i->state != INSTANCE_ENDED || i->uses || !i->reported)
		return;
	if (i->user)
		i->free_user(i->user);
	i->user = NULL;
	if (i->image)
		image_unref(i->image);
	fd_close(i->log_fd);
	free(i->end_reason);
	strv_erase(i->vars);
	i->reported = false; /* not twice */
	i->env->n_instances--;
	loop_release(i->env->envs->loop, free_memory, i);
}

void instance_forget(struct instance *i)
{
	health_stop(i);
	loop_timer_stop(&i->renew);
	if (i->main)
		i->env->envs->engine->ops->exec_release(STEAL(i->main));
	i->state = INSTANCE_ENDED;
	i->reported = true;
	instance_maybe_free(i);
}

/* Every way out of STARTING. */
void instance_leave_starting(struct instance *i, enum instance_state to)
{
	if (i->state == INSTANCE_STARTING)
		i->env->envs->counts.starting--;
	i->state = to;
}

static void tell_watchers(struct instance *i)
{
	while (!list_empty(&i->watchers)) {
		struct instance_watch *w = list_first(&i->watchers, struct instance_watch, node);
		list_remove(&w->node);
		w->fn(w->arg, i);
		free(w);
	}
}

/* The box is gone, or never came to be. reason is what sessions are told. */
static void instance_ended(struct instance *i, const char *reason)
{
	if (i->state == INSTANCE_ENDED)
		return;
	health_stop(i);
	loop_timer_stop(&i->renew);
	if (!i->end_reason)
		i->end_reason = xstrdup(reason);
	instance_leave_starting(i, INSTANCE_ENDED);
	i->box = NULL;
	map_del(i->env->envs->instances, i->id);
	list_remove(&i->node);
	i->env->envs->counts.instances--;
	i->env->envs->counts.own -= i->own;
	env_log_trim(i->env->envs, i->d, i->log_fd); /* on_renew() never comes for one that crashes at once, again and again */
	i->uses++; /* keeps it through the calls below */
	tell_watchers(i);
	env_instance_ended(i);
	i->reported = true;
	instance_release(i);
}

static void on_main_done(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err)
{
	struct instance *i = arg;
	i->env->envs->engine->ops->exec_release(x);
	i->main = NULL;
	if (i->end_reason)
		return;
	auto_free char *last = env_log_last_line(i->log_fd);
	const char *colon = *last ? ": " : "";
	if (err)
		i->end_reason = xasprintf("the instance failed: %s", err->msg);
	else
		i->end_reason = xasprintf("the instance exited with code %d%s%s", res->return_code, colon, last);
}

static void on_box_end(void *arg, struct engine_box *box UNUSED, const char *reason)
{
	struct instance *i = arg;
	auto_free char *text = xasprintf("the instance ended: %s", reason);
	instance_ended(i, text);
}

/* By us, for another reason than that it is no good. */
void instance_dismiss(struct instance *i, const char *reason)
{
	i->asked_to_end = true;
	instance_end(i, reason);
}

static void on_never_made(void *arg)
{
	struct instance *i = arg;
	instance_ended(i, i->end_reason);
}

void instance_end(struct instance *i, const char *reason)
{
	if (i->state >= INSTANCE_ENDING)
		return;
	if (!i->end_reason)
		i->end_reason = xstrdup(reason);
	health_stop(i);
	list_remove(&i->node);
	instance_leave_starting(i, INSTANCE_ENDING);
	struct engine *engine = i->env->envs->engine;
	if (i->box)
		engine->ops->destroy(i->box, "deleted", NULL, NULL);
	else if (engine->ops->uncreate(engine, i->id)) /* else on_created() sees the state */
		loop_defer(i->env->envs->loop, on_never_made, i);
}

void instance_drain(struct instance *i)
{
	list_remove(&i->node);
	i->draining = true;
	if (!i->uses)
		instance_end(i, "replaced by a newer deployment");
}

/* -- start ------------------------------------------------------------------------------------------------------- */

static void on_renew(struct loop_timer *t, void *arg)
{
	struct instance *i = arg;
	if (i->box)
		i->env->envs->engine->ops->renew(i->box);
	env_log_trim(i->env->envs, i->d, i->log_fd);
	loop_timer_start(t, ENV_RENEW_MS);
}

/* The image's ENTRYPOINT and CMD, as one NULL-terminated array; the strings stay the image's. */
static const char **command_of(const struct image *img)
{
	size_t n = 0, k = 0;
	for (char **p = img->entrypoint; *p; p++)
		n++;
	for (char **p = img->cmd; *p; p++)
		n++;
	const char **argv = xcalloc(n + 1, sizeof(*argv));
	for (char **p = img->entrypoint; *p; p++)
		argv[k++] = *p;
	for (char **p = img->cmd; *p; p++)
		argv[k++] = *p;
	return argv;
}

static int start_main(struct instance *i, struct err *err)
{
	auto_free const char **argv = command_of(i->image);
	if (!argv[0])
		return err_set(err, -EINVAL, "the image has neither ENTRYPOINT nor CMD: nothing says how to start the server");
	struct engine_exec_spec spec = {
		.id = i->id, .argv = argv, .timeout_ms = 0, .max_bytes = 0, .log_fd = i->log_fd, .main = true,
	};
	return i->env->envs->engine->ops->exec(i->box, &spec, on_main_done, i, &i->main, err);
}

static void on_room(void *arg, const char *line)
{
	struct instance *i = arg;
	i->waits = true;
	env_instance_waits(i, line);
}

static void on_created(void *arg, struct engine_box *box, const struct err *err)
{
	struct instance *i = arg;
	struct err own = ERR_INIT;
	i->waits = false;
	if (err) {
		instance_ended(i, err->msg);
		return;
	}
	i->box = box;
	if (i->state == INSTANCE_ENDING) {
		i->env->envs->engine->ops->destroy(box, "deleted", NULL, NULL);
	} else if (start_main(i, &own) < 0) {
		instance_end(i, own.msg);
	} else {
		health_start(i);
		loop_timer_start(&i->renew, ENV_RENEW_MS);
	}
}

/* The environment's settings as "K=V", into a struct strv. */
static void add_own_var(void *arg, const char *name, const char *value)
{
	strv_add(arg, xasprintf("%s=%s", name, value));
}

/* The environment of the server: the platform's addresses first, then which revision it is, then what the environment's
 * settings say, then a session's own. */
static const char **environment_of(const struct instance *i, char *sha, char **own)
{
	const char *const *lists[] = { i->env->envs->settings.instance_env, (const char *const[]){ sha, NULL },
				       (const char *const *)own, (const char *const *)i->vars };
	size_t n = 0, at = 0;
	for (size_t l = 0; l < ARRAY_LEN(lists); l++)
		for (const char *const *p = lists[l]; p && *p; p++)
			n++;
	const char **env = xcalloc(n + 1, sizeof(*env));
	for (size_t l = 0; l < ARRAY_LEN(lists); l++)
		for (const char *const *p = lists[l]; p && *p; p++)
			env[at++] = *p;
	return env;
}

/* Many servers prefer a /orwd_data that exists to the data they came with: so an empty one must not appear, unless the
 * owner says always (orwd_data_always). What is uploaded first is then seen by instances that start afterwards. */
static bool sees_data(const struct instance *i)
{
	const struct env_settings *s = &i->env->envs->settings;
	const struct store_environment *r = i->env->record;

	if (!s->buckets)
		return false;
	return envset_number_or(r, ENVSET_DATA_ALWAYS, s->data_always) ? bucket_make(buckets_fd(s->buckets), r->id, NULL) == 0 :
									   bucket_has_anything(buckets_fd(s->buckets), r->id);
}

static bool data_read_only(const struct instance *i)
{
	return !envset_number_or(i->env->record, ENVSET_DATA_WRITABLE, !i->env->envs->settings.data_read_only);
}

static void create_box(struct instance *i)
{
	auto_free char *sha = xasprintf("OPENREWARD_BUILD_SHA=%s", *i->d->commit ? i->d->commit : i->d->id);
	struct strv own = { .list = NULL };
	auto_buf struct buf note = { 0 };

	envset_each(i->env->record, ENVSET_ENV, add_own_var, &own);
	auto_free const char **env = environment_of(i, sha, own.list);
	instance_note(i, &note);
	struct engine_spec spec = {
		.note = note.data, .note_len = note.len, .id = i->id, .instance = true, .image = i->image, .env = env,
		.lease_ms = ENV_INSTANCE_LEASE_MS,
		.size = { .cpu_milli = i->d->cpu_milli, .memory_bytes = i->d->memory_bytes },
		.key = i->env->record->id, .progress = on_room,
	};
	if (sees_data(i))
		spec.bucket = (struct engine_bucket){
			.id = i->env->record->id, .target = ENV_DATA_PATH, .read_only = data_read_only(i),
		};
	if (!spec.size.cpu_milli)
		spec.size = i->env->envs->settings.size;
	i->env->envs->engine->ops->create(i->env->envs->engine, &spec, on_created, on_box_end, i);
	strv_erase(own.list);
}

/* id: NULL = a new one. */
static int instance_new(struct instance **ret, struct env *v, struct store_deployment *d, const char *id, struct err *err)
{
	int log_fd = env_log_open(v->envs, d, err);
	if (log_fd < 0)
		return log_fd;
	struct instance *i = NEW(struct instance);
	i->env = v;
	i->d = d;
	i->log_fd = log_fd;
	list_init(&i->node);
	list_init(&i->watchers);
	i->unused_ms = loop_now_ms(v->envs->loop);
	health_init(i);
	loop_timer_init(&i->renew, v->envs->loop, on_renew, i);
	if (id)
		snprintf(i->id, sizeof(i->id), "%s", id);
	else
		sid_make(i->id, &(struct sid_route){ .kind = SID_INSTANCE });
	map_put(v->envs->instances, i->id, i);
	v->n_instances++;
	v->envs->counts.instances++;
	v->envs->counts.starting++;
	*ret = i;
	return 0;
}

int instance_start(struct instance **ret, struct env *v, struct store_deployment *d, struct image *img, const char *const *vars,
		   struct err *err)
{
	int r = instance_new(ret, v, d, NULL, err);
	if (r < 0)
		return r;
	(*ret)->image = image_ref(img);
	(*ret)->own = vars;
	(*ret)->vars = vars ? strv_dup(vars) : NULL;
	v->envs->counts.own += (*ret)->own;
	v->envs->counts.instances_started_total++;
	create_box(*ret);
	return 0;
}

/* Its server is the command that has the box's id. */
static void on_left(void *arg, struct engine_exec *x, const struct engine_left *left UNUSED)
{
	struct instance *i = arg;
	if (!str_eq(x->id, i->id)) {
		i->env->envs->engine->ops->exec_release(x);
		return;
	}
	i->main = x;
	i->env->envs->engine->ops->claim(x, on_main_done, i);
}

static void on_known(void *arg)
{
	struct instance *i = arg;
	if (!i->main)
		instance_end(i, "its server was never started");
	else if (i->state == INSTANCE_STARTING)
		health_start(i);
}

int instance_adopt(struct instance **ret, struct env *v, struct store_deployment *d, struct engine_box *box, bool healthy)
{
	const struct engine_ops *ops = v->envs->engine->ops;
	struct instance *i = NULL;
	int r = instance_new(&i, v, d, box->id, NULL);
	if (r < 0)
		return r;
	i->box = box;
	ops->adopt(box, on_box_end, i);
	i->served = healthy;
	loop_timer_start(&i->renew, 1); /* a lease that ran while no daemon lived */
	if (healthy)
		instance_leave_starting(i, INSTANCE_HEALTHY);
	ops->left(box, on_left, on_known, i);
	*ret = i;
	return 0;
}

/* -- use --------------------------------------------------------------------------------------------------------- */

void instance_hold(struct instance *i)
{
	i->uses++;
}

void instance_release(struct instance *i)
{
	i->uses--;
	if (!i->uses)
		i->unused_ms = loop_now_ms(i->env->envs->loop);
	if (!i->uses && i->draining)
		instance_end(i, "replaced by a newer deployment");
	if (!i->uses && i->own && i->state == INSTANCE_HEALTHY)
		instance_end(i, "its session ended");
	instance_maybe_free(i);
}

void instance_enter(struct instance *i)
{
	i->places++;
	i->env->envs->counts.places++;
}

void instance_leave(struct instance *i)
{
	i->places--;
	i->env->envs->counts.places--;
	env_waits_serve(i->env);
}

struct connect_call {
	struct instance *i;
	engine_fd_fn *done;
	void *arg;
};

static void on_connect_refused(void *p)
{
	struct connect_call *c = p;
	struct err err = ERR_INIT;
	err_set(&err, -EIDRM, "%s", c->i->end_reason ? c->i->end_reason : "the instance is not there");
	c->done(c->arg, -1, &err);
	instance_release(c->i);
	free(c);
}

void instance_connect(struct instance *i, engine_fd_fn *done, void *arg)
{
	if (i->box && i->state == INSTANCE_HEALTHY) {
		i->env->envs->engine->ops->connect(i->box, ENV_INSTANCE_PORT, done, arg);
		return;
	}
	struct connect_call *c = NEW(struct connect_call);
	*c = (struct connect_call){ .i = i, .done = done, .arg = arg };
	i->uses++;
	loop_defer(i->env->envs->loop, on_connect_refused, c);
}

const char *instance_end_reason(const struct instance *i)
{
	return i->end_reason;
}

const char *instance_id(const struct instance *i)
{
	return i->id;
}

void instance_on_end(struct instance *i, const void *token, instance_end_fn *fn, void *arg)
{
	struct instance_watch *w = NEW(struct instance_watch);
	*w = (struct instance_watch){ .token = token, .fn = fn, .arg = arg };
	list_push_back(&i->watchers, &w->node);
}

void instance_off_end(struct instance *i, const void *token)
{
	list_foreach(&i->watchers, struct instance_watch, node, w) {
		if (w->token != token)
			continue;
		list_remove(&w->node);
		free(w);
	}
}

void **instance_user(struct instance *i, void (*free_user)(void *))
{
	i->free_user = free_user;
	return &i->user;
}
