/* Cgroups of builds. The container runtime makes them itself, in every hierarchy that the machine has, also in those that we do
 * not use; so they lie beside ours: orw-<hash of DATA>-job-<id> (build/jobstore.c). The job removes them, or the one that
 * cleans after it. Where the spawner died with all its jobs, its successor does. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "spawner/spawner.h"

#define HIERARCHIES "/sys/fs/cgroup"
#define BUSY_TRIES 200 /* of 5 ms */

typedef void folder_fn(void *arg, int parent, const char *name);

static bool is_ours(const struct spawner *sp, const char *name)
{
	size_t n = strlen(sp->host.name);

	return strncmp(name, sp->host.name, n) == 0 && name[n] == '-';
}

/* fd is taken. */
static void each_folder(int fd, folder_fn *fn, void *arg)
{
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			fn(arg, dirfd(d), e->d_name);
	if (d)
		closedir(d);
	else
		fd_close(fd);
}

static int open_folder(int parent, const char *name)
{
	return openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static void kill_folder(void *arg, int parent, const char *name)
{
	int fd = open_folder(parent, name);

	if (fd < 0)
		return; /* a file */
	cgroup_kill_at(parent, name);
	each_folder(fd, kill_folder, arg);
}

/* The killed need their time to be gone. */
static void remove_ours(void *arg, int parent, const char *name)
{
	if (!is_ours(arg, name))
		return;
	kill_folder(NULL, parent, name);
	for (int i = 0; i < BUSY_TRIES && cgroup_remove_at(parent, name) == -EBUSY; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

static void sweep_hierarchy(void *arg, int parent, const char *name)
{
	each_folder(open_folder(parent, name), remove_ours, arg);
}

void builds_sweep(struct spawner *sp)
{
	each_folder(open_folder(AT_FDCWD, HIERARCHIES), remove_ours, sp); /* one hierarchy alone */
	each_folder(open_folder(AT_FDCWD, HIERARCHIES), sweep_hierarchy, sp);
}
