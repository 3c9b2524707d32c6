/* The assembly of a sandbox's root. The working directory is DATA/sandboxes/.stage as the builder's own mount namespace
 * has it. Paths inside the new root are resolved with RESOLVE_IN_ROOT: an image may hold any link. */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/start.h"
#include "spawner/sys.h"

#define OPTIONS_MAX 4096 /* one page: what mount(2) takes */
#define PROBER_STACK 32768
#define PTS_MAX "128" /* terminals of one sandbox: they are counted for the whole machine, which has 3,072 for all but itself */

static int fail(struct start *s, int error, const char *path)
{
	s->path = path;
	return -error;
}

/* A file system of its own, unattached. config: key, value, ..., NULL; may be NULL. */
static int new_mount(const char *type, const char *const *config, unsigned int attrs)
{
	auto_fd fs = sys_fsopen(type);
	int m;

	if (fs < 0)
		return -errno;
	for (; config && config[0]; config += 2)
		if (sys_fsconfig(fs, SYS_FSCONFIG_STRING, config[0], config[1]) < 0)
			return -errno;
	if (sys_fsconfig(fs, SYS_FSCONFIG_CREATE, NULL, NULL) < 0)
		return -errno;
	m = sys_fsmount(fs, attrs);
	return m < 0 ? -errno : m;
}

static int attach(int mount_fd, int target_fd)
{
	return sys_move_mount(mount_fd, "", target_fd, "", SYS_MOVE_EMPTY_PATHS) < 0 ? -errno : 0;
}

/* Until the root is there: in the place of this name, from where attach() takes it with all that is mounted in it by then. Before
 * Linux 6.15 nothing can be mounted in what is attached nowhere. */
static int set_aside(int mount_fd, const char *name)
{
	return sys_move_mount(mount_fd, "", AT_FDCWD, name, SYS_MOVE_EMPTY_FROM) < 0 ? -errno : 0;
}

static int open_below(int dir, const char *path, uint64_t resolve)
{
	struct sys_open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = resolve | SYS_RESOLVE_NO_MAGICLINKS };
	int fd = sys_openat2(dir, path, &how);

	return fd < 0 ? -errno : fd;
}

static int set_attrs(int mount_fd, unsigned int attrs)
{
	struct sys_mount_attr a = { .attr_set = attrs };

	return sys_mount_setattr(mount_fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &a) < 0 ? -errno : 0;
}

/* A read-only (and more) clone of what lies at dir/path. */
static int clone_mount(int dir, const char *path, unsigned int attrs)
{
	auto_fd fd = sys_open_tree(dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (path[0] ? 0 : AT_EMPTY_PATH));
	int r;

	if (fd < 0)
		return -errno;
	r = set_attrs(fd, attrs);
	return r < 0 ? r : fd_steal(&fd);
}

/* -- layers and overlay ------------------------------------------------------------------------------------------ */
static int mount_layer(struct start *s, int images, size_t n)
{
	struct sys_mount_attr attr = {
		.attr_set = SYS_ATTR_IDMAP | SYS_ATTR_RDONLY, .userns_fd = (uint64_t)s->userns_fd,
	};
	auto_fd dir = open_below(images, s->plan->layers[n], SYS_RESOLVE_BENEATH | SYS_RESOLVE_NO_SYMLINKS);
	auto_fd tree = -1;
	char target[8];

	if (dir < 0)
		return dir;
	tree = sys_open_tree(dir, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return -errno;
	if (sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr) < 0)
		return -errno;
	snprintf(target, sizeof(target), "%zu", n);
	/* Attached, because overlay refuses layers of no namespace before Linux 6.15. */
	return sys_move_mount(tree, "", AT_FDCWD, target, SYS_MOVE_EMPTY_FROM) < 0 ? -errno : 0;
}

