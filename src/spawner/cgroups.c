#include "spawner/cgroups.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/wire.h"

#define HOST_PIDS 2048
#define DEPTH_MAX 8 /* below a sandbox's: two levels are all that init uses, the rest is for those who got into init */
#define GROUPS_MAX (WIRE_ITEMS_MAX + 1024) /* below a sandbox's: as many as init can have runs, and what those leave behind */
#define TCP_SHARE 4 /* v1: of a sandbox's memory, as much again for TCP's buffers */

static const char *const tree_name[CGROUP_TREES] = { "cgroup2", "cpu", "memory", "pids" };

/* -- files ------------------------------------------------------------------------------------------------------- */
static int write_u64(int dir, const char *file, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return fd_put_text(dir, file, text);
}

static int open_dir(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 ? -errno : fd;
}

/* -- finding the hierarchies ------------------------------------------------------------------------------------- */
/* One word of a comma-separated list. */
static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',' || p[-1] == ' ') && (!p[n] || strchr(", \n", p[n])))
			return true;
	return false;
}

/* A line of mountinfo: "ID PARENT DEV ROOT TARGET OPTIONS [FIELDS] - TYPE SOURCE SUPER". Only whole hierarchies count
 * (root "/"): a container's bind of a part of one would put us somewhere that its owner does not expect. */
static bool mount_line_matches(char *line, const char *tree, char *ret, size_t cap)
{
	char root[8], target[CGROUP_PATH_MAX], type[16], options[256];
	char *tail = strstr(line, " - ");

	if (!tail || sscanf(tail, " - %15s %*s %255s", type, options) != 2)
		return false;
	*tail = 0;
	if (sscanf(line, "%*s %*s %*s %7s %255s", root, target) != 2 || strcmp(root, "/") != 0)
		return false;
	if (strcmp(tree, "cgroup2") == 0 ? strcmp(type, "cgroup2") != 0
					 : strcmp(type, "cgroup") != 0 || !has_word(options, tree))
		return false;
	return (size_t)snprintf(ret, cap, "%s", target) < cap;
}

static int find_mount(const char *tree, char *ret, size_t cap, struct err *err)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096];
	bool found = false;

	if (!f)
		return err_sys(err, "open /proc/self/mountinfo");
	while (!found && fgets(line, sizeof(line), f))
		found = mount_line_matches(line, tree, ret, cap);
	fclose(f);
	return found ? 0 : -ENOENT;
}

