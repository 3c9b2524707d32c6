/* The steps that `serve` takes as root. Each runs in the test's own process; those that cannot be undone in a child. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/launch.h"
#include "daemon/spawn.h"

#define NOBODY 65534

static char dir[64];

static void set_up(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test-launch-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	if (geteuid() != 0)
		cr_skip_test("needs root");
}

static void tear_down(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		execlp("rm", "rm", "-rf", dir, NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

TestSuite(launch, .init = set_up, .fini = tear_down, .timeout = 20);

Test(launch, one_daemon_per_data_directory)
{
	struct err err = ERR_INIT;
	int fd = -1, second = -1;
	char pid[32];

	cr_assert_eq(launch_lock(&fd, dir, &err), 0, "%s", err.msg);
	cr_assert_eq(launch_lock(&second, dir, &err), -EBUSY);
	snprintf(pid, sizeof(pid), "pid %d", getpid());
	cr_assert_not_null(strstr(err.msg, pid), "%s", err.msg);
	cr_assert_not_null(strstr(err.msg, dir));
	close(fd);
	cr_assert_eq(launch_lock(&second, dir, &err), 0, "the lock dies with its holder");
	close(second);
}

static void expect(const char *name, uid_t uid, mode_t mode)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/data/%s", dir, name);
	cr_assert_eq(stat(path, &st), 0, "%s", path);
	cr_assert_eq(st.st_uid, uid, "%s belongs to %u", path, st.st_uid);
	cr_assert_eq(st.st_mode & 07777, mode, "%s has mode %o", path, st.st_mode & 07777);
}

Test(launch, folders_have_their_owners)
{
	char data[96], path[128];
	struct err err = ERR_INIT;

	snprintf(data, sizeof(data), "%s/data", dir);
	for (int i = 0; i < 2; i++) { /* twice: a later start finds them */
		cr_assert_eq(launch_folders(data, NOBODY, NOBODY, &err), 0, "%s", err.msg);
		expect("", 0, 01771);
		expect("images", 0, 0711);
		expect("images/records", 0, 0755);
		expect("sandboxes", 0, 0711);
		expect("builds", NOBODY, 0750);
		expect("run", NOBODY, 0750);
	}
	snprintf(path, sizeof(path), "%s/run", data);
	cr_assert_eq(rmdir(path), 0);
	cr_assert_eq(symlink("/", path), 0);
	cr_assert_lt(launch_folders(data, NOBODY, NOBODY, &err), 0, "a link in a folder's place is not followed");
	cr_assert_not_null(strstr(err.msg, "run"));
}

Test(launch, a_folder_on_the_way_that_the_user_may_not_enter)
{
	char closed[96], deep[128];
	struct err err = ERR_INIT;

	snprintf(closed, sizeof(closed), "%s/closed", dir);
	snprintf(deep, sizeof(deep), "%s/closed/a/data", dir);
	cr_assert_eq(chmod(dir, 0755), 0);
	cr_assert_eq(fd_mkdirs(deep, 0755, &err), 0);
	cr_assert_eq(launch_check_path(deep, NOBODY, NOBODY, "nobody", &err), 0, "%s", err.msg);
	cr_assert_eq(chmod(closed, 0700), 0);
	cr_assert_eq(launch_check_path(deep, NOBODY, NOBODY, "nobody", &err), -EACCES);
	cr_assert_not_null(strstr(err.msg, closed), "%s", err.msg);
	cr_assert_not_null(strstr(err.msg, "chmod o+x"), "%s", err.msg);
	cr_assert_eq(geteuid(), 0, "root again afterwards");
}

Test(launch, root_is_given_up_for_good)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct err err;
		gid_t groups[8];
		if (launch_drop(NOBODY, NOBODY, &err) < 0)
			_exit(1);
		if (setuid(0) == 0 || seteuid(0) == 0 || getgroups(8, groups) != 0)
			_exit(2);
		if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
			_exit(3);
		_exit(open("/etc/shadow", O_RDONLY) >= 0 ? 4 : 0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "exit %d", WEXITSTATUS(status));
}

static bool has(char **args, const char *a, const char *b)
{
	for (; *args; args++)
		if (strcmp(*args, a) == 0 && (!b || (args[1] && strcmp(args[1], b) == 0)))
			return true;
	return false;
}

Test(launch, spawner_is_told_what_the_configuration_says)
{
	static const char text[] = "listen: [\"127.0.0.1:1\", \"127.0.0.1:2\"]\ndata: /d\n"
				   "sandboxes: {mounts: [\"/etc/x:/y\", \"/srv/z\"]}\negress: {allow: [10.0.0.0/8]}\n"
				   "builds: {inherit_host: false}\n";
	struct config *c = config_new();
	struct launch l = { .uid = 7, .gid = 8, .libexec = "/lib/x", .self = "/bin/openreward" };
	struct err err = ERR_INIT;

	cr_assert_eq(config_parse(c, "x", text, sizeof(text) - 1, &err), 0, "%s", err.msg);
	char **args = spawn_args(&l, c);
	cr_assert_str_eq(args[0], "/lib/x/openreward-spawner");
	cr_assert(has(args, "--data", "/d"));
	cr_assert(has(args, "--uid", "7") && has(args, "--gid", "8"));
	cr_assert(has(args, "--listen", "127.0.0.1:1") && has(args, "--listen", "127.0.0.1:2"));
	cr_assert(has(args, "--mount", "/etc/x") && has(args, "--mount", "/srv/z"), "sources only");
	cr_assert(has(args, "--egress-arg", "--allow=10.0.0.0/8"));
	for (char **p = args; *p; p++) {
		cr_assert_null(strstr(*p, "--build-allow"), "the host's registries are not for builds here: %s", *p);
		free(*p);
	}
	free(args);
	config_free(c);
}
