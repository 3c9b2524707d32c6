#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/rmtree.h"
#include "base/time.h"
#include "bucket/tree.h"

#define ID "11111111-2222-4333-8444-555555555555"

static char top[] = "/tmp/orw-bucket-XXXXXX";
static int dir;
static struct err err;
static char *as; /* how a folder is spelled, that was looked for last */

static void setup(void)
{
	cr_assert_not_null(mkdtemp(top));
	dir = open(top, O_PATH | O_DIRECTORY);
	cr_assert_geq(dir, 0);
	cr_assert_eq(mkdirat(dir, BUCKET_ASIDE, 0700), 0);
	cr_assert_eq(bucket_make(dir, ID, &err), 0);
	cr_assert_eq(bucket_make(dir, ID, &err), 0, "again is fine");
}

static void teardown(void)
{
	free(as);
	close(dir);
	cr_assert_eq(rmtree(AT_FDCWD, top), 0);
}

TestSuite(bucket, .init = setup, .fini = teardown);

static void write_file(const char *path, const char *text)
{
	int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void put(const char *name, const char *text)
{
	uint64_t old;

	write_file(BUCKET_ASIDE "/up-1", text);
	cr_assert_eq(bucket_place(dir, ID, name, "up-1", &old, &err), 0, "%s: %s", name, err.msg);
}

static int check_folder(const char *name, bool make)
{
	char *found = NULL;
	int r = bucket_check_folder(dir, ID, name, make, &found, &err);

	if (r < 0)
		return r;
	free(as);
	as = found;
	return r;
}

Test(bucket, names)
{
	static const char *const good[] = { "a", "a/b/c.json", "...", "a b", "\xc3\xa4/\xe2\x82\xac", ".hidden", "-x", "a:b" };
	static const char *const bad[] = {
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\nb", "a\x7f", "\xff", "a/\xc0\xaf", "\xed\xa0\x80",
	};
	char text[BUCKET_NAME_MAX + 2];

	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		cr_assert_eq(bucket_check_name("path", good[i], &err), 0, "%s: %s", good[i], err.msg);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(bucket_check_name("path", bad[i], &err), -EINVAL, "%s", bad[i]);
	memset(text, 'a', sizeof(text));
	text[256] = '\0';
	cr_assert_eq(bucket_check_name("path", text, &err), -EINVAL, "a part of 256 bytes");
	text[255] = '\0';
	cr_assert_eq(bucket_check_name("path", text, &err), 0);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 3 == 2 ? '/' : 'a';
	text[BUCKET_NAME_MAX] = '\0';
	cr_assert_eq(bucket_check_name("path", text, &err), 0, "%s", err.msg);
	text[BUCKET_NAME_MAX] = 'a';
	text[BUCKET_NAME_MAX + 1] = '\0';
	cr_assert_eq(bucket_check_name("path", text, &err), -EINVAL, "%d bytes", BUCKET_NAME_MAX + 1);
}

Test(bucket, a_file_is_placed_replaced_read_and_removed)
{
	uint64_t old = 99, size;
	int64_t when;
	struct stat st;
	int fd;

	cr_assert(!bucket_has_anything(dir, ID));
	write_file(BUCKET_ASIDE "/x", "hello");
	cr_assert_eq(bucket_place(dir, ID, "a/b/file", "x", &old, &err), 0, "%s", err.msg);
	cr_assert_eq(old, 0);
	cr_assert(bucket_has_anything(dir, ID));
	write_file(BUCKET_ASIDE "/x", "bye");
	cr_assert_eq(bucket_place(dir, ID, "a/b/file", "x", &old, &err), 0);
	cr_assert_eq(old, 5);
	cr_assert_eq(bucket_open(dir, ID, "a/b/file", &fd, &size, &when, &err), 0, "%s", err.msg);
	cr_assert_eq(size, 3);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0644, "whatever the umask");
	close(fd);
	cr_assert_eq(fstatat(dir, ID "/a/b", &st, 0), 0);
	cr_assert_eq(st.st_mode & 07777, 0755);
	cr_assert_eq(bucket_remove(dir, ID, "a/b", &size, &err), -EISDIR);
	cr_assert_eq(bucket_remove(dir, ID, "a/b/file", &size, &err), 0);
	cr_assert_eq(size, 3);
	cr_assert(!bucket_has_anything(dir, ID), "folders that became empty are gone");
	cr_assert_eq(bucket_remove(dir, ID, "a/b/file", &size, &err), -ENOENT);
	cr_assert_eq(bucket_open(dir, ID, "a", &fd, &size, &when, &err), -ENOENT);
}

