/* env/private.h: the objects behind env/env.h. Included by src/env only. */
#pragma once

#include "base/fair.h"
#include "base/list.h"
#include "base/map.h"
#include "base/tally.h"
#include "build/build.h"
#include "env/env.h"
#include "http/client.h"

#define ENV_INSTANCE_PORT 8080
#define ENV_INSTANCE_LEASE_MS (10 * 60 * 1000) /* the spawner ends an instance whose daemon was silent this long */
#define ENV_RENEW_MS (30 * 1000)
#define ENV_PROBE_TIMEOUT_MS 5000
#define ENV_BACKOFF_FIRST_MS 500
#define ENV_BACKOFF_MAX_MS 30000
#define ENV_LOG_TAIL_BYTES 4096
#define ENV_PROBE_MIN_MS 2         /* before the first probe, and at least between two */
#define ENV_PROBE_SHARE 32         /* a pause is at most this part of the time that the server has taken so far */
#define ENV_IDLE_MS (10 * 60 * 1000)
#define ENV_TICK_MS 1000           /* the autoscaler's */
#define ENV_KEEP_MS 2000           /* an unused instance is kept so long although others wait for room */
#define ENV_STEADY_MS (60 * 1000)  /* an instance that lived so long does not add to the back-off by a crash */
#define ENV_DATA_PATH "/orwd_data"

struct envs {
	struct loop *loop;
	struct engine *engine;
	struct store *store;
	struct builds *builds;
	struct env_settings settings;
	struct map *instances; /* by box id */
	struct env_counts counts;
	struct tally waiting; /* struct env_wait until its delivery, by key */
	struct loop_timer tick;
	bool taken_over;  /* before, min_scale would start again what is yet to be adopted */
	struct list gone; /* struct env.gone: of removed environments, for instances that somebody holds still */
};

/* What is alive of one environment. Hangs at store_environment.user, made at first use, freed with the envs. */
struct env {
	struct envs *envs;
	struct store_environment *record;
	struct store_deployment *serving; /* READY, NULL = none yet */
	struct list instances;            /* struct instance.node, of serving: STARTING and HEALTHY ones; empty = asleep */
	struct deploy *pending;           /* QUEUED, BUILDING or DEPLOYING; NULL = none */
	struct store_deployment *preparing; /* its image is being looked for; NULL = none is */
	uint64_t asked;                   /* instances to start when it is found */
	struct list waits;                /* struct env_wait of ENV_VISIT and ENV_OWN, first come first served */
	struct fair places;               /* struct env_wait of ENV_PLACE */
	struct list gone;
	unsigned n_instances;             /* objects: those that ended and are used still, too */
	struct loop_timer keep;           /* see env_keep() */
	struct store_deployment *removing; /* its image is on its way out; NULL = none is */
	unsigned failed_starts;           /* in a row; sets the back-off, as crashes do */
	unsigned crashes;                 /* of instances that did not live long, in a row */
	struct loop_timer backoff;
	struct loop_timer due;            /* the autoscaler is asked in the next turn of the loop */
};

struct env_wait {
	struct list node;      /* in env.waits, or alone once delivery is under way */
	struct fair_item fair; /* in env.places */
	struct env *env;
	struct env_request rq; /* key and vars are its own */
	struct instance *own;  /* ENV_OWN: being started; it delivers */
	struct instance *result; /* counted for the callee */
	struct err err;
	bool preparing;        /* ENV_OWN: its image is being looked for */
	bool cancelled, delivering;
};

/* One deployment on its way. Freed when it reached READY or a final state and its followers were told. */
struct deploy {
	struct env *env;
	struct store_deployment *d;
	struct build *build;       /* QUEUED, BUILDING */
	struct deploy_call *call;  /* the build's argument; outlives a deploy that was superseded */
	struct instance *instance; /* DEPLOYING */
	struct list followers;     /* struct env_follow */
	int log_fd;                /* the deployment's log, for lines of ours; -1 before the first */
};

struct env_follow {
	struct list node; /* in deploy.followers; alone when the deployment is over */
	struct envs *envs;
	char id[STORE_ID_LEN]; /* the deployment's, which may go while its log is told */
	env_line_fn *line;
	env_over_fn *over;
	void *arg;
	uint64_t at;    /* of the kept log: what was given */
	size_t piece;   /* bytes of the next one */
	bool replayed;  /* the kept log was given */
	bool cancelled;
	bool deferred;  /* a replay is under way: it frees a cancelled one */
};

enum instance_state { INSTANCE_STARTING, INSTANCE_HEALTHY, INSTANCE_ENDING, INSTANCE_ENDED };

struct instance {
	struct env *env;
	struct store_deployment *d;
	enum instance_state state;
	bool served;               /* was healthy once: its end is a crash, not a failed start */
	bool draining;
	bool asked_to_end;         /* by us: its end is no crash */
	bool reported;             /* env was told of its end */
	bool waits;                /* for room on the machine */
	unsigned uses;             /* sessions and exchanges */
	uint64_t places;           /* sessions that count against concurrency */
	uint64_t unused_ms;        /* CLOCK_MONOTONIC, since when uses is 0 */
	uint64_t healthy_ms;       /* since when it is HEALTHY */
	uint64_t probing_ms;       /* CLOCK_MONOTONIC, since when it is asked */
	struct list node;          /* in env.instances; alone while it is a deployment's first, ends, drains, or is own */
	bool own;                  /* of one session that brought variables; ends with it */
	char **vars;               /* "K=V" of such a one, NULL-terminated; else NULL */
	struct env_wait *own_wait; /* who gets it when it is healthy */
	char id[STORE_ID_LEN];
	struct image *image;
	struct engine_box *box;    /* NULL before create answered and after its end */
	struct engine_exec *main;
	int log_fd;
	char *end_reason;          /* NULL while it runs */
	struct list watchers;      /* struct instance_watch */
	struct loop_timer probe, deadline, renew;
	struct http_client *probing;
	bool connecting;
	void *user;
	void (*free_user)(void *);
};

