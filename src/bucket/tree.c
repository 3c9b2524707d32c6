#include "bucket/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/rmtree.h"
#include "base/str.h"
#include "bucket/private.h"

#define COMPONENT_MAX 255
#define FOLDER_MODE 0755 /* DATA/buckets itself is closed to others on the host; inside, all users may read */
#define FILE_MODE 0644
#define TRIES 8          /* of something that an instance may undo, or be at, meanwhile */

/* -- names ------------------------------------------------------------------------------------------------------- */

static const char *bad_component(const char *s, size_t len)
{
	if (len == 0)
		return "has an empty part";
	if (len > COMPONENT_MAX)
		return "has a part of more than 255 bytes";
	if ((len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.'))
		return "has a part that is . or ..";
	return NULL;
}

static const char *bad_name(const char *name)
{
	size_t len = strlen(name);

	if (len > BUCKET_NAME_MAX)
		return "has more than 1024 bytes";
	if (!str_is_utf8(name, len))
		return "is not UTF-8";
	for (const char *p = name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return "has a control character";
	for (const char *p = name;; p++) {
		size_t n = strcspn(p, "/");
		const char *why = bad_component(p, n);

		if (why)
			return why;
		p += n;
		if (!*p)
			return NULL;
	}
}

int bucket_check_name(const char *field, const char *name, struct err *err)
{
	const char *why = bad_name(name);

	if (!why)
		return 0;
	return err_set(err, -EINVAL, "%s: \"%.100s\" %s: expected a relative path, as in \"data/train.json\"", field,
		       str_is_utf8(name, strlen(name)) ? name : "(bytes)", why);
}

const char *split_name(const char *name, char *folder)
{
	const char *slash = strrchr(name, '/');

	snprintf(folder, BUCKET_NAME_MAX + 1, "%.*s", slash ? (int)(slash - name) : 0, name);
	return slash ? slash + 1 : name;
}

/* -- opening ----------------------------------------------------------------------------------------------------- */

int beneath(int dir, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)flags | O_CLOEXEC, .mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int tries = TRIES;
	long fd;

	/* EAGAIN: something moved while the kernel looked, and may go on doing so. */
	do
		fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || (errno == EAGAIN && --tries > 0)));
	if (fd < 0)
		return errno == EAGAIN ? -EBUSY : -errno;
	return (int)fd;
}

static int open_dir(int buckets, const char *env_id, const char *name, int flags)
{
	auto_fd top = beneath(buckets, env_id, O_PATH | O_DIRECTORY, 0);

	return top < 0 ? top : beneath(top, *name ? name : ".", flags | O_DIRECTORY, 0);
}

int open_folder(int buckets, const char *env_id, const char *name)
{
	return open_dir(buckets, env_id, name, O_PATH);
}

int open_listing(int buckets, const char *env_id, const char *name)
{
	return open_dir(buckets, env_id, name, O_RDONLY);
}

static int say(struct err *err, int code, const char *name)
{
	switch (code) {
	case -ENOENT:
		return err_set(err, code, "there is no \"%.200s\"", name);
	case -EISDIR:
		return err_set(err, code, "\"%.200s\" is a folder, not a file", name);
	case -ENOTDIR:
		return err_set(err, code, "\"%.200s\": it, or a part of its path, is a file, not a folder", name);
	case -ELOOP:
		return err_set(err, code, "\"%.200s\": it, or a part of its path, is a symbolic link", name);
	case -EBUSY:
		return err_set(err, code, "\"%.200s\": something holds it, or moves it, all the time", name);
	case -ENOSPC:
		return err_set(err, code, "the server's disk is full; \"%.200s\" is as it was", name);
	default:
		return err_sys_code(err, code, "\"%.200s\"", name);
	}
}

/* -- the bucket -------------------------------------------------------------------------------------------------- */

