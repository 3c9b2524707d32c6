/* An environment's files, as a mount for one sandbox. Everything below DATA/buckets/<id> was written by strangers: by
 * uploads, and by instances that may go on writing while this runs. So nothing is looked up twice, no link is
 * followed, and what is mounted is the very folder that was opened.
 *
 * The mount's id map has one entry: the daemon's user, who owns all files of a bucket, is the image's user. Whoever
 * else tries to make a file gets EOVERFLOW, root of the sandbox too, so none on the host can ever belong to another
 * user: a straight map would let a sandbox's root make files of the host's root, set-user-id ones among them. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/passwd.h"
#include "base/str.h"
#include "spawner/ids.h"
#include "spawner/start.h"
#include "spawner/sys.h"

static int fail(struct start *s, int error, const char *path)
{
	s->path = path;
	return -error;
}

/* -- the owner inside -------------------------------------------------------------------------------------------- */
/* The image's own file, wherever its links lead inside; never one of another mount. */
static char *read_database(const struct start *s, const char *path)
{
	struct sys_open_how how = {
		.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		.resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_MAGICLINKS | SYS_RESOLVE_NO_XDEV,
	};
	auto_fd fd = sys_openat2(s->root_fd, path, &how);

	return passwd_read(fd);
}

static int find_owner(struct start *s, struct user *ret)
{
	const char *spec = s->plan->bucket.user;
	struct err err = ERR_INIT;
	char *passwd, *group;
	int r;

	if (str_empty(spec)) {
		ret->uid = ret->gid = 0;
		return 0;
	}
	passwd = read_database(s, "/etc/passwd");
	group = read_database(s, "/etc/group");
	r = passwd_resolve(ret, passwd, group, spec, &err);
	free(passwd);
	free(group);
	if (r == 0 && (ret->uid >= IDS_PER_RANGE || ret->gid >= IDS_PER_RANGE))
		r = err_set(&err, -ERANGE, "user %u:%u of the image is outside of its range of ids", ret->uid, ret->gid);
	if (r < 0) {
		snprintf(s->path_buf, sizeof(s->path_buf), "%.*s", (int)sizeof(s->path_buf) - 1, err.msg);
		s->path = s->path_buf;
	}
	return r;
}

/* -- the map ----------------------------------------------------------------------------------------------------- */
static int write_map(struct start *s, pid_t pid, const char *file, unsigned int outside, unsigned int inside)
{
	char map[48];
	int n = snprintf(map, sizeof(map), "%u %u 1\n", outside, s->first + inside);
	auto_fd fd = -1;

	snprintf(s->path_buf, sizeof(s->path_buf), "/proc/%d/%s", (int)pid, file);
	fd = open(s->path_buf, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, map, (size_t)n) != n)
		return fail(s, errno, s->path_buf);
	return 0;
}

static int open_mapped(struct start *s, pid_t pid, const struct user *owner)
{
	int r = write_map(s, pid, "uid_map", s->host->uid, owner->uid);
	int fd;

	if (r == 0)
		r = write_map(s, pid, "gid_map", s->host->gid, owner->gid);
	if (r < 0)
		return r;
	snprintf(s->path_buf, sizeof(s->path_buf), "/proc/%d/ns/user", (int)pid);
	fd = open(s->path_buf, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? fail(s, errno, s->path_buf) : fd;
}

/* A user namespace that exists for its map alone: made with a child, which is gone before this returns. */
static int make_map(struct start *s, const struct user *owner)
{
	struct sys_clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	pid_t pid = sys_clone3(&args);
	int fd;

	if (pid == 0)
		for (;;)
			pause();
	if (pid < 0)
		return fail(s, errno, "a user namespace");
	fd = open_mapped(s, pid, owner);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return fd;
}

/* -- the folder -------------------------------------------------------------------------------------------------- */
static int open_beneath(int dir, const char *path)
{
	struct sys_open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = SYS_RESOLVE_BENEATH | SYS_RESOLVE_NO_SYMLINKS | SYS_RESOLVE_NO_MAGICLINKS,
	};
	int fd = sys_openat2(dir, path, &how);

	return fd < 0 ? -errno : fd;
}

/* The daemon may do with its folder what it likes, but what root mounts has to be the daemon's. */
static int open_folder(struct start *s)
{
	const struct plan_bucket *b = &s->plan->bucket;
	auto_fd buckets = open("../../buckets", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	auto_fd bucket = -1;
	struct stat st;
	int fd;

	if (buckets < 0)
		return fail(s, errno, "buckets");
	bucket = open_beneath(buckets, b->id);
	if (bucket < 0)
		return fail(s, -bucket, b->id);
	if (fstat(bucket, &st) < 0)
		return fail(s, errno, b->id);
	if (st.st_uid != s->host->uid)
		return fail(s, EPERM, b->id);
	if (str_empty(b->dir))
		return fd_steal(&bucket);
	fd = open_beneath(bucket, b->dir);
	return fd < 0 ? fail(s, -fd, b->dir) : fd;
}

int bucket_clone(struct start *s)
{
	unsigned int attrs = SYS_ATTR_IDMAP | SYS_ATTR_NOSUID | SYS_ATTR_NODEV;
	struct sys_mount_attr attr = { .attr_set = attrs | (s->plan->bucket.flags & PLAN_MOUNT_RO ? SYS_ATTR_RDONLY : 0) };
	struct user owner;
	auto_fd folder = -1, tree = -1, map = -1;
	int r = find_owner(s, &owner);

	if (r < 0)
		return r;
	folder = open_folder(s);
	if (folder < 0)
		return folder;
	map = make_map(s, &owner);
	if (map < 0)
		return map;
	attr.userns_fd = (uint64_t)map;
	tree = sys_open_tree(folder, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0 || sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr) < 0)
		return fail(s, errno, "its file system has no id-mapped mounts");
	return fd_steal(&tree);
}
