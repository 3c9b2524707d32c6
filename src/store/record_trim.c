/* Retention: one piece of what has to go, on the writer's thread, inside one transaction. All of a namespace that was removed.
 *
 * The oldest rollout of a namespace is first taken out of its run, its task and its name: nobody finds it any more,
 * and an event that still comes for it makes another. It has seq 0 then, so that it stays the oldest until the last
 * of its messages and then its row are gone, however many pieces that takes. */
#include "store/internal.h"

#include "base/mem.h"
#include "base/time.h"

#define PIECE_ROWS 500
#define PIECE_US 50000 /* few large messages take as long as many small ones */
#define CHUNK_ROWS 20

struct trim {
	struct store_db db;
	const struct record_limits *limits;
	int64_t now_ms;
	uint64_t until_us;
	int64_t rows; /* left of this piece */
};

struct victim {
	int64_t id, run, num_messages, seq, updated_ms;
	bool has_reward;
	double reward;
};

static void run_with(struct trim *t, const char *sql, int64_t id)
{
	sqlite3_stmt *st = store_db_query(&t->db, sql);

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, id);
	store_db_run(&t->db, st);
}

static bool oldest(struct trim *t, const char *ns, struct victim *ret)
{
	sqlite3_stmt *st = store_db_query(
		&t->db, "SELECT id, ifnull(run_id, 0), num_messages, seq, updated_ms, max_reward IS NOT NULL,"
			" ifnull(max_reward, 0) FROM rollout WHERE namespace_id = ? ORDER BY seq LIMIT 1");

	if (!st)
		return false;
	store_bind_text(st, 1, ns);
	if (!store_db_row(&t->db, st))
		return false;
	*ret = (struct victim){
		.id = sqlite3_column_int64(st, 0),
		.run = sqlite3_column_int64(st, 1),
		.num_messages = sqlite3_column_int64(st, 2),
		.seq = sqlite3_column_int64(st, 3),
		.updated_ms = sqlite3_column_int64(st, 4),
		.has_reward = sqlite3_column_int(st, 5),
		.reward = sqlite3_column_double(st, 6),
	};
	sqlite3_reset(st);
	return true;
}

static int64_t usage(struct trim *t, const char *sql, const char *ns)
{
	int64_t n = 0;
	sqlite3_stmt *st = store_db_query(&t->db, sql);

	if (!st)
		return 0;
	store_bind_text(st, 1, ns);
	while (store_db_row(&t->db, st))
		n = sqlite3_column_int64(st, 0);
	return n;
}

static int64_t num_messages(struct trim *t, const char *ns)
{
	return usage(t, "SELECT num_messages FROM record_usage WHERE namespace_id = ?", ns);
}

static bool is_gone(struct trim *t, const char *ns)
{
	return usage(t, "SELECT is_gone FROM record_usage WHERE namespace_id = ?", ns);
}

static bool must_go(struct trim *t, const char *ns, const struct victim *v)
{
	if (v->seq == 0 || is_gone(t, ns))
		return true;
	if (t->limits->keep_ms && v->updated_ms < t->now_ms - (int64_t)t->limits->keep_ms)
		return true;
	return t->limits->max_messages && num_messages(t, ns) > (int64_t)t->limits->max_messages;
}

/* A sum of nothing is none, whatever the additions before it were rounded to. */
static void leave_run(struct trim *t, const struct victim *v)
{
	sqlite3_stmt *st = store_db_query(
		&t->db, "UPDATE run SET num_rollouts = num_rollouts - 1, num_messages = num_messages - ?,"
			" num_rewarded = num_rewarded - ?,"
			" reward_sum = CASE WHEN num_rewarded > ? THEN reward_sum - ? ELSE 0 END WHERE id = ?");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, v->num_messages);
	sqlite3_bind_int(st, 2, v->has_reward);
	sqlite3_bind_int(st, 3, v->has_reward);
	sqlite3_bind_double(st, 4, v->reward);
	sqlite3_bind_int64(st, 5, v->run);
	store_db_run(&t->db, st);
	run_with(t, "DELETE FROM run WHERE id = ? AND num_rollouts = 0", v->run);
}

