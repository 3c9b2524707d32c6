#include "spawner/start.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/boot.h"
#include "spawner/events.h"
#include "spawner/ids.h"
#include "spawner/netns.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define BACKGROUND_NICE 10
#define HIGH_FD 64 /* descriptors wait here while 0..9 are laid out */
#define KEYCTL_JOIN_SESSION_KEYRING 1

static int fail(struct start *s, const char *path)
{
	s->path = path;
	return -errno;
}

/* -- init's side ------------------------------------------------------------------------------------------------- */
/* The format of boot.h, which init itself uses for its own failures. */
static NORETURN void init_failed(int ready_fd, const char *stage)
{
	char text[96];
	int n = snprintf(text, sizeof(text), "%s%c%d%c", stage, 0, errno, 0);
	ssize_t w UNUSED = write(ready_fd, text, (size_t)n);

	_exit(1);
}

/* All end at their numbers however they lay before: first up out of the way, then down. */
static int lay_out(const int *fds, size_t n)
{
	int high[BOOT_FD_END];

	for (size_t i = 0; i < n; i++) {
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, HIGH_FD);
		if (high[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < n; i++)
		if (dup2(high[i], (int)i) < 0)
			return -errno;
	return sys_close_range((unsigned int)n, ~0u, SYS_CLOSE_RANGE_CLOEXEC) < 0 ? -errno : 0;
}

void start_exec_init(const struct host *h, const int *fds, const char *flags)
{
	char *argv[] = { (char[]){ "openreward-init" }, strdup(flags), NULL };
	char *envp[] = { NULL };
	int program = fcntl(h->init_fd, F_DUPFD_CLOEXEC, HIGH_FD);
	int r = program < 0 ? -errno : lay_out(fds, BOOT_FD_END);

	if (r == 0)
		syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	else
		errno = -r;
	init_failed(fds[BOOT_FD_READY], "execute init");
}

static NORETURN void exec_sandbox_init(const struct start *s, int null_fd, int score_fd)
{
	const int fds[BOOT_FD_END] = {
		null_fd, null_fd, null_fd,
		[BOOT_FD_CONTROL] = s->control_fd, [BOOT_FD_EGRESS] = s->egress_fd, [BOOT_FD_CGROUP] = s->runs_fd,
		[BOOT_FD_SPOOL] = null_fd, [BOOT_FD_READY] = s->ready_fd, [BOOT_FD_STATS] = s->stats_fd,
		[BOOT_FD_PIDS] = s->pids_fd, [BOOT_FD_SCORE] = score_fd, [BOOT_FD_GO] = s->go_fd,
	};
	char flags[24];

	/* Beside another one, that one's init holds the listeners. */
	snprintf(flags, sizeof(flags), "wait%s%s", s->plan && s->plan->beside ? "" : ",steer", host_pipes_cores(s->host) ? ",nocore" : "");
	start_exec_init(s->host, fds, flags);
}

/* Pid 1 of the sandbox. Its user namespace has its map once something comes through map_fd, and with it what only the host's
 * root can open. */
static NORETURN void become_init(const struct start *s)
{
	struct rlimit core;
	size_t len = 0, n_fds = 0;
	char byte;
	int null_fd, score_fd;

	if (fd_recv(s->map_fd, &byte, 1, &len, &score_fd, 1, &n_fds) < 0 || len != 1 || n_fds != 1)
		_exit(1); /* the builder failed and has told why */
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		init_failed(s->ready_fd, "become root of the user namespace");
	/* Both follow when the root is another. */
	if (chdir("/") < 0)
		init_failed(s->ready_fd, "enter the root");
	/* The keyring of whoever started the spawner must not be the sandbox's. */
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	setsid();
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = 1; /* a crash inside is no business of the host's core handler, which 0 would not keep away */
		setrlimit(RLIMIT_CORE, &core);
	}
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		init_failed(s->ready_fd, "open /dev/null");
	exec_sandbox_init(s, null_fd, score_fd);
}

/* -- the builder's steps ----------------------------------------------------------------------------------------- */
static int told(struct start *s, int r, const struct err *err)
{
	if (r < 0) {
		snprintf(s->path_buf, sizeof(s->path_buf), "%.*s", (int)sizeof(s->path_buf) - 1, err->msg);
		s->path = s->path_buf;
	}
	return r;
}

