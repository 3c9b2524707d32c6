/* store/store.h: what must outlive the daemon: namespaces, keys, environments, deployments, settings; what agents did is in
 * store/record.h.
 *
 * SQLite in DATA/openreward.db (WAL, foreign keys, migrations by user_version), but no request for these ever waits for it
 * to be read: store_open() loads everything into the structs below, and reading is following pointers. A change is made to the
 * struct and queued at once; the queue is written in order by one writer (loop lane LOOP_LANE_STORE), several changes to
 * one transaction where they come together. Whoever promises durability to a client answers from store_sync().
 *
 * Owner of every record: the store. A record is never moved and lives as long as the store, so pointers to it may be
 * kept. Loop thread only. Strings inside records are never NULL unless said; change them with store_set_str(). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"
#include "loop/loop.h"

#define STORE_ID_LEN 37       /* ids are UUIDs in text, with NUL */
#define STORE_NAME_MAX 100    /* bytes of a namespace's or environment's name; str_is_name() */
#define STORE_NAME_NEW_MAX 64 /* of one that is given now: what image_env_dir() takes; older databases have longer ones */
#define STORE_HASH_LEN 32     /* SHA-256 */
#define STORE_ENVSET_MAX 48   /* settings that an environment may have; store/envset.h names them */

struct store;

/* Opens or makes the database, migrates it, loads it. Errors name the path and the reason: not writable, disk full,
 * not a database, or made by a newer version of the program (-EPROTONOSUPPORT, with both versions; it is not touched). */
MUST_CHECK int store_open(struct store **ret, struct loop *l, const char *path, struct err *err);
int store_schema_version(void); /* of the databases that this program makes, from 1 */
/* Of a database that nobody has open, and that this program's schema or an older one made: what its log holds goes into the file
 * itself, which is then all of it. -EBUSY: somebody has it open. */
MUST_CHECK int store_settle(const char *path, struct err *err);
/* Waits until everything queued is written, then closes. NULL is allowed; returns NULL. */
struct store *store_free(struct store *s);
DEFINE_FREEP(store, store_free)

/* A copy of the database at path, which may be in use, as it was committed when the call began; to must not be there, and is of
 * no use after a failure. Blocking; any thread or process. fn (NULL = nobody asks) hears of the pages copied, and ends it with a
 * negative errno. -ENOSPC tells how much room it needs: for the copy, beside STORE_ROOM_BYTES, and for as long as it is made. */
typedef int store_copying_fn(void *arg, uint64_t done, uint64_t total, struct err *err);
MUST_CHECK int store_snapshot(const char *path, const char *to, store_copying_fn *fn, void *arg, struct err *err);

/* Runs done when every change made so far is on disk; err = the first write that failed since the last sync that
 * reported one (NULL = all well). Always asynchronous. done may be NULL. */
typedef void store_done_fn(void *arg, const struct err *err);
void store_sync(struct store *s, store_done_fn *done, void *arg);

/* Asked before a change that a client may send again: -ENOSPC with the figures while the disk has less than this free. What adds
 * something asks by itself, before anything is changed; a change that is made and then does not get to the disk is in force
 * in memory, whoever was told of the failure, and is written as soon as it can be. */
#define STORE_ROOM_BYTES (8u << 20)
MUST_CHECK int store_check_room(const struct store *s, struct err *err);

/* While nothing can be written, at most about so many changes wait for it; 0 = no limit. Where that many wait, store_check_queue()
 * says -ENOSPC, with the reason: whoever would queue something that is no change of a record, and may come as often as it likes,
 * asks before. */
void store_limit_queue(struct store *s, uint64_t n);
MUST_CHECK int store_check_queue(const struct store *s, struct err *err);
/* Called by store_free(), where the last changes could not be written: how many, and why. */
typedef void store_lost_fn(void *arg, size_t n, const struct err *err);
void store_on_lost(struct store *s, store_lost_fn *fn, void *arg);

/* Replaces *field (malloc'ed) by a copy of value; NULL becomes "". */
void store_set_str(char **field, const char *value);

/* -- namespaces ------------------------------------------------------------------------------------------------ */
#define STORE_NAMESPACE_LOCAL "local" /* the one that the first start makes */

struct store_namespace {
	char id[STORE_ID_LEN];
	char *name;
	char *type;               /* "user" or "org" */
	int64_t created_ms;       /* wall clock, since 1970 */
	struct list keys;         /* struct store_key.of_namespace: those that act for it, revoked ones too, oldest first */
	struct list members;      /* of an organisation: struct store_member.of_org */
	struct list memberships;  /* of a user: struct store_member.of_user */
	struct list environments; /* struct store_environment.of_namespace, in order of creation */
	struct list all;          /* private */
};

