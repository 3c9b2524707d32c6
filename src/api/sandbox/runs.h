/* api/sandbox/runs.h: commands in the background, as clients see them under /v1/sandboxes/{id}/runs: started, listed, read while
 * they write, fed, signalled, waited for, forgotten. Private to this folder. Loop thread only.
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

#include "api/sandbox/private.h"

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

/* The run of a request's path, used by `use` from now on; or NULL: the request was answered, or waits until handler gets it
 * again. closed as for use_start(). */
struct brun *brun_of_request(struct sandboxes *s, struct http_req *req, http_handler_fn *handler, struct use *use,
			     void (*closed)(struct use *u));

/* runs.c, for the other two: */
#define RUNS_BODY_MAX (1u << 20)
#define RUNS_CELLS_MAX 10000 /* rows or columns of a terminal */

/* The READY sandbox of a request's path; or NULL: the request was answered (401, 404, 409, 410), or waits as above. */
struct sandbox *runs_sandbox(struct sandboxes *s, struct http_req *req, http_handler_fn *handler);
/* NULL with *err (-ENOENT): no such run, or forgotten. */
struct brun *runs_find(struct sandbox *b, const char *id, struct err *err);
/* Forgets the oldest that is over where there are too many; -EUSERS: all are alive. */
MUST_CHECK int runs_make_room(struct sandbox *b, struct err *err);
/* A run in the table, without anything that runs. brun_free() by whoever takes it out again. */
struct brun *brun_new(struct sandbox *b, const char *id, const char *cmd);
void brun_free(struct brun *run); /* what is still alive of it is left to itself */
void brun_reply(struct http_req *req, int status, const struct brun *run);
void runs_reply_empty(struct http_req *req);
/* Keeps how the run ended: res, or err where nobody knows its result. */
void brun_over(struct brun *run, const struct engine_exec_result *res, const struct err *err);
/* The engine's: arg is the run. */
void brun_on_done(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err);
void brun_on_more(void *arg);

/* runs_start.c */
void run_start_handler(struct http_req *req, void *sandboxes);

/* runs_act.c */
void run_signal_handler(struct http_req *req, void *sandboxes);
void run_resize_handler(struct http_req *req, void *sandboxes);

/* runs_output.c */
void run_output_handler(struct http_req *req, void *sandboxes);
void readers_more(struct brun *run); /* there is more output, or the end */
void readers_end(struct brun *run);  /* the run is going: their answers break off */

/* runs_input.c */
void run_input_handler(struct http_req *req, void *sandboxes);
void feed_end(struct brun *run); /* the run is over, or going */
