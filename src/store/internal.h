/* store/internal.h: shared by the files of store/: the object itself and its queue of changes. Nobody else includes it. */
#pragma once

#include <pthread.h>
#include <sqlite3.h>

#include "base/map.h"
#include "store/record.h"
#include "store/seal.h"
#include "store/store.h"

#define STORE_VALUES_MAX 16

struct store_value { /* one bound parameter; text and blob are copies */
	enum { STORE_NULL, STORE_I64, STORE_TEXT, STORE_BLOB } type;
	int64_t i64;
	void *p;
	size_t len;
};

struct store_op { /* one statement with its parameters */
	const char *sql; /* a literal */
	struct store_value v[STORE_VALUES_MAX];
	int n;
	struct list all;
};

struct store_waiter {
	store_done_fn *done;
	void *arg;
	struct list all;
};

/* What one transaction will write. Owned by the store's loop thread, lent to the writer between loop_work and done. */
struct store_batch {
	struct store *store; /* NULL = the store is gone: only free */
	struct list ops;     /* struct store_op */
	size_t n;            /* of them */
	struct list waiters; /* struct store_waiter */
	bool retry;          /* out: the failure may pass (disk full), so the changes are tried again with the next batch */
	struct err err;      /* out: code 0 = committed */
	struct list all;     /* of store.in_flight */
};

struct store_flush { /* outlives the store when the loop still holds it */
	struct store *store; /* NULL = gone */
};

struct record_group; /* batches of record.h that become one transaction */

/* What record.h needs of the store. */
struct records {
	struct list pending;          /* struct record_batch: not yet with the writer */
	struct record_group *writing; /* with the writer now; NULL = none */
	struct list in_flight;        /* struct record_trim: asked of the writer */
	struct map *statements;       /* the writer's: SQL -> sqlite3_stmt * */
	struct list readers;          /* struct store_reader: those that nobody has; under the store's lock */
	unsigned n_reading;           /* those that a worker has; under the lock */
};

struct store {
	struct loop *loop;
	sqlite3 *db;               /* used by the writer alone once the store is open */
	char *path;
	struct seal seal;          /* of secrets in environments' settings */
	struct list namespaces;    /* struct store_namespace.all */
	struct list former;        /* the same: those that were removed */
	struct map *by_name, *by_id;      /* namespaces */
	struct map *keys_by_hash, *keys_by_id;
	int64_t last_audit;        /* the newest entry's id */
	struct list keys_used;     /* struct store_key.used: their last use is not on disk yet */
	struct loop_timer use_timer;
	struct list removed;       /* struct store_environment.of_namespace: those of no namespace any more */
	struct map *env_by_name, *env_by_id; /* "owner/name"; id */
	struct map *dep_by_id;
	struct map *settings;      /* key -> char * */
	struct map *deliveries;    /* struct store_delivery by id */
	struct list delivered;     /* the same, oldest first */
	struct store_batch *open;  /* the batch that collects changes now; NULL = none */
	struct list in_flight;     /* the batch that the writer has: one at most */
	bool due;                  /* the open batch is to follow the one in flight */
	struct loop_timer again;   /* tries what could not be written once more */
	bool waits;                /* for that: nothing is submitted before */
	struct err failure;        /* of the last batch, where it is tried again; code 0 = it was written */
	size_t queue_max;          /* store_limit_queue(); 0 = no limit */
	store_lost_fn *lost;
	void *lost_arg;
	struct store_flush *flush; /* the deferred submission of the open batch; NULL = none */
	pthread_mutex_t lock;      /* of n_writing */
	pthread_cond_t idle;
	unsigned n_writing;        /* batches whose work has not ended */
	struct records records;
};

/* db.c: the database file */
MUST_CHECK int store_db_open(sqlite3 **ret, const char *path, struct err *err);
MUST_CHECK int store_db_error(sqlite3 *db, const char *path, const char *what, struct err *err);
/* A transaction of the writer. Both return SQLite's code; that of the beginning, or of what was done in it, goes into the end:
 * it commits what is SQLITE_OK, and else, or where that fails, rolls back and says why. */
MUST_CHECK int store_db_begin(struct store *s);
int store_db_end(struct store *s, int code, struct err *err);
void store_db_write(struct store *s, struct store_batch *b); /* one transaction; fills b->err and b->retry */