struct store_namespace *store_namespace_find(struct store *s, const char *name); /* NULL = none */
struct store_namespace *store_namespace_by_id(struct store *s, const char *id);
/* -EINVAL for a name against the rules, -EEXIST also for one that differs from another by case, or by the form of its letters
 * only; -ENOSPC (store_check_room). */
MUST_CHECK int store_namespace_add(struct store *s, const char *name, const char *type, struct store_namespace **ret,
				   struct err *err);
/* A user that owns no environment and is no member of anything: its keys are of no use and gone, also those for organisations, its
 * name is free, and its rollouts follow. The struct and those of its keys stay where they are, for whoever holds them. */
void store_user_remove(struct store *s, struct store_namespace *user);
bool store_namespace_is_user(const struct store_namespace *ns);
/* Visits all, in order of creation, until fn returns false. */
typedef bool store_namespace_fn(void *arg, struct store_namespace *ns);
void store_namespaces(struct store *s, store_namespace_fn *fn, void *arg);

/* -- roles ----------------------------------------------------------------------------------------------------- */
/* What a key may do in its namespace, and a user in an organisation: read what it sees; that, and use and change what the
 * namespace owns; that, and change its keys and members; everything on this server. Each has what those before it have. */
#define STORE_ROLES(X) X(READER, "reader") X(MEMBER, "member") X(OWNER, "owner") X(ADMIN, "admin")
enum store_role {
#define X(name, text) STORE_ROLE_##name,
	STORE_ROLES(X)
#undef X
};
const char *store_role_name(enum store_role r);
/* -EINVAL names the field, and what may stand there up to max. */
MUST_CHECK int store_role_read(const char *field, const char *name, enum store_role max, enum store_role *ret, struct err *err);

/* -- members --------------------------------------------------------------------------------------------------- */
struct store_member {
	struct store_namespace *org, *user;
	enum store_role role; /* reader, member or owner */
	int64_t created_ms;
	struct list of_org, of_user; /* private */
};

struct store_member *store_member_find(const struct store_namespace *org, const struct store_namespace *user); /* NULL = none */
/* Makes user a member, or gives the member another role. */
struct store_member *store_member_put(struct store *s, struct store_namespace *org, struct store_namespace *user,
				      enum store_role role);
void store_member_remove(struct store *s, struct store_member *m); /* frees it */
bool store_member_is_last_owner(const struct store_member *m);

/* -- keys ------------------------------------------------------------------------------------------------------ */
enum store_key_use { STORE_USE_SESSIONS, STORE_USE_SANDBOXES, STORE_USES };
/* What a key may be limited in: each of its uses, in what is open at once, and requests a second. Of a key's own limits 0 = that
 * of the configuration. */
#define STORE_LIMIT_RATE STORE_USES
#define STORE_LIMITS (STORE_USES + 1)
#define STORE_LIMIT_NONE (-1) /* none, whatever the configuration says */
/* Keys made by one that has so many makers are its maker's: all of these are looked at for each request. */
#define STORE_MAKERS 8

struct store_key {
	char id[STORE_ID_LEN];
	struct store_namespace *ns;        /* it acts for this one */
	struct store_namespace *user;      /* whose it is; NULL = the namespace's own */
	char *label;                       /* for people; may be "" */
	enum store_role role;              /* at most: as a key of a user for an organisation it has what the member has */
	unsigned char hash[STORE_HASH_LEN]; /* SHA-256 of the key's whole text; the text itself is nowhere */
	int64_t created_ms;
	int64_t revoked_ms;                /* 0 = valid */
	int64_t expires_ms;                /* 0 = never */
	int64_t last_used_ms;              /* 0 = never; on disk within a minute */
	int64_t limits[STORE_LIMITS];      /* store_key_limit() */
	struct store_key *maker;           /* made it, and is no operator's; NULL = an operator's key did, or nobody knows */
	unsigned depth;                    /* makers before it: at most STORE_MAKERS */
	struct list of_namespace, used;    /* private */
	size_t n_open[STORE_USES];         /* free for auth/: what is open of it, */
	double tokens;                     /* and requests it may send at once, */
	uint64_t tokens_ms;                /* at this time of the loop's clock; 0 = as many as it may ever */
};

struct store_key_spec {
	struct store_namespace *ns, *user; /* user may be NULL */
	const char *label;
	enum store_role role;
	int64_t expires_ms;
	int64_t limits[STORE_LIMITS];
	struct store_key *maker; /* as above */
};

MUST_CHECK int store_key_add(struct store *s, const struct store_key_spec *spec, const unsigned char hash[STORE_HASH_LEN],
			     struct store_key **ret, struct err *err);