int root_mount_layers(struct start *s)
{
	auto_fd images = open("../../images", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (images < 0)
		return fail(s, errno, "images");
	for (size_t i = 0; i < s->plan->n_layers; i++) {
		int r = mount_layer(s, images, i);

		if (r < 0)
			return fail(s, -r, s->plan->layers[i]);
	}
	return 0;
}

/* A tmpfs of the sandbox's own, which counts to its memory. It goes with the overlay. */
static int mount_memory(struct start *s)
{
	static const char *const dirs[] = { "memory/upper", "memory/work" };
	char options[96];

	/* Half of the machine's memory would be the kernel's own idea. */
	snprintf(options, sizeof(options), "mode=755,nr_inodes=%" PRIu64 ",size=%" PRIu64, s->plan->disk_files,
		 s->plan->disk_bytes ? s->plan->disk_bytes : (uint64_t)1 << 40);
	if (mount("tmpfs", "memory", "tmpfs", MS_NODEV, options) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		if (mkdir(dirs[i], 0755) < 0 || chown(dirs[i], s->first, s->first) < 0)
			return -errno;
	return 0;
}

/* volatile: unmounting would otherwise sync the whole host file system. redirect_dir: rename of an image's folder works
 * as on a plain file system. nodev: an image may hold device nodes. trusted xattrs (no userxattr), as nothing inside can
 * write those. */
int root_mount_overlay(struct start *s)
{
	char options[OPTIONS_MAX];
	size_t len = (size_t)snprintf(options, sizeof(options),
				      "volatile,redirect_dir=on,index=off,metacopy=off,lowerdir=0");

	for (size_t i = 1; i < s->plan->n_layers; i++)
		len += (size_t)snprintf(options + len, sizeof(options) - len, ":%zu", i);
	if (s->plan->memory_upper) {
		int r = mount_memory(s);

		if (r < 0)
			return fail(s, -r, "the upper in memory");
		snprintf(options + len, sizeof(options) - len, ",upperdir=memory/upper,workdir=memory/work");
	} else {
		snprintf(options + len, sizeof(options) - len, ",upperdir=../%s/upper,workdir=../%s/work", s->name, s->name);
	}
	if (mount("overlay", "root", "overlay", MS_NODEV, options) < 0)
		return fail(s, errno, "/");
	s->root_fd = open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return s->root_fd < 0 ? fail(s, errno, "/") : 0;
}

/* -- places inside the new root ---------------------------------------------------------------------------------- */
static int make_entry(struct start *s, int parent, const char *name, bool dir)
{
	if (dir) {
		if (mkdirat(parent, name, 0755) < 0)
			return -errno;
	} else {
		auto_fd fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

		if (fd < 0)
			return -errno;
	}
	return fchownat(parent, name, s->first, s->first, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* One component further; made if missing. path is the whole path up to and with name. */
static int place_one(struct start *s, int parent, const char *path, const char *name, bool dir)
{
	int fd = open_below(s->root_fd, path, SYS_RESOLVE_IN_ROOT);
	int r;

	if (fd != -ENOENT)
		return fd;
	r = make_entry(s, parent, name, dir);
	return r < 0 ? r : open_below(s->root_fd, path, SYS_RESOLVE_IN_ROOT);
}

/* O_PATH of an absolute path inside, which is made (owned by the sandbox's root) as far as it is missing. */
static int place(struct start *s, const char *path, bool dir)
{
	auto_fd at = open_below(s->root_fd, ".", SYS_RESOLVE_IN_ROOT);
	char part[1100];
	char *p = part;

	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
		return -ENAMETOOLONG;
	while (at >= 0 && p) {
		char *name = p + 1, *end = strchr(name, '/');
		int next;

		if (end)
			*end = 0;
		next = place_one(s, at, part, name, end ? true : dir);
		fd_close(at);
		at = next;
		if (end)
			*end = '/';
		p = end;
	}
	return at < 0 ? at : fd_steal(&at);
}

static int attach_at(struct start *s, int mount_fd, const char *path, bool dir)
{
	auto_fd target = place(s, path, dir);

	return target < 0 ? target : attach(mount_fd, target);
}

/* -- /dev -------------------------------------------------------------------------------------------------------- */
/* Owned by the sandbox's root where tmpfs can be id-mapped (Linux 6.3), else shown as nobody's; works alike. */
static int clone_dev(struct start *s)
{
	const unsigned int attrs = SYS_ATTR_RDONLY | SYS_ATTR_NOSUID | SYS_ATTR_NOEXEC;
	struct sys_mount_attr mapped = { .attr_set = attrs | SYS_ATTR_IDMAP, .userns_fd = (uint64_t)s->userns_fd };
	auto_fd fd = sys_open_tree(AT_FDCWD, "dev", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (fd < 0)
		return -errno;
	if (sys_mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &mapped) < 0) {
		int r = set_attrs(fd, attrs);

		if (r < 0)
			return r;
	}
	return fd_steal(&fd);
}

static int mount_in_dev(struct start *s, const char *name, int mount_fd)
{
	auto_fd m = mount_fd;
	auto_fd target = -1;

	if (m < 0)
		return m;
	target = open_below(s->dev_fd, name, SYS_RESOLVE_BENEATH);
	return target < 0 ? target : attach(m, target);
}

/* Up to Linux 6.6 or so devpts reads gid= as a signed number and refuses our ids, which lie above 2^31. Terminals are then
 * of their opener's group instead of tty's. */
static int mount_pts(struct start *s)
{
	const unsigned int attrs = SYS_ATTR_NOSUID | SYS_ATTR_NOEXEC;
	char tty_group[16];
	const char *const config[] = { "mode", "620", "ptmxmode", "666", "max", PTS_MAX, "gid", tty_group, NULL };
	const char *const without_group[] = { "mode", "620", "ptmxmode", "666", "max", PTS_MAX, NULL };
	int fd;

	snprintf(tty_group, sizeof(tty_group), "%u", s->first + 5);
	fd = new_mount("devpts", config, attrs);
	return mount_in_dev(s, "pts", fd == -EINVAL ? new_mount("devpts", without_group, attrs) : fd);
}

int root_mount_shm(struct start *s)
{
	char size[24], owner[16];
	const char *const config[] = { "size", size, "mode", "1777", "uid", owner, "gid", owner, NULL };
	uint64_t bytes = s->plan->shm_bytes ? s->plan->shm_bytes : s->plan->memory_bytes / 2;
	int r;

	/* Neither given: tmpfs' own default, half of the machine's memory, would be no limit at all. */
	snprintf(size, sizeof(size), "%" PRIu64, bytes ? bytes : (uint64_t)64 << 20);
	snprintf(owner, sizeof(owner), "%u", s->first);
	r = mount_in_dev(s, "shm", new_mount("tmpfs", config, SYS_ATTR_NOSUID | SYS_ATTR_NODEV));
	return r < 0 ? fail(s, -r, "/dev/shm") : 0;
}

int root_prepare_dev(struct start *s)
{
	int r;

	s->dev_fd = clone_dev(s);
	r = s->dev_fd < 0 ? s->dev_fd : set_aside(s->dev_fd, "own-dev");
	if (r < 0)
		return fail(s, -r, "/dev");
	r = mount_pts(s);
	return r < 0 ? fail(s, -r, "/dev/pts") : 0;
}

/* -- /proc ------------------------------------------------------------------------------------------------------- */
/* In init's namespaces, in the builder's memory. A process of the pid namespace has to open /proc; the ipc namespace is
 * entered by this task alone. */
static int prober(void *arg)
{
	struct start *s = arg;
	const unsigned int attrs = SYS_ATTR_NOSUID | SYS_ATTR_NODEV | SYS_ATTR_NOEXEC;

	s->proc_fd = new_mount("proc", NULL, attrs);
	s->prober_error = s->proc_fd;
	if (s->proc_fd >= 0 && setns(s->init_pidfd, CLONE_NEWIPC) < 0)
		s->prober_error = -errno;
	if (s->prober_error >= 0) {
		s->mqueue_fd = new_mount("mqueue", NULL, attrs);
		s->prober_error = s->mqueue_fd == -ENODEV ? 0 : s->mqueue_fd; /* kernels without POSIX queues */
	}
	return 0;
}

static int run_prober(struct start *s)
{
	static char stack[PROBER_STACK] __attribute__((aligned(16)));
	int status;
	pid_t pid;

	if (setns(s->init_pidfd, CLONE_NEWPID) < 0)
		return -errno;
	pid = clone(prober, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, s);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (!WIFEXITED(status))
		return -EIO;
	return s->prober_error < 0 ? s->prober_error : 0;
}

int root_prepare_proc(struct start *s)
{
	int r = run_prober(s);

	if (r == 0)
		r = set_aside(s->proc_fd, "own-proc");
	if (r < 0)
		return fail(s, -r, "/proc");
	r = s->mqueue_fd < 0 ? 0 : mount_in_dev(s, "mqueue", fd_steal(&s->mqueue_fd));
	return r < 0 ? fail(s, -r, "/dev/mqueue") : 0;
}

/* What lies at what is put over path, in one call: the mount there brings its flags along. */
static int cover(const char *path, const char *what)
{
	/* Nothing to hide in this net namespace or on this machine. */
	return mount(what, path, NULL, MS_BIND, NULL) < 0 && errno != ENOENT ? -errno : 0;
}

static int show_readonly(const char *path, const char *what)
{
	return host_bind_readonly(what, path, MS_NOSUID | MS_NODEV | MS_NOEXEC);
}

int root_mask_proc(struct start *s)
{
	const struct host *h = s->host;
	int r = 0;

	for (size_t i = 0; r == 0 && h->masked_files[i]; i++)
		r = cover(s->path = h->masked_files[i], HOST_NO_FILE);
	for (size_t i = 0; r == 0 && h->masked_dirs[i]; i++)
		r = cover(s->path = h->masked_dirs[i], HOST_NO_FOLDER);
	for (size_t i = 0; r == 0 && h->readonly[i]; i++)
		r = show_readonly(s->path = h->readonly[i], h->readonly[i]);
	return r;
}

/* -- /sys -------------------------------------------------------------------------------------------------------- */
/* Of the net namespace that the builder is in. With limits on v2, programs find them where they look (JVMs size their
 * heaps by it); on v1 the folder stays empty. */
static int show_cgroup(const struct start *s)
{
	const struct cgroups *c = &s->host->cg;
	char path[CGROUP_PATH_MAX + PLAN_ID_LEN + 1];

	if (!c->on_v2[CGROUP_MEMORY])
		return 0;
	snprintf(path, sizeof(path), "%s/%s", c->path[CGROUP_V2], s->name);
	return show_readonly("own-sys/fs/cgroup", path);
}

int root_prepare_sys(struct start *s)
{
	static const char *const masked[] = { "own-sys/firmware", "own-sys/devices/virtual/powercap" };
	int r;

	s->sys_fd = new_mount("sysfs", NULL, SYS_ATTR_RDONLY | SYS_ATTR_NOSUID | SYS_ATTR_NODEV | SYS_ATTR_NOEXEC);
	r = s->sys_fd < 0 ? s->sys_fd : set_aside(s->sys_fd, "own-sys");
	if (r < 0)
		return fail(s, -r, "/sys");
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(masked); i++)
		r = cover(s->path = masked[i], HOST_NO_FOLDER);
	if (r == 0)
		r = show_cgroup(s);
	return r;
}

int root_attach(struct start *s)
{
	const struct {
		const char *path;
		int fd;
	} prepared[] = { { "/dev", s->dev_fd }, { "/proc", s->proc_fd }, { "/sys", s->sys_fd } };

	for (size_t i = 0; i < ARRAY_LEN(prepared); i++) {
		int r = attach_at(s, prepared[i].fd, prepared[i].path, true);

		if (r < 0)
			return fail(s, -r, prepared[i].path);
	}
	return 0;
}

/* -- the operator's mounts --------------------------------------------------------------------------------------- */
static bool is_allowed(const struct host *h, const char *source)
{
	for (size_t i = 0; h->mounts[i]; i++)
		if (strcmp(h->mounts[i], source) == 0)
			return true;
	return false;
}

static int mount_configured(struct start *s, const struct plan_mount *m)
{
	unsigned int attrs = SYS_ATTR_NOSUID | SYS_ATTR_NODEV | (m->flags & PLAN_MOUNT_RO ? SYS_ATTR_RDONLY : 0);
	struct stat st;
	auto_fd fd = -1;

	if (!is_allowed(s->host, m->source))
		return -EPERM;
	fd = clone_mount(AT_FDCWD, m->source, attrs);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return attach_at(s, fd, m->target, S_ISDIR(st.st_mode));
}

int root_mount_configured(struct start *s)
{
	for (size_t i = 0; i < s->plan->n_mounts; i++) {
		int r = mount_configured(s, &s->plan->mounts[i]);

		if (r < 0)
			return fail(s, -r, s->plan->mounts[i].source);
	}
	return 0;
}

/* An image's link may lead the target into /proc or the like, which no bucket may cover: so no mount is entered on the
 * way, and what is missing is made on the image's own file system. */
int root_mount_bucket(struct start *s)
{
	const struct plan_bucket *b = &s->plan->bucket;
	auto_fd fd = -1, made = -1, target = -1;
	struct sys_open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_MAGICLINKS | SYS_RESOLVE_NO_XDEV,
	};
	int r;

	if (!b->id)
		return 0;
	fd = bucket_clone(s);
	if (fd < 0)
		return fd;
	made = place(s, b->target, true);
	if (made < 0)
		return fail(s, -made, b->target);
	target = sys_openat2(s->root_fd, b->target, &how);
	if (target < 0)
		return fail(s, errno, b->target);
	r = attach(fd, target);
	return r < 0 ? fail(s, -r, b->target) : 0;
}

/* -- the end ----------------------------------------------------------------------------------------------------- */
/* The new root is put on top of the old one, and that is then taken away from under it: no folder of the image is needed to
 * hold it. init shares this mount namespace, so its root and working directory follow. */
int root_pivot(struct start *s)
{
	if (fchdir(s->root_fd) < 0)
		return fail(s, errno, "/");
	return sys_pivot_root(".", ".") < 0 ? fail(s, errno, "/") : 0;
}

int root_leave(struct start *s)
{
	return umount2(".", MNT_DETACH) < 0 ? fail(s, errno, "/") : 0;
}
