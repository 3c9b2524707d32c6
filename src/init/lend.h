/* init/lend.h: the quick way to start a command: init's memory is lent to the child until it executes, as vfork() does, instead
 * of copied. The copy, its page faults and its end cost more than all else that a short command needs.
 *
 * init sleeps meanwhile, and root inside may stop any process but init: a child that somebody stopped now would take init with
 * it. So memory is lent only while there is nobody: the sandbox's count of processes, which the kernel keeps, is one, init's
 * own. Whoever has processes in the background gets copies.
 *
 * What the child changes of itself is its own (ids, descriptors, signals); the memory that it writes is a stack of its own and
 * what command.c collects. The dumpable flag belongs to the memory: it is not lent where a change of user would set that
 * (fs.suid_dumpable). For want of memory the kernel kills no child that has borrowed it. */
#pragma once

#include "init/command.h"

struct init;

/* Once, before the first: whether it can be done here. */
void lend_open(void);

/* Starts it, born in c->cgroup. Returns its pid, when it executes or has ended; 0 = nothing was begun, and it is to be started by a
 * copy; -EAGAIN or -ENOMEM, as a copy would. */
MUST_CHECK pid_t lend_start(const struct init *in, const struct command *c);
