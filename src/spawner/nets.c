/* Net namespaces that go from one sandbox to the next. Making one takes a millisecond of processor time, and taking it down
 * as much again, under locks of the whole machine. So those that go wait until no sandbox has ended for a moment, though not for
 * long: when thousands end at once it is their ends that somebody waits for. The kernel takes down together what is closed
 * together. */
#include <sys/resource.h>

#include "base/fd.h"
#include "base/time.h"
#include "spawner/netns.h"
#include "spawner/spawner.h"

#define CLOSED_AT_ONCE 64
#define PACE_MS 100
#define SYSCTLS_FOR 128 /* namespaces */

void nets_init(struct spawner *sp)
{
	struct rlimit files;

	sp->nets.sysctls = -1;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
		sp->nets.most_going = (size_t)MIN(files.rlim_cur / SPAWNER_PUT_OFF_SHARE, (rlim_t)NETS_GOING_MAX);
}

static void put_off(struct spawner *sp, int fd)
{
	struct nets *n = &sp->nets;
	uint64_t now = time_now_ms();

	if (n->n_going == 0)
		n->hold_until_ms = now + SPAWNER_PUT_OFF_MS;
	n->going[n->n_going++] = fd;
	n->close_at_ms = MAX(n->close_at_ms, MIN(now + SPAWNER_QUIET_MS, n->hold_until_ms));
	spawner_wake(sp, n->close_at_ms);
}

void nets_give(struct spawner *sp, int fd)
{
	struct nets *n = &sp->nets;

	if (fd < 0)
		return;
	if (!sp->closing_ms && n->n < NETS_MAX && netns_is_unused(fd))
		n->fd[n->n++] = fd;
	else if (!sp->closing_ms && n->n_going < n->most_going)
		put_off(sp, fd);
	else
		fd_close(fd);
}

int nets_sysctls(struct spawner *sp)
{
	struct nets *n = &sp->nets;

	if (n->n_made++ % SYSCTLS_FOR == 0) {
		fd_close(n->sysctls);
		n->sysctls = netns_open_sysctls();
	}
	return n->sysctls;
}

int nets_take(struct spawner *sp)
{
	return sp->nets.n ? sp->nets.fd[--sp->nets.n] : -1;
}

void nets_tick(struct spawner *sp, uint64_t now_ms)
{
	struct nets *n = &sp->nets;

	if (n->n_going == 0)
		return;
	if (now_ms >= n->close_at_ms) {
		for (size_t i = 0; i < CLOSED_AT_ONCE && n->n_going > 0; i++)
			fd_close(n->going[--n->n_going]);
		n->close_at_ms = now_ms + PACE_MS;
	}
	if (n->n_going > 0)
		spawner_wake(sp, n->close_at_ms);
}
