/* init/next.h: the process that the next command will be, cloned before anybody asks: a run then costs no clone, no copy of
 * init's memory and no control group on its way.
 *
 *   (none) --next_prepare--> WAITING --next_start--> it is a run's first process
 *                               |
 *                               +-- dies (root inside may kill it) --> (none), until the next run is over
 *
 * WAITING: it sits in a control group of its own, has let go of all that was init's but the key-less filter, and reads one
 * letter from its socket. It is as little dumpable as init and keeps init's capabilities and saved group until it becomes the
 * command's user, so nobody inside can look into it, trace it or change its limits. Root inside can stop or kill it, as it can
 * any command that has just begun; a run for which it was stopped ends with its time-out, a dead one is replaced by a clone. It
 * counts as one process against the sandbox's limit. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "init/command.h"

struct init;
struct run;

struct next {
	pid_t pid;           /* 0 = there is none */
	int sock;            /* init's end */
	struct group *group; /* that it is in; owned */
	uint64_t due_us;     /* when one is to be prepared; 0 = not planned */
};

void next_init(struct next *n);
/* Clones one, unless there is one or groups are not usable. Best effort. */
void next_prepare(struct init *in);
/* Makes it the first process of a run, with its group: pid and group are set. False: there is none, or it cannot take this
 * command; nothing has happened then. */
bool next_start(struct init *in, struct run *run, const struct command *c);
/* A run is over: one is prepared in a moment. */
void next_run_ended(struct init *in);
/* Whether the reaped process was it. */
bool next_reaped(struct init *in, pid_t pid);
uint64_t next_due_us(const struct init *in); /* UINT64_MAX = not planned */
void next_tick(struct init *in, uint64_t now_us);
