#include "spawner/host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/rmtree.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"

#define COPY_CHUNK 65536
#define PROC "own-proc/" /* where the builder has a sandbox's /proc while it has no root */

/* -- folders ----------------------------------------------------------------------------------------------------- */
static int make_owned(int dir, const char *name, mode_t mode, uid_t uid, gid_t gid, struct err *err)
{
	auto_fd fd = -1;

	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s", name);
	/* By descriptor: between mkdir and chown the name could be made a link by whoever owns the folder. */
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "open %s", name);
	if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
		return err_sys(err, "set owner and mode of %s", name);
	return 0;
}

static int make_data(struct host *h, const char *data, gid_t gid, struct err *err)
{
	char real[PATH_MAX];
	int r = fd_mkdirs(data, 0751, err);

	if (r < 0)
		return r;
	if (!realpath(data, real))
		return err_sys(err, "data folder %s", data);
	if (strlen(real) >= CGROUP_PATH_MAX - 64 || strpbrk(real, ",: \t\n\\"))
		return err_set(err, -EINVAL, "data folder \"%s\": expected at most %d bytes without blank, comma, colon "
			       "and backslash, which overlay mounts cannot take", real, CGROUP_PATH_MAX - 64);
	memcpy(h->data, real, strlen(real) + 1);
	h->hash = str_hash32(real);
	snprintf(h->name, sizeof(h->name), "orw-%08x", h->hash);
	h->data_dir = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (h->data_dir < 0)
		return err_sys(err, "open %s", real);
	if (fchown(h->data_dir, 0, gid) < 0 || fchmod(h->data_dir, 01771) < 0)
		return err_sys(err, "set owner and mode of %s", real);
	return 0;
}

static int make_stage(struct host *h, struct err *err)
{
	int r = make_owned(h->sandboxes_dir, ".stage", 0711, 0, 0, err);
	auto_fd stage = openat(h->sandboxes_dir, ".stage", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char name[8];

	if (r < 0)
		return r;
	if (stage < 0)
		return err_sys(err, "open .stage");
	if (mknodat(stage, HOST_NO_FILE, S_IFREG | 0444, 0) < 0 && errno != EEXIST)
		return err_sys(err, "make %s in .stage", HOST_NO_FILE);
	static const char *const rest[] = {
		"root", "dev", HOST_NO_FOLDER, "own-dev", "own-proc", "own-sys", "memory", "runs", "stats", "pids", "spool",
	};

	for (int i = 0; i < PLAN_LAYERS_MAX + (int)ARRAY_LEN(rest); i++) {
		snprintf(name, sizeof(name), "%d", i);
		if (mkdirat(stage, i < PLAN_LAYERS_MAX ? name : rest[i - PLAN_LAYERS_MAX], 0755) < 0 && errno != EEXIST)
			return err_sys(err, "mkdir in .stage");
	}
	return 0;
}

/* Folders directly below it are spread over the disk by ext4, each with what will be in it. Without that all sandboxes come
 * and go in one group of inodes, where the search for one that is free and not just deleted took milliseconds. Other file
 * systems know no such flag. */
static void spread_folders(int dir)
{
	int flags = 0;

	if (ioctl(dir, FS_IOC_GETFLAGS, &flags) < 0 || flags & FS_TOPDIR_FL)
		return;
	flags |= FS_TOPDIR_FL;
	(void)ioctl(dir, FS_IOC_SETFLAGS, &flags);
}

/* The folder is there twice where a file system of ours is mounted over it. */
static int make_sandboxes(struct host *h, const struct options *o, struct err *err)
{
	struct err why = ERR_INIT;
	int r = make_owned(h->data_dir, "sandboxes", 0711, 0, 0, err);

	if (r < 0)
		return r;
	disk_open(&h->disk, h->data_dir, h->data, o->disk_total, o->disk_reserve, &why);
	if (why.code)
		spawner_log("what sandboxes write to the disk is not limited: neither project quota nor a file system of their own: %s", why.msg);
	return make_owned(h->data_dir, "sandboxes", 0711, 0, 0, err);
}

static int make_layout(struct host *h, const struct options *o, struct err *err)
{
	int r = make_owned(h->data_dir, "run", 0750, o->uid, o->gid, err);

	if (r == 0)
		r = make_owned(h->data_dir, "images", 0711, 0, 0, err);
	if (r == 0)
		r = make_sandboxes(h, o, err);
	if (r < 0)
		return r;
	h->sandboxes_dir = openat(h->data_dir, "sandboxes", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (h->sandboxes_dir < 0)
		return err_sys(err, "open sandboxes");
	spread_folders(h->sandboxes_dir);
	return make_stage(h, err);
}

int host_make_folders(const struct host *h, const char *name, bool in_memory, uid_t first, struct err *err)
{
	static const struct {
		const char *name;
		mode_t mode;
	} sub[] = { { "spool", 0700 }, { "upper", 0755 }, { "work", 0700 } };
	const size_t n = in_memory ? 1 : ARRAY_LEN(sub);
	auto_fd dir = disk_make(&h->disk, h->sandboxes_dir, name, first, err);

	if (dir < 0)
		return dir;
	for (size_t i = 0; i < n; i++)
		/* umask is 022 and takes nothing of these modes. */
		if (mkdirat(dir, sub[i].name, sub[i].mode) < 0 || fchownat(dir, sub[i].name, first, first, 0) < 0)
			return err_sys(err, "make %s/%s", name, sub[i].name);
	return fd_steal(&dir);
}

/* -- the prepared /dev ------------------------------------------------------------------------------------------- */
static int make_node(const char *name, unsigned int minor_no, unsigned int major_no, struct err *err)
{
	char path[64], from[64];

	snprintf(path, sizeof(path), "dev/%s", name);
	snprintf(from, sizeof(from), "/dev/%s", name);
	if (mknod(path, S_IFCHR | 0666, makedev(major_no, minor_no)) == 0)
		return chmod(path, 0666) < 0 ? err_sys(err, "chmod %s", path) : 0;
	/* A container may lack CAP_MKNOD: then the host's own node serves. */
	if (mknod(path, S_IFREG | 0666, 0) < 0 || mount(from, path, NULL, MS_BIND, NULL) < 0)
		return err_sys(err, "neither mknod nor bind of %s", from);
	return 0;
}

static int make_links(struct err *err)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" }, { "/proc/self/fd/1", "dev/stdout" },
		{ "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" },
	};
	static const char *const dirs[] = { "dev/pts", "dev/shm", "dev/mqueue" };

	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			return err_sys(err, "symlink %s", links[i][1]);
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		if (mkdir(dirs[i], 0755) < 0)
			return err_sys(err, "mkdir %s", dirs[i]);
	return 0;
}

