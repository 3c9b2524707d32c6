#include "init/user.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "init/path.h"

#define FIELDS_MAX 7

/* The content of a database, NUL-terminated and malloc'ed; NULL = absent, or not a file that may be read. */
static char *read_database(int etc, const char *name)
{
	auto_fd fd = path_open(etc, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	struct stat st;
	size_t len = 0, max;
	char *text;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || path_check_fs(fd) < 0)
		return NULL;
	max = st.st_size < USER_FILE_MAX ? (size_t)st.st_size : USER_FILE_MAX;
	text = malloc(max + 1);
	if (!text)
		return NULL;
	while (len < max) {
		ssize_t n = read(fd, text + len, max - len);

		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	return text;
}

/* Takes the next line of *pos apart in place at its colons. Returns the number of fields; 0 at the end. */
static size_t next_line(char **pos, char *fields[FIELDS_MAX])
{
	char *line = *pos;
	size_t n = 0;

	if (!line || !*line)
		return 0;
	*pos = strchr(line, '\n');
	if (*pos)
		*(*pos)++ = '\0';
	while (line && n < FIELDS_MAX) {
		fields[n++] = line;
		line = strchr(line, ':');
		if (line)
			*line++ = '\0';
	}
	return n;
}

static bool to_id(const char *s, unsigned *ret)
{
	uint64_t v;

	/* 2^32-1 means "leave it" to setresuid. */
	if (str_to_u64(s, &v) < 0 || v >= UINT32_MAX)
		return false;
	*ret = (unsigned)v;
	return true;
}

/* True when a field names what was asked for: by its text, or by number when what was asked for is one. */
static bool matches(const char *want, const char *name, const char *number)
{
	unsigned a, b;

	return !strcmp(want, name) || (to_id(want, &a) && to_id(number, &b) && a == b);
}

/* Fills uid, gid and home. name[64] becomes the login name, or stays "". */
static int find_user(struct user *u, char *passwd, const char *want, char *name, size_t name_cap)
{
	char *f[FIELDS_MAX], *pos = passwd;
	size_t n;

	while ((n = next_line(&pos, f)) > 0) {
		if (n < 4 || !matches(want, f[0], f[2]) || !to_id(f[2], &u->uid) || !to_id(f[3], &u->gid))
			continue;
		if (n >= 6 && f[5][0] == '/' && strlen(f[5]) < sizeof(u->home))
			memcpy(u->home, f[5], strlen(f[5]) + 1);
		if (strlen(f[0]) < name_cap)
			memcpy(name, f[0], strlen(f[0]) + 1);
		return 0;
	}
	return to_id(want, &u->uid) ? 0 : -ENOENT;
}

static int find_group(struct user *u, char *group, const char *want)
{
	char *f[FIELDS_MAX], *pos = group;
	size_t n;

	while ((n = next_line(&pos, f)) > 0)
		if (n >= 3 && matches(want, f[0], f[2]) && to_id(f[2], &u->gid))
			return 0;
	return to_id(want, &u->gid) ? 0 : -ENOENT;
}

static bool lists(char *members, const char *name)
{
	size_t len = strlen(name);

	for (char *m = members; m; m = strchr(m, ',')) {
		m += *m == ',';
		if (!strncmp(m, name, len) && (m[len] == ',' || m[len] == '\0'))
			return true;
	}
	return false;
}

static void find_supplementary(struct user *u, char *group, const char *name)
{
	char *f[FIELDS_MAX], *pos = group;
	size_t n;

	while ((n = next_line(&pos, f)) > 0 && u->n_groups < USER_GROUPS_MAX)
		if (n >= 4 && lists(f[3], name) && to_id(f[2], &u->groups[u->n_groups]))
			u->n_groups++;
}

int user_resolve(struct user *ret, int etc, const char *spec, struct err *err)
{
	char who[128], name[64] = "", *colon;
	auto_free char *passwd = read_database(etc, "passwd");
	auto_free char *group = read_database(etc, "group");
	struct user u = { .home = "/" };

	if (strlen(spec) >= sizeof(who))
		return err_set(err, -EINVAL, "user: \"%.40s...\" is longer than %zu bytes", spec, sizeof(who) - 1);
	memcpy(who, spec, strlen(spec) + 1);
	colon = strchr(who, ':');
	if (colon)
		*colon++ = '\0';
	if (find_user(&u, passwd, who[0] ? who : "0", name, sizeof(name)) < 0)
		return err_set(err, -ENOENT, "user \"%s\" is not in the sandbox's /etc/passwd", who);
	if (!str_empty(colon) && find_group(&u, group, colon) < 0)
		return err_set(err, -ENOENT, "group \"%s\" is not in the sandbox's /etc/group", colon);
	if (str_empty(colon) && name[0])
		find_supplementary(&u, group, name);
	*ret = u;
	return 0;
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
