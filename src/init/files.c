#include "init/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/init.h"
#include "init/path.h"
#include "init/user.h"

/* A request's path, taken apart. */
struct target {
	struct user user;
	const char *asked;         /* as it was sent */
	char path[PATH_BYTES];
	const char *parent, *leaf; /* point into path, after split() */
	const char *tmp;           /* NULL = none was given */
};

bool files_is_stage_name(const char *name)
{
	size_t prefix = sizeof(FILES_STAGE_PREFIX) - 1;

	return !strncmp(name, FILES_STAGE_PREFIX, prefix) && strlen(name) == prefix + FILES_STAGE_HEX &&
	       strspn(name + prefix, "0123456789abcdef") == FILES_STAGE_HEX;
}

static int target_read(struct target *t, struct request *q, struct err *err)
{
	const char *path = wire_get_str(q->msg, WIRE_T_PATH, 0);
	const char *cwd = wire_get_str(q->msg, WIRE_T_CWD, 0);
	const char *user = wire_get_str(q->msg, WIRE_T_USER, 0);
	int r;

	q->stage = "path";
	if (!path || !*path)
		return err_set(err, -EINVAL, "PATH is missing or empty");
	t->asked = path;
	r = path_join(t->path, cwd ? cwd : "", path);
	if (r < 0)
		return err_sys_code(err, r, "path \"%.200s\"", path);
	t->tmp = wire_get_str(q->msg, WIRE_T_TMP, 0);
	if (t->tmp && !files_is_stage_name(t->tmp))
		return err_set(err, -EINVAL, "TMP \"%.100s\" is not the name of a staged file", t->tmp);
	q->stage = "user";
	return user_lookup(&t->user, USER_FOLDER, user ? user : "", false, err);
}

/* What a path that exists may be. */
static int check_regular(const struct stat *st)
{
	if (S_ISREG(st->st_mode))
		return 0;
	return S_ISLNK(st->st_mode) ? -ELOOP : S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
}

static const char *explain(int r)
{
	switch (r) {
	case -ELOOP:
		return "it is a symbolic link (symlink), or goes through one that is refused";
	case -EISDIR:
		return "it is a directory";
	case -EINVAL:
		return "it is not a regular file";
	case -EACCES:
		return "permission denied";
	default:
		return strerror(-r);
	}
}

static int refuse(struct err *err, int r, const struct target *t)
{
	/* path may have been cut at its last slash. */
	const char *leaf = t->leaf ? t->leaf : "", *parent = t->leaf ? t->parent : t->path;

	return err_set(err, r, "%.300s%s%.200s: %s", parent, t->leaf && strcmp(parent, "/") ? "/" : "", leaf, explain(r));
}

/* -- reading --------------------------------------------------------------------------------------------------- */