Test(bucket, a_failed_upload_leaves_the_old_file)
{
	uint64_t old, size;
	int64_t when;
	int fd;

	put("a", "old");
	write_file(BUCKET_ASIDE "/x", "new");
	cr_assert_eq(bucket_place(dir, ID, "a/b", "x", &old, &err), -ENOTDIR);
	cr_assert_eq(bucket_place(dir, ID, "a", "none", &old, &err), -ENOENT);
	cr_assert_eq(mkdirat(dir, ID "/folder", 0755), 0);
	cr_assert_eq(bucket_place(dir, ID, "folder", "x", &old, &err), -EISDIR);
	cr_assert_eq(bucket_open(dir, ID, "a", &fd, &size, &when, &err), 0);
	cr_assert_eq(size, 3);
	close(fd);
}

/* What an instance may leave: nothing of it is followed, waited for, or taken for a file. */
Test(bucket, what_instances_wrote_leads_nowhere)
{
	static const char *const links[] = { "abs", "up", "loop", "dangling" };
	static const char *const to[] = { "/etc", "../..", "loop", "nowhere" };
	uint64_t size, old;
	int64_t when;
	char name[64];
	int fd;

	for (size_t i = 0; i < ARRAY_LEN(links); i++) {
		snprintf(name, sizeof(name), ID "/%s", links[i]);
		cr_assert_eq(symlinkat(to[i], dir, name), 0);
		cr_assert_eq(bucket_open(dir, ID, links[i], &fd, &size, &when, &err), -ELOOP, "%s", links[i]);
		cr_assert_eq(check_folder(links[i], false), -ELOOP, "%s", links[i]);
		snprintf(name, sizeof(name), "%s/passwd", links[i]);
		cr_assert_eq(bucket_open(dir, ID, name, &fd, &size, &when, &err), -ELOOP, "%s", name);
		write_file(BUCKET_ASIDE "/x", "mine");
		cr_assert_lt(bucket_place(dir, ID, name, "x", &old, &err), 0, "%s", name);
		cr_assert_lt(bucket_remove(dir, ID, name, &size, &err), 0, "%s", name);
	}
	cr_assert_eq(mkfifoat(dir, ID "/pipe", 0644), 0);
	cr_assert_eq(bucket_open(dir, ID, "pipe", &fd, &size, &when, &err), -EINVAL);
	cr_assert_eq(bucket_place(dir, ID, "abs", "x", &old, &err), 0, "a link is replaced, not followed");
	cr_assert_eq(bucket_remove(dir, ID, "up", &size, &err), 0);
	cr_assert_eq(faccessat(dir, BUCKET_ASIDE, F_OK, 0), 0);
}

Test(bucket, folders_go_in_one_step_and_are_counted)
{
	uint64_t files = 0, bytes = 0;

	put("a/1", "x");
	put("a/b/2", "yy");
	put("a/b/c/3", "zzz");
	put("keep", "k");
	cr_assert_eq(symlinkat("/etc", dir, ID "/a/link"), 0);
	cr_assert_eq(bucket_count(dir, ID, "", &files, &bytes, &err), 0);
	cr_assert(files == 4 && bytes == 7);
	cr_assert_eq(fchmodat(dir, ID "/a/b", 0, 0), 0);
	cr_assert_eq(fchmodat(dir, ID "/a/b", 0755, 0), 0);
	cr_assert_eq(bucket_remove_folder(dir, ID, "keep", &files, &bytes, &err), -ENOTDIR);
	cr_assert_eq(bucket_remove_folder(dir, ID, "none", &files, &bytes, &err), -ENOENT);
	cr_assert_eq(bucket_remove_folder(dir, ID, "a", &files, &bytes, &err), 0, "%s", err.msg);
	cr_assert(files == 3 && bytes == 6);
	cr_assert_eq(bucket_remove_folder(dir, ID, "", &files, &bytes, &err), 0);
	cr_assert_eq(files, 1);
	cr_assert_lt(faccessat(dir, ID, F_OK, 0), 0);
}

/* A folder below a path of nearly BUCKET_NAME_MAX bytes, three levels of them. */
static int open_deep(void)
{
	char part[255];
	int at = openat(dir, ID, O_RDONLY | O_DIRECTORY);

	memset(part, 'd', sizeof(part));
	part[sizeof(part) - 1] = '\0';
	for (int i = 0; i < 3; i++) {
		int above = at;

		cr_assert_eq(mkdirat(above, part, 0755), 0);
		at = openat(above, part, O_RDONLY | O_DIRECTORY);
		cr_assert_geq(at, 0);
		close(above);
	}
	return at;
}

