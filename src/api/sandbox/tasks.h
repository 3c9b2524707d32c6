/* api/sandbox/tasks.h: results that outlive the connection they were made for. A sandbox has one table of them. Loop thread only.
 *
 * A task is a command under way or over. Any number of streams may be attached to it, one after the other or at once; each
 * is told the task's id at once and the result when there is one. A result that was read is kept for keep_ms after the
 * latest reading; one that nobody read, as long as the table.
 *
 * Twins: a client repeats its request without task_id when the connection broke before it had one. The repetition joins the
 * first task if and only if the stream that the task was made for broke before the peer's TCP acknowledged the task_id
 * event, no longer than repeat_ms ago, and the body is the same. It then takes that stream's place, so the rule holds
 * for it in turn. Equal bodies on living connections are tasks of their own.
 *
 * After the daemon was killed (task_restore) every connection is broken, and nobody can be asked what its peer's TCP had
 * acknowledged. So what is known of it is written down as it becomes known, in a word of a file (base/slots.h) that
 * outlives the process, by the store that follows the system call:
 *   TOLD   the kernel had taken the task_id event: it delivers it even after this process has died;
 *   LATE   and a second later the peer's TCP had not acknowledged it: its network, or the peer itself, was gone;
 *   ACKED  it had (looked at 20 ms after the start and more rarely later; or at the end), or somebody came with the id;
 *   READ   the whole result was handed to the kernel for somebody.
 * What is not written down may have happened all the same: a process that is killed between a system call and the store
 * behind it, which on a busy machine is where it is made to wait, leaves no trace of the call. So the rules are such that
 * only the first of these words is ever needed:
 *   - A task of which the event was TOLD is not joined: its client comes with the id, or has read the result and is done.
 *     The word READ may be missing then, ACKED too. LATE is the exception: nobody knows.
 *   - Of one that is not TOLD nobody can have the result: it is not given before the event is TOLD, not even when it is
 *     there already (on_tell). Its client may have the id, but not be done.
 * So a repetition without task_id joins a task of its body that broke before it was acknowledged, or was not TOLD, or LATE.
 * In the last two cases the client that may have the id is let go first: the repetition waits for claim_ms, starts a command
 * of its own if the task was claimed by then, and joins it if not. No more repetitions wait than there are such tasks. So of
 * two equal commands in parallel each client gets one: whoever knows an id its own, whoever does not one that nobody
 * claimed; and a command that follows an equal one never gets that one's result. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/slots.h"
#include "http/sse.h"

#define TASK_ID_LEN 33  /* 32 hex digits and NUL */
#define TASK_KEY_LEN 32 /* SHA-256 of the request's body */
#define TASK_POS 4
#define TASK_LABEL_LEN (TASK_KEY_LEN + 8)

/* The record of a task in the file: what its successor in another daemon is to know of its first stream. */
struct task_record {
	uint32_t state;   /* enum task_mark; 0 = free */
	uint32_t broke_s; /* CLOCK_MONOTONIC when the first stream broke unacknowledged; 0 = it did not */
	char id[16];      /* how the task's begins: 60 random bits, which no other sandbox knows */
};
/* HELD: a task of this process has it, from task_new or task_restore on. Whoever opens the file clears it. */
enum task_mark { TASK_USED = 1, TASK_TOLD = 2, TASK_ACKED = 4, TASK_READ = 8, TASK_LATE = 16, TASK_HELD = 32 };
#define TASK_RECORDS_MAX (1u << 20)

struct tasks;
struct task;

/* A part of the result, JSON text: writes at most cap (at least 4096) bytes to p and returns how many, 0 at the end, or a
 * negative errno, of which -EAGAIN means: come again, in another turn of the loop. pos are TASK_POS words of the reader's place:
 * 0 at first, the function's own afterwards. */
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

/* records: of struct task_record, outlives the table; NULL = nothing is written down. */
struct tasks *tasks_new(struct loop *l, uint64_t keep_ms, uint64_t repeat_ms, struct slots *records);
/* Every task fails with text; streams get it as their error. NULL is allowed; returns NULL. */
struct tasks *tasks_free(struct tasks *t, const char *text);

/* Where there are max or more, results that were read go before their time, those read first first, until there are fewer or
 * none of them is left that nobody reads. */
void tasks_make_room(struct tasks *t, size_t max);

/* A new id, of whatever runs in a sandbox. */
void task_make_id(char ret[TASK_ID_LEN]);
/* A new task for a body with this hash. release and arg of result may be set already. */
struct task *task_new(struct tasks *t, const unsigned char key[TASK_KEY_LEN], const struct task_result *result);
const char *task_id(const struct task *task);
/* For its successor: key and place of the record. */
void task_label(const struct task *task, unsigned char ret[TASK_LABEL_LEN]);
/* A task of a former daemon, from its id and label (another length: the task is found by its id only). Both come from the sandbox:
 * a record that is not this task's, or is HELD, is none. Repetitions of it have waited since the table was made: that time is not
 * counted against repeat_ms. */
struct task *task_restore(struct tasks *t, const char *id, const void *label, size_t label_len, const struct task_result *result);
struct task *task_find(struct tasks *t, const char *id);                               /* NULL = unknown */
/* Somebody came with its id: from now on it is nobody's twin. */
void task_claim(struct task *task);
/* A request of this body had better wait: tasks of a former daemon are in doubt, and fewer wait than there are. Each true
 * is to be followed by one tasks_waited(). */
bool tasks_wait(struct tasks *t, const unsigned char key[TASK_KEY_LEN]);
void tasks_waited(struct tasks *t, const unsigned char key[TASK_KEY_LEN]);
/* The one whose first stream broke first; NULL = a new one is due. */
struct task *task_find_twin(struct tasks *t, const unsigned char key[TASK_KEY_LEN]);

/* Starts the event stream of req: task_id, then the result, now or later. first: req is what the task was made for, or a
 * twin. Not for a request whose answer has started. */
void task_attach(struct task *task, struct task_stream *st, struct http_req *req, bool first);
/* To be called from the request's on_close, with its complete. Harmless for a stream that was never attached. */
void task_stream_closed(struct task_stream *st, bool complete);
/* The rule of twins by itself: the stream the task was made for has closed. */
void task_first_closed(struct task *task, bool acked);

/* The end, one of the two, once. */
void task_finish(struct task *task, task_read_fn *read);
void task_fail(struct task *task, const char *text);
/* It never began: forgets it without a word, release included. */
void task_drop(struct task *task);
