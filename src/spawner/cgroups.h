/* spawner/cgroups.h: where the kernel counts and limits. One object for the spawner's life.
 *
 * Layout is probed, never assumed. cpu, memory and pids are each on v2 or on a v1 hierarchy of their own; the v2 tree is
 * there always (mounted privately if the host has none), because only it has cgroup.kill and cheap cgroups for runs.
 *
 *   HIERARCHY/orw-<hash>/<id>        limits; v2: init itself too
 *   v2: .../orw-<hash>/<id>/runs     delegated to the range's first id; init makes one folder per run in it
 *
 * <id> itself is delegated as well (the folder and cgroup.procs, not its limits): the kernel asks for write permission
 * on the common ancestor of where a process comes from and where it goes, and init starts runs' processes from <id>. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum cgroup_tree { CGROUP_V2, CGROUP_CPU, CGROUP_MEMORY, CGROUP_PIDS, CGROUP_TREES };

#define CGROUP_PATH_MAX 256

struct cgroups {
	char path[CGROUP_TREES][CGROUP_PATH_MAX]; /* .../orw-<hash>; "" = this controller is on v2 */
	int dir[CGROUP_TREES];                    /* O_DIRECTORY of the same, or -1 */
	bool on_v2[CGROUP_TREES];                 /* for CPU, MEMORY, PIDS */
};

struct cgroup_limits { /* 0 = none, all of them */
	uint64_t cpu_milli, memory_bytes, pids_max;
};

static inline bool cgroup_limits_equal(const struct cgroup_limits *a, const struct cgroup_limits *b)
{
	return a->cpu_milli == b->cpu_milli && a->memory_bytes == b->memory_bytes && a->pids_max == b->pids_max;
}

/* Only what limits all of them can be set in the place of others: none is not set, but left. */
static inline bool cgroup_limits_all(const struct cgroup_limits *l)
{
	return l->cpu_milli && l->memory_bytes && l->pids_max;
}

/* name: "orw-<hash>". mount_dir: a folder of the spawner's under which missing hierarchies are mounted, in the private
 * mount namespace that the caller made. Names the controller when one is nowhere. */
MUST_CHECK int cgroups_open(struct cgroups *c, const char *name, const char *mount_dir, struct err *err);
/* Removes the parents; they must be empty by now. */
void cgroups_close(struct cgroups *c, const char *name);

/* Makes <id> on v2, without limits, and before it whatever of the parents somebody has removed, on all hierarchies: so this is
 * the first call for an <id>, and the spawner's own. owner: the range's first id, 0 = nothing is delegated (jobs). -EEXIST if
 * there. */
MUST_CHECK int cgroup_make_v2(const struct cgroups *c, const char *id, uid_t owner, struct err *err);
/* The same on the v1 hierarchies in use, if any. */
MUST_CHECK int cgroup_make_v1(const struct cgroups *c, const char *id, struct err *err);
/* What it may take from now on, on all hierarchies. Before anything of a stranger's is in it; a second time for an <id> only if
 * cgroup_limits_all(). */
MUST_CHECK int cgroup_limit(const struct cgroups *c, const char *id, const struct cgroup_limits *limits, struct err *err);
/* Its weight beside the others of all sandboxes and jobs is from now on that of so many thousandths of a processor. */
MUST_CHECK int cgroup_weigh(const struct cgroups *c, const char *id, uint64_t cpu_milli);
/* Processor time, in microseconds, that what was in it has used; "." = in all. */
MUST_CHECK int cgroup_cpu_us(const struct cgroups *c, const char *id, uint64_t *ret);
/* Calls fn with each thread in it and below. How many they fork meanwhile nobody knows. */
void cgroup_each_thread(const struct cgroups *c, const char *id, void (*fn)(void *arg, pid_t tid), void *arg);
/* O_DIRECTORY of the v2 one, for CLONE_INTO_CGROUP; or a negative errno. */
MUST_CHECK int cgroup_open_v2(const struct cgroups *c, const char *id);
/* Moves the calling process into the v1 ones. After a quiet time the first of these writes costs some 13 ms: the kernel
 * waits for an RCU grace period before any migration (not for CLONE_INTO_CGROUP). */
MUST_CHECK int cgroup_enter_v1(const struct cgroups *c, const char *id);
/* SIGKILL to all in it. Those that are being forked at the moment die too (v2's cgroup.kill). */
void cgroup_kill(const struct cgroups *c, const char *id);
/* Removes <id> and what init made below it. -EBUSY while processes are in it. Absent is fine. */
MUST_CHECK int cgroup_remove(const struct cgroups *c, const char *id);
/* The same in one folder of a hierarchy: kills what is in name itself; removes it with those below. */
void cgroup_kill_at(int dir, const char *name);
MUST_CHECK int cgroup_remove_at(int dir, const char *name);
/* Calls fn with every <id> that exists in any hierarchy (an id may come more than once). */
void cgroups_each(const struct cgroups *c, void (*fn)(void *arg, const char *id), void *arg);
