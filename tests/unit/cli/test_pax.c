/* The tar of `deploy`: another program unpacks it to the same folder. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/pax.h"

static char base[64];

static void run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "%s", argv[0]);
}

static void set_up(void)
{
	snprintf(base, sizeof(base), "/tmp/test-pax-XXXXXX");
	cr_assert_not_null(mkdtemp(base));
	cr_assert_eq(chdir(base), 0);
	cr_assert_eq(mkdir("in", 0755), 0);
	cr_assert_eq(mkdir("out", 0755), 0);
}

static void tear_down(void)
{
	cr_assert_eq(chdir("/"), 0);
	run((char *[]){ "rm", "-rf", base, NULL });
}

TestSuite(pax, .init = set_up, .fini = tear_down, .timeout = 30);

static void put(const char *path, const void *data, size_t len, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(fd_write_all(fd, data, len), 0);
	cr_assert_eq(fchmod(fd, mode), 0);
	close(fd);
}

static struct pax_totals pack(const char *to, const char *ignore)
{
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), in = open("in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct ignore *g = ignore ? ignore_new(ignore, strlen(ignore)) : NULL;
	struct pax_totals totals;
	struct err err = ERR_INIT;

	cr_assert_eq(pax_write(out, in, g, &totals, &err), 0, "%s", err.msg);
	ignore_free(g);
	close(out);
	close(in);
	return totals;
}

static void unpack(void)
{
	run((char *[]){ "tar", "-xpf", "x.tar", "-C", "out", "--no-same-owner", NULL });
}

Test(pax, another_tar_unpacks_the_same)
{
	char name[256], path[600], target[201];
	struct stat st;

	memset(name, 'n', 250);
	name[250] = '\0';
	snprintf(path, sizeof(path), "in/%s", name);
	cr_assert_eq(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "in/%s/%s", name, name);
	put(path, "deep", 4, 0640);
	put("in/empty", "", 0, 0644);
	put("in/run.sh", "#!/bin/sh\n", 10, 0755);
	put("in/with blank \xc3\xa4", "x", 1, 0600);
	char block[512] = "exactly a block";
	put("in/block", block, sizeof(block), 0644);
	cr_assert_eq(symlink("run.sh", "in/link"), 0);
	memset(target, 't', 200);
	target[200] = '\0';
	cr_assert_eq(symlink(target, "in/long-link"), 0);
	cr_assert_eq(mkfifo("in/pipe", 0600), 0);

	struct pax_totals totals = pack("x.tar", NULL);
	cr_assert_eq(totals.skipped, 1);
	cr_assert_eq(totals.bytes, 4 + 10 + 1 + 512);
	unpack();
	cr_assert_eq(unlink("in/pipe"), 0);
	run((char *[]){ "diff", "-r", "--no-dereference", "in", "out", NULL });
	cr_assert_eq(stat("out/run.sh", &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0755);
	snprintf(path, sizeof(path), "out/%s", name);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0700);
}

Test(pax, the_same_folder_gives_the_same_bytes)
{
	static const char *const names[] = { "in/b", "in/a", "in/z", "in/m" };
	struct timespec times[2] = { { 1000, 0 }, { 1000, 0 } };

	for (size_t i = 0; i < 4; i++) {
		put(names[i], "x", 1, 0644);
		cr_assert_eq(utimensat(AT_FDCWD, names[i], times, 0), 0);
	}
	(void)pack("x.tar", NULL);
	cr_assert_eq(rename("in", "before"), 0);
	run((char *[]){ "cp", "-a", "before", "in", NULL });
	(void)pack("y.tar", NULL);
	run((char *[]){ "cmp", "x.tar", "y.tar", NULL });
}

Test(pax, ignored_files_stay_behind)
{
	put("in/Dockerfile", "FROM x\n", 7, 0644);
	put("in/secret", "x", 1, 0644);
	cr_assert_eq(mkdir("in/d", 0755), 0);
	put("in/d/keep", "x", 1, 0644);
	put("in/d/drop", "x", 1, 0644);
	(void)pack("x.tar", "*\n!d/keep\n");
	unpack();
	cr_assert_eq(access("out/Dockerfile", F_OK), 0, "the Dockerfile always goes");
	cr_assert_eq(access("out/d/keep", F_OK), 0);
	cr_assert_neq(access("out/d/drop", F_OK), 0);
	cr_assert_neq(access("out/secret", F_OK), 0);
}

Test(pax, a_reader_that_goes_away_is_an_error)
{
	int ends[2], in = open("in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct pax_totals totals;
	struct err err = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	close(ends[0]);
	put("in/a", "x", 1, 0644);
	cr_assert_eq(pax_write(ends[1], in, NULL, &totals, &err), -EPIPE);
	close(ends[1]);
	close(in);
}
