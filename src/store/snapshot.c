/* A copy of a database that is in use. One read transaction holds the view still while others go on writing (WAL), so the copy
 * is what was committed when it began. */
#include <errno.h>
#include <libgen.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/mem.h"
#include "base/str.h"
#include "store/internal.h"

#define STEP_PAGES 256
#define BUSY_MS 10000
#define MIB (1u << 20)

struct copying {
	const char *path; /* of the copy */
	uint64_t page_bytes;
	store_copying_fn *fn;
	void *arg;
};

static void closep(sqlite3 **db)
{
	sqlite3_close(*db);
}

static int open_at(sqlite3 **ret, const char *path, int flags, const char *sql, struct err *err)
{
	if (sqlite3_open_v2(path, ret, flags, NULL) != SQLITE_OK)
		return store_db_error(*ret, path, "opening", err);
	sqlite3_busy_timeout(*ret, BUSY_MS);
	return sqlite3_exec(*ret, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_error(*ret, path, "opening", err);
}

static int64_t number(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *st = NULL;
	int64_t n = 0;

	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
		n = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return n;
}

/* For so many pages more, beside what changes need: those would be refused while the copy takes their place. */
static int check_room(const struct copying *c, uint64_t pages, struct err *err)
{
	uint64_t need = pages * c->page_bytes + STORE_ROOM_BYTES;
	auto_free char *folder = xstrdup(c->path);
	struct statvfs fs;

	if (statvfs(dirname(folder), &fs) < 0)
		return err_sys(err, "%s", c->path);
	uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (need <= have)
		return 0;
	unsigned long long need_mib = (need + MIB - 1) / MIB, have_mib = have / MIB;
	return err_set(err, -ENOSPC, "a backup of a server that runs makes a copy of its database: that takes %llu MiB, of which %u are left for"
		       " changes, and %llu MiB are free: %llu MiB are missing. Of a server that was stopped, `openreward backup FILE --data DIR`"
		       " needs no room", need_mib, STORE_ROOM_BYTES / MIB, have_mib, need_mib - have_mib);
}

static int copy(const struct copying *c, sqlite3 *from, sqlite3 *to, struct err *err)
{
	sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
	int code = SQLITE_OK, r = 0;

	if (!b)
		return store_db_error(to, c->path, "copying the database to", err);
	while (r == 0 && code == SQLITE_OK) {
		code = sqlite3_backup_step(b, STEP_PAGES);
		uint64_t total = (uint64_t)sqlite3_backup_pagecount(b), left = (uint64_t)sqlite3_backup_remaining(b);
		r = c->fn ? c->fn(c->arg, total - left, total, err) : 0;
		if (r == 0 && code == SQLITE_OK)
			r = check_room(c, left, err); /* others write, too */
	}
	int finished = sqlite3_backup_finish(b); /* tells the connection what failed */
	if (r == 0 && (code != SQLITE_DONE || finished != SQLITE_OK))
		r = store_db_error(to, c->path, "copying the database to", err);
	return r;
}

int store_snapshot(const char *path, const char *to, store_copying_fn *fn, void *arg, struct err *err)
{
	AUTO(closep) sqlite3 *from = NULL;
	AUTO(closep) sqlite3 *copied = NULL;
	struct copying c = { .path = to, .fn = fn, .arg = arg };
	int r = open_at(&from, path, SQLITE_OPEN_READWRITE, "BEGIN; SELECT count(*) FROM sqlite_schema", err);

	if (r < 0)
		return r;
	c.page_bytes = (uint64_t)number(from, "PRAGMA page_size");
	r = check_room(&c, (uint64_t)number(from, "PRAGMA page_count"), err);
	/* Nobody reads it before it is whole, and after a failure it is removed: no journal, no waiting for the disk. */
	r = r < 0 ? r : open_at(&copied, to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
				"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF", err);
	return r < 0 ? r : copy(&c, from, copied, err);
}

int store_settle(const char *path, struct err *err)
{
	AUTO(closep) sqlite3 *db = NULL;
	auto_free char *log = xasprintf("%s-wal", path);
	struct stat st;

	if (stat(log, &st) < 0 && errno == ENOENT)
		return 0;
	/* Exclusive: SQLite needs no file of shared memory then, which would be of whoever calls. */
	int r = open_at(&db, path, SQLITE_OPEN_READWRITE, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA wal_checkpoint(TRUNCATE)", err);
	int code = r == 0 ? sqlite3_close(db) : SQLITE_OK;
	if (r == 0)
		db = NULL;
	if (r == 0 && (code != SQLITE_OK || (stat(log, &st) == 0 && st.st_size > 0)))
		r = err_set(err, -EBUSY, "%s is open elsewhere", path);
	return r;
}
