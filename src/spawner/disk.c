#include "spawner/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/machine.h"
#include "base/rmtree.h"
#include "sandbox/plan.h"
#include "spawner/growth.h"
#include "spawner/ids.h"
#include "spawner/sys.h"

#define GOING ".going" /* a folder beside those of sandboxes */

/* -- project quota ----------------------------------------------------------------------------------------------- */
static uint32_t project_of(uid_t first)
{
	return first / IDS_PER_RANGE;
}

/* The folder becomes a project of its own, which what is made in it belongs to: a number that no other sandbox of this host has. */
static int become_project(int dir, uid_t first, struct err *err)
{
	struct fsxattr attr;

	if (ioctl(dir, FS_IOC_FSGETXATTR, &attr) < 0)
		return err_sys(err, "read the project");
	attr.fsx_projid = project_of(first);
	attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	return ioctl(dir, FS_IOC_FSSETXATTR, &attr) < 0 ? err_sys(err, "set the project") : 0;
}

static int limit_project(int dir, const struct disk_share *s, struct err *err)
{
	struct if_dqblk limit = {
		.dqb_bhardlimit = s->bytes / 1024, .dqb_bsoftlimit = s->bytes / 1024, .dqb_ihardlimit = s->files,
		.dqb_isoftlimit = s->files, .dqb_valid = QIF_BLIMITS | QIF_ILIMITS,
	};

	if (syscall(SYS_quotactl_fd, dir, QCMD((unsigned int)Q_SETQUOTA, PRJQUOTA), project_of(s->first), &limit) < 0)
		return err_sys(err, "set the disk quota");
	return 0;
}

/* -- a file system of ours --------------------------------------------------------------------------------------- */
static const char *folder_of(const char *data, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s/sandboxes", data);
	return buf;
}

uint64_t disk_below(const struct disk *d)
{
	struct statvfs v;

	return fstatvfs(d->data_dir, &v) < 0 ? 0 : (uint64_t)v.f_bavail * v.f_frsize;
}

static void open_volumes(struct disk *d, const char *data, struct err *ret_why)
{
	const struct growth g = { .total = d->total, .below = disk_below(d), .reserve = d->reserve };
	struct growth_plan p = growth_first(&g);
	char where[512];
	int r;

	folder_of(data, where, sizeof(where));
	d->backed = p.backed;
	if (!p.size) {
		(void)err_set(ret_why, -ENOSPC, "%llu MiB are free, expected %llu for a file system of their own",
			      (unsigned long long)MIN(g.below, g.total) >> 20, 2 * GROWTH_LEAST_BYTES >> 20);
		return;
	}
	r = volumes_open(&d->volumes, d->data_dir, where, p.size, p.backed, ret_why);
	if (r == -EOPNOTSUPP && p.backed) {
		d->backed = false;
		r = volumes_open(&d->volumes, d->data_dir, where, p.size, false, ret_why);
	}
	if (r == 0 && mkdirat(d->volumes.root, GOING, 0700) < 0) {
		r = err_sys(ret_why, "mkdir %s", GOING);
		volumes_close(&d->volumes, where);
	}
	if (r == 0)
		d->kind = DISK_VOLUMES;
}

void disk_open(struct disk *d, int data_dir, const char *data, uint64_t total, uint64_t reserve, struct err *ret_why)
{
	*d = (struct disk){ .kind = DISK_PLAIN, .data_dir = data_dir, .reserve = reserve };
	if (total == DISK_NO_LIMITS)
		return;
	d->total = (total ? total : disk_below(d) / 10 * 9) / VOLUMES_UNIT * VOLUMES_UNIT;
	if (machine_limits_projects(data_dir))
		d->kind = DISK_PROJECT;
	else
		open_volumes(d, data, ret_why);
}

void disk_close(struct disk *d, const char *data)
{
	char where[512];

	if (d->kind == DISK_VOLUMES)
		volumes_close(&d->volumes, folder_of(data, where, sizeof(where)));
	d->kind = DISK_PLAIN;
}

/* -- a sandbox's folder ------------------------------------------------------------------------------------------ */
static int make_volume(int dir, const char *name, struct err *err)
{
	struct btrfs_ioctl_vol_args args = { 0 };

	snprintf(args.name, sizeof(args.name), "%s", name);
	return ioctl(dir, BTRFS_IOC_SUBVOL_CREATE, &args) < 0 ? err_sys(err, "make volume %s", name) : 0;
}

static int limit_volume(int fd, const struct disk_share *s, struct err *err)
{
	struct btrfs_ioctl_qgroup_limit_args args = { .lim = { .flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = s->bytes } };

	return ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, &args) < 0 ? err_sys(err, "limit the volume") : 0;
}

int disk_make(const struct disk *d, int dir, const char *name, uid_t first, struct err *err)
{
	auto_fd fd = -1;
	int r = 0;

	if (d->kind == DISK_VOLUMES)
		r = make_volume(dir, name, err);
	else if (mkdirat(dir, name, 0711) < 0)
		r = err_sys(err, "mkdir %s", name);
	if (r < 0)
		return r;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0711) < 0)
		return err_sys(err, "open %s", name);
	if (d->kind == DISK_PROJECT)
		r = become_project(fd, first, err);
	return r < 0 ? r : fd_steal(&fd);
}

int disk_limit(const struct disk *d, int folder, const struct disk_share *share, struct err *err)
{
	if (d->kind == DISK_PROJECT)
		return limit_project(folder, share, err);
	return d->kind == DISK_VOLUMES && share->bytes ? limit_volume(folder, share, err) : 0;
}

/* A volume goes at once, whatever is in it; the kernel frees its blocks later. But first it puts away what it has of the volume's
 * files in memory, for 200,000 of them nearly a second, with the lock of the folder that the volume is in: where others are made,
 * all of them would wait. */
static int remove_volume(int dir, const char *name)
{
	struct btrfs_ioctl_vol_args args = { 0 };
	char moved[sizeof(GOING) + 1 + PLAN_ID_LEN];
	auto_fd going = openat(dir, GOING, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int at = going < 0 ? dir : going;

	snprintf(args.name, sizeof(args.name), "%s", name);
	snprintf(moved, sizeof(moved), GOING "/%s", name);
	if (renameat(dir, name, dir, moved) < 0 && errno != ENOENT) /* an earlier try may have moved it */
		at = dir;
	/* One that is full may have no room for being removed at once. */
	return ioctl(at, BTRFS_IOC_SNAP_DESTROY, &args) == 0 ? 0 : rmtree(at, name);
}

int disk_remove(const struct disk *d, int dir, const char *name)
{
	return d->kind == DISK_VOLUMES ? remove_volume(dir, name) : rmtree(dir, name);
}
