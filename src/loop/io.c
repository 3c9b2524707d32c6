#include <errno.h>

#include "base/time.h"
#include "loop/private.h"

#define BATCH 256 /* events fetched by one system call */

int loop_io_open(struct loop_io *io, struct loop *l, int fd, uint32_t events, loop_io_fn *fn, void *arg,
		 struct err *err)
{
	struct epoll_event ev = { .events = events, .data.ptr = io };

	*io = (struct loop_io){ .fd = fd, .events = events, .fn = fn, .arg = arg };
	list_init(&io->pending);
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_sys(err, "watch descriptor %d", fd);
	io->loop = l;
	return 0;
}

void loop_io_set(struct loop_io *io, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = io };

	if (!io->loop || io->events == events)
		return;
	io->events = events;
	/* Cannot fail for a descriptor that is open and watched, but for the caller's having closed it. */
	epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &ev);
}

void loop_io_close(struct loop_io *io)
{
	if (!io->loop)
		return;
	epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
	list_remove(&io->pending);
	io->loop = NULL;
}

/* Events wait on a list and not in the array that epoll filled: a callback may close, and have freed, any watch, and
 * closing takes it off the list. */
static int fetch(struct loop *l, int timeout_ms)
{
	struct epoll_event events[BATCH];
	int n = epoll_wait(l->epoll_fd, events, BATCH, timeout_ms);

	l->turn_events = n > 0 ? (unsigned)n : 0;
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		struct loop_io *io = events[i].data.ptr;

		io->fired = events[i].events;
		list_push_back(&l->pending, &io->pending);
	}
	return 0;
}

int loop_io_turn(struct loop *l, int timeout_ms)
{
	int r = fetch(l, timeout_ms);

	if (r < 0)
		return r;
	l->now_ms = time_now_ms();
	while (!list_empty(&l->pending)) {
		struct loop_io *io = list_first(&l->pending, struct loop_io, pending);
		/* An earlier callback may have asked for less since. */
		uint32_t fired = io->fired & (io->events | EPOLLERR | EPOLLHUP);

		list_remove(&io->pending);
		if (fired)
			io->fn(io, fired, io->arg);
	}
	return 0;
}
