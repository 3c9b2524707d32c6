/* Jobs: what needs root but is not a sandbox: builds, pulls, imports, in a few fixed forms. A job is `openreward job KIND
 * ARG...` as root, in a pid and mount namespace and a cgroup of its own, under a reaper as pid 1. Killing the reaper is
 * killing everything that the job started. Jobs belong to the connection that asked: without a daemon nobody would read
 * their output or learn their end. */
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/slice.h"
#include "base/str.h"
#include "base/time.h"
#include "init/boot.h"
#include "spawner/netns.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define ARGS_MAX 64
#define ARG_BYTES_MAX 255
#define ENV_MAX 512
#define JOB_NET_FD 3
#define NET_LOST 125 /* exit status: the steered network could not be prepared */

struct job {
	struct list link;
	struct spawner *sp;
	char id[JOB_ID_MAX];
	char cgroup[JOB_ID_MAX + 4];
	uint64_t conn;            /* whose it is */
	struct child reaper, holder;
	int status_fd;            /* the reaper writes what waitpid told it */
	int holder_fd;            /* control socket of the holder init: closing ends it */
	uint64_t deadline_ms;     /* 0 = none */
	const char *reason;       /* "timeout", "cancelled", NULL */
	struct waiter canceller;
	int status;
};

/* The child's view of what was prepared for it. */
struct launch {
	struct job *job;
	const char *argv[ARGS_MAX + 6];
	int input, output, status, net, holder_ready; /* input: borrowed, -1 = /dev/null */
};

static struct job *find(const struct spawner *sp, const char *id)
{
	list_foreach((struct list *)&sp->jobs, struct job, link, j)
		if (id && strcmp(j->id, id) == 0)
			return j;
	return NULL;
}

bool job_exists(const struct spawner *sp, const char *cgroup)
{
	return strncmp(cgroup, "job-", 4) == 0 && find(sp, cgroup + 4);
}

/* -- the end ----------------------------------------------------------------------------------------------------- */
/* Frees j. */
static void job_over(struct job *j)
{
	struct spawner *sp = j->sp;
	struct wire_out o;

	conn_begin(sp, &o, WIRE_JOB_DONE, (struct waiter){ 0, 0 });
	wire_put_str(&o, WIRE_T_ID, j->id);
	wire_put_u64(&o, WIRE_T_STATUS, (uint64_t)(uint32_t)j->status);
	wire_put_str(&o, WIRE_T_REASON, j->reason);
	conn_answer(sp, (struct waiter){ j->conn, 0 }, &o);
	if (j->canceller.conn)
		conn_ok(sp, j->canceller);
	fd_close(j->status_fd);
	fd_close(j->holder_fd);
	list_remove(&j->link);
	clean_bury(sp, &(struct remains){ j->cgroup, 0, false, -1 });
	free(j);
}

static void over_if_dead(struct job *j)
{
	if (j->reaper.pid == 0 && j->holder.pid == 0)
		job_over(j);
}

static void on_reaper_exit(void *arg, int status)
{
	struct job *j = arg;

	j->status = status;
	if (WIFEXITED(status) && read(j->status_fd, &j->status, sizeof(j->status)) != sizeof(j->status))
		j->status = status;
	j->holder_fd = fd_close(j->holder_fd);
	if (j->holder.pid > 0)
		kill(j->holder.pid, SIGKILL); /* it holds listeners only: nothing to finish */
	over_if_dead(j);
}

static void on_holder_exit(void *arg, int status)
{
	(void)status;
	over_if_dead(arg);
}

static void job_kill(struct job *j, const char *reason)
{
	if (!j->reason)
		j->reason = reason;
	if (j->reaper.pid > 0)
		kill(j->reaper.pid, SIGKILL);
	cgroup_kill(&j->sp->host.cg, j->cgroup);
}

