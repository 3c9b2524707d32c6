/* api/tasks.c: see tasks.h. */
#include "api/tasks.h"

#include <errno.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

struct tasks {
	struct loop *loop;
	uint64_t keep_ms, repeat_ms;
	struct map *by_id;
	struct list all;      /* struct task, oldest first */
	struct list read;     /* those that were read, the next to go first */
	struct loop_timer expiry;
};

struct task {
	struct tasks *tasks;
	struct list node, read_node;
	char id[TASK_ID_LEN];
	unsigned char key[TASK_KEY_LEN];
	struct task_result result;
	bool over;
	char *error;          /* over: it failed */
	struct list streams;
	bool joinable;        /* its first stream broke before it knew the id */
	struct http_fate *fate; /* its first stream is over, and whether the id arrived is not known yet */
	uint64_t broke_ms;
	uint64_t expires_ms;  /* while in tasks.read */
};

/* -- the table ------------------------------------------------------------------------------------------------------------ */

static void task_free(struct task *task)
{
	list_foreach(&task->streams, struct task_stream, node, st) {
		list_remove(&st->node);
		st->task = NULL;
	}
	http_fate_cancel(task->fate);
	list_remove(&task->node);
	list_remove(&task->read_node);
	map_del(task->tasks->by_id, task->id);
	if (task->result.release)
		task->result.release(task->result.arg);
	free(task->error);
	free(task);
}

/* The whole result was produced for somebody: from now on it is kept for keep_ms. */
static void was_read(struct task *task)
{
	struct tasks *t = task->tasks;

	task->expires_ms = loop_now_ms(t->loop) + t->keep_ms;
	list_remove(&task->read_node);
	list_push_back(&t->read, &task->read_node);
	if (!loop_timer_armed(&t->expiry))
		loop_timer_start(&t->expiry, t->keep_ms);
}

static void on_expiry(struct loop_timer *t, void *arg)
{
	struct tasks *ts = arg;
	uint64_t now = loop_now_ms(ts->loop);
	struct task *first;

	while ((first = list_first(&ts->read, struct task, read_node)) && first->expires_ms <= now)
		if (list_empty(&first->streams))
			task_free(first);
		else
			was_read(first); /* somebody still reads it */
	if (first)
		loop_timer_start(t, first->expires_ms - now);
}

struct tasks *tasks_new(struct loop *l, uint64_t keep_ms, uint64_t repeat_ms)
{
	struct tasks *t = NEW(struct tasks);

	*t = (struct tasks){ .loop = l, .keep_ms = keep_ms, .repeat_ms = repeat_ms, .by_id = map_new() };
	list_init(&t->all);
	list_init(&t->read);
	loop_timer_init(&t->expiry, l, on_expiry, t);
	return t;
}

struct tasks *tasks_free(struct tasks *t, const char *text)
{
	if (!t)
		return NULL;
	while (!list_empty(&t->all)) {
		struct task *task = list_first(&t->all, struct task, node);

		if (!task->over)
			task_fail(task, text);
		task_free(task);
	}
	loop_timer_stop(&t->expiry);
	map_free(t->by_id);
	free(t);
	return NULL;
}

static void make_id(char ret[TASK_ID_LEN])
{
	char uuid[UUID_LEN];
	size_t n = 0;

	random_uuid(uuid);
	for (const char *p = uuid; *p; p++)
		if (*p != '-')
			ret[n++] = *p;
	ret[n] = 0;
}

struct task *task_new(struct tasks *t, const unsigned char key[TASK_KEY_LEN], const struct task_result *result)
{
	struct task *task = NEW(struct task);

	task->tasks = t;
	task->result = *result;
	make_id(task->id);
	memcpy(task->key, key, TASK_KEY_LEN);
	list_init(&task->streams);
	list_init(&task->read_node);
	list_push_back(&t->all, &task->node);
	map_put(t->by_id, task->id, task);
	return task;
}

void task_drop(struct task *task)
{
	task->result.release = NULL;
	task_free(task);
}

const char *task_id(const struct task *task)
{
	return task->id;
}

struct task *task_find(struct tasks *t, const char *id)
{
	return map_get(t->by_id, id);
}

size_t tasks_count(const struct tasks *t)
{
	return map_len(t->by_id);
}

/* -- twins ------------------------------------------------------------------------------------------------------------------ */

struct task *task_find_twin(struct tasks *t, const unsigned char key[TASK_KEY_LEN])
{
	uint64_t now = loop_now_ms(t->loop);

	list_foreach(&t->all, struct task, node, task)
		if (task->joinable && now - task->broke_ms <= t->repeat_ms && !memcmp(task->key, key, TASK_KEY_LEN))
			return task;
	return NULL;
}

void task_first_closed(struct task *task, bool acked)
{
	task->fate = NULL;
	task->joinable = !acked;
	task->broke_ms = loop_now_ms(task->tasks->loop);
}

static void on_fate(void *arg, bool acked)
{
	task_first_closed(arg, acked);
}

/* -- streams ------------------------------------------------------------------------------------------------------------------ */

static ssize_t fill(void *arg, char *p, size_t cap)
{
	struct task_stream *st = arg;
	ssize_t n;

	if (!st->task)
		return -ECANCELED; /* the sandbox went while its result was read */
	n = st->task->result.read(st->task->result.arg, st->pos, p, cap);
	if (n == 0)
		was_read(st->task);
	return n;
}

static void fill_done(void *arg UNUSED)
{
}

static void send_result(struct task *task, struct task_stream *st)
{
	if (!task->error) {
		sse_result_from(st->sse, fill, fill_done, st);
		return;
	}
	sse_error(st->sse, task->error);
	was_read(task);
}

void task_attach(struct task *task, struct task_stream *st, struct http_req *req, bool first)
{
	*st = (struct task_stream){ .task = task, .req = req, .first = first };
	list_push_back(&task->streams, &st->node);
	if (first)
		task->joinable = false;
	st->sse = sse_start(req);
	sse_event(st->sse, "task_id", task->id, strlen(task->id));
	st->id_end = http_reply_offset(req);
	if (task->over)
		send_result(task, st);
}

void task_stream_closed(struct task_stream *st)
{
	struct task *task = st->task;

	if (!task)
		return;
	list_remove(&st->node);
	st->task = NULL;
	if (!st->first)
		return;
	/* A short answer is with the kernel before the peer can have acknowledged it. That is no broken connection: only its
	 * end, or the next request on it, tells. */
	http_fate_cancel(task->fate);
	if (http_reply_acked(st->req, st->id_end))
		task_first_closed(task, true);
	else
		task->fate = http_reply_fate(st->req, st->id_end, on_fate, task);
}

/* -- ends ------------------------------------------------------------------------------------------------------------------------ */

static void tell(struct task *task)
{
	task->over = true;
	list_foreach(&task->streams, struct task_stream, node, st)
		send_result(task, st);
}

void task_finish(struct task *task, task_read_fn *read)
{
	task->result.read = read;
	tell(task);
}

void task_fail(struct task *task, const char *text)
{
	task->error = xstrdup(text);
	tell(task);
}