/* queue.c: the batch being collected */
void store_queue_init(struct store *s);
struct store_op *store_op_new(struct store *s, const char *sql); /* joins the open batch, which will be written soon */
void store_op_i64(struct store_op *op, int64_t v);
void store_op_text(struct store_op *op, const char *text);
void store_op_blob(struct store_op *op, const void *p, size_t len);
void store_queue_finish(struct store *s); /* writes the rest on this thread; then nothing is in flight */

/* store.c */
MUST_CHECK int store_load(struct store *s, struct err *err);

/* records.c: used by the loader, too; they put nothing into the database */
struct store_namespace *store_namespace_attach(struct store *s, const char *id, const char *name, const char *type);
void store_copy_id(char ret[STORE_ID_LEN], const char *id); /* NULL = a new one */
void store_key_set_maker(struct store_key *k, struct store_key *maker); /* or, where that has too many, its maker; may be NULL */
struct store_key *store_key_attach(struct store *s, struct store_namespace *ns, const char *id, const unsigned char *hash);
struct store_environment *store_environment_attach(struct store *s, struct store_namespace *ns, const char *id,
						   const char *name);
struct store_deployment *store_deployment_attach(struct store *s, struct store_environment *e, const char *id);
void store_records_free(struct store *s);

/* keys.c, likewise */
MUST_CHECK int store_role_of(const char *name); /* -1 = none has this name */
struct store_member *store_member_attach(struct store_namespace *org, struct store_namespace *user, enum store_role role);
void store_keys_init(struct store *s);
void store_keys_finish(struct store *s); /* queues the uses that are not on disk yet */
void store_keys_forget(struct store *s, struct store_namespace *user); /* from memory: nobody finds its keys any more */
void store_keys_free(struct store_namespace *ns); /* its keys, and its members where it is an organisation */

/* origin.c, likewise */
void store_origin_init(struct store_origin *o); /* the defaults */
void store_origin_done(struct store_origin *o);
void store_delivery_attach(struct store *s, const char *id);
void store_deliveries_free(struct store *s);

/* record_queue.c: the queue of events, and the connections that read */
void store_record_init(struct store *s);
void store_record_finish(struct store *s); /* nothing is with a worker afterwards; what was not written is told so */

/* record_apply.c, record_trim.c: inside a transaction, on the writer's thread. Both return SQLite's code. */
#define RECORD_KEY_LEN 16 /* of SHA-256: short, of fixed length, and nobody finds two that collide */
/* What an event is known by. kind: 'r' a rollout's id, 'm' a message's. */
void store_record_key(const char *namespace_id, char kind, const char *id, unsigned char ret[RECORD_KEY_LEN]);
int store_record_apply(struct store *s, struct list *batches);
void store_record_tidy(struct store *s); /* record_trim.c: at the opening, before anybody reads */
int store_record_trim_piece(struct store *s, const struct record_limits *limits, bool *ret_more);

/* statement.c: what is prepared once */
struct store_db { /* a connection with its statements */
	sqlite3 *db;
	struct map *statements;
	int code; /* the first failure; everything after it does nothing */
};
sqlite3_stmt *store_db_query(struct store_db *d, const char *sql); /* ready to be bound; NULL after a failure */
bool store_db_row(struct store_db *d, sqlite3_stmt *st);           /* true = there is a row to be read */
void store_db_run(struct store_db *d, sqlite3_stmt *st);           /* for what gives no rows */
struct map *store_db_statements_free(struct map *statements);      /* returns NULL */
void store_bind_text(sqlite3_stmt *st, int i, const char *text);    /* NULL becomes NULL; text must stay until it was run */
void store_bind_double(sqlite3_stmt *st, int i, double v);          /* NAN becomes NULL */

/* audit.c, on the writer's thread, inside a transaction: looks at this many of the oldest entries, and removes those from
 * before then. True = all of them were. */
bool store_audit_trim_piece(struct store_db *db, int64_t before_ms, int64_t rows);

/* record_queue.c */
struct store_db *store_reader_db(struct store_reader *r);
MUST_CHECK int store_reader_error(struct store_reader *r, struct err *err); /* 0 = none yet */

/* record_apply.c: takes what a rollout counts for its task out, by the columns of its row as they still are. */
void store_task_forget(struct store_db *db, int64_t rollout);

/* states.c */
int store_state_of(const char *name); /* -1 = none has this name */
struct store_transition *store_transition_attach(struct store_deployment *d, enum store_deployment_state from,
						 enum store_deployment_state to, const char *reason);
void store_transition_add(struct store *s, struct store_deployment *d, enum store_deployment_state from,
			  enum store_deployment_state to, const char *reason); /* with its row in the database */
void store_transitions_free(struct store_deployment *d);
