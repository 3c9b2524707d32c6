#include "spawner/volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
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

#define QUOTA_ENABLE_SIMPLE 4  /* BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA */
#define LOOP_TRIES 32          /* somebody else may take the free one first */
#define LOOP_BLOCK 4096
#define TRIM_LEAST (1u << 20)
#define OPTIONS "nodatacow,nobarrier,commit=10,nodiscard"
#define AHEAD (128ull << 30) /* of chunks from the start, at most: each takes some memory of the kernel's, and time */

/* -- the file ---------------------------------------------------------------------------------------------------- */
static int set_size(int file, uint64_t from, uint64_t to, bool backed)
{
	if (backed)
		return machine_keep_room(file, from, to);
	return ftruncate(file, (off_t)to) < 0 ? -errno : 0;
}

/* On a file system that writes what changes to another place the room is kept only for one that is written in its place. */
static void write_in_place(int file)
{
	int flags = 0;

	if (ioctl(file, FS_IOC_GETFLAGS, &flags) < 0)
		return;
	flags |= FS_NOCOW_FL;
	(void)ioctl(file, FS_IOC_SETFLAGS, &flags);
}

/* A file without a name. */
static int make_file(struct volumes *v, int data_dir, uint64_t bytes, bool backed, struct err *err)
{
	int r;

	v->file = openat(data_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (v->file < 0)
		return err_sys(err, "make a file for it");
	write_in_place(v->file);
	r = set_size(v->file, 0, bytes, backed);
	return r < 0 ? err_sys_code(err, r, "make a file of %llu MiB for it", (unsigned long long)bytes >> 20) : 0;
}

/* One copy of everything: one disk is below it, and nothing outlives the spawner. */
static NORETURN void exec_mkfs(int fd)
{
	char path[32];
	char *argv[] = { (char[]){ "mkfs.btrfs" }, (char[]){ "-q" }, (char[]){ "-f" }, (char[]){ "-K" }, (char[]){ "--mixed" },
			 (char[]){ "-m" }, (char[]){ "single" }, (char[]){ "-d" }, (char[]){ "single" }, path, NULL };
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

/* -- chunks ------------------------------------------------------------------------------------------------------ */
/* When what is asked for does not fit into its chunks, btrfs makes one more, and takes it that it has to write earlier from then on
 * (maybe_clamp_preempt() in its space-info.c): whenever 128 MiB wait, its workers write, at anybody's cost, also what would have
 * been removed before that. So there are chunks from the start, for all but an eighth, which this itself may need; empty ones
 * stay where data and metadata share them. Where this fails all goes on without. */
static void make_chunks(const struct volumes *v, uint64_t bytes)
{
	int all = openat(v->root, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	(void)!fallocate(all, 0, 0, (off_t)MIN(AHEAD, bytes - bytes / 8));
	fd_close(all);
	(void)syncfs(v->root); /* what was removed can be had after a commit only */
}

/* -- made and mounted -------------------------------------------------------------------------------------------- */
static int mount_at(struct volumes *v, const char *where, struct err *err)
{
	struct btrfs_ioctl_quota_ctl_args on = { .cmd = QUOTA_ENABLE_SIMPLE };
	char device[32];

	v->loop = attach(v->file, device, sizeof(device), err);
	if (v->loop < 0)
		return v->loop;
	if (mount(device, where, "btrfs", MS_NOATIME | MS_NODEV, OPTIONS) < 0)
		return err_sys(err, "mount btrfs");
	v->root = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->root < 0)
		return err_sys(err, "open %s", where);
	return ioctl(v->root, BTRFS_IOC_QUOTA_CTL, &on) < 0 ? err_sys(err, "simple quotas of btrfs, which need Linux 6.7") : 0;
}

/* The folder of /sys that tells what statfs() does not; -1 = there is none. */
static int open_figures(int root)
{
	struct btrfs_ioctl_fs_info_args fs = { 0 };
	char path[96], *at = path;

	if (ioctl(root, BTRFS_IOC_FS_INFO, &fs) < 0)
		return -1;
	at += snprintf(path, sizeof(path), "/sys/fs/btrfs/");
	for (size_t i = 0; i < sizeof(fs.fsid); i++)
		at += snprintf(at, 4, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", fs.fsid[i]);
	snprintf(at, sizeof("/allocation/mixed"), "/allocation/mixed");
	return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

int volumes_open(struct volumes *v, int data_dir, const char *where, uint64_t bytes, bool backed, struct err *err)
{
	int r;

	*v = (struct volumes){ .file = -1, .loop = -1, .root = -1, .figures = -1 };
	r = make_file(v, data_dir, bytes, backed, err);
	if (r == 0)
		r = run_mkfs(v->file, err);
	if (r == 0)
		r = mount_at(v, where, err);
	if (r < 0) {
		volumes_close(v, where);
		return r;
	}
	v->figures = open_figures(v->root);
	make_chunks(v, bytes);
	return 0;
}

void volumes_close(struct volumes *v, const char *where)
{
	if (v->root >= 0)
		umount2(where, MNT_DETACH);
	v->figures = fd_close(v->figures);
	v->root = fd_close(v->root);
	v->loop = fd_close(v->loop);
	v->file = fd_close(v->file);
}

/* -- its size ---------------------------------------------------------------------------------------------------- */
static uint64_t figure(const struct volumes *v, const char *name)
{
	uint64_t u;

	return fd_read_u64(v->figures, name, &u) < 0 ? 0 : u;
}

/* What is promised: written to memory and not to the disk yet, which is much; and what removing files may need. */
int volumes_look(const struct volumes *v, struct volumes_state *ret)
{
	uint64_t promised = figure(v, "bytes_may_use") + figure(v, "bytes_reserved"), free;
	struct statvfs s;
	struct stat file;

	if (fstatvfs(v->root, &s) < 0 || fstat(v->file, &file) < 0)
		return -errno;
	free = (uint64_t)s.f_bavail * s.f_frsize;
	*ret = (struct volumes_state){
		.size = (uint64_t)s.f_blocks * s.f_frsize, .free = free > promised ? free - promised : 0,
		.held = (uint64_t)file.st_blocks * 512, .broken = s.f_flag & ST_RDONLY,
	};
	return 0;
}

static int resize_btrfs(const struct volumes *v, uint64_t bytes)
{
	struct btrfs_ioctl_vol_args args = { 0 };

	snprintf(args.name, sizeof(args.name), "1:%llu", (unsigned long long)bytes);
	return ioctl(v->root, BTRFS_IOC_RESIZE, &args) < 0 ? -errno : 0;
}

static int resize_loop(const struct volumes *v)
{
	return ioctl(v->loop, LOOP_SET_CAPACITY, 0) < 0 ? -errno : 0;
}

static int grow(const struct volumes *v, uint64_t from, uint64_t to, bool backed)
{
	int r = set_size(v->file, from, to, backed);

	if (r < 0)
		return ftruncate(v->file, (off_t)from) < 0 ? -errno : r; /* what was allocated before the disk was full */
	r = resize_loop(v);
	return r < 0 ? r : resize_btrfs(v, to);
}

static int shrink(const struct volumes *v, uint64_t to)
{
	int r = resize_btrfs(v, to);

	if (r == 0 && ftruncate(v->file, (off_t)to) < 0)
		r = -errno;
	return r < 0 ? r : resize_loop(v);
}

int volumes_resize(const struct volumes *v, uint64_t from, uint64_t to, bool backed)
{
	int r = to > from ? grow(v, from, to, backed) : to < from ? shrink(v, to) : 0;

	return r == 0 && backed ? machine_keep_room(v->file, 0, to) : r;
}

int volumes_trim(const struct volumes *v)
{
	struct fstrim_range all = { .len = UINT64_MAX, .minlen = TRIM_LEAST };

	return ioctl(v->root, FITRIM, &all) < 0 ? -errno : 0;
}
