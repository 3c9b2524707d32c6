/* env/env.h: environments at run time: deployments from a source tar to a healthy instance, and instances on demand.
 * Loop thread only.
 *
 * Records (name, owner, settings, deployments) are the store's; this module holds what is alive: the build in progress,
 * the instances that serve, the ones that drain, those of one session's own. How many serve is the autoscaler's decision
 * (env/autoscaler.h); docs/scaling.md tells it to people.
 *
 * A deployment's states and the moves between them are one table, STORE_DEPLOYMENT_MOVES in store/store.h, and every move
 * goes through deployment_move(), which records it. What holds in each, and who leads into it:
 *
 *   QUEUED      waits for its turn; its source tar is whole, or on its way.    store_deployment_add(), envs_rollback()
 *   BUILDING    buildah runs; the log grows.                                                   on_build_line()
 *   DEPLOYING   the image is here; its first instance starts and is asked for /health.         on_built(), envs_rollback()
 *   READY       new sessions go to it. Its instances may sleep (none runs) and start again.    deploy_instance_healthy()
 *   DRAINING    a newer one is READY; its open sessions end in their own time.                 env_retire()
 *   STOPPED     no session, no instance; the image is kept.       maybe_drained(), envs_cancel(), deploy_supersede()
 *   FAILED      with its reason; what served before goes on serving.                           deploy_fail()
 *   SUPERSEDED  a newer push came before it was READY; of a rollback this is STOPPED.          deploy_supersede()
 *
 * After a restart of the daemon, READY stays READY (with its instance, if that lives; else asleep), DRAINING goes on as long
 * as its instance has sessions and is STOPPED otherwise, what was on its way begins again: QUEUED and BUILDING ones from
 * their source, DEPLOYING ones from their image. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "loop/loop.h"
#include "store/store.h"

struct envs;     /* all environments of this daemon */
struct buckets;  /* bucket/bucket.h */
struct builds;   /* build/build.h */
struct instance; /* one running environment server; see below */

struct env_settings {
	const char *data_dir;
	struct engine_size size;          /* of an instance, unless the environment says otherwise; 1 CPU, 2 GiB */
	uint64_t health_timeout_ms;       /* from the start of an instance to its first healthy answer; 600,000 */
	uint64_t health_interval_ms;      /* at most, between two probes; 100 */
	uint64_t idle_ms;                 /* without a session for so long, an instance ends; 600,000 */
	uint64_t instance_log_bytes;      /* of one deployment: once above this, the older half goes; 16 MiB */
	struct image_jobs *jobs;          /* what removes an environment's store; NULL = it stays */
	struct images *images;            /* where images of environments are removed; NULL = they never are */
	uint64_t keep_images;             /* of an environment, unless that says otherwise; 0 = all */
	struct buckets *buckets;          /* files of environments; NULL = instances see none */
	bool data_always;                 /* /orwd_data, although there are no files; unless the environment says otherwise */
	bool data_read_only;              /* likewise */
	const char *const *instance_env;  /* "K=V" for every instance, NULL-terminated; OPENREWARD_URL and the like */
};

MUST_CHECK int envs_new(struct envs **ret, struct loop *l, struct engine *engine, struct store *store, struct builds *builds,
			const struct env_settings *settings, struct err *err);
/* An instance of a former daemon, in struct local_heirs' form. Then envs_resume() lets deployments go on, for which sessions may
 * wait; then the sessions that used it may take their use again (instance_hold, instance_enter); then envs_taken_over() ends
 * what drains without any, and sees to min_scale from then on. */
bool envs_adopt(void *envs, struct engine_box *box, const void *note, size_t len);
void envs_resume(struct envs *e);
void envs_taken_over(struct envs *e);
struct envs *envs_free(struct envs *e); /* instances are destroyed by the engine's own end */

/* Starts the deployment d (QUEUED) from DATA/builds/<d->id>/source.tar, which is whole. What is queued or building for the
 * same environment becomes SUPERSEDED, or STOPPED where it is a rollback. On failure d is FAILED with the reason. */
MUST_CHECK int envs_deploy(struct envs *e, struct store_deployment *d, struct err *err);
/* Ends d (QUEUED) whose source never came: FAILED or SUPERSEDED, with the reason, which is also its log. */
void envs_reject(struct envs *e, struct store_deployment *d, enum store_deployment_state state, const char *reason);
/* Lets another revision serve again: d, or with NULL the one that served before. It is the same deployment, which goes from
 * DRAINING, STOPPED or FAILED to DEPLOYING with the image it has; what serves goes on until it is READY. One that is named and
 * whose image is gone, but not its source, becomes QUEUED and is built again. -ENOENT: there is none, or both are gone;
 * -EALREADY: it serves, or is on its way. */
MUST_CHECK int envs_rollback(struct envs *e, struct store_environment *env, struct store_deployment *d,
			     struct store_deployment **ret, struct err *err);
/* Ends the deployment d before it is READY: it is STOPPED with the reason, at once; its build's processes, mounts and files
 * go in their own time, before another build of the environment begins. -EALREADY: it is not on its way (any more). */
MUST_CHECK int envs_cancel(struct envs *e, struct store_deployment *d, const char *reason, struct err *err);
/* Ends what an environment is doing and its instances; its open sessions get 410 with the reason. */
void envs_stop(struct envs *e, struct store_environment *env, const char *reason);
/* The same for good: from now on nobody sees the environment; every instance ends, draining ones and those of one session
 * too, then its images go. done when nothing of it runs; the caller then removes its files and records. */