/* One tmpfs for all sandboxes, cloned read-only into each: a superblock per sandbox would make every memory cgroup of
 * the machine dearer. */
static int make_dev(struct err *err)
{
	static const struct {
		const char *name;
		unsigned int major, minor;
	} nodes[] = { { "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 },
		    { "tty", 5, 0 } };
	int r = 0;

	if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k") < 0)
		return err_sys(err, "mount the prepared /dev");
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(nodes); i++)
		r = make_node(nodes[i].name, nodes[i].minor, nodes[i].major, err);
	return r < 0 ? r : make_links(err);
}

int host_bind_readonly(const char *from, const char *to, unsigned long flags)
{
	if (mount(from, to, NULL, MS_BIND, NULL) < 0 || mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) < 0)
		return -errno;
	return 0;
}

/* The folder is the one where each sandbox's own pts goes, empty here; one of the disk would tell its path. */
static int make_covers(struct err *err)
{
	int r = host_bind_readonly("dev/pts", HOST_NO_FOLDER, MS_NOSUID | MS_NODEV | MS_NOEXEC);

	if (r == 0)
		r = host_bind_readonly("dev/null", HOST_NO_FILE, MS_NOSUID | MS_NOEXEC);
	return r < 0 ? err_sys_code(err, r, "mount what is put over hidden places") : 0;
}

/* -- the private mount namespace --------------------------------------------------------------------------------- */
static int leave_mounts(struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_sys(err, "own mount namespace");
	/* Slave: what the operator mounts later below images or a configured mount is still seen; nothing goes out. */
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ? err_sys(err, "make mounts private") : 0;
}

static int own_mounts(struct host *h, struct err *err)
{
	char stage[HOST_PATH_MAX + 32];
	int r;

	snprintf(stage, sizeof(stage), "%s/sandboxes/.stage", h->data);
	if (chdir(stage) < 0)
		return err_sys(err, "chdir %s", stage);
	r = make_dev(err);
	if (r == 0)
		r = make_covers(err);
	if (r == 0)
		r = cgroups_open(&h->cg, h->name, stage, err);
	if (chdir("/") < 0 && r == 0)
		r = err_sys(err, "chdir /");
	return r;
}

static void keep_existing(const char **ret, const char *const *names)
{
	size_t n = 0;

	for (; *names; names++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%s", *names + strlen(PROC));
		if (access(path, F_OK) == 0)
			ret[n++] = *names;
	}
	ret[n] = NULL;
}

