#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "loop/loop.h"

static struct loop *loop;

static void begin(void)
{
	struct err err = ERR_INIT;

	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
}

static void done(void)
{
	loop = loop_free(loop);
}

TestSuite(loop, .init = begin, .fini = done, .timeout = 30);

static void stop(void *arg)
{
	loop_stop(loop, (int)(intptr_t)arg);
}

static void stop_timer(struct loop_timer *t UNUSED, void *arg)
{
	stop(arg);
}

/* Runs the loop for some time. */
static void run_for(uint64_t ms)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, stop_timer, NULL);
	loop_timer_start(&t, ms);
	cr_assert_eq(loop_run(loop), 0);
}

struct pipe_pair {
	int read, write;
};

static struct pipe_pair make_pipe(void)
{
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	return (struct pipe_pair){ p[0], p[1] };
}

Test(loop, returns_the_code_and_may_run_again)
{
	loop_defer(loop, stop, (void *)7);
	cr_assert_eq(loop_run(loop), 7);
	loop_defer(loop, stop, (void *)0);
	cr_assert_eq(loop_run(loop), 0);
	loop_stop(loop, 3);
	cr_assert_eq(loop_run(loop), 3, "a stop before the run counts");
}

/* -- descriptors -------------------------------------------------------------------------------------------- */

struct peer {
	struct loop_io io;
	struct peer *other;
	int n_calls;
	uint32_t events;
};

static void close_both(struct loop_io *io, uint32_t events, void *arg)
{
	struct peer *p = arg;

	p->n_calls++;
	p->events = events;
	loop_io_close(io);
	loop_io_close(&p->other->io);
	/* As a careless owner might: any later use of it is seen. */
	memset(&p->other->io, 0x55, sizeof(p->other->io));
	p->other->io.loop = NULL;
}

Test(loop, a_closed_watch_gets_no_event_of_the_same_batch)
{
	struct pipe_pair a = make_pipe(), b = make_pipe();
	struct peer pa = { 0 }, pb = { .other = &pa };

	pa.other = &pb;
	cr_assert_eq(loop_io_open(&pa.io, loop, a.read, EPOLLIN, close_both, &pa, NULL), 0);
	cr_assert_eq(loop_io_open(&pb.io, loop, b.read, EPOLLIN, close_both, &pb, NULL), 0);
	cr_assert_eq(fd_write_all(a.write, "x", 1), 0);
	cr_assert_eq(fd_write_all(b.write, "x", 1), 0);
	cr_assert_eq(pa.n_calls + pb.n_calls, 0);
	run_for(20);
	cr_assert_eq(pa.n_calls + pb.n_calls, 1);
}

static void mute_other(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	struct peer *p = arg;

	p->n_calls++;
	loop_io_set(io, 0);
	loop_io_set(&p->other->io, 0);
}

Test(loop, events_no_longer_asked_for_are_not_delivered)
{
	struct pipe_pair a = make_pipe(), b = make_pipe();
	struct peer pa = { 0 }, pb = { .other = &pa };

	pa.other = &pb;
	cr_assert_eq(loop_io_open(&pa.io, loop, a.read, EPOLLIN, mute_other, &pa, NULL), 0);
	cr_assert_eq(loop_io_open(&pb.io, loop, b.read, EPOLLIN, mute_other, &pb, NULL), 0);
	cr_assert_eq(fd_write_all(a.write, "x", 1), 0);
	cr_assert_eq(fd_write_all(b.write, "x", 1), 0);
	run_for(20);
	cr_assert_eq(pa.n_calls + pb.n_calls, 1);
	/* Level-triggered: asked for again, it comes again. */
	loop_io_set(&pa.io, EPOLLIN);
	run_for(20);
	cr_assert_eq(pa.n_calls + pb.n_calls, 2);
	loop_io_close(&pa.io);
	loop_io_close(&pb.io);
	loop_io_close(&pb.io); /* harmless */
}

static void note_events(struct loop_io *io, uint32_t events, void *arg)
{
	*(uint32_t *)arg = events;
	loop_io_close(io);
}

Test(loop, hang_up_comes_unasked)
{
	struct pipe_pair a = make_pipe();
	uint32_t events = 0;
	struct loop_io io;

	cr_assert_eq(loop_io_open(&io, loop, a.read, 0, note_events, &events, NULL), 0);
	fd_close(a.write);
	run_for(20);
	cr_assert(events & EPOLLHUP);
	fd_close(a.read);
}

Test(loop, a_regular_file_is_refused)
{
	struct err err = ERR_INIT;
	struct loop_io io;
	int fd;

	cr_assert_eq(fd_memfd(&fd, "x", "", 0, NULL), 0);
	cr_assert_eq(loop_io_open(&io, loop, fd, EPOLLIN, note_events, NULL, &err), -EPERM);
	cr_assert_null(io.loop);
	loop_io_close(&io);
}

