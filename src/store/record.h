/* store/record.h: what agents did: runs, their rollouts, the messages of those. In the same database as everything
 * else, but not in memory: this is what grows. It is written by the store's one writer and read by workers, each with
 * a connection of its own, so that neither ever holds the loop up.
 *
 * Events come in any order and may come again. A rollout of which only messages or updates have come is there without
 * a run ("unlisted"), and becomes a rollout of its run when its own event comes. Sums (messages, rewards, characters)
 * are kept with each rollout, run and task as the events are written; nothing is ever counted by looking at all of
 * it.
 *
 * Rollouts of a run are numbered without gaps in the order in which they came (`ordinal`), and the oldest go first,
 * so a page of them is found by its number. */
#pragma once

#include <jansson.h>

#include "store/store.h"

/* -- writing ------------------------------------------------------------------------------------------------------- */
enum record_kind { RECORD_ROLLOUT, RECORD_MESSAGE, RECORD_UPDATE };

/* One event, checked. Texts are UTF-8 without NUL; NULL = absent. What it points to belongs to the batch. */
struct record_event {
	enum record_kind kind;
	const char *id;       /* of an update: the rollout's */
	int64_t at_ms;        /* the client's wall clock */
	const char *metadata; /* JSON */
	/* a message */
	const char *rollout; /* its rollout's id */
	int64_t position;    /* in the rollout; several may have the same */
	const char *type, *content, *content_reference, *summary, *name, *call_id;
	double reward; /* NAN = none */
	bool is_finished;
	uint64_t chars; /* characters of what a model made in it */
	/* a rollout; name, above, is its own */
	const char *run, *environment, *variant, *variant_id, *split;
	const char *environment_id;              /* also set by whoever knows it by its name */
	const char *task_spec, *run_info;        /* JSON */
	const char *model_name, *training_stage; /* of run_info */
	int64_t model_params;                    /* of run_info; -1 = unknown */
	int64_t step;                            /* -1 = none */
	/* a rollout or an update */
	json_t *info; /* an object: rollout_info */
};

struct record_batch {
	char namespace_id[STORE_ID_LEN];
	struct record_event *events;
	size_t n, bytes;           /* bytes: roughly what it holds in memory */
	size_t recorded, repeated; /* out: events that were new; that were there already and changed nothing */
	/* Called on the writer's thread once it is written or given up: frees what events point to, and events, but not b. */
	void (*free_owned)(struct record_batch *b);
	void *owned; /* for free_owned */
	/* On the loop's thread: the batch is on disk, or err. Runs exactly once, store_free() included. */
	store_done_fn *done;
	void *arg;
	struct list all; /* private */
};

/* Batches that come while one is written share the next transaction. The batch must stay until done has run. */
void store_record(struct store *s, struct record_batch *b);

/* What retention leaves. 0 = no limit. The first two go by namespace, the oldest rollouts first, whole ones. */
struct record_limits {
	uint64_t keep_ms; /* since the last event of a rollout; one waits for all that were recorded before it */
	uint64_t max_messages;
	uint64_t audit_ms; /* age of an entry of the audit log, which is everybody's */
};

/* Removes one piece (some hundred rows) of what is beyond the limits, on the writer's thread. done: more = call
 * again. */
typedef void record_trim_fn(void *arg, bool more, const struct err *err);
void store_record_trim(struct store *s, const struct record_limits *limits, record_trim_fn *done, void *arg);

/* -- reading ------------------------------------------------------------------------------------------------------- */
struct store_reader; /* a connection that a worker was lent, with one view of the data for as long as it has it */

/* Runs work(arg, reader) on a worker, then done(arg) on the loop. Queries on a reader fail with the reason when the
 * database could not be opened. store_free() waits for work that has begun; done may run after it. */
typedef void store_read_fn(void *arg, struct store_reader *r);
void store_read(struct store *s, store_read_fn *work, loop_fn *done, void *arg);

