/* bench/command: programs started from outside, as a shell would: other runtimes, and plain commands. See worker.h. Cases:
 *   exec COMMAND...              vfork, exec, wait
 *   chroot FOLDER COMMAND...     the same in another root: a command of the measured root file system without a sandbox
 * Output goes nowhere, but a failure is told with the last that it wrote to standard error. What a runtime leaves running
 * behind its back becomes this process' child, and is waited for between two commands. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "worker.h"

extern char **environ;

struct commands {
	int null_fd;
	int stderr_fd; /* a memory file; emptied before each command */
};

static NORETURN void child(const struct commands *c, const char *root, char **argv)
{
	dup2(c->null_fd, 0);
	dup2(c->null_fd, 1);
	dup2(c->stderr_fd, 2);
	if (root && (chroot(root) < 0 || chdir("/") < 0))
		_exit(126);
	execvp(argv[0], argv);
	_exit(127);
}

static pid_t start(const struct commands *c, char **args)
{
	pid_t pid = vfork();

	if (pid == 0 && strcmp(args[0], "chroot") == 0)
		child(c, args[1], args + 2);
	if (pid == 0)
		child(c, NULL, args + 1);
	return pid;
}

static int failed(const struct commands *c, const char *name, int status, struct err *err)
{
	char text[400];
	ssize_t n = pread(c->stderr_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = 0;
	for (char *p = text; *p; p++)
		*p = *p == '\n' ? ' ' : *p;
	return err_set(err, -EIO, "%s: status %d: %s", name, status, text);
}

static int once(void *arg, char **args, struct sample *s, struct err *err)
{
	const struct commands *c = arg;
	int status = 0;
	pid_t pid;

	if (ftruncate(c->stderr_fd, 0) < 0 || lseek(c->stderr_fd, 0, SEEK_SET) < 0)
		return err_sys(err, "empty the memory file");
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	sample_begin(s);
	pid = start(c, args);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return err_sys(err, "start %s", args[1]);
	sample_part(s);
	return status == 0 ? 0 : failed(c, args[1], status, err);
}

static int forked(void *arg, int number, struct err *err)
{
	struct commands *c = arg;

	(void)number;
	c->stderr_fd = memfd_create("stderr", MFD_CLOEXEC);
	return c->stderr_fd < 0 ? err_sys(err, "memory file") : 0;
}

int main(void)
{
	struct commands c = { .null_fd = open("/dev/null", O_RDWR | O_CLOEXEC) };
	const struct worker w = { .arg = &c, .once = once, .forked = forked };
	struct err err = ERR_INIT;

	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (c.null_fd < 0 || forked(&c, 0, &err) < 0) {
		printf("error no /dev/null or memory file\n");
		return 1;
	}
	return worker_loop(&w);
}
