#include "init/loop.h"

#include <errno.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/init.h"

int watch_open(struct init *in, struct watch *w, int fd, uint32_t events, watch_fn fn)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	w->fd = fd;
	w->fn = fn;
	w->events = 0;
	if (epoll_ctl(in->epoll, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = -errno;

		w->fd = fd_close(fd);
		return r;
	}
	w->events = events;
	return 0;
}

void watch_set(struct init *in, struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };
	int op = !events ? EPOLL_CTL_DEL : !w->events ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (w->fd < 0 || w->events == events)
		return;
	if (epoll_ctl(in->epoll, op, w->fd, &ev) == 0)
		w->events = events;
}

void watch_close(struct init *in, struct watch *w)
{
	if (w->fd < 0)
		return;
	watch_set(in, w, 0);
	w->fd = fd_close(w->fd);
}

/* Rounded up: a timer that fires early would only spin. */
static int timeout_ms(uint64_t deadline_us)
{
	uint64_t now, ms;

	if (deadline_us == UINT64_MAX)
		return -1;
	now = time_now_us();
	if (deadline_us <= now)
		return 0;
	ms = (deadline_us - now + 999) / 1000;
	return ms > 3600 * 1000 ? 3600 * 1000 : (int)ms;
}

void loop_once(struct init *in, uint64_t deadline_us)
{
	struct epoll_event ev;
	struct watch *w;

	if (epoll_wait(in->epoll, &ev, 1, timeout_ms(deadline_us)) != 1)
		return;
	w = ev.data.ptr;
	if (w->fd >= 0)
		w->fn(in, w, ev.events);
}
