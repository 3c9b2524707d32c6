/* store/internal.h: shared by the files of store/: the object itself and its queue of changes. Nobody else includes it. */
#pragma once

#include <pthread.h>
#include <sqlite3.h>

#include "base/map.h"
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
	struct list waiters; /* struct store_waiter */
	bool retry;          /* out: the failure may pass (disk full), so the changes are tried again with the next batch */
	struct err err;      /* out: code 0 = committed */
	struct list all;     /* of store.in_flight */
};

struct store_flush { /* outlives the store when the loop still holds it */
	struct store *store; /* NULL = gone */
};

struct store {
	struct loop *loop;
	sqlite3 *db;               /* used by the writer alone once the store is open */
	char *path;
	struct list namespaces;    /* struct store_namespace.all */
	struct map *by_name, *by_id;      /* namespaces */
	struct map *keys_by_hash;
	struct map *env_by_name, *env_by_id; /* "owner/name"; id */
	struct map *dep_by_id;
	struct map *settings;      /* key -> char * */
	struct map *deliveries;    /* struct store_delivery by id */
	struct list delivered;     /* the same, oldest first */
	struct store_batch *open;  /* the batch that collects changes now; NULL = none */
	struct list in_flight;     /* batches that the writer has */
	struct store_flush *flush; /* the deferred submission of the open batch; NULL = none */
	pthread_mutex_t lock;      /* of n_writing */
	pthread_cond_t idle;
	unsigned n_writing;        /* batches whose work has not ended */
};

/* db.c: the database file */
MUST_CHECK int store_db_open(sqlite3 **ret, const char *path, struct err *err);
MUST_CHECK int store_db_error(sqlite3 *db, const char *path, const char *what, struct err *err);
void store_db_write(struct store *s, struct store_batch *b); /* one transaction; fills b->err and b->retry */

/* queue.c: the batch being collected */
struct store_op *store_op_new(struct store *s, const char *sql); /* joins the open batch, which will be written soon */
void store_op_i64(struct store_op *op, int64_t v);
void store_op_text(struct store_op *op, const char *text);
void store_op_blob(struct store_op *op, const void *p, size_t len);
void store_queue_finish(struct store *s); /* writes the rest on this thread; then nothing is in flight */

/* store.c */
MUST_CHECK int store_load(struct store *s, struct err *err);

/* records.c: used by the loader, too; they put nothing into the database */
struct store_namespace *store_namespace_attach(struct store *s, const char *id, const char *name, const char *type);
struct store_key *store_key_attach(struct store *s, struct store_namespace *ns, const char *id, const unsigned char *hash);
struct store_environment *store_environment_attach(struct store *s, struct store_namespace *ns, const char *id,
						   const char *name);
struct store_deployment *store_deployment_attach(struct store *s, struct store_environment *e, const char *id);
void store_records_free(struct store *s);

/* origin.c, likewise */
void store_origin_init(struct store_origin *o); /* the defaults */
void store_origin_done(struct store_origin *o);
void store_delivery_attach(struct store *s, const char *id);
void store_deliveries_free(struct store *s);

/* states.c */
int store_state_of(const char *name); /* -1 = none has this name */
struct store_transition *store_transition_attach(struct store_deployment *d, enum store_deployment_state from,
						 enum store_deployment_state to, const char *reason);
void store_transition_add(struct store *s, struct store_deployment *d, enum store_deployment_state from,
			  enum store_deployment_state to, const char *reason); /* with its row in the database */
void store_transitions_free(struct store_deployment *d);
