#include "spawner/events.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/slice.h"

static struct list *bucket(struct events *ev, pid_t pid)
{
	return &ev->children[(unsigned int)pid % EVENTS_PID_BUCKETS];
}

static struct child *find_child(struct events *ev, pid_t pid)
{
	list_foreach(bucket(ev, pid), struct child, link, c)
		if (c->pid == pid)
			return c;
	return NULL;
}

static void child_ended(struct events *ev, pid_t pid, int status)
{
	struct child *c = find_child(ev, pid);

	if (!c && ev->unknown_child) {
		ev->unknown_child(ev->unknown_arg);
		c = find_child(ev, pid);
	}
	if (!c)
		return; /* an orphan of a job or of a failed start, which came to us because we are the subreaper */
	events_child_remove(c);
	c->fn(c->arg, status);
}

static void reap(struct events *ev)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
		child_ended(ev, pid, status);
}

static void on_signal(void *arg, uint32_t epoll_events)
{
	struct events *ev = arg;
	struct signalfd_siginfo si;

	(void)epoll_events;
	while (read(ev->signals.fd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo != SIGCHLD)
			ev->terminated = true;
	/* Always: several SIGCHLD may have been one. */
	reap(ev);
}

static void own_signals(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGCHLD);
	sigaddset(ret, SIGTERM);
	sigaddset(ret, SIGINT);
}

int events_init(struct events *ev, struct err *err)
{
	sigset_t set;
	int fd, r;

	*ev = (struct events){ .signals.fd = -1 };
	for (size_t i = 0; i < EVENTS_PID_BUCKETS; i++)
		list_init(&ev->children[i]);
	ev->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ev->epoll_fd < 0)
		return err_sys(err, "epoll_create1");
	own_signals(&set);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_sys(err, "sigprocmask");
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_sys(err, "signalfd");
	ev->signals.fn = on_signal;
	ev->signals.arg = ev;
	r = events_watch(ev, &ev->signals, fd, EPOLLIN);
	return r < 0 ? err_sys_code(err, r, "watch signals") : 0;
}

void events_reset_child(void)
{
	sigset_t none;

	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void events_begin_helper(pid_t parent, const char *name)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	if (name)
		(void)prctl(PR_SET_NAME, name, 0, 0, 0);
	events_reset_child();
	slice_set(0, SLICE_DEFAULT);
}

int events_watch(struct events *ev, struct source *s, int fd, uint32_t epoll_events)
{
	struct epoll_event e = { .events = epoll_events, .data.ptr = s };

	if (epoll_ctl(ev->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		return -errno;
	s->fd = fd;
	return 0;
}

int events_change(struct events *ev, struct source *s, uint32_t epoll_events)
{
	struct epoll_event e = { .events = epoll_events, .data.ptr = s };

	return epoll_ctl(ev->epoll_fd, EPOLL_CTL_MOD, s->fd, &e) < 0 ? -errno : 0;
}

void events_close(struct events *ev, struct source *s)
{
	/* A child may have the descriptor still, so that closing it alone would not end the events. */
	if (s->fd >= 0)
		epoll_ctl(ev->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	s->fd = fd_close(s->fd);
}

void events_child_add(struct events *ev, struct child *c, pid_t pid)
{
	c->pid = pid;
	list_push_back(bucket(ev, pid), &c->link);
}

void events_child_remove(struct child *c)
{
	if (c->pid > 0)
		list_remove(&c->link);
	c->pid = 0;
}

int events_once(struct events *ev, int timeout_ms, struct err *err)
{
	struct epoll_event e;
	int n = epoll_wait(ev->epoll_fd, &e, 1, timeout_ms);

	if (n < 0 && errno != EINTR)
		return err_sys(err, "epoll_wait");
	if (n == 1) {
		struct source *s = e.data.ptr;

		s->fn(s->arg, e.events);
	}
	return 0;
}
