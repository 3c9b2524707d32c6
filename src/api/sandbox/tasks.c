/* api/sandbox/tasks.c: see tasks.h. */
#include "api/sandbox/tasks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

#define LOOK_FIRST_MS 20 /* after a start: whether its id has arrived */
#define LOOK_MAX_MS 1000
#define LATE_MS 1000     /* longer than an acknowledgement takes anywhere */
#define TELL_AGAIN_MS 20 /* the kernel did not even take the id's event */

struct tasks {
	struct loop *loop;
	uint64_t keep_ms, repeat_ms;
	struct map *by_id;
	struct list all;      /* struct task, oldest first */
	struct list read;     /* those that were read, the next to go first */
	struct loop_timer expiry;
	struct slots *records; /* NULL = none are kept */
	struct list unsure;   /* struct task.unsure_node: whether the id arrived is not known yet */
	struct list joinable; /* struct task.join_node: the few that a repetition is compared with, however many there are */
	struct loop_timer look; /* at those */
	uint64_t look_ms;     /* its next interval */
	uint64_t made_ms;     /* when it was made itself */
	uint64_t restored_ms; /* when the last task was restored */
	struct list waits;    /* struct waiting */
};

struct waiting { /* how many requests of one body wait: tasks_wait() */
	struct list node;
	unsigned char key[TASK_KEY_LEN];
	size_t n;
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
	struct list join_node; /* joinable: its first stream broke before it knew the id */
	bool doubtful;        /* of a joinable one: it is of a former daemon, whose client may have the id */
	bool claimed;         /* somebody came with the id: never joinable again, whatever becomes of the first stream */
	uint32_t slot;        /* of its record; SLOTS_NONE = none */
	struct task_stream *first; /* the stream the task was made for, while it is open */
	struct loop_timer tell;  /* runs while the first stream is not given a result that is there: its id goes before */
	uint64_t asked_ms;    /* when it was attached */
	struct list unsure_node;
	struct http_fate *fate; /* its first stream is over, and whether the id arrived is not known yet */
	uint64_t broke_ms;
	uint64_t expires_ms;  /* while in tasks.read */
};

/* -- the table ------------------------------------------------------------------------------------------------------------ */

static void task_free(struct task *task)
{
	list_foreach(&task->streams, struct task_stream, node, st) {
		if (st == task->first)
			http_reply_mark(st->req, 0, NULL, 0);
		list_remove(&st->node);
		st->task = NULL;
	}
	loop_timer_stop(&task->tell);
	http_fate_cancel(task->fate);
	list_remove(&task->node);
	list_remove(&task->read_node);
	list_remove(&task->unsure_node);
	list_remove(&task->join_node);
	slots_give(task->tasks->records, task->slot);
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

/* -- what outlives the process ---------------------------------------------------------------------------------------------- */

static struct task_record *record(const struct task *task)
{
	return slots_at(task->tasks->records, task->slot);
}

static void mark(struct task *task, enum task_mark bits)
{
	struct task_record *r = record(task);

	if (r)
		slots_publish(&r->state, r->state | (uint32_t)bits);
}

/* The id arrived, or did not: there is nothing to look for any more. */
static void settle(struct task *task, bool acked)
{
	list_remove(&task->unsure_node);
	if (acked)
		mark(task, TASK_ACKED);
}

static void look_later(struct tasks *t)
{
	if (!list_empty(&t->unsure) && !loop_timer_armed(&t->look))
		loop_timer_start(&t->look, t->look_ms);
}

static bool id_arrived(const struct task *task)
{
	const struct task_stream *st = task->first;

	return st ? http_reply_acked(st->req, st->id_end) : task->fate && http_fate_acked(task->fate);
}

static void on_look(struct loop_timer *timer UNUSED, void *arg)
{
	struct tasks *t = arg;

	list_foreach(&t->unsure, struct task, unsure_node, task)
		if (id_arrived(task))
			settle(task, true);
		else if (loop_now_ms(t->loop) - task->asked_ms >= LATE_MS)
			mark(task, TASK_LATE);
	t->look_ms = MIN(2 * t->look_ms, (uint64_t)LOOK_MAX_MS);
	look_later(t);
}

struct tasks *tasks_new(struct loop *l, uint64_t keep_ms, uint64_t repeat_ms, struct slots *records)
{
	struct tasks *t = NEW(struct tasks);

	*t = (struct tasks){
		.loop = l, .keep_ms = keep_ms, .repeat_ms = repeat_ms, .by_id = map_new(), .records = records,
		.made_ms = loop_now_ms(l),
	};
	list_init(&t->all);
	list_init(&t->read);
	list_init(&t->unsure);
	list_init(&t->joinable);
	list_init(&t->waits);
	loop_timer_init(&t->look, l, on_look, t);
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
		else if (loop_timer_armed(&task->tell) && task->first)
			sse_error(task->first->sse, text); /* the result is there, but its id has not left yet */
		task_free(task);
	}
	loop_timer_stop(&t->expiry);
	loop_timer_stop(&t->look);
	list_foreach(&t->waits, struct waiting, node, w)
		free(w);
	map_free(t->by_id);
	free(t);
	return NULL;
}

