/* How much a build has written, while it runs: what was in the environment's store before does not count. The daemon's
 * file system knows no quota of one build, so the new folders are measured again and again; a walk that takes long is
 * repeated less often. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/time.h"
#include "build/jobpriv.h"

#define DEPTH_MAX 256
#define WALK_FIRST_MS 500
#define WALK_SHARE 8 /* a walk takes this part of the time at most */

struct build_disk {
	const struct build_conf *conf;
	const char *images, *tmp;
	char *layers;
	struct map *before; /* names in layers at the start */
	uint64_t next_ms;   /* CLOCK_MONOTONIC, of the next walk */
};

/* -- measuring --------------------------------------------------------------------------------------------------- */

static void add_tree(int at, const char *name, dev_t dev, unsigned depth, uint64_t max, uint64_t *bytes);

static void add_entry(int at, const char *name, dev_t dev, unsigned depth, uint64_t max, uint64_t *bytes)
{
	struct stat st;

	if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != dev)
		return; /* what is mounted there is counted where it lies */
	/* A file that has several names in the layer is counted once in all. */
	*bytes += (uint64_t)st.st_blocks * 512 / (S_ISDIR(st.st_mode) ? 1 : MAX(st.st_nlink, (nlink_t)1));
	if (S_ISDIR(st.st_mode))
		add_tree(at, name, dev, depth + 1, max, bytes);
}

static void add_tree(int at, const char *name, dev_t dev, unsigned depth, uint64_t max, uint64_t *bytes)
{
	int fd = depth < DEPTH_MAX ? openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

	for (struct dirent *e; d && *bytes <= max && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			add_entry(dirfd(d), e->d_name, dev, depth, max, bytes);
	if (d)
		closedir(d);
	else
		fd_close(fd);
}

static void add_dir(const char *path, uint64_t max, uint64_t *bytes)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		add_tree(AT_FDCWD, path, st.st_dev, 0, max, bytes);
}

typedef void name_fn(struct build_disk *d, const char *name, uint64_t *bytes);

static void each_layer(struct build_disk *d, name_fn *fn, uint64_t *bytes)
{
	DIR *dir = opendir(d->layers);

	for (struct dirent *e; dir && (e = readdir(dir));)
		if (*e->d_name != '.')
			fn(d, e->d_name, bytes);
	if (dir)
		closedir(dir);
}

static void remember(struct build_disk *d, const char *name, uint64_t *bytes)
{
	(void)bytes;
	map_put(d->before, name, d);
}

static void add_new(struct build_disk *d, const char *name, uint64_t *bytes)
{
	auto_free char *path = xasprintf("%s/%s", d->layers, name);

	if (!map_get(d->before, name))
		add_dir(path, d->conf->disk_bytes, bytes);
}

static uint64_t written(struct build_disk *d)
{
	uint64_t bytes = 0;

	each_layer(d, add_new, &bytes);
	add_dir(d->tmp, d->conf->disk_bytes, &bytes);
	return bytes;
}

/* -- the limits -------------------------------------------------------------------------------------------------- */

struct build_disk *build_disk_new(const struct job *j, const struct env_store *s)
{
	struct build_disk *d = NEW(struct build_disk);

	d->conf = &j->conf;
	d->images = j->images;
	d->tmp = j->tmp;
	d->layers = xasprintf("%s/overlay", s->store);
	d->before = map_new();
	each_layer(d, remember, NULL);
	return d;
}

void build_disk_free(struct build_disk *d)
{
	if (!d)
		return;
	map_free(d->before);
	free(d->layers);
	free(d);
}

static int check_room(const struct build_disk *d, struct err *err)
{
	struct statvfs fs;

	if (!d->conf->min_free_bytes || statvfs(d->images, &fs) < 0)
		return 0;
	uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (left >= d->conf->min_free_bytes)
		return 0;
	return err_set(err, -EDQUOT, "the build was ended: %s has %llu MiB free, and builds leave %llu MiB (builds.min_free)",
		       d->images,
		       (unsigned long long)left >> 20, (unsigned long long)d->conf->min_free_bytes >> 20);
}

int build_disk_check(void *disk, struct err *err)
{
	struct build_disk *d = disk;
	uint64_t begin = time_now_ms();
	int r = check_room(d, err);

	if (r < 0 || !d->conf->disk_bytes || begin < d->next_ms)
		return r;
	uint64_t bytes = written(d), end = time_now_ms();
	d->next_ms = end + MAX((uint64_t)WALK_FIRST_MS, (end - begin) * WALK_SHARE);
	if (bytes <= d->conf->disk_bytes)
		return 0;
	return err_set(err, -EDQUOT, "the build was ended: it wrote more than the %llu MiB that a build may (builds.disk)",
		       (unsigned long long)d->conf->disk_bytes >> 20);
}