static int step_cgroup(struct start *s)
{
	struct err err = ERR_INIT;
	int r = cgroup_make_v1(&s->host->cg, s->name, &err);

	if (r < 0)
		return told(s, r, &err);
	s->path = s->name;
	return cgroup_enter_v1(&s->host->cg, s->name);
}

static int step_net(struct start *s)
{
	struct err err = ERR_INIT;
	auto_fd fd = -1;
	int r = s->net_fd >= 0 ? 0 : netns_create(s->sysctls, &fd, &err);

	if (r == 0 && setns(s->net_fd >= 0 ? s->net_fd : fd, CLONE_NEWNET) < 0)
		r = err_sys(&err, "setns");
	s->net_fd = fd_close(s->net_fd);
	s->sysctls = fd_close(s->sysctls);
	return told(s, r, &err);
}

static int step_mount_namespace(struct start *s)
{
	snprintf(s->path_buf, sizeof(s->path_buf), "%s/sandboxes/.stage", s->host->data);
	if (unshare(CLONE_NEWNS) < 0)
		return fail(s, "");
	return chdir(s->path_buf) < 0 ? fail(s, s->path_buf) : 0;
}

/* A folder for init to hold, cut off from its surroundings: it is the root of a mount of its own, and when root_pivot()
 * takes all that was mounted here away, that mount is nobody's child any more and ".." leads nowhere. Taking away one by
 * one, as closing a clone that was never attached does, would cost a grace period each. */
static int open_confined(struct start *s, const char *path, const char *target, int *ret)
{
	auto_fd tree = sys_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (tree < 0)
		return fail(s, path);
	if (sys_move_mount(tree, "", AT_FDCWD, target, SYS_MOVE_EMPTY_FROM) < 0)
		return fail(s, target);
	*ret = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret < 0 ? fail(s, path) : 0;
}

static const char *tree_path(struct start *s, enum cgroup_tree t, const char *below)
{
	const struct cgroups *c = &s->host->cg;

	if (c->dir[t] < 0)
		t = CGROUP_V2;
	snprintf(s->path_buf, sizeof(s->path_buf), "%s/%s%s", c->path[t], s->name, below);
	return s->path_buf;
}

static int step_folders(struct start *s)
{
	int r = open_confined(s, tree_path(s, CGROUP_V2, "/runs"), "runs", &s->runs_fd);

	if (r == 0)
		r = open_confined(s, tree_path(s, CGROUP_MEMORY, ""), "stats", &s->stats_fd);
	if (r == 0)
		r = open_confined(s, tree_path(s, CGROUP_PIDS, ""), "pids", &s->pids_fd);
	return r;
}

/* Another effective id takes all effective capabilities away. Ubuntu's AppArmor (kernel.apparmor_restrict_unprivileged_userns)
 * gives a user namespace whose maker has no CAP_SYS_ADMIN a profile that denies everything. */
static int stay_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, caps) < 0)
		return -1;
	caps[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective = CAP_TO_MASK(CAP_SYS_ADMIN) & caps[CAP_TO_INDEX(CAP_SYS_ADMIN)].permitted;
	return (int)syscall(SYS_capset, &head, caps);
}

/* The effective id only, and back: the permitted capabilities stay as long as one of the three ids is 0. */
static pid_t clone_as_first(struct start *s)
{
	struct sys_clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_PARENT |
			 CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&s->init_pidfd,
	};
	pid_t pid;

	if (setegid(s->first) < 0 || seteuid(s->first) < 0 || stay_admin() < 0)
		return -1;
	pid = sys_clone3(&args);
	if (pid != 0 && (seteuid(0) < 0 || setegid(0) < 0))
		_exit(1);
	return pid;
}

