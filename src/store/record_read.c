/* What is read of runs, rollouts, messages and tasks, on a worker's connection. Pages are found by a key, not by
 * counting. */
#include "store/internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

static const char *text(sqlite3_stmt *st, int i)
{
	const char *t = (const char *)sqlite3_column_text(st, i);

	return t ? t : "";
}

static const char *text_or_null(sqlite3_stmt *st, int i)
{
	return (const char *)sqlite3_column_text(st, i);
}

static double number(sqlite3_stmt *st, int i)
{
	return sqlite3_column_type(st, i) == SQLITE_NULL ? NAN : sqlite3_column_double(st, i);
}

/* -- runs ---------------------------------------------------------------------------------------------------------- */

#define RUN_COLUMNS \
	"id, uid, name, last_ordinal, num_rollouts, num_messages, num_rewarded, reward_sum, created_ms, updated_ms"

static void give_run(sqlite3_stmt *st, record_run_fn *fn, void *arg)
{
	int64_t rewarded = sqlite3_column_int64(st, 6);
	struct record_run run = {
		.key = sqlite3_column_int64(st, 0),
		.id = text(st, 1),
		.name = text(st, 2),
		.last_ordinal = sqlite3_column_int64(st, 3),
		.num_rollouts = (uint64_t)sqlite3_column_int64(st, 4),
		.num_messages = (uint64_t)sqlite3_column_int64(st, 5),
		.avg_reward = rewarded ? sqlite3_column_double(st, 7) / (double)rewarded : NAN,
		.created_ms = sqlite3_column_int64(st, 8),
		.updated_ms = sqlite3_column_int64(st, 9),
	};

	fn(arg, &run);
}

/* A pattern for LIKE that finds the text anywhere. NULL for "". */
static char *pattern_of(const char *search)
{
	auto_buf struct buf b = { 0 };
	int r;

	if (str_empty(search))
		return NULL;
	buf_init(&b, BUF_UNLIMITED);
	r = buf_puts(&b, "%");
	for (const char *p = search; r == 0 && *p; p++)
		r = strchr("%_\\", *p) ? buf_printf(&b, "\\%c", *p) : buf_append(&b, p, 1);
	r = r < 0 ? r : buf_puts(&b, "%");
	return r < 0 ? NULL : buf_steal(&b, NULL);
}

static uint64_t count_runs(struct store_db *d, const char *ns, const char *pattern)
{
	uint64_t n = 0;
	sqlite3_stmt *st = store_db_query(
		d, pattern ? "SELECT count(*) FROM run WHERE namespace_id = ? AND name LIKE ? ESCAPE '\\'"
			   : "SELECT count(*) FROM run WHERE namespace_id = ?");

	if (!st)
		return 0;
	store_bind_text(st, 1, ns);
	if (pattern)
		store_bind_text(st, 2, pattern);
	while (store_db_row(d, st))
		n = (uint64_t)sqlite3_column_int64(st, 0);
	return n;
}

int store_runs(struct store_reader *r, const char *namespace_id, const char *search, int64_t before, uint64_t offset,
	       uint64_t limit, record_run_fn *fn, void *arg, uint64_t *ret_total, struct err *err)
{
	auto_free char *pattern = pattern_of(search);
	struct store_db *d = store_reader_db(r);
	int e = store_reader_error(r, err);

	if (e < 0)
		return e;
	uint64_t total = count_runs(d, namespace_id, pattern);
	sqlite3_stmt *st =
		store_db_query(d, "SELECT " RUN_COLUMNS " FROM run WHERE namespace_id = ?1 AND id < ?2"
				  " AND (?3 IS NULL OR name LIKE ?3 ESCAPE '\\') ORDER BY id DESC LIMIT ?4 OFFSET ?5");
	if (st) {
		store_bind_text(st, 1, namespace_id);
		sqlite3_bind_int64(st, 2, before ? before : INT64_MAX);
		store_bind_text(st, 3, pattern);
		sqlite3_bind_int64(st, 4, (int64_t)MIN(limit, (uint64_t)INT64_MAX));
		sqlite3_bind_int64(st, 5, (int64_t)MIN(offset, (uint64_t)INT64_MAX));
		while (store_db_row(d, st))
			give_run(st, fn, arg);
	}
	*ret_total = total;
	return store_reader_error(r, err);
}

