/* Every schema that was ever released still opens: schemas/schema-N.sql is a small database of version N with rows in every
 * table. Migrated, it has the schema of a fresh one, and its rows. And the newest of them says when the schema was changed
 * without a new version. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "store/store.h"

#define SCHEMAS TEST_SOURCE_ROOT "/tests/unit/store/schemas"

static char dir[64];
static struct loop *loop;

static void set_up(void)
{
	struct err err;

	snprintf(dir, sizeof(dir), "/tmp/test-migrations-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(loop_new(&loop, &err), 0);
}

static void tear_down(void)
{
	static const char *const names[] = { "fresh.db", "old.db", "kept.db" };
	static const char *const suffixes[] = { "", "-wal", "-shm", "-journal" };

	loop = loop_free(loop);
	for (size_t i = 0; i < 3; i++)
		for (size_t k = 0; k < 4; k++) {
			auto_free char *path = xasprintf("%s/%s%s", dir, names[i], suffixes[k]);
			unlink(path);
		}
	rmdir(dir);
}

TestSuite(migrations, .init = set_up, .fini = tear_down, .timeout = 60);

static sqlite3 *open_db(const char *name)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	sqlite3 *db = NULL;

	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	return db;
}

static void run(sqlite3 *db, const char *sql)
{
	char *msg = NULL;

	cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, &msg), SQLITE_OK, "%s: %s", sql, msg ? msg : "");
}

static sqlite3_stmt *query(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *st = NULL;

	cr_assert_eq(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
	return st;
}

/* The rows as text, a line each, columns between '|'. */
static char *text_of(sqlite3 *db, const char *sql)
{
	struct buf b;
	sqlite3_stmt *st = query(db, sql);

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_puts(&b, ""), 0);
	while (sqlite3_step(st) == SQLITE_ROW) {
		for (int i = 0; i < sqlite3_column_count(st); i++) {
			const char *t = (const char *)sqlite3_column_text(st, i);
			cr_assert_eq(buf_printf(&b, "%s%s", i ? "|" : "", t ? t : ""), 0);
		}
		cr_assert_eq(buf_puts(&b, "\n"), 0);
	}
	sqlite3_finalize(st);
	return buf_steal(&b, NULL);
}

static char *schema_of(sqlite3 *db)
{
	return text_of(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
			   " ORDER BY type, name");
}

/* False = there is no dump of this version. */
static bool load(const char *name, int version)
{
	auto_free char *path = xasprintf(SCHEMAS "/schema-%d.sql", version);
	auto_buf struct buf sql = { 0 };
	struct err err;

	buf_init(&sql, 1 << 20);
	int r = fd_read_file(path, &sql, &err);
	if (r == -ENOENT)
		return false;
	cr_assert_eq(r, 0, "%s", err.msg);
	sqlite3 *db = open_db(name);
	run(db, sql.data);
	auto_free char *number = text_of(db, "PRAGMA user_version");
	auto_free char *expected = xasprintf("%d\n", version);
	cr_assert_str_eq(number, expected, "%s", path);
	sqlite3_close(db);
	return true;
}

static struct store *open_store(const char *name)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	struct store *s = NULL;
	struct err err = ERR_INIT;

	cr_assert_eq(store_open(&s, loop, path, &err), 0, "%s", err.msg);
	return s;
}

/* -- rows ---------------------------------------------------------------------------------------------------------- */

/* "quote(a), quote(b)" of a table's columns. */
static char *columns_of(sqlite3 *db, const char *table)
{
	auto_free char *sql = xasprintf("SELECT name FROM pragma_table_info('%s')", table);
	sqlite3_stmt *st = query(db, sql);
	struct buf b;

	buf_init(&b, BUF_UNLIMITED);
	while (sqlite3_step(st) == SQLITE_ROW)
		cr_assert_eq(buf_printf(&b, "%squote(%s)", b.len ? ", " : "", (const char *)sqlite3_column_text(st, 0)), 0);
	sqlite3_finalize(st);
	return buf_steal(&b, NULL);
}