static int step_clone(struct start *s)
{
	struct start_report report = { .pid = 0 };
	int map[2], go[2];

	if (setgroups(0, NULL) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, map) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) < 0)
		return fail(s, "");
	s->init_pid = clone_as_first(s);
	if (s->init_pid < 0)
		return fail(s, "");
	if (s->init_pid == 0) {
		/* Else its own copy would keep it waiting when the builder dies. Of the other one execve takes care. */
		fd_close(map[1]);
		s->map_fd = map[0];
		s->go_fd = go[0];
		become_init(s);
	}
	fd_close(map[0]);
	fd_close(go[0]);
	s->map_fd = map[1];
	s->go_fd = go[1];
	report.pid = s->init_pid;
	return write(s->report_fd, &report, sizeof(report)) < 0 ? fail(s, "report") : 0;
}

static int write_map(struct start *s, const char *file)
{
	char map[48];
	int n = snprintf(map, sizeof(map), "0 %u %u\n", s->first, IDS_PER_RANGE);
	auto_fd fd = -1;

	snprintf(s->path_buf, sizeof(s->path_buf), "/proc/%d/%s", s->init_pid, file);
	fd = open(s->path_buf, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, map, (size_t)n) != n)
		return fail(s, s->path_buf);
	return 0;
}

static int step_map(struct start *s)
{
	int r = write_map(s, "uid_map");

	if (r == 0)
		r = write_map(s, "gid_map");
	if (r < 0)
		return r;
	s->userns_fd = sys_pidfd_namespace(s->init_pidfd, s->init_pid, SYS_NAMESPACE_USER);
	if (s->userns_fd < 0)
		return fail(s, "its user namespace");
	/* Inside, the files of /proc/1 are the host root's. */
	snprintf(s->path_buf, sizeof(s->path_buf), "/proc/%d/oom_score_adj", s->init_pid);
	s->score_fd = open(s->path_buf, O_RDWR | O_CLOEXEC);
	return s->score_fd < 0 ? fail(s, s->path_buf) : fd_send(s->map_fd, "m", 1, &s->score_fd, 1);
}

/* Nothing of the sandbox runs yet, and nobody is left to wait for when the spawner has died meanwhile. */
static int step_plan(struct start *s)
{
	static uint64_t message[WIRE_MAX / 8];
	static struct plan plan;
	struct err err = ERR_INIT;
	size_t len = 0, n_fds = 0;
	struct wire_in in;
	int r;

	if (s->plan)
		return 0;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != s->spawner_pid)
		return fail(s, "the spawner");
	r = fd_recv(s->plan_fd, message, sizeof(message), &len, NULL, 0, &n_fds);
	if (r == 0)
		r = len == 0 ? -ECONNRESET : wire_parse(&in, message, len);
	if (r == 0)
		r = plan_decode(&plan, &in, &err);
	if (r == 0)
		s->plan = &plan;
	return told(s, r, &err);
}

static int limit(struct start *s, const struct cgroup_limits *limits)
{
	struct err err = ERR_INIT;

	return told(s, cgroup_limit(&s->host->cg, s->name, limits, &err), &err);
}

static int step_limit_ahead(struct start *s)
{
	return s->plan || !cgroup_limits_all(&s->ahead) ? 0 : limit(s, &s->ahead);
}

static int step_limit(struct start *s)
{
	const struct cgroup_limits limits = start_limits(s->plan);

	return cgroup_limits_equal(&limits, &s->ahead) ? 0 : limit(s, &limits);
}

static int step_limit_disk(struct start *s)
{
	const struct disk_share share = { s->plan->disk_bytes, s->plan->disk_files, s->first };
	struct err err = ERR_INIT;

	return told(s, disk_limit(&s->host->disk, s->folder_fd, &share, &err), &err);
}

/* In the sandbox's namespace, in which this process is from then on. */
static int step_hostname(struct start *s)
{
	if (setns(s->init_pidfd, CLONE_NEWUTS) < 0 || sethostname(s->plan->hostname, strlen(s->plan->hostname)) < 0)
		return fail(s, s->plan->hostname);
	return 0;
}

static int step_make_folders(struct start *s)
{
	struct err err = ERR_INIT;

	s->folder_fd = host_make_folders(s->host, s->name, s->plan && s->plan->memory_upper, s->first, &err);
	if (s->folder_fd < 0)
		return told(s, s->folder_fd, &err);
	snprintf(s->path_buf, sizeof(s->path_buf), "../%s/spool", s->name);
	return open_confined(s, s->path_buf, "spool", &s->spool_fd);
}

