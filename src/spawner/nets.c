/* Net namespaces that go from one sandbox to the next. Making one takes a millisecond of processor time, and taking it down
 * as much again, under locks of the whole machine. */
#include "base/fd.h"
#include "spawner/netns.h"
#include "spawner/spawner.h"

void nets_give(struct spawner *sp, int fd)
{
	struct nets *n = &sp->nets;

	if (fd >= 0 && !sp->closing_ms && n->n < NETS_MAX && netns_is_unused(fd))
		n->fd[n->n++] = fd;
	else
		fd_close(fd);
}

int nets_take(struct spawner *sp)
{
	return sp->nets.n ? sp->nets.fd[--sp->nets.n] : -1;
}
