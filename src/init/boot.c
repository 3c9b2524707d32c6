#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/command.h"
#include "init/init.h"
#include "init/lend.h"
#include "init/seccomp.h"
#include "init/user.h"

#define NOFILE_MAX 1048576
#define SAVED_GID 65535 /* the last of a sandbox's range */

int init_flags(struct init *in, const char *flags, struct err *err)
{
	while (*flags) {
		size_t len = strcspn(flags, ",");

		if (len == 5 && !strncmp(flags, "steer", len))
			in->steer = true;
		else if (len == 3 && !strncmp(flags, "nnp", len))
			in->nnp = true;
		else if (len == 6 && !strncmp(flags, "nocore", len))
			in->nocore = true;
		else if (len == 4 && !strncmp(flags, "wait", len))
			in->wait = true;
		else if (len == 6 && !strncmp(flags, "holder", len))
			in->holder = true;
		else if (len)
			return err_set(err, -EINVAL, "flag \"%.*s\" is not known", (int)len, flags);
		flags += len;
		flags += *flags == ',';
	}
	return 0;
}

/* Every number below BOOT_FD_END is taken from here on, so that a descriptor made later never has a number that a
 * command's set-up overwrites. */
static int fill_descriptors(struct err *err)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* A namespace's holder may have no /dev at all. */
	if (null < 0)
		null = memfd_create("null", MFD_CLOEXEC);
	if (null < 0)
		return err_sys(err, "open /dev/null");
	for (int fd = 0; fd < BOOT_FD_END; fd++) {
		if ((fd <= 2 || fcntl(fd, F_GETFD) < 0) && fd != null && dup2(null, fd) < 0)
			return err_sys(err, "fill descriptor %d", fd);
		if (fd > 2 && fd_set_cloexec(fd, true) < 0)
			return err_sys(err, "set close-on-exec on descriptor %d", fd);
	}
	if (fd_set_cloexec(0, false) < 0) /* commands inherit it as their stdin */
		return err_sys(err, "clear close-on-exec on descriptor 0");
	return syscall(SYS_close_range, (unsigned)BOOT_FD_END, ~0u, 0u) < 0 ? err_sys(err, "close descriptors") : 0;
}

/* All signals are blocked and arrive in order with everything else; none but SIGCHLD means anything. Dispositions are
 * the default, for the commands' sake: SIGCHLD ignored would lose their status. */
static int open_signals(struct init *in, void (*fn)(struct init *, struct watch *, uint32_t), struct err *err)
{
	static const uint64_t by_default[8]; /* the kernel's struct sigaction, all zero: SIG_DFL, no flags, no mask */
	sigset_t all, child;
	int fd, r;

	/* Straight to the kernel: libc keeps 32 to 34 for itself and refuses them. KILL and STOP fail, as they should. */
	for (int sig = 1; sig < NSIG; sig++)
		(void)syscall(SYS_rt_sigaction, sig, by_default, NULL, sizeof(uint64_t));
	sigfillset(&all);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		return err_sys(err, "block signals");
	fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_sys(err, "signalfd");
	r = watch_open(in, &in->signals, fd, EPOLLIN, fn);
	return r < 0 ? err_sys_code(err, r, "watch signals") : 0;
}

static void on_signal(struct init *in, struct watch *w, uint32_t events)
{
	struct signalfd_siginfo info[4];

	(void)events;
	if (read(w->fd, info, sizeof(info)) >= 0)
		runs_reap(in);
}

/* Docker's default set: what package managers, su, sudo, ping and servers need. */
static bool may_keep(int cap)
{
	static const int kept[] = {
		CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP,
		CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_MKNOD, CAP_AUDIT_WRITE, CAP_SETFCAP,
	};

	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		if (kept[i] == cap)
			return true;
	return false;
}

/* The bounding set is cut here, once: commands inherit it, init's own capabilities stay since it never executes. */
static int cut_privileges(struct err *err)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!may_keep(cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return err_sys(err, "drop capability %d", cap);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_sys(err, "clear ambient capabilities");
	if (syscall(SYS_setgroups, 0, NULL) < 0)
		return err_sys(err, "clear supplementary groups");
	/* The kernel lets whoever has all ids of a process change its resource limits, undumpable or not: root inside
	 * could take init's descriptors or processor time. A saved id that differs prevents it; commands lose it. */
	if (syscall(SYS_setresgid, (gid_t)-1, (gid_t)-1, (gid_t)SAVED_GID) < 0)
		return err_sys(err, "set the saved group");
	/* Whoever started the platform may have a session keyring with something in it. A kernel without keyrings, or a
	 * full quota, leaves nothing to protect or to do. */
	(void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	return 0;
}

static void set_limits(const struct init *in)
{
	struct rlimit files, core;

	umask(022);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max = MIN(files.rlim_max, (rlim_t)NOFILE_MAX);
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	/* Core dumps would fill the disk. A command may raise it, but not where the host gives them to a program, which the kernel
	 * runs whatever the limit is, unless that is 1 (core(5)); the filter keeps it. */
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = in->nocore;
		core.rlim_max = in->nocore ? 1 : core.rlim_max;
		(void)setrlimit(RLIMIT_CORE, &core);
	}
}