void tasks_make_room(struct tasks *t, size_t max)
{
	list_foreach(&t->read, struct task, read_node, task) {
		if (map_len(t->by_id) < max)
			return;
		if (list_empty(&task->streams))
			task_free(task);
	}
}

void task_make_id(char ret[TASK_ID_LEN])
{
	char uuid[UUID_LEN];
	size_t n = 0;

	random_uuid(uuid);
	for (const char *p = uuid; *p; p++)
		if (*p != '-')
			ret[n++] = *p;
	ret[n] = 0;
}

static void on_tell(struct loop_timer *timer, void *arg);

static struct task *add(struct tasks *t, const char *id, const struct task_result *result)
{
	struct task *task = NEW(struct task);

	task->tasks = t;
	task->result = *result;
	task->slot = SLOTS_NONE;
	snprintf(task->id, sizeof(task->id), "%s", id);
	list_init(&task->streams);
	list_init(&task->read_node);
	list_init(&task->unsure_node);
	list_init(&task->join_node);
	loop_timer_init(&task->tell, t->loop, on_tell, task);
	list_push_back(&t->all, &task->node);
	map_put(t->by_id, task->id, task);
	return task;
}

struct task *task_new(struct tasks *t, const unsigned char key[TASK_KEY_LEN], const struct task_result *result)
{
	char id[TASK_ID_LEN];
	struct task *task;

	task_make_id(id);
	task = add(t, id, result);
	memcpy(task->key, key, TASK_KEY_LEN);
	task->slot = slots_take(t->records);
	if (record(task))
		memcpy(record(task)->id, task->id, sizeof(record(task)->id));
	mark(task, TASK_USED | TASK_HELD);
	return task;
}

void task_label(const struct task *task, unsigned char ret[TASK_LABEL_LEN])
{
	const uint32_t place[2] = { task->slot, 0 };

	memcpy(ret, task->key, TASK_KEY_LEN);
	memcpy(ret + TASK_KEY_LEN, place, sizeof(place));
}

static void set_joinable(struct task *task, bool doubtful)
{
	list_remove(&task->join_node);
	list_push_back(&task->tasks->joinable, &task->join_node);
	task->doubtful = doubtful;
}

static void clear_joinable(struct task *task)
{
	list_remove(&task->join_node);
	task->doubtful = false;
}

/* -- of a former daemon ------------------------------------------------------------------------------------------------------ */

