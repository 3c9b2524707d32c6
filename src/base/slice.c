#include "base/slice.h"

#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr of linux/sched/types.h, which some C libraries define too. */
struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period; /* ns; of SCHED_OTHER runtime is the slice */
};

static bool get(pid_t tid, struct attr *ret)
{
	return syscall(SYS_sched_getattr, tid, ret, sizeof(*ret), 0) == 0 && ret->policy == SCHED_OTHER;
}

static void set(pid_t tid, struct attr *a, uint64_t ns)
{
	a->size = sizeof(*a);
	a->runtime = ns;
	(void)syscall(SYS_sched_setattr, tid, a, 0);
}

uint64_t slice_get(pid_t tid)
{
	struct attr a = { 0 };

	return get(tid, &a) ? a.runtime : 0;
}

void slice_set(pid_t tid, uint64_t ns)
{
	struct attr a = { 0 };

	if (get(tid, &a))
		set(tid, &a, ns);
}

void slice_reset(pid_t tid, uint64_t was)
{
	struct attr a = { 0 };

	if (get(tid, &a) && a.runtime == was)
		set(tid, &a, SLICE_DEFAULT);
}
