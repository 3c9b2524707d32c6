#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rmtree.h"

static char top[] = "/tmp/orw-rmtree-XXXXXX";
static int dir;

static void setup(void)
{
	cr_assert_not_null(mkdtemp(top));
	dir = open(top, O_RDONLY | O_DIRECTORY);
	cr_assert_geq(dir, 0);
}

static void teardown(void)
{
	close(dir);
	cr_assert_eq(rmdir(top), 0); /* nothing else may be left, and nothing else was there */
}

TestSuite(rmtree, .init = setup, .fini = teardown);

static void touch(int at, const char *name)
{
	int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	cr_assert_geq(fd, 0);
	close(fd);
}

static int sub(int at, const char *name)
{
	cr_assert_eq(mkdirat(at, name, 0755), 0);
	return openat(at, name, O_RDONLY | O_DIRECTORY);
}

static void gone(const char *name)
{
	cr_assert_eq(rmtree(dir, name), 0);
	cr_assert_neq(faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW), 0);
}

Test(rmtree, absent_files_and_links)
{
	gone("absent");
	touch(dir, "file");
	gone("file");
	cr_assert_eq(symlinkat("/tmp", dir, "link"), 0);
	gone("link");
}

Test(rmtree, links_are_not_followed)
{
	int t = sub(dir, "t"), keep = sub(dir, "keep");

	touch(keep, "precious");
	cr_assert_eq(symlinkat("../keep", t, "link"), 0);
	cr_assert_eq(symlinkat("..", t, "up"), 0);
	gone("t");
	cr_assert_eq(faccessat(keep, "precious", F_OK, 0), 0);
	close(t);
	close(keep);
	gone("keep");
}

Test(rmtree, deeper_than_any_path_or_stack)
{
	int at = sub(dir, "t");

	for (int i = 0; i < 5000; i++) {
		int next = sub(at, "a-folder-with-a-name-of-some-length-so-that-the-path-is-far-too-long");

		touch(at, "f");
		close(at);
		at = next;
	}
	close(at);
	gone("t");
}

Test(rmtree, wide)
{
	int t = sub(dir, "t");
	char name[32];

	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "d%d", i);
		int d = sub(t, name);

		touch(d, "f");
		close(d);
	}
	close(t);
	gone("t");
}

Test(rmtree, names_that_look_like_its_own)
{
	int t = sub(dir, "t");

	touch(t, ".orw-rm-0");
	for (int i = 1; i < 6; i++) {
		char name[32];

		snprintf(name, sizeof(name), ".orw-rm-%d", i);
		int d = sub(t, name), e = sub(d, ".orw-rm-0");

		touch(e, "x");
		close(e);
		close(d);
	}
	int d = sub(t, "plain");

	touch(d, "x");
	close(d);
	close(t);
	gone("t");
}

/* A folder that its owner may neither read nor move: an ordinary user has to open it up first. */
Test(rmtree, removes_folders_that_are_closed_to_their_owner)
{
	uid_t uid = 64321;
	int tree = sub(dir, "tree"), inner = sub(tree, "inner"), deep = sub(inner, "deep");

	touch(deep, "file");
	if (geteuid() == 0)
		cr_assert(fchown(dir, uid, uid) == 0 && fchown(tree, uid, uid) == 0 && fchown(inner, uid, uid) == 0 &&
			  fchown(deep, uid, uid) == 0 && fchownat(deep, "file", uid, uid, 0) == 0);
	cr_assert(fchmod(deep, 0) == 0 && fchmod(inner, 0) == 0 && fchmod(tree, 0500) == 0);
	close(tree);
	close(inner);
	close(deep);
	cr_assert(geteuid() != 0 || seteuid(uid) == 0);
	cr_assert_eq(rmtree(dir, "tree"), 0);
	cr_assert(getuid() != 0 || seteuid(0) == 0);
	cr_assert_lt(faccessat(dir, "tree", F_OK, 0), 0);
}
