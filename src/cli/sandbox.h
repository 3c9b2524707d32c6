/* cli/sandbox.h: what the files of `openreward sandbox` share. One verb per process, single-threaded. */
#pragma once

#include <signal.h>

#include "cli/cli.h"
#include "json/json.h"

/* The words as one line of shell, each in single quotes. -ENOBUFS. */
MUST_CHECK int sandbox_quote(struct buf *b, char **words);

/* A call that answers with a JSON object. body NULL = none. *ret may be NULL for an answer that is of no interest. */
MUST_CHECK int sandbox_call(const struct cli_target *t, const char *method, const char *path, const char *body, json_t **ret,
			    struct err *err);

/* SIGINT and SIGTERM so far, counted by whoever catches them. */
extern volatile sig_atomic_t sandbox_interrupts;

/* Whether to ask again after r, the result of a request that may be repeated: the connection broke, or nobody answers, as while
 * the server starts anew. Waits half a second, which a second interrupt ends, or a later one, but no other signal; *tries, 0 at
 * first, is counted up to a minute's worth. */
MUST_CHECK bool sandbox_again(int r, unsigned *tries);

/* ls, top, inspect, rm, exec, shell, logs: argv[0] is the word. Returns the exit status, or -1 for another word. */
int sandbox_verbs(int argc, char **argv, const char *usage);

/* A command in a sandbox with its streams; its exit status, or a negative errno. */
MUST_CHECK int sandbox_exec(const struct cli_target *t, const char *id, char **cmd, bool input, bool terminal, struct err *err);

/* -- a run under way (sandbox_attach.c) ---------------------------------------------------------------------------- */
struct attach {
	const struct cli_target *target;
	const char *sandbox, *run; /* ids */
	const char *sidecar;       /* its name, instead of a run: output only */
	bool previous;             /* of its command before this one */
	bool terminal;             /* this one becomes raw, and its size is passed on */
	bool separate;             /* output comes as frames: stdout and stderr go where they belong */
	bool input;                /* standard input is passed on */
	bool follow;               /* else what is there now */
	bool owner;                /* this one started the run: signals are for it */
};

/* Passes everything both ways until the run's output ends. 0, or a negative errno: -EINTR given up by a second signal. */
MUST_CHECK int attach_run(const struct attach *a, struct err *err);
/* Waits for the run's end; its exit status, 0 to 255, or a negative errno. */
MUST_CHECK int attach_result(const struct attach *a, struct err *err);
