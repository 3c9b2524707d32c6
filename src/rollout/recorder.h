/* rollout/recorder.h: takes events from clients to the store, and keeps what is kept within its limits. Owned by the
 * daemon; borrows the store. Loop thread only; bodies are parsed by workers.
 *
 * Bodies lie in memory until they are on disk, so together they have a limit. A request beyond it is not refused,
 * which would lose its events (clients repeat a 5xx a few times and then drop them), but waits unread, in order, fair over
 * namespaces; a small one never waits. */
#pragma once

#include "auth/auth.h"
#include "store/record.h"

struct recorder;

struct recorder_settings {
	uint64_t pending_bytes; /* of bodies that are not on disk yet */
	size_t events_max;      /* of one request */
	struct record_limits keep;
};

struct recorder *recorder_new(struct loop *l, struct store *store, const struct recorder_settings *s);
struct recorder *recorder_free(struct recorder *r); /* NULL is allowed; returns NULL. Nobody may wait any more */

/* A request's share of the memory; embedded in whoever asks. Zeroed = has none. */
struct recorder_turn {
	struct recorder *recorder; /* NULL = has no share and does not wait */
	const struct store_namespace *ns;
	uint64_t bytes;
	bool waiting;
	loop_fn *fn;
	void *arg;
	struct list all;
};
/* fn runs from the loop when there is room; a body larger than all of it has its turn when nobody else has one. A namespace that
 * has some already gets no more than it then leaves to others. */
void recorder_wait(struct recorder *r, struct recorder_turn *t, const struct store_namespace *ns, uint64_t bytes, loop_fn *fn,
		   void *arg);
void recorder_leave(struct recorder_turn *t); /* gives the share back, or stops waiting; harmless to repeat */

/* Parses body (malloc'ed; taken over) and writes its events for the namespace of c (copied), with the environments that c may
 * see; done once they are on disk. Of err: -EINVAL says what is wrong with them; anything else may pass. */
typedef void recorder_done_fn(void *arg, size_t recorded, size_t repeated, const struct err *err);
void recorder_record(struct recorder *r, const struct auth_caller *c, char *body, size_t len, recorder_done_fn *done, void *arg);

struct recorder_stats {              /* since the start */
	uint64_t recorded, repeated; /* events */
	uint64_t pending_bytes;      /* now */
};
const struct recorder_stats *recorder_stats(const struct recorder *r);
