/* Writing events, on the writer's thread, inside one transaction.
 *
 * A rollout that events of the transaction touch is read once and kept with its sums until the end, when it is
 * written back together with what its run and its task count of it. Sums of a run hold what its rollouts held when
 * they were last written ("counted"), so that a difference is all that is added. */
#include "store/internal.h"

#include <float.h>
#include <math.h>
#include <openssl/sha.h>
#include <string.h>

#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"
#include "json/json.h"

struct rollout {
	unsigned char key[RECORD_KEY_LEN];
	int64_t id, run; /* run 0 = unlisted */
	int64_t num_messages, chars, counted_messages;
	double max_reward, counted_reward; /* NAN = none */
	bool is_finished;
	bool changed;
	struct list all;
};

struct apply {
	struct store_db db;
	struct map *rollouts;     /* struct rollout by key */
	struct list touched;      /* the same */
	const char *namespace_id; /* of the batch at hand */
	int64_t now_ms, new_messages;
};

void store_record_key(const char *namespace_id, char kind, const char *id, unsigned char ret[RECORD_KEY_LEN])
{
	unsigned char hash[SHA256_DIGEST_LENGTH];
	auto_free char *text = xasprintf("%c:%s:%s", kind, namespace_id, id);

	SHA256((const unsigned char *)text, strlen(text), hash);
	memcpy(ret, hash, RECORD_KEY_LEN);
}

/* -- rollouts ------------------------------------------------------------------------------------------------------ */

static double column_double(sqlite3_stmt *st, int i)
{
	return sqlite3_column_type(st, i) == SQLITE_NULL ? NAN : sqlite3_column_double(st, i);
}

static struct rollout *rollout_attach(struct apply *a, const unsigned char key[RECORD_KEY_LEN], int64_t id)
{
	struct rollout *r = NEW(struct rollout);

	memcpy(r->key, key, RECORD_KEY_LEN);
	r->id = id;
	r->max_reward = r->counted_reward = NAN;
	map_put_bytes(a->rollouts, key, RECORD_KEY_LEN, r);
	list_push_back(&a->touched, &r->all);
	return r;
}

/* NULL = there is none yet. */
static struct rollout *rollout_find(struct apply *a, const char *id)
{
	unsigned char key[RECORD_KEY_LEN];

	store_record_key(a->namespace_id, 'r', id, key);
	struct rollout *r = map_get_bytes(a->rollouts, key, RECORD_KEY_LEN);
	if (r)
		return r;
	sqlite3_stmt *st = store_db_query(
		&a->db, "SELECT id, ifnull(run_id, 0), num_messages, response_chars, max_reward, is_finished"
			" FROM rollout WHERE key = ?");
	if (!st)
		return NULL;
	sqlite3_bind_blob(st, 1, key, RECORD_KEY_LEN, SQLITE_STATIC);
	if (!store_db_row(&a->db, st))
		return NULL;
	r = rollout_attach(a, key, sqlite3_column_int64(st, 0));
	r->run = sqlite3_column_int64(st, 1);
	r->num_messages = sqlite3_column_int64(st, 2);
	r->chars = sqlite3_column_int64(st, 3);
	r->max_reward = column_double(st, 4);
	r->is_finished = sqlite3_column_int(st, 5);
	if (r->run) {
		r->counted_messages = r->num_messages;
		r->counted_reward = r->max_reward;
	}
	sqlite3_reset(st);
	return r;
}

/* The next number in the order in which a namespace's rollouts go. */
static int64_t next_seq(struct apply *a)
{
	int64_t seq = 0;
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT INTO record_usage (namespace_id, last_seq, num_messages) VALUES (?, 1, 0)"
			" ON CONFLICT (namespace_id) DO UPDATE SET last_seq = last_seq + 1 RETURNING last_seq");

	if (!st)
		return 0;
	store_bind_text(st, 1, a->namespace_id);
	while (store_db_row(&a->db, st))
		seq = sqlite3_column_int64(st, 0);
	return seq;
}

