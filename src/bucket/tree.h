/* bucket/tree.h: the files of an environment on disk: DATA/buckets/<environment id>, owned by the daemon's user.
 *
 * Instances have the same folder mounted and may have put anything there: links, pipes, folders that move while they are
 * looked at. Every path is resolved beneath the bucket without following a link, only regular files are opened, and never
 * so that opening could wait. What is made aside lies in DATA/buckets/.aside, which no instance sees.
 *
 * These functions wait for the disk: workers call them. No state; any thread. `buckets` is a descriptor of DATA/buckets;
 * errors name the file as the client did and never a path of the server. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define BUCKET_NAME_MAX 1024   /* bytes of a whole name */
#define BUCKET_ASIDE ".aside"
#define BUCKET_PART "part-" /* begins the name of what came of a resumable upload; the environment's id follows, and a dash */

/* "data/train/1.json": UTF-8 without control characters, components of 1..255 bytes, none of them "." or "..", no slash
 * at either end. -EINVAL names field, value and what was expected. Pure. */
MUST_CHECK int bucket_check_name(const char *field, const char *name, struct err *err);

/* Whether a checked name is free of twins: -EEXIST names one that is there, or a folder on the way, and differs by its Unicode form
 * only (NFC, NFD). All below find what is there by either form, and by the one that was asked for first. */
MUST_CHECK int bucket_check_form(int buckets, const char *env_id, const char *name, struct err *err);

/* The folder itself; there already is fine. */
MUST_CHECK int bucket_make(int buckets, const char *env_id, struct err *err);
/* True when there is anything in it. */
bool bucket_has_anything(int buckets, const char *env_id);

/* A regular file for reading, its size and when it was last written (ms since 1970). -ENOENT; -EISDIR, -ELOOP, -EINVAL
 * (a pipe, a device) for what is no file. */
MUST_CHECK int bucket_open(int buckets, const char *env_id, const char *name, int *ret_fd, uint64_t *ret_size,
			   int64_t *ret_written_ms, struct err *err);
/* Gives what lies at .aside/<aside> its place: synced, readable by all, renamed over what was there (*ret_old bytes of it;
 * 0 = nothing). Folders on the way are made. -EEXIST as bucket_check_form(), unless two come at once. On failure the old file is
 * untouched and the aside still there. */
MUST_CHECK int bucket_place(int buckets, const char *env_id, const char *name, const char *aside, uint64_t *ret_old,
			    struct err *err);

/* A file (or a link, pipe...) of this name. Folders that become empty by it go too. -ENOENT; -EISDIR. */
MUST_CHECK int bucket_remove(int buckets, const char *env_id, const char *name, uint64_t *ret_size, struct err *err);
/* A folder with all there is in it, gone in one step; name "" = everything. *ret_files were in it; 0 where they
 * can't be counted. */
MUST_CHECK int bucket_remove_folder(int buckets, const char *env_id, const char *name, uint64_t *ret_files,
				    uint64_t *ret_bytes, struct err *err);

/* Whether a folder of this name is there ("" = the bucket), for mounting it; made when `make` says so. -ENOENT, -ENOTDIR,
 * -ELOOP. *ret_name is how it is spelled there, for the caller to free. It may be gone or a link the next moment: who mounts it
 * looks again. */
MUST_CHECK int bucket_check_folder(int buckets, const char *env_id, const char *name, bool make, char **ret_name, struct err *err);

/* Files and their bytes below a folder (name "" = the bucket); what is named longer than BUCKET_NAME_MAX is left out.
 * Opens a folder for each level, 512 at most; -EMFILE, -ENFILE, -ENOMEM where the process may not. */
MUST_CHECK int bucket_count(int buckets, const char *env_id, const char *name, uint64_t *ret_files, uint64_t *ret_bytes,
			    struct err *err);

/* The parts of its resumable uploads, which lie aside. */
typedef void bucket_part_fn(void *arg, const char *part, uint64_t bytes);
void bucket_each_part(int buckets, const char *env_id, bucket_part_fn *fn, void *arg);

/* One page of the files and folders whose names begin with prefix and go no deeper than the next slash after it, in the
 * order of their bytes, after the name `after` (NULL = from the start). Names that no client could write (not UTF-8) and
 * what is no file or folder are left out. fn gets each, with the whole path; *ret_more = there are others. */
typedef void bucket_entry_fn(void *arg, const char *path, bool folder, uint64_t size, int64_t written_ms);
MUST_CHECK int bucket_list(int buckets, const char *env_id, const char *prefix, const char *after, size_t limit,
			   bucket_entry_fn *fn, void *arg, bool *ret_more, struct err *err);

/* Removes of .aside what is old: trees under removal at once, uploads that nobody has written to for an hour, parts of
 * resumable ones for a day. */
void bucket_tidy(int buckets, int64_t now_ms);
