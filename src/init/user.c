#include "init/user.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/path.h"

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

int user_lookup(struct user *ret, const char *spec, struct err *err)
{
	auto_fd etc = path_open(AT_FDCWD, "/etc", O_PATH | O_DIRECTORY, 0);

	return user_resolve(ret, etc, spec, err);
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
