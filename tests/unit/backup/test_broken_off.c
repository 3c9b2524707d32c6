/* Restores that something ends in the middle. */
#include <sys/syscall.h>

#include "unit/backup/platform.h"

TestSuite(broken_off, .init = set_up, .fini = tear_down, .timeout = 120);

static int end_at = -1; /* the process ends before the nth thing moves; -1 = never */
static int bad_writes;  /* so many writes to the database, not to its log, fail */

/* In the places of the C library's. */
int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	if (end_at >= 0 && end_at-- == 0)
		_exit(0);
	return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

ssize_t pwrite64(int fd, const void *p, size_t len, off_t at)
{
	char name[32], path[512] = "";

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	if (bad_writes && readlink(name, path, sizeof(path) - 1) > 0 && str_ends(path, ".restore/openreward.db")) {
		bad_writes--;
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, p, len, at);
}

Test(broken_off, one_that_is_killed_in_the_middle_is_begun_anew)
{
	struct backup_restored r;
	struct err err = ERR_INIT;
	int status;

	backup("file", true);
	for (int n = 0; n < 6; n++) {
		pid_t pid = fork();
		if (pid == 0) {
			end_at = n;
			_exit(restore("file", &r, &err) == 0 ? 2 : 3);
		}
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0, "it was to end before the move %d", n);
		cr_assert_eq(restore("file", &r, &err), 0, "%d: %s", n, err.msg);
		cr_assert_eq(r.environments, 3);
		cr_assert_not(is_there("new/.restore"));
		with_store("new", look);
		run((char *[]){ "rm", "-rf", "new", NULL });
	}
}

Test(broken_off, a_platform_is_none_that_was_broken_off)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("file", false);
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	put("new/.restore/moving", "", 0600); /* the kill came after the last move */
	cr_assert_eq(restore("file", &r, &err), -ENOTEMPTY);
	with_store("new", look);
}

Test(broken_off, what_the_log_of_the_database_holds_is_not_left_behind)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("file", false);
	bad_writes = 1;
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	cr_assert_eq(bad_writes, 0);
	with_store("new", look);
	run((char *[]){ "rm", "-rf", "new", NULL });
	bad_writes = 1000;
	cr_assert_lt(restore("file", &r, &err), 0);
	cr_assert_eq(rmdir("new"), 0, "something was left: %s", strerror(errno));
}
