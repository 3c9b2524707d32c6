/* bucket/walk.c: counting and listing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "bucket/private.h"

static bool is_dot(const char *name)
{
	return str_eq(name, ".") || str_eq(name, "..");
}

/* -- counting ---------------------------------------------------------------------------------------------------- */

/* A name is no longer than BUCKET_NAME_MAX, so no folder of one lies deeper. */
#define DEPTH_MAX (BUCKET_NAME_MAX / 2 + 1)

/* The folders from the top down to where the walk is, open: whatever a stranger makes, it costs no more than so many. */
struct count {
	DIR *open[DEPTH_MAX];
	size_t len[DEPTH_MAX]; /* of the name of each, within the bucket */
	size_t depth;
	uint64_t files, bytes;
};

/* What is closed to its owner, moved or gone does not count; that the process can open no more says nothing of the tree. */
static int enter(struct count *c, int fd, size_t len)
{
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		int r = fd < 0 ? fd : -errno;

		fd_close(fd);
		return r == -EMFILE || r == -ENFILE || r == -ENOMEM ? r : 0;
	}
	c->open[c->depth] = d;
	c->len[c->depth++] = len;
	return 0;
}

static int enter_below(struct count *c, const char *name)
{
	size_t above = c->len[c->depth - 1], len = above + (above > 0) + strlen(name);

	if (len > BUCKET_NAME_MAX || c->depth == DEPTH_MAX)
		return 0;
	return enter(c, beneath(dirfd(c->open[c->depth - 1]), name, O_RDONLY | O_DIRECTORY, 0), len);
}

static int count_entry(struct count *c, const char *name)
{
	struct stat st;

	if (is_dot(name) || fstatat(dirfd(c->open[c->depth - 1]), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* gone */
	if (S_ISDIR(st.st_mode))
		return enter_below(c, name);
	if (S_ISREG(st.st_mode)) {
		c->files++;
		c->bytes += (uint64_t)st.st_size;
	}
	return 0;
}

static void leave(struct count *c)
{
	closedir(c->open[--c->depth]);
}

int bucket_count(int buckets, const char *env_id, const char *name, uint64_t *ret_files, uint64_t *ret_bytes, struct err *err)
{
	auto_free struct count *c = NEW(struct count);
	int r = enter(c, open_listing(buckets, env_id, name), strlen(name));

	while (r == 0 && c->depth > 0) {
		struct dirent *e = readdir(c->open[c->depth - 1]);

		if (e)
			r = count_entry(c, e->d_name);
		else
			leave(c);
	}
	while (c->depth > 0)
		leave(c);
	if (r < 0)
		return err_sys_code(err, r, "counting the files of the environment");
	*ret_files = c->files;
	*ret_bytes = c->bytes;
	return 0;
}

struct parts {
	const char *begin;
	bucket_part_fn *fn;
	void *arg;
};

static void tell_part(void *arg, int dir UNUSED, const char *name, const struct stat *st)
{
	const struct parts *p = arg;

	if (str_starts(name, p->begin))
		p->fn(p->arg, name, (uint64_t)st->st_size);
}

void bucket_each_part(int buckets, const char *env_id, bucket_part_fn *fn, void *arg)
{
	auto_free char *begin = xasprintf(BUCKET_PART "%s-", env_id);

	each_aside(buckets, tell_part, &(struct parts){ begin, fn, arg });
}

/* -- listing ----------------------------------------------------------------------------------------------------- */

/* A folder may hold millions of names and a page a few hundred: the smallest ones that come next are kept, as a heap
 * whose top is the greatest of them. */
struct found {
	char *name;
	bool folder;
	uint64_t size;
	int64_t written_ms;
};

struct page {
	struct found *heap;
	size_t n, limit;
	bool more;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->name, ((const struct found *)b)->name);
}

static void swap(struct found *a, struct found *b)
{
	struct found t = *a;

	*a = *b;
	*b = t;
}

static void sift_down(struct page *p)
{
	size_t i = 0;

	for (;;) {
		size_t big = i;

		for (size_t c = 2 * i + 1; c <= 2 * i + 2 && c < p->n; c++)
			if (by_name(&p->heap[c], &p->heap[big]) > 0)
				big = c;
		if (big == i)
			return;
		swap(&p->heap[i], &p->heap[big]);
		i = big;
	}
}

static void page_add(struct page *p, const struct found *f)
{
	size_t i = p->n;

	if (p->n == p->limit) {
		free(p->heap[0].name);
		p->heap[0] = *f;
		sift_down(p);
		return;
	}
	p->heap[p->n++] = *f;
	for (; i > 0 && by_name(&p->heap[i], &p->heap[(i - 1) / 2]) > 0; i = (i - 1) / 2)
		swap(&p->heap[i], &p->heap[(i - 1) / 2]);
}

/* Cheap refusals first: most names of a large folder are not of this page. */
static void consider(struct page *p, int dir, const char *name, const struct begins *begin, const char *after)
{
	struct stat st;
	struct found f;
	bool beyond;

	if (is_dot(name) || !begins_with(name, begin) || (after && strcmp(name, after) <= 0) || !str_is_utf8(name, strlen(name)))
		return;
	beyond = p->n == p->limit && strcmp(name, p->heap[0].name) > 0;
	if (beyond && p->more)
		return;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return;
	p->more = p->more || p->n == p->limit;
	if (beyond)
		return;
	f = (struct found){
		.name = xstrdup(name), .folder = S_ISDIR(st.st_mode), .size = (uint64_t)st.st_size,
		.written_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000,
	};
	page_add(p, &f);
}

static void page_give(struct page *p, const char *folder, bucket_entry_fn *fn, void *arg)
{
	qsort(p->heap, p->n, sizeof(*p->heap), by_name);
	for (size_t i = 0; i < p->n; i++) {
		struct found *f = &p->heap[i];
		auto_free char *path = xasprintf("%s%s%s", folder, *folder ? "/" : "", f->name);

		fn(arg, path, f->folder, f->folder ? 0 : f->size, f->written_ms);
		free(f->name);
	}
	free(p->heap);
}

int bucket_list(int buckets, const char *env_id, const char *prefix, const char *after, size_t limit, bucket_entry_fn *fn,
		void *arg, bool *ret_more, struct err *err)
{
	char asked[BUCKET_NAME_MAX + 1];
	const char *leaf = split_name(prefix, asked);
	auto_free char *folder = name_there(buckets, env_id, asked);
	AUTO(begins_done) struct begins begin = { { NULL } };
	int fd = open_listing(buckets, env_id, folder);
	struct page p = { .limit = limit };
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	*ret_more = false;
	if (!d) {
		fd_close(fd);
		/* Nothing has such a name: an empty list. */
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : err_sys_code(err, fd, "listing \"%.200s\"", prefix);
	}
	begins_init(&begin, leaf);
	p.heap = xcalloc(limit + 1, sizeof(*p.heap));
	while ((e = readdir(d)))
		consider(&p, dirfd(d), e->d_name, &begin, after);
	closedir(d);
	*ret_more = p.more;
	page_give(&p, folder, fn, arg);
	return 0;
}
