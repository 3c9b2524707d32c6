/* bench/worker.h: the loop that every measuring program of the bench has. bench/run keeps one process of each kind for a
 * whole measurement and asks them in turn, so that a drift of the machine hits all alike.
 *
 * A request is a line of fields separated by tabs, the answer is a line too:
 *   COUNT PAUSE_MS CASE ARG...          one uncounted iteration, then COUNT, each after a pause
 *     -> "ok" and COUNT times " TOTAL/PART/..." in microseconds
 *   rate WIDTH SECONDS CASE ARG...      as many iterations as fit, WIDTH at a time
 *     -> "ok ITERATIONS_PER_SECOND"
 *   do CASE ARG...                      anything else that a program offers
 *     -> what it prints, then "ok"
 * A failure is "error TEXT". End of input ends the program. */
#pragma once

#include "base/err.h"

#define WORKER_PARTS_MAX 4
#define WORKER_ARGS_MAX 64

struct sample {
	double part[WORKER_PARTS_MAX]; /* microseconds; their sum is the iteration's time */
	int n_parts;
	double last_us;                /* private to sample_begin and sample_part */
};

double clock_us(void); /* CLOCK_MONOTONIC */
void sample_begin(struct sample *s);
void sample_part(struct sample *s); /* the time since the last call, or the beginning, is a part */

struct worker {
	void *arg; /* handed to all of these */
	/* One iteration; args are CASE, ARG..., NULL. */
	int (*once)(void *arg, char **args, struct sample *s, struct err *err);
	/* In a child that takes part in a rate: whatever it may not share with its parent. NULL = nothing. */
	int (*forked)(void *arg, int number, struct err *err);
	/* Instead of children that call once(): sets *ret_done to the iterations. NULL = children. */
	int (*rate)(void *arg, int width, double seconds, char **args, double *ret_done, struct err *err);
	/* Prints its answer but for the last line. NULL = nothing is offered. */
	int (*other)(void *arg, char **args, struct err *err);
};

/* Until the end of input. Returns the program's exit status. */
int worker_loop(const struct worker *w);
/* Waits for a line of input (of `other`, that wants to be told when to go on). */
void worker_wait_line(void);
