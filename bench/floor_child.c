/* The child's side of floor.h: pid 1 of a box. Failures are left in the shared page. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "floor.h"
#include "init/seccomp_filter.h"
#include "spawner/sys.h"

char *const floor_commands[FLOOR_COMMANDS][4] = {
	{ "/true", NULL },
	{ "/bin/true", NULL },
	{ "/bin/bash", "-c", "true", NULL },
};

static NORETURN void fail(const struct floor_box *b, const char *stage)
{
	b->shared->error = errno;
	snprintf(b->shared->stage, sizeof(b->shared->stage), "%s", stage);
	_exit(99);
}

static void need(const struct floor_box *b, int r, const char *stage)
{
	if (r < 0)
		fail(b, stage);
}

static int attach(int mount_fd, const char *path)
{
	return sys_move_mount(mount_fd, "", AT_FDCWD, path, 0x04);
}

/* The flags of a mount are those of what it is bound from: one call. */
static int bind_mount(const char *from, const char *to)
{
	return mount(from, to, NULL, MS_BIND, NULL);
}

static int bind_read_only(const char *path)
{
	if (bind_mount(path, path) < 0)
		return -1;
	return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* host.h has these from .stage, where the builder has a sandbox's /proc. */
static const char *in_proc(const char *path)
{
	return strchr(path, '/') + 1;
}

static void mask(const struct floor *f, const struct floor_box *b)
{
	char path[64];

	for (size_t i = 0; f->host.masked_files[i]; i++) {
		snprintf(path, sizeof(path), "proc/%s", in_proc(f->host.masked_files[i]));
		need(b, bind_mount("dev/null", path), path);
	}
	for (size_t i = 0; f->host.masked_dirs[i]; i++) {
		snprintf(path, sizeof(path), "proc/%s", in_proc(f->host.masked_dirs[i]));
		need(b, bind_mount("dev/mqueue", path), path);
	}
	for (size_t i = 0; f->host.readonly[i]; i++) {
		snprintf(path, sizeof(path), "proc/%s", in_proc(f->host.readonly[i]));
		need(b, bind_read_only(path), path);
	}
	if (bind_mount("dev/mqueue", "sys/firmware") < 0 && errno != ENOENT)
		fail(b, "mask /sys/firmware");
	if (bind_mount("dev/mqueue", "sys/devices/virtual/powercap") < 0 && errno != ENOENT)
		fail(b, "mask /sys/devices/virtual/powercap");
}

/* Everything else of the root came from outside. dev/mqueue is the empty folder of the masks until it is mounted. */
static void assemble(const struct floor *f, const struct floor_box *b)
{
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	need(b, attach(b->shared->overlay_fd, "root"), "attach the overlay");
	need(b, fchdir(b->shared->overlay_fd), "enter the overlay");
	need(b, attach(b->shared->dev_fd, "dev"), "attach /dev");
	if (b->opt.least) {
		need(b, mount("proc", "proc", "proc", safe, NULL), "/proc");
		return;
	}
	need(b, attach(b->shared->sys_fd, "sys"), "attach /sys");
	need(b, mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"), "/dev/pts");
	need(b, mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777"), "/dev/shm");
	need(b, mount("proc", "proc", "proc", safe, NULL), "/proc");
	mask(f, b);
	need(b, mount("mqueue", "dev/mqueue", "mqueue", safe, NULL), "/dev/mqueue");
}

static void pivot(const struct floor_box *b)
{
	need(b, sys_pivot_root(".", "."), "pivot_root");
	need(b, umount2(".", MNT_DETACH), "take away the old root");
	need(b, chdir("/"), "chdir");
}

static void become_root(const struct floor_box *b)
{
	need(b, setgroups(0, NULL), "setgroups");
	need(b, (int)syscall(SYS_setresgid, 0, 0, 0), "setresgid");
	need(b, (int)syscall(SYS_setresuid, 0, 0, 0), "setresuid");
	need(b, sethostname("floor", 5), "sethostname");
	syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
	setsid();
}

/* The set that the product leaves. */
static bool keep(int cap)
{
	const uint64_t kept = 0xa80425fbull;

	return kept >> cap & 1;
}

static void drop(const struct floor_box *b)
{
	const struct sock_fprog program = {
		.len = ARRAY_LEN(seccomp_filter), .filter = (struct sock_filter *)(uintptr_t)seccomp_filter,
	};

	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (!keep(cap))
			need(b, prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "drop a capability");
	need(b, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities");
	need(b, (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program),
	     "load the filter of system calls");
}

static void set_output(const struct floor_box *b)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	need(b, null_fd, "open /dev/null");
	need(b, dup2(b->input_fd >= 0 ? b->input_fd : null_fd, 0), "standard input");
	need(b, dup2(b->output_fd >= 0 ? b->output_fd : null_fd, 1), "standard output");
	need(b, dup2(1, 2), "standard error");
}

/* -- the agent -------------------------------------------------------------------------------------------------------- */
static int run_command(int number, int output)
{
	int status = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		dup2(output, 1);
		dup2(output, 2);
		execve(floor_commands[number][0], floor_commands[number], (char *[]){ "PATH=/bin", NULL });
		_exit(127);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid ? 255 << 8 : status;
}

static NORETURN void agent(int sock)
{
	for (;;) {
		int number = 0, status, output = -1;
		size_t len = 0, n = 0;

		if (fd_recv(sock, &number, sizeof(number), &len, &output, 1, &n) < 0 || len != sizeof(number) || n != 1)
			_exit(0);
		status = run_command(number, output);
		fd_close(output);
		if (fd_send(sock, &status, sizeof(status), NULL, 0) < 0)
			_exit(0);
	}
}

int floor_ask_agent(const struct floor_box *b, int number, struct err *err)
{
	int status = -1, p[2];
	char output[4096];
	size_t len = 0, n = 0;
	int r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	r = fd_send(b->agent[0], &number, sizeof(number), &p[1], 1);
	fd_close(p[1]);
	while (r == 0 && read(p[0], output, sizeof(output)) > 0)
		;
	fd_close(p[0]);
	if (r == 0)
		r = fd_recv(b->agent[0], &status, sizeof(status), &len, NULL, 0, &n);
	if (r < 0)
		return err_sys_code(err, r, "the floor's agent");
	return status == 0 ? 0 : err_set(err, -EIO, "the floor's command ended with status %d", status);
}

/* By itself, which needs no lock against forks: see cgroup_enter_v1(). */
static void enter_v1(const struct floor_box *b)
{
	for (int t = 0; t < CGROUP_TREES; t++)
		if (b->v1_fds[t] >= 0 && write(b->v1_fds[t], "0", 1) != 1)
			fail(b, "enter a v1 cgroup");
}

void floor_child(const struct floor *f, const struct floor_box *b)
{
	char byte;

	enter_v1(b);
	if (read(b->go[0], &byte, 1) != 1)
		_exit(98);
	/* All descriptors are there by now; from here on, changes are the child's alone. */
	need(b, unshare(CLONE_FILES), "own descriptors");
	if (!b->opt.least)
		become_root(b);
	assemble(f, b);
	pivot(b);
	if (!b->opt.least)
		drop(b);
	set_output(b);
	if (b->opt.agent) {
		need(b, dup2(b->agent[1], 3), "the agent's socket");
		need(b, sys_close_range(4, ~0u, 0), "close descriptors");
		agent(3);
	}
	execve(b->argv[0], b->argv, (char *[]){ "PATH=/bin", NULL });
	fail(b, "execute");
}