bool store_key_is_over(const struct store_key *k);             /* revoked or expired: of no use any more */
void store_key_revoke(struct store *s, struct store_key *k); /* at once; harmless to repeat */
void store_key_limit(struct store *s, struct store_key *k, const int64_t limits[STORE_LIMITS]);
struct store_key *store_key_by_hash(struct store *s, const unsigned char hash[STORE_HASH_LEN]); /* NULL = none */
struct store_key *store_key_by_id(struct store *s, const char *id);
/* The same by the beginning of its id, of 8 characters at least; NULL = none, or several. */
struct store_key *store_key_by_prefix(struct store *s, const char *prefix);
/* It was used now. Costs no write: all keys used within a minute go to disk together. */
void store_key_used(struct store *s, struct store_key *k);

/* How many namespaces there are, and keys that are valid. */
void store_counts(const struct store *s, uint64_t *ret_namespaces, uint64_t *ret_keys);

/* -- environments ---------------------------------------------------------------------------------------------- */
#define STORE_BRANCH_DEFAULT "main"

/* Where an environment's source comes from, and where else it is described. */
struct store_origin {
	char *branch;        /* what is deployed; pushes to others are only kept */
	char *subdirectory;  /* of the repository; "" = all of it */
	int64_t github_id;   /* the linked repository's; 0 = not linked */
	char *github_repo;   /* "owner/name" when it was last asked for; "" = not linked */
	char *arxiv_url, *github_url, *hf_url; /* for people; "" = none */
};

struct store_environment {
	char id[STORE_ID_LEN];
	struct store_namespace *ns;  /* its owner */
	char *name;
	char *description;
	bool is_private;             /* others see it as missing (404) */
	bool is_harbor;
	bool removing;               /* on its way out: nobody sees it, and its name is still taken */
	bool removed;                /* its records are gone; nothing of it is written any more */
	uint64_t cpu_milli;          /* size of an instance, thousandths of a CPU */
	uint64_t memory_bytes;
	uint64_t max_concurrency;    /* open sessions per instance */
	uint64_t max_scale;          /* instances */
	int64_t created_ms, updated_ms;
	struct store_origin origin;  /* store_origin_save() */
	struct list deployments;     /* struct store_deployment.of_environment, newest first */
	struct list of_namespace;    /* private */
	char *settings[STORE_ENVSET_MAX]; /* by enum envset, NULL = not set; private to store/envset.h */
	void *user;                  /* free for env/, which keeps the runtime state there */
};

/* NULL = none. name may not hold a slash. */
struct store_environment *store_environment_find(struct store *s, const char *owner, const char *name);
struct store_environment *store_environment_by_id(struct store *s, const char *id);
/* Whether one of this name may be made, or self (NULL = a new one) be called so. -EEXIST for a name that another in the namespace
 * has, in any case or form of its letters ("Ａ"); -EINVAL, naming the field, for one against the rules; NULL too. */
MUST_CHECK int store_environment_check(const struct store_namespace *ns, const struct store_environment *self, const char *field,
				       const char *name, struct err *err);
/* A new one with the defaults of size and scale. Fails as the check does; -ENOSPC. */
MUST_CHECK int store_environment_add(struct store *s, struct store_namespace *ns, const char *name,
				     struct store_environment **ret, struct err *err);
/* Queues the record as it now is, with updated_ms = now. ns may not be changed, and name by the next call only. */
void store_environment_save(struct store *s, struct store_environment *e);
/* Fails as the check does; -ENOSPC. */
MUST_CHECK int store_environment_rename(struct store *s, struct store_environment *e, const char *name, struct err *err);
void store_origin_save(struct store *s, struct store_environment *e); /* queues origin alone */
/* Visits all, in order of creation, until fn returns false. */
typedef bool store_environment_fn(void *arg, struct store_environment *e);
void store_environments(struct store *s, store_environment_fn *fn, void *arg);
/* Removes its records and those of its deployments; the name is free. The structs stay where they are, for whoever holds
 * them: what is saved of them from now on goes nowhere. */
void store_environment_remove(struct store *s, struct store_environment *e);

/* -- deployments ----------------------------------------------------------------------------------------------- */
/* The life of one revision of an environment; env/ makes every move (its essay says which function and when).
 * Final until a rollback: stopped, failed, superseded. */
#define STORE_DEPLOYMENT_STATES(X)                                                                                \
	X(QUEUED, "queued") X(BUILDING, "building") X(DEPLOYING, "deploying") X(READY, "ready")                    \
	X(DRAINING, "draining") X(STOPPED, "stopped") X(FAILED, "failed") X(SUPERSEDED, "superseded")