static int open_read(const struct target *t, struct stat *ret_st)
{
	/* O_NONBLOCK: a FIFO must not hold init up; a device could do more than be opened, but the sandbox has none that
	 * does. */
	auto_fd fd = path_open(AT_FDCWD, t->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
	int r;

	if (fd < 0)
		return fd == -ENXIO || fd == -ENODEV ? -EINVAL : fd;
	if (fstat(fd, ret_st) < 0)
		return -errno;
	r = check_regular(ret_st);
	if (r == 0)
		r = path_check_fs(fd);
	if (r == 0)
		r = fd_set_nonblock(fd, false);
	return r < 0 ? r : fd_steal(&fd);
}

/* -- staging --------------------------------------------------------------------------------------------------- */

static int open_parent(struct target *t, bool mkdirs)
{
	int r = path_split(t->path, &t->parent, &t->leaf);
	auto_fd fd = -1;

	if (r < 0)
		return r;
	fd = mkdirs ? path_mkdirs(t->parent, 0755) : path_open(AT_FDCWD, t->parent, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	r = path_check_fs(fd);
	return r < 0 ? r : fd_steal(&fd);
}

/* The file to be replaced: *ret_exists. It must be regular, and one that the user may write. */
static int check_target(int dir, const struct target *t, struct stat *st, bool *ret_exists)
{
	int r;

	*ret_exists = false;
	if (fstatat(dir, t->leaf, st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	r = check_regular(st);
	if (r < 0)
		return r;
	/* By the effective ids, thus the file-system ids of the moment. A library's emulation would fork. */
	if (syscall(SYS_faccessat2, dir, t->leaf, W_OK, AT_EACCESS | AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*ret_exists = true;
	return 0;
}

/* The staged file lies in a folder that others may write: it counts only if it is the user's own and has no second
 * name, else somebody has put a hard link to another file in its place. */
static int check_staged(const struct target *t, const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return check_regular(st);
	return st->st_uid != t->user.uid || st->st_nlink != 1 ? -EPERM : 0;
}

static int stage_open(int dir, const struct target *t, const char *name, int flags)
{
	auto_fd fd = path_open(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags, flags & O_CREAT ? 0600 : 0);
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	r = fstat(fd, &st) < 0 ? -errno : check_staged(t, &st);
	if (r == 0)
		r = fd_set_nonblock(fd, false);
	return r < 0 ? r : fd_steal(&fd);
}

/* A path's upload has one name in one life of the sandbox, so that a daemon that takes over finds what its predecessor
 * began. Nobody inside can foresee it. To the daemon two spellings of a path are two uploads: they must not meet here. */
static int stage_name(const struct target *t, char ret_name[64])
{
	static uint64_t secret;
	uint64_t h;

	if (!secret && getrandom(&secret, sizeof(secret), GRND_NONBLOCK) != (ssize_t)sizeof(secret))
		return -EAGAIN;
	h = 0xcbf29ce484222325u ^ secret;
	for (const char *p = t->asked; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3u;
	snprintf(ret_name, 64, FILES_STAGE_PREFIX "%016llx", (unsigned long long)(h ^ secret >> 32));
	return 0;
}

/* Where somebody else's file has the upload's name, a name at random does as well. */
static int stage_new(int dir, const struct target *t, char ret_name[64])
{
	uint64_t r64;
	int r = stage_name(t, ret_name);

	if (r == 0)
		r = stage_open(dir, t, ret_name, O_CREAT);
	if (r != -EPERM && r != -EACCES && r != -ELOOP && r != -EISDIR && r != -EINVAL && r != -ENXIO)
		return r;
	if (getrandom(&r64, sizeof(r64), GRND_NONBLOCK) != (ssize_t)sizeof(r64))
		return -EAGAIN;
	snprintf(ret_name, 64, FILES_STAGE_PREFIX "%016llx", (unsigned long long)r64);
	return stage_open(dir, t, ret_name, O_CREAT | O_EXCL);
}

static int stage_again(int dir, const struct target *t, char ret_name[64])
{
	snprintf(ret_name, 64, "%s", t->tmp);
	return stage_open(dir, t, t->tmp, 0);
}

static int open_stage(struct target *t, bool mkdirs, char ret_name[64], struct stat *ret_st)
{
	auto_fd dir = open_parent(t, mkdirs);
	auto_fd fd = -1;
	bool exists;
	int r;

	if (dir < 0)
		return fd_steal(&dir);
	r = check_target(dir, t, ret_st, &exists);
	if (r < 0)
		return r;
	fd = t->tmp ? stage_again(dir, t, ret_name) : stage_new(dir, t, ret_name);
	if (fd >= 0 && fstat(fd, ret_st) < 0)
		return -errno;
	return fd_steal(&fd);
}

int files_open(struct init *in, struct request *q, struct err *err)
{
	uint64_t mode = wire_get_u64(q->msg, WIRE_T_OPEN_MODE, WIRE_OPEN_READ);
	struct target t = { .tmp = NULL };
	char name[64] = "";
	struct wire_out *o;
	struct stat st;
	auto_fd fd = -1;
	int r = target_read(&t, q, err);

	if (r < 0)
		return r;
	if (mode > WIRE_OPEN_STAGE_MKDIRS)
		return err_set(err, -EINVAL, "OPEN_MODE is %llu, expected 0 to 2", (unsigned long long)mode);
	r = user_enter(&t.user, err);
	if (r < 0)
		return r;
	q->stage = "open";
	fd = mode == WIRE_OPEN_READ ? open_read(&t, &st) : open_stage(&t, mode == WIRE_OPEN_STAGE_MKDIRS, name, &st);
	user_leave(&t.user);
	if (fd < 0)
		return refuse(err, fd, &t);
	o = control_begin(WIRE_OK, q->msg->request);
	wire_put_u64(o, WIRE_T_SIZE, (uint64_t)st.st_size);
	wire_put_u64(o, WIRE_T_FILE_MODE, st.st_mode);
	wire_put_str(o, WIRE_T_TMP, name[0] ? name : NULL);
	control_reply(in, o, &fd, 1);
	return 0;
}

/* -- committing ------------------------------------------------------------------------------------------------ */

static int dress(int fd, const struct stat *old, bool exists)
{
	/* The owner first: changing it clears set-id bits, which a rewritten file does not get back in any case. A user
	 * who may write somebody else's file can't give files away: it becomes his own then. */
	if (exists && fchown(fd, old->st_uid, old->st_gid) < 0 && errno != EPERM && errno != EINVAL)
		return -errno;
	return fchmod(fd, exists ? old->st_mode & 0777 : 0644) < 0 ? -errno : 0;
}

static int commit(struct target *t)
{
	auto_fd dir = open_parent(t, false);
	auto_fd fd = -1;
	struct stat st, old;
	bool exists;
	int r;

	if (dir < 0)
		return fd_steal(&dir);
	r = check_target(dir, t, &old, &exists);
	if (r < 0)
		return r;
	fd = path_open(dir, t->tmp, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
	if (fd < 0)
		return fd_steal(&fd);
	r = fstat(fd, &st) < 0 ? -errno : check_staged(t, &st);
	if (r == 0)
		r = dress(fd, &old, exists);
	if (r == 0 && renameat(dir, t->tmp, dir, t->leaf) < 0)
		r = -errno;
	return r;
}

static int discard(struct target *t)
{
	auto_fd dir = open_parent(t, false);

	if (dir < 0)
		return fd_steal(&dir);
	return unlinkat(dir, t->tmp, 0) < 0 ? -errno : 0;
}

static int staged_request(struct init *in, struct request *q, int (*act)(struct target *), struct err *err)
{
	struct target t = { .tmp = NULL };
	int r = target_read(&t, q, err);

	if (r < 0)
		return r;
	if (!t.tmp)
		return err_set(err, -EINVAL, "TMP is missing: the name that OPEN gave");
	r = user_enter(&t.user, err);
	if (r < 0)
		return r;
	r = act(&t);
	user_leave(&t.user);
	if (r < 0)
		return refuse(err, r, &t);
	control_ok(in, q->msg->request);
	return 0;
}

int files_commit(struct init *in, struct request *q, struct err *err)
{
	int r = staged_request(in, q, commit, err);

	q->stage = "commit";
	return r;
}

int files_discard(struct init *in, struct request *q, struct err *err)
{
	int r = staged_request(in, q, discard, err);

	q->stage = "discard";
	return r;
}
