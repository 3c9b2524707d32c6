/* The database file: opening, migrations, and one transaction per batch. */
#include "store/internal.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/mem.h"

/* Each entry brings user_version from its index to index + 1, and is never changed once released: a new shape is a new
 * entry. Times are milliseconds since 1970. */
static const char *const migrations[] = {
	"CREATE TABLE namespace ("
	"  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL, created_ms INTEGER NOT NULL) STRICT;"
	"CREATE TABLE api_key ("
	"  id TEXT PRIMARY KEY, namespace_id TEXT NOT NULL REFERENCES namespace(id), label TEXT NOT NULL,"
	"  role TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, created_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL) STRICT;"
	"CREATE TABLE environment ("
	"  id TEXT PRIMARY KEY, namespace_id TEXT NOT NULL REFERENCES namespace(id), name TEXT NOT NULL,"
	"  description TEXT NOT NULL, is_private INTEGER NOT NULL, is_harbor INTEGER NOT NULL, cpu_milli INTEGER NOT NULL,"
	"  memory_bytes INTEGER NOT NULL, max_concurrency INTEGER NOT NULL, max_scale INTEGER NOT NULL,"
	"  created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, UNIQUE (namespace_id, name)) STRICT;"
	"CREATE TABLE deployment ("
	"  id TEXT PRIMARY KEY, environment_id TEXT NOT NULL REFERENCES environment(id), state TEXT NOT NULL,"
	"  image TEXT NOT NULL, source TEXT NOT NULL, branch TEXT NOT NULL, commit_sha TEXT NOT NULL, reason TEXT NOT NULL,"
	"  cpu_milli INTEGER NOT NULL, memory_bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL,"
	"  updated_ms INTEGER NOT NULL) STRICT;"
	"CREATE INDEX deployment_of_environment ON deployment (environment_id, created_ms);"
	"CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;",

	"CREATE TABLE environment_origin ("
	"  environment_id TEXT PRIMARY KEY REFERENCES environment(id), branch TEXT NOT NULL, subdirectory TEXT NOT NULL,"
	"  github_id INTEGER NOT NULL, github_repo TEXT NOT NULL, arxiv_url TEXT NOT NULL, github_url TEXT NOT NULL,"
	"  hf_url TEXT NOT NULL) STRICT;"
	"CREATE TABLE webhook_delivery (id TEXT PRIMARY KEY) STRICT;",

	"CREATE TABLE deployment_transitions ("
	"  deployment_id TEXT NOT NULL REFERENCES deployment(id), from_state TEXT NOT NULL, to_state TEXT NOT NULL,"
	"  reason TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;"
	"CREATE INDEX transitions_of_deployment ON deployment_transitions (deployment_id);",

	"CREATE TABLE environment_setting ("
	"  environment_id TEXT NOT NULL REFERENCES environment(id), name TEXT NOT NULL, value TEXT NOT NULL,"
	"  PRIMARY KEY (environment_id, name)) STRICT;",

	"CREATE TABLE run ("
	"  id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, namespace_id TEXT NOT NULL, name TEXT NOT NULL,"
	"  last_ordinal INTEGER NOT NULL, num_rollouts INTEGER NOT NULL, num_messages INTEGER NOT NULL,"
	"  num_rewarded INTEGER NOT NULL, reward_sum REAL NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,"
	"  UNIQUE (namespace_id, name)) STRICT;"
	"CREATE INDEX run_of_namespace ON run (namespace_id);"
	"CREATE TABLE rollout ("
	"  id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, namespace_id TEXT NOT NULL, event_id TEXT NOT NULL, run_id INTEGER,"
	"  ordinal INTEGER, seq INTEGER NOT NULL, name TEXT NOT NULL DEFAULT '', environment TEXT NOT NULL DEFAULT '',"
	"  environment_id TEXT NOT NULL DEFAULT '', variant TEXT NOT NULL DEFAULT '', variant_id TEXT NOT NULL DEFAULT '',"
	"  split TEXT NOT NULL DEFAULT '', model_name TEXT NOT NULL DEFAULT '', training_stage TEXT NOT NULL DEFAULT '',"
	"  model_params INTEGER NOT NULL DEFAULT -1, step INTEGER NOT NULL DEFAULT -1, task_index INTEGER NOT NULL DEFAULT -1,"
	"  num_messages INTEGER NOT NULL DEFAULT 0, response_chars INTEGER NOT NULL DEFAULT 0, max_reward REAL,"
	"  is_finished INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX rollout_of_run ON rollout (run_id, ordinal) WHERE run_id IS NOT NULL;"
	"CREATE INDEX rollout_by_age ON rollout (namespace_id, seq);"
	"CREATE TABLE rollout_detail ("
	"  rollout_id INTEGER PRIMARY KEY, metadata TEXT, task_spec TEXT, run_info TEXT, rollout_info TEXT, info_times TEXT) STRICT;"
	"CREATE TABLE message ("
	"  id INTEGER PRIMARY KEY, rollout_id INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL UNIQUE,"
	"  event_id TEXT NOT NULL, at_ms INTEGER NOT NULL, type TEXT NOT NULL, reward REAL, is_finished INTEGER NOT NULL, name TEXT,"
	"  call_id TEXT, metadata TEXT, summary TEXT, content_reference TEXT, content TEXT) STRICT;"
	"CREATE INDEX message_of_rollout ON message (rollout_id, position);"
	"CREATE TABLE task_reward ("
	"  environment_id TEXT NOT NULL, split TEXT NOT NULL, variant TEXT NOT NULL, task_index INTEGER NOT NULL,"
	"  rollout_id INTEGER NOT NULL, namespace_id TEXT NOT NULL, model_name TEXT NOT NULL, model_params INTEGER NOT NULL,"
	"  training_stage TEXT NOT NULL, reward REAL NOT NULL, response_chars INTEGER NOT NULL,"
	"  PRIMARY KEY (environment_id, split, variant, task_index, rollout_id)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE record_usage ("
	"  namespace_id TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, num_messages INTEGER NOT NULL) STRICT;",

	"CREATE TABLE task_change ("
	"  environment_id TEXT NOT NULL, split TEXT NOT NULL, variant TEXT NOT NULL, task_index INTEGER NOT NULL,"
	"  version INTEGER NOT NULL, PRIMARY KEY (environment_id, split, variant, task_index)) STRICT, WITHOUT ROWID;"
	"CREATE INDEX task_change_by_version ON task_change (environment_id, version);",

	"ALTER TABLE api_key ADD COLUMN user_id TEXT REFERENCES namespace(id);"
	"ALTER TABLE api_key ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE api_key ADD COLUMN last_used_ms INTEGER NOT NULL DEFAULT 0;"
	"CREATE TABLE member ("
	"  org_id TEXT NOT NULL REFERENCES namespace(id), user_id TEXT NOT NULL REFERENCES namespace(id), role TEXT NOT NULL,"
	"  created_ms INTEGER NOT NULL, UNIQUE (org_id, user_id)) STRICT;"
	"CREATE TABLE audit ("
	"  id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, actor_id TEXT NOT NULL, actor TEXT NOT NULL,"
	"  key_id TEXT NOT NULL, session_id TEXT NOT NULL, namespace_id TEXT NOT NULL, namespace TEXT NOT NULL, action TEXT NOT NULL,"
	"  target TEXT NOT NULL, peer TEXT NOT NULL, status INTEGER) STRICT;"
	"CREATE INDEX audit_of_namespace ON audit (namespace_id, id);"
	"CREATE INDEX audit_of_actor ON audit (actor_id, id);",

	"ALTER TABLE api_key ADD COLUMN max_sessions INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE api_key ADD COLUMN max_sandboxes INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE api_key ADD COLUMN max_rate INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE record_usage ADD COLUMN is_gone INTEGER NOT NULL DEFAULT 0;",

	"ALTER TABLE api_key ADD COLUMN maker_id TEXT NOT NULL DEFAULT '';", /* no reference: it may be removed before */
};

