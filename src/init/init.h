/* init/init.h: the state of a running init, one object in main(), and what its parts offer each other.
 *
 * init is process 1 of a sandbox: it starts commands, keeps their output and status until the daemon has them, opens
 * files on the daemon's behalf, passes connections both ways and reaps orphans. Everything else in the sandbox is
 * hostile to it. What protects it: it is not dumpable and holds capabilities that commands cannot have (so neither
 * ptrace nor /proc/1 reach it), signals from inside do nothing to process 1, and it never follows a magic link or reads a
 * pseudo file system on somebody's behalf.
 *
 * Memory: fixed buffers in .bss, one struct per run and at most WIRE_INLINE_MAX of output each. An allocation that fails
 * fails one request, never init. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"
#include "init/boot.h"
#include "init/cgroup.h"
#include "init/control.h"
#include "init/loop.h"
#include "init/net.h"
#include "init/run.h"

struct init {
	int epoll;
	bool steer;  /* hold the steering listeners */
	bool nnp;    /* commands get no_new_privs */
	bool nocore; /* no core dumps, whatever commands ask for */
	bool holder; /* listeners only; ends with the control socket */
	bool wait;   /* for BOOT_FD_GO, before it is ready */
	bool configured; /* a CONFIG succeeded */
	bool over;   /* leave the loop */
	int status;  /* exit status then */
	struct watch signals;
	struct control control;
	struct runs runs;
	struct groups groups;
	struct net net;
};

/* Reads argv[1]; -EINVAL names the unknown flag. */
MUST_CHECK int init_flags(struct init *in, const char *flags, struct err *err);

/* Everything up to the loop: descriptors, signals, privileges, listeners. *ret_stage names the step that failed. */
MUST_CHECK int init_boot(struct init *in, const char **ret_stage, struct err *err);

/* Runs until in->over. */
void init_loop(struct init *in);