/* env.c */
struct env *env_of(struct envs *e, struct store_environment *record);
void env_instance_healthy(struct instance *i); /* instance.c tells its owner */
void env_instance_ended(struct instance *i);   /* once per instance, whatever the way */
void env_retire(struct env *v);                /* what served so far drains */
void env_serve(struct env *v, struct store_deployment *d, struct instance *first); /* from now on, after env_retire() */
void env_instance_waits(struct instance *i, const char *line); /* for room: line tells how long the queue is */
void env_start_failed(struct env *v, const char *reason); /* unless others serve, who waits is told */

bool env_has_instance(const struct envs *e, const struct store_deployment *d);

/* keep.c */
void env_on_keep(struct loop_timer *t, void *env);
void env_keep(struct env *v); /* in the next turn of the loop removes images beyond the setting; called when there may be some */
char *deployment_source(const struct envs *e, const struct store_deployment *d); /* its path; malloc'ed */
void deployment_forget_source(const struct envs *e, const struct store_deployment *d);
/* At the start, before there can be uploads: folders that no record knows, of which a kill left the upload, and sources of
 * superseded deployments, which nothing builds again. */
void envs_tidy_sources(struct envs *e);
int64_t deployment_ready_ms(const struct store_deployment *d); /* when it last became READY; 0 = never */

/* waits.c */
void env_waits_progress(struct env *v, const char *line);
void env_own_progress(struct instance *i, const char *line);
void env_waits_fail(struct env *v, const struct err *err);
void env_waits_check(struct env *v); /* tells them where there can be no instance any more: max_scale 0 */
void env_waits_serve(struct env *v); /* gives what there is to who waits, and has the rest decided: env_rescale() */
void env_own_healthy(struct instance *i);
void env_own_ended(struct instance *i);
uint64_t env_visitors(const struct env *v); /* who wait without a place */
/* Settings of the environment, or the defaults. */
uint64_t env_concurrency(const struct env *v);
static inline bool instance_is_up(const struct instance *i)
{
	/* Between the end of its server and that of its box it looks healthy still. */
	return i->state == INSTANCE_HEALTHY && !i->end_reason;
}

/* scale.c */
void env_rescale(struct env *v);      /* asks the autoscaler, from the loop */
void env_on_due(struct loop_timer *t, void *env);
void envs_tick(struct loop_timer *t, void *envs);
void envs_full(void *envs); /* struct engine.full: somebody waits for room */

/* deploy.c */
void deploy_instance_healthy(struct deploy *p);
void deploy_instance_ended(struct deploy *p, const char *reason);
void deploy_supersede(struct deploy *p, const char *reason);
/* Every change of a deployment's state in env/ goes through here; reason NULL = the table's of STORE_DEPLOYMENT_MOVES. */
void deployment_move(struct envs *e, struct store_deployment *d, enum store_deployment_state to, const char *reason);
bool deploys_resume(void *envs, struct store_environment *record); /* what a former daemon left on its way */

/* follow.c */
void follow_line(struct deploy *p, const char *line);
void follow_over(struct deploy *p);
void deploy_log(struct deploy *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* log.c */
MUST_CHECK int env_log_open(const struct envs *e, const struct store_deployment *d, struct err *err); /* the descriptor */
void env_log_trim(const struct envs *e, struct store_deployment *d, int fd); /* keeps it below its size: the older half goes */
char *env_log_last_line(int fd); /* its text, cut to what fits a message; malloc'ed, "" = none */
void env_logs_free(struct store_environment *record);

/* adopt.c */
void instance_note(const struct instance *i, struct buf *ret); /* for whoever adopts it */

/* health.c */
void health_init(struct instance *i);
void health_start(struct instance *i); /* its server was started: env_instance_healthy() follows, or its end */
void health_stop(struct instance *i);
uint64_t health_pause_ms(uint64_t elapsed_ms, uint64_t max_ms); /* until the next probe, so long after the start */

/* instance.c */
void instance_leave_starting(struct instance *i, enum instance_state to); /* every way out of it */
/* vars: "K=V" of an instance of one session's own, or NULL. */
MUST_CHECK int instance_start(struct instance **ret, struct env *v, struct store_deployment *d, struct image *img,
			      const char *const *vars, struct err *err);
/* From a former daemon's box, which it adopts. On failure the box is nobody's. */
MUST_CHECK int instance_adopt(struct instance **ret, struct env *v, struct store_deployment *d, struct engine_box *box,
			      bool healthy);
void instance_end(struct instance *i, const char *reason); /* asynchronous; env_instance_ended() follows */
void instance_dismiss(struct instance *i, const char *reason); /* the same, of one that is not wanted any more: no crash */
void instance_forget(struct instance *i);                  /* envs_free(): it lives on for the next daemon, and is nothing here */
void instance_drain(struct instance *i);                   /* ends when its last use is given back */
