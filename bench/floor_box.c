/* The parent's side of floor.h. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "floor.h"
#include "spawner/ids.h"
#include "spawner/netns.h"
#include "base/rmtree.h"
#include "spawner/sys.h"

#define FIRST_ID 0x70000000u /* below the product's blocks */
#define RANGES_EACH 16       /* of each process, for boxes that come and go */
#define RANGES_LASTING 1984  /* for boxes that stay; from LASTING_FIRST on */
#define LASTING_FIRST 2112
#define FSCONFIG_SET_FD 5
#define BUSY_TRIES 1000

/* As the product's benchmark asks for: one CPU, 1 GiB, 4,096 processes. */
static const struct cgroup_limits limits = { .cpu_milli = 1000, .memory_bytes = 1u << 30, .pids_max = 4096 };

/* -- cgroups and net namespaces ---------------------------------------------------------------------------------------- */
/* A dead process leaves its cgroup a moment after it was waited for. */
static int remove_cgroups(const struct cgroups *c, const char *name, struct err *err)
{
	for (int t = 0; t < CGROUP_TREES; t++) {
		int r = c->dir[t] < 0 ? 0 : unlinkat(c->dir[t], name, AT_REMOVEDIR);

		for (int i = 0; r < 0 && errno == EBUSY && i < BUSY_TRIES; i++) {
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
			r = unlinkat(c->dir[t], name, AT_REMOVEDIR);
		}
		if (r < 0 && errno != ENOENT)
			return err_sys(err, "remove the cgroup %s", name);
	}
	return 0;
}

static int make_cgroups(const struct cgroups *c, const char *name, struct err *err)
{
	int r = cgroup_make_v2(c, name, 0, err);

	if (r == 0)
		r = cgroup_make_v1(c, name, err);
	return r < 0 ? r : cgroup_limit(c, name, &limits, err);
}

int floor_prepare_pool(struct floor *f, struct err *err)
{
	for (int i = 0; i < FLOOR_POOL; i++) {
		int r;

		snprintf(f->pool[i].name, sizeof(f->pool[i].name), "pool-%d-%d", f->number, i);
		(void)!cgroup_remove(&f->host.cg, f->pool[i].name); /* of a process of a rate, that has ended */
		f->pool[i].net_fd = -1;
		r = netns_create(-1, &f->pool[i].net_fd, err);
		if (r == 0)
			r = make_cgroups(&f->host.cg, f->pool[i].name, err);
		if (r < 0)
			return r;
	}
	f->pooled = true;
	return 0;
}

void floor_drop_pool(struct floor *f)
{
	for (int i = 0; f->pooled && i < FLOOR_POOL; i++) {
		struct err err;

		f->pool[i].net_fd = fd_close(f->pool[i].net_fd);
		if (remove_cgroups(&f->host.cg, f->pool[i].name, &err) < 0)
			fprintf(stderr, "floor: %s\n", err.msg);
	}
	f->pooled = false;
}

static int make_confines(struct floor *f, struct floor_box *b, struct err *err)
{
	int r;

	if (b->opt.prepared) {
		b->net_fd = fcntl(f->pool[f->count % FLOOR_POOL].net_fd, F_DUPFD_CLOEXEC, 0);
		snprintf(b->name, sizeof(b->name), "%s", f->pool[f->count % FLOOR_POOL].name);
	} else {
		r = netns_create(-1, &b->net_fd, err);
		if (r == 0)
			r = make_cgroups(&f->host.cg, b->name, err);
		if (r < 0)
			return r;
	}
	b->cgroup_fd = cgroup_open_v2(&f->host.cg, b->name);
	return b->cgroup_fd < 0 ? err_sys_code(err, b->cgroup_fd, "open the cgroup") : 0;
}

static int open_v1(const struct cgroups *c, struct floor_box *b, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/tasks", b->name);
	for (int t = CGROUP_CPU; t < CGROUP_TREES; t++) {
		if (c->dir[t] < 0)
			continue;
		b->v1_fds[t] = openat(c->dir[t], path, O_WRONLY | O_CLOEXEC);
		if (b->v1_fds[t] < 0)
			return err_sys(err, "open a v1 cgroup");
	}
	return 0;
}

/* -- the process ---------------------------------------------------------------------------------------------------- */
/* The effective id makes the first id of the range the namespace's owner; the file system id stays root's, or the kernel
 * would not let it into the cgroup. */
static pid_t clone_as_first(const struct floor_box *b)
{
	struct sys_clone_args args = {
		.flags = (b->opt.least ? 0 : CLONE_NEWUSER) | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP |
			 CLONE_FILES | SYS_CLONE_INTO_CGROUP,
		.exit_signal = SIGCHLD, .cgroup = (uint64_t)b->cgroup_fd,
	};
	pid_t pid;

	if (b->opt.least)
		return sys_clone3(&args);
	if (syscall(SYS_setresgid, -1, b->first, -1) < 0 || syscall(SYS_setresuid, -1, b->first, -1) < 0)
		return -1;
	setfsuid(0);
	pid = sys_clone3(&args);
	if (pid != 0 && (syscall(SYS_setresuid, -1, 0, -1) < 0 || syscall(SYS_setresgid, -1, 0, -1) < 0))
		_exit(1);
	return pid;
}