/* An unlisted one. NULL after a failure. */
static struct rollout *rollout_make(struct apply *a, const char *id, int64_t at_ms)
{
	unsigned char key[RECORD_KEY_LEN];
	int64_t seq = next_seq(a);
	sqlite3_stmt *st =
		store_db_query(&a->db, "INSERT INTO rollout (key, namespace_id, event_id, seq, created_ms, updated_ms)"
				       " VALUES (?, ?, ?, ?, ?, ?)");

	if (!st)
		return NULL;
	store_record_key(a->namespace_id, 'r', id, key);
	sqlite3_bind_blob(st, 1, key, RECORD_KEY_LEN, SQLITE_STATIC);
	store_bind_text(st, 2, a->namespace_id);
	store_bind_text(st, 3, id);
	sqlite3_bind_int64(st, 4, seq);
	sqlite3_bind_int64(st, 5, at_ms);
	sqlite3_bind_int64(st, 6, a->now_ms);
	store_db_run(&a->db, st);
	return a->db.code == SQLITE_OK ? rollout_attach(a, key, sqlite3_last_insert_rowid(a->db.db)) : NULL;
}

/* Whoever has summed the task up must look again. */
static void task_changed(struct store_db *db, int64_t rollout)
{
	sqlite3_stmt *st = store_db_query(
		db, "INSERT OR REPLACE INTO task_change SELECT environment_id, split, variant, task_index,"
		    " (SELECT ifnull(max(version), 0) + 1 FROM task_change AS c"
		    "  WHERE c.environment_id = rollout.environment_id)"
		    " FROM rollout WHERE id = ? AND environment_id != '' AND task_index >= 0");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, rollout);
	store_db_run(db, st);
}

void store_task_forget(struct store_db *db, int64_t rollout)
{
	task_changed(db, rollout);
	sqlite3_stmt *st = store_db_query(
		db, "DELETE FROM task_reward WHERE (environment_id, split, variant, task_index, rollout_id) ="
		    " (SELECT environment_id, split, variant, task_index, id FROM rollout WHERE id = ?)");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, rollout);
	store_db_run(db, st);
}

static void task_count(struct apply *a, const struct rollout *r)
{
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT OR REPLACE INTO task_reward SELECT environment_id, split, variant, task_index, id,"
			" namespace_id, model_name, model_params, training_stage, max_reward, response_chars"
			" FROM rollout WHERE id = ? AND environment_id != '' AND task_index >= 0");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, r->id);
	store_db_run(&a->db, st);
	task_changed(&a->db, r->id);
}

/* -- rollout_info -------------------------------------------------------------------------------------------------- */

/* Updates may come in any order, so each key has the time of what it says: the latest wins, and of two that say it
 * was the same time the larger text. */
static bool info_newer(json_t *known, json_t *times, const char *key, json_t *value, int64_t at_ms)
{
	json_t *old = json_object_get(known, key);
	int64_t old_ms = json_integer_value(json_object_get(times, key));

	if (!old || at_ms != old_ms)
		return !old || at_ms > old_ms;
	auto_free char *old_text = json_dumps(old, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
	auto_free char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
	return strcmp(text, old_text) > 0;
}

static bool info_merge(json_t *known, json_t *times, json_t *info, int64_t at_ms)
{
	bool changed = false;
	const char *key;
	json_t *value;

	json_object_foreach(info, key, value) {
		if (json_is_null(value) || !info_newer(known, times, key, value, at_ms))
			continue;
		json_object_set(known, key, value);
		json_object_set_new(times, key, json_integer(at_ms));
		changed = true;
	}
	return changed;
}

static json_t *object_of(const unsigned char *text)
{
	json_t *v = text ? json_loads((const char *)text, 0, NULL) : NULL;

	return v ? v : json_object();
}

static void info_save(struct apply *a, const struct rollout *r, json_t *known, json_t *times)
{
	auto_free char *known_text = json_dumps(known, JSON_COMPACT | JSON_SORT_KEYS);
	auto_free char *times_text = json_dumps(times, JSON_COMPACT);
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT INTO rollout_detail (rollout_id, rollout_info, info_times) VALUES (?, ?, ?)"
			" ON CONFLICT (rollout_id) DO UPDATE SET rollout_info = excluded.rollout_info,"
			" info_times = excluded.info_times");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, r->id);
	store_bind_text(st, 2, known_text);
	store_bind_text(st, 3, times_text);
	store_db_run(&a->db, st);
}

