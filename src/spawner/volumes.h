/* spawner/volumes.h: a file system of ours for what sandboxes write: btrfs with simple quotas (Linux 6.7) in a file without a name
 * on the disk of DATA, by way of a loop device, mounted in the spawner's mount namespace only. All of it goes with the last process
 * that has it mounted, however that ends; nothing on it outlives the spawner, so it is never synced nor checked.
 *
 * The file may have holes, or be allocated as a whole: growth.h says which, and how large it is. btrfs makes no hole by itself
 * (nodiscard): what is allocated stays so until it is told to trim. A write to a hole for which the disk has no room fails below
 * btrfs, which turns read-only then, for everybody and for good; without holes it is btrfs that says ENOSPC, and all else goes on.
 *
 * Data and metadata share their chunks (mkfs.btrfs --mixed): else data takes all there is, and no file can be made, nor a volume,
 * while most of it is free again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

struct volumes {
	int file, loop, root; /* root: the folder where it is mounted, for what is asked of btrfs. All -1 = there is none */
	int figures;          /* the folder in which btrfs tells what is promised but not written yet; -1 = it cannot be read */
};

struct volumes_state {
	uint64_t size; /* bytes: of the file system */
	uint64_t free; /* of it, what nobody has written nor been promised */
	uint64_t held; /* of it, what its file has of the disk */
	bool broken;   /* it has turned read-only: what is below it failed */
};

/* Makes one of `bytes`, which the disk then holds if it is backed, and mounts it at `where`. data_dir: whose disk it is. 0, or a
 * negative errno with *err and nothing left; -EOPNOTSUPP: that disk holds no room for anybody (no fallocate, or one that only looks
 * whether there is room, as that of ZFS). */
MUST_CHECK int volumes_open(struct volumes *v, int data_dir, const char *where, uint64_t bytes, bool backed, struct err *err);
/* Once nothing else is mounted or open on it. */
void volumes_close(struct volumes *v, const char *where);

/* Cheap: some system calls, none of which waits for a disk. A negative errno when btrfs does not say. */
MUST_CHECK int volumes_look(const struct volumes *v, struct volumes_state *ret);
/* From one size to another, in multiples of VOLUMES_UNIT; backed: the disk then holds all of it. These may wait for the disk as
 * long as a commit takes: not on the loop. 0, or a negative errno, with a size that volumes_look() tells; -ENOSPC: the disk has no
 * room, or what is used does not fit; -EOPNOTSUPP: as above. */
#define VOLUMES_UNIT (16ull << 20)
MUST_CHECK int volumes_resize(const struct volumes *v, uint64_t from, uint64_t to, bool backed);
/* Gives the disk what is free, pieces of a megabyte and more. */
MUST_CHECK int volumes_trim(const struct volumes *v);
