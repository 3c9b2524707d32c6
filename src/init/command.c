#include "init/command.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/slice.h"
#include "base/str.h"
#include "init/init.h"
#include "init/lend.h"
#include "init/path.h"
#include "init/seccomp.h"

#define FIELDS_MAX (WIRE_MAX / 16) /* a field takes no less in a message */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define OOM_SCORE "500" /* commands go before init and before the host's own services; it may only ever be raised */

enum { EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

/* Filled in the child only: in its copy, or in pages that it has borrowed of init (lend.h). */
static const char *argv[FIELDS_MAX + 2];
static const char *envp[FIELDS_MAX + 4];
static char home[sizeof("HOME=") + USER_HOME_MAX];

/* What init's own is between commands, as text; "" = not lower, or not to be changed. */
static char own_score[16];

static NORETURN void give_up(int status, const char *what, const char *name, int code)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "openreward: cannot %s %.300s: %s\n", what, name, strerror(-code));

	if (n > 0 && write(2, text, (size_t)n) < 0)
		status = EXIT_CANNOT_RUN;
	_exit(status);
}

static size_t collect(const struct wire_in *msg, enum wire_tag tag, const char **ret)
{
	size_t n = 0;

	while (n < FIELDS_MAX && (ret[n] = wire_get_str(msg, tag, n)))
		n++;
	ret[n] = NULL;
	return n;
}

static const char *variable(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; envp[i]; i++)
		if (!strncmp(envp[i], name, len) && envp[i][len] == '=')
			return envp[i] + len + 1;
	return NULL;
}

static void collect_env(const struct command *c)
{
	size_t n = collect(c->msg, WIRE_T_ENV, envp);

	if (!variable("HOME")) {
		snprintf(home, sizeof(home), "HOME=%s", c->user.home);
		envp[n++] = home;
		envp[n] = NULL;
	}
	if (!variable("PATH")) {
		envp[n++] = "PATH=" DEFAULT_PATH;
		envp[n] = NULL;
	}
}

