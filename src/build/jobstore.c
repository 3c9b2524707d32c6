/* The store of one environment: its folder, its lock, its cgroup, and cleaning after a build that was killed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "build/hostpriv.h"
#include "build/jobpriv.h"
#include "image/cstore.h"
#include "image/ref.h"

enum { CGROUP_TRIES = 250, CGROUP_PAUSE_NS = 20000000 }; /* 5 s for what was killed to be reaped, on a busy machine */

size_t env_store_argv(const struct env_store *s, const char **argv)
{
	const char *const args[ENV_STORE_ARGS] = { "buildah",          "--root",  s->store,        "--runroot", s->run,
						   "--storage-driver", "overlay", "--storage-opt", s->bases };

	memcpy(argv, args, sizeof(args));
	return ENV_STORE_ARGS;
}

/* -- cgroups ------------------------------------------------------------------------------------------------------ */
/* "N:NAMES:/.../orw-HASH/ID": the spawner's cgroup of this job, in whichever hierarchy it is. */
static void cgroup_line(void *arg, char *line)
{
	char **name = arg, *parent = strstr(line, "/orw-"), *id = parent ? strchr(parent + 1, '/') : NULL;

	if (*name || !id || strchr(id + 1, '/'))
		return;
	*id = 0;
	*name = xasprintf("%s-%s", parent, id + 1);
}

static bool rmdir_tree(int at, const char *name, int depth)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

	for (struct dirent *e; d && depth && (e = readdir(d));)
		if (e->d_type == DT_DIR && *e->d_name != '.')
			rmdir_tree(dirfd(d), e->d_name, depth - 1);
	if (d)
		closedir(d);
	return unlinkat(at, name, AT_REMOVEDIR) == 0;
}

