/* bucket/private.h: shared by src/bucket only. */
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include "bucket/tree.h"

/* openat(2) of a path that strangers may have a hand in: beneath dir, no links. flags with O_CLOEXEC added. -errno. */
int beneath(int dir, const char *path, int flags, mode_t mode);
/* O_PATH of a folder of the bucket; name "" = the bucket itself. -errno. */
int open_folder(int buckets, const char *env_id, const char *name);
/* The same for reading it. */
int open_listing(int buckets, const char *env_id, const char *name);

/* What lies aside, but for names that begin with a dot. */
typedef void aside_fn(void *arg, int dir, const char *name, const struct stat *st);
void each_aside(int buckets, aside_fn *fn, void *arg);

/* -- form.c -------------------------------------------------------------------------------------------------------- */
/* A checked name as it lies in the bucket, where it does in another Unicode form; what is not there stays as it is. The caller
 * frees it; BUCKET_NAME_MAX holds for it, too. */
char *name_there(int buckets, const char *env_id, const char *name);
/* How a name may begin: so, or composed, or decomposed; NULL = as another one. */
struct begins {
	char *form[3];
};
void begins_init(struct begins *b, const char *begin);
void begins_done(struct begins *b);
bool begins_with(const char *name, const struct begins *b);

/* -- tree.c -------------------------------------------------------------------------------------------------------- */
/* Of a name: its last component, and the folder before it ("" = the top) into folder[BUCKET_NAME_MAX + 1]. */
const char *split_name(const char *name, char *folder);
