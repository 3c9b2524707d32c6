/* loop/private.h: what the files of this folder share; nobody else includes it. */
#pragma once

#include <pthread.h>

#include "base/buf.h"
#include "loop/loop.h"

#define LOOP_MAX_SIGNAL 65 /* _NSIG: signal numbers are below it */
#define LOOP_POOL_THREADS 4 /* of LOOP_LANE_ANY; the other lanes have one each */

/* A growing list of calls to make, run in order. */
struct loop_call {
	loop_fn *fn;
	void *arg;
};

struct loop_calls {
	struct loop_call *items;
	size_t len, cap; /* items */
};

struct loop_lane_state {
	struct buf jobs;    /* a queue of struct job */
	pthread_cond_t wake;
	unsigned n_threads; /* started; they live as long as the loop */
	unsigned n_idle;    /* of them, waiting for a job */
	unsigned max_threads;
	pthread_t threads[LOOP_POOL_THREADS];
};

struct loop {
	int epoll_fd;
	int stop_code; /* -1 = running */
	uint64_t now_ms;

	struct list pending; /* struct loop_io that have events of this turn */
	unsigned turn_events; /* how many were on it */

	struct loop_timer **heap; /* 1-based: heap[1] is due first */
	size_t heap_len, heap_cap;
	uint64_t timer_seq; /* given to each start: timers due at the same time run in the order of their start */

	struct loop_calls deferred, released;

	int soon_fd; /* timerfd: armed when soon goes from empty to not */
	struct loop_io soon_io;
	struct loop_calls soon;

	int post_fd; /* eventfd: written when posts goes from empty to not */
	struct loop_io post_io;
	pthread_mutex_t lock; /* guards what follows */
	struct loop_calls posts;
	struct loop_lane_state lanes[LOOP_N_LANES];
	size_t n_jobs;          /* of all lanes, until their posts are made */
	pthread_cond_t settled; /* that is one less */
	bool quitting;

	int signal_fd; /* -1 = none asked for yet */
	struct loop_io signal_io;
	sigset_t signals; /* blocked and delivered here */
	struct {
		loop_signal_fn *fn;
		void *arg;
	} handlers[LOOP_MAX_SIGNAL];
};

void loop_calls_add(struct loop_calls *c, loop_fn *fn, void *arg);
void loop_calls_run(struct loop_calls *c); /* those there now; what they add waits */
void loop_calls_done(struct loop_calls *c);

void loop_run_posts(struct loop *l);

/* io.c: waits for at most timeout_ms (-1 = for ever), then runs the callbacks. */
MUST_CHECK int loop_io_turn(struct loop *l, int timeout_ms);

/* timer.c */
MUST_CHECK int loop_soon_init(struct loop *l, struct err *err);
void loop_soon_done(struct loop *l);
int loop_timer_wait_ms(const struct loop *l); /* until the first is due; -1 = none armed */
void loop_timer_turn(struct loop *l);

/* work.c */
void loop_work_init(struct loop *l);
void loop_work_done(struct loop *l); /* lets queued work finish and joins the threads */

/* child.c */
void loop_signals_done(struct loop *l);
