#include "init/user.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "init/path.h"

#define SETTLED_S 2 /* unchanged for so long: another change shows in the time of it */

/* The content of a database; NULL = absent, or not a file that may be read. */
static char *read_database(int etc, const char *name)
{
	auto_fd fd = path_open(etc, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);

	return fd < 0 || path_check_fs(fd) < 0 ? NULL : passwd_read(fd);
}

int user_resolve(struct user *ret, int etc, const char *spec, struct err *err)
{
	auto_free char *passwd = read_database(etc, "passwd");
	auto_free char *group = read_database(etc, "group");

	return passwd_resolve(ret, passwd, group, spec, err);
}

/* What tells one state of a file from another. */
struct mark {
	dev_t dev;
	ino_t ino; /* 0 = there is none */
	off_t size;
	struct timespec changed;
};

struct marks {
	struct mark passwd, group;
};

/* The last look-up, which holds as long as both files are what they were: commands come one after another, as one user. */
static struct {
	bool holds;
	char etc[64], spec[128];
	struct marks files;
	struct user user;
} last;

static struct mark mark_of(const char *etc, const char *name)
{
	struct stat st;
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", etc, name);
	if (stat(path, &st) < 0)
		return (struct mark){ 0 };
	return (struct mark){ st.st_dev, st.st_ino, st.st_size, st.st_ctim };
}

static bool is_same(const struct mark *a, const struct mark *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->changed.tv_sec == b->changed.tv_sec &&
	       a->changed.tv_nsec == b->changed.tv_nsec;
}

static struct marks marks_of(const char *etc)
{
	return (struct marks){ .passwd = mark_of(etc, "passwd"), .group = mark_of(etc, "group") };
}

static bool are_unchanged(const struct marks *now)
{
	return is_same(&last.files.passwd, &now->passwd) && is_same(&last.files.group, &now->group);
}

/* A file that has just changed may change again without a later time: the kernel's clock for it ticks in milliseconds. */
static bool has_settled(const struct mark *m)
{
	return m->ino && time(NULL) - m->changed.tv_sec >= SETTLED_S;
}

static void remember(const char *etc, const char *spec, const struct marks *files, const struct user *u)
{
	last.holds = has_settled(&files->passwd) && has_settled(&files->group) && strlen(etc) < sizeof(last.etc) &&
		     strlen(spec) < sizeof(last.spec);
	if (!last.holds)
		return;
	snprintf(last.etc, sizeof(last.etc), "%s", etc);
	snprintf(last.spec, sizeof(last.spec), "%s", spec);
	last.files = *files;
	last.user = *u;
}

static bool is_last(const char *folder, const char *spec)
{
	return last.holds && str_eq(last.spec, spec) && str_eq(last.etc, folder);
}

void user_recheck(void)
{
	const struct marks now = last.holds ? marks_of(last.etc) : (struct marks){ 0 };

	last.holds = last.holds && are_unchanged(&now);
}

static int look_up(struct user *ret, const char *folder, const char *spec, struct err *err)
{
	/* Taken before the files are read: what changes meanwhile differs the next time. */
	const struct marks files = marks_of(folder);
	auto_fd etc = -1;
	int r;

	if (is_last(folder, spec) && are_unchanged(&files)) {
		*ret = last.user;
		return 0;
	}
	etc = path_open(AT_FDCWD, folder, O_PATH | O_DIRECTORY, 0);
	r = user_resolve(ret, etc, spec, err);
	if (r == 0)
		remember(folder, spec, &files, ret);
	return r;
}

int user_lookup(struct user *ret, const char *folder, const char *spec, bool still, struct err *err)
{
	if (!still || !is_last(folder, spec))
		return look_up(ret, folder, spec, err);
	*ret = last.user;
	return 0;
}

/* The raw calls: a C library would try to tell threads that init does not have. */
static int set_groups(size_t n, const gid_t *groups)
{
	return syscall(SYS_setgroups, n, groups) < 0 ? -errno : 0;
}

static bool set_fs_ids(uid_t uid, gid_t gid)
{
	(void)setfsgid(gid);
	(void)setfsuid(uid);
	/* Neither call reports failure; an invalid id changes nothing and returns the present one. */
	return (gid_t)setfsgid((gid_t)-1) == gid && (uid_t)setfsuid((uid_t)-1) == uid;
}

int user_enter(const struct user *u, struct err *err)
{
	int r;

	if (u->uid == 0)
		return 0;
	r = set_groups(u->n_groups, u->groups);
	if (r == 0 && set_fs_ids(u->uid, u->gid))
		return 0;
	user_leave(u);
	return err_set(err, r < 0 ? r : -EINVAL, "user %u:%u can't be used here", u->uid, u->gid);
}

void user_leave(const struct user *u)
{
	if (u->uid == 0)
		return;
	if (!set_fs_ids(0, 0) || set_groups(0, NULL) < 0)
		_exit(70);
	/* Changing ids sets this to fs.suid_dumpable, which a host may have at 1. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	user_die_with_parent(); /* which clears this, too */
}

void user_die_with_parent(void)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}
