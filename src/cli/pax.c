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

#define BLOCK 512
#define COPY_BYTES (256 * 1024)
#define OCTAL_MAX 077777777777ull /* what 11 octal digits hold */
#define DEPTH_MAX 200             /* of folders; one descriptor each */

struct ustar { /* POSIX.1-1988 */
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct ustar) == BLOCK, "a tar header is one block");

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
	static const char zeros[BLOCK];

	return put(p, zeros, (BLOCK - size % BLOCK) % BLOCK);
}

/* Digits and a NUL; what does not fit is the caller's error. */
static void octal(char *field, size_t size, uint64_t v)
{
	field[size - 1] = '\0';
	for (size_t i = size - 1; i > 0; v >>= 3)
		field[--i] = (char)('0' + (v & 7));
}

static void seal(struct ustar *h)
{
	const unsigned char *bytes = (const unsigned char *)h;
	unsigned sum = 0;

	memset(h->checksum, ' ', sizeof(h->checksum));
	for (size_t i = 0; i < BLOCK; i++)
		sum += bytes[i];
	octal(h->checksum, sizeof(h->checksum) - 1, sum);
	h->checksum[7] = ' ';
}

static void header(struct ustar *h, const char *name, char type, mode_t mode, uint64_t size, int64_t mtime)
{
	memset(h, 0, sizeof(*h));
	memcpy(h->name, name, MIN(strlen(name), sizeof(h->name)));
	octal(h->mode, sizeof(h->mode), mode & 07777);
	octal(h->uid, sizeof(h->uid), 0);
	octal(h->gid, sizeof(h->gid), 0);
	octal(h->size, sizeof(h->size), size <= OCTAL_MAX ? size : 0);
	octal(h->mtime, sizeof(h->mtime), mtime > 0 ? (uint64_t)mtime : 0);
	h->type = type;
	memcpy(h->magic, "ustar", 6);
	memcpy(h->version, "00", 2);
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts its own digits. */
static int record(struct buf *b, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3, len = rest;

	for (size_t digits = 1; digits < 20; digits++) {
		len = rest + digits;
		if ((size_t)snprintf(NULL, 0, "%zu", len) == digits)
			break;
	}
	return buf_printf(b, "%zu %s=%s\n", len, key, value);
}

/* What the old header has no room for, in an extended one before it. */
static int put_extended(struct pax *p, const char *name, const char *link, uint64_t size)
{
	auto_buf struct buf b = { 0 };
	struct ustar h;
	char digits[24];
	int r = 0;

	buf_init(&b, BUF_UNLIMITED);
	if (strlen(name) > sizeof(h.name))
		r = record(&b, "path", name);
	if (r == 0 && link && strlen(link) > sizeof(h.link))
		r = record(&b, "linkpath", link);
	snprintf(digits, sizeof(digits), "%llu", (unsigned long long)size);
	if (r == 0 && size > OCTAL_MAX)
		r = record(&b, "size", digits);
	if (r < 0 || b.len == 0)
		return r;
	header(&h, "PaxHeaders/x", 'x', 0644, b.len, 0);
	seal(&h);
	r = put(p, &h, BLOCK);
	r = r < 0 ? r : put(p, b.data, b.len);
	return r < 0 ? r : pad(p, b.len);
}

static int put_header(struct pax *p, const char *name, char type, const struct stat *st, const char *link, uint64_t size)
{
	struct ustar h;
	int r = put_extended(p, name, link, size);

	if (r < 0)
		return r;
	header(&h, name, type, type == '2' ? 0777 : st->st_mode, size, st->st_mtim.tv_sec);
	if (link)
		memcpy(h.link, link, MIN(strlen(link), sizeof(h.link)));
	seal(&h);
	return put(p, &h, BLOCK);
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
	int r = put_header(p, path, '0', &st, NULL, size);
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
	return put_header(p, path, '2', st, target, 0);
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
		r = put_header(p, with_slash, '5', st, NULL, 0);
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
	static const char end[2 * BLOCK];
	auto_free char *copy = xmalloc(COPY_BYTES);
	struct pax_totals totals = { 0 };
	struct pax p = { .out = out_fd, .ignore = g, .totals = &totals, .copy = copy, .err = err };
	int r = walk(&p, dir_fd, "", 0);

	r = r < 0 ? r : put(&p, end, sizeof(end));
	if (r == 0)
		*ret = totals;
	return r;
}
