/* openreward-egress: started here, as the daemon's user, and again when it dies. Every sandbox's socket is kept by its
 * box, and the channel to the daemon here, so that a new egress gets all of them and nobody inside notices more than
 * broken connections. */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 10000
#define STEADY_MS BACKOFF_MAX_MS /* one that lived for so long was none that can't live */
#define BEHIND_MS 2 /* the channel was full: egress reads hundreds of registrations in this time */
#define HIGH_FD 64

static char *const *arguments(const struct spawner *sp)
{
	static const char *argv[SPAWNER_ARGS_MAX + 2];
	size_t n = 0;

	argv[n++] = "openreward-egress";
	for (size_t i = 0; sp->opt.egress_args[i]; i++)
		argv[n++] = sp->opt.egress_args[i];
	argv[n] = NULL;
	return (char *const *)argv;
}

/* Descriptors: 0 /dev/null, 1 and 2 ours, 3 the spawner, 4 the daemon. */
static int lay_out(int channel, int to_daemon)
{
	int a = fcntl(channel, F_DUPFD_CLOEXEC, HIGH_FD), b = fcntl(to_daemon, F_DUPFD_CLOEXEC, HIGH_FD);
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (a < 0 || b < 0 || null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(a, 3) < 0 || dup2(b, 4) < 0)
		return -errno;
	return sys_close_range(5, ~0u, SYS_CLOSE_RANGE_CLOEXEC) < 0 ? -errno : 0;
}

static NORETURN void run(const struct spawner *sp, int channel)
{
	char path[HOST_PATH_MAX + 32];
	int program;

	events_reset_child();
	snprintf(path, sizeof(path), "%s/openreward-egress", sp->opt.libexec);
	/* Opened as root: a tree that was built below /root is one that egress' user may not pass. */
	program = open(path, O_RDONLY | O_CLOEXEC);
	program = program < 0 ? program : fcntl(program, F_DUPFD_CLOEXEC, HIGH_FD);
	if (setgroups(0, NULL) < 0 || setresgid(sp->opt.gid, sp->opt.gid, sp->opt.gid) < 0 ||
	    setresuid(sp->opt.uid, sp->opt.uid, sp->opt.uid) < 0 || lay_out(channel, sp->egress.to_daemon[0]) < 0)
		_exit(126);
	/* After the change of ids, which clears it. Without a spawner nobody can give it work or end it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (program >= 0)
		syscall(SYS_execveat, program, "", arguments(sp), environ, AT_EMPTY_PATH);
	execv(path, arguments(sp)); /* a script has to be opened by its path */
	spawner_log("cannot run %s: %s", path, strerror(errno));
	_exit(127);
}

static int new_channel(int ret[2])
{
	const int size = 2 * WIRE_MAX;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret) < 0)
		return -errno;
	return setsockopt(ret[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0 ? -errno : 0;
}

static void plan_restart(struct spawner *sp)
{
	struct egress *e = &sp->egress;

	e->restart_at_ms = time_now_ms() + e->backoff_ms;
	e->backoff_ms = MIN(2 * e->backoff_ms, (uint64_t)BACKOFF_MAX_MS);
	spawner_wake(sp, e->restart_at_ms);
}

static void start(struct spawner *sp)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	int channel[2] = { -1, -1 };
	pid_t pid;
	int r = new_channel(channel);

	sp->egress.restart_at_ms = 0;
	sp->egress.started_ms = time_now_ms();
	pid = r < 0 ? -1 : sys_clone3(&args);
	if (pid == 0)
		run(sp, channel[1]);
	fd_close(channel[1]);
	if (pid < 0 || events_watch(&sp->ev, &sp->egress.channel, channel[0], EPOLLIN) < 0) {
		fd_close(channel[0]);
		plan_restart(sp);
	}
	if (pid > 0)
		events_child_add(&sp->ev, &sp->egress.child, pid);
	boxes_register(sp, true);
}

static void close_channel(struct spawner *sp)
{
	events_close(&sp->ev, &sp->egress.channel);
}

static void on_exit_(void *arg, int status)
{
	struct spawner *sp = arg;

	close_channel(sp);
	if (sp->closing_ms)
		return;
	if (time_now_ms() - sp->egress.started_ms >= STEADY_MS)
		sp->egress.backoff_ms = BACKOFF_MIN_MS;
	spawner_log("egress ended (%s %d), starts again in %llu ms", WIFSIGNALED(status) ? "signal" : "status",
		    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		    (unsigned long long)sp->egress.backoff_ms);
	plan_restart(sp);
}

/* It says nothing; end-of-file comes with its exit, which is handled as a child's. */
static void on_channel(void *arg, uint32_t epoll_events)
{
	struct spawner *sp = arg;
	char dropped[64];

	(void)epoll_events;
	if (recv(sp->egress.channel.fd, dropped, sizeof(dropped), MSG_DONTWAIT) == 0)
		close_channel(sp);
}

int egress_init(struct spawner *sp, struct err *err)
{
	struct egress *e = &sp->egress;

	e->channel = (struct source){ -1, on_channel, sp };
	e->child = (struct child){ .fn = on_exit_, .arg = sp };
	e->backoff_ms = BACKOFF_MIN_MS;
	if (new_channel(e->to_daemon) < 0)
		return err_sys(err, "channel between egress and daemon");
	start(sp);
	return 0;
}

void egress_done(struct spawner *sp)
{
	if (sp->egress.child.pid > 0)
		kill(sp->egress.child.pid, SIGKILL); /* it keeps nothing that it would have to put away */
	close_channel(sp);
}

void egress_tick(struct spawner *sp, uint64_t now_ms)
{
	struct egress *e = &sp->egress;

	if (e->restart_at_ms && e->restart_at_ms <= now_ms && !sp->closing_ms)
		start(sp);
	else if (e->restart_at_ms)
		spawner_wake(sp, e->restart_at_ms);
	if (!e->behind)
		return;
	e->behind = false;
	boxes_register(sp, false);
}

int egress_register(struct spawner *sp, const char *id, uint64_t number, enum plan_net net, int fd)
{
	struct egress *e = &sp->egress;
	struct wire_out o;
	int r;

	if (e->channel.fd < 0)
		return -EAGAIN; /* its next start registers everything */
	conn_begin(sp, &o, WIRE_REGISTER, (struct waiter){ 0, 0 });
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_u64(&o, WIRE_T_NUMBER, number);
	wire_put_u64(&o, WIRE_T_NET, net);
	r = wire_send(e->channel.fd, &o, &fd, 1);
	/* Full, or the kernel is short of what a message needs: soon it may not be. Else the channel is broken. */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET) {
		e->behind = true;
		spawner_wake(sp, time_now_ms() + BEHIND_MS);
	}
	return r;
}