/* -- timers ------------------------------------------------------------------------------------------------- */

static int order[64], n_order;

static void note(void *arg)
{
	order[n_order++] = (int)(intptr_t)arg;
}

static void note_timer(struct loop_timer *t, void *arg)
{
	cr_assert_not(loop_timer_armed(t));
	cr_assert_geq(loop_now_ms(loop), t->due_ms);
	note(arg);
}

Test(loop, timers_run_in_order_of_time_then_of_start)
{
	static const int after[] = { 30, 10, 20, 10, 0, 0, 40 }, expected[] = { 4, 5, 1, 3, 2, 0, 6 };
	struct loop_timer t[ARRAY_LEN(after)];

	for (size_t i = 0; i < ARRAY_LEN(after); i++) {
		loop_timer_init(&t[i], loop, note_timer, (void *)i);
		loop_timer_start(&t[i], (uint64_t)after[i]);
	}
	cr_assert_eq(n_order, 0, "never inside the call that starts it");
	run_for(80);
	cr_assert_eq(n_order, (int)ARRAY_LEN(after));
	cr_assert_arr_eq(order, expected, sizeof(expected));
}

Test(loop, many_timers_some_stopped)
{
	enum { N = 1000 };
	static struct loop_timer t[N];
	uint64_t last = 0;

	for (size_t i = 0; i < N; i++) {
		loop_timer_init(&t[i], loop, stop_timer, (void *)1);
		loop_timer_start(&t[i], i * 7919 % 97);
	}
	for (size_t i = 0; i < N; i++)
		if (i % 3 == 0)
			loop_timer_stop(&t[i]);
		else if (i % 3 == 1)
			loop_timer_start(&t[i], i * 31 % 53);
	for (size_t n = 0; n < N - (N + 2) / 3;) {
		size_t armed = 0;

		cr_assert_eq(loop_run(loop), 1);
		cr_assert_geq(loop_now_ms(loop), last);
		last = loop_now_ms(loop);
		for (size_t i = 0; i < N; i++) {
			cr_assert(!loop_timer_armed(&t[i]) || i % 3 != 0);
			armed += loop_timer_armed(&t[i]);
		}
		n = N - (N + 2) / 3 - armed;
	}
}

static void stop_the_next(struct loop_timer *t UNUSED, void *arg)
{
	note((void *)1);
	loop_timer_stop(arg);
}

Test(loop, a_timer_stopped_by_one_due_with_it_does_not_run)
{
	struct loop_timer a, b;

	loop_timer_init(&a, loop, stop_the_next, &b);
	loop_timer_init(&b, loop, note_timer, (void *)2);
	loop_timer_start(&a, 0);
	loop_timer_start(&b, 0);
	run_for(20);
	cr_assert_eq(n_order, 1);
	loop_timer_stop(&b);
}

static void start_again(struct loop_timer *t, void *arg)
{
	++*(int *)arg;
	loop_timer_start(t, 0);
}

Test(loop, a_timer_that_restarts_itself_starves_nobody)
{
	struct pipe_pair a = make_pipe();
	struct loop_timer t;
	struct loop_io io;
	uint32_t events = 0;
	int n = 0;

	loop_timer_init(&t, loop, start_again, &n);
	loop_timer_start(&t, 0);
	cr_assert_eq(loop_io_open(&io, loop, a.read, EPOLLIN, note_events, &events, NULL), 0);
	cr_assert_eq(fd_write_all(a.write, "x", 1), 0);
	run_for(20);
	cr_assert(events & EPOLLIN);
	cr_assert_gt(n, 10);
	loop_timer_stop(&t);
}

Test(loop, never_early_and_not_much_late)
{
	uint64_t begin_ms = time_now_ms(), took;

	run_for(50);
	took = time_now_ms() - begin_ms;
	cr_assert_geq(took, 50);
	cr_assert_lt(took, 1000);
}

Test(loop, a_timer_counts_from_its_start_not_from_the_turn)
{
	uint64_t begin_ms;

	usleep(60000); /* the loop's clock was read before this */
	begin_ms = time_now_ms();
	run_for(40);
	cr_assert_geq(time_now_ms() - begin_ms, 40);
}

/* -- calls -------------------------------------------------------------------------------------------------- */

static void defer_and_note(void *arg)
{
	note(arg);
	loop_defer(loop, note, (void *)12);
	loop_release(loop, note, (void *)11);
}

Test(loop, deferred_run_before_the_close_phase)
{
	loop_release(loop, note, (void *)2);
	loop_defer(loop, defer_and_note, (void *)1);
	cr_assert_eq(n_order, 0);
	run_for(10);
	cr_assert_arr_eq(order, ((int[]){ 1, 2, 11, 12 }), 4 * sizeof(int));
	cr_assert_eq(n_order, 4);
}

