/* bucket/private.h: shared by src/bucket only. */
#pragma once

#include <sys/types.h>

#include "bucket/tree.h"

/* openat(2) of a path that strangers may have a hand in: beneath dir, no links. flags with O_CLOEXEC added. -errno. */
int beneath(int dir, const char *path, int flags, mode_t mode);
/* O_PATH of a folder of the bucket; name "" = the bucket itself. -errno. */
int open_folder(int buckets, const char *env_id, const char *name);
/* The same for reading it. */
int open_listing(int buckets, const char *env_id, const char *name);
/* Of a name: its last component, and the folder before it ("" = the top) into folder[BUCKET_NAME_MAX + 1]. */
const char *split_name(const char *name, char *folder);
