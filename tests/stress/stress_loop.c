/* The loop's meeting points between threads, without a test framework: Criterion cannot run under ThreadSanitizer,
 * which is what this is for. It checks the sums as well, so it is a test in every build. */
#include <pthread.h>
#include <stdio.h>

#include "base/mem.h"
#include "loop/loop.h"

enum { POSTERS = 4, POSTS = 5000, JOBS = 2000 };

static struct loop *loop;

/* Plain variables: what the loop promises must be enough to order the accesses. */
static int n_posts, n_done, n_serial, serial_errors;

static void stop_when_all_is_done(void)
{
	if (n_posts == POSTERS * POSTS && n_done == 2 * JOBS)
		loop_stop(loop, 0);
}

static void on_post(void *arg)
{
	/* Written by the poster before it posted. */
	n_posts += *(int *)arg;
	free(arg);
	stop_when_all_is_done();
}

static void *poster_main(void *arg UNUSED)
{
	for (int i = 0; i < POSTS; i++) {
		int *one = NEW(int);

		*one = 1;
		loop_post(loop, on_post, one);
	}
	return NULL;
}

struct job {
	int number, result;
};

static void parallel_work(void *arg)
{
	struct job *j = arg;

	j->result = j->number + 1;
}

static void serial_work(void *arg)
{
	struct job *j = arg;

	if (n_serial++ != j->number)
		serial_errors++;
	j->result = j->number + 1;
}

static void work_done(void *arg)
{
	struct job *j = arg;

	if (j->result != j->number + 1)
		abort();
	free(j);
	n_done++;
	stop_when_all_is_done();
}

static void start_work(void *arg UNUSED)
{
	for (int i = 0; i < JOBS; i++) {
		struct job *a = NEW(struct job), *b = NEW(struct job);

		a->number = b->number = i;
		loop_work(loop, LOOP_LANE_ANY, parallel_work, work_done, a);
		loop_work(loop, LOOP_LANE_STORE, serial_work, work_done, b);
	}
}

int main(void)
{
	struct err err = ERR_INIT;
	pthread_t threads[POSTERS];
	int r = loop_new(&loop, &err);

	if (r < 0) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	loop_defer(loop, start_work, NULL);
	for (int i = 0; i < POSTERS; i++)
		if (pthread_create(&threads[i], NULL, poster_main, NULL) != 0)
			return 1;
	r = loop_run(loop);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	loop_free(loop);
	printf("%d posts, %d jobs, %d out of order\n", n_posts, n_done, serial_errors);
	return r != 0 || serial_errors > 0;
}
