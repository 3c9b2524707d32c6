#include "base/passwd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"

#define FIELDS_MAX 7

char *passwd_read(int fd)
{
	struct stat st;
	size_t len = 0, max;
	char *text;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	max = st.st_size < PASSWD_FILE_MAX ? (size_t)st.st_size : PASSWD_FILE_MAX;
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

int passwd_resolve(struct user *ret, char *passwd, char *group, const char *spec, struct err *err)
{
	char who[128], name[64] = "", *colon;
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