/* A migration that drops or renames a column or a table on purpose says so here. */
static void rows_are_alive(sqlite3 *old, sqlite3 *migrated, int version)
{
	auto_free char *names =
		text_of(old, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");

	for (char *name = names, *end; *name; name = end + 1) {
		end = strchr(name, '\n');
		*end = '\0';
		auto_free char *columns = columns_of(old, name);
		auto_free char *sql = xasprintf("SELECT %s FROM %s ORDER BY %s", columns, name, columns);
		auto_free char *before = text_of(old, sql);
		auto_free char *after = text_of(migrated, sql);
		cr_assert_neq(*before, '\0', "schema-%d.sql has no row in %s", version, name);
		cr_assert_str_eq(after, before, "%s of schema-%d.sql", name, version);
	}
}

static void migrates(int version, const char *fresh)
{
	cr_assert(load("old.db", version), "there is no schemas/schema-%d.sql", version);
	cr_assert(load("kept.db", version));
	struct store *s = open_store("old.db");
	struct store_environment *e = store_environment_find(s, "local", "hello");
	cr_assert_not_null(e, "the environment of schema-%d.sql", version);
	cr_assert_eq(store_environment_by_id(s, e->id), e);
	store_free(s);

	sqlite3 *old = open_db("kept.db"), *migrated = open_db("old.db");
	auto_free char *schema = schema_of(migrated);
	cr_assert_str_eq(schema, fresh, "schema-%d.sql, migrated, is not what a fresh database is", version);
	rows_are_alive(old, migrated, version);
	sqlite3_close(old);
	sqlite3_close(migrated);
	for (size_t i = 0; i < 2; i++) {
		auto_free char *path = xasprintf("%s/%s", dir, i ? "kept.db" : "old.db");
		cr_assert_eq(unlink(path), 0);
	}
}

static char *fresh_schema(void)
{
	store_free(open_store("fresh.db"));
	sqlite3 *db = open_db("fresh.db");
	char *schema = schema_of(db);

	sqlite3_close(db);
	return schema;
}

Test(migrations, every_released_schema_becomes_the_newest_with_its_rows)
{
	auto_free char *fresh = fresh_schema();

	for (int version = 1; version <= store_schema_version(); version++)
		migrates(version, fresh);
}

/* -- the newest ---------------------------------------------------------------------------------------------------- */

static void write_rows(FILE *f, sqlite3 *db, const char *table)
{
	auto_free char *columns = columns_of(db, table);
	auto_free char *sql = xasprintf("SELECT %s FROM %s ORDER BY %s", columns, table, columns);
	sqlite3_stmt *st = query(db, sql);

	while (sqlite3_step(st) == SQLITE_ROW) {
		fprintf(f, "INSERT INTO %s VALUES (", table);
		for (int i = 0; i < sqlite3_column_count(st); i++)
			fprintf(f, "%s%s", i ? ", " : "", (const char *)sqlite3_column_text(st, i));
		fputs(");\n", f);
	}
	sqlite3_finalize(st);
}

/* What schemas/ lacks: the dump before, migrated. The new tables have no rows yet. */
static char *propose(int version)
{
	char *path = xasprintf(TEST_BUILD_ROOT "/schema-%d.sql", version);
	FILE *f = fopen(path, "we");

	cr_assert_not_null(f);
	cr_assert(load("old.db", version - 1), "there is no schemas/schema-%d.sql either", version - 1);
	store_free(open_store("old.db"));
	sqlite3 *db = open_db("old.db");
	sqlite3_stmt *st = query(db, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid");
	while (sqlite3_step(st) == SQLITE_ROW)
		fprintf(f, "%s;\n", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	st = query(db, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid");
	while (sqlite3_step(st) == SQLITE_ROW)
		write_rows(f, db, (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	fprintf(f, "PRAGMA user_version = %d;\n", version);
	cr_assert_eq(fclose(f), 0);
	sqlite3_close(db);
	return path;
}

Test(migrations, the_newest_schema_is_on_record)
{
	int version = store_schema_version();
	auto_free char *fresh = fresh_schema();

	if (!load("kept.db", version)) {
		auto_free char *path = propose(version);
		cr_assert_fail("the schema has a new version, %d: %s was made of the one before; add a row for each new table to"
			       " it, and then it to tests/unit/store/schemas", version, path);
	}
	sqlite3 *db = open_db("kept.db");
	auto_free char *recorded = schema_of(db);
	sqlite3_close(db);
	cr_assert_str_eq(fresh, recorded, "the schema was changed without a new version: databases of version %d are out there,"
					  " so add a migration to src/store/db.c instead", version);
}
