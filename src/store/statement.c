/* Statements that are prepared once for a connection, and a first failure that makes everything after it a no-op, so
 * that callers look once, at the end. */
#include "store/internal.h"

#include <math.h>

/* Literals live as long as the program, so their address is the key. */
sqlite3_stmt *store_db_query(struct store_db *d, const char *sql)
{
	sqlite3_stmt *st = map_get_bytes(d->statements, &sql, sizeof(sql));

	if (d->code != SQLITE_OK)
		return NULL;
	if (!st) {
		d->code = sqlite3_prepare_v3(d->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL);
		if (d->code != SQLITE_OK)
			return NULL;
		map_put_bytes(d->statements, &sql, sizeof(sql), st);
	}
	sqlite3_reset(st);
	return st;
}

bool store_db_row(struct store_db *d, sqlite3_stmt *st)
{
	if (d->code != SQLITE_OK)
		return false;
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		return true;
	if (code != SQLITE_DONE)
		d->code = code;
	sqlite3_reset(st);
	return false;
}

void store_db_run(struct store_db *d, sqlite3_stmt *st)
{
	while (store_db_row(d, st))
		;
}

struct map *store_db_statements_free(struct map *statements)
{
	struct map_iter it = { 0 };

	while (map_next(statements, &it))
		sqlite3_finalize(it.value);
	return map_free(statements);
}

void store_bind_text(sqlite3_stmt *st, int i, const char *text)
{
	sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC); /* NULL binds NULL */
}

void store_bind_double(sqlite3_stmt *st, int i, double v)
{
	if (isnan(v))
		sqlite3_bind_null(st, i);
	else
		sqlite3_bind_double(st, i, v);
}
