/* A binary heap, 1-based so that heap_pos 0 can mean "not armed". */
#include <limits.h>
#include <sys/timerfd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "loop/private.h"

static bool before(const struct loop_timer *a, const struct loop_timer *b)
{
	return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

static void place(struct loop *l, struct loop_timer *t, size_t pos)
{
	l->heap[pos] = t;
	t->heap_pos = pos;
}

static void sift_up(struct loop *l, struct loop_timer *t, size_t pos)
{
	for (; pos > 1 && before(t, l->heap[pos / 2]); pos /= 2)
		place(l, l->heap[pos / 2], pos);
	place(l, t, pos);
}

static void sift_down(struct loop *l, struct loop_timer *t, size_t pos)
{
	while (2 * pos <= l->heap_len) {
		size_t child = 2 * pos;

		if (child < l->heap_len && before(l->heap[child + 1], l->heap[child]))
			child++;
		if (!before(l->heap[child], t))
			break;
		place(l, l->heap[child], pos);
		pos = child;
	}
	place(l, t, pos);
}

void loop_timer_init(struct loop_timer *t, struct loop *l, loop_timer_fn *fn, void *arg)
{
	*t = (struct loop_timer){ .loop = l, .fn = fn, .arg = arg };
}

void loop_timer_start(struct loop_timer *t, uint64_t after_ms)
{
	struct loop *l = t->loop;

	loop_timer_stop(t);
	/* Not l->now_ms: the callback that starts it may have worked long since this turn began. */
	t->due_ms = time_now_ms();
	t->due_ms += MIN(after_ms, UINT64_MAX - t->due_ms);
	t->seq = l->timer_seq++;
	if (l->heap_len + 1 >= l->heap_cap) {
		l->heap_cap = MAX((size_t)16, 2 * l->heap_cap);
		l->heap = xrealloc(l->heap, l->heap_cap * sizeof(struct loop_timer *));
	}
	l->heap_len++;
	sift_up(l, t, l->heap_len);
}

void loop_timer_stop(struct loop_timer *t)
{
	struct loop *l = t->loop;
	size_t pos = t->heap_pos;
	struct loop_timer *last;

	if (pos == 0)
		return;
	t->heap_pos = 0;
	last = l->heap[l->heap_len--];
	if (last == t)
		return;
	if (pos > 1 && before(last, l->heap[pos / 2]))
		sift_up(l, last, pos);
	else
		sift_down(l, last, pos);
}

int loop_timer_wait_ms(const struct loop *l)
{
	uint64_t now = time_now_ms();

	if (l->heap_len == 0)
		return -1;
	if (l->heap[1]->due_ms <= now)
		return 0;
	return (int)MIN(l->heap[1]->due_ms - now, (uint64_t)INT_MAX);
}

void loop_timer_turn(struct loop *l)
{
	/* One that is started for "now" by these callbacks waits for the next turn, else it could starve the rest. */
	uint64_t started_before = l->timer_seq;

	while (l->heap_len > 0) {
		struct loop_timer *t = l->heap[1];

		if (t->due_ms > l->now_ms || t->seq >= started_before)
			return;
		loop_timer_stop(t);
		t->fn(t, t->arg);
	}
}

/* -- soon ------------------------------------------------------------------------------------------------------ */

/* Edge-triggered: nobody need read it, arming it anew takes back what it told. */
static void on_soon(struct loop_io *io UNUSED, uint32_t events UNUSED, void *arg)
{
	struct loop *l = arg;

	loop_calls_run(&l->soon);
}

int loop_soon_init(struct loop *l, struct err *err)
{
	l->soon_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->soon_fd < 0)
		return err_sys(err, "make a timer");
	return loop_io_open(&l->soon_io, l, l->soon_fd, EPOLLIN | EPOLLET, on_soon, l, err);
}

void loop_soon(struct loop *l, loop_fn *fn, void *arg)
{
	static const struct itimerspec once = { .it_value = { .tv_nsec = LOOP_SOON_MS * 1000000L } };

	/* What is armed and not told yet covers this one, too. */
	if (l->soon.len == 0)
		timerfd_settime(l->soon_fd, 0, &once, NULL);
	loop_calls_add(&l->soon, fn, arg);
}

void loop_soon_done(struct loop *l)
{
	loop_io_close(&l->soon_io);
	fd_close(l->soon_fd);
	loop_calls_done(&l->soon);
}
