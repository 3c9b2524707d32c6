/* Children by pidfd, signals by signalfd. */
#include <errno.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "loop/private.h"

/* -- children ------------------------------------------------------------------------------------------------- */

/* What is reported when somebody else has reaped the child: exit status 255. */
#define STATUS_UNKNOWN 0xff00

static void on_child(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	struct loop_child *c = arg;
	int status = STATUS_UNKNOWN;
	pid_t r;

	do {
		r = waitpid(c->pid, &status, WNOHANG);
	} while (r < 0 && errno == EINTR);
	if (r == 0)
		return;
	loop_child_close(c);
	c->fn(c, status, c->arg);
	(void)io;
}

int loop_child_open(struct loop_child *c, struct loop *l, pid_t pid, loop_child_fn *fn, void *arg, struct err *err)
{
	/* By number: musl and older C libraries have no wrapper. */
	auto_fd fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int r;

	*c = (struct loop_child){ .pid = pid, .fn = fn, .arg = arg };
	if (fd < 0)
		return err_sys(err, "pidfd_open of process %d", (int)pid);
	r = loop_io_open(&c->io, l, fd, EPOLLIN, on_child, c, err);
	if (r == 0)
		fd_steal(&fd);
	return r;
}

void loop_child_close(struct loop_child *c)
{
	if (!c->io.loop)
		return;
	loop_io_close(&c->io);
	c->io.fd = fd_close(c->io.fd);
}

/* -- signals -------------------------------------------------------------------------------------------------- */

static void on_signals(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	struct loop *l = arg;
	struct signalfd_siginfo info;

	/* Read one at a time: a handler may free much, but not the loop. */
	while (read(io->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		if (info.ssi_signo < LOOP_MAX_SIGNAL && l->handlers[info.ssi_signo].fn)
			l->handlers[info.ssi_signo].fn((int)info.ssi_signo, l->handlers[info.ssi_signo].arg);
}

static int watch_signals(struct loop *l, struct err *err)
{
	int fd = signalfd(l->signal_fd, &l->signals, SFD_CLOEXEC | SFD_NONBLOCK);

	if (fd < 0)
		return err_sys(err, "signalfd");
	if (l->signal_fd >= 0)
		return 0;
	l->signal_fd = fd;
	return loop_io_open(&l->signal_io, l, fd, EPOLLIN, on_signals, l, err);
}

int loop_signal(struct loop *l, int signo, loop_signal_fn *fn, void *arg, struct err *err)
{
	sigset_t one;

	if (signo <= 0 || signo >= LOOP_MAX_SIGNAL)
		return err_set(err, -EINVAL, "signal %d: expected 1 to %d", signo, LOOP_MAX_SIGNAL - 1);
	sigemptyset(&one);
	sigaddset(&one, signo);
	pthread_sigmask(SIG_BLOCK, &one, NULL);
	sigaddset(&l->signals, signo);
	l->handlers[signo].fn = fn;
	l->handlers[signo].arg = arg;
	return watch_signals(l, err);
}

void loop_signals_done(struct loop *l)
{
	if (l->signal_fd < 0)
		return;
	loop_io_close(&l->signal_io);
	l->signal_fd = fd_close(l->signal_fd);
	pthread_sigmask(SIG_UNBLOCK, &l->signals, NULL);
}