static void soon_again(void *arg)
{
	note(arg);
	loop_soon(loop, note, (void *)3);
	loop_soon(loop, stop, NULL);
}

Test(loop, soon_is_for_all_at_once_and_again)
{
	for (int i = 0; i < 2; i++) {
		n_order = 0;
		loop_soon(loop, note, (void *)1);
		loop_soon(loop, soon_again, (void *)2);
		cr_assert_eq(n_order, 0);
		cr_assert_eq(loop_run(loop), 0);
		cr_assert_arr_eq(order, ((int[]){ 1, 2, 3 }), 3 * sizeof(int));
		cr_assert_eq(n_order, 3);
	}
}

Test(loop, soon_runs_in_a_loop_that_is_freed)
{
	loop_soon(loop, note, (void *)1);
	loop = loop_free(loop);
	cr_assert_eq(n_order, 1);
}

struct object {
	struct loop_io io;
	int fd;
};

static int n_freed;

static void free_object(void *arg)
{
	struct object *o = arg;

	fd_close(o->fd);
	free(o);
	n_freed++;
}

static void release_myself(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	loop_io_close(io);
	loop_release(loop, free_object, arg);
	cr_assert_eq(n_freed, 0);
	/* Still whole here. */
	((struct object *)arg)->io.events = 0;
}

Test(loop, an_object_may_be_released_in_its_own_callback)
{
	struct pipe_pair a = make_pipe();
	struct object *o = NEW(struct object);

	o->fd = a.read;
	cr_assert_eq(loop_io_open(&o->io, loop, o->fd, EPOLLIN, release_myself, o, NULL), 0);
	cr_assert_eq(fd_write_all(a.write, "x", 1), 0);
	run_for(10);
	cr_assert_eq(n_freed, 1);
	fd_close(a.write);
}

static void release_two(void *arg)
{
	n_freed++;
	if (arg)
		loop_release(loop, release_two, NULL);
}

Test(loop, releases_made_in_the_close_phase_run_in_it)
{
	loop_release(loop, release_two, (void *)1);
	loop_defer(loop, stop, NULL);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(n_freed, 2);
}

/* -- posts and work ------------------------------------------------------------------------------------------- */

enum { POSTERS = 4, POSTS = 5000 };
static int last_post[POSTERS], n_posts;
static pthread_t loop_thread;

static void on_post(void *arg)
{
	int poster = (int)((intptr_t)arg / POSTS), nr = (int)((intptr_t)arg % POSTS);

	cr_assert(pthread_equal(pthread_self(), loop_thread));
	cr_assert_eq(nr, last_post[poster]++);
	if (++n_posts == POSTERS * POSTS)
		loop_stop(loop, 0);
}

static void *poster_main(void *arg)
{
	for (intptr_t i = 0; i < POSTS; i++)
		loop_post(loop, on_post, (void *)((intptr_t)arg * POSTS + i));
	return NULL;
}

Test(loop, posts_from_threads_arrive_all_and_in_order)
{
	pthread_t threads[POSTERS];

	loop_thread = pthread_self();
	for (intptr_t i = 0; i < POSTERS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, poster_main, (void *)i), 0);
	cr_assert_eq(loop_run(loop), 0);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(n_posts, POSTERS * POSTS);
}

static atomic_int running, most_running, n_worked;
static int n_done;

static void work(void *arg)
{
	int now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&most_running);

	cr_assert_not(pthread_equal(pthread_self(), loop_thread));
	while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
		;
	if (arg)
		usleep((unsigned)(uintptr_t)arg);
	atomic_fetch_sub(&running, 1);
	atomic_fetch_add(&n_worked, 1);
}

static void work_done(void *arg UNUSED)
{
	cr_assert(pthread_equal(pthread_self(), loop_thread));
	if (++n_done == 100)
		loop_stop(loop, 0);
}

Test(loop, work_runs_in_parallel_on_the_pool)
{
	loop_thread = pthread_self();
	for (int i = 0; i < 100; i++)
		loop_work(loop, LOOP_LANE_ANY, work, work_done, (void *)2000);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_gt(atomic_load(&most_running), 1);
	cr_assert_leq(atomic_load(&most_running), 4);
}

static int serial[100], n_serial; /* written by one worker at a time: ThreadSanitizer would see otherwise */

static void serial_work(void *arg)
{
	work((void *)(uintptr_t)(50 * ((uintptr_t)arg % 3)));
	serial[n_serial++] = (int)(uintptr_t)arg;
}