static int start_process(const struct floor *f, struct floor_box *b, struct err *err)
{
	/* The child's ends stay open here: the table is one, and it may not have read yet. */
	if (pipe2(b->go, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	if (b->opt.agent && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, b->agent) < 0)
		return err_sys(err, "socketpair");
	b->shared->error = 0;
	b->pid = clone_as_first(b);
	if (b->pid == 0)
		floor_child(f, b);
	return b->pid < 0 ? err_sys(err, "clone") : 0;
}

static int write_map(const struct floor_box *b, const char *file, struct err *err)
{
	char path[64], map[48];
	int n = snprintf(map, sizeof(map), "0 %u %u\n", b->first, IDS_PER_RANGE);
	auto_fd fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", b->pid, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, map, (size_t)n) != n ? err_sys(err, "%s", path) : 0;
}

static int map_ids(struct floor_box *b, struct err *err)
{
	char path[64];
	int r = write_map(b, "uid_map", err);

	if (r == 0)
		r = write_map(b, "gid_map", err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", b->pid);
	b->userns_fd = open(path, O_RDONLY | O_CLOEXEC);
	return b->userns_fd < 0 ? err_sys(err, "open %s", path) : 0;
}

/* -- mounts ------------------------------------------------------------------------------------------------------------ */
/* userns_fd -1: there is nothing to map. */
static int mapped_clone(const char *path, unsigned int flags, unsigned int attrs, int userns_fd)
{
	struct sys_mount_attr a = {
		.attr_set = attrs | (userns_fd < 0 ? 0 : SYS_ATTR_IDMAP), .userns_fd = userns_fd < 0 ? 0 : (uint64_t)userns_fd,
	};
	auto_fd fd = sys_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	if (fd < 0 || sys_mount_setattr(fd, "", AT_EMPTY_PATH | flags, &a) < 0)
		return -1;
	return fd_steal(&fd);
}

/* By descriptor where the kernel takes unattached layers (Linux 6.15), else by way of a mount. */
static int set_lower(int fs, int layer)
{
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_FD, "lowerdir+", NULL, layer) == 0)
		return 0;
	if (sys_move_mount(layer, "", AT_FDCWD, "0", 0x04) < 0)
		return -1;
	return sys_fsconfig(fs, SYS_FSCONFIG_STRING, "lowerdir", "0");
}

static int make_overlay(const struct floor_box *b, int layer)
{
	char upper[128], work[128];
	const char *base = b->opt.memory ? FLOOR_MEMORY : "..";
	auto_fd fs = sys_fsopen("overlay");

	snprintf(upper, sizeof(upper), "%s/%s/upper", base, b->name);
	snprintf(work, sizeof(work), "%s/%s/work", base, b->name);
	if (fs < 0 || sys_fsconfig(fs, SYS_FSCONFIG_FLAG, "volatile", NULL) < 0 || set_lower(fs, layer) < 0 ||
	    sys_fsconfig(fs, SYS_FSCONFIG_STRING, "redirect_dir", "on") < 0 ||
	    sys_fsconfig(fs, SYS_FSCONFIG_STRING, "upperdir", upper) < 0 ||
	    sys_fsconfig(fs, SYS_FSCONFIG_STRING, "workdir", work) < 0 ||
	    sys_fsconfig(fs, SYS_FSCONFIG_CREATE, NULL, NULL) < 0)
		return -1;
	return sys_fsmount(fs, SYS_ATTR_NODEV);
}

static int make_sys(void)
{
	auto_fd fs = sys_fsopen("sysfs");

	if (fs < 0 || sys_fsconfig(fs, SYS_FSCONFIG_CREATE, NULL, NULL) < 0)
		return -1;
	return sys_fsmount(fs, SYS_ATTR_RDONLY | SYS_ATTR_NOSUID | SYS_ATTR_NODEV | SYS_ATTR_NOEXEC);
}

static int make_mounts(const struct floor *f, struct floor_box *b, struct err *err)
{
	auto_fd layer = mapped_clone(f->root, 0, SYS_ATTR_RDONLY, b->userns_fd);

	if (layer < 0)
		return err_sys(err, "id-mapped clone of %s", f->root);
	b->shared->overlay_fd = make_overlay(b, layer);
	if (b->shared->overlay_fd < 0)
		return err_sys(err, "overlay");
	b->shared->dev_fd = mapped_clone("dev", AT_RECURSIVE, SYS_ATTR_RDONLY | SYS_ATTR_NOSUID | SYS_ATTR_NOEXEC, b->userns_fd);
	if (b->shared->dev_fd < 0)
		return err_sys(err, "clone of /dev");
	if (b->opt.least)
		return 0;
	b->shared->sys_fd = make_sys();
	return b->shared->sys_fd < 0 ? err_sys(err, "sysfs") : 0;
}

/* -- folders ------------------------------------------------------------------------------------------------------------ */
static int make_folder(int parent, const char *name, struct err *err)
{
	if (mkdirat(parent, name, 0711) < 0)
		return err_sys(err, "mkdir %s", name);
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, "open %s", name) : fd;
}