static void hide(struct trim *t, const struct victim *v)
{
	if (v->run) {
		store_task_forget(&t->db, v->id);
		leave_run(t, v);
	}
	run_with(t, "UPDATE rollout SET run_id = NULL, ordinal = NULL, seq = 0, key = randomblob(16) WHERE id = ?",
		 v->id);
}

static void count_gone(struct trim *t, const char *ns, int64_t n)
{
	sqlite3_stmt *st = store_db_query(
		&t->db, "UPDATE record_usage SET num_messages = num_messages - ? WHERE namespace_id = ?");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, n);
	store_bind_text(st, 2, ns);
	store_db_run(&t->db, st);
}

static bool time_left(const struct trim *t)
{
	return t->rows > 0 && t->db.code == SQLITE_OK && time_now_us() < t->until_us;
}

/* True = all its messages are gone. */
static bool remove_messages(struct trim *t, const char *ns, int64_t id)
{
	int64_t n = CHUNK_ROWS;

	while (n == CHUNK_ROWS && time_left(t)) {
		sqlite3_stmt *st = store_db_query(&t->db, "DELETE FROM message WHERE id IN"
							  " (SELECT id FROM message WHERE rollout_id = ? LIMIT ?)");
		if (!st)
			return false;
		sqlite3_bind_int64(st, 1, id);
		sqlite3_bind_int(st, 2, CHUNK_ROWS);
		store_db_run(&t->db, st);
		n = t->db.code == SQLITE_OK ? sqlite3_changes(t->db.db) : CHUNK_ROWS;
		t->rows -= n;
		count_gone(t, ns, n);
	}
	return n < CHUNK_ROWS;
}

/* False = nothing of this namespace has to go, or the piece is full. */
static bool trim_one(struct trim *t, const char *ns)
{
	struct victim v;

	if (!time_left(t) || !oldest(t, ns, &v) || !must_go(t, ns, &v))
		return false;
	if (v.seq)
		hide(t, &v);
	if (!remove_messages(t, ns, v.id))
		return false;
	run_with(t, "DELETE FROM rollout_detail WHERE rollout_id = ?", v.id);
	run_with(t, "DELETE FROM rollout WHERE id = ?", v.id);
	t->rows--;
	return true;
}

/* The next namespace after this one in order of ids; NULL = there is none. */
static char *next_namespace(struct trim *t, const char *after)
{
	char *found = NULL;
	sqlite3_stmt *st = store_db_query(&t->db, "SELECT namespace_id FROM record_usage WHERE namespace_id > ?"
						  " ORDER BY namespace_id LIMIT 1");

	if (!st)
		return NULL;
	store_bind_text(st, 1, after);
	if (store_db_row(&t->db, st))
		found = xstrdup((const char *)sqlite3_column_text(st, 0));
	sqlite3_reset(st);
	return found;
}

/* Of tasks of which no rollout is left. While anybody has summed up an environment's tasks he must hear that one is empty, and
 * versions must grow; of those that ran before nobody remembers any. On a full disk it is done another time. */
void store_record_tidy(struct store *s)
{
	static const char sql[] = "DELETE FROM task_change WHERE NOT EXISTS (SELECT 1 FROM task_reward AS t"
				  " WHERE t.environment_id = task_change.environment_id AND t.split = task_change.split"
				  " AND t.variant = task_change.variant AND t.task_index = task_change.task_index)";

	(void)sqlite3_exec(s->db, sql, NULL, NULL, NULL);
}

int store_record_trim_piece(struct store *s, const struct record_limits *limits, bool *ret_more)
{
	struct trim t = {
		.db = { .db = s->db, .statements = s->records.statements },
		.limits = limits,
		.now_ms = time_wall_ms(),
		.until_us = time_now_us() + PIECE_US,
		.rows = PIECE_ROWS,
	};
	auto_free char *ns = next_namespace(&t, "");

	while (ns) {
		while (trim_one(&t, ns))
			;
		char *next = next_namespace(&t, ns);
		free(ns);
		ns = next;
	}
	*ret_more = !time_left(&t);
	if (limits->audit_ms)
		*ret_more |= store_audit_trim_piece(&t.db, t.now_ms - (int64_t)limits->audit_ms, PIECE_ROWS);
	return t.db.code;
}