static void set_task_index(struct apply *a, const struct rollout *r, json_t *info)
{
	json_t *index = json_object_get(info, "task_index");

	if (!json_is_integer(index))
		return;
	store_task_forget(&a->db, r->id);
	sqlite3_stmt *st = store_db_query(&a->db, "UPDATE rollout SET task_index = ? WHERE id = ?");
	if (!st)
		return;
	sqlite3_bind_int64(st, 1, json_integer_value(index));
	sqlite3_bind_int64(st, 2, r->id);
	store_db_run(&a->db, st);
}

/* False = nothing of it was new. */
static bool apply_info(struct apply *a, struct rollout *r, json_t *info, int64_t at_ms)
{
	auto_json known = NULL;
	auto_json times = NULL;
	sqlite3_stmt *st =
		store_db_query(&a->db, "SELECT rollout_info, info_times FROM rollout_detail WHERE rollout_id = ?");

	if (!st)
		return false;
	sqlite3_bind_int64(st, 1, r->id);
	bool there = store_db_row(&a->db, st);
	known = object_of(there ? sqlite3_column_text(st, 0) : NULL);
	times = object_of(there ? sqlite3_column_text(st, 1) : NULL);
	sqlite3_reset(st);
	if (!info_merge(known, times, info, at_ms))
		return false;
	info_save(a, r, known, times);
	set_task_index(a, r, known);
	r->changed = true;
	return true;
}

/* -- events -------------------------------------------------------------------------------------------------------- */

static bool message_known(struct apply *a, const unsigned char key[RECORD_KEY_LEN])
{
	sqlite3_stmt *st = store_db_query(&a->db, "SELECT 1 FROM message WHERE key = ?");

	if (!st)
		return false;
	sqlite3_bind_blob(st, 1, key, RECORD_KEY_LEN, SQLITE_STATIC);
	bool known = store_db_row(&a->db, st);
	sqlite3_reset(st);
	return known;
}

static void bind_message(sqlite3_stmt *st, const struct rollout *r, const unsigned char *key,
			 const struct record_event *e)
{
	int i = 0;

	sqlite3_bind_int64(st, ++i, r->id);
	sqlite3_bind_int64(st, ++i, e->position);
	sqlite3_bind_blob(st, ++i, key, RECORD_KEY_LEN, SQLITE_STATIC);
	store_bind_text(st, ++i, e->id);
	sqlite3_bind_int64(st, ++i, e->at_ms);
	store_bind_text(st, ++i, e->type);
	store_bind_double(st, ++i, e->reward);
	sqlite3_bind_int(st, ++i, e->is_finished);
	store_bind_text(st, ++i, e->name);
	store_bind_text(st, ++i, e->call_id);
	store_bind_text(st, ++i, e->metadata);
	store_bind_text(st, ++i, e->summary);
	store_bind_text(st, ++i, e->content_reference);
	store_bind_text(st, ++i, e->content);
}

/* All three: false = it was there already. */
static bool apply_message(struct apply *a, const struct record_event *e)
{
	unsigned char key[RECORD_KEY_LEN];
	struct rollout *r = rollout_find(a, e->rollout);

	store_record_key(a->namespace_id, 'm', e->id, key);
	if (!r && message_known(a, key)) /* of another rollout */
		return false;
	if (!r)
		r = rollout_make(a, e->rollout, e->at_ms);
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT INTO message (rollout_id, position, key, event_id, at_ms, type, reward, is_finished,"
			" name, call_id, metadata, summary, content_reference, content)"
			" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING");
	if (!r || !st)
		return false;
	bind_message(st, r, key, e);
	store_db_run(&a->db, st);
	sqlite3_clear_bindings(st);
	if (sqlite3_changes(a->db.db) == 0)
		return false;
	r->changed = true;
	r->num_messages++;
	r->chars += (int64_t)e->chars;
	r->is_finished |= e->is_finished;
	if (!isnan(e->reward))
		r->max_reward = isnan(r->max_reward) ? e->reward : MAX(r->max_reward, e->reward);
	a->new_messages++;
	return true;
}