Test(loop, a_serial_lane_runs_in_order_one_at_a_time)
{
	loop_thread = pthread_self();
	for (uintptr_t i = 0; i < 100; i++)
		loop_work(loop, LOOP_LANE_STORE, serial_work, work_done, (void *)i);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(atomic_load(&most_running), 1);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(serial[i], i);
}

static void slow_work(void *arg UNUSED)
{
	usleep(5000);
	atomic_fetch_add(&n_worked, 1);
}

Test(loop, freeing_it_lets_queued_work_finish)
{
	loop_thread = pthread_self();
	for (int i = 0; i < 10; i++)
		loop_work(loop, LOOP_LANE_STORE, slow_work, work_done, NULL);
	loop = loop_free(loop);
	cr_assert_eq(atomic_load(&n_worked), 10);
	cr_assert_eq(n_done, 10, "nobody is left waiting for an answer");
}

static void work_again(void *arg)
{
	int *left = arg;

	n_done++;
	if (--*left > 0)
		loop_work(loop, LOOP_LANE_ANY, slow_work, work_again, left);
}

Test(loop, settling_waits_for_work_and_for_what_follows_from_it)
{
	int left[2] = { 5, 3 };

	for (int i = 0; i < 2; i++)
		loop_work(loop, LOOP_LANE_ANY, slow_work, work_again, &left[i]);
	loop_work(loop, LOOP_LANE_STORE, slow_work, NULL, NULL);
	loop_settle(loop);
	cr_assert_eq(atomic_load(&n_worked), 9);
	cr_assert(n_done == 8 && left[0] == 0 && left[1] == 0);
	loop_settle(loop);
}

static void work_mask(void *arg)
{
	pthread_sigmask(SIG_SETMASK, NULL, arg);
}

static void stop_after_work(void *arg UNUSED)
{
	loop_stop(loop, 0);
}

Test(loop, workers_take_no_signals)
{
	sigset_t mask;

	sigemptyset(&mask);
	loop_work(loop, LOOP_LANE_ANY, work_mask, stop_after_work, &mask);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT) && sigismember(&mask, SIGCHLD));
}

/* -- children and signals ----------------------------------------------------------------------------------- */

static int last_status;

static void on_exit_of(struct loop_child *c, int status, void *arg)
{
	cr_assert_null(c->io.loop);
	last_status = status;
	if (--*(int *)arg == 0)
		loop_stop(loop, 0);
}

static pid_t start_child(int code)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		if (code < 0)
			pause();
		_exit(code);
	}
	return pid;
}

Test(loop, children_are_reaped)
{
	struct loop_child c[20];
	int left = ARRAY_LEN(c);

	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		cr_assert_eq(loop_child_open(&c[i], loop, start_child(3), on_exit_of, &left, NULL), 0);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(left, 0);
	cr_assert(WIFEXITED(last_status));
	cr_assert_eq(WEXITSTATUS(last_status), 3);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
	cr_assert_eq(errno, ECHILD);
}

Test(loop, a_killed_child_and_one_given_up)
{
	struct loop_child killed, given_up;
	int left = 1, status;

	cr_assert_eq(loop_child_open(&killed, loop, start_child(-1), on_exit_of, &left, NULL), 0);
	cr_assert_eq(loop_child_open(&given_up, loop, start_child(-1), on_exit_of, &left, NULL), 0);
	loop_child_close(&given_up);
	loop_child_close(&given_up);
	kill(given_up.pid, SIGKILL);
	kill(killed.pid, SIGKILL);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert(WIFSIGNALED(last_status) && WTERMSIG(last_status) == SIGKILL);
	run_for(10);
	cr_assert_eq(left, 0);
	cr_assert_eq(waitpid(given_up.pid, &status, 0), given_up.pid);
}

Test(loop, no_such_child)
{
	struct err err = ERR_INIT;
	struct loop_child c;
	pid_t pid = start_child(0);

	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(loop_child_open(&c, loop, pid, on_exit_of, NULL, &err), -ESRCH);
	loop_child_close(&c);
}

static void on_signal(int signo, void *arg)
{
	note((void *)(intptr_t)signo);
	if (arg)
		loop_stop(loop, signo);
}

Test(loop, signals_are_events)
{
	cr_assert_eq(loop_signal(loop, SIGUSR1, on_signal, NULL, NULL), 0);
	cr_assert_eq(loop_signal(loop, SIGUSR2, on_signal, (void *)1, NULL), 0);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	cr_assert_eq(n_order, 0);
	cr_assert_eq(loop_run(loop), SIGUSR2);
	cr_assert_eq(n_order, 2);
	cr_assert_eq(loop_signal(loop, 0, on_signal, NULL, NULL), -EINVAL);
	cr_assert_eq(loop_signal(loop, 1000, on_signal, NULL, NULL), -EINVAL);
}