/* Descriptors: 0 is /dev/null where nothing else is said; everything else of init's goes. */
static int set_descriptors(const struct command *c)
{
	unsigned first = COMMAND_SCRIPT_FD;

	if (dup2(c->output, 1) < 0 || dup2(c->error, 2) < 0 || (c->input >= 0 && dup2(c->input, 0) < 0))
		return -errno;
	if (c->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		return -errno;
	if (c->script >= 0) {
		/* c->script is never the target itself: boot leaves no hole below BOOT_FD_END. */
		if (dup2(c->script, COMMAND_SCRIPT_FD) < 0)
			return -errno;
		first++;
	}
	(void)syscall(SYS_close_range, 3u, COMMAND_SCRIPT_FD - 1u, 0u);
	return syscall(SYS_close_range, first, ~0u, 0u) < 0 ? -errno : 0;
}

/* Before the user is set, as Docker does: a working directory that USER can't enter is no error. */
static int enter_directory(const char *cwd)
{
	auto_fd fd = -1;

	if (str_eq(cwd, "/"))
		return chdir("/") < 0 ? -errno : 0;
	fd = path_open(AT_FDCWD, cwd, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	return fchdir(fd) < 0 ? -errno : 0;
}

static int become(const struct user *u)
{
	/* Raw calls: this process has one thread. Leaving uid 0 clears every capability; staying at it, the next
	 * execve gives the bounding set, which boot has cut. */
	if (syscall(SYS_setgroups, u->n_groups, u->groups) < 0 ||
	    syscall(SYS_setresgid, u->gid, u->gid, u->gid) < 0 || syscall(SYS_setresuid, u->uid, u->uid, u->uid) < 0)
		return -errno;
	return 0;
}

static int execute_at(const char *path)
{
	execve(path, (char *const *)argv, (char *const *)envp);
	return -errno;
}

/* As execvp: an entry that may not be executed is remembered while the search goes on. */
static int search(const char *name)
{
	const char *path = variable("PATH");
	char full[PATH_BYTES];
	int found = -ENOENT;

	while (path) {
		size_t len = strcspn(path, ":");
		int n = snprintf(full, sizeof(full), "%.*s/%s", len ? (int)len : 1, len ? path : ".", name);
		int r = n > 0 && (size_t)n < sizeof(full) ? execute_at(full) : -ENAMETOOLONG;

		if (r != -ENOENT && r != -ENOTDIR && r != -ENAMETOOLONG) {
			if (r != -EACCES)
				return r;
			found = r;
		}
		path = path[len] ? path + len + 1 : NULL;
	}
	return found;
}

const char *command_fallback(const char *const *args)
{
	const char *a = args[1];

	if (!a || args[0][0] != '/' || !str_ends(args[0], "sh") || str_eq(args[0], "/bin/sh"))
		return NULL;
	return a[0] == '-' || str_starts(a, "/dev/fd/") ? "/bin/sh" : NULL;
}

static NORETURN void execute(void)
{
	const char *name = argv[0], *fallback = command_fallback(argv);
	int r = strchr(name, '/') ? execute_at(name) : search(name);

	if (r == -ENOENT && fallback) {
		argv[0] = fallback;
		r = execute_at(fallback);
	}
	give_up(r == -ENOENT || r == -ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN, "run", name, r);
}

void command_open(void)
{
	ssize_t n = pread(BOOT_FD_SCORE, own_score, sizeof(own_score) - 1, 0);

	own_score[MAX(n, 0)] = '\0';
	/* The kernel lets it go up and back down again, unless the host has raised it meanwhile: tried once, with what it is. */
	if (n <= 0 || strtol(own_score, NULL, 10) >= strtol(OOM_SCORE, NULL, 10) ||
	    pwrite(BOOT_FD_SCORE, own_score, (size_t)n, 0) != n)
		own_score[0] = '\0';
}

/* A child is born with init's. For it to write its own, the kernel would make folders of /proc for it and take them down when it
 * ends, which is longer than all else that comes before execve. */
static void set_score(const char *text)
{
	if (own_score[0])
		(void)!pwrite(BOOT_FD_SCORE, text, strlen(text), 0);
}

NORETURN void command_become(const struct command *c)
{
	const char *cwd = c->cwd[0] ? c->cwd : "/";
	sigset_t none;
	int r;

	set_score(own_score); /* of init, before anybody can see it */
	setsid();
	collect(c->msg, WIRE_T_ARG, argv);
	collect_env(c);
	r = set_descriptors(c);
	if (r < 0)
		give_up(EXIT_CANNOT_RUN, "set descriptors for", argv[0], r);
	r = enter_directory(cwd);
	if (r < 0)
		give_up(EXIT_CANNOT_RUN, "enter the working directory", cwd, r);
	r = become(&c->user);
	if (r < 0)
		give_up(EXIT_CANNOT_RUN, "become the user of", argv[0], r);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	slice_reset(0, SLICE_SHORT_NS); /* init's. Somebody may have given it a long one already: confine.c of the spawner */
	execute();
}

const char *command_cwd(const struct wire_in *msg)
{
	const char *cwd = wire_get_str(msg, WIRE_T_CWD, 0);

	return cwd ? cwd : "";
}

void command_clone_args(struct clone_args *ret, uint64_t flags, int cgroup)
{
	*ret = (struct clone_args){ .flags = flags, .exit_signal = SIGCHLD };
	if (cgroup < 0)
		return;
	ret->flags |= CLONE_INTO_CGROUP;
	ret->cgroup = (uint64_t)cgroup;
}

/* Returns twice, like fork(): 0 in the child. */
static long clone_copying(int cgroup)
{
	struct clone_args args;
	long pid;

	command_clone_args(&args, 0, cgroup);
	pid = seccomp_clone3(&args, sizeof(args));
	return pid < 0 ? -errno : pid;
}

static long start(struct init *in, const struct command *c)
{
	long pid = lend_start(in, c);

	if (pid != 0)
		return pid;
	pid = clone_copying(c->cgroup);
	if (c->cgroup >= 0 && (pid == -EOPNOTSUPP || pid == -EBUSY || pid == -EINVAL))
		pid = clone_copying(-1);
	if (pid != 0)
		return pid;
	seccomp_forget();
	command_become(c);
}

int command_start(struct init *in, pid_t *ret, const struct command *c, struct err *err)
{
	long pid;

	set_score(OOM_SCORE);
	pid = start(in, c);
	set_score(own_score); /* where there is no child, or one that was killed at birth */
	if (pid < 0)
		return err_sys_code(err, (int)pid, pid == -EAGAIN ? "start a process: the sandbox's process limit" : "start a process");
	*ret = (pid_t)pid;
	return 0;
}
