#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/user.h"

static int make_etc(const char *passwd, const char *group)
{
	char dir[] = "/tmp/orw-user-XXXXXX";
	int etc;

	cr_assert_not_null(mkdtemp(dir));
	etc = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(etc, 0);
	for (int i = 0; i < 2; i++) {
		const char *text = i ? group : passwd;
		auto_fd fd = openat(etc, i ? "group" : "passwd", O_CREAT | O_WRONLY, 0644);

		cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	}
	return etc;
}

static void clean(int etc)
{
	char path[64], dir[128];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", etc);
	n = readlink(path, dir, sizeof(dir) - 1);
	cr_assert_gt(n, 0);
	dir[n] = '\0';
	unlinkat(etc, "passwd", 0);
	unlinkat(etc, "group", 0);
	rmdir(dir);
	close(etc);
}

static struct user resolve(int etc, const char *spec)
{
	struct user u = { .uid = 99 };
	struct err err = ERR_INIT;

	cr_assert_eq(user_resolve(&u, etc, spec, &err), 0, "%s: %s", spec, err.msg);
	return u;
}

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
			     "broken line\n"
			     "bad:x:abc:5::/x:\n"
			     "app:x:1000:1001::/home/app:/bin/sh\n"
			     "1234:x:55:56::/home/digits:\n"
			     "relative:x:60:60::home:\n"
			     "last:x:70:71::/home/last";
static const char group[] = "root:x:0:\n"
			    "staff:x:500:other,app\n"
			    "apple:x:501:apple,xapp,appx\n"
			    "wheel:x:502:app,\n"
			    "bad:x:minus:app\n"
			    "audio:x:503:last";

Test(user, names_numbers_and_homes)
{
	int etc = make_etc(passwd, group);
	struct user u = resolve(etc, "app");

	cr_assert_eq(u.uid, 1000);
	cr_assert_eq(u.gid, 1001);
	cr_assert_str_eq(u.home, "/home/app");
	cr_assert_eq(resolve(etc, "").uid, 0);
	cr_assert_str_eq(resolve(etc, "root").home, "/root");
	cr_assert_eq(resolve(etc, "1000").gid, 1001);
	cr_assert_eq(resolve(etc, "1234").uid, 55, "a name of digits is a name first");
	cr_assert_eq(resolve(etc, "4000").gid, 0);
	cr_assert_str_eq(resolve(etc, "4000").home, "/");
	cr_assert_str_eq(resolve(etc, "relative").home, "/");
	cr_assert_eq(resolve(etc, "last").gid, 71, "no newline at the end");
	clean(etc);
}

Test(user, supplementary_groups_by_whole_names)
{
	int etc = make_etc(passwd, group);
	struct user u = resolve(etc, "app");

	cr_assert_eq(u.n_groups, 2);
	cr_assert_eq(u.groups[0], 500);
	cr_assert_eq(u.groups[1], 502);
	cr_assert_eq(resolve(etc, "1000").n_groups, 2, "found by number, the name counts");
	cr_assert_eq(resolve(etc, "last").groups[0], 503);
	cr_assert_eq(resolve(etc, "4000").n_groups, 0);
	clean(etc);
}

Test(user, a_named_group_replaces_them)
{
	int etc = make_etc(passwd, group);
	struct user u = resolve(etc, "app:staff");

	cr_assert_eq(u.gid, 500);
	cr_assert_eq(u.n_groups, 0);
	cr_assert_eq(resolve(etc, "app:9").gid, 9);
	cr_assert_eq(resolve(etc, ":staff").uid, 0);
	cr_assert_eq(resolve(etc, "app:").gid, 1001);
	cr_assert_eq(resolve(etc, "app:").n_groups, 2);
	clean(etc);
}

Test(user, what_is_not_there)
{
	static const char *const bad[] = { "nobody", "-1", "4294967295", "4294967296", "bad", " app", "app ", "app:nogroup", "app:-1", "+5" };
	int etc = make_etc(passwd, group);
	struct user u = { .uid = 42 };
	struct err err = ERR_INIT;
	char big[300];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(user_resolve(&u, etc, bad[i], &err), -ENOENT, "%s", bad[i]);
	cr_assert_eq(u.uid, 42, "untouched on failure");
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cr_assert_eq(user_resolve(&u, etc, big, &err), -EINVAL);
	clean(etc);
}

Test(user, missing_and_odd_databases)
{
	int etc = make_etc("", "");
	struct user u;

	cr_assert_eq(resolve(etc, "7:8").gid, 8);
	unlinkat(etc, "passwd", 0);
	cr_assert_eq(resolve(etc, "7").uid, 7);
	cr_assert_eq(mkfifoat(etc, "passwd", 0644), 0);
	cr_assert_eq(resolve(etc, "").uid, 0, "a FIFO neither blocks nor counts");
	unlinkat(etc, "passwd", 0);
	cr_assert_eq(symlinkat("/proc/self/environ", etc, "passwd"), 0);
	cr_assert_eq(user_resolve(&u, etc, "x", NULL), -ENOENT);
	clean(etc);
	cr_assert_eq(user_resolve(&u, -1, "5", NULL), 0, "no /etc at all");
}

Test(user, thousands_of_groups_stop_at_the_maximum)
{
	static char many[400 * 32];
	size_t len = 0;
	int etc;

	for (int i = 0; i < 400; i++)
		len += (size_t)snprintf(many + len, sizeof(many) - len, "g%d:x:%d:app\n", i, 2000 + i);
	etc = make_etc(passwd, many);
	cr_assert_eq(resolve(etc, "app").n_groups, USER_GROUPS_MAX);
	clean(etc);
}

/* -- remembered -------------------------------------------------------------------------------------------------- */

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	cr_assert_not_null(f);
	fputs(text, f);
	cr_assert_eq(fclose(f), 0);
}

static uid_t uid_of(const char *dir, const char *spec)
{
	struct user u = { .uid = 99 };
	struct err err = ERR_INIT;

	cr_assert_eq(user_lookup(&u, dir, spec, false, &err), 0, "%s", err.msg);
	return u.uid;
}

/* Files of the same size, changed as fast as it goes and after they were left alone: nobody ever acts as who was there before. */
Test(init_user, what_changed_is_seen)
{
	char dir[] = "/tmp/orw-user-XXXXXX", path[128], text[64];

	cr_assert_not_null(mkdtemp(dir));
	write_file(dir, "group", "");
	for (unsigned i = 100; i < 300; i++) {
		snprintf(text, sizeof(text), "a:x:%u:1::/:/bin/sh\n", i);
		write_file(dir, "passwd", text);
		cr_assert_eq(uid_of(dir, "a"), i);
		if (i == 200)
			sleep(3); /* from here on it is remembered */
		cr_assert_eq(uid_of(dir, "a"), i);
		cr_assert_eq(uid_of(dir, "7"), 7);
		cr_assert_eq(uid_of(dir, "a"), i);
	}
	snprintf(path, sizeof(path), "%s/other", dir);
	cr_assert_eq(rename((snprintf(text, sizeof(text), "%s/passwd", dir), text), path), 0);
	struct user u;
	cr_assert_eq(user_lookup(&u, dir, "a", false, NULL), -ENOENT, "the file is gone");
	unlink(path);
	snprintf(path, sizeof(path), "%s/group", dir);
	unlink(path);
	rmdir(dir);
}