static void probe_proc(struct host *h)
{
	static const char *const files[] = { PROC "kcore", PROC "keys", PROC "key-users", PROC "kmsg", PROC "latency_stats",
					     PROC "timer_list", PROC "timer_stats", PROC "sched_debug", PROC "interrupts", NULL };
	static const char *const dirs[] = { PROC "asound", PROC "acpi", PROC "scsi", NULL };
	static const char *const readonly[] = { PROC "bus", PROC "fs", PROC "irq", PROC "sys", PROC "sysrq-trigger", NULL };

	keep_existing(h->masked_files, files);
	keep_existing(h->masked_dirs, dirs);
	keep_existing(h->readonly, readonly);
}

/* -- init's program ---------------------------------------------------------------------------------------------- */
static int copy_all(int from, int to)
{
	static char chunk[COPY_CHUNK];
	ssize_t n;
	int r = 0;

	while (r == 0 && (n = read(from, chunk, sizeof(chunk))) != 0)
		r = n < 0 ? -errno : fd_write_all(to, chunk, (size_t)n);
	return r;
}

static int load_init(struct host *h, const char *path, struct err *err)
{
	const unsigned int exec = 0x10; /* MFD_EXEC, needed since Linux 6.3 where the operator forbids it by default */
	auto_fd from = open(path, O_RDONLY | O_CLOEXEC);
	auto_fd to = -1;
	int r;

	if (from < 0)
		return err_sys(err, "open %s", path);
	to = memfd_create("openreward-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | exec);
	if (to < 0 && errno == EINVAL)
		to = memfd_create("openreward-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (to < 0)
		return err_sys(err, "memfd for %s", path);
	r = copy_all(from, to);
	if (r < 0)
		return err_sys_code(err, r, "copy %s", path);
	/* Nobody inside may read it, so the kernel gives the files of /proc/1 to the host's root: root inside could otherwise make
	 * init the first choice when memory runs out (oom_score_adj), and so pass its own end off as the platform's fault. A
	 * read-only mount over /proc/1 would have to be taken away, behind a grace period, by whoever waits for init. */
	if (fchmod(to, 0111) < 0 ||
	    fcntl(to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_sys(err, "seal the copy of %s", path);
	h->init_fd = fd_steal(&to);
	return 0;
}

/* Tried in a child, as it may be a way without return. */
static bool may_renice(void)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(setpriority(PRIO_PROCESS, 0, 10) < 0 || setpriority(PRIO_PROCESS, 0, 0) < 0);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && status == 0;
}

int host_init(struct host *h, const struct options *o, struct err *err)
{
	int r;

	*h = (struct host){
		.data_dir = -1, .sandboxes_dir = -1, .init_fd = -1, .core_fd = -1, .cg.dir = { -1, -1, -1, -1 }, .uid = o->uid,
		.gid = o->gid,
	};
	umask(022);
	r = leave_mounts(err); /* first: a descriptor from before would not show what is mounted below it later */
	if (r == 0)
		r = make_data(h, o->data, o->gid, err);
	if (r == 0)
		r = make_layout(h, o, err);
	if (r == 0)
		r = load_init(h, o->init, err);
	if (r == 0)
		r = own_mounts(h, err);
	probe_proc(h);
	h->core_fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	h->may_renice = may_renice();
	return r;
}

bool host_pipes_cores(const struct host *h)
{
	char first;

	return pread(h->core_fd, &first, 1, 0) != 1 || first == '|' || first == '@';
}

static void undo_stage(struct host *h)
{
	static const char *const mounted[] = { HOST_NO_FILE, HOST_NO_FOLDER, "dev", "cg-cgroup2", "cg-cpu", "cg-memory", "cg-pids" };
	char path[HOST_PATH_MAX + 48];

	for (size_t i = 0; i < ARRAY_LEN(mounted); i++) {
		snprintf(path, sizeof(path), "%s/sandboxes/.stage/%s", h->data, mounted[i]);
		umount2(path, MNT_DETACH);
	}
	(void)!rmtree(h->sandboxes_dir, ".stage"); /* empty folders: if some stay, the next start uses them */
}

void host_done(struct host *h)
{
	undo_stage(h);
	cgroups_close(&h->cg, h->name);
	h->init_fd = fd_close(h->init_fd);
	h->core_fd = fd_close(h->core_fd);
	h->sandboxes_dir = fd_close(h->sandboxes_dir);
	disk_close(&h->disk, h->data);
	h->data_dir = fd_close(h->data_dir);
}
