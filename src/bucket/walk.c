/* bucket/walk.c: counting and listing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/str.h"
#include "bucket/private.h"

static bool is_dot(const char *name)
{
	return str_eq(name, ".") || str_eq(name, "..");
}

/* -- counting ---------------------------------------------------------------------------------------------------- */

/* Folders still to be looked at, by path: one descriptor and no recursion whatever the shape of the tree. */
struct pending {
	struct list node;
	char path[];
};

struct count {
	int buckets;
	const char *env_id;
	struct list pending;
	uint64_t files, bytes;
};

static void push(struct count *c, const char *folder, const char *name)
{
	size_t len = strlen(folder) + strlen(name) + 2;
	struct pending *p;

	if (len > BUCKET_NAME_MAX)
		return;
	p = xmalloc(sizeof(*p) + len);
	snprintf(p->path, len, "%s%s%s", folder, *folder && *name ? "/" : "", name);
	list_push_front(&c->pending, &p->node);
}

static void count_entry(struct count *c, int dir, const char *folder, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* gone */
	if (S_ISDIR(st.st_mode))
		push(c, folder, name);
	if (!S_ISREG(st.st_mode))
		return;
	c->files++;
	c->bytes += (uint64_t)st.st_size;
}

static int count_folder(struct count *c, const char *folder)
{
	int fd = open_listing(c->buckets, c->env_id, folder);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		fd_close(fd);
		return fd;
	}
	while ((e = readdir(d)))
		if (!is_dot(e->d_name))
			count_entry(c, dirfd(d), folder, e->d_name);
	closedir(d);
	return 0;
}

int bucket_count(int buckets, const char *env_id, const char *name, uint64_t *ret_files, uint64_t *ret_bytes,
		 struct err *err UNUSED)
{
	struct count c = { .buckets = buckets, .env_id = env_id };

	list_init(&c.pending);
	push(&c, name, "");
	while (!list_empty(&c.pending)) {
		struct pending *p = list_first(&c.pending, struct pending, node);

		list_remove(&p->node);
		(void)!count_folder(&c, p->path); /* closed to its owner, moved or gone: what is in it does not count */
		free(p);
	}
	*ret_files = c.files;
	*ret_bytes = c.bytes;
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
