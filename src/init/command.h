/* init/command.h: the first process of a run: from init's child to the command. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "init/user.h"
#include "sandbox/wire.h"

#define COMMAND_SCRIPT_FD 9 /* where the shell reads a command that is too long for one argument */

struct clone_args;
struct init;

struct command {
	const struct wire_in *msg; /* ARG*, ENV*: valid in the child by copy-on-write */
	const char *cwd;           /* absolute; "" = "/" */
	struct user user;
	int input;                 /* becomes stdin; -1 = /dev/null */
	int output, error;         /* become stdout and stderr */
	bool terminal;             /* input is one, and is to control the session */
	int script;                /* becomes COMMAND_SCRIPT_FD; -1 = none */
	int cgroup;                /* folder to be born in; -1 = init's own */
};

/* Once, before the first: what every start needs to know. */
void command_open(void);

/* In a child: executes, or says why not on stderr and exits with 126 or 127 (126 also when the working directory can't be
 * entered). */
NORETURN void command_become(const struct command *c);
/* Of a RUN; "" = none is named. */
const char *command_cwd(const struct wire_in *msg);

/* What clone3() takes for a child that is born in a cgroup's folder; -1 = in init's own. */
void command_clone_args(struct clone_args *ret, uint64_t flags, int cgroup);
/* Starts a child that becomes the command. Descriptors stay the caller's. -EAGAIN: the sandbox's process limit. */
MUST_CHECK int command_start(struct init *in, pid_t *ret, const struct command *c, struct err *err);

/* The command that is tried when argv[0] does not exist: /bin/sh for an absent shell, else NULL. */
const char *command_fallback(const char *const *argv);
