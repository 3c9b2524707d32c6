/* A sandbox that keeps a processor to itself gets one to itself, of the half of the machine's that are set aside for such.
 *
 * What one may use in 0.1 s it can use on all processors at once, and then nobody else gets one in time: with less weight
 * (weights.c) only at the next tick of the kernel's clock, for each change of process anew. On a processor of its own it loses
 * nothing, for it may use no more than that, and the others find a free one. They may run on that one, too.
 *
 * By the affinity of its threads, which their children inherit: no sandbox pays for a group for it, and no lock holds up others'
 * forks, as moving thousands to a group of v1's cpuset does (for 40 to 100 ms). Who has chosen processors for itself keeps its
 * choice; so one that wants to be in the way can get out, and weighs a tenth then. Sandboxes that may use more than is left of the
 * half, or have no limit, are as they would be without this. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/slice.h"
#include "base/time.h"
#include "spawner/box.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define PASSES 16 /* without a pause, for threads fork meanwhile; mostly the second or third finds none to move */
#define FIRST_US 32000
#define MOST_US 8192000
#define BACK_US 2000000 /* when all may run everywhere again: who is told later stays where it is */
#define STALE_US 20000  /* in less no machine gives all numbers of processes to others */
#define SOON_MS 1000
#define SPARED_MS 30000

static void on_mover_exit(void *arg UNUSED, int status UNUSED)
{
}

void confines_init(struct spawner *sp)
{
	struct confines *c = &sp->confines;

	CPU_ZERO(&c->free);
	c->n_left = sched_getaffinity(0, sizeof(c->free), &c->free) < 0 ? 0 : (unsigned)CPU_COUNT(&c->free) / 2;
	c->all = c->free;
}

/* The last ones: many a machine's interrupts are the first one's. */
static void take(struct confines *c, unsigned n, cpu_set_t *ret)
{
	CPU_ZERO(ret);
	for (int i = CPU_SETSIZE - 1; n > 0 && i >= 0; i--)
		if (CPU_ISSET(i, &c->free)) {
			CPU_CLR(i, &c->free);
			CPU_SET(i, ret);
			c->n_left--;
			n--;
		}
}

struct move {
	const struct box *box;
	cpu_set_t own;        /* the box's processors */
	bool back;            /* to all of them, from those */
	bool marked;          /* this kernel has slices: a long one tells whom we moved, and its children */
	uint64_t stale_us;    /* the list is older than STALE_US from then on */
	size_t n;             /* moved */
};

/* A number that was read a while ago may be another's by now. */
static bool is_ours(const struct move *m, pid_t tid)
{
	char path[32], text[512];

	if (time_now_us() < m->stale_us)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", tid);
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[MAX(n, (ssize_t)0)] = '\0';
	return strstr(text, m->box->name);
}

static bool is_on(pid_t tid, const cpu_set_t *cpus)
{
	cpu_set_t now;

	return sched_getaffinity(tid, sizeof(now), &now) == 0 && CPU_EQUAL(&now, cpus);
}

static bool change(pid_t tid, const cpu_set_t *from, const cpu_set_t *to)
{
	return is_on(tid, from) && sched_setaffinity(tid, sizeof(*to), to) == 0;
}

/* The mark first: a child that is forked in between has it, too. */
static void move_there(struct move *m, pid_t tid, const cpu_set_t *all)
{
	if (!is_on(tid, all))
		return;
	slice_set(tid, SLICE_LONG_NS);
	if (sched_setaffinity(tid, sizeof(m->own), &m->own) == 0)
		m->n++;
	else
		slice_reset(tid, SLICE_LONG_NS);
	if (is_ours(m, tid))
		return;
	(void)change(tid, &m->own, all);
	slice_reset(tid, SLICE_LONG_NS);
}

static void move_back(struct move *m, pid_t tid, const cpu_set_t *all)
{
	if (m->marked && slice_get(tid) != SLICE_LONG_NS)
		return;
	m->n += change(tid, &m->own, all);
	slice_reset(tid, SLICE_LONG_NS);
}

