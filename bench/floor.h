/* bench/floor.h: what a sandbox must cost on this kernel: the same kernel steps as the product's, with nothing around them.
 *
 * What it makes is the product's sandbox: seven namespaces (the user namespace belongs to the first id of its range, the
 * net namespace to the host, with the product's own rules), id-mapped layers under an overlay, a minimal /dev, /proc with
 * its masks, /sys, limits in cgroups, capabilities cut, the product's filter of system calls. What it leaves out is all
 * that makes a server of it: no plan that is checked, no process between, no init, no output, no second request while
 * one runs, nothing that survives a mistake. Steps are done in the cheapest order known: everything that can be is made
 * detached and from outside, a bind of a mount that has the wanted flags already is one call, and the child shares the
 * table of descriptors instead of being sent any.
 *
 *   parent  root on the host. cgroups, net namespace, folders; clones the child; writes its maps; makes the id-mapped
 *           layers, the overlay, /dev and /sys as unattached mounts; lets the child go; waits; removes all.
 *   child   attaches, mounts what belongs to its own namespaces, masks, pivots, drops, executes. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"
#include "spawner/host.h"
#include "worker.h"

#define FLOOR_PATH_MAX 256
#define FLOOR_POOL 8         /* prepared pairs of net namespace and cgroups; used in turn */
#define FLOOR_MEMORY "memory" /* the tmpfs of upper folders in memory, beside DATA/sandboxes/.stage's own */

struct floor {
	struct host host;
	char root[FLOOR_PATH_MAX]; /* the layer */
	char stage[HOST_PATH_MAX + 32];
	int home_net;              /* the net namespace of the host */
	int uppers[2];             /* parents of upper folders: on the disk, in memory */
	int number;                /* which of several processes this is: its own names and id ranges */
	unsigned int count;        /* boxes made; their names come from it */
	bool pooled;
	struct {
		int net_fd;
		char name[32];
	} pool[FLOOR_POOL];
};

struct floor_options {
	bool memory;   /* the upper is in memory */
	bool prepared; /* net namespace and cgroups come from the pool */
	bool least;    /* no sandbox but the least that is a container: root is the host's, nothing of the kernel is hidden or
			  refused, and there are an overlay, /dev and /proc. What the rest costs is the difference */
	bool agent;    /* the first process stays and executes on request (floor_agent) */
};

/* Shared with the child, whose table of descriptors is the same. */
struct floor_shared {
	int overlay_fd, dev_fd, sys_fd;
	int error;       /* of the child: what it could not do */
	char stage[64];
};

struct floor_box {
	struct floor_options opt;
	char name[32];
	uid_t first;
	pid_t pid;
	int net_fd, cgroup_fd, userns_fd;
	int v1_fds[CGROUP_TREES]; /* "tasks" of each hierarchy, for the child to enter; -1 = there is none */
	int go[2];       /* pipe: a byte lets the child go */
	int agent[2];    /* socket pair: the parent's end, the child's */
	int output_fd, input_fd; /* of the command; -1 = /dev/null */
	char **argv;
	struct floor_shared *shared;
};

/* -- floor_box.c ------------------------------------------------------------------------------------------------------ */
MUST_CHECK int floor_prepare_pool(struct floor *f, struct err *err);
void floor_drop_pool(struct floor *f);
/* The process runs when this returns. On failure everything is undone. */
MUST_CHECK int floor_start(struct floor *f, struct floor_box *b, struct err *err);
/* Closes what only the child's way up needed. Not before it has got there: its agent has answered, or it has ended. */
void floor_release(struct floor_box *b);
/* Waits for the process (killing it first if asked) and removes what was made; both even when one of them fails.
 * -EIO when the process ended otherwise than with 0 and was not killed. */
MUST_CHECK int floor_wait(struct floor_box *b, bool kill_it, struct err *err);
MUST_CHECK int floor_remove(struct floor *f, struct floor_box *b, struct err *err);

/* -- floor_child.c ----------------------------------------------------------------------------------------------------- */
NORETURN void floor_child(const struct floor *f, const struct floor_box *b);
#define FLOOR_COMMANDS 3
extern char *const floor_commands[FLOOR_COMMANDS][4]; /* what an agent can execute */
/* One of them by the box's agent: sends it the end of a pipe, reads the output, then the status. */
MUST_CHECK int floor_ask_agent(const struct floor_box *b, int number, struct err *err);
