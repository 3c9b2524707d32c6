/* The queue of changes: collected on the loop's thread, written in order on the writer's.
 *
 * One batch is open at a time, and one with the writer. The first change of a turn opens it and defers its submission, so
 * that everything a handler changes becomes one transaction. A batch that failed for a reason that may pass (disk full) gives
 * its changes to the front of the next one, which goes after a pause, however many changes come meanwhile: memory and disk
 * meet again by themselves, and what waits is not tried once for each change that comes. Were there two with the writer, the
 * later one could be written and the earlier one, tried again, undo it. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"

#define AGAIN_MS 1000 /* after a failure; whoever waits for a change waits so long */

static struct store_batch *batch_new(struct store *s)
{
	struct store_batch *b = NEW(struct store_batch);

	b->store = s;
	list_init(&b->ops);
	list_init(&b->waiters);
	list_init(&b->all);
	return b;
}

static void op_free(struct store_op *op)
{
	list_remove(&op->all);
	for (int i = 0; i < op->n; i++)
		free(op->v[i].p);
	free(op);
}

static struct store_batch *batch_free(struct store_batch *b)
{
	list_foreach(&b->ops, struct store_op, all, op)
		op_free(op);
	list_foreach(&b->waiters, struct store_waiter, all, w)
		free(w);
	list_remove(&b->all);
	free(b);
	return NULL;
}

static void on_work(void *arg)
{
	struct store_batch *b = arg;
	struct store *s = b->store; /* alive: store_free waits for n_writing */

	store_db_write(s, b);
	pthread_mutex_lock(&s->lock);
	s->n_writing--;
	pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

static struct store_batch *open_batch(struct store *s);
static void submit(struct store *s);

/* Failed changes go before what came later, in their order. */
static void requeue(struct store *s, struct store_batch *b)
{
	struct store_batch *next = open_batch(s);

	while (!list_empty(&b->ops)) {
		struct list *last = b->ops.prev;
		list_remove(last);
		list_push_front(&next->ops, last);
	}
	next->n += b->n;
	b->n = 0;
}

static void tell(struct store_batch *b)
{
	list_foreach(&b->waiters, struct store_waiter, all, w) {
		list_remove(&w->all);
		if (w->done)
			w->done(w->arg, b->err.code ? &b->err : NULL);
		free(w);
	}
}

static void on_done(void *arg)
{
	struct store_batch *b = arg;
	struct store *s = b->store;

	if (s) {
		list_remove(&b->all);
		s->failure = (struct err)ERR_INIT;
		if (b->err.code && b->retry) {
			requeue(s, b);
			s->failure = b->err;
			s->waits = true;
			loop_timer_start(&s->again, AGAIN_MS);
		}
		tell(b);
		if (s->due)
			submit(s);
	}
	batch_free(b);
}

static void submit(struct store *s)
{
	s->due = s->open && !list_empty(&s->in_flight);
	if (!s->open || s->due || s->waits)
		return;
	struct store_batch *b = STEAL(s->open);
	list_push_back(&s->in_flight, &b->all);
	pthread_mutex_lock(&s->lock);
	s->n_writing++;
	pthread_mutex_unlock(&s->lock);
	loop_work(s->loop, LOOP_LANE_STORE, on_work, on_done, b);
}

static void on_again(struct loop_timer *t UNUSED, void *arg)
{
	struct store *s = arg;

	s->waits = false;
	submit(s);
}

void store_queue_init(struct store *s)
{
	list_init(&s->in_flight);
	loop_timer_init(&s->again, s->loop, on_again, s);
}

static void on_flush(void *arg)
{
	auto_free struct store_flush *flush = arg;

	if (!flush->store)
		return;
	flush->store->flush = NULL;
	submit(flush->store);
}

static struct store_batch *open_batch(struct store *s)
{
	if (!s->open)
		s->open = batch_new(s);
	return s->open;
}

static void flush_soon(struct store *s)
{
	if (s->flush)
		return;
	s->flush = NEW(struct store_flush);
	s->flush->store = s;
	loop_defer(s->loop, on_flush, s->flush);
}

void store_sync(struct store *s, store_done_fn *done, void *arg)
{
	struct store_waiter *w = NEW(struct store_waiter);

	w->done = done;
	w->arg = arg;
	list_push_back(&open_batch(s)->waiters, &w->all);
	flush_soon(s);
}

struct store_op *store_op_new(struct store *s, const char *sql)
{
	struct store_op *op = NEW(struct store_op);

	op->sql = sql;
	list_push_back(&open_batch(s)->ops, &op->all);
	s->open->n++;
	flush_soon(s);
	return op;
}

void store_op_i64(struct store_op *op, int64_t v)
{
	op->v[op->n++] = (struct store_value){ .type = STORE_I64, .i64 = v };
}

void store_op_text(struct store_op *op, const char *text)
{
	op->v[op->n++] = (struct store_value){ .type = STORE_TEXT, .p = xstrdup(text), .len = strlen(text) };
}

void store_op_blob(struct store_op *op, const void *p, size_t len)
{
	op->v[op->n++] = (struct store_value){ .type = STORE_BLOB, .p = xmemdup(p, len), .len = len };
}

void store_limit_queue(struct store *s, uint64_t n)
{
	s->queue_max = n;
}

int store_check_queue(const struct store *s, struct err *err)
{
	const struct store_batch *b = list_first(&s->in_flight, struct store_batch, all);
	size_t n = (s->open ? s->open->n : 0) + (b ? b->n : 0);

	if (!s->failure.code || !s->queue_max || n < s->queue_max)
		return 0;
	return err_set(err, -ENOSPC, "%zu changes wait to be written: %.300s", n, s->failure.msg);
}

void store_on_lost(struct store *s, store_lost_fn *fn, void *arg)
{
	s->lost = fn;
	s->lost_arg = arg;
}

void store_queue_finish(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->n_writing)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
	loop_timer_stop(&s->again);
	list_foreach(&s->in_flight, struct store_batch, all, b) {
		list_remove(&b->all);
		if (b->err.code && b->retry)
			requeue(s, b);
		b->store = NULL; /* its on_done only frees it */
	}
	if (s->flush)
		s->flush->store = NULL;
	if (s->open) {
		store_db_write(s, s->open);
		if (s->open->err.code && s->open->retry && s->lost)
			s->lost(s->lost_arg, s->open->n, &s->open->err);
		s->open = batch_free(s->open);
	}
}
