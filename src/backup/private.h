/* backup/private.h: what the files of backup/ share: names, sums, and the reading of members. */
#pragma once

#include <openssl/evp.h>

#include "backup/backup.h"
#include "base/buf.h"
#include "base/tar.h"

#define BACKUP_HEAD "openreward-backup.json"
#define BACKUP_MANIFEST "manifest.json"
#define BACKUP_FAILED "FAILED"
#define BACKUP_DATABASE_FILE "openreward.db"
#define BACKUP_COPY_BYTES (256u * 1024)

/* -- parts.c ------------------------------------------------------------------------------------------------------- */
struct sums {
	struct {
		uint64_t files, bytes;
		EVP_MD_CTX *sha256;
	} part[BACKUP_N_PARTS];
};

MUST_CHECK int sums_init(struct sums *s, struct err *err);
void sums_done(struct sums *s);
void sums_member(struct sums *s, enum backup_part part, const struct tar_member *m);
void sums_content(struct sums *s, enum backup_part part, const void *p, size_t len);
void sums_hex(struct sums *s, enum backup_part part, char ret[65]); /* ends the part */
/* -1: a backup has no member of this name, or it leads out of a folder. */
int part_of(const char *name);

/* -- check.c ------------------------------------------------------------------------------------------------------- */
/* Gets every member of a part and its content, when it is not NULL. */
struct backup_sink {
	int (*member)(void *arg, enum backup_part part, const struct tar_member *m, struct err *err);
	int (*content)(void *arg, const char *p, size_t len, struct err *err);
	void *arg;
};
struct backup_check *check_new_with(const char *file, const struct backup_sink *sink);

/* -- zstd.c -------------------------------------------------------------------------------------------------------- */
#define ZSTD_FIRST_BYTE 0x28 /* of what it makes; no tar of ours begins so */
struct swell; /* what was squeezed becomes what it was */
struct swell *swell_new(void);
struct swell *swell_free(struct swell *s); /* NULL is allowed; returns NULL */
/* fn gets what comes of it; its failures are passed on. -EBADMSG: damaged. */
MUST_CHECK int swell_feed(struct swell *s, const char *p, size_t len, backup_bytes_fn *fn, void *arg, struct err *err);
bool swell_ended(const struct swell *s); /* nothing is missing */

/* -- tree.c -------------------------------------------------------------------------------------------------------- */
struct writer {
	int out, data; /* data: DATA */
	struct buf buf; /* headers on their way */
	struct sums sums;
	uint64_t changed, unreadable;
	bool begun;
	int failed;        /* what reading the last file came to; 0 = well */
	uint64_t wrote_ms; /* when something was last written, monotonic */
	char *copy;        /* BACKUP_COPY_BYTES */
	struct err *err;
};

MUST_CHECK int writer_flush(struct writer *w);
/* A member of a part: name inside the backup, from an open regular file. */
MUST_CHECK int writer_file(struct writer *w, int fd, const char *name);
/* Each of these leaves out what vanishes meanwhile. */
MUST_CHECK int tree_git(struct writer *w);
MUST_CHECK int tree_sources(struct writer *w);
MUST_CHECK int tree_buckets(struct writer *w);