/* mkdir, and the mode whatever the umask. There already is fine. */
static int make_dir(int dir, const char *name)
{
	auto_fd fd = -1;

	if (mkdirat(dir, name, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	fd = beneath(dir, name, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd; /* gone again: whoever wanted it looks next */
	return fchmod(fd, FOLDER_MODE) < 0 ? -errno : 0;
}

int bucket_make(int buckets, const char *env_id, struct err *err)
{
	int r = make_dir(buckets, env_id);

	return r < 0 ? err_sys_code(err, r, "making the environment's file store") : 0;
}

bool bucket_has_anything(int buckets, const char *env_id)
{
	int fd = open_listing(buckets, env_id, "");
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		fd_close(fd);
		return false;
	}
	do
		e = readdir(d);
	while (e && (str_eq(e->d_name, ".") || str_eq(e->d_name, "..")));
	closedir(d);
	return e != NULL;
}

static int64_t written_ms(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

int bucket_open(int buckets, const char *env_id, const char *name, int *ret_fd, uint64_t *ret_size, int64_t *ret_written_ms,
		struct err *err)
{
	auto_free char *there = name_there(buckets, env_id, name);
	auto_fd top = open_folder(buckets, env_id, "");
	auto_fd fd = top < 0 ? top : beneath(top, there, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	struct stat st;

	if (fd < 0)
		return say(err, fd == -ENXIO ? -EINVAL : fd, name);
	if (fstat(fd, &st) < 0)
		return say(err, -errno, name);
	if (!S_ISREG(st.st_mode))
		return say(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, name);
	*ret_size = (uint64_t)st.st_size;
	*ret_written_ms = written_ms(&st);
	*ret_fd = fd_steal(&fd);
	return 0;
}

/* -- making ------------------------------------------------------------------------------------------------------ */

/* The folder of a name, made as far as it is missing. */
static int make_folders(int buckets, const char *env_id, const char *folder)
{
	auto_fd at = open_folder(buckets, env_id, "");
	char part[COMPONENT_MAX + 1];

	for (const char *p = folder; at >= 0 && *p;) {
		size_t len = strcspn(p, "/");
		int next, r;

		snprintf(part, sizeof(part), "%.*s", (int)len, p);
		r = make_dir(at, part);
		next = r < 0 ? r : beneath(at, part, O_PATH | O_DIRECTORY, 0);
		fd_close(at);
		at = next;
		p += len;
		p += *p == '/';
	}
	return fd_steal(&at);
}

static int sync_folder(int dir)
{
	auto_fd fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* A folder that this would need may vanish in between, with its last file: then it is made again. */
static int move_in(int buckets, int aside_dir, const char *aside, const char *env_id, const char *name, uint64_t *ret_old)
{
	char folder[BUCKET_NAME_MAX + 1];
	const char *leaf = split_name(name, folder);
	int r = -ENOENT;

	for (int i = 0; i < TRIES && r == -ENOENT; i++) {
		auto_fd dir = make_folders(buckets, env_id, folder);
		struct stat st;

		if (dir < 0) {
			r = dir;
			continue;
		}
		*ret_old = fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
		r = renameat(aside_dir, aside, dir, leaf) < 0 ? -errno : 0;
		if (r == 0)
			r = sync_folder(dir);
	}
	return r;
}

int bucket_place(int buckets, const char *env_id, const char *name, const char *aside, uint64_t *ret_old, struct err *err)
{
	auto_fd dir = beneath(buckets, BUCKET_ASIDE, O_PATH | O_DIRECTORY, 0);
	auto_fd fd = dir < 0 ? dir : beneath(dir, aside, O_WRONLY, 0);
	uint64_t old = 0;
	int r = fd < 0 ? fd : fchmod(fd, FILE_MODE) < 0 || fsync(fd) < 0 ? -errno : 0;

	if (r == 0)
		r = make_dir(buckets, env_id);
	if (r == 0 && bucket_check_form(buckets, env_id, name, err) < 0)
		return -EEXIST;
	if (r == 0)
		r = move_in(buckets, dir, aside, env_id, name, &old);
	if (r < 0)
		return say(err, r, name);
	*ret_old = old;
	return 0;
}

int bucket_check_folder(int buckets, const char *env_id, const char *name, bool make, char **ret_name, struct err *err)
{
	auto_free char *there = name_there(buckets, env_id, name);
	auto_fd fd = make ? make_folders(buckets, env_id, there) : open_folder(buckets, env_id, there);

	if (fd >= 0) {
		*ret_name = STEAL(there);
		return 0;
	}
	return fd == -ENOENT ? err_set(err, fd, "there is no folder \"%.200s\" in the environment's files", name)
			     : say(err, fd, name);
}

/* -- removing ---------------------------------------------------------------------------------------------------- */

/* Upwards from the folder of what was removed, until one is not empty. */
static void prune(int buckets, const char *env_id, char *folder)
{
	char parent[BUCKET_NAME_MAX + 1];

	while (*folder) {
		const char *leaf = split_name(folder, parent);
		auto_fd dir = open_folder(buckets, env_id, parent);

		if (dir < 0 || unlinkat(dir, leaf, AT_REMOVEDIR) < 0)
			return;
		memcpy(folder, parent, sizeof(parent));
	}
}

int bucket_remove(int buckets, const char *env_id, const char *name, uint64_t *ret_size, struct err *err)
{
	auto_free char *there = name_there(buckets, env_id, name);
	char folder[BUCKET_NAME_MAX + 1];
	const char *leaf = split_name(there, folder);
	auto_fd dir = open_folder(buckets, env_id, folder);
	struct stat st;

	if (dir < 0)
		return say(err, dir, name);
	if (fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return say(err, -errno, name);
	if (unlinkat(dir, leaf, 0) < 0)
		return say(err, errno == EPERM ? -EISDIR : -errno, name);
	*ret_size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	prune(buckets, env_id, folder);
	return 0;
}

/* An instance may have closed it to its own owner; one that may not be written to can't be moved. */
static void open_up(int folder)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", folder);
	(void)!chmod(path, FOLDER_MODE); /* moving it tells what is wrong */
}

/* Out of every instance's sight in one step; then what it held is counted and removed at leisure. */
static int move_aside(int buckets, const char *env_id, const char *name, char *aside, size_t cap)
{
	char folder[BUCKET_NAME_MAX + 1], id[UUID_LEN];
	const char *leaf = split_name(name, folder);
	auto_fd top = beneath(buckets, BUCKET_ASIDE, O_PATH | O_DIRECTORY, 0);
	auto_fd dir = *name ? open_folder(buckets, env_id, folder) : dup(buckets);
	auto_fd found = dir < 0 ? dir : beneath(dir, *name ? leaf : env_id, O_PATH | O_DIRECTORY, 0);

	if (found < 0)
		return found;
	if (top < 0)
		return top;
	snprintf(aside, cap, "rm-%s", random_uuid(id));
	open_up(found);
	if (renameat(dir, *name ? leaf : env_id, top, aside) < 0)
		return -errno;
	prune(buckets, env_id, folder);
	return 0;
}

int bucket_remove_folder(int buckets, const char *env_id, const char *name, uint64_t *ret_files, uint64_t *ret_bytes,
			 struct err *err)
{
	char aside[UUID_LEN + 3];
	uint64_t files = 0, bytes = 0;
	auto_free char *there = name_there(buckets, env_id, name);
	int r = move_aside(buckets, env_id, there, aside, sizeof(aside));
	auto_fd top = r < 0 ? -1 : beneath(buckets, BUCKET_ASIDE, O_PATH | O_DIRECTORY, 0);

	if (r < 0)
		return say(err, r, name);
	/* What could not be removed is out of the bucket, and tried again later. */
	(void)!bucket_count(buckets, BUCKET_ASIDE, aside, &files, &bytes, NULL);
	(void)!rmtree(top, aside);
	*ret_files = files;
	*ret_bytes = bytes;
	return 0;
}

/* -- what lies aside ---------------------------------------------------------------------------------------------- */

static bool is_stale(const char *name, int64_t age_ms)
{
	const int64_t hour_ms = 3600 * 1000;

	return str_starts(name, "rm-") || age_ms > (str_starts(name, BUCKET_PART) ? 24 * hour_ms : hour_ms);
}

void each_aside(int buckets, aside_fn *fn, void *arg)
{
	int fd = beneath(buckets, BUCKET_ASIDE, O_RDONLY | O_DIRECTORY, 0);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (!d) {
		fd_close(fd);
		return;
	}
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			fn(arg, dirfd(d), e->d_name, &st);
	closedir(d);
}

static void tidy_one(void *arg, int dir, const char *name, const struct stat *st)
{
	const int64_t *now_ms = arg;

	if (is_stale(name, *now_ms - written_ms(st)))
		(void)!rmtree(dir, name); /* next time, then */
}

void bucket_tidy(int buckets, int64_t now_ms)
{
	each_aside(buckets, tidy_one, &now_ms);
}
