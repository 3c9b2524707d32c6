/* spawner/disk.h: how what sandboxes write is limited, each to its own share. Settled once, at the start.
 *
 *   PROJECT   the file system of DATA has project quota: a sandbox's folder is a project of its own.
 *   VOLUMES   it has none: a file system of ours (volumes.h), btrfs with simple quotas, is mounted over DATA/sandboxes, in the
 *             spawner's mount namespace only. A sandbox's folder is a subvolume, whose limit the kernel checks at each write.
 *             Sparse files count what they hold, a file with two names counts once, one without a name while it is open. How
 *             large it is, is space.c's.
 *   PLAIN     neither can be had: no limit, and the log says why.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "spawner/volumes.h"

#define DISK_KINDS(X) X(PLAIN, "none") X(PROJECT, "project quota") X(VOLUMES, "a file system of their own")
enum disk_kind {
#define X(name, text) DISK_##name,
	DISK_KINDS(X)
#undef X
};

struct disk {
	enum disk_kind kind;
	int data_dir;            /* DATA; borrowed */
	struct volumes volumes;  /* of VOLUMES; the rest is, too */
	bool backed;             /* it began so: growth.h */
	uint64_t total, reserve; /* bytes: it becomes no larger than total, and leaves reserve of the disk free */
};

struct disk_share {
	uint64_t bytes, files; /* at most; 0 = any number. Files are counted by PROJECT only: VOLUMES counts what they take */
	uid_t first;           /* of the sandbox's range: names its project */
};

/* total: how large a file system of ours may become, 0 = nine tenths of what is free now, DISK_NO_LIMITS = none is wanted. The
 * caller is in a mount namespace of its own; data: the path of data_dir, whose folder sandboxes is there. Never fails: *ret_why
 * says why it is PLAIN, if that was not asked for. */
#define DISK_NO_LIMITS UINT64_MAX
void disk_open(struct disk *d, int data_dir, const char *data, uint64_t total, uint64_t reserve, struct err *ret_why);
/* Once nothing is mounted or open below DATA/sandboxes any more. */
void disk_close(struct disk *d, const char *data);
/* Bytes that are free on the disk of DATA, for others than root. */
uint64_t disk_below(const struct disk *d);

/* Makes the folder of a sandbox in dir, for the range that begins at first; mode 0711. A descriptor of it, or a negative errno
 * with *err. */
MUST_CHECK int disk_make(const struct disk *d, int dir, const char *name, uid_t first, struct err *err);
/* What such a folder may hold from now on; before, PROJECT may have an earlier sandbox's limits. */
MUST_CHECK int disk_limit(const struct disk *d, int folder, const struct disk_share *share, struct err *err);
/* Removes it with all that is in it. 0, or a negative errno; -ENOENT is no failure. */
MUST_CHECK int disk_remove(const struct disk *d, int dir, const char *name);
