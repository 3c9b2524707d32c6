#include "loop/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "loop/private.h"

/* -- calls ---------------------------------------------------------------------------------------------------- */

void loop_calls_add(struct loop_calls *c, loop_fn *fn, void *arg)
{
	if (c->len == c->cap) {
		c->cap = MAX((size_t)16, 2 * c->cap);
		c->items = xrealloc(c->items, c->cap * sizeof(*c->items));
	}
	c->items[c->len++] = (struct loop_call){ fn, arg };
}

void loop_calls_run(struct loop_calls *c)
{
	struct loop_calls now = *c;

	*c = (struct loop_calls){ 0 };
	for (size_t i = 0; i < now.len; i++)
		now.items[i].fn(now.items[i].arg);
	/* Keeps the memory for the next turn, unless a burst or the calls themselves made other. */
	if (c->items || now.cap > 4096) {
		free(now.items);
		return;
	}
	now.len = 0;
	*c = now;
}

void loop_calls_done(struct loop_calls *c)
{
	free(c->items);
	*c = (struct loop_calls){ 0 };
}

void loop_defer(struct loop *l, loop_fn *fn, void *arg)
{
	loop_calls_add(&l->deferred, fn, arg);
}

void loop_release(struct loop *l, loop_fn *fn, void *arg)
{
	loop_calls_add(&l->released, fn, arg);
}

/* -- posts ---------------------------------------------------------------------------------------------------- */

void loop_post(struct loop *l, loop_fn *fn, void *arg)
{
	pthread_mutex_lock(&l->lock);
	/* Under the lock: the loop may be freed by the very call that is posted here. */
	if (l->posts.len == 0)
		eventfd_write(l->post_fd, 1);
	loop_calls_add(&l->posts, fn, arg);
	pthread_mutex_unlock(&l->lock);
}

void loop_run_posts(struct loop *l)
{
	struct loop_calls posts;

	pthread_mutex_lock(&l->lock);
	posts = l->posts;
	l->posts = (struct loop_calls){ 0 };
	pthread_mutex_unlock(&l->lock);
	for (size_t i = 0; i < posts.len; i++)
		posts.items[i].fn(posts.items[i].arg);
	loop_calls_done(&posts);
}

static void on_post(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	eventfd_t n;

	/* Read first: a post that comes after it writes again. */
	eventfd_read(io->fd, &n);
	loop_run_posts(arg);
}

/* -- the loop ------------------------------------------------------------------------------------------------- */

int loop_new(struct loop **ret, struct err *err)
{
	struct loop *l = NEW(struct loop);
	int r;

	l->stop_code = l->signal_fd = l->soon_fd = -1;
	l->now_ms = time_now_ms();
	list_init(&l->pending);
	sigemptyset(&l->signals);
	loop_work_init(l);
	l->post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0 || l->post_fd < 0)
		r = err_sys(err, "make an event loop");
	else
		r = loop_io_open(&l->post_io, l, l->post_fd, EPOLLIN, on_post, l, err);
	if (r == 0)
		r = loop_soon_init(l, err);
	if (r < 0) {
		loop_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* Bounded, as a call may defer itself anew each time. */
static void run_what_is_left(struct loop *l)
{
	for (int i = 0; i < 16; i++) {
		loop_run_posts(l);
		loop_calls_run(&l->deferred);
		loop_calls_run(&l->soon);
		loop_calls_run(&l->released);
	}
}

struct loop *loop_free(struct loop *l)
{
	if (!l)
		return NULL;
	loop_work_done(l);
	run_what_is_left(l);
	loop_signals_done(l);
	loop_soon_done(l);
	loop_io_close(&l->post_io);
	fd_close(l->post_fd);
	fd_close(l->epoll_fd);
	loop_calls_done(&l->posts);
	loop_calls_done(&l->deferred);
	loop_calls_done(&l->released);
	pthread_mutex_destroy(&l->lock);
	free(l->heap);
	free(l);
	return NULL;
}

static int turn(struct loop *l)
{
	int r = loop_io_turn(l, l->deferred.len > 0 ? 0 : loop_timer_wait_ms(l));

	if (r < 0)
		return r;
	loop_timer_turn(l);
	loop_calls_run(&l->deferred);
	/* The close phase. A destructor may release what it owned. */
	while (l->released.len > 0)
		loop_calls_run(&l->released);
	return 0;
}

int loop_run(struct loop *l)
{
	int r = 0;

	while (l->stop_code < 0 && r == 0)
		r = turn(l);
	if (r == 0)
		r = l->stop_code;
	l->stop_code = -1;
	return r;
}

void loop_stop(struct loop *l, int code)
{
	l->stop_code = code;
}

unsigned loop_turn_events(const struct loop *l)
{
	return l->turn_events;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ms;
}
