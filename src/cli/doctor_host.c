/* The checks. Those that need to try something do it in a child with namespaces of its own, which take everything with
 * them when it ends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <pwd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/machine.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/doctor.h"

#define KERNEL_MAJOR 5 /* id-mapped layers below overlayfs */
#define KERNEL_MINOR 19
#define VOLUMES_MAJOR 6 /* simple quotas of btrfs: spawner/disk.h */
#define VOLUMES_MINOR 7
#define DISK_MIN_GIB 5.0
/* packaging/sysctl.conf sets more where there is a choice. */
#define PIDS_WANTED 32768 /* eight sandboxes at their limit; fewer only share the same number */
#define CONNTRACK_WANTED 65536
#define FILES_WANTED 262144
#define TERMINALS_WANTED 4096
#define WATCHES_WANTED 8192 /* the least that a kernel gives by itself */

/* Runs fn in a child; its exit status, 0 = it worked. */
static int in_child(int (*fn)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn());
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return 255;
	return WEXITSTATUS(status);
}

/* A number in a file of /proc/sys; fallback where there is none. */
static uint64_t sysctl(const char *path, uint64_t fallback)
{
	auto_buf struct buf b = { 0 };
	uint64_t v;

	buf_init(&b, 4096);
	if (fd_read_file(path, &b, NULL) < 0)
		return fallback;
	b.data[strcspn(b.data, " \n")] = '\0';
	return str_to_u64(b.data, &v) == 0 ? v : fallback;
}

void doctor_kernel(struct doctor *d)
{
	struct utsname u;
	unsigned major = 0, minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		doctor_fail(d, "kernel", "its version cannot be read");
	else if (major < KERNEL_MAJOR || (major == KERNEL_MAJOR && minor < KERNEL_MINOR))
		doctor_fail(d, "kernel", "%s: expected %d.%d or newer", u.release, KERNEL_MAJOR, KERNEL_MINOR);
	else
		doctor_ok(d, "kernel", "%s", u.release);
}

/* -- cgroups --------------------------------------------------------------------------------------------------- */

/* Whether a v2 mount offers a controller, or a v1 hierarchy of it is mounted. */
static bool find_controller(const char *mounts, const char *name, const char **ret_where)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64 * 1024);
	if (fd_read_file("/sys/fs/cgroup/cgroup.controllers", &b, NULL) == 0 && strstr(b.data, name)) {
		*ret_where = "v2";
		return true;
	}
	for (const char *p = mounts; (p = strstr(p, " cgroup ")); p++) {
		size_t len = strcspn(p, "\n");
		if (memmem(p, len, name, strlen(name))) {
			*ret_where = "v1";
			return true;
		}
	}
	return false;
}

void doctor_cgroups(struct doctor *d)
{
	static const char *const names[] = { "cpu", "memory", "pids" };
	auto_buf struct buf mounts = { 0 };
	char found[96] = "";

	buf_init(&mounts, 4 * 1024 * 1024);
	if (fd_read_file("/proc/self/mounts", &mounts, NULL) < 0) {
		doctor_fail(d, "cgroups", "/proc/self/mounts cannot be read");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *where;
		size_t len = strlen(found);
		if (!find_controller(mounts.data, names[i], &where)) {
			doctor_fail(d, "cgroups", "the controller %s is in no mounted hierarchy: mount cgroup2 on /sys/fs/cgroup, or start the"
						  " kernel without cgroup_disable=%s", names[i], names[i]);
			return;
		}
		snprintf(found + len, sizeof(found) - len, "%s%s %s", i ? ", " : "", names[i], where);
	}
	doctor_ok(d, "cgroups", "%s", found);
}

/* -- nf_tables ------------------------------------------------------------------------------------------------- */

struct nft_batch { /* begin, one new table, end */
	struct nlmsghdr begin;
	struct nfgenmsg begin_gen;
	struct nlmsghdr table;
	struct nfgenmsg table_gen;
	struct nlattr name;
	char text[8];
	struct nlmsghdr end;
	struct nfgenmsg end_gen;
};