static void move_thread(void *arg, pid_t tid)
{
	struct move *m = arg;

	/* init stays where it finds a processor: it answers for the commands, and ends them. */
	if (tid == m->box->init_pid || !is_ours(m, tid))
		return;
	if (m->back)
		move_back(m, tid, &m->box->sp->confines.all);
	else
		move_there(m, tid, &m->box->sp->confines.all);
}

/* True if there was none to move. */
static bool move_all(struct move *m)
{
	m->stale_us = time_now_us() + STALE_US;
	m->n = 0;
	cgroup_each_thread(&m->box->sp->host.cg, m->box->name, move_thread, m);
	return m->n == 0;
}

static void nap(uint64_t us)
{
	nanosleep(&(struct timespec){ .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 }, NULL);
}

/* A thread that was preempted in a fork gives its child what it had itself before it was moved, and beside thousands it may be
 * preempted for seconds. So it comes again, less and less often. However often somebody changes its mind, that takes a tenth of
 * the time that nobody else wants. */
static void follow(struct move *m)
{
	uint64_t us = FIRST_US, end_us = m->back ? time_now_us() + BACK_US : UINT64_MAX;

	for (int i = 0; i < PASSES && !move_all(m); i++)
		;
	(void)sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	while (time_now_us() < end_us) {
		uint64_t began_us;

		nap(us);
		began_us = time_now_us();
		us = move_all(m) ? MIN(2 * us, (uint64_t)MOST_US) : FIRST_US;
		us = MAX(us, 9 * (time_now_us() - began_us));
	}
}

/* In a process of its own: each thread that runs is waited for by the kernel, and there may be thousands. */
static bool start_mover(struct box *b, bool back)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	struct move m = { .box = b, .own = *b->cpus, .back = back };
	const pid_t self = getpid();
	pid_t pid = sys_clone3(&args);

	if (pid == 0) {
		events_begin_helper(self, "openreward-cpus");
		/* What it held of others' would not close when they do. */
		close_others(&(int){ b->sp->host.cg.dir[CGROUP_V2] }, 1);
		slice_set(0, SLICE_LONG_NS);
		m.marked = slice_get(0) == SLICE_LONG_NS;
		slice_set(0, SLICE_DEFAULT);
		follow(&m);
		_exit(0);
	}
	if (pid > 0) {
		b->mover.fn = on_mover_exit;
		events_child_add(&b->sp->ev, &b->mover, pid);
	}
	return pid > 0;
}

static void stop_mover(struct box *b)
{
	if (b->mover.pid)
		kill(b->mover.pid, SIGKILL);
	events_child_remove(&b->mover);
}

static void give_back(struct box *b)
{
	struct confines *c = &b->sp->confines;

	CPU_OR(&c->free, &c->free, b->cpus);
	c->n_left += (unsigned)CPU_COUNT(b->cpus);
	free(b->cpus);
	b->cpus = NULL;
}

/* One that gets less there than it could elsewhere, for somebody else keeps to that processor, would go to and fro. */
static bool comes_again(struct box *b, uint64_t now_ms)
{
	if (b->freed_ms && now_ms - b->freed_ms < SOON_MS)
		b->spared_until_ms = now_ms + SPARED_MS;
	b->freed_ms = 0;
	return now_ms < b->spared_until_ms;
}

void confine(struct box *b, uint64_t now_ms)
{
	struct confines *c = &b->sp->confines;
	uint64_t n = (b->cpu_milli + 999) / 1000;

	if (b->cpus || n == 0 || n > c->n_left || b->mover.pid || comes_again(b, now_ms))
		return; /* the next look tries again */
	b->cpus = malloc(sizeof(*b->cpus));
	if (!b->cpus)
		return;
	take(c, (unsigned)n, b->cpus);
	if (!start_mover(b, false))
		give_back(b);
}

void unconfine(struct box *b, uint64_t now_ms)
{
	if (!b->cpus)
		return;
	stop_mover(b);
	if (!start_mover(b, true))
		return;
	give_back(b);
	b->freed_ms = now_ms;
}

void confine_forget(struct box *b)
{
	stop_mover(b);
	if (b->cpus)
		give_back(b);
}