/* Its run, made where it is the first of it, and its number in there. */
static void join_run(struct apply *a, struct rollout *r, const struct record_event *e, int64_t *ret_ordinal)
{
	char uid[UUID_LEN];
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT INTO run (uid, namespace_id, name, last_ordinal, num_rollouts, num_messages,"
			" num_rewarded, reward_sum, created_ms, updated_ms) VALUES (?, ?, ?, 1, 1, 0, 0, 0, ?, ?)"
			" ON CONFLICT (namespace_id, name) DO UPDATE SET last_ordinal = last_ordinal + 1,"
			" num_rollouts = num_rollouts + 1 RETURNING id, last_ordinal");

	if (!st)
		return;
	store_bind_text(st, 1, random_uuid(uid));
	store_bind_text(st, 2, a->namespace_id);
	store_bind_text(st, 3, e->run);
	sqlite3_bind_int64(st, 4, e->at_ms);
	sqlite3_bind_int64(st, 5, a->now_ms);
	while (store_db_row(&a->db, st)) {
		r->run = sqlite3_column_int64(st, 0);
		*ret_ordinal = sqlite3_column_int64(st, 1);
	}
}

static const char *or_empty(const char *text)
{
	return text ? text : "";
}

static void write_rollout(struct apply *a, const struct rollout *r, int64_t ordinal, const struct record_event *e)
{
	int i = 0;
	int64_t seq = next_seq(a);
	sqlite3_stmt *st = store_db_query(&a->db, "UPDATE rollout SET run_id = ?, ordinal = ?, seq = ?, name = ?, "
						  "environment = ?, environment_id = ?, variant = ?,"
						  " variant_id = ?, split = ?, model_name = ?, training_stage = ?, "
						  "model_params = ?, step = ?, created_ms = ?"
						  " WHERE id = ?");

	if (!st)
		return;
	sqlite3_bind_int64(st, ++i, r->run);
	sqlite3_bind_int64(st, ++i, ordinal);
	sqlite3_bind_int64(st, ++i, seq);
	store_bind_text(st, ++i, or_empty(e->name));
	store_bind_text(st, ++i, or_empty(e->environment));
	store_bind_text(st, ++i, or_empty(e->environment_id));
	store_bind_text(st, ++i, or_empty(e->variant));
	store_bind_text(st, ++i, or_empty(e->variant_id));
	store_bind_text(st, ++i, or_empty(e->split));
	store_bind_text(st, ++i, or_empty(e->model_name));
	store_bind_text(st, ++i, or_empty(e->training_stage));
	sqlite3_bind_int64(st, ++i, e->model_params);
	sqlite3_bind_int64(st, ++i, e->step);
	sqlite3_bind_int64(st, ++i, e->at_ms);
	sqlite3_bind_int64(st, ++i, r->id);
	store_db_run(&a->db, st);
}

static void write_detail(struct apply *a, const struct rollout *r, const struct record_event *e)
{
	sqlite3_stmt *st = store_db_query(
		&a->db, "INSERT INTO rollout_detail (rollout_id, metadata, task_spec, run_info) VALUES (?, ?, ?, ?)"
			" ON CONFLICT (rollout_id) DO UPDATE SET metadata = excluded.metadata,"
			" task_spec = excluded.task_spec, run_info = excluded.run_info");

	if (!st || (!e->metadata && !e->task_spec && !e->run_info))
		return;
	sqlite3_bind_int64(st, 1, r->id);
	store_bind_text(st, 2, e->metadata);
	store_bind_text(st, 3, e->task_spec);
	store_bind_text(st, 4, e->run_info);
	store_db_run(&a->db, st);
}

static bool apply_rollout(struct apply *a, const struct record_event *e)
{
	struct rollout *r = rollout_find(a, e->id);
	int64_t ordinal = 0;

	if (!r)
		r = rollout_make(a, e->id, e->at_ms);
	if (!r || r->run)
		return false;
	r->changed = true;
	join_run(a, r, e, &ordinal);
	write_rollout(a, r, ordinal, e);
	write_detail(a, r, e);
	if (e->info)
		apply_info(a, r, e->info, e->at_ms);
	return true;
}