static void nft_fill(struct nft_batch *b)
{
	memset(b, 0, sizeof(*b));
	b->begin = (struct nlmsghdr){ .nlmsg_len = 20, .nlmsg_type = NFNL_MSG_BATCH_BEGIN, .nlmsg_flags = NLM_F_REQUEST };
	b->begin_gen.res_id = htobe16(NFNL_SUBSYS_NFTABLES);
	b->table = (struct nlmsghdr){ .nlmsg_len = 20 + 12, .nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE,
				      .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK, .nlmsg_seq = 1 };
	b->table_gen.nfgen_family = 1; /* NFPROTO_INET */
	b->name = (struct nlattr){ .nla_len = 4 + 5, .nla_type = NFTA_TABLE_NAME };
	memcpy(b->text, "test", 5);
	b->end = (struct nlmsghdr){ .nlmsg_len = 20, .nlmsg_type = NFNL_MSG_BATCH_END, .nlmsg_flags = NLM_F_REQUEST };
	b->end_gen.res_id = htobe16(NFNL_SUBSYS_NFTABLES);
}
_Static_assert(sizeof(struct nft_batch) == 20 + 32 + 20, "netlink messages follow each other without gaps");

static int try_nftables(void)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct nft_batch b;
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char rest[512];
	} answer = { 0 };

	if (unshare(CLONE_NEWNET) < 0)
		return 2;
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct timeval patience = { .tv_sec = 2 };
	if (s < 0)
		return 1;
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	nft_fill(&b);
	if (sendto(s, &b, sizeof(b), 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0 ||
	    recv(s, &answer, sizeof(answer), 0) < (ssize_t)sizeof(answer.h) + 4)
		return 1;
	return answer.h.nlmsg_type == NLMSG_ERROR && answer.e.error == 0 ? 0 : 1;
}

void doctor_nftables(struct doctor *d)
{
	if (geteuid() != 0) {
		doctor_skip(d, "nf_tables", "only root can try it");
		return;
	}
	if (in_child(try_nftables) == 0)
		doctor_ok(d, "nf_tables", "a table can be made in a net namespace");
	else
		doctor_fail(d, "nf_tables", "no table can be made: load it with `modprobe nf_tables`, or use a kernel with CONFIG_NF_TABLES and"
					    " CONFIG_NF_TABLES_INET");
}

/* -- namespaces and mounts ------------------------------------------------------------------------------------- */

static int try_user_namespace(void)
{
	return unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0;
}

void doctor_user_namespaces(struct doctor *d)
{
	if (sysctl("/proc/sys/user/max_user_namespaces", 1) == 0)
		doctor_fail(d, "user namespaces", "none is allowed: `sysctl user.max_user_namespaces=16384`");
	else if (in_child(try_user_namespace) == 0)
		doctor_ok(d, "user namespaces", "can be made");
	else if (geteuid() != 0)
		doctor_skip(d, "user namespaces", "not for ordinary users here; root can tell more");
	else
		doctor_fail(d, "user namespaces", "none can be made: the kernel needs CONFIG_USER_NS");
}

/* A user namespace that maps id 0 to 0, as a descriptor; its only process ends at once. */
static int map_namespace(void)
{
	int ready[2], ns = -1;
	char path[64], byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[1]);
		_exit(unshare(CLONE_NEWUSER) < 0 || read(ready[0], &byte, 1) < 0);
	}
	close(ready[0]);
	for (int i = 0; pid > 0 && i < 200 && ns < 0; i++) { /* until the child is in its namespace */
		snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
		if (fd_put_text(AT_FDCWD, path, "0 1000000 65536") == 0) {
			snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
			(void)!fd_put_text(AT_FDCWD, path, "0 1000000 65536");
			snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
			ns = open(path, O_RDONLY | O_CLOEXEC);
		}
		usleep(1000);
	}
	close(ready[1]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return ns;
}