/* -- inside ------------------------------------------------------------------------------------------------------ */
static char *const *environment(const struct spawner *sp)
{
	static const char *env[ENV_MAX + SPAWNER_ARGS_MAX + 8];
	size_t n = 0;

	env[n++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	env[n++] = "HOME=/root";
	env[n++] = "LANG=C.UTF-8";
	for (size_t i = 0; sp->opt.job_env[i]; i++)
		env[n++] = sp->opt.job_env[i];
	/* Ours after that: where a name comes twice, getenv() finds the first. Proxies and CA settings of the host pass,
	 * our own keys do not. */
	for (size_t i = 0; environ[i] && n < ENV_MAX; i++)
		if (!str_starts(environ[i], "OPENREWARD_") && !str_starts(environ[i], "PATH=") &&
		    !str_starts(environ[i], "HOME=") && !str_starts(environ[i], "LANG="))
			env[n++] = environ[i];
	env[n] = NULL;
	return (char *const *)env;
}

static NORETURN void run_command(const struct launch *l)
{
	const struct spawner *sp = l->job->sp;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int net = l->net < 0 ? -1 : fcntl(l->net, F_DUPFD_CLOEXEC, 64);

	setsid();
	if (null_fd < 0 || dup2(l->input >= 0 ? l->input : null_fd, 0) < 0 || dup2(l->output, 1) < 0 || dup2(l->output, 2) < 0)
		_exit(126);
	if (net >= 0 && dup2(net, JOB_NET_FD) < 0)
		_exit(126);
	sys_close_range(l->net < 0 ? 3 : 4, ~0u, SYS_CLOSE_RANGE_CLOEXEC);
	execve(sp->opt.program, (char *const *)l->argv, environment(sp));
	dprintf(2, "cannot run %s: %s\n", sp->opt.program, strerror(errno));
	_exit(127);
}

static void wait_for_network(const struct launch *l)
{
	char text[128] = "";

	if (l->holder_ready < 0 || (read(l->holder_ready, text, sizeof(text) - 1) > 0 && text[0] == 'R'))
		return;
	dprintf(l->output, "the network of the build could not be prepared: %s\n", text);
	_exit(NET_LOST);
}

/* It lives as long as a build takes: sandboxes that end meanwhile are not to stay mounted for it, nor their namespaces to live. */
static void keep_only(const struct launch *l)
{
	int keep[] = { l->input, l->output, l->status, l->net, l->holder_ready };

	close_others(keep, ARRAY_LEN(keep));
}

/* Pid 1 of the job. Ends with the command, and takes with it whatever that left running. */
static NORETURN void reap_all(const struct launch *l)
{
	int status = 0;
	pid_t pid, main_pid;

	events_reset_child();
	slice_set(0, SLICE_DEFAULT);
	keep_only(l);
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
		dprintf(l->output, "mount /proc of the job: %s\n", strerror(errno));
		_exit(126);
	}
	wait_for_network(l);
	main_pid = fork();
	if (main_pid == 0)
		run_command(l);
	fd_close(l->output); /* end-of-file is the command's to give */
	while ((pid = wait(&status)) != main_pid)
		if (pid < 0 && errno != EINTR)
			_exit(126);
	(void)!write(l->status, &status, sizeof(status));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static NORETURN void become_holder(const struct job *j, int net, int control, int egress, int ready)
{
	const struct options *o = &j->sp->opt;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[BOOT_FD_END];

	events_reset_child();
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = null_fd;
	fds[BOOT_FD_CONTROL] = control;
	fds[BOOT_FD_EGRESS] = egress;
	fds[BOOT_FD_READY] = ready;
	if (null_fd < 0 || setns(net, CLONE_NEWNET) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(o->gid, o->gid, o->gid) < 0 || setresuid(o->uid, o->uid, o->uid) < 0)
		_exit(1);
	start_exec_init(&j->sp->host, fds, "steer,holder");
}

/* -- the beginning ----------------------------------------------------------------------------------------------- */
static pid_t fork_in_cgroup(const struct job *j, uint64_t flags, struct err *err)
{
	auto_fd cgroup = cgroup_open_v2(&j->sp->host.cg, j->cgroup);
	struct sys_clone_args args = {
		.flags = flags | SYS_CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup,
	};
	pid_t pid;

	if (cgroup < 0)
		return err_sys_code(err, cgroup, "open cgroup of the job");
	pid = sys_clone3(&args);
	return pid < 0 ? err_sys(err, "fork the job") : pid;
}

/* A steered net namespace, and an init in it that does nothing but pass on what is steered. */
static int make_network(struct job *j, struct launch *l, struct err *err)
{
	int r = netns_create(nets_sysctls(j->sp), &l->net, err);
	int control[2] = { -1, -1 }, egress[2] = { -1, -1 }, ready[2] = { -1, -1 };
	pid_t pid;

	if (r == 0 && (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 ||
		       socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, egress) < 0 ||
		       pipe2(ready, O_CLOEXEC) < 0))
		r = err_sys(err, "sockets of the build's network");
	pid = r < 0 ? r : fork_in_cgroup(j, 0, err);
	if (pid == 0)
		become_holder(j, l->net, control[1], egress[1], ready[1]);
	if (pid > 0)
		events_child_add(&j->sp->ev, &j->holder, pid);
	j->holder_fd = control[0];
	l->holder_ready = ready[0];
	r = pid < 0 ? (int)pid : egress_register(j->sp, j->id, ++j->sp->last_number, PLAN_NET_BUILD, egress[0]);
	fd_close(control[1]);
	fd_close(egress[0]);
	fd_close(egress[1]);
	fd_close(ready[1]);
	return pid >= 0 && r < 0 ? err_set(err, r, "egress does not run, so a build has no network") : r;
}