/* What its first stream came to: see the header. Times of the monotonic clock hold on in the next process. */
static void judge(struct task *task)
{
	const struct task_record *r = record(task);
	uint64_t now = loop_now_ms(task->tasks->loop), broke_ms;

	if (!r || r->state & (TASK_ACKED | TASK_READ))
		return;
	if (!r->broke_s && (r->state & (TASK_TOLD | TASK_LATE)) == TASK_TOLD)
		return;
	broke_ms = r->broke_s ? r->broke_s * 1000ull : now;
	set_joinable(task, !r->broke_s);
	task->broke_ms = MIN(broke_ms + (now - task->tasks->made_ms), now);
}

/* Of the record that the label names, if it is this task's alone. */
static uint32_t restore_slot(const struct task *task, const void *label)
{
	const struct task_record *r;
	uint32_t slot;

	memcpy(&slot, (const char *)label + TASK_KEY_LEN, sizeof(slot));
	r = slots_at(task->tasks->records, slot);
	if (!r || !r->state || r->state & TASK_HELD || memcmp(r->id, task->id, sizeof(r->id)) != 0)
		return SLOTS_NONE;
	return slot;
}

struct task *task_restore(struct tasks *t, const char *id, const void *label, size_t label_len, const struct task_result *result)
{
	struct task *task = add(t, id, result);

	t->restored_ms = loop_now_ms(t->loop);
	if (label_len != TASK_LABEL_LEN)
		return task;
	memcpy(task->key, label, TASK_KEY_LEN);
	task->slot = restore_slot(task, label);
	if (!record(task))
		return task; /* the record is gone: nothing is known, so nobody joins */
	mark(task, TASK_HELD);
	judge(task);
	if (record(task)->state & TASK_READ)
		was_read(task);
	return task;
}

void task_claim(struct task *task)
{
	task->claimed = true;
	clear_joinable(task);
	settle(task, true);
}

static struct waiting *waiting_of(struct tasks *t, const unsigned char *key)
{
	list_foreach(&t->waits, struct waiting, node, w)
		if (!memcmp(w->key, key, TASK_KEY_LEN))
			return w;
	return NULL;
}

bool tasks_wait(struct tasks *t, const unsigned char key[TASK_KEY_LEN])
{
	struct waiting *w = waiting_of(t, key);
	size_t doubtful = 0;

	if (!t->restored_ms || loop_now_ms(t->loop) - t->restored_ms > t->repeat_ms)
		return false;
	list_foreach(&t->joinable, struct task, join_node, task)
		doubtful += task->doubtful && !memcmp(task->key, key, TASK_KEY_LEN);
	if ((w ? w->n : 0) >= doubtful)
		return false;
	if (!w) {
		w = NEW(struct waiting);
		memcpy(w->key, key, TASK_KEY_LEN);
		list_push_back(&t->waits, &w->node);
	}
	w->n++;
	return true;
}

