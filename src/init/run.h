/* init/run.h: commands. A run is known by the id that the daemon chose and lives until the daemon acknowledges its result.
 *
 *              RUN                first process ends         group empty, or 2 s
 *   (none) ----------> ALIVE --------------------------> DYING ----------------> ENDED ---ACK---> (none)
 *                        |      (killed or timed out)                              ^
 *                        +---------------------------------------------------------+
 *                                first process ends by itself, or is a killed zombie that its tracer keeps
 *
 * ALIVE   pid is not reaped. A timeout or KILL kills the group and changes nothing else.
 * DYING   status is known; the answer waits until the killed tree is really dead.
 * ENDED   status, output and counters are fixed. In runs.owed until DONE went out; then again on RESULT. Not at all where ACK
 *         came before the end, of a daemon that had given up to wait for an answer.
 *
 * A RUN with a known id starts nothing: it is answered like the first. What a run leaves behind (background processes,
 * a held pipe) outlives it: their group lingers, their output is read and forgotten. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/list.h"
#include "init/cgroup.h"
#include "init/control.h"
#include "init/output.h"

#define RUNS_MAX WIRE_ITEMS_MAX /* alive and unacknowledged together */
#define RUNS_BUCKETS 512        /* a power of two */
#define FETCH_INLINE_MAX 4096 /* bytes of a RUN_FETCH's output that are kept in memory: there may be thousands */

enum run_state { RUN_ALIVE, RUN_DYING, RUN_ENDED };

struct run {
	struct list link; /* in runs.alive (ALIVE, DYING), runs.ended, or runs.drains */
	struct list owed_link; /* in runs.owed while unsent */
	struct run *next_by_id; /* in runs.by_id */
	char id[WIRE_RUN_ID_MAX]; /* opaque: a number or a text */
	size_t id_len; /* 0 = acknowledged: only the pipe is left */
	enum run_state state;
	pid_t pid;            /* of the first process, inside */
	struct group *group;  /* NULL = none, or empty already */
	struct output out;
	uint64_t start_us, end_us;
	uint64_t starting;    /* the RUN that has no answer yet: STARTED at tell_us, or DONE before; 0 = it has */
	uint64_t tell_us;
	uint64_t deadline_us; /* UINT64_MAX = none. While DYING: when to stop waiting */
	uint64_t zombie_us;   /* ALIVE: when to look whether it is dead and nobody may reap it; UINT64_MAX = it was not killed */
	struct counters base; /* the sandbox's counters at the start; at the end the difference */
	struct rusage usage;
	uint64_t cpu_us;
	uint64_t disk_free;   /* bytes at the end */
	int status;           /* as waitpid gives it */
	bool timed_out, killed;
	uint64_t flags;       /* enum wire_run_flag */
	int input;            /* write end of stdin; -1 = none, or closed */
	int slave;            /* RUN_TTY: held while the run is alive, so that the terminal never seems closed; else -1 */
	int writer, err_writer; /* of the output's pipes, held likewise: their end and that of the process are one event */
	bool watched;         /* a MORE is owed when there is more output */
	bool more;            /* it is due, and waits for room in the socket: counts in runs.n_more */
	bool main;            /* the sandbox ends with it */
	bool acked;           /* while it lives: nobody wants its result */
	bool unlisted;        /* the RUNS that is being answered did not tell of it yet */
	unsigned char label[WIRE_LABEL_MAX]; /* the daemon's own words, for one that takes over */
	size_t label_len;     /* bytes */
};

struct runs {
	struct list alive, ended, drains;
	struct list owed;     /* those ended whose DONE is owed to the daemon, in the order of their ends */
	struct run *by_id[RUNS_BUCKETS]; /* alive and ended, by a hash of the id: most have ended, and wait until they were read */
	size_t n;             /* as many */
	size_t n_more;        /* those of which a MORE is due */
	uint64_t over_us;     /* after a main run's end: when init ends at the latest; 0 = no */
	uint64_t list_request; /* of the RUNS that is being answered; 0 = none is */
	bool still;           /* since runs_prepare() nobody but init has lived, and it has written no file: */
	struct counters counters; /* then these are still so, and so is the last user */
};

void runs_init(struct runs *r);
/* Looks ahead at what the next run needs, where nothing in the sandbox can change meanwhile. */
void runs_prepare(struct init *in);
/* The run of a request's RUN_ID, alive or over; NULL = unknown, or acknowledged. */
struct run *run_find(struct init *in, const struct wire_in *msg);
/* Watches its pipes, or not, as flow control has it now. */
void run_watch(struct init *in, struct run *run);

/* report.c: what the daemon is told. */
void run_tell_started(struct init *in, struct run *run, uint64_t request);
void run_set_unsent(struct init *in, struct run *run, bool unsent); /* its DONE is owed to the daemon */
void run_set_more(struct init *in, struct run *run, bool more);

/* Request handlers (control.c calls them). A negative result becomes the FAILED answer. */
MUST_CHECK int run_request(struct init *in, struct request *q, struct err *err);
MUST_CHECK int run_result(struct init *in, struct request *q, struct err *err);
MUST_CHECK int run_kill(struct init *in, struct request *q, struct err *err);
/* RUNS: answered piece by piece as the socket has room, by runs_flush(). */
MUST_CHECK int runs_request(struct init *in, struct request *q, struct err *err);
/* Of one that lives: it is forgotten at its end. */
void run_ack(struct init *in, struct request *q);

/* Reaps whatever has died, orphans too. Call on SIGCHLD. */
void runs_reap(struct init *in);
/* Sends what could not be sent yet: the list of runs, then ends. */
void runs_flush(struct init *in);
bool runs_waiting(const struct init *in); /* there is something for runs_flush() */
uint64_t runs_next_us(const struct init *in);
void runs_tick(struct init *in, uint64_t now_us);