static bool find_run(struct store_db *d, const char *sql, const char *ns, const char *id, record_run_fn *fn, void *arg)
{
	sqlite3_stmt *st = store_db_query(d, sql);

	if (!st)
		return false;
	store_bind_text(st, 1, ns);
	store_bind_text(st, 2, id);
	bool found = store_db_row(d, st);
	if (found)
		give_run(st, fn, arg);
	sqlite3_reset(st);
	return found;
}

int store_run_find(struct store_reader *r, const char *namespace_id, const char *id, record_run_fn *fn, void *arg,
		   struct err *err)
{
	struct store_db *d = store_reader_db(r);
	int e = store_reader_error(r, err);

	if (e < 0)
		return e;
	if (find_run(d, "SELECT " RUN_COLUMNS " FROM run WHERE namespace_id = ? AND uid = ?", namespace_id, id, fn,
		     arg) ||
	    find_run(d, "SELECT " RUN_COLUMNS " FROM run WHERE namespace_id = ? AND name = ?", namespace_id, id, fn,
		     arg))
		return 0;
	e = store_reader_error(r, err);
	return e < 0 ? e : err_set(err, -ENOENT, "run \"%.100s\" not found", id);
}

int store_run_by_key(struct store_reader *r, int64_t key, record_run_fn *fn, void *arg, struct err *err)
{
	struct store_db *d = store_reader_db(r);
	sqlite3_stmt *st = store_db_query(d, "SELECT " RUN_COLUMNS " FROM run WHERE id = ?");

	if (!st)
		return store_reader_error(r, err);
	sqlite3_bind_int64(st, 1, key);
	bool found = store_db_row(d, st);
	if (found)
		give_run(st, fn, arg);
	sqlite3_reset(st);
	int e = store_reader_error(r, err);
	if (e == 0 && !found)
		e = err_set(err, -ENOENT, "the run is gone");
	return e;
}

/* -- rollouts ------------------------------------------------------------------------------------------------------ */

#define ROLLOUT_COLUMNS \
	"id, event_id, name, environment, environment_id, variant, variant_id, split, model_name," \
	" ifnull(run_id, 0), ifnull(ordinal, 0), step, task_index, num_messages, response_chars, max_reward, " \
	"is_finished," \
	" created_ms, updated_ms"
#define ROLLOUT_DETAIL 19 /* the column after these */

static void give_rollout(sqlite3_stmt *st, bool detail, record_rollout_fn *fn, void *arg)
{
	struct record_rollout o = {
		.key = sqlite3_column_int64(st, 0),
		.id = text(st, 1),
		.name = text(st, 2),
		.environment = text(st, 3),
		.environment_id = text(st, 4),
		.variant = text(st, 5),
		.variant_id = text(st, 6),
		.split = text(st, 7),
		.model_name = text(st, 8),
		.run = sqlite3_column_int64(st, 9),
		.ordinal = sqlite3_column_int64(st, 10),
		.step = sqlite3_column_int64(st, 11),
		.task_index = sqlite3_column_int64(st, 12),
		.num_messages = (uint64_t)sqlite3_column_int64(st, 13),
		.response_chars = (uint64_t)sqlite3_column_int64(st, 14),
		.max_reward = number(st, 15),
		.is_finished = sqlite3_column_int(st, 16),
		.created_ms = sqlite3_column_int64(st, 17),
		.updated_ms = sqlite3_column_int64(st, 18),
		.metadata = "",
		.task_spec = "",
		.run_info = "",
		.rollout_info = "",
	};

	if (detail) {
		o.metadata = text(st, ROLLOUT_DETAIL);
		o.task_spec = text(st, ROLLOUT_DETAIL + 1);
		o.run_info = text(st, ROLLOUT_DETAIL + 2);
		o.rollout_info = text(st, ROLLOUT_DETAIL + 3);
	}
	fn(arg, &o);
}

