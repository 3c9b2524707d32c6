/* init/command.h: the first process of a run: from init's child to the command. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "init/user.h"
#include "sandbox/wire.h"

#define COMMAND_SCRIPT_FD 9 /* where the shell reads a command that is too long for one argument */

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

/* Once, before the first: opens what every start needs. */
void command_open(void);

/* The pieces of a start, for one that is prepared (next.h). command_clone() returns twice, like fork(): 0 in the child, which
 * has a session of its own and no key; else its pid or a negative errno. cgroup as in struct command. */
MUST_CHECK long command_clone(int cgroup);
/* In such a child: nothing stays open but 0, 1, 2 and the socket, which moves to COMMAND_SOCKET_FD. */
#define COMMAND_SOCKET_FD 3
MUST_CHECK int command_isolate(int sock);
/* In a child: executes, or says why not. */
NORETURN void command_become(const struct command *c);
/* Of a RUN; "" = none is named. */
const char *command_cwd(const struct wire_in *msg);

/* Forks the child, which never returns here: it executes, or says why not on stderr and exits with 126 or 127 (126 also
 * when the working directory can't be entered). Descriptors stay the caller's. -EAGAIN: the sandbox's process limit. */
MUST_CHECK int command_start(pid_t *ret, const struct command *c, struct err *err);

/* The command that is tried when argv[0] does not exist: /bin/sh for an absent shell, else NULL. */
const char *command_fallback(const char *const *argv);
