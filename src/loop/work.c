/* Work on threads. Threads start when there is work and nobody idle, and end with the loop. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "loop/private.h"

struct job {
	loop_fn *work, *done;
	void *arg;
};

/* What a thread needs to know; freed by it. */
struct worker {
	struct loop *loop;
	struct loop_lane_state *lane;
};

void loop_work_init(struct loop *l)
{
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->settled, NULL);
	for (size_t i = 0; i < LOOP_N_LANES; i++) {
		struct loop_lane_state *lane = &l->lanes[i];

		buf_init(&lane->jobs, BUF_UNLIMITED);
		pthread_cond_init(&lane->wake, NULL);
		lane->max_threads = i == LOOP_LANE_ANY ? LOOP_POOL_THREADS : 1;
	}
}

/* Takes the next job; false when the loop ends and the queue is empty. Holds the lock. */
static bool next_job(struct loop *l, struct loop_lane_state *lane, struct job *ret)
{
	lane->n_idle++;
	while (lane->jobs.len == 0 && !l->quitting)
		pthread_cond_wait(&lane->wake, &l->lock);
	lane->n_idle--;
	if (lane->jobs.len == 0)
		return false;
	memcpy(ret, lane->jobs.data, sizeof(*ret));
	buf_consume(&lane->jobs, sizeof(*ret));
	return true;
}

static void *worker_main(void *p)
{
	struct worker w = *(struct worker *)p;
	struct job job;

	free(p);
	if (w.lane == &w.loop->lanes[LOOP_LANE_TLS])
		(void)!nice(LOOP_GREETINGS_NICE); /* of this thread alone, in Linux */
	pthread_mutex_lock(&w.loop->lock);
	while (next_job(w.loop, w.lane, &job)) {
		pthread_mutex_unlock(&w.loop->lock);
		job.work(job.arg);
		if (job.done)
			loop_post(w.loop, job.done, job.arg);
		pthread_mutex_lock(&w.loop->lock);
		w.loop->n_jobs--;
		pthread_cond_signal(&w.loop->settled);
	}
	pthread_mutex_unlock(&w.loop->lock);
	return NULL;
}

/* Workers block all signals: those of the process belong to the loop's thread. */
static void start_thread(struct loop *l, struct loop_lane_state *lane)
{
	struct worker *w = NEW(struct worker);
	sigset_t all, old;
	int r;

	*w = (struct worker){ .loop = l, .lane = lane };
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&lane->threads[lane->n_threads], NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0) {
		lane->n_threads++;
		return;
	}
	free(w);
	/* With no thread at all the job would never run; that is as bad as no memory. */
	if (lane->n_threads == 0)
		abort();
}

void loop_work(struct loop *l, enum loop_lane lane_nr, loop_fn *work, loop_fn *done, void *arg)
{
	struct loop_lane_state *lane = &l->lanes[lane_nr];
	struct job job = { .work = work, .done = done, .arg = arg };

	pthread_mutex_lock(&l->lock);
	/* Without a limit it cannot fail. */
	if (buf_append(&lane->jobs, &job, sizeof(job)) < 0)
		abort();
	l->n_jobs++;
	/* An idle thread that was woken for an earlier job still counts as idle until it runs. */
	if (lane->jobs.len / sizeof(job) > lane->n_idle && lane->n_threads < lane->max_threads)
		start_thread(l, lane);
	pthread_cond_signal(&lane->wake);
	pthread_mutex_unlock(&l->lock);
}

void loop_work_done(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->quitting = true;
	for (size_t i = 0; i < LOOP_N_LANES; i++)
		pthread_cond_broadcast(&l->lanes[i].wake);
	pthread_mutex_unlock(&l->lock);
	for (size_t i = 0; i < LOOP_N_LANES; i++) {
		for (unsigned k = 0; k < l->lanes[i].n_threads; k++)
			pthread_join(l->lanes[i].threads[k], NULL);
		pthread_cond_destroy(&l->lanes[i].wake);
		buf_done(&l->lanes[i].jobs);
	}
	pthread_cond_destroy(&l->settled);
}

/* False when there is nothing that a post could come of. */
static bool wait_for_posts(struct loop *l)
{
	bool more;

	pthread_mutex_lock(&l->lock);
	while (l->n_jobs > 0 && l->posts.len == 0)
		pthread_cond_wait(&l->settled, &l->lock);
	more = l->posts.len > 0;
	pthread_mutex_unlock(&l->lock);
	return more;
}

void loop_settle(struct loop *l)
{
	while (wait_for_posts(l))
		loop_run_posts(l);
}