static int launch(struct job *j, struct launch *l, struct err *err)
{
	pid_t pid = fork_in_cgroup(j, CLONE_NEWPID | CLONE_NEWNS, err);

	if (pid == 0)
		reap_all(l);
	if (pid < 0)
		return (int)pid;
	events_child_add(&j->sp->ev, &j->reaper, pid);
	return 0;
}

/* Takes output. */
static void tell_started(struct job *j, struct waiter to, int output)
{
	struct wire_out o;

	conn_begin(j->sp, &o, WIRE_JOB_STARTED, to);
	wire_put_str(&o, WIRE_T_ID, j->id);
	conn_give(j->sp, to, &o, output);
}

static int job_run(struct job *j, struct launch *l, bool build, struct waiter to, struct err *err)
{
	int output[2], status[2], r;

	if (pipe2(output, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	auto_fd out_read = output[0], out_write = output[1];
	if (pipe2(status, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "pipe");
	auto_fd status_write = status[1];
	j->status_fd = status[0];
	l->output = out_write;
	l->status = status_write;
	r = cgroup_make_v2(&j->sp->host.cg, j->cgroup, 0, err);
	if (r == 0 && build)
		r = make_network(j, l, err);
	if (r == 0)
		r = launch(j, l, err);
	fd_close(l->net);
	fd_close(l->holder_ready);
	if (r == 0)
		tell_started(j, to, fd_steal(&out_read));
	return r;
}

/* -- requests ---------------------------------------------------------------------------------------------------- */
static bool is_safe(const char *s, size_t max)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/:@-");

	return n > 0 && n <= max && s[n] == 0 && s[0] != '-' && !strstr(s, "..");
}

static bool is_kind(const char *kind)
{
	static const char *const kinds[] = { "bootstrap", "pull", "import", "remove", "build", "prune", "clean", "forget", "sweep" };

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (strcmp(kinds[i], kind) == 0)
			return true;
	return false;
}

static bool removes_images(const char *kind)
{
	return strcmp(kind, "remove") == 0 || strcmp(kind, "prune") == 0 || strcmp(kind, "clean") == 0 ||
	       strcmp(kind, "forget") == 0 || strcmp(kind, "sweep") == 0;
}

static int read_request(struct launch *l, const struct wire_in *in, const char **ret_id, struct err *err)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *kind = wire_get_str(in, WIRE_T_JOB_KIND, 0);
	size_t n = wire_count(in, WIRE_T_ARG);

	if (!id || !is_safe(id, JOB_ID_MAX - 1) || strpbrk(id, "/:@"))
		return err_set(err, -EINVAL, "job: id \"%s\", expected 1..%d of A-Z, a-z, 0-9, . _ -", id ? id : "",
			       JOB_ID_MAX - 1);
	if (!kind || !is_kind(kind))
		return err_set(err, -EINVAL, "job: kind \"%s\", expected bootstrap, pull, import, remove, build, prune, clean, forget or sweep",
			       kind ? kind : "");
	if (n > ARGS_MAX)
		return err_set(err, -EINVAL, "job: %zu arguments, expected at most %d", n, ARGS_MAX);
	l->argv[0] = "openreward";
	l->argv[1] = "job";
	l->argv[2] = kind;
	l->argv[3] = "--data"; /* its value follows in job_start */
	for (size_t i = 0; i < n; i++) {
		const char *arg = wire_get_str(in, WIRE_T_ARG, i);

		if (!arg || !is_safe(arg, ARG_BYTES_MAX))
			return err_set(err, -EINVAL, "job: argument \"%s\", expected 1..%d of A-Z, a-z, 0-9, . _ / : @ - "
				       "without \"..\" and without a leading dash", arg ? arg : "", ARG_BYTES_MAX);
		l->argv[5 + i] = arg;
	}
	*ret_id = id;
	return 0;
}

static struct job *job_new(struct spawner *sp, const char *id, const struct wire_in *in, struct waiter to)
{
	uint64_t timeout = MIN(wire_get_u64(in, WIRE_T_TIMEOUT_MS, 0), UINT64_MAX / 2);
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	*j = (struct job){
		.sp = sp, .conn = to.conn, .status_fd = -1, .holder_fd = -1,
		.reaper = { .fn = on_reaper_exit, .arg = j }, .holder = { .fn = on_holder_exit, .arg = j },
		.deadline_ms = timeout ? time_now_ms() + timeout : 0,
	};
	snprintf(j->id, sizeof(j->id), "%s", id);
	snprintf(j->cgroup, sizeof(j->cgroup), "job-%s", id);
	list_push_back(&sp->jobs, &j->link);
	if (j->deadline_ms)
		spawner_wake(sp, j->deadline_ms);
	return j;
}

/* A failed start answers FAILED, and then ends like any job, without anybody to tell. */
static void job_failed(struct job *j, struct waiter to, int r, const char *text)
{
	conn_fail(j->sp, to, "start the job", r, NULL, text);
	j->conn = 0;
	job_kill(j, "failed");
	if (j->holder.pid > 0)
		kill(j->holder.pid, SIGKILL);
	over_if_dead(j);
}

void job_start(struct spawner *sp, const struct wire_in *in, int input, struct waiter to)
{
	struct launch l = { .input = input, .output = -1, .status = -1, .net = -1, .holder_ready = -1 };
	struct err err = ERR_INIT;
	const char *id = NULL;
	int r = read_request(&l, in, &id, &err);

	if (r == 0 && sp->closing_ms)
		r = err_set(&err, -ESHUTDOWN, "the spawner is ending");
	if (r == 0 && find(sp, id))
		r = err_set(&err, -EEXIST, "job %s runs already", id);
	if (r == 0) {
		l.argv[4] = sp->opt.data;
		l.job = job_new(sp, id, in, to);
		r = l.job ? 0 : -ENOMEM;
	}
	if (r < 0) {
		conn_fail(sp, to, "start the job", r, id, err.msg);
		return;
	}
	if (removes_images(l.argv[2]))
		pool_empty(sp); /* their layers may be about to go; what is still wanted is made anew */
	r = job_run(l.job, &l, strcmp(l.argv[2], "build") == 0, to, &err);
	if (r < 0)
		job_failed(l.job, to, r, err.msg);
}

void job_cancel(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	struct job *j = find(sp, id);

	if (!j) {
		conn_fail(sp, to, "cancel the job", -ENOENT, id, "there is no such job");
		return;
	}
	if (j->canceller.conn) {
		conn_fail(sp, to, "cancel the job", -EBUSY, id, "it is being cancelled already");
		return;
	}
	j->canceller = to;
	job_kill(j, "cancelled");
}

void jobs_tick(struct spawner *sp, uint64_t now_ms)
{
	list_foreach(&sp->jobs, struct job, link, j) {
		if (j->deadline_ms && j->deadline_ms <= now_ms) {
			j->deadline_ms = 0;
			job_kill(j, "timeout");
		} else if (j->deadline_ms) {
			spawner_wake(sp, j->deadline_ms);
		}
	}
}

void jobs_close(struct spawner *sp, uint64_t conn)
{
	list_foreach(&sp->jobs, struct job, link, j)
		if (conn == 0 || j->conn == conn)
			job_kill(j, "cancelled");
}