static int make_folders(const struct floor *f, const struct floor_box *b, struct err *err)
{
	const struct disk_share share = { .bytes = 512u << 20, .first = b->first };
	static const char *const sub[] = { "upper", "work" };
	auto_fd dir = -1;
	int r;

	if (b->opt.memory)
		dir = make_folder(f->uppers[1], b->name, err);
	else
		dir = disk_make(&f->host.disk, f->uppers[0], b->name, b->first, err);
	r = dir < 0 || b->opt.memory ? MIN((int)dir, 0) : disk_limit(&f->host.disk, dir, &share, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(sub); i++)
		if (mkdirat(dir, sub[i], 0755) < 0 || fchownat(dir, sub[i], b->first, b->first, 0) < 0)
			return err_sys(err, "make %s/%s", b->name, sub[i]);
	return 0;
}

/* -- a box -------------------------------------------------------------------------------------------------------------- */
void floor_release(struct floor_box *b)
{
	struct floor_shared *s = b->shared;

	b->go[0] = fd_close(b->go[0]);
	b->go[1] = fd_close(b->go[1]);
	b->agent[1] = fd_close(b->agent[1]);
	b->net_fd = fd_close(b->net_fd);
	b->cgroup_fd = fd_close(b->cgroup_fd);
	b->userns_fd = fd_close(b->userns_fd);
	for (int t = 0; t < CGROUP_TREES; t++)
		b->v1_fds[t] = fd_close(b->v1_fds[t]);
	s->overlay_fd = fd_close(s->overlay_fd);
	s->dev_fd = fd_close(s->dev_fd);
	s->sys_fd = fd_close(s->sys_fd);
}

static int start_in_net(struct floor *f, struct floor_box *b, struct err *err)
{
	int r = open_v1(&f->host.cg, b, err);

	if (r == 0)
		r = start_process(f, b, err);
	if (r == 0 && !b->opt.least)
		r = map_ids(b, err);
	return r < 0 ? r : make_mounts(f, b, err);
}

static int start(struct floor *f, struct floor_box *b, struct err *err)
{
	int r = make_confines(f, b, err);

	if (r == 0)
		r = make_folders(f, b, err);
	if (r < 0)
		return r;
	if (setns(b->net_fd, CLONE_NEWNET) < 0)
		return err_sys(err, "enter the net namespace");
	r = start_in_net(f, b, err);
	if (setns(f->home_net, CLONE_NEWNET) < 0) {
		perror("floor: return to the host's net namespace");
		abort();
	}
	if (r == 0 && write(b->go[1], "g", 1) != 1)
		r = err_sys(err, "let the child go");
	return r;
}

static uint32_t range_of(const struct floor *f, const struct floor_box *b)
{
	if (b->opt.agent)
		return LASTING_FIRST + f->count % RANGES_LASTING;
	return (uint32_t)f->number * RANGES_EACH + f->count % RANGES_EACH;
}

int floor_start(struct floor *f, struct floor_box *b, struct err *err)
{
	struct err ignored;
	int r;

	b->go[0] = b->go[1] = b->agent[0] = b->agent[1] = -1;
	b->net_fd = b->cgroup_fd = b->userns_fd = -1;
	for (int t = 0; t < CGROUP_TREES; t++)
		b->v1_fds[t] = -1;
	b->shared->overlay_fd = b->shared->dev_fd = b->shared->sys_fd = -1;
	b->pid = -1;
	b->first = FIRST_ID + range_of(f, b) * IDS_PER_RANGE;
	snprintf(b->name, sizeof(b->name), "box-%d-%u", f->number, f->count);
	r = start(f, b, err);
	f->count++;
	if (r < 0) {
		(void)!floor_wait(b, true, &ignored);
		(void)!floor_remove(f, b, &ignored);
	}
	return r;
}

int floor_wait(struct floor_box *b, bool kill_it, struct err *err)
{
	int status = 0;

	if (b->pid <= 0)
		return 0;
	if (kill_it)
		kill(b->pid, SIGKILL);
	if (waitpid(b->pid, &status, 0) != b->pid)
		return err_sys(err, "wait for the child");
	b->pid = -1;
	if (kill_it || status == 0)
		return 0;
	if (b->shared->error)
		return err_set(err, -EIO, "floor: %s: %s", b->shared->stage, strerror(b->shared->error));
	return err_set(err, -EIO, "floor: the command ended with status %d", status);
}

int floor_remove(struct floor *f, struct floor_box *b, struct err *err)
{
	int r, s;

	floor_release(b);
	b->agent[0] = fd_close(b->agent[0]);
	umount2("0", MNT_DETACH); /* on kernels that need attached layers */
	r = b->opt.prepared ? 0 : remove_cgroups(&f->host.cg, b->name, err);
	s = b->opt.memory ? rmtree(f->uppers[1], b->name) : disk_remove(&f->host.disk, f->uppers[0], b->name);
	return r < 0 || s == 0 ? r : err_sys_code(err, s, "remove %s", b->name);
}
