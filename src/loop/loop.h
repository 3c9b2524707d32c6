/* loop/loop.h: one epoll loop: descriptors, timers, children, signals, posts from other threads, and work on a small
 * pool of threads. One loop per program; everything here is called on the loop's thread unless said.
 *
 * Rules that every user may rely on:
 *  - a callback never runs inside the call that arms it; it runs from loop_run();
 *  - after a *_stop() or *_close() its callback does not run again, not even for an event that was already fetched;
 *  - memory is given back only in the close phase at the end of a turn (loop_release), so an object may be
 *    released inside its own callback.
 * Watches are embedded in their owner (struct members) and cost no allocation. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/list.h"

struct loop;

MUST_CHECK int loop_new(struct loop **ret, struct err *err);
/* Nothing may be armed any more except what dies with it. Work that was queued is finished first and its done called,
 * then posts, deferred and released calls run, so that nobody's argument leaks. NULL is accepted; returns NULL. */
struct loop *loop_free(struct loop *l);
/* Runs until loop_stop(); returns the code given there, or a negative errno. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l, int code); /* code >= 0; at the end of this turn, or of the first when not running yet */
uint64_t loop_now_ms(const struct loop *l); /* CLOCK_MONOTONIC, read once per turn */
unsigned loop_turn_events(const struct loop *l); /* descriptors that this turn found ready: how busy the loop is */

/* -- descriptors -------------------------------------------------------------------------------------------- */
struct loop_io;
typedef void loop_io_fn(struct loop_io *io, uint32_t events, void *arg); /* events: EPOLLIN | EPOLLOUT | EPOLLHUP ... */

struct loop_io {
	struct loop *loop; /* NULL = not open */
	int fd;            /* borrowed: never closed here */
	uint32_t events;   /* what is asked for now; 0 = only errors and hang-ups */
	loop_io_fn *fn;
	void *arg;
	struct list pending; /* private */
	uint32_t fired;      /* private */
};

/* Level-triggered. -EPERM for a regular file, as epoll says. */
MUST_CHECK int loop_io_open(struct loop_io *io, struct loop *l, int fd, uint32_t events, loop_io_fn *fn, void *arg,
			    struct err *err);
void loop_io_set(struct loop_io *io, uint32_t events); /* no system call when unchanged */
void loop_io_close(struct loop_io *io);                /* before the descriptor is closed; harmless when not open */

/* -- timers ------------------------------------------------------------------------------------------------- */
struct loop_timer;
typedef void loop_timer_fn(struct loop_timer *t, void *arg);

struct loop_timer {
	struct loop *loop;
	uint64_t due_ms; /* CLOCK_MONOTONIC */
	size_t heap_pos; /* private; 0 = not armed */
	uint64_t seq;    /* private; order of starts */
	loop_timer_fn *fn;
	void *arg;
};

void loop_timer_init(struct loop_timer *t, struct loop *l, loop_timer_fn *fn, void *arg);
void loop_timer_start(struct loop_timer *t, uint64_t after_ms); /* once; arms anew when armed */
void loop_timer_stop(struct loop_timer *t);
static inline bool loop_timer_armed(const struct loop_timer *t) { return t->heap_pos != 0; }

/* -- children and signals ----------------------------------------------------------------------------------- */
struct loop_child;
typedef void loop_child_fn(struct loop_child *c, int wait_status, void *arg); /* as waitpid(2) gives it; reaped */

struct loop_child {
	struct loop_io io; /* a pidfd */
	pid_t pid;
	loop_child_fn *fn;
	void *arg;
};
/* pid must be a child of this process that nobody else waits for. -ESRCH when it was reaped already. */
MUST_CHECK int loop_child_open(struct loop_child *c, struct loop *l, pid_t pid, loop_child_fn *fn, void *arg,
			       struct err *err);
void loop_child_close(struct loop_child *c); /* stops watching; does not kill */

typedef void loop_signal_fn(int signo, void *arg);
/* Blocks signo in this thread and delivers it as an event; for the life of the loop. Before other threads start. A child
 * inherits the mask: reset it between fork and exec (posix_spawn has POSIX_SPAWN_SETSIGMASK). */
MUST_CHECK int loop_signal(struct loop *l, int signo, loop_signal_fn *fn, void *arg, struct err *err);

/* -- posts and work ------------------------------------------------------------------------------------------ */
typedef void loop_fn(void *arg);
void loop_post(struct loop *l, loop_fn *fn, void *arg);  /* any thread: runs fn on the loop's thread, in order */
void loop_defer(struct loop *l, loop_fn *fn, void *arg); /* loop thread: runs fn later in this turn or the next */
void loop_release(struct loop *l, loop_fn *fn, void *arg); /* loop thread: runs fn in the close phase of this turn */
/* Loop thread: runs fn after LOOP_SOON_MS at the latest, with all that is asked for until then. For what comes thousands of times
 * a second: they share one timer of the kernel, which stays armed. A struct loop_timer is armed anew for each wait of the loop,
 * and when it is due before the kernel's own next tick, the processor's clock is set for it twice: in a virtual machine that
 * costs as much as a fifth of a request. */
#define LOOP_SOON_MS 1
void loop_soon(struct loop *l, loop_fn *fn, void *arg);

/* Runs work(arg) on a worker thread, then done(arg) on the loop's thread. Work of one lane runs in order, one at a
 * time (lane 1.. are serial: LOOP_LANE_STORE, and LOOP_LANE_TLS, which answers greetings); LOOP_LANE_ANY runs in parallel on
 * the pool (default 4 threads). */
#define LOOP_GREETINGS_NICE 10 /* above the loop's: who is through goes first, however many strangers come */
enum loop_lane { LOOP_LANE_ANY, LOOP_LANE_STORE, LOOP_LANE_TLS, LOOP_N_LANES };
void loop_work(struct loop *l, enum loop_lane lane, loop_fn *work, loop_fn *done, void *arg);
/* Loop thread, outside loop_run(): waits for all work and runs what was to follow it, until nothing is left. For an owner that is
 * about to free what they use. Posts of other threads are run as well. */
void loop_settle(struct loop *l);
