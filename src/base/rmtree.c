#include "base/rmtree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

/* A folder that is not empty is moved to the top under a number, to be emptied in its turn. So a path a million folders
 * deep costs a rename each and no stack, and every open is of one component. */
struct removal {
	int top;           /* the tree's own folder */
	unsigned long made, done; /* numbers given to moved folders; those below done are gone */
	int error;
};

static void moved_name(char *ret, size_t cap, unsigned long number)
{
	snprintf(ret, cap, ".orw-rm-%lu", number);
}

static void note(struct removal *r, int error)
{
	if (!r->error)
		r->error = -error;
}

/* A stranger may have closed a folder to its own owner, which stops everybody but root: from being read, and from being
 * moved. By descriptor, so that the mode of nothing but a folder that lies here is changed. */
static void make_usable(int dir, const char *name)
{
	char path[40];
	auto_fd fd = geteuid() == 0 ? -1 : openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	(void)!chmod(path, 0700); /* what follows tells why it could not be removed */
}

/* A number whose name the stranger used is skipped: renaming onto it would fail or hit it. */
static void move_up(struct removal *r, int dir, const char *name)
{
	char to[48];

	make_usable(dir, name);
	do {
		moved_name(to, sizeof(to), r->made++);
	} while (syscall(SYS_renameat2, dir, name, r->top, to, 1u /* RENAME_NOREPLACE */) < 0 && errno == EEXIST);
	if (faccessat(r->top, to, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		note(r, errno);
}

static bool is_moved(const char *name)
{
	return strncmp(name, ".orw-rm-", 8) == 0;
}

/* at_top: names of moved folders are left to their turn. */
static void empty_dir(struct removal *r, int dir, bool at_top)
{
	DIR *d = fdopendir(dir);
	struct dirent *e;

	if (!d) {
		note(r, errno);
		fd_close(dir);
		return;
	}
	while ((e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (at_top && is_moved(e->d_name)))
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR && errno != EPERM) {
			note(r, errno);
			continue;
		}
		if (unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) == 0)
			continue;
		if (errno == ENOTEMPTY || errno == EEXIST)
			move_up(r, dirfd(d), e->d_name);
		else
			note(r, errno);
	}
	closedir(d);
}

static int open_dir(int dir, const char *name)
{
	return openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The names that the stranger chose to look like ours: plain entries of the top by now or emptied in no order. */
static void remove_moved(struct removal *r)
{
	char name[48];

	for (; r->done < r->made; r->done++) {
		int fd;

		moved_name(name, sizeof(name), r->done);
		fd = open_dir(r->top, name);
		if (fd >= 0)
			empty_dir(r, fd, false);
		if (unlinkat(r->top, name, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENOTDIR)
			note(r, errno);
	}
}

int rmtree(int dir, const char *name)
{
	struct removal r = { .top = -1 };

	make_usable(dir, name);
	r.top = open_dir(dir, name);
	if (r.top < 0 && errno == ENOENT)
		return 0;
	if (r.top < 0) /* not a folder: an entry like any other */
		return unlinkat(dir, name, 0) < 0 ? -errno : 0;
	for (int pass = 0; pass < 2; pass++) {
		int fd = open_dir(r.top, ".");

		if (fd >= 0)
			empty_dir(&r, fd, pass == 0);
		remove_moved(&r);
	}
	fd_close(r.top);
	if (unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return r.error ? r.error : -errno;
	return 0;
}