static int errno_of(int code)
{
	switch (code & 0xff) {
	case SQLITE_FULL: return -ENOSPC;
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
	case SQLITE_READONLY: return -EACCES;
	case SQLITE_BUSY:
	case SQLITE_LOCKED: return -EBUSY;
	case SQLITE_CONSTRAINT: return -EEXIST;
	default: return -EIO;
	}
}

/* A full disk shows as an I/O error, too, where SQLite wanted to grow a file by mapping it. */
static bool disk_is_full(int code, const char *path)
{
	auto_free char *folder = xstrdup(path);
	struct statvfs fs;

	if (code == SQLITE_FULL)
		return true;
	return (code & 0xff) == SQLITE_IOERR && statvfs(dirname(folder), &fs) == 0 && fs.f_bavail == 0;
}

int store_db_error(sqlite3 *db, const char *path, const char *what, struct err *err)
{
	int code = sqlite3_extended_errcode(db);

	if (disk_is_full(code, path))
		return err_set(err, -ENOSPC, "%s %s: the disk is full", what, path);
	return err_set(err, errno_of(code), "%s %s: %s", what, path, sqlite3_errmsg(db));
}

static int user_version(sqlite3 *db, const char *path, int64_t *ret, struct err *err)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK)
		return store_db_error(db, path, "reading", err);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return code == SQLITE_ROW ? 0 : store_db_error(db, path, "reading", err);
}

static int exec(sqlite3 *db, const char *path, const char *sql, struct err *err)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return store_db_error(db, path, "the database", err);
	return 0;
}

