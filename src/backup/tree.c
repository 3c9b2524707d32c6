/* backup/tree.c: the folders of DATA as members. While they are read, pushes, uploads and instances go on: what vanishes is left
 * out, what shrinks is filled with zeros and counted, and repositories are read in an order in which nothing can be missing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/private.h"
#include "base/fd.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define DEPTH_MAX 500   /* of folders in one another; a descriptor each */
#define PATH_MAX_BYTES 4000 /* of a member's name, which restoring opens at once */
#define PACK_LOOKS_MAX 8 /* at a folder of packs in which packs come and go */

/* -- members ------------------------------------------------------------------------------------------------------- */

int writer_flush(struct writer *w)
{
	int r = fd_write_all(w->out, w->buf.data, w->buf.len);

	w->begun |= w->buf.len > 0;
	w->wrote_ms = time_now_ms();
	buf_clear(&w->buf);
	return r < 0 ? err_sys_code(w->err, r, "writing the backup") : 0;
}

/* A disk that fails in the middle: the member is filled up all the same, so that the reason can follow it. */
static int put_content(struct writer *w, int fd, const char *name, uint64_t size, enum backup_part part)
{
	bool filling = false;
	int failed = 0;

	for (uint64_t left = size; left;) {
		size_t want = (size_t)MIN(left, (uint64_t)BACKUP_COPY_BYTES);
		ssize_t n = filling ? 0 : read(fd, w->copy, want);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			failed = err_sys(w->err, "reading %s", name);
		if (n <= 0) {
			filling = true;
			memset(w->copy, 0, want);
			n = (ssize_t)want;
		}
		sums_content(&w->sums, part, w->copy, (size_t)n);
		int r = fd_write_all(w->out, w->copy, (size_t)n);
		if (r < 0)
			return err_sys_code(w->err, r, "writing the backup");
		left -= (uint64_t)n;
	}
	w->wrote_ms = time_now_ms();
	w->changed += filling;
	w->failed = failed;
	return 0;
}

/* The part that it belongs to, or a failure. */
static int put_member(struct writer *w, const struct tar_member *m)
{
	int part = part_of(m->name);

	if (part < 0)
		return err_set(w->err, -EINVAL, "\"%.200s\" is no name that a backup can hold", m->name);
	sums_member(&w->sums, (enum backup_part)part, m);
	int r = tar_header(&w->buf, m);
	r = r < 0 ? r : writer_flush(w);
	return r < 0 ? r : part;
}

int writer_file(struct writer *w, int fd, const char *name)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(w->err, "%s", name);
	const struct tar_member m = { .name = name, .type = TAR_FILE, .mode = st.st_mode & 07777, .size = (uint64_t)st.st_size,
				      .mtime_s = st.st_mtim.tv_sec };
	int r = put_member(w, &m);
	r = r < 0 ? r : put_content(w, fd, name, m.size, (enum backup_part)r);
	r = r < 0 ? r : tar_pad(&w->buf, m.size);
	r = r < 0 ? r : writer_flush(w);
	return r < 0 ? r : w->failed;
}

/* -- entries of folders -------------------------------------------------------------------------------------------- */

struct folder;
/* Whether an entry of a folder is wanted. */
typedef bool wanted_fn(const char *name);

static bool all(const char *name UNUSED)
{
	return true;
}

/* The files that git makes on its way to others, and would take for somebody else's at work. */
static bool is_settled(const char *name)
{
	return !str_ends(name, ".lock") && !str_ends(name, ".pid") && !str_starts(name, "tmp_") && !str_starts(name, "incoming-");
}

/* Whatever an instance makes of its own bucket, the backup of all others goes on without it. */
static bool may_be_left_out(struct writer *w, const char *path)
{
	bool may = str_starts(path, "buckets/");

	w->unreadable += may;
	return may;
}

static bool is_closed(struct writer *w, const char *path)
{
	return (errno == EACCES || errno == EWOULDBLOCK) && may_be_left_out(w, path);
}