int store_rollouts(struct store_reader *r, int64_t run, int64_t from, bool descending, uint64_t limit,
		   record_rollout_fn *fn, void *arg, struct err *err)
{
	struct store_db *d = store_reader_db(r);
	sqlite3_stmt *st = store_db_query(
		d, descending ? "SELECT " ROLLOUT_COLUMNS
				" FROM rollout WHERE run_id = ? AND ordinal <= ? ORDER BY ordinal DESC LIMIT ?"
			      : "SELECT " ROLLOUT_COLUMNS
				" FROM rollout WHERE run_id = ? AND ordinal >= ? ORDER BY ordinal LIMIT ?");

	if (st) {
		sqlite3_bind_int64(st, 1, run);
		sqlite3_bind_int64(st, 2, from);
		sqlite3_bind_int64(st, 3, (int64_t)MIN(limit, (uint64_t)INT64_MAX));
		while (store_db_row(d, st))
			give_rollout(st, false, fn, arg);
	}
	return store_reader_error(r, err);
}

int store_rollout_find(struct store_reader *r, const char *namespace_id, const char *id, record_rollout_fn *fn,
		       void *arg, struct err *err)
{
	unsigned char key[RECORD_KEY_LEN];
	struct store_db *d = store_reader_db(r);
	int e = store_reader_error(r, err);

	if (e < 0)
		return e;
	sqlite3_stmt *st =
		store_db_query(d, "SELECT " ROLLOUT_COLUMNS ", metadata, task_spec, run_info, rollout_info FROM rollout"
				  " LEFT JOIN rollout_detail ON rollout_id = id WHERE key = ?");
	if (!st)
		return store_reader_error(r, err);
	store_record_key(namespace_id, 'r', id, key);
	sqlite3_bind_blob(st, 1, key, sizeof(key), SQLITE_STATIC);
	bool found = store_db_row(d, st);
	if (found)
		give_rollout(st, true, fn, arg);
	sqlite3_reset(st);
	e = store_reader_error(r, err);
	if (e == 0 && !found)
		e = err_set(err, -ENOENT, "rollout \"%.100s\" not found", id);
	return e;
}

/* -- messages ------------------------------------------------------------------------------------------------------ */

static bool give_message(sqlite3_stmt *st, record_message_fn *fn, void *arg)
{
	struct record_message m = {
		.key = sqlite3_column_int64(st, 0),
		.position = sqlite3_column_int64(st, 1),
		.id = text(st, 2),
		.at_ms = sqlite3_column_int64(st, 3),
		.type = text(st, 4),
		.reward = number(st, 5),
		.is_finished = sqlite3_column_int(st, 6),
		.name = text_or_null(st, 7),
		.call_id = text_or_null(st, 8),
		.metadata = text_or_null(st, 9),
		.summary = text_or_null(st, 10),
		.content_reference = text_or_null(st, 11),
		.content = text_or_null(st, 12),
	};

	return fn(arg, &m);
}

/* The index alone is walked for what is skipped: the inner query reads no message. */
int store_messages(struct store_reader *r, int64_t rollout, int64_t position, int64_t key, uint64_t offset,
		   uint64_t limit, record_message_fn *fn, void *arg, struct err *err)
{
	struct store_db *d = store_reader_db(r);
	sqlite3_stmt *st = store_db_query(
		d, "SELECT m.id, m.position, event_id, at_ms, type, reward, is_finished, name, call_id, metadata,"
		   " summary, content_reference, content FROM"
		   " (SELECT id, position FROM message WHERE rollout_id = ? AND (position, id) > (?, ?)"
		   "  ORDER BY position, id LIMIT ? OFFSET ?) AS page"
		   " JOIN message AS m ON m.id = page.id ORDER BY page.position, page.id");

	if (st) {
		sqlite3_bind_int64(st, 1, rollout);
		sqlite3_bind_int64(st, 2, position);
		sqlite3_bind_int64(st, 3, key);
		sqlite3_bind_int64(st, 4, (int64_t)MIN(limit, (uint64_t)INT64_MAX));
		sqlite3_bind_int64(st, 5, (int64_t)MIN(offset, (uint64_t)INT64_MAX));
		while (store_db_row(d, st) && give_message(st, fn, arg))
			;
		sqlite3_reset(st);
	}
	return store_reader_error(r, err);
}