/* Texts live until the callback returns; "" = absent. */
struct record_run {
	int64_t key; /* of the row; grows with age: newer = larger */
	const char *id, *name;
	int64_t last_ordinal; /* of its newest rollout */
	uint64_t num_rollouts, num_messages;
	double avg_reward; /* of the rollouts that have one; NAN = none has */
	int64_t created_ms, updated_ms;
};

struct record_rollout {
	int64_t key;
	const char *id, *name, *environment, *environment_id, *variant, *variant_id, *split, *model_name;
	int64_t run;              /* the run's key; 0 = unlisted */
	int64_t ordinal;          /* in its run, from 1 */
	int64_t step, task_index; /* -1 = none */
	uint64_t num_messages, response_chars;
	double max_reward; /* NAN = none */
	bool is_finished;
	int64_t created_ms, updated_ms;
	const char *metadata, *task_spec, *run_info, *rollout_info; /* JSON; filled in by store_rollout_find() alone */
};

struct record_message {
	int64_t key, position; /* the order of messages: by position, then by key */
	const char *id, *type;
	int64_t at_ms;
	double reward; /* NAN = none */
	bool is_finished;
	const char *name, *call_id, *metadata, *summary, *content_reference, *content; /* NULL = absent */
};

/* One rollout that counts for the difficulty of a task. */
struct record_task {
	const char *split, *variant; /* "" = none */
	int64_t task_index;
	double reward;
	uint64_t response_chars;
};

typedef void record_run_fn(void *arg, const struct record_run *run);
typedef void record_rollout_fn(void *arg, const struct record_rollout *rollout);
typedef bool record_message_fn(void *arg, const struct record_message *message); /* false = no more */
typedef void record_task_fn(void *arg, const struct record_task *task);

/* Newest first. search: part of the name, in any case; "" = all. before: runs older than this key; 0 = from the
 * newest. */
MUST_CHECK int store_runs(struct store_reader *r, const char *namespace_id, const char *search, int64_t before,
			  uint64_t offset, uint64_t limit, record_run_fn *fn, void *arg, uint64_t *ret_total,
			  struct err *err);
/* By its id, or else by its whole name. -ENOENT. */
MUST_CHECK int store_run_find(struct store_reader *r, const char *namespace_id, const char *id, record_run_fn *fn,
			      void *arg, struct err *err);
MUST_CHECK int store_run_by_key(struct store_reader *r, int64_t key, record_run_fn *fn, void *arg,
				struct err *err); /* -ENOENT */
/* The rollouts from this ordinal on downward (descending) or upward. */
MUST_CHECK int store_rollouts(struct store_reader *r, int64_t run, int64_t from, bool descending, uint64_t limit,
			      record_rollout_fn *fn, void *arg, struct err *err);
MUST_CHECK int store_rollout_find(struct store_reader *r, const char *namespace_id, const char *id,
				  record_rollout_fn *fn, void *arg, struct err *err); /* -ENOENT */
/* In order, those after (position, key); (INT64_MIN, 0) = from the first. */
MUST_CHECK int store_messages(struct store_reader *r, int64_t rollout, int64_t position, int64_t key, uint64_t offset,
			      uint64_t limit, record_message_fn *fn, void *arg, struct err *err);

/* NULL and -1 = any. */
struct record_task_filter {
	const char *namespace_id; /* whose rollouts; NULL = everybody's */
	const char *variant, *split, *model_name, *training_stage;
	int64_t min_model_params, max_model_params;
	int64_t task_index; /* with split and variant, where it is given */
};
/* Of one environment, by split, variant and task_index, those without before those with. */
MUST_CHECK int store_tasks(struct store_reader *r, const char *environment_id, const struct record_task_filter *f,
			   record_task_fn *fn, void *arg, struct err *err);
/* The tasks of an environment that have changed since this version of it: another rollout counts, or one counts no
 * more or otherwise. *ret_version: the one that the reader sees. Changes to one task count as one. fn may use the
 * reader. */
typedef void record_change_fn(void *arg, const char *split, const char *variant, int64_t task_index);
MUST_CHECK int store_task_changes(struct store_reader *r, const char *environment_id, int64_t since,
				  record_change_fn *fn, void *arg, int64_t *ret_version, struct err *err);