enum store_deployment_state {
#define X(name, text) STORE_DEPLOYMENT_##name,
	STORE_DEPLOYMENT_STATES(X)
#undef X
};
/* Every move there is; docs/deployments.md has the same table for people. */
#define STORE_DEPLOYMENT_MOVES(X)                                                                                      \
	X(QUEUED, BUILDING, "its turn has come")                                                                        \
	X(QUEUED, STOPPED, "it was cancelled")                                                                          \
	X(QUEUED, SUPERSEDED, "a newer one came")                                                                       \
	X(QUEUED, FAILED, "it could not be built")                                                                      \
	X(BUILDING, QUEUED, "the server was restarted")                                                                 \
	X(BUILDING, DEPLOYING, "its image is made")                                                                     \
	X(BUILDING, STOPPED, "it was cancelled")                                                                        \
	X(BUILDING, SUPERSEDED, "a newer one came")                                                                     \
	X(BUILDING, FAILED, "it could not be built")                                                                    \
	X(DEPLOYING, QUEUED, "it was restored from a backup")                                                          \
	X(DEPLOYING, READY, "its server answers")                                                                       \
	X(DEPLOYING, STOPPED, "it was cancelled")                                                                       \
	X(DEPLOYING, SUPERSEDED, "a newer one came")                                                                    \
	X(DEPLOYING, FAILED, "its server did not get healthy")                                                          \
	X(READY, QUEUED, "it was restored from a backup")                                                              \
	X(READY, DRAINING, "another one is ready; sessions are open")                                                   \
	X(READY, STOPPED, "another one is ready, or the environment was stopped")                                       \
	X(DRAINING, STOPPED, "its last session ended")                                                                  \
	X(DRAINING, DEPLOYING, "a rollback to it")                                                                      \
	X(STOPPED, DEPLOYING, "a rollback to it")                                                                       \
	X(STOPPED, QUEUED, "a rollback to it: its image is gone, its source is kept")                                   \
	X(FAILED, DEPLOYING, "a rollback to it")                                                                        \
	X(FAILED, QUEUED, "a rollback to it: its image is gone, its source is kept")
const char *store_deployment_state_name(enum store_deployment_state s);
bool store_deployment_state_final(enum store_deployment_state s);
bool store_deployment_may_move(enum store_deployment_state from, enum store_deployment_state to);

struct store_transition { /* one move that was made */
	enum store_deployment_state from, to; /* the same: the beginning */
	int64_t at_ms;                        /* wall clock */
	char *reason;
	struct list of_deployment;            /* private */
};

struct store_deployment {
	char id[STORE_ID_LEN];             /* also the folder DATA/builds/<id> */
	struct store_environment *environment;
	enum store_deployment_state state;
	char *image;                       /* reference of what was built; "" before that */
	char *source;                      /* "folder", "git", ... */
	char *branch, *commit;             /* "" unless it came from git */
	char *reason;                      /* why it failed or ended; "" = nothing to say */
	uint64_t cpu_milli, memory_bytes;  /* size of its instances */
	int64_t created_ms, updated_ms;
	struct list transitions;           /* struct store_transition.of_deployment, oldest first */
	struct list of_environment;        /* private */
	void *user;                        /* free for env/ */
};

struct store_deployment *store_deployment_by_id(struct store *s, const char *id); /* NULL = none */
/* The same by the beginning of its id, of 8 characters at least; NULL = none, or several. */
struct store_deployment *store_deployment_by_prefix(struct store *s, const char *prefix);
/* A new one in state queued with the environment's size. id NULL = the store makes one; else a fresh UUID of the caller's
 * (who has made its folder already). */
struct store_deployment *store_deployment_add(struct store *s, struct store_environment *e, const char *id,
					      const char *source);
/* Queues the record as it now is, with updated_ms = now. state is changed by store_deployment_move() alone. */
void store_deployment_save(struct store *s, struct store_deployment *d);
/* The one way from state to state: checks the table, records the move with its time and reason, saves. reason NULL = the
 * table's. -EPROTO: the table has no such move, which is a bug of the caller; nothing is changed. */
MUST_CHECK int store_deployment_move(struct store *s, struct store_deployment *d, enum store_deployment_state to,
				     const char *reason, struct err *err);

/* -- settings -------------------------------------------------------------------------------------------------- */
/* Small facts of the installation ("node", "installed_at"). NULL = absent. */
const char *store_setting(struct store *s, const char *key);
void store_setting_put(struct store *s, const char *key, const char *value);

/* -- deliveries of webhooks ---------------------------------------------------------------------------------------- */
#define STORE_DELIVERIES_MAX 2000 /* older ones are forgotten */

bool store_delivery_known(struct store *s, const char *id);
/* Remembers one, and forgets the oldest beyond the limit. */
void store_delivery_add(struct store *s, const char *id);
