/* spawner/start.h: from a plan to a running init, in a child of the spawner: a list of steps, replayed in order.
 *
 * Three processes besides the spawner, two of them short-lived:
 *   builder  host root. Enters cgroups and a net namespace, unshares mounts, clones init, mounts what needs no plan, makes
 *            folders, waits for the plan where it was started without, sets the limits, assembles the root from outside, pivots
 *            both into it, takes the old root away while init goes on, and exits.
 *   init     cloned by the builder while its effective id is the range's first, so that the user namespace belongs (and
 *            the kernel charges it) to that id; sibling of the builder, i.e. a child of the spawner. Waits until its
 *            ids are mapped, becomes root of its namespace, executes openreward-init, which is told when its root is there.
 *            Until then its root is the host's, and nobody but the builder can say anything to it.
 *   prober   shares the builder's memory and descriptors; joins init's pid and ipc namespaces to open /proc and
 *            /dev/mqueue of those, which nobody outside can.
 *
 * Who owns what: user, pid, ipc, uts and cgroup namespaces belong to the sandbox. The mount and net namespaces belong to
 * the host, so nothing inside, init included, can mount, unmount a mask, or change an address, whatever capabilities it
 * has in its own user namespace. */
#pragma once

#include "spawner/host.h"

#define START_STAGE_MAX 40
#define START_PATH_MAX 384

/* What the builder tells, through a pipe: first init's pid, then nothing, or a failure. */
struct start_report {
	int32_t pid;   /* > 0: init, in the spawner's pid namespace */
	int32_t error; /* negative errno when pid is 0 */
	char stage[START_STAGE_MAX];
	char path[START_PATH_MAX]; /* "" = none */
};

/* Everything borrowed. The descriptors are those that init is to have. */
struct start {
	const struct host *host;
	const char *name;        /* of its cgroups and its folder */
	const struct plan *plan; /* NULL = it will come through plan_fd, as a MAKE: until then the builder does what needs none */
	int plan_fd;
	struct cgroup_limits ahead; /* without a plan: what it will probably ask for, set before it comes; 0, all of it = nothing */
	uid_t first;
	int control_fd, egress_fd, ready_fd;
	int report_fd; /* write end of the report pipe */
	bool background; /* nobody waits for it: others go first */
	int net_fd;    /* a net namespace that is ready (with plan->beside: that sandbox's), or -1: one is made */
	int sysctls;   /* for that (netns.h) */
	/* below: the builder's own */
	const char *path; /* what the failing step was about */
	char path_buf[START_PATH_MAX];
	pid_t spawner_pid;
	int init_pid, init_pidfd, userns_fd;
	int map_fd, go_fd; /* to init: that its ids are mapped; that its root is there (boot.h) */
	int folder_fd, spool_fd, runs_fd, stats_fd, pids_fd, score_fd;
	int root_fd, dev_fd, proc_fd, sys_fd, mqueue_fd, prober_error;
};

static inline struct cgroup_limits start_limits(const struct plan *p)
{
	return (struct cgroup_limits){ p->cpu_milli, p->memory_bytes, p->pids_max };
}

/* Forks the builder into the sandbox's v2 cgroup. Returns its pid, or a negative errno with *err. */
MUST_CHECK pid_t start_fork(struct start *s, struct err *err);

/* In a child: lays the descriptors out as init/boot.h says (BOOT_FD_END of them, 0..2 among them) and executes init.
 * A failure goes to fds[BOOT_FD_READY] in boot.h's format. */
NORETURN void start_exec_init(const struct host *h, const int *fds, const char *flags);

/* -- steps of spawner/root.c, run by the builder; 0 or a negative errno with s->path ----------------------------- */
/* Without a plan: beside where the root will be. */
MUST_CHECK int root_prepare_dev(struct start *s);
MUST_CHECK int root_prepare_proc(struct start *s);
MUST_CHECK int root_mask_proc(struct start *s);
MUST_CHECK int root_prepare_sys(struct start *s);
/* With one. */
MUST_CHECK int root_mount_layers(struct start *s);
MUST_CHECK int root_mount_overlay(struct start *s);
MUST_CHECK int root_mount_shm(struct start *s);
MUST_CHECK int root_attach(struct start *s); /* what was prepared */
MUST_CHECK int root_mount_configured(struct start *s);
MUST_CHECK int root_mount_bucket(struct start *s);
MUST_CHECK int root_pivot(struct start *s);
MUST_CHECK int root_leave(struct start *s); /* the old root */

/* -- bucket.c ---------------------------------------------------------------------------------------------------- */
/* The plan's bucket as a mount that is attached nowhere yet. A descriptor, or a negative errno with s->path. After
 * root_mount_overlay: the owner is looked up in the image. */
MUST_CHECK int bucket_clone(struct start *s);