static int mount_private(const char *tree, const char *mount_dir, char *ret, size_t cap, struct err *err)
{
	bool v2 = strcmp(tree, "cgroup2") == 0;

	if ((size_t)snprintf(ret, cap, "%s/cg-%s", mount_dir, tree) >= cap)
		return err_set(err, -ENAMETOOLONG, "cgroup: \"%s\" is too long a path", mount_dir);
	if (mkdir(ret, 0755) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s", ret);
	if (mount("cgroup", ret, v2 ? "cgroup2" : "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, v2 ? NULL : tree) < 0)
		return err_sys(err, "this kernel gives no %s cgroup: mount", tree);
	return 0;
}

static int open_tree_parent(struct cgroups *c, enum cgroup_tree t, const char *name, const char *mount_dir,
			    struct err *err)
{
	char path[CGROUP_PATH_MAX - 64];
	int r = find_mount(tree_name[t], path, sizeof(path), err);

	if (r == -ENOENT)
		r = mount_private(tree_name[t], mount_dir, path, sizeof(path), err);
	if (r < 0)
		return r;
	snprintf(c->path[t], sizeof(c->path[t]), "%s/%s", path, name);
	if (mkdir(c->path[t], 0755) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s", c->path[t]);
	c->dir[t] = open_dir(AT_FDCWD, c->path[t]);
	return c->dir[t] < 0 ? err_sys_code(err, c->dir[t], "open %s", c->path[t]) : 0;
}

/* Controllers of v2 reach a folder only if every folder above hands them down. */
static int hand_down(int dir, const char *where, struct err *err)
{
	static const char *const all[] = { "+cpu", "+memory", "+pids" };
	char have[256] = "";
	auto_fd fd = openat(dir, "cgroup.controllers", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, have, sizeof(have) - 1) < 0)
		return err_sys(err, "read cgroup.controllers of %s", where);
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		int r = has_word(have, all[i] + 1) ? fd_put_text(dir, "cgroup.subtree_control", all[i]) : 0;

		if (r < 0)
			return err_sys_code(err, r, "hand cgroup controller %s down from %s", all[i] + 1, where);
	}
	return 0;
}

static int probe_v2_controllers(struct cgroups *c, struct err *err)
{
	char have[256] = "";
	auto_fd root = open_dir(c->dir[CGROUP_V2], "..");
	auto_fd fd = -1;
	int r;

	if (root < 0)
		return err_sys_code(err, root, "open the cgroup v2 root");
	r = hand_down(root, "the cgroup v2 root", err);
	if (r == 0)
		r = hand_down(c->dir[CGROUP_V2], c->path[CGROUP_V2], err);
	if (r < 0)
		return r;
	fd = openat(c->dir[CGROUP_V2], "cgroup.subtree_control", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, have, sizeof(have) - 1) < 0)
		return err_sys(err, "read cgroup.subtree_control");
	for (int t = CGROUP_CPU; t < CGROUP_TREES; t++)
		c->on_v2[t] = has_word(have, tree_name[t]);
	return 0;
}

static enum cgroup_tree pids_tree(const struct cgroups *c)
{
	return c->on_v2[CGROUP_PIDS] ? CGROUP_V2 : CGROUP_PIDS;
}

/* All sandboxes and jobs together leave the host an eighth of its process ids, at least HOST_PIDS: however many sandboxes
 * there are, each within its own limit, somebody can still log in and end them. */
static int limit_all(const struct cgroups *c, struct err *err)
{
	enum cgroup_tree t = pids_tree(c);
	uint64_t all = 0, host;
	int r = fd_read_u64(AT_FDCWD, "/proc/sys/kernel/pid_max", &all);

	if (r < 0)
		return err_sys_code(err, r, "read /proc/sys/kernel/pid_max");
	host = MAX(all / 8, (uint64_t)HOST_PIDS);
	r = write_u64(c->dir[t], "pids.max", all > 2 * host ? all - host : all / 2);
	return r < 0 ? err_sys_code(err, r, "limit the processes of %s", c->path[t]) : 0;
}

/* What is deeper than that nobody would find, and could not remove. */
static int limit_depth(const struct cgroups *c, struct err *err)
{
	int r = write_u64(c->dir[CGROUP_V2], "cgroup.max.depth", 1 + DEPTH_MAX);

	return r < 0 ? err_sys_code(err, r, "limit the depth of %s", c->path[CGROUP_V2]) : 0;
}

int cgroups_open(struct cgroups *c, const char *name, const char *mount_dir, struct err *err)
{
	int r;

	*c = (struct cgroups){ .dir = { -1, -1, -1, -1 } };
	r = open_tree_parent(c, CGROUP_V2, name, mount_dir, err);
	if (r == 0)
		r = probe_v2_controllers(c, err);
	for (int t = CGROUP_CPU; r == 0 && t < CGROUP_TREES; t++)
		if (!c->on_v2[t])
			r = open_tree_parent(c, (enum cgroup_tree)t, name, mount_dir, err);
	r = r < 0 ? r : limit_depth(c, err);
	return r < 0 ? r : limit_all(c, err);
}

void cgroups_close(struct cgroups *c, const char *name)
{
	for (int t = 0; t < CGROUP_TREES; t++) {
		auto_fd above = c->dir[t] < 0 ? -1 : open_dir(c->dir[t], "..");

		c->dir[t] = fd_close(c->dir[t]);
		if (above >= 0)
			unlinkat(above, name, AT_REMOVEDIR);
	}
}

/* -- one sandbox's ----------------------------------------------------------------------------------------------- */
static int weigh(const struct cgroups *c, int dir, uint64_t milli)
{
	if (c->on_v2[CGROUP_CPU])
		return write_u64(dir, "cpu.weight", MIN(MAX(milli / 10, (uint64_t)1), (uint64_t)10000));
	return write_u64(dir, "cpu.shares", MAX(milli * 1024 / 1000, (uint64_t)2));
}

static int limit_cpu(const struct cgroups *c, int dir, uint64_t milli)
{
	const uint64_t period_us = 100000;
	uint64_t quota_us = MAX(milli * period_us / 1000, (uint64_t)1000); /* the kernel's minimum */
	char text[64];
	int r;

	if (c->on_v2[CGROUP_CPU]) {
		snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64, quota_us, period_us);
		r = fd_put_text(dir, "cpu.max", text);
	} else {
		r = write_u64(dir, "cpu.cfs_quota_us", quota_us); /* of the kernel's own period, which is the same */
	}
	return r < 0 ? r : weigh(c, dir, milli);
}

