/* backup/backup.h: all that a platform must keep, as one file, and back. Blocking: for a process of its own, not for the loop.
 *
 * The file is a tar (base/tar.h), its members in this order:
 *
 *   openreward-backup.json   {format, program, schema, created}
 *   openreward.db            a snapshot of the database: what was answered before the backup began is in it
 *   admin.key secrets.key    the second only where there is one: without it sealed settings are lost
 *   git/...                  repositories: of each first the refs, then the objects, so that no ref lacks what it names
 *   builds/ID/...            of each deployment its source and the log of its build
 *   buckets/...              files of environments, where asked for
 *   manifest.json            the head's fields; parts: [{name, files, bytes, sha256}]; changed, unreadable
 *
 * A part is what begins with the same name; its sum is over a line for each member (type, mode, size, time, name) and its
 * content, whatever the tar around them. A member FAILED instead of the manifest holds the reason why there is no more.
 *
 * Not in it: images (they are built from their sources again, or imported), logs of instances, sandboxes and sessions, and
 * the configuration file, which lies elsewhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define BACKUP_FORMAT 1 /* grows when an older program could not restore the file */

#define BACKUP_PARTS(X) \
	X(DATABASE, "database") X(KEYS, "keys") X(GIT, "git") X(SOURCES, "sources") X(BUCKETS, "buckets")
enum backup_part {
#define X(id, text) BACKUP_##id,
	BACKUP_PARTS(X)
#undef X
	BACKUP_N_PARTS
};
const char *backup_part_name(enum backup_part p);

/* -- making one ---------------------------------------------------------------------------------------------------- */
struct backup_settings {
	const char *data_dir; /* of a daemon that runs, or of none */
	bool buckets;
	bool offline; /* the caller holds DATA's lock: no daemon runs */
};

/* Writes it to out_fd. The database of a daemon that runs is copied to DATA/run first: a backup needs that much room, and no more;
 * offline it is read where it lies. -EBUSY: another one is being made; -ENOSPC: no room for the copy; -EPIPE: nobody reads.
 * *ret_begun: something was written; then the file itself says how it failed (-EPIPE apart). */
MUST_CHECK int backup_write(int out_fd, const struct backup_settings *s, bool *ret_begun, struct err *err);

/* Makes it smaller on its way into a file (zstd): fn gets the bytes, and ends it with a negative errno. What looks at a backup,
 * or restores one, reads both. */
typedef int backup_bytes_fn(void *arg, const char *p, size_t len, struct err *err);
struct backup_squeeze;
struct backup_squeeze *backup_squeeze_new(backup_bytes_fn *fn, void *arg);
struct backup_squeeze *backup_squeeze_free(struct backup_squeeze *s); /* NULL is allowed; returns NULL */
MUST_CHECK int backup_squeeze_feed(struct backup_squeeze *s, const char *p, size_t len, struct err *err);
MUST_CHECK int backup_squeeze_end(struct backup_squeeze *s, struct err *err); /* the last bytes */

/* -- looking at one ------------------------------------------------------------------------------------------------ */
struct backup_info {
	char program[64], created[32]; /* the version that made it; UTC, ISO 8601 */
	int64_t schema;
	struct {
		uint64_t files, bytes; /* 0 files = the part is not there */
	} parts[BACKUP_N_PARTS];
	uint64_t changed;    /* files that were written to while they were read: they may be of no use */
	uint64_t unreadable; /* files and folders of buckets that are closed or nested too deep: they are missing */
};

struct backup_check;

/* file: its name, for messages; borrowed. */
struct backup_check *backup_check_new(const char *file);
struct backup_check *backup_check_free(struct backup_check *c); /* NULL is allowed; returns NULL */
DEFINE_FREEP(backup_check, backup_check_free)
/* The next bytes, also of one that was squeezed. -EINVAL: no backup, or damaged; -EPROTONOSUPPORT: of a newer program, with both
 * versions; -EIO: it ends with the reason why it was not finished. */
MUST_CHECK int backup_check_feed(struct backup_check *c, const char *p, size_t len, struct err *err);
/* There are no more: is it whole? */
MUST_CHECK int backup_check_end(struct backup_check *c, struct backup_info *ret, struct err *err);

/* -- restoring one ------------------------------------------------------------------------------------------------- */
struct backup_restore {
	const char *file;
	const char *data_dir;   /* there, locked by the caller, and empty (backup_is_empty) */
	uid_t uid;              /* whose the files become; -1 = whoever calls */
	gid_t gid;
	/* done of total bytes; what: "checking", "restoring". NULL = nobody asks. */
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
	void *arg;
};

struct backup_restored {
	struct backup_info info;
	uint64_t namespaces, keys, environments; /* keys: valid ones */
	uint64_t rebuilt;   /* environments that the next start builds again */
	uint64_t imageless; /* environments that served, and whose source is not kept: somebody must deploy them again */
};

/* Whether a data directory holds nothing but a lock and what a restore that was broken off left, also while it moved things into
 * their place. -ENOENT: there is none. */
MUST_CHECK int backup_is_empty(const char *data_dir, bool *ret, struct err *err);
/* Reads all of the file and checks it, then once more into DATA/.restore, brings the database to this program's schema, and
 * moves everything into its place. After a failure DATA is as empty as before. Deployments that served or were on their way
 * are queued, as no image is here. */
MUST_CHECK int backup_restore(const struct backup_restore *s, struct backup_restored *ret, struct err *err);
