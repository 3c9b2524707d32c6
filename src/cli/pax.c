#include "cli/pax.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/tar.h"

#define COPY_BYTES (256 * 1024)
#define DEPTH_MAX 200             /* of folders; one descriptor each */

struct pax {
	int out;
	const struct ignore *ignore;
	struct pax_totals *totals;
	char *copy; /* COPY_BYTES */
	struct err *err;
};

static int put(struct pax *p, const void *data, size_t len)
{
	int r = fd_write_all(p->out, data, len);

	return r < 0 ? err_sys_code(p->err, r, "sending the folder") : 0;
}

static int pad(struct pax *p, uint64_t size)
{
	auto_buf struct buf zeros = { 0 };

	buf_init(&zeros, TAR_BLOCK);
	int r = tar_pad(&zeros, size);
	return r < 0 ? r : put(p, zeros.data, zeros.len);
}

static int put_header(struct pax *p, const char *name, enum tar_type type, const struct stat *st, const char *link, uint64_t size)
{
	const struct tar_member m = { .name = name, .type = type, .mode = type == TAR_LINK ? 0777 : st->st_mode, .size = size,
				      .mtime_s = st->st_mtim.tv_sec, .link = link };
	auto_buf struct buf b = { 0 };

	buf_init(&b, BUF_UNLIMITED);
	int r = tar_header(&b, &m);
	return r < 0 ? r : put(p, b.data, b.len);
}

static int put_content(struct pax *p, int fd, const char *path, uint64_t size)
{
	for (uint64_t left = size; left;) {
		size_t want = (size_t)MIN(left, (uint64_t)COPY_BYTES);
		ssize_t n = read(fd, p->copy, want);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(p->err, "reading %s", path);
		if (n == 0) { /* it shrank */
			memset(p->copy, 0, want);
			n = (ssize_t)want;
		}
		int r = put(p, p->copy, (size_t)n);
		if (r < 0)
			return r;
		left -= (uint64_t)n;
	}
	return pad(p, size);
}

static int put_file(struct pax *p, int dir, const char *name, const char *path)
{
	auto_fd fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(p->err, "opening %s", path);
	uint64_t size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	int r = put_header(p, path, TAR_FILE, &st, NULL, size);
	r = r < 0 ? r : put_content(p, fd, path, size);
	p->totals->files++;
	p->totals->bytes += size;
	return r;
}

static int put_link(struct pax *p, int dir, const char *name, const char *path, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(p->err, "reading the link %s", path);
	target[n] = '\0';
	p->totals->files++;
	return put_header(p, path, TAR_LINK, st, target, 0);
}

/* -- the walk -------------------------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct names {
	char **v;
	size_t n;
};

static void names_done(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->v[i]);
	free(names->v);
}

static int read_names(struct pax *p, int dir, const char *path, struct names *ret)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		fd_close(fd);
		return err_sys(p->err, "listing %s", *path ? path : "the folder");
	}
	for (struct dirent *e; (e = readdir(d));) {
		if (str_eq(e->d_name, ".") || str_eq(e->d_name, ".."))
			continue;
		ret->v = xrealloc(ret->v, (ret->n + 1) * sizeof(*ret->v));
		ret->v[ret->n++] = xstrdup(e->d_name);
	}
	closedir(d);
	if (ret->n)
		qsort(ret->v, ret->n, sizeof(*ret->v), by_bytes);
	return 0;
}

static int walk(struct pax *p, int dir, const char *path, unsigned depth);

static int put_folder(struct pax *p, int dir, const char *name, const char *path, const struct stat *st, unsigned depth)
{
	/* A folder that is ignored may hold an exception: then its files come without it, which tar allows. */
	bool ignored = p->ignore && ignore_matches(p->ignore, path);
	auto_free char *with_slash = xasprintf("%s/", path);
	int r = 0;

	if (p->ignore && ignore_prunes(p->ignore, path))
		return 0;
	if (depth >= DEPTH_MAX)
		return err_set(p->err, -ELOOP, "%s: folders are nested deeper than %d", path, DEPTH_MAX);
	auto_fd fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_sys(p->err, "opening %s", path);
	if (!ignored)
		r = put_header(p, with_slash, TAR_FOLDER, st, NULL, 0);
	return r < 0 ? r : walk(p, fd, path, depth + 1);
}

static bool always_sent(const char *path)
{
	return str_eq(path, "Dockerfile") || str_eq(path, ".dockerignore");
}

static int put_entry(struct pax *p, int dir, const char *name, const char *path, unsigned depth)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(p->err, "%s", path);
	if (S_ISDIR(st.st_mode))
		return put_folder(p, dir, name, path, &st, depth);
	if (p->ignore && !always_sent(path) && ignore_matches(p->ignore, path))
		return 0;
	if (S_ISREG(st.st_mode))
		return put_file(p, dir, name, path);
	if (S_ISLNK(st.st_mode))
		return put_link(p, dir, name, path, &st);
	p->totals->skipped++;
	return 0;
}

static int walk(struct pax *p, int dir, const char *path, unsigned depth)
{
	AUTO(names_done) struct names names = { 0 };
	int r = read_names(p, dir, path, &names);

	for (size_t i = 0; r == 0 && i < names.n; i++) {
		auto_free char *sub = *path ? xasprintf("%s/%s", path, names.v[i]) : xstrdup(names.v[i]);
		r = put_entry(p, dir, names.v[i], sub, depth);
	}
	return r;
}

int pax_write(int out_fd, int dir_fd, const struct ignore *g, struct pax_totals *ret, struct err *err)
{
	auto_free char *copy = xmalloc(COPY_BYTES);
	auto_buf struct buf end = { 0 };
	struct pax_totals totals = { 0 };
	struct pax p = { .out = out_fd, .ignore = g, .totals = &totals, .copy = copy, .err = err };

	buf_init(&end, BUF_UNLIMITED);
	int r = walk(&p, dir_fd, "", 0);
	r = r < 0 ? r : tar_end(&end);
	r = r < 0 ? r : put(&p, end.data, end.len);
	if (r == 0)
		*ret = totals;
	return r;
}
