/* init/cgroup.h: a cgroup of its own for each run (cgroup v2, made under BOOT_FD_CGROUP), to kill it whole whatever its
 * processes did to leave, and the counters of the sandbox's own cgroups.
 *
 * A group that a run left behind with live background processes lingers until it is empty. One empty group is kept ready
 * for the next run, so that runs one after the other make and remove no folder. Without a delegated cgroup v2 everything
 * works except that a process which left the run's process group survives a kill of that run (it still dies with the
 * sandbox). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/macros.h"

struct init;

struct group {
	struct list link;     /* in groups.lingering, or in none */
	int fd;               /* the folder */
	int cpu_fd, events_fd; /* its cpu.stat and cgroup.events, from when it is first kept as the spare on; else -1 */
	unsigned number;      /* "run-<number>" */
	uint64_t cpu_base_us; /* usage when the current run began */
	bool killed;          /* never used again: on some kernels (6.18 is one) a process that is cloned into a group which
				 cgroup.kill ever emptied is killed at birth (the kernel compares the kill counts of
				 the parent's group and of the new one) */
};

struct groups {
	bool usable;            /* BOOT_FD_CGROUP is a cgroup v2 folder */
	unsigned last;          /* number of the newest folder */
	struct group *spare;    /* empty, ready; or NULL */
	struct list lingering;  /* runs are over, processes live on */
	uint64_t check_us;      /* when to look at the lingering ones; 0 = nothing happened since */
	int oom_fd, pids_fd;    /* files with the counters, -1 = there are none */
	int processes_fd;       /* pids.current; -1 = not counted */
	uint64_t hits, hits_us; /* the limit_hits that were last seen, and when they had risen */
	uint64_t hits_before;   /* without those whose kill may be still to come */
};

/* Totals since the sandbox began. */
struct counters {
	uint64_t oom_kills; /* processes killed for lack of memory */
	uint64_t pids_hits; /* forks refused by the limit */
	uint64_t limit_hits; /* times that the sandbox's own limit of memory left no other way than a kill; v2 only */
};

void groups_open(struct init *in);
struct counters groups_counters(struct init *in, uint64_t now_us);
/* The same, for who begins now: limit_hits without those of a moment before. The kernel counts a hit at once and the kill when it
 * has chosen whom, which without its hit would look like the host's. */
struct counters groups_begin(struct init *in, uint64_t now_us);
/* The change from one to the other. */
struct counters groups_counted(const struct counters *from, const struct counters *to);
/* Whether init is the only process there is: none that was reaped, none that comes. False when nobody counts. */
bool groups_alone(const struct init *in);
uint64_t groups_cpu_us(const struct init *in); /* of all commands so far; 0 = unknown */

/* One number of a file such as memory.current in a cgroup folder; fallback when it can't be read. */
uint64_t group_read_u64(int dir, const char *name, uint64_t fallback);

/* Has a spare one ready, if it can. */
void groups_prepare(struct init *in);
/* *ret is NULL where groups are not usable. A failure is passed on: running unkillable would be worse. */
MUST_CHECK int group_take(struct init *in, struct group **ret);
/* Gives it back: reused, removed, or left to linger. NULL is fine. */
void group_put(struct init *in, struct group *g);
/* The same for one that nobody is in any more; false = it is not, or NULL, and stays the caller's. */
bool group_put_empty(struct init *in, struct group *g);

/* SIGKILL to every process in it, also those that fork while it happens. */
MUST_CHECK int group_kill(struct group *g);
bool groups_dying(const struct init *in); /* processes of a killed one that was put back are still there */
/* Another signal to each process found in it; processes forked meanwhile may miss it. */
MUST_CHECK int group_signal(const struct group *g, int sig);
bool group_populated(const struct group *g);
uint64_t group_cpu_us(const struct group *g); /* since group_take; 0 when unknown */

/* Called after orphans were reaped: some group may be empty now. */
void groups_touch(struct init *in, uint64_t now_us);
uint64_t groups_next_us(const struct init *in);
void groups_tick(struct init *in, uint64_t now_us);