static int migrate_one(sqlite3 *db, const char *path, size_t from, struct err *err)
{
	char pragma[64];

	snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %zu", from + 1);
	int r = exec(db, path, "BEGIN IMMEDIATE", err);
	if (r < 0)
		return r;
	r = exec(db, path, migrations[from], err);
	if (r == 0)
		r = exec(db, path, pragma, err);
	if (r == 0)
		r = exec(db, path, "COMMIT", err);
	if (r < 0)
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int store_schema_version(void)
{
	return (int)ARRAY_LEN(migrations);
}

/* Before anything is written to it. */
static int check_version(sqlite3 *db, const char *path, int64_t *ret, struct err *err)
{
	int r = user_version(db, path, ret, err);

	if (r < 0 || (*ret >= 0 && *ret <= store_schema_version()))
		return r;
	return err_set(err, -EPROTONOSUPPORT,
		       "the database %s has version %lld, this program (openreward %s) knows versions up to %d: use a newer program",
		       path, (long long)*ret, OPENREWARD_VERSION, store_schema_version());
}

static int migrate(sqlite3 *db, const char *path, int64_t version, struct err *err)
{
	for (size_t i = (size_t)version; i < ARRAY_LEN(migrations); i++) {
		int r = migrate_one(db, path, i, err);
		if (r < 0)
			return err_wrap(err, r, "migrating to version %zu", i + 1);
	}
	return 0;
}

static int configure(sqlite3 *db, const char *path, struct err *err)
{
	/* FULL: with WAL, NORMAL may lose the last transactions in a power cut, and a client was told that they are safe. */
	static const char *const pragmas[] = {
		"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON",
		"PRAGMA journal_size_limit = 4194304",
	};

	for (size_t i = 0; i < ARRAY_LEN(pragmas); i++) {
		int r = exec(db, path, pragmas[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int store_db_open(sqlite3 **ret, const char *path, struct err *err)
{
	sqlite3 *db = NULL;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
	int64_t version = 0;
	int r;

	if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
		r = store_db_error(db, path, "opening", err);
		sqlite3_close(db);
		return r;
	}
	sqlite3_busy_timeout(db, 2000);
	r = check_version(db, path, &version, err);
	if (r == 0)
		r = configure(db, path, err);
	if (r == 0)
		r = migrate(db, path, version, err);
	if (r < 0) {
		sqlite3_close(db);
		return r;
	}
	*ret = db;
	return 0;
}

/* -- writing: on the writer's thread ---------------------------------------------------------------------------- */

static int bind(sqlite3_stmt *st, int i, const struct store_value *v)
{
	switch (v->type) {
	case STORE_I64: return sqlite3_bind_int64(st, i, v->i64);
	case STORE_TEXT: return sqlite3_bind_text(st, i, v->p, (int)v->len, SQLITE_STATIC);
	case STORE_BLOB: return sqlite3_bind_blob(st, i, v->p, (int)v->len, SQLITE_STATIC);
	case STORE_NULL: break;
	}
	return sqlite3_bind_null(st, i);
}

static int run_op(sqlite3 *db, const struct store_op *op)
{
	sqlite3_stmt *st;
	int code = sqlite3_prepare_v2(db, op->sql, -1, &st, NULL);

	if (code != SQLITE_OK)
		return code;
	for (int i = 0; i < op->n && code == SQLITE_OK; i++)
		code = bind(st, i + 1, &op->v[i]);
	if (code == SQLITE_OK)
		code = sqlite3_step(st);
	sqlite3_finalize(st);
	return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : code;
}

/* A change that breaks a rule of the schema would break it again; everything else may pass. */
static bool may_pass(int code)
{
	code &= 0xff;
	return code != SQLITE_OK && code != SQLITE_CONSTRAINT && code != SQLITE_MISMATCH && code != SQLITE_ERROR;
}

/* skip: one that breaks a rule is left out, which SQLite does by itself, and the others are made. */
static int run_all(sqlite3 *db, struct store_batch *b, bool skip)
{
	list_foreach(&b->ops, struct store_op, all, op) {
		int code = run_op(db, op);
		if (code != SQLITE_OK && (!skip || may_pass(code)))
			return code;
	}
	return SQLITE_OK;
}

int store_db_begin(struct store *s)
{
	return sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
}

int store_db_end(struct store *s, int code, struct err *err)
{
	if (code == SQLITE_OK)
		code = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
	if (code == SQLITE_OK)
		return code;
	err->code = store_db_error(s->db, s->path, "writing", err);
	if (!sqlite3_get_autocommit(s->db))
		(void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	return code;
}

static int write_all(struct store *s, struct store_batch *b, bool skip, struct err *err)
{
	int code = store_db_begin(s);

	if (code == SQLITE_OK)
		code = run_all(s->db, b, skip);
	return store_db_end(s, code, err);
}

/* A batch holds the changes of many: where one breaks a rule, which is a mistake of ours, the others are written all the
 * same. Who waits for any of them hears of it. */
void store_db_write(struct store *s, struct store_batch *b)
{
	struct err again = ERR_INIT;

	b->err = (struct err)ERR_INIT;
	b->retry = false;
	if (list_empty(&b->ops))
		return;
	int code = write_all(s, b, false, &b->err);
	if (code != SQLITE_OK && !may_pass(code)) {
		code = write_all(s, b, true, &again);
		if (code != SQLITE_OK)
			b->err = again;
	}
	b->retry = may_pass(code);
}