static int tell_ready(struct err *err)
{
	if (write(BOOT_FD_READY, "R", 1) != 1)
		return err_sys(err, "tell the spawner");
	/* The number stays taken. */
	return dup3(0, BOOT_FD_READY, O_CLOEXEC) < 0 ? err_sys(err, "close the ready pipe") : 0;
}

static int load_filter(const struct init *in, struct err *err)
{
	int r = seccomp_load(in->nocore);

	return r < 0 ? err_sys_code(err, r, "load the system-call filter") : 0;
}

static int boot_control(struct init *in, struct err *err)
{
	int r = fd_set_nonblock(BOOT_FD_CONTROL, true);

	if (r == 0)
		r = control_open(in);
	return r < 0 ? err_sys_code(err, r, "watch the control socket") : 0;
}

/* What was opened of the host's while that was the root is given up. */
static int enter_root(int spool, struct err *err)
{
	auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup3(null, 1, O_CLOEXEC) < 0 || dup3(null, 2, O_CLOEXEC) < 0)
		return err_sys(err, "open /dev/null");
	if (dup3(spool, BOOT_FD_SPOOL, O_CLOEXEC) < 0 || chdir("/") < 0)
		return err_sys(err, "enter the root");
	return 0;
}

static int wait_for_root(struct init *in, struct err *err)
{
	struct boot_go go;
	size_t len = 0, n_fds = 0;
	int spool = -1;
	int r = fd_recv(BOOT_FD_GO, &go, sizeof(go), &len, &spool, 1, &n_fds);

	if (r == 0 && len == 0)
		_exit(1); /* the builder failed, and has told why */
	if (r == 0 && (len != sizeof(go) || n_fds != 1))
		r = -ECONNRESET;
	if (r < 0)
		return err_sys_code(err, r, "wait for the root");
	in->nnp = go.no_new_privs;
	r = enter_root(spool, err);
	fd_close(spool);
	return r;
}

/* Until then ".." from what is mounted on the root would lead to the host's. */
static int wait_for_leave(struct err *err)
{
	char byte;
	ssize_t n = read(BOOT_FD_GO, &byte, 1);

	if (n == 0)
		_exit(1); /* as above */
	if (n < 0)
		return err_sys(err, "wait until the host's root is gone");
	return dup3(0, BOOT_FD_GO, O_CLOEXEC) < 0 ? err_sys(err, "close the builder's socket") : 0;
}

static int forgo_privileges(const struct init *in, struct err *err)
{
	return in->nnp && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? err_sys(err, "set no_new_privs") : 0;
}

int init_boot(struct init *in, const char **ret_stage, struct err *err)
{
	int r = -EIO;

#define STAGE(name, call)                         \
	do {                                      \
		*ret_stage = (name);              \
		if ((r = (call)) < 0)             \
			return r;                 \
	} while (0)
	in->epoll = -1;
	runs_init(&in->runs);
	net_init(&in->net);
	STAGE("descriptors", fill_descriptors(err));
	in->epoll = epoll_create1(EPOLL_CLOEXEC);
	STAGE("epoll", in->epoll < 0 ? err_sys(err, "epoll_create1") : 0);
	STAGE("signals", open_signals(in, on_signal, err));
	set_limits(in);
	if (!in->holder)
		STAGE("privileges", cut_privileges(err));
	groups_open(in);
	command_open();
	lend_open();
	STAGE("control", boot_control(in, err));
	if (in->steer || in->holder)
		STAGE("listen", net_open(in, err));
	if (!in->holder)
		STAGE("seccomp", load_filter(in, err));
	if (!in->holder) {
		user_die_with_parent();
		groups_prepare(in);
	}
	if (in->wait)
		STAGE("root", wait_for_root(in, err));
	if (!in->holder)
		STAGE("no_new_privs", forgo_privileges(in, err));
	if (in->wait)
		STAGE("the host's root", wait_for_leave(err));
	/* Not before: /etc may be a link of the image's. */
	if (!in->holder && (r = control_first(in, ret_stage, err)) < 0)
		return r;
	STAGE("ready", tell_ready(err)); /* nobody reads it any more if the spawner died before that */
#undef STAGE
	return 0;
}

static uint64_t next_us(const struct init *in)
{
	uint64_t a = MIN(runs_next_us(in), groups_next_us(in)), b = MIN(net_next_us(in), control_next_us(in));

	return MIN(a, b);
}

/* What the first command needs, before anybody asks: most of all in a sandbox that is kept prepared. */
static void prepare(struct init *in)
{
	struct err err;
	struct user user;

	(void)!user_lookup(&user, USER_FOLDER, "", false, &err);
	runs_prepare(in);
}

void init_loop(struct init *in)
{
	if (!in->holder)
		prepare(in);
	while (!in->over) {
		uint64_t next = next_us(in), now;

		loop_once(in, next);
		if (next == UINT64_MAX)
			continue;
		now = time_now_us();
		runs_tick(in, now);
		groups_tick(in, now);
		net_tick(in, now);
		control_tick(in, now);
	}
}