/* -- tasks --------------------------------------------------------------------------------------------------------- */

#define TASKS_OF "SELECT split, variant, task_index, reward, response_chars FROM task_reward WHERE environment_id = ?1"
#define TASKS_FILTER \
	" AND (?2 IS NULL OR namespace_id = ?2)" \
	" AND (?5 IS NULL OR model_name = ?5) AND (?6 IS NULL OR training_stage = ?6)" \
	" AND (?7 < 0 OR model_params >= ?7) AND (?8 < 0 OR model_params BETWEEN 0 AND ?8)" \
	" ORDER BY split, variant, task_index"

int store_tasks(struct store_reader *r, const char *environment_id, const struct record_task_filter *f,
		record_task_fn *fn, void *arg, struct err *err)
{
	struct store_db *d = store_reader_db(r);
	sqlite3_stmt *st = store_db_query(
		d, f->task_index < 0 ? TASKS_OF
			   " AND (?3 IS NULL OR split = ?3) AND (?4 IS NULL OR variant = ?4) AND ?9 < 0" TASKS_FILTER
				     : TASKS_OF " AND split = ?3 AND variant = ?4 AND task_index = ?9" TASKS_FILTER);

	if (st) {
		store_bind_text(st, 1, environment_id);
		store_bind_text(st, 2, f->namespace_id);
		store_bind_text(st, 3, f->split);
		store_bind_text(st, 4, f->variant);
		store_bind_text(st, 5, f->model_name);
		store_bind_text(st, 6, f->training_stage);
		sqlite3_bind_int64(st, 7, f->min_model_params);
		sqlite3_bind_int64(st, 8, f->max_model_params);
		sqlite3_bind_int64(st, 9, f->task_index);
		while (store_db_row(d, st)) {
			struct record_task t = {
				.split = text(st, 0),
				.variant = text(st, 1),
				.task_index = sqlite3_column_int64(st, 2),
				.reward = sqlite3_column_double(st, 3),
				.response_chars = (uint64_t)sqlite3_column_int64(st, 4),
			};
			fn(arg, &t);
		}
	}
	return store_reader_error(r, err);
}

static int64_t task_version(struct store_db *d, const char *environment_id)
{
	int64_t version = 0;
	sqlite3_stmt *st =
		store_db_query(d, "SELECT ifnull(max(version), 0) FROM task_change WHERE environment_id = ?");

	if (!st)
		return 0;
	store_bind_text(st, 1, environment_id);
	while (store_db_row(d, st))
		version = sqlite3_column_int64(st, 0);
	return version;
}

int store_task_changes(struct store_reader *r, const char *environment_id, int64_t since, record_change_fn *fn,
		       void *arg, int64_t *ret_version, struct err *err)
{
	struct store_db *d = store_reader_db(r);
	int64_t version = task_version(d, environment_id);
	sqlite3_stmt *st = store_db_query(
		d, "SELECT split, variant, task_index FROM task_change WHERE environment_id = ? AND version > ?");

	if (st) {
		store_bind_text(st, 1, environment_id);
		sqlite3_bind_int64(st, 2, since);
		while (store_db_row(d, st))
			fn(arg, text(st, 0), text(st, 1), sqlite3_column_int64(st, 2));
	}
	int e = store_reader_error(r, err);
	if (e == 0)
		*ret_version = version;
	return e;
}