static int step_go(struct start *s)
{
	const struct boot_go go = { .no_new_privs = s->plan->no_new_privs };

	/* init was born with the builder's. */
	if (s->background && s->host->may_renice && setpriority(PRIO_PROCESS, (id_t)s->init_pid, 0) < 0)
		return fail(s, "priority");
	return fd_send(s->go_fd, &go, sizeof(go), &s->spool_fd, 1);
}

/* Taking the host's mounts away waits for a grace period, in which init goes on. It tells nobody that it is ready before this. */
static int step_leave(struct start *s)
{
	int r = root_leave(s);

	return r < 0 ? r : fd_send(s->go_fd, "", 1, NULL, 0);
}

static const struct step {
	const char *stage; /* as the daemon shows it: "could not STAGE" */
	int (*fn)(struct start *s);
} steps[] = {
	{ "enter the cgroup", step_cgroup },
	{ "enter the net namespace", step_net },
	{ "make the mount namespace", step_mount_namespace },
	{ "open folders for init", step_folders },
	{ "make the namespaces", step_clone },
	{ "map ids", step_map },
	{ "mount /dev", root_prepare_dev },
	{ "mount /proc", root_prepare_proc },
	{ "mask /proc", root_mask_proc },
	{ "mount /sys", root_prepare_sys },
	{ "make folders", step_make_folders },
	{ "limit the cgroup", step_limit_ahead },
	{ "take the plan", step_plan },
	{ "limit the cgroup", step_limit },
	{ "limit the disk", step_limit_disk },
	{ "set the host name", step_hostname },
	{ "mount an id-mapped layer", root_mount_layers },
	{ "mount overlay", root_mount_overlay },
	{ "mount /dev/shm", root_mount_shm },
	{ "mount /dev, /proc and /sys", root_attach },
	{ "mount what the configuration names", root_mount_configured },
	{ "mount the bucket", root_mount_bucket },
	{ "change the root", root_pivot },
	{ "let init go", step_go },
	{ "leave the host's root", step_leave },
};

/* It keeps nothing of the spawner's alive, however long it waits for a plan: connections, namespaces, other sandboxes' sockets; nor
 * has init's copy of the table thousands of them. */
static void drop_descriptors(const struct start *s)
{
	const struct host *h = s->host;
	int keep[] = {
		h->data_dir, h->sandboxes_dir, h->init_fd, h->core_fd, h->cg.dir[0], h->cg.dir[1], h->cg.dir[2], h->cg.dir[3],
		s->control_fd, s->egress_fd, s->ready_fd, s->report_fd, s->plan_fd, s->net_fd, s->sysctls,
	};

	close_others(keep, ARRAY_LEN(keep));
}

static NORETURN void build(struct start *s)
{
	struct start_report report = { .pid = 0 };

	events_reset_child();
	drop_descriptors(s);
	if (s->background && s->host->may_renice)
		setpriority(PRIO_PROCESS, 0, BACKGROUND_NICE);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		int r;

		s->path = "";
		r = steps[i].fn(s);
		if (r >= 0)
			continue;
		report.error = r;
		snprintf(report.stage, sizeof(report.stage), "%s", steps[i].stage);
		snprintf(report.path, sizeof(report.path), "%s", s->path);
		(void)!write(s->report_fd, &report, sizeof(report));
		_exit(1);
	}
	_exit(0);
}

pid_t start_fork(struct start *s, struct err *err)
{
	auto_fd cgroup = cgroup_open_v2(&s->host->cg, s->name);
	struct sys_clone_args args = {
		.flags = SYS_CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup,
	};
	pid_t pid;

	if (cgroup < 0)
		return err_sys_code(err, cgroup, "open cgroup");
	s->init_pidfd = s->userns_fd = s->map_fd = s->go_fd = s->score_fd = -1;
	s->folder_fd = s->spool_fd = s->runs_fd = s->stats_fd = s->pids_fd = -1;
	s->root_fd = s->dev_fd = s->proc_fd = s->sys_fd = s->mqueue_fd = -1;
	s->spawner_pid = getpid();
	pid = sys_clone3(&args);
	if (pid == 0)
		build(s);
	return pid < 0 ? err_sys(err, "fork into the cgroup") : pid;
}