static long peak_kib(void)
{
	struct rusage use;

	cr_assert_eq(getrusage(RUSAGE_SELF, &use), 0);
	return use.ru_maxrss;
}

/* Code in an instance makes as many as it likes, and costs the server no memory by it. */
Test(bucket, many_folders_are_counted_in_little_memory)
{
	uint64_t files = 0, bytes = 0;
	int at = open_deep();
	char name[16];

	for (int i = 0; i < 30000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cr_assert_eq(mkdirat(at, name, 0755), 0);
	}
	close(at);
	put("a/b/1", "x");
	long before = peak_kib();
	cr_assert_eq(bucket_count(dir, ID, "", &files, &bytes, &err), 0);
	cr_assert(files == 1 && bytes == 1);
	cr_assert_lt(peak_kib() - before, 8 * 1024);
}

Test(bucket, what_cannot_be_counted_is_an_error_and_can_be_removed)
{
	uint64_t files = 7, bytes = 7;
	struct rlimit few;

	put("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/1", "x");
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &few), 0);
	int next = dup(dir);
	close(next);
	few.rlim_cur = (rlim_t)next + 12; /* not one for each level */
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	cr_assert_eq(bucket_count(dir, ID, "", &files, &bytes, &err), -EMFILE);
	cr_assert_not_null(strstr(err.msg, "counting"), "%s", err.msg);
	cr_assert_eq(bucket_remove_folder(dir, ID, "a", &files, &bytes, &err), 0, "%s", err.msg);
	cr_assert_eq(files, 0);
	cr_assert_not(bucket_has_anything(dir, ID));
}

struct listed {
	char text[512];
};

static void note(void *arg, const char *path, bool folder, uint64_t size, int64_t written_ms UNUSED)
{
	struct listed *l = arg;
	size_t len = strlen(l->text);

	snprintf(l->text + len, sizeof(l->text) - len, "%s%s:%d ", path, folder ? "/" : "", (int)size);
}

static void lists(const char *prefix, const char *after, size_t limit, const char *expected, bool expect_more)
{
	struct listed l = { "" };
	bool more = false;

	cr_assert_eq(bucket_list(dir, ID, prefix, after, limit, note, &l, &more, &err), 0);
	cr_assert_str_eq(l.text, expected, "prefix \"%s\"", prefix);
	cr_assert_eq(more, expect_more);
}

Test(bucket, lists_in_pages_and_groups_folders)
{
	put("b/1", "x");
	put("b/2", "xx");
	put("bb", "xxx");
	put("a", "");
	put("c/d/e", "x");
	cr_assert_eq(symlinkat("/etc", dir, ID "/link"), 0);
	cr_assert_eq(mkfifoat(dir, ID "/pipe", 0644), 0);
	write_file(ID "/\xff", "no client can say this name");
	lists("", NULL, 10, "a:0 b/:0 bb:3 c/:0 ", false);
	lists("", NULL, 2, "a:0 b/:0 ", true);
	lists("", "b", 2, "bb:3 c/:0 ", false);
	lists("b", NULL, 10, "b/:0 bb:3 ", false);
	lists("b/", NULL, 10, "b/1:1 b/2:2 ", false);
	lists("b/", "1", 10, "b/2:2 ", false);
	lists("c/d", NULL, 10, "c/d/:0 ", false);
	lists("nope/x", NULL, 10, "", false);
	lists("a/x", NULL, 10, "", false);
	lists("link/", NULL, 10, "", false);
}

Test(bucket, what_broken_uploads_left_goes)
{
	write_file(BUCKET_ASIDE "/up-old", "x");
	write_file(BUCKET_ASIDE "/part-old", "x");
	write_file(BUCKET_ASIDE "/rm-now", "x");
	bucket_tidy(dir, time_wall_ms() + 1000);
	cr_assert_lt(faccessat(dir, BUCKET_ASIDE "/rm-now", F_OK, 0), 0);
	cr_assert_eq(faccessat(dir, BUCKET_ASIDE "/up-old", F_OK, 0), 0);
	bucket_tidy(dir, time_wall_ms() + 2 * 3600 * 1000);
	cr_assert_lt(faccessat(dir, BUCKET_ASIDE "/up-old", F_OK, 0), 0);
	cr_assert_eq(faccessat(dir, BUCKET_ASIDE "/part-old", F_OK, 0), 0);
	bucket_tidy(dir, time_wall_ms() + 25 * 3600 * 1000);
	cr_assert_lt(faccessat(dir, BUCKET_ASIDE "/part-old", F_OK, 0), 0);
}