typedef void env_removed_fn(void *arg);
void envs_remove(struct envs *e, struct store_environment *env, const char *reason, env_removed_fn *done, void *arg);

/* -- following a deployment ----------------------------------------------------------------------------------- */
/* Lines are without newline. done runs once, after which nothing comes; state is READY, STOPPED, FAILED or SUPERSEDED. A
 * subscriber of a deployment that is over gets its kept log and done at once (from the loop). */
struct env_follow;
typedef void env_line_fn(void *arg, const char *line);
typedef void env_over_fn(void *arg, enum store_deployment_state state, const char *reason);
MUST_CHECK int env_follow(struct env_follow **ret, struct envs *e, struct store_deployment *d, env_line_fn *line, env_over_fn *over,
			  void *arg, struct err *err);
void env_unfollow(struct env_follow *f); /* not after over has run */

/* -- instances, for the gateway ------------------------------------------------------------------------------- */
/* What is wanted: any healthy instance (a listing: it counts against nothing, and has one started only where none runs); a
 * place in one, of which each has as many as the environment's concurrency; or an instance of one's own, with variables. */
enum env_want { ENV_VISIT, ENV_PLACE, ENV_OWN };
struct env_wait;
typedef void env_instance_fn(void *arg, struct instance *i, const struct err *err);
struct env_request {
	enum env_want want;
	const char *key;              /* whose turn it is: ENV_PLACE is fair over keys; copied */
	const char *const *vars;      /* ENV_OWN: "K=V", NULL-terminated, over all others; copied */
	struct instance *visited;     /* ENV_PLACE: one whose use is held; it is stayed with where it is as good; or NULL */
	engine_progress_fn *progress; /* lines that tell what is waited for; may be NULL */
	env_instance_fn *done;        /* exactly one of the two results; from the loop */
	void *arg;
};
/* Gives a counted use of an instance that is healthy, and with ENV_PLACE and ENV_OWN a place in it; what is missing is
 * started, at most max_scale of them. Who waits for a place waits in order, fair over keys, without a deadline.
 * -ENOENT: never deployed; -EBUSY: its max_scale is 0; other errors say why none can be started. */
struct env_wait *env_acquire(struct envs *e, struct store_environment *env, const struct env_request *rq);
void env_acquire_cancel(struct env_wait *w); /* before done */
void env_acquire_unvisit(struct env_wait *w); /* before done: the use of rq.visited is given back */
/* Before done: whether what it waits for waits itself, for room on the machine. */
bool env_wait_for_room(const struct env_wait *w);
/* Whether env_acquire() would have to wait now. */
bool env_would_wait(struct envs *e, struct store_environment *env, enum env_want want);
/* How many wait, in all environments, those that wait for an instance of their own included: the length that a queue's bound is
 * about. Who has no key, and asks only what an environment lists, is in nobody's way. */
size_t envs_waiting(const struct envs *e);
/* Of one key. */
size_t envs_waiting_of(const struct envs *e, const char *key);
void instance_hold(struct instance *i);      /* another use */
void instance_enter(struct instance *i);     /* a place that a former daemon gave; instance_leave() gives it back */
void instance_release(struct instance *i);   /* gives a use back; a draining instance without uses ends */
void instance_leave(struct instance *i);     /* gives a place back, before the use */

/* A stream connection to the server inside. fd is the callee's. */
void instance_connect(struct instance *i, engine_fd_fn *done, void *arg);
/* NULL while it runs; else why it ended ("the instance exited with code 1: LAST LINE"). Valid while a use is held. */
const char *instance_end_reason(const struct instance *i);
const char *instance_id(const struct instance *i);
/* fn runs when a used instance ends by itself; one per use: token is the caller's. */
typedef void instance_end_fn(void *arg, struct instance *i);
void instance_on_end(struct instance *i, const void *token, instance_end_fn *fn, void *arg);
void instance_off_end(struct instance *i, const void *token);
/* Idle upstream connections belong to the instance, so that they die with it: see gateway/upstream.h. */
void **instance_user(struct instance *i, void (*free_user)(void *));

/* Where the output of a deployment's instances lies: DATA/logs/<deployment>, lines of base/logline.h; a malloc'ed path. */
char *env_log_path(const struct envs *e, const struct store_deployment *d);
/* How many bytes were cut off in front since the start of the daemon, to keep it below its size. */
uint64_t env_log_cut(const struct store_deployment *d);

/* The instance whose box has this id, NULL = none: which environment a connection from inside belongs to. */
struct instance *envs_instance_by_box(struct envs *e, const char *box_id);

struct env_counts {
	size_t instances, starting, draining, builds; /* instances: all that are not over */
	size_t own;                                   /* of these, one session's own */
	size_t waiting, visiting;                     /* who wait: for a place; for any instance */
	size_t places;                                /* taken */
	uint64_t scaled_up_total, scaled_down_total;  /* decisions */
	uint64_t deployments_total, deployments_failed_total, instances_started_total, instances_crashed_total;
	uint64_t illegal_moves_total; /* of deployments' states: bugs, so always 0 */
};
void envs_counts(const struct envs *e, struct env_counts *ret);
