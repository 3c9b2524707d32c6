/* spawner/host.h: what every start of a sandbox needs of the host: folders, the prepared pieces of a root, init's
 * program. Made once at start-up, in a mount namespace of the spawner's own, and unchanged afterwards.
 *
 *   DATA/images            layers; only root writes here
 *   DATA/buckets/<id>      files of an environment; the daemon's: a name in it may be a link by the time it is opened
 *   DATA/sandboxes         of the disk, or a file system of its own that is mounted here (disk.h)
 *   DATA/sandboxes/<id>    upper, work, spool of one sandbox
 *   DATA/sandboxes/.stage  0 .. 126  mount points for layers      root   mount point for the assembled root
 *                          dev       a prepared /dev, of which each sandbox gets a read-only clone
 *                          no-file, no-folder   what is put over that which a sandbox may not see, read-only already
 *                          own-dev, own-proc, own-sys   where these three of a sandbox are until its root is there
 *                          memory    mount point for an upper in memory
 *                          runs, stats, pids, spool   mount points for the folders that init gets
 *                          cg-*      cgroup hierarchies that the host has not mounted
 * .stage lies under sandboxes/ because that is root's: everything mounted there is mounted in private namespaces only,
 * and the daemon's user cannot plant a link in it. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "sandbox/plan.h"
#include "spawner/cgroups.h"
#include "spawner/disk.h"

#define HOST_PATH_MAX 256
#define HOST_MASKS_MAX 16
#define HOST_NO_FILE "no-file"
#define HOST_NO_FOLDER "no-folder"

struct host {
	char data[HOST_PATH_MAX]; /* absolute, without links */
	char name[16];            /* "orw-<8 hex>", from data: the prefix of all that we make outside DATA */
	uint32_t hash;
	int data_dir, sandboxes_dir;
	uid_t uid;                /* the daemon's user, who owns every bucket, and its group */
	gid_t gid;
	int init_fd;              /* sealed memory copy of openreward-init: inside, /proc/1/exe leads to no host file */
	int core_fd;              /* the kernel's core_pattern; -1 = cannot be read */
	bool may_renice;          /* what was made nicer can be made as before (CAP_SYS_NICE may be missing) */
	struct cgroups cg;
	struct disk disk;
	const char *masked_files[HOST_MASKS_MAX]; /* of /proc, those that this kernel has, as paths from .stage; NULL-terminated */
	const char *masked_dirs[HOST_MASKS_MAX];
	const char *readonly[HOST_MASKS_MAX];
	const char *const *mounts; /* the operator's: the only sources that a plan may name; NULL-terminated */
};

struct options;
/* o->data: made if missing, as its folders are, with owner and mode as docs tell; o->init: the program to copy. One line in the log
 * says why sandboxes have no limit of disk, where they should have one. */
MUST_CHECK int host_init(struct host *h, const struct options *o, struct err *err);
void host_done(struct host *h);
/* What lies at from is at to as well, there read-only, with flags (MS_NOSUID and the like); from may be to. A negative errno. */
MUST_CHECK int host_bind_readonly(const char *from, const char *to, unsigned long flags);
/* Whether a program of the host gets core dumps, by now. */
bool host_pipes_cores(const struct host *h);

/* DATA/sandboxes/<name>/{spool,upper,work} for the range that begins at first, without the last two when the upper is in memory.
 * A descriptor of the folder, which has no limit yet (disk.h). -EEXIST when it is there. */
MUST_CHECK int host_make_folders(const struct host *h, const char *name, bool in_memory, uid_t first, struct err *err);
