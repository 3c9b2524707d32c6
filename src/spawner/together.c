#include "spawner/together.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/fd.h"
#include "spawner/sys.h"

#define HELPERS 7 /* three do nearly as much; forty more gain nothing that can be relied on */
#define STACK 8192

struct work {
	const int *fds;
	size_t n;
	atomic_size_t next;
};

static int close_some(void *arg)
{
	struct work *w = arg;
	size_t i;

	while ((i = atomic_fetch_add(&w->next, 1)) < w->n)
		fd_close(w->fds[i]);
	return 0;
}

void close_together(const int *fds, size_t n)
{
	static char stacks[HELPERS][STACK] __attribute__((aligned(16)));
	struct work w = { .fds = fds, .n = n };

	for (size_t i = 0; i < HELPERS && i + 1 < n; i++)
		if (clone(close_some, stacks[i] + STACK, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, &w) < 0)
			break;
	(void)close_some(&w); /* whatever helpers there are */
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

static int ascending(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void close_others(int *keep, size_t n)
{
	int next = STDERR_FILENO + 1;

	qsort(keep, n, sizeof(keep[0]), ascending);
	for (size_t i = 0; i < n; i++) {
		if (keep[i] > next)
			sys_close_range((unsigned int)next, (unsigned int)keep[i] - 1, 0);
		next = MAX(next, keep[i] + 1);
	}
	sys_close_range((unsigned int)next, ~0u, 0);
}
