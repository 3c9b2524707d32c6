/* api/tasks.h: results that outlive the connection they were made for. A sandbox has one table of them. Loop thread only.
 *
 * A task is a command under way or over. Any number of streams may be attached to it, one after the other or at once; each
 * is told the task's id at once and the result when there is one. A result that was read is kept for keep_ms after the
 * latest reading; one that nobody read, as long as the table.
 *
 * Twins: a client repeats its request without task_id when the connection broke before it had one. The repetition joins the
 * first task if and only if the stream that the task was made for broke before the peer's TCP acknowledged the task_id
 * event, no longer than repeat_ms ago, and the body is the same. It then takes that stream's place, so the rule holds
 * for it in turn. Equal bodies on living connections are tasks of their own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "http/sse.h"

#define TASK_ID_LEN 33  /* 32 hex digits and NUL */
#define TASK_KEY_LEN 32 /* SHA-256 of the request's body */
#define TASK_POS 4

struct tasks;
struct task;

/* A part of the result, JSON text: writes at most cap (at least 4096) bytes to p and returns how many, 0 at the end, or a
 * negative errno. pos are TASK_POS words of the reader's place: 0 at first, the function's own afterwards. */
typedef ssize_t task_read_fn(void *arg, uint64_t *pos, char *p, size_t cap);
/* What the owner of a task gives with its result. */
struct task_result {
	task_read_fn *read;
	void (*release)(void *arg); /* nobody will read it any more; also for a task without result. May be NULL */
	void *arg;
};

/* A request attached to a task; the caller's, in the request's memory. */
struct task_stream {
	struct list node;   /* private, as all of it */
	struct task *task;  /* NULL = not attached, or the task is gone */
	struct http_req *req;
	struct sse *sse;
	uint64_t pos[TASK_POS];
	uint64_t id_end;      /* offset of the answer behind the task_id event */
	bool first;         /* the task was made for it */
};

struct tasks *tasks_new(struct loop *l, uint64_t keep_ms, uint64_t repeat_ms);
/* Every task fails with text; streams get it as their error. NULL is allowed; returns NULL. */
struct tasks *tasks_free(struct tasks *t, const char *text);

/* A new task for a body with this hash. release and arg of result may be set already. */
struct task *task_new(struct tasks *t, const unsigned char key[TASK_KEY_LEN], const struct task_result *result);
const char *task_id(const struct task *task);
struct task *task_find(struct tasks *t, const char *id);                               /* NULL = unknown */
struct task *task_find_twin(struct tasks *t, const unsigned char key[TASK_KEY_LEN]);   /* NULL = a new one is due */
size_t tasks_count(const struct tasks *t);

/* Starts the event stream of req: task_id, then the result, now or later. first: req is what the task was made for, or a
 * twin. Not for a request whose answer has started. */
void task_attach(struct task *task, struct task_stream *st, struct http_req *req, bool first);
/* To be called from the request's on_close. Harmless for a stream that was never attached. */
void task_stream_closed(struct task_stream *st);
/* The rule of twins by itself: the stream the task was made for has closed. */
void task_first_closed(struct task *task, bool acked);

/* The end, one of the two, once. */
void task_finish(struct task *task, task_read_fn *read);
void task_fail(struct task *task, const char *text);
/* It never began: forgets it without a word, release included. */
void task_drop(struct task *task);