/* Is nothing left of it there? */
static bool remove_in(const char *hierarchy, const char *cgroup)
{
	auto_fd at = open(hierarchy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return at < 0 || rmdir_tree(at, cgroup + 1, 8) || errno == ENOENT;
}

static bool remove_once(const char *cgroup)
{
	bool gone = remove_in("/sys/fs/cgroup", cgroup);
	DIR *d = opendir("/sys/fs/cgroup");

	for (struct dirent *e; d && (e = readdir(d));) {
		auto_free char *path = xasprintf("/sys/fs/cgroup/%s", e->d_name);
		if (*e->d_name != '.' && access(path, X_OK) == 0)
			gone &= remove_in(path, cgroup);
	}
	if (d)
		closedir(d);
	return gone;
}

/* A process that was killed counts in its group until its parent has reaped it, so the group of a build that was killed
 * a moment ago is busy for a while (cgroups(7)). False when it still is after the last try. */
static bool remove_cgroup(const char *cgroup)
{
	bool gone = *cgroup != '/' || !cgroup[1] || strstr(cgroup, ".."); /* never the root */

	for (int tries = 0; !gone && tries < CGROUP_TRIES; tries++) {
		if (tries)
			nanosleep(&(struct timespec){ .tv_nsec = CGROUP_PAUSE_NS }, NULL);
		gone = remove_once(cgroup);
	}
	return gone;
}

/* At the top, so that no parent is left over in hierarchies that the spawner does not use. Names follow from DATA, so that
 * whoever starts after a crash of everything knows which are left over. */
int job_cgroup_open(struct job *j, struct env_store *s, struct err *err)
{
	auto_free char *note = xasprintf("%s/cgroup", s->dir), *data = realpath(j->data, NULL);

	host_each_line("/proc/self/cgroup", cgroup_line, &s->cgroup);
	if (!s->cgroup) /* not under a spawner, or where its cgroups cannot be seen; one build at a time holds this store */
		s->cgroup = xasprintf("/orw-%08x-build-%08x", str_hash32(data ? data : j->data), str_hash32(s->rel));
	return fd_write_file(note, s->cgroup, strlen(s->cgroup), 0600, err);
}

static void job_cgroup_close(struct env_store *s)
{
	auto_free char *note = xasprintf("%s/cgroup", s->dir);

	if (s->cgroup && remove_cgroup(s->cgroup))
		unlink(note);
	free(s->cgroup);
	s->cgroup = NULL;
}

/* -- cleaning ----------------------------------------------------------------------------------------------------- */
static void clean_cgroup(const char *dir)
{
	auto_free char *note = xasprintf("%s/cgroup", dir);
	auto_buf struct buf text = { 0 };

	buf_init(&text, 4096);
	if (fd_read_file(note, &text, NULL) < 0)
		return;
	if (remove_cgroup(text.data))
		unlink(note); /* otherwise the next cleaning tries again */
}

static void say_nothing(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

/* Newer versions of buildah keep those of builds in a list of their own. */
static bool has_containers(const struct env_store *s)
{
	static const char *const lists[] = { "containers.json", "volatile-containers.json" };
	bool any = false;

	for (size_t i = 0; !any && i < ARRAY_LEN(lists); i++) {
		auto_free char *list = xasprintf("%s/store/overlay-containers/%s", s->dir, lists[i]);
		auto_buf struct buf text = { 0 };

		buf_init(&text, 16u << 20);
		any = fd_read_file(list, &text, NULL) == 0 && text.len > 2;
	}
	return any;
}

/* Working containers that nobody works in. A store that is damaged beyond this is made anew: everything in it can be
 * built again, and records of images that were in it are checked when they are used. */
static int remove_containers(struct env_store *s, struct job *j, struct err *err)
{
	const char *argv[ENV_STORE_ARGS + 3];
	int status = 0;

	if (!has_containers(s))
		return 0;
	size_t n = env_store_argv(s, argv);
	argv[n++] = "rm";
	argv[n++] = "--all";
	argv[n] = NULL;
	return job_exec(j, &(struct job_exec){ .argv = argv, .line = say_nothing }, &status, err);
}

static int clean(struct env_store *s, struct job *j, struct err *err)
{
	auto_free char *runc = xasprintf("%s/runc", s->dir), *tmp = xasprintf("%s/tmp", s->dir);

	clean_cgroup(s->dir);
	int r = job_rmtree(runc, err);
	if (r == 0)
		r = job_rmtree(tmp, err);
	if (r == 0)
		r = fd_mkdirs(tmp, 0700, err);
	if (r < 0)
		return r;
	j->tmp = STEAL(tmp);
	r = job_tool_files(j, err);
	return r < 0 ? r : remove_containers(s, j, err);
}

static int split_env(const char *env, char **ret_rel, struct err *err)
{
	const char *slash = strchr(env, '/');
	auto_free char *owner = slash ? xstrndup(env, (size_t)(slash - env)) : xstrdup("");

	return image_env_dir(ret_rel, owner, slash ? slash + 1 : "", err);
}

int env_store_open(struct env_store *ret, struct job *j, const char *env, struct err *err)
{
	struct env_store s = { .lock = -1 };

	int r = split_env(env, &s.rel, err);
	if (r < 0)
		return r;
	s.dir = xasprintf("%s/%s", j->images, s.rel);
	s.store = xasprintf("%s/store", s.dir);
	s.run = xasprintf("%s/run", s.dir);
	s.bases = xasprintf("overlay.imagestore=%s/%s", j->images, CSTORE_BASES);
	auto_free char *lock = xasprintf("%s/lock", s.dir);
	r = fd_mkdirs(s.dir, 0711, err);
	if (r == 0)
		r = job_lock(&s.lock, lock, false, err);
	if (r == 0)
		r = clean(&s, j, err);
	if (r < 0) {
		env_store_close(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void env_store_close(struct env_store *s)
{
	if (s->dir)
		job_cgroup_close(s);
	s->lock = s->dir ? fd_close(s->lock) : -1;
	free(s->rel);
	free(s->dir);
	free(s->store);
	free(s->run);
	free(s->bases);
}

int job_clean(struct job *j, const char *env, struct err *err)
{
	struct env_store s;

	int r = env_store_open(&s, j, env, err);
	if (r < 0)
		return r;
	env_store_close(&s);
	return 0;
}
