/* api/runs.h: commands in the background, as clients see them under /v1/sandboxes/{id}/runs: started, listed, read while
 * they write, fed, signalled, waited for, forgotten. Private to src/api. Loop thread only.
 *
 *   RUNNING -> ENDED | FAILED -> (forgotten)
 *
 *   RUNNING    start() gave it to the engine. Nobody's connection has to last.
 *   ENDED      it has a result.                                                      on_done()
 *   FAILED     the fault is ours, or the sandbox is gone: `error` says which.        on_done()
 *   forgotten  DELETE, or the oldest that are over, when there are too many. One that runs is killed first.
 *
 * A daemon that takes over finds them by their labels: the beginning of the command and what it was started with.
 *
 * The output stays with init; nothing of it is kept here. A run is owned by its sandbox and ends with it; readers and
 * writers are requests of their own and may outlive it by a callback. */
#pragma once

#include "api/sandbox_private.h"

struct runs; /* of one sandbox */

struct brun {
	struct list node; /* in runs.all, oldest first */
	struct sandbox *b;
	char id[TASK_ID_LEN];
	struct engine_exec *exec;
	char *cmd;        /* its beginning, for lists */
	bool terminal, separate, input, keep_last;
	int64_t started_ms, ended_ms; /* since 1970; 0 = not yet */
	bool adopted;     /* a former daemon began it */
	bool over;
	char *error;      /* over: FAILED */
	struct engine_exec_result res; /* over and no error */
	struct list readers; /* struct reader: runs_output.c */
	struct list waiters; /* struct run_waiter: runs.c */
	struct feed *feed;   /* what is known of its input: runs_input.c; NULL = nothing yet */
};

/* The run of a request's path, used by `use` from now on; or NULL after an answer. closed as for use_start(). */
struct brun *brun_of_request(struct sandboxes *s, struct http_req *req, struct use *use, void (*closed)(struct use *u));

/* runs_output.c */
void run_output_handler(struct http_req *req, void *sandboxes);
void readers_more(struct brun *run); /* there is more output, or the end */
void readers_end(struct brun *run);  /* the run is going: their answers break off */

/* runs_input.c */
void run_input_handler(struct http_req *req, void *sandboxes);
void feed_end(struct brun *run); /* the run is over, or going */
