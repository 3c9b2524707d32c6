#include "store/audit.h"

#include "base/time.h"
#include "store/internal.h"

int64_t store_audit_add(struct store *s, const struct audit_entry *e)
{
	const char *const texts[] = { e->actor_id, e->actor, e->key_id, e->session_id, e->namespace_id, e->namespace, e->action,
				      e->target, e->peer };
	struct store_op *op = store_op_new(s, "INSERT INTO audit (id, at_ms, actor_id, actor, key_id, session_id, namespace_id,"
					      " namespace, action, target, peer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
	int64_t id = ++s->last_audit;

	store_op_i64(op, id);
	store_op_i64(op, e->at_ms ? e->at_ms : time_wall_ms());
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		store_op_text(op, texts[i]);
	return id;
}

void store_audit_own(struct store *s, const char *action, const char *target)
{
	const struct store_namespace *ns = store_namespace_find(s, STORE_NAMESPACE_LOCAL);
	const struct audit_entry entry = {
		.actor_id = "", .actor = "server", .key_id = "", .session_id = "", .namespace_id = ns ? ns->id : "",
		.namespace = STORE_NAMESPACE_LOCAL, .action = action, .target = target, .peer = "",
	};

	store_audit_add(s, &entry);
}

void store_audit_target(struct store *s, int64_t id, const struct store_namespace *ns, const char *target)
{
	struct store_op *op = store_op_new(s, "UPDATE audit SET namespace_id = ?, namespace = ?, target = ? WHERE id = ?");

	store_op_text(op, ns->id);
	store_op_text(op, ns->name);
	store_op_text(op, target);
	store_op_i64(op, id);
}

void store_audit_status(struct store *s, int64_t id, int status)
{
	struct store_op *op = store_op_new(s, "UPDATE audit SET status = ? WHERE id = ?");

	store_op_i64(op, status);
	store_op_i64(op, id);
}

/* -- retention --------------------------------------------------------------------------------------------------- */

/* By the ids, which grow with time, so that nothing but the oldest is looked at. */
bool store_audit_trim_piece(struct store_db *db, int64_t before_ms, int64_t rows)
{
	sqlite3_stmt *st = store_db_query(db, "DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT ?1) AND at_ms < ?2");

	if (!st)
		return false;
	sqlite3_bind_int64(st, 1, rows);
	sqlite3_bind_int64(st, 2, before_ms);
	store_db_run(db, st);
	return db->code == SQLITE_OK && sqlite3_changes(db->db) == rows;
}

/* -- reading ----------------------------------------------------------------------------------------------------- */

static const char *text(sqlite3_stmt *st, int column)
{
	const char *t = (const char *)sqlite3_column_text(st, column);

	return t ? t : "";
}

static void tell(sqlite3_stmt *st, audit_fn *fn, void *arg)
{
	const struct audit_entry e = {
		.id = sqlite3_column_int64(st, 0), .at_ms = sqlite3_column_int64(st, 1),
		.actor_id = text(st, 2), .actor = text(st, 3),
		.key_id = text(st, 4), .session_id = text(st, 5), .namespace_id = text(st, 6), .namespace = text(st, 7),
		.action = text(st, 8), .target = text(st, 9), .peer = text(st, 10), .status = sqlite3_column_int(st, 11),
	};

	fn(arg, &e);
}

#define COLUMNS "id, at_ms, actor_id, actor, key_id, session_id, namespace_id, namespace, action, target, peer, status"
#define REST                                                                                                             \
	" AND (?3 IS NULL OR actor = ?3) AND (?4 IS NULL OR substr(action, 1, length(?4)) = ?4) AND at_ms >= ?5"         \
	" ORDER BY id DESC LIMIT ?6"

int store_audit_read(struct store_reader *r, const struct audit_filter *f, int64_t before, uint64_t limit, audit_fn *fn, void *arg,
		     struct err *err)
{
	struct store_db *db = store_reader_db(r);
	int e = store_reader_error(r, err);

	if (e < 0)
		return e;
	sqlite3_stmt *st = store_db_query(
		db, f->namespace_id ? "SELECT " COLUMNS " FROM audit WHERE id < ?1 AND (namespace_id = ?2 OR actor_id = ?2)" REST :
				      "SELECT " COLUMNS " FROM audit WHERE id < ?1 AND ?2 IS NULL" REST);
	if (!st)
		return store_reader_error(r, err);
	sqlite3_bind_int64(st, 1, before ? before : INT64_MAX);
	store_bind_text(st, 2, f->namespace_id);
	store_bind_text(st, 3, f->actor);
	store_bind_text(st, 4, f->action);
	sqlite3_bind_int64(st, 5, f->since_ms);
	sqlite3_bind_int64(st, 6, (int64_t)limit);
	while (store_db_row(db, st))
		tell(st, fn, arg);
	return store_reader_error(r, err);
}
