/* env/private.h: the objects behind env/env.h. Included by src/env only. */
#pragma once

#include "base/list.h"
#include "base/map.h"
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

struct envs {
	struct loop *loop;
	struct engine *engine;
	struct store *store;
	struct builds *builds;
	struct env_settings settings;
	struct map *instances; /* by box id */
	struct env_counts counts;
};

/* What is alive of one environment. Hangs at store_environment.user, made at first use, freed with the envs. */
struct env {
	struct envs *envs;
	struct store_environment *record;
	struct store_deployment *serving; /* READY, NULL = none yet */
	struct instance *instance;        /* of serving; NULL = asleep */
	struct deploy *pending;           /* QUEUED, BUILDING or DEPLOYING; NULL = none */
	struct store_deployment *preparing; /* its image is being looked for; NULL = none is */
	struct list waits;                /* struct env_wait, first come first served */
	unsigned failed_starts;           /* in a row; sets the back-off */
	struct loop_timer backoff;
};

struct env_wait {
	struct list node; /* in env.waits, or alone once delivery is under way */
	struct env *env;
	engine_progress_fn *progress;
	env_instance_fn *done;
	void *arg;
	struct instance *result; /* counted for the callee */
	struct err err;
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
	struct store_deployment *d;
	env_line_fn *line;
	env_over_fn *over;
	void *arg;
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
	bool reported;             /* env was told of its end */
	unsigned uses;             /* sessions */
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
void env_waits_progress(struct env *v, const char *line);
void env_waits_fail(struct env *v, const struct err *err);
void env_waits_serve(struct env *v); /* gives the serving instance to all, or starts one */

/* deploy.c */
void deploy_instance_healthy(struct deploy *p);
void deploy_instance_ended(struct deploy *p, const char *reason);
void deploy_supersede(struct deploy *p, const char *reason);

/* follow.c */
void follow_line(struct deploy *p, const char *line);
void follow_over(struct deploy *p);
void deploy_log(struct deploy *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* instance.c */
MUST_CHECK int instance_start(struct instance **ret, struct env *v, struct store_deployment *d, struct image *img, struct err *err);
void instance_end(struct instance *i, const char *reason); /* asynchronous; env_instance_ended() follows */
void instance_drain(struct instance *i);                   /* ends when its last use is given back */