static bool apply_update(struct apply *a, const struct record_event *e)
{
	struct rollout *r = rollout_find(a, e->id);

	if (!r)
		r = rollout_make(a, e->id, e->at_ms);
	return r && e->info && apply_info(a, r, e->info, e->at_ms);
}

static bool apply_event(struct apply *a, const struct record_event *e)
{
	switch (e->kind) {
	case RECORD_ROLLOUT:
		return apply_rollout(a, e);
	case RECORD_MESSAGE:
		return apply_message(a, e);
	case RECORD_UPDATE:
		return apply_update(a, e);
	}
	return false;
}

/* -- sums ---------------------------------------------------------------------------------------------------------- */

static void save_rollout(struct apply *a, const struct rollout *r)
{
	sqlite3_stmt *st = store_db_query(
		&a->db, "UPDATE rollout SET num_messages = ?, response_chars = ?, max_reward = ?, is_finished = ?,"
			" updated_ms = ? WHERE id = ?");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, r->num_messages);
	sqlite3_bind_int64(st, 2, r->chars);
	store_bind_double(st, 3, r->max_reward);
	sqlite3_bind_int(st, 4, r->is_finished);
	sqlite3_bind_int64(st, 5, a->now_ms);
	sqlite3_bind_int64(st, 6, r->id);
	store_db_run(&a->db, st);
}

static void save_run(struct apply *a, const struct rollout *r)
{
	double before = isnan(r->counted_reward) ? 0 : r->counted_reward,
	       after = isnan(r->max_reward) ? 0 : r->max_reward, more = after - before;
	sqlite3_stmt *st = store_db_query(
		&a->db, "UPDATE run SET num_messages = num_messages + ?, num_rewarded = num_rewarded + ?,"
			" reward_sum = reward_sum + ?, updated_ms = ? WHERE id = ?");

	if (!st)
		return;
	sqlite3_bind_int64(st, 1, r->num_messages - r->counted_messages);
	sqlite3_bind_int(st, 2, !isnan(r->max_reward) - !isnan(r->counted_reward));
	/* Finite, so that a sum which is infinite by now becomes no NaN: that is a NULL, which fails the whole transaction. */
	sqlite3_bind_double(st, 3, MAX(-DBL_MAX, MIN(DBL_MAX, more)));
	sqlite3_bind_int64(st, 4, a->now_ms);
	sqlite3_bind_int64(st, 5, r->run);
	store_db_run(&a->db, st);
}

static void save_all(struct apply *a)
{
	list_foreach(&a->touched, struct rollout, all, r) {
		if (!r->changed)
			continue;
		save_rollout(a, r);
		if (r->run)
			save_run(a, r);
		if (r->run && !isnan(r->max_reward))
			task_count(a, r);
	}
}

static void save_usage(struct apply *a)
{
	sqlite3_stmt *st = store_db_query(
		&a->db, "UPDATE record_usage SET num_messages = num_messages + ? WHERE namespace_id = ?");

	if (!st || !a->new_messages)
		return;
	sqlite3_bind_int64(st, 1, a->new_messages);
	store_bind_text(st, 2, a->namespace_id);
	store_db_run(&a->db, st);
	a->new_messages = 0;
}

static void apply_batch(struct apply *a, struct record_batch *b)
{
	a->namespace_id = b->namespace_id;
	b->recorded = b->repeated = 0;
	for (size_t i = 0; i < b->n && a->db.code == SQLITE_OK; i++)
		*(apply_event(a, &b->events[i]) ? &b->recorded : &b->repeated) += 1;
	save_usage(a);
}

int store_record_apply(struct store *s, struct list *batches)
{
	struct apply a = { .db = { .db = s->db, .statements = s->records.statements },
			   .rollouts = map_new(),
			   .now_ms = time_wall_ms() };
	struct rollout *r;

	list_init(&a.touched);
	list_foreach(batches, struct record_batch, all, b)
		apply_batch(&a, b);
	save_all(&a);
	while ((r = list_first(&a.touched, struct rollout, all))) {
		list_remove(&r->all);
		free(r);
	}
	map_free(a.rollouts);
	return a.db.code;
}