/* Swap accounting may be compiled out or switched off; without it there is nothing to forbid. */
static int optional(int r)
{
	return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
}

/* v1 counts memory and swap together: the same limit means no swap. At no time may that of both be less. */
static int limit_memory_v1(int dir, uint64_t bytes)
{
	static const char memory[] = "memory.limit_in_bytes", both[] = "memory.memsw.limit_in_bytes";
	int r = write_u64(dir, memory, bytes);

	if (r != -EINVAL)
		return r < 0 ? r : optional(write_u64(dir, both, bytes));
	r = write_u64(dir, both, bytes);
	return r < 0 ? r : write_u64(dir, memory, bytes);
}

static int limit_memory(const struct cgroups *c, int dir, uint64_t bytes)
{
	int r;

	if (c->on_v2[CGROUP_MEMORY]) {
		r = write_u64(dir, "memory.max", bytes);
		return r < 0 ? r : optional(write_u64(dir, "memory.swap.max", 0));
	}
	r = limit_memory_v1(dir, bytes);
	/* TCP's buffers are not in it, and without a limit not counted at all: one sandbox would take what the whole machine has
	 * for them (tcp_mem). */
	return r < 0 ? r : optional(write_u64(dir, "memory.kmem.tcp.limit_in_bytes", bytes / TCP_SHARE));
}

static int limit_tree(const struct cgroups *c, enum cgroup_tree t, int dir, const struct cgroup_limits *l)
{
	int r = 0;

	if ((t == CGROUP_CPU || (t == CGROUP_V2 && c->on_v2[CGROUP_CPU])) && l->cpu_milli)
		r = limit_cpu(c, dir, l->cpu_milli);
	if (r == 0 && (t == CGROUP_MEMORY || (t == CGROUP_V2 && c->on_v2[CGROUP_MEMORY])) && l->memory_bytes)
		r = limit_memory(c, dir, l->memory_bytes);
	if (r == 0 && (t == CGROUP_PIDS || (t == CGROUP_V2 && c->on_v2[CGROUP_PIDS])) && l->pids_max)
		r = write_u64(dir, "pids.max", l->pids_max);
	return r;
}

/* Not cgroup.subtree_control: init needs no controller below, and each would cost the host memory and time for each folder. */
static int delegate(int dir, uid_t owner)
{
	static const char *const files[] = { ".", "cgroup.procs", "cgroup.threads" };

	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		if (fchownat(dir, files[i], owner, owner, 0) < 0)
			return -errno;
	return 0;
}

static int delegate_v2(int dir, uid_t owner)
{
	auto_fd runs = -1;
	int r = write_u64(dir, "cgroup.max.descendants", GROUPS_MAX); /* else who got into init could make any number */

	if (r < 0)
		return r;
	if (mkdirat(dir, "runs", 0755) < 0)
		return -errno;
	runs = open_dir(dir, "runs");
	if (runs < 0)
		return runs;
	r = delegate(dir, owner);
	return r < 0 ? r : delegate(runs, owner);
}

static int make_in_tree(const struct cgroups *c, enum cgroup_tree t, const char *id, uid_t owner)
{
	auto_fd dir = -1;

	if (mkdirat(c->dir[t], id, 0755) < 0)
		return -errno;
	if (!owner)
		return 0;
	dir = open_dir(c->dir[t], id);
	return dir < 0 ? dir : delegate_v2(dir, owner);
}

