#include "spawner/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/quota.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/machine.h"
#include "base/rmtree.h"
#include "spawner/ids.h"
#include "spawner/sys.h"

#define QUOTA_ENABLE_SIMPLE 4  /* BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA */
#define LOOP_TRIES 32          /* somebody else may take the free one first */
#define LOOP_BLOCK 4096
#define VOLUMES_OPTIONS "nodatacow,nobarrier,commit=10"

/* -- project quota ----------------------------------------------------------------------------------------------- */
/* The folder becomes a project of its own, which what is made in it belongs to: a number that no other sandbox of this host has. */
static int limit_project(int dir, const struct disk_share *s, struct err *err)
{
	const uint32_t project = s->first / IDS_PER_RANGE;
	struct if_dqblk limit = {
		.dqb_bhardlimit = s->bytes / 1024, .dqb_bsoftlimit = s->bytes / 1024, .dqb_ihardlimit = s->files,
		.dqb_isoftlimit = s->files, .dqb_valid = QIF_BLIMITS | QIF_ILIMITS,
	};
	struct fsxattr attr;

	if (syscall(SYS_quotactl_fd, dir, QCMD((unsigned int)Q_SETQUOTA, PRJQUOTA), project, &limit) < 0)
		return err_sys(err, "set the disk quota");
	if (ioctl(dir, FS_IOC_FSGETXATTR, &attr) < 0)
		return err_sys(err, "read the project");
	attr.fsx_projid = project;
	attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	return ioctl(dir, FS_IOC_FSSETXATTR, &attr) < 0 ? err_sys(err, "set the project") : 0;
}

/* -- a file system of ours --------------------------------------------------------------------------------------- */
static uint64_t size_of(int data_dir, uint64_t total)
{
	struct statvfs v;

	if (total)
		return total & ~(uint64_t)(LOOP_BLOCK - 1);
	if (fstatvfs(data_dir, &v) < 0)
		return 0;
	return (uint64_t)v.f_bavail * v.f_frsize / 10 * 9 & ~(uint64_t)(LOOP_BLOCK - 1);
}

/* A file without a name, of that many bytes and no block. */
static int make_file(int data_dir, uint64_t bytes, struct err *err)
{
	auto_fd fd = openat(data_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, "make a file for it");
	if (ftruncate(fd, (off_t)bytes) < 0)
		return err_sys(err, "make a file of %llu bytes for it", (unsigned long long)bytes);
	return fd_steal(&fd);
}

/* Single data and metadata: one disk is below it, and nothing outlives the spawner. */
static NORETURN void exec_mkfs(int fd)
{
	char path[32];
	char *argv[] = { (char[]){ "mkfs.btrfs" }, (char[]){ "-q" }, (char[]){ "-f" }, (char[]){ "-K" }, (char[]){ "-m" },
			 (char[]){ "single" }, (char[]){ "-d" }, (char[]){ "single" }, path, NULL };
	char *envp[] = { (char[]){ "PATH=/usr/sbin:/sbin:/usr/bin:/bin" }, NULL };
	int null = open("/dev/null", O_RDWR);

	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fcntl(fd, F_DUPFD, 10));
	execve("/usr/sbin/mkfs.btrfs", argv, envp);
	execve("/sbin/mkfs.btrfs", argv, envp);
	_exit(127);
}

static int run_mkfs(int fd, struct err *err)
{
	int status = 0;
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(err, "start mkfs.btrfs");
	if (pid == 0)
		exec_mkfs(fd);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, "wait for mkfs.btrfs");
	if (status != 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, -ENOENT, "mkfs.btrfs is not installed (btrfs-progs)");
	return status ? err_set(err, -EIO, "mkfs.btrfs failed with status %#x", (unsigned int)status) : 0;
}