void tasks_waited(struct tasks *t, const unsigned char key[TASK_KEY_LEN])
{
	struct waiting *w = waiting_of(t, key);

	if (!w || --w->n)
		return;
	list_remove(&w->node);
	free(w);
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

/* -- twins ------------------------------------------------------------------------------------------------------------------ */

struct task *task_find_twin(struct tasks *t, const unsigned char key[TASK_KEY_LEN])
{
	uint64_t now = loop_now_ms(t->loop);

	list_foreach(&t->joinable, struct task, join_node, task)
		if (now - task->broke_ms > t->repeat_ms)
			clear_joinable(task); /* nobody repeats it any more */
		else if (!memcmp(task->key, key, TASK_KEY_LEN))
			return task;
	return NULL;
}

void task_first_closed(struct task *task, bool acked)
{
	struct task_record *r = record(task);

	task->fate = NULL;
	acked = acked || task->claimed;
	if (acked)
		clear_joinable(task);
	else
		set_joinable(task, task->doubtful);
	task->broke_ms = loop_now_ms(task->tasks->loop);
	settle(task, acked);
	if (r && !acked)
		r->broke_s = (uint32_t)MAX(task->broke_ms / 1000, (uint64_t)1);
}

static void on_fate(void *arg, bool acked)
{
	task_first_closed(arg, acked);
}

/* -- streams ------------------------------------------------------------------------------------------------------------------ */

/* The answer's last word: a failure of ours, never the command's. */
static ssize_t lose(struct task_stream *st, const char *why, ssize_t error)
{
	char text[160];

	snprintf(text, sizeof(text), "%s (outcome infra)", why);
	sse_error(st->sse, text);
	return error;
}

static ssize_t fill(void *arg, char *p, size_t cap)
{
	struct task_stream *st = arg;
	char why[128];
	ssize_t n;

	if (!st->task)
		return lose(st, "the sandbox has ended while its result was read", -ECANCELED);
	n = st->task->result.read(st->task->result.arg, st->pos, p, cap);
	if (n < 0 && n != -EAGAIN) {
		snprintf(why, sizeof(why), "the result could not be read: %s", strerror((int)-n));
		return lose(st, why, n);
	}
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

/* Not in one piece with the id, so that whoever has a result was TOLD its id before. */
static void on_tell(struct loop_timer *timer, void *arg)
{
	struct task *task = arg;

	if (task->first && http_reply_queued(task->first->req) > 0)
		loop_timer_start(timer, TELL_AGAIN_MS);
	else if (task->first)
		send_result(task, task->first);
}

static void tell(struct task *task, struct task_stream *st)
{
	/* An error may be the last word before the table goes, and nobody joins what failed with its sandbox. */
	if (!task->error && st == task->first && http_reply_queued(st->req) > 0)
		loop_timer_start(&task->tell, 0);
	else
		send_result(task, st);
}

static void attach_first(struct task *task, struct task_stream *st)
{
	struct tasks *t = task->tasks;
	struct task_record *r = record(task);

	clear_joinable(task);
	task->first = st;
	task->asked_ms = loop_now_ms(t->loop);
	if (!r)
		return;
	r->broke_s = 0;
	slots_publish(&r->state, TASK_USED | TASK_HELD);
	http_reply_mark(st->req, st->id_end, &r->state, TASK_TOLD);
	list_remove(&task->unsure_node);
	list_push_back(&t->unsure, &task->unsure_node);
	t->look_ms = LOOK_FIRST_MS;
	look_later(t);
}

void task_attach(struct task *task, struct task_stream *st, struct http_req *req, bool first)
{
	*st = (struct task_stream){ .task = task, .req = req, .first = first };
	list_push_back(&task->streams, &st->node);
	st->sse = sse_start(req);
	sse_event(st->sse, "task_id", task->id, strlen(task->id));
	st->id_end = http_reply_offset(req);
	if (first)
		attach_first(task, st);
	if (task->over)
		tell(task, st);
}

void task_stream_closed(struct task_stream *st, bool complete)
{
	struct task *task = st->task;

	if (!task)
		return;
	list_remove(&st->node);
	st->task = NULL;
	if (complete)
		mark(task, TASK_READ);
	if (!st->first || task->first != st)
		return;
	task->first = NULL;
	loop_timer_stop(&task->tell);
	/* A short answer is with the kernel before the peer can have acknowledged it. That is no broken connection: only its
	 * end, or the next request on it, tells. */
	http_fate_cancel(task->fate);
	if (http_reply_acked(st->req, st->id_end))
		task_first_closed(task, true);
	else
		task->fate = http_reply_fate(st->req, st->id_end, on_fate, task);
}

/* -- ends ---------------------------------------------------------------------------------------------------------- */

static void end(struct task *task)
{
	task->over = true;
	list_foreach(&task->streams, struct task_stream, node, st)
		tell(task, st);
}

void task_finish(struct task *task, task_read_fn *read)
{
	task->result.read = read;
	end(task);
}

void task_fail(struct task *task, const char *text)
{
	task->error = xstrdup(text);
	end(task);
}
