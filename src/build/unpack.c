#include "build/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/openat2.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define NOBODY 65534

/* The daemon owns DATA/builds: nothing on this path may lead elsewhere. */
static int open_source(struct job *j, const char *deployment, struct err *err)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };
	auto_fd data = open(j->data, O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_free char *rel = xasprintf("builds/%s/source.tar", deployment);
	struct stat st;

	if (data < 0)
		return err_sys(err, "open %s", j->data);
	auto_fd fd = (int)syscall(SYS_openat2, data, rel, &how, sizeof(how));
	if (fd < 0)
		return err_sys(err, "open the source of deployment %s (%s)", deployment, rel);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: expected a regular file", rel);
	return fd_steal(&fd);
}

/* Everything read-only, the target alone writable: for the children of this process and this call only. */
static int shut_in(const char *target, struct err *err)
{
	struct mount_attr ro = { .attr_set = MOUNT_ATTR_RDONLY },
			  rw = { .attr_clr = MOUNT_ATTR_RDONLY, .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, "make a mount namespace");
	if (mount(target, target, NULL, MS_BIND, NULL) < 0)
		return err_sys(err, "mount %s", target);
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &ro, sizeof(ro)) < 0 ||
	    syscall(SYS_mount_setattr, AT_FDCWD, target, 0, &rw, sizeof(rw)) < 0)
		return err_sys(err, "make all but %s read-only", target);
	return 0;
}

static void keep_line(void *arg, const char *line)
{
	char **first = arg;

	if (!*first)
		*first = xstrdup(line);
}

static int run_tar(struct job *j, int source, const char *target, struct err *err)
{
	const char *argv[] = { "tar",
			       "--extract",
			       "--file=-",
			       "--no-same-owner",
			       "--no-same-permissions",
			       "--warning=no-timestamp",
			       "--delay-directory-restore",
			       NULL };
	auto_fd dir = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_free char *said = NULL;
	struct job_exec x = { .argv = argv,
			      .line = keep_line,
			      .arg = &said,
			      .stdin_fd = source,
			      .cwd_fd = dir,
			      .uid = NOBODY,
			      .file_max_bytes = UNPACK_BYTES_MAX };
	int status;

	if (dir < 0)
		return err_sys(err, "open %s", target);
	int r = job_exec(j, &x, &status, err);
	if (r < 0 || status == 0)
		return r;
	return err_set(err, -EINVAL, "the source is not a plain tar archive that can be unpacked: %s",
		       said ? job_tidy(said) : "tar failed");
}

/* In a child: the namespace with everything read-only must not become this process's own. */
static int in_child(struct job *j, int source, const char *target, struct err *err)
{
	int p[2], status;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	pid_t pid = fork();
	if (pid == 0) {
		struct err e = ERR_INIT;
		int r = shut_in(target, &e);
		if (r == 0)
			r = run_tar(j, source, target, &e);
		if (r < 0)
			(void)!fd_write_all(p[1], &e, sizeof(e));
		_exit(r < 0);
	}
	fd_close(p[1]);
	struct err e = ERR_INIT;
	bool failed = pid < 0 || fd_read_all(p[0], &e, sizeof(e)) == 0;
	fd_close(p[0]);
	if (pid < 0)
		return err_sys(err, "fork");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (failed)
		err_copy(err, &e);
	return failed ? e.code : status ? err_set(err, -EIO, "unpacking ended with status %d", status) : 0;
}

/* -- counting ------------------------------------------------------------------------------------------------------ */
static struct {
	unsigned long long files, bytes;
} total; /* nftw takes no argument */

static int count_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)path;
	(void)flag;
	(void)at;
	total.files++;
	total.bytes += S_ISREG(st->st_mode) ? (unsigned long long)st->st_size : 0;
	return total.files > UNPACK_FILES_MAX || total.bytes > UNPACK_BYTES_MAX;
}

int unpack_source(struct job *j, const char *deployment, const char *target, struct err *err)
{
	auto_fd source = open_source(j, deployment, err);

	if (source < 0)
		return source;
	if (mkdir(target, 0755) < 0 || chown(target, NOBODY, NOBODY) < 0)
		return err_sys(err, "make %s", target);
	int r = in_child(j, source, target, err);
	if (r < 0)
		return r;
	total.files = total.bytes = 0;
	if (nftw(target, count_one, 64, FTW_PHYS | FTW_MOUNT) != 0)
		return err_set(err, -EINVAL, "the source has more than %u files or %llu GiB", UNPACK_FILES_MAX,
			       UNPACK_BYTES_MAX >> 30);
	return 0;
}