static int try_overlay(void)
{
	static const char *const folders[] = { "/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/root" };

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/tmp", "tmpfs", 0, "size=1m") < 0)
		return 2;
	for (size_t i = 0; i < ARRAY_LEN(folders); i++)
		if (mkdir(folders[i], 0755) < 0)
			return 2;
	if (mount("overlay", "/tmp/root", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,volatile") < 0)
		return 1;
	return 0;
}

static const char *mapped_path;

static int try_id_mapping(void)
{
	int ns = map_namespace();
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, mapped_path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ns };

	if (ns < 0 || tree < 0)
		return 2;
	return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0;
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

void doctor_overlay(struct doctor *d)
{
	if (geteuid() != 0) {
		doctor_skip(d, "overlay", "only root can try it");
		doctor_skip(d, "id-mapped mounts", "only root can try it");
		return;
	}
	if (in_child(try_overlay) == 0)
		doctor_ok(d, "overlay", "can be mounted, volatile");
	else
		doctor_fail(d, "overlay", "cannot be mounted: `modprobe overlay`, or use a kernel with CONFIG_OVERLAY_FS");
	mapped_path = exists(d->data) ? d->data : exists("/var/lib") ? "/var/lib" : "/";
	if (in_child(try_id_mapping) == 0)
		doctor_ok(d, "id-mapped mounts", "work on %s", mapped_path);
	else
		doctor_fail(d, "id-mapped mounts", "do not work on %s: put the data directory on ext4, xfs or btrfs", mapped_path);
}

/* -- programs, user, room ---------------------------------------------------------------------------------------- */

static bool in_path(const char *name)
{
	auto_free char *dirs = xasprintf("%s:/usr/sbin:/sbin", getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
	char *rest = dirs;

	for (char *dir; (dir = strsep(&rest, ":"));) {
		auto_free char *path = xasprintf("%s/%s", dir, name);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

void doctor_packages(struct doctor *d)
{
	static const char *const programs[] = { "buildah", "skopeo", "runc", "mmdebstrap", "git" };
	char missing[128] = "";

	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		size_t len = strlen(missing);
		if (!in_path(programs[i]))
			snprintf(missing + len, sizeof(missing) - len, " %s", programs[i]);
	}
	if (*missing)
		doctor_fail(d, "packages", "missing:%s; `apt-get install%s`", missing, missing);
	else
		doctor_ok(d, "packages", "buildah, skopeo, runc, mmdebstrap, git");
}

void doctor_account(struct doctor *d)
{
	const struct passwd *pw = getpwnam(d->user);

	if (pw)
		doctor_ok(d, "user", "%s (uid %u)", d->user, (unsigned)pw->pw_uid);
	else
		doctor_fail(d, "user", "%s does not exist: `useradd --system --user-group --no-create-home --shell /usr/sbin/nologin %s`",
			    d->user, d->user);
}

/* Whether the spawner can give sandboxes a file system of their own; else what is missing. Not tried: it takes a disk's room. */
static const char *volumes_lack(void)
{
	struct utsname u;
	unsigned major = 0, minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < VOLUMES_MAJOR ||
	    (major == VOLUMES_MAJOR && minor < VOLUMES_MINOR))
		return "no kernel of 6.7 or newer";
	if (!exists("/dev/loop-control"))
		return "no loop devices (`modprobe loop`)";
	return in_path("mkfs.btrfs") ? NULL : "no mkfs.btrfs (`apt-get install btrfs-progs`)";
}

/* Whether a file's room can be had before it is written: spawner/growth.h. */
static bool keeps_room(const char *path)
{
	auto_fd fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd >= 0 && machine_keep_room(fd, 0, 1 << 20) == 0;
}

static void check_quota(struct doctor *d, const char *path)
{
	auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && machine_limits_projects(fd))
		doctor_ok(d, "disk limits", "%s has project quota", path);
	else if (geteuid() != 0)
		doctor_skip(d, "disk limits", "only root can try it");
	else if (!volumes_lack() && !keeps_room(path))
		doctor_skip(d, "disk limits", "no project quota on %s, and it holds no room for files that are not written yet (fallocate): sandboxes"
			    " get a file system of their own, and all of them fail where others fill that disk", path);
	else if (!volumes_lack())
		doctor_ok(d, "disk limits", "no project quota on %s: sandboxes get a file system of their own", path);
	else
		doctor_skip(d, "disk limits", "neither project quota on %s nor a file system of their own, for there is %s: sandboxes.disk holds"
			    " only with sandboxes.memory_upper", path, volumes_lack());
}

void doctor_disk(struct doctor *d)
{
	struct statvfs v;
	auto_free char *parent = xstrdup(d->data);
	const char *path = parent;

	while (!exists(parent) && strrchr(parent, '/') > parent)
		*strrchr(parent, '/') = '\0';
	if (!exists(parent))
		path = "/";
	if (statvfs(path, &v) < 0) {
		doctor_fail(d, "disk", "%s: %s", path, strerror(errno));
		return;
	}
	double gib = (double)v.f_bavail * (double)v.f_frsize / (double)(1ull << 30);
	if (gib < DISK_MIN_GIB)
		doctor_fail(d, "disk", "%.1f GiB free on %s: images and builds need %.0f at least", gib, path, DISK_MIN_GIB);
	else if (v.f_files && v.f_favail < 100000)
		doctor_fail(d, "disk", "%llu free inodes on %s: expected 100,000 at least", (unsigned long long)v.f_favail, path);
	else
		doctor_ok(d, "disk", "%.1f GiB free on %s", gib, path);
	check_quota(d, path);
}

static void at_least(struct doctor *d, const char *what, const char *key, uint64_t have, uint64_t want)
{
	if (have >= want)
		doctor_ok(d, what, "%llu", (unsigned long long)have);
	else
		doctor_fail(d, what, "%llu: expected %llu at least: `sysctl -w %s=%llu`", (unsigned long long)have,
			    (unsigned long long)want, key, (unsigned long long)want);
}

void doctor_limits(struct doctor *d)
{
	struct rlimit files = { 0 };

	at_least(d, "process ids", "kernel.pid_max", sysctl("/proc/sys/kernel/pid_max", 0), PIDS_WANTED);
	at_least(d, "open files of the machine", "fs.file-max", sysctl("/proc/sys/fs/file-max", UINT64_MAX), FILES_WANTED);
	at_least(d, "terminals", "kernel.pty.max", sysctl("/proc/sys/kernel/pty/max", TERMINALS_WANTED), TERMINALS_WANTED);
	at_least(d, "inotify instances per user", "fs.inotify.max_user_instances",
		 sysctl("/proc/sys/fs/inotify/max_user_instances", 0), 128);
	at_least(d, "inotify watches per user", "fs.inotify.max_user_watches", sysctl("/proc/sys/fs/inotify/max_user_watches", 0),
		 WATCHES_WANTED);
	/* Not there until connections are tracked: the first sandbox's rules bring it. */
	at_least(d, "tracked connections", "net.netfilter.nf_conntrack_max",
		 sysctl("/proc/sys/net/netfilter/nf_conntrack_max", CONNTRACK_WANTED), CONNTRACK_WANTED);
	/* What a user's pipes may take before new ones get a single page, and runs' output becomes slow. 0 = no limit. */
	uint64_t pages = sysctl("/proc/sys/fs/pipe-user-pages-soft", 0);
	if (pages)
		at_least(d, "pages of pipes per user", "fs.pipe-user-pages-soft", pages, 16384);
	getrlimit(RLIMIT_NOFILE, &files);
	uint64_t of_root = geteuid() == 0 ? sysctl("/proc/sys/fs/nr_open", 0) : 0;
	at_least(d, "open files", "fs.nr_open", MAX((uint64_t)files.rlim_max, of_root), 65536);
}
