#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/command.h"
#include "init/conf.h"
#include "init/files.h"
#include "init/path.h"

Test(path, join)
{
	char p[PATH_BYTES], big[PATH_BYTES + 10];

	cr_assert_eq(path_join(p, "/w", "a/b"), 0);
	cr_assert_str_eq(p, "/w/a/b");
	cr_assert_eq(path_join(p, "", "a"), 0);
	cr_assert_str_eq(p, "/a");
	cr_assert_eq(path_join(p, "/w", "/abs"), 0);
	cr_assert_str_eq(p, "/abs");
	cr_assert_eq(path_join(p, "relative", "a"), -EINVAL);
	cr_assert_eq(path_join(p, "/w", ""), -EINVAL);
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cr_assert_eq(path_join(p, "/", big), -ENAMETOOLONG);
	big[PATH_BYTES - 2] = '\0';
	big[0] = '/';
	cr_assert_eq(path_join(p, "/w", big), 0);
	cr_assert_eq(strlen(p), PATH_BYTES - 2);
}

static int split(const char *text, const char **parent, const char **leaf)
{
	static char p[64];

	snprintf(p, sizeof(p), "%s", text);
	return path_split(p, parent, leaf);
}

Test(path, split)
{
	static const char *const bad[] = { "/", "/a/", "/a/.", "/a/..", "/.", "/.." };
	const char *parent, *leaf;

	cr_assert_eq(split("/a/b", &parent, &leaf), 0);
	cr_assert_str_eq(parent, "/a");
	cr_assert_str_eq(leaf, "b");
	cr_assert_eq(split("/b", &parent, &leaf), 0);
	cr_assert_str_eq(parent, "/");
	cr_assert_eq(split("/...", &parent, &leaf), 0);
	cr_assert_str_eq(leaf, "...");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(split(bad[i], &parent, &leaf), -EISDIR, "%s", bad[i]);
}

Test(path, no_magic_links_and_no_pseudo_file_systems)
{
	auto_fd status = path_open(AT_FDCWD, "/proc/self/status", O_RDONLY, 0);
	auto_fd etc = path_open(AT_FDCWD, "/etc", O_PATH | O_DIRECTORY, 0);

	cr_assert_eq(path_open(AT_FDCWD, "/proc/self/root/etc/passwd", O_RDONLY, 0), -ELOOP);
	cr_assert_eq(path_open(AT_FDCWD, "/proc/self/cwd", O_PATH, 0), -ELOOP);
	cr_assert_eq(path_open(AT_FDCWD, "/proc/self/fd/0", O_RDONLY, 0), -ELOOP);
	cr_assert_geq(status, 0);
	cr_assert_eq(path_check_fs(status), -EACCES);
	cr_assert_eq(path_check_fs(etc), 0, "a path-only descriptor can be asked too");
	cr_assert_eq(path_check_fs(-1), -EBADF);
}

Test(path, mkdirs)
{
	char dir[] = "/tmp/orw-path-XXXXXX", path[128];
	struct stat st;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s//a/./b/../c/", dir);
	for (int i = 0; i < 2; i++) {
		auto_fd fd = path_mkdirs(path, 0750);

		cr_assert_geq(fd, 0);
	}
	snprintf(path, sizeof(path), "%s/a/c", dir);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0750);
	snprintf(path, sizeof(path), "%s/a/link", dir);
	cr_assert_eq(symlink("/proc/self/cwd", path), 0);
	cr_assert_eq(path_mkdirs(path, 0750), -ELOOP);
	unlink(path);
	cr_assert_eq(symlink("nowhere", path), 0);
	cr_assert_eq(path_mkdirs(path, 0750), -ENOENT, "a dangling link is not replaced");
	unlink(path);
	for (const char *const *p = (const char *const[]){ "a/c", "a/b", "a", "", NULL }; *p; p++) {
		snprintf(path, sizeof(path), "%s/%s", dir, *p);
		cr_assert_eq(rmdir(path), 0, "%s", path);
	}
	cr_assert_eq(path_mkdirs("/proc/no/such", 0755), -EACCES);
}

Test(files, stage_names)
{
	cr_assert(files_is_stage_name(".orw-stage-0123456789abcdef"));
	cr_assert_not(files_is_stage_name(".orw-stage-0123456789abcde"));
	cr_assert_not(files_is_stage_name(".orw-stage-0123456789abcdef0"));
	cr_assert_not(files_is_stage_name(".orw-stage-0123456789abcdeF"));
	cr_assert_not(files_is_stage_name(".orw-stage-0123456789abc/ef"));
	cr_assert_not(files_is_stage_name("xorw-stage-0123456789abcdef"));
	cr_assert_not(files_is_stage_name(""));
}

Test(command, fallback_is_for_shells_only)
{
	cr_assert_str_eq(command_fallback((const char *[]){ "/bin/bash", "-c", "x", NULL }), "/bin/sh");
	cr_assert_str_eq(command_fallback((const char *[]){ "/usr/bin/zsh", "/dev/fd/9", NULL }), "/bin/sh");
	cr_assert_str_eq(command_fallback((const char *[]){ "/bin/bash", "-lc", "x", NULL }), "/bin/sh");
	cr_assert_null(command_fallback((const char *[]){ "/bin/sh", "-c", "x", NULL }));
	cr_assert_null(command_fallback((const char *[]){ "/bin/bash", NULL }));
	cr_assert_null(command_fallback((const char *[]){ "/bin/bash", "file", NULL }));
	cr_assert_null(command_fallback((const char *[]){ "/usr/bin/python3", "-c", "x", NULL }));
	cr_assert_null(command_fallback((const char *[]){ "bash", "-c", "x", NULL }));
}

Test(conf, a_link_is_replaced_not_followed)
{
	char dir[] = "/tmp/orw-conf-XXXXXX", text[16] = "";
	auto_fd etc = -1, fd = -1;
	struct stat st;

	cr_assert_not_null(mkdtemp(dir));
	etc = open(dir, O_RDONLY | O_DIRECTORY);
	cr_assert_eq(symlinkat("victim", etc, "hosts"), 0);
	cr_assert_eq(conf_write(etc, "hosts", "one\n"), 0);
	cr_assert_eq(conf_write(etc, "hosts", "two\n"), 0);
	cr_assert_eq(fstatat(etc, "victim", &st, 0), -1);
	cr_assert_eq(fstatat(etc, "hosts", &st, AT_SYMLINK_NOFOLLOW), 0);
	cr_assert(S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0644);
	fd = openat(etc, "hosts", O_RDONLY);
	cr_assert_eq(read(fd, text, sizeof(text)), 4);
	cr_assert_str_eq(text, "two\n");
	cr_assert_eq(mkdirat(etc, "resolv.conf", 0755), 0);
	cr_assert_eq(conf_write(etc, "resolv.conf", "x"), -EISDIR);
	cr_assert_eq(fstatat(etc, ".orw-conf", &st, AT_SYMLINK_NOFOLLOW), -1, "nothing stays behind");
	unlinkat(etc, "resolv.conf", AT_REMOVEDIR);
	unlinkat(etc, "hosts", 0);
	cr_assert_eq(rmdir(dir), 0);
}