Test(bucket, folders_for_mounting)
{
	put("tasks/1/x", "");
	cr_assert_eq(check_folder("", false), 0);
	cr_assert_eq(check_folder("tasks/1", false), 0);
	cr_assert_eq(check_folder("tasks/2", false), -ENOENT);
	cr_assert_eq(check_folder("tasks/1/x", true), -ENOTDIR);
	cr_assert_eq(check_folder("tasks/2/deep", true), 0);
	cr_assert_eq(check_folder("tasks/2/deep", false), 0);
}

#define NFC "caf\xc3\xa9"
#define NFD "cafe\xcc\x81"

Test(bucket, names_in_two_forms)
{
	uint64_t size, files, bytes;
	int64_t when;
	auto_fd fd = -1;

	put("data/" NFC "/1", "one");
	cr_assert_eq(bucket_check_form(dir, ID, "data/" NFC "/1", &err), 0);
	cr_assert_eq(bucket_check_form(dir, ID, "DATA/" NFC "/1", &err), 0, "another case is another name");
	cr_assert_eq(bucket_check_form(dir, ID, "data/" NFD "/2", &err), -EEXIST, "a folder on the way is enough");
	cr_assert(strstr(err.msg, "\"data/" NFD "/2\" (NFD)") && strstr(err.msg, "\"data/" NFC "/2\" (NFC)"), "%s", err.msg);
	write_file(BUCKET_ASIDE "/up-2", "x");
	cr_assert_eq(bucket_place(dir, ID, "data/" NFD "/1", "up-2", &size, &err), -EEXIST);
	cr_assert_eq(faccessat(dir, BUCKET_ASIDE "/up-2", F_OK, 0), 0);
	lists("data/", NULL, 10, "data/" NFC "/:0 ", false);
	lists("data/" NFD, NULL, 10, "data/" NFC "/:0 ", false);
	lists("data/" NFD "/", NULL, 10, "data/" NFC "/1:3 ", false);
	cr_assert_eq(bucket_open(dir, ID, "data/" NFD "/1", &fd, &size, &when, &err), 0, "%s", err.msg);
	cr_assert_eq(size, 3);
	cr_assert_eq(check_folder("data/" NFD, false), 0);
	cr_assert_str_eq(as, "data/" NFC);
	/* An instance may have made a twin: what was asked for goes first. */
	cr_assert_eq(mkdirat(dir, ID "/data/" NFD, 0755), 0);
	write_file(ID "/data/" NFD "/1", "another");
	cr_assert_eq(bucket_remove(dir, ID, "data/" NFD "/1", &size, &err), 0);
	cr_assert_eq(size, 7);
	cr_assert_eq(bucket_remove_folder(dir, ID, "data/" NFD, &files, &bytes, &err), 0, "the other is found by it now: %s", err.msg);
	cr_assert_eq(bytes, 3);
	cr_assert(!bucket_has_anything(dir, ID));
}

Test(bucket, names_of_which_no_form_fits)
{
	char text[BUCKET_NAME_MAX + 1];

	/* 341 times U+0958, of 3 bytes, which has 6 in either form; one part, then parts of one each */
	for (size_t i = 0; i < BUCKET_NAME_MAX / 3; i++)
		memcpy(text + 3 * i, "\xe0\xa5\x98", 4);
	cr_assert_eq(bucket_check_form(dir, ID, text, &err), 0);
	text[255] = '\0';
	put(text, "x");
	cr_assert_eq(bucket_check_form(dir, ID, text, &err), 0);
}

/* What a sandbox's filter refuses, but an instance of a former version may still hold. */
Test(bucket, a_lease_holds_nobody_up)
{
	int ready[2], fd;
	uint64_t size;
	int64_t at;
	char byte;

	put("leased", "text");
	cr_assert_eq(bucket_open(dir, ID, "leased", &fd, &size, &at, &err), 0);
	cr_assert_eq(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGIO, SIG_IGN);
		if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(fd);
	close(ready[1]);
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	cr_assert_eq(bucket_open(dir, ID, "leased", &fd, &size, &at, &err), -EBUSY);
	cr_assert_not_null(strstr(err.msg, "leased"), "%s", err.msg);
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(bucket_open(dir, ID, "leased", &fd, &size, &at, &err), 0);
	close(fd);
	close(ready[0]);
}