/* 1 = it is gone, or closed to us and may be, or no file or folder at all. */
static int open_entry(struct writer *w, int dir, const char *name, const char *path, int *ret_fd, struct stat *ret_st)
{
	if (fstatat(dir, name, ret_st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || is_closed(w, path) ? 1 : err_sys(w->err, "%s", path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISDIR(ret_st->st_mode))
		return 1;
	*ret_fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (*ret_fd >= 0)
		return fstat(*ret_fd, ret_st) < 0 ? err_sys(w->err, "%s", path) : 0;
	return errno == ENOENT || errno == ELOOP || errno == ENXIO || is_closed(w, path) ? 1 : err_sys(w->err, "opening %s", path);
}

static int put_folder(struct writer *w, const char *path, const struct stat *st)
{
	auto_free char *name = xasprintf("%s/", path);
	const struct tar_member m = { .name = name, .type = TAR_FOLDER, .mode = st->st_mode & 07777,
		.mtime_s = st->st_mtim.tv_sec };

	int r = put_member(w, &m);
	return MIN(r, 0);
}

static int put_tree(struct writer *w, int dir, const char *path, wanted_fn *wanted, unsigned depth);

static int too_deep(struct writer *w, const char *path)
{
	return may_be_left_out(w, path) ? 1 : err_set(w->err, -ELOOP, "%.300s...: folders are nested too deep", path);
}

/* A file, or a folder with all below it. 1 = it was gone, or is left out. */
static int put_entry(struct writer *w, int dir, const char *name, const char *path, wanted_fn *wanted, unsigned depth)
{
	auto_fd fd = -1;
	struct stat st;

	if (strlen(path) > PATH_MAX_BYTES)
		return too_deep(w, path);
	int r = open_entry(w, dir, name, path, &fd, &st);
	if (r != 0)
		return r;
	if (S_ISREG(st.st_mode))
		return writer_file(w, fd, path);
	if (!S_ISDIR(st.st_mode))
		return 1;
	if (depth >= DEPTH_MAX)
		return too_deep(w, path);
	r = put_folder(w, path, &st);
	return r < 0 ? r : put_tree(w, fd, path, wanted, depth + 1);
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* dir stays the caller's, and where it was. *ret NULL = it is closed to us and may be. */
static int list(struct writer *w, int dir, const char *path, DIR **ret)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	*ret = fd < 0 ? NULL : fdopendir(fd);
	if (*ret)
		return 0;
	int r = is_closed(w, path) ? 0 : err_sys(w->err, "listing %s", path);
	fd_close(fd);
	return r;
}

/* NULL = there are no more. */
static const char *next_name(DIR *d)
{
	struct dirent *e;

	do
		e = d ? readdir(d) : NULL;
	while (e && (str_eq(e->d_name, ".") || str_eq(e->d_name, "..")));
	return e ? e->d_name : NULL;
}

static int put_tree(struct writer *w, int dir, const char *path, wanted_fn *wanted, unsigned depth)
{
	AUTO(closedirp) DIR *d = NULL;
	int r = list(w, dir, path, &d);

	for (const char *name; r >= 0 && (name = next_name(d));) {
		auto_free char *sub = xasprintf("%s/%s", path, name);
		if (wanted(name))
			r = put_entry(w, dir, name, sub, wanted, depth);
	}
	return MIN(r, 0);
}

/* -- repositories -------------------------------------------------------------------------------------------------- */

/* Packs are replaced by larger ones: while something vanishes, what is new is looked for. */
static int put_packs(struct writer *w, int objects, const char *path)
{
	auto_free char *packs = xasprintf("%s/pack", path);
	AUTO(map_freep) struct map *seen = map_new();
	auto_fd fd = -1;
	struct stat st;
	bool again = true;
	int r = open_entry(w, objects, "pack", packs, &fd, &st);

	r = r == 0 ? put_folder(w, packs, &st) : r;
	for (unsigned looks = 0; r == 0 && again && looks < PACK_LOOKS_MAX; looks++) {
		AUTO(closedirp) DIR *d = NULL;
		r = list(w, fd, packs, &d);
		again = false;
		for (const char *name; r == 0 && (name = next_name(d));) {
			auto_free char *sub = xasprintf("%s/%s", packs, name);
			if (map_get(seen, name) || !is_settled(name))
				continue;
			map_put(seen, name, w);
			r = put_entry(w, fd, name, sub, is_settled, DEPTH_MAX);
			again |= r > 0;
			r = MIN(r, 0);
		}
	}
	return MIN(r, 0);
}

static bool is_no_pack(const char *name)
{
	return is_settled(name) && !str_eq(name, "pack");
}

/* Loose objects before packs, because they become packs. */
static int put_objects(struct writer *w, int repository, const char *path)
{
	auto_free char *objects = xasprintf("%s/objects", path);
	auto_fd fd = -1;
	struct stat st;
	int r = open_entry(w, repository, "objects", objects, &fd, &st);

	if (r != 0)
		return MIN(r, 0);
	r = put_folder(w, objects, &st);
	r = r < 0 ? r : put_tree(w, fd, objects, is_no_pack, 0);
	return r < 0 ? r : put_packs(w, fd, objects);
}

static bool is_no_ref(const char *name)
{
	return is_settled(name) && !str_eq(name, "refs") && !str_eq(name, "packed-refs") && !str_eq(name, "objects");
}

/* Refs before packed-refs, because they become packed; both before objects, because a push brings those first. */
static int put_repository(struct writer *w, int fd, const char *path)
{
	static const char *const first[] = { "refs", "packed-refs" };
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_LEN(first); i++) {
		auto_free char *sub = xasprintf("%s/%s", path, first[i]);
		r = put_entry(w, fd, first[i], sub, is_settled, 0);
	}
	r = r < 0 ? r : put_tree(w, fd, path, is_no_ref, 0);
	return r < 0 ? r : put_objects(w, fd, path);
}

/* -- folders of folders -------------------------------------------------------------------------------------------- */

typedef int folder_fn(struct writer *w, int fd, const char *path);

/* fn for each folder of the folder; other things are left out. */
static int each_folder(struct writer *w, int dir, const char *path, wanted_fn *wanted, folder_fn *fn)
{
	AUTO(closedirp) DIR *d = NULL;
	int r = list(w, dir, path, &d);

	for (const char *name; r >= 0 && (name = next_name(d));) {
		auto_free char *sub = xasprintf("%s/%s", path, name);
		auto_fd fd = -1;
		struct stat st;
		r = wanted(name) ? open_entry(w, dir, name, sub, &fd, &st) : 1;
		if (r != 0 || !S_ISDIR(st.st_mode))
			continue;
		r = put_folder(w, sub, &st);
		r = r < 0 ? r : fn(w, fd, sub);
	}
	return MIN(r, 0);
}

/* The same for a folder of DATA that may not be there. */
static int each_of_data(struct writer *w, const char *name, wanted_fn *wanted, folder_fn *fn)
{
	auto_fd fd = openat(w->data, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(w->err, "opening %s", name);
	return each_folder(w, fd, name, wanted, fn);
}

static bool is_namespace(const char *name)
{
	return !str_eq(name, ".hooks") && !str_eq(name, ".making") && !str_eq(name, ".renamed");
}

static bool is_repository(const char *name)
{
	return str_ends(name, ".git");
}

static int put_namespace(struct writer *w, int fd, const char *path)
{
	return each_folder(w, fd, path, is_repository, put_repository);
}

int tree_git(struct writer *w)
{
	return each_of_data(w, "git", is_namespace, put_namespace);
}

static bool is_of_build(const char *name)
{
	return str_eq(name, "source.tar") || str_eq(name, "log");
}

static int put_build(struct writer *w, int fd, const char *path)
{
	return put_tree(w, fd, path, is_of_build, 0);
}

int tree_sources(struct writer *w)
{
	return each_of_data(w, "builds", all, put_build);
}

static bool is_bucket(const char *name)
{
	return *name != '.';
}

static int put_bucket(struct writer *w, int fd, const char *path)
{
	return put_tree(w, fd, path, all, 0);
}

int tree_buckets(struct writer *w)
{
	return each_of_data(w, "buckets", is_bucket, put_bucket);
}