/* Some managers of v1 hierarchies take empty folders away that are not their own, also ours while no sandbox is in it. The
 * descriptor keeps its number: whoever has it has the new one. */
static int make_parent_again(const struct cgroups *c, enum cgroup_tree t, struct err *err)
{
	if (mkdir(c->path[t], 0755) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s", c->path[t]);
	auto_fd fd = open_dir(AT_FDCWD, c->path[t]);
	if (fd < 0 || dup3(fd, c->dir[t], O_CLOEXEC) < 0)
		return err_sys(err, "open %s", c->path[t]);
	int r = t == CGROUP_V2 ? hand_down(c->dir[t], c->path[t], err) : 0;
	r = r == 0 && t == CGROUP_V2 ? limit_depth(c, err) : r;
	return r < 0 || t != pids_tree(c) ? r : limit_all(c, err);
}

static int make_parents_again(const struct cgroups *c, struct err *err)
{
	int r = 0;

	for (int t = 0; r == 0 && t < CGROUP_TREES; t++)
		if (c->dir[t] >= 0 && faccessat(c->dir[t], "cgroup.procs", F_OK, 0) < 0 && errno == ENOENT)
			r = make_parent_again(c, (enum cgroup_tree)t, err);
	return r;
}

static int make_one(const struct cgroups *c, enum cgroup_tree t, const char *id, uid_t owner, struct err *err)
{
	int r = c->dir[t] < 0 ? 0 : make_in_tree(c, t, id, owner);

	return r < 0 ? err_sys_code(err, r, "make cgroup %s/%s", c->path[t], id) : 0;
}

int cgroup_make_v2(const struct cgroups *c, const char *id, uid_t owner, struct err *err)
{
	int r = make_parents_again(c, err);

	return r < 0 ? r : make_one(c, CGROUP_V2, id, owner, err);
}

int cgroup_make_v1(const struct cgroups *c, const char *id, struct err *err)
{
	int r = 0;

	for (int t = CGROUP_CPU; r == 0 && t < CGROUP_TREES; t++)
		r = make_one(c, (enum cgroup_tree)t, id, 0, err);
	return r;
}

int cgroup_limit(const struct cgroups *c, const char *id, const struct cgroup_limits *limits, struct err *err)
{
	int r = 0;

	for (int t = 0; r == 0 && t < CGROUP_TREES; t++) {
		auto_fd dir = c->dir[t] < 0 ? -1 : open_dir(c->dir[t], id);

		if (c->dir[t] >= 0)
			r = dir < 0 ? dir : limit_tree(c, (enum cgroup_tree)t, dir, limits);
		if (r < 0)
			r = err_sys_code(err, r, "limit cgroup %s/%s", c->path[t], id);
	}
	return r;
}

int cgroup_weigh(const struct cgroups *c, const char *id, uint64_t cpu_milli)
{
	auto_fd dir = open_dir(c->dir[c->on_v2[CGROUP_CPU] ? CGROUP_V2 : CGROUP_CPU], id);

	return dir < 0 ? dir : weigh(c, dir, cpu_milli);
}

int cgroup_cpu_us(const struct cgroups *c, const char *id, uint64_t *ret)
{
	char text[CGROUP_PATH_MAX];
	unsigned long long us;

	snprintf(text, sizeof(text), "%s/cpu.stat", id);
	auto_fd fd = openat(c->dir[CGROUP_V2], text, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = 0;
	if (sscanf(text, "usage_usec %llu", &us) != 1)
		return -EPROTO;
	*ret = us;
	return 0;
}

int cgroup_open_v2(const struct cgroups *c, const char *id)
{
	return open_dir(c->dir[CGROUP_V2], id);
}

/* By "tasks", not "cgroup.procs": for one thread that moves itself the kernel holds no lock against forks, which after a quiet time
 * waits for a grace period, 13 ms, with all of the machine's making, removing and entering of groups behind it. */
int cgroup_enter_v1(const struct cgroups *c, const char *id)
{
	char file[CGROUP_PATH_MAX];

	snprintf(file, sizeof(file), "%s/tasks", id);
	for (int t = CGROUP_CPU; t < CGROUP_TREES; t++) {
		int r = c->dir[t] < 0 ? 0 : fd_put_text(c->dir[t], file, "0");

		if (r < 0)
			return r;
	}
	return 0;
}

static FILE *open_list(int dir, const char *name, const char *file)
{
	char path[CGROUP_PATH_MAX];
	FILE *f;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", name, file);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "re");
	if (!f)
		fd_close(fd);
	return f;
}

void cgroup_kill_at(int dir, const char *name)
{
	FILE *f = open_list(dir, name, "cgroup.procs");
	int pid;

	if (!f)
		return;
	while (fscanf(f, "%d", &pid) == 1)
		if (pid > 0) /* 0 = of another pid namespace; kill(0) would be us */
			kill(pid, SIGKILL);
	fclose(f);
}

void cgroup_kill(const struct cgroups *c, const char *id)
{
	char file[CGROUP_PATH_MAX];

	snprintf(file, sizeof(file), "%s/cgroup.kill", id);
	if (fd_put_text(c->dir[CGROUP_V2], file, "1") == 0)
		return;
	for (int t = 0; t < CGROUP_TREES; t++)
		if (c->dir[t] >= 0)
			cgroup_kill_at(c->dir[t], id);
}

/* -- folders below --------------------------------------------------------------------------------------------------- */
static void each_folder(int dir, void (*fn)(void *arg, const char *name), void *arg)
{
	int fd = open_dir(dir, ".");
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_type == DT_DIR && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(arg, e->d_name);
	if (d)
		closedir(d);
	else
		fd_close(fd);
}

/* Runs' folders, which may have folders in turn: whatever init made. */
struct below {
	int dir, depth;
	void (*fn)(void *arg, pid_t tid); /* of threads_below() */
	void *arg;
};

static void threads_below(void *arg, const char *name)
{
	const struct below *b = arg;
	auto_fd dir = open_dir(b->dir, name);
	struct below next = { dir, b->depth - 1, b->fn, b->arg };
	FILE *f = dir < 0 ? NULL : open_list(dir, ".", "cgroup.threads");
	int tid;

	while (f && fscanf(f, "%d", &tid) == 1)
		if (tid > 0)
			b->fn(b->arg, tid);
	if (f)
		fclose(f);
	if (dir >= 0 && b->depth > 0)
		each_folder(dir, threads_below, &next);
}

void cgroup_each_thread(const struct cgroups *c, const char *id, void (*fn)(void *arg, pid_t tid), void *arg)
{
	threads_below(&(struct below){ c->dir[CGROUP_V2], DEPTH_MAX, fn, arg }, id);
}

static int remove_below(int parent, const char *name, int depth);

static void remove_one_below(void *arg, const char *name)
{
	const struct below *b = arg;

	(void)!remove_below(b->dir, name, b->depth);
}

static int remove_below(int parent, const char *name, int depth)
{
	auto_fd fd = -1;

	if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0; /* as nearly all are: nothing below */
	fd = open_dir(parent, name);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (depth > 0)
		each_folder(fd, remove_one_below, &(struct below){ .dir = fd, .depth = depth - 1 });
	return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int cgroup_remove_at(int dir, const char *name)
{
	return remove_below(dir, name, DEPTH_MAX);
}

int cgroup_remove(const struct cgroups *c, const char *id)
{
	int first = 0;

	for (int t = 0; t < CGROUP_TREES; t++) {
		int r = c->dir[t] < 0 ? 0 : cgroup_remove_at(c->dir[t], id);

		first = first < 0 ? first : r;
	}
	return first;
}

void cgroups_each(const struct cgroups *c, void (*fn)(void *arg, const char *id), void *arg)
{
	for (int t = 0; t < CGROUP_TREES; t++)
		if (c->dir[t] >= 0)
			each_folder(c->dir[t], fn, arg);
}