/* The device goes with its last user. Without direct I/O all that is written would be in memory twice. */
static int attach_to(int loop, int file)
{
	struct loop_config c = {
		.fd = (uint32_t)file, .block_size = LOOP_BLOCK,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};

	if (ioctl(loop, LOOP_CONFIGURE, &c) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	c.info.lo_flags = LO_FLAGS_AUTOCLEAR; /* the file system of DATA may not know direct I/O */
	return ioctl(loop, LOOP_CONFIGURE, &c) < 0 ? -errno : 0;
}

static int attach(int file, char *path, size_t cap, struct err *err)
{
	auto_fd control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		return err_sys(err, "/dev/loop-control");
	for (int i = 0; i < LOOP_TRIES; i++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE), r;
		auto_fd loop = -1;

		if (n < 0)
			return err_sys(err, "find a loop device");
		snprintf(path, cap, "/dev/loop%d", n);
		loop = open(path, O_RDWR | O_CLOEXEC);
		r = loop < 0 ? -errno : attach_to(loop, file);
		if (r == 0)
			return fd_steal(&loop);
		if (r != -EBUSY)
			return err_sys_code(err, r, "attach %s", path);
	}
	return err_set(err, -EBUSY, "no loop device was free %d times", LOOP_TRIES);
}

static int enable_quota(const char *where, struct err *err)
{
	struct btrfs_ioctl_quota_ctl_args on = { .cmd = QUOTA_ENABLE_SIMPLE };
	auto_fd fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "open %s", where);
	return ioctl(fd, BTRFS_IOC_QUOTA_CTL, &on) < 0 ? err_sys(err, "simple quotas of btrfs, which need Linux 6.7") : 0;
}

static int mount_volumes(int data_dir, const char *where, uint64_t bytes, struct err *err)
{
	auto_fd file = make_file(data_dir, bytes, err);
	auto_fd loop = -1;
	char device[32];
	int r;

	if (file < 0)
		return file;
	r = run_mkfs(file, err);
	if (r < 0)
		return r;
	loop = attach(file, device, sizeof(device), err);
	if (loop < 0)
		return loop;
	if (mount(device, where, "btrfs", MS_NOATIME | MS_NODEV, VOLUMES_OPTIONS) < 0)
		return err_sys(err, "mount btrfs");
	r = enable_quota(where, err);
	if (r < 0)
		umount2(where, MNT_DETACH);
	return r;
}

static const char *folder_of(const char *data, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s/sandboxes", data);
	return buf;
}

void disk_open(struct disk *d, int data_dir, const char *data, uint64_t total, struct err *ret_why)
{
	char where[512];
	uint64_t bytes;

	*d = (struct disk){ .kind = DISK_PLAIN, .data_dir = data_dir };
	if (total == DISK_NO_LIMITS)
		return;
	if (machine_limits_projects(data_dir)) {
		d->kind = DISK_PROJECT;
		return;
	}
	bytes = size_of(data_dir, total);
	if (bytes < DISK_MIN_BYTES)
		(void)err_set(ret_why, -ENOSPC, "%llu MiB are too few for a file system of their own", (unsigned long long)bytes >> 20);
	else if (mount_volumes(data_dir, folder_of(data, where, sizeof(where)), bytes, ret_why) == 0)
		d->kind = DISK_VOLUMES;
}

void disk_close(struct disk *d, const char *data)
{
	char where[512];

	if (d->kind == DISK_VOLUMES)
		umount2(folder_of(data, where, sizeof(where)), MNT_DETACH);
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

int disk_make(const struct disk *d, int dir, const char *name, const struct disk_share *share, struct err *err)
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
	if (d->kind == DISK_VOLUMES && share->bytes)
		r = limit_volume(fd, share, err);
	else if (d->kind == DISK_PROJECT && (share->bytes || share->files))
		r = limit_project(fd, share, err);
	return r < 0 ? r : fd_steal(&fd);
}

/* A volume goes at once, whatever is in it; the kernel frees its blocks later. */
int disk_remove(const struct disk *d, int dir, const char *name)
{
	struct btrfs_ioctl_vol_args args = { 0 };

	snprintf(args.name, sizeof(args.name), "%s", name);
	if (d->kind == DISK_VOLUMES && ioctl(dir, BTRFS_IOC_SNAP_DESTROY, &args) == 0)
		return 0;
	return rmtree(dir, name);
}
