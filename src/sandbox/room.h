/* sandbox/room.h: who waits for room on this machine. Sandboxes and instances share it; sandbox/admit.h says whether one more
 * fits. Owned by the engine; loop thread only.
 *
 *   (entered) -> WAITING -> IN -> (left)
 *        \___________________^
 *
 *   WAITING  in one of two queues, of sandboxes and of instances, each fair over keys and first come first served within one.
 *            A queue's first goes in when it fits, and nobody of its queue before it: a large one is not overtaken for ever.
 *   IN       counts against the room until it leaves, or until it turns out that there was no place: then it waits again, the
 *            first of all, and nobody goes in for ROOM_SHUT_MS.
 *
 * While both queues wait they take turns, so neither starves behind the other. Where the first sandbox does not fit, an
 * instance that does goes in: there are few, and their share bounds them. Where the first instance does not fit, sandboxes
 * wait behind it, or their small ones would keep it out for ever; but not where instances have reached their share: what it
 * waits for then is the end of an instance, and sandboxes must be had for that.
 *
 * The machine is looked at, at most each ROOM_LOOK_MS, when somebody enters or leaves, and as often while somebody waits. */
#pragma once

#include "base/fair.h"
#include "base/list.h"
#include "loop/loop.h"
#include "sandbox/admit.h"

#define ROOM_LOOK_MS 100
#define ROOM_SHUT_MS 300  /* after one that was let in found no place */
#define ROOM_TELL_MS 1000 /* between two times that those who wait are told their place */

struct room_item {
	struct fair_item fair;  /* private */
	bool instance, in;      /* in: room_enter() said so, or admitted was called */
	struct admit_sum size;
	size_t told;            /* private: the place that was told last, from 1 */
};

struct room_user {
	/* Its turn has come: it is IN. From the loop. */
	void (*admitted)(void *arg, struct room_item *it);
	/* "waiting for room: 3 of 17 (all CPUs are in use)": soon after it entered, then when its place has changed. From
	 * the loop. */
	void (*tell)(void *arg, struct room_item *it, const char *line);
	/* Somebody waits: whoever holds a box that nobody uses may give it up. About each ROOM_TELL_MS. */
	void (*full)(void *arg);
	void *arg;
};

struct room {
	struct loop *loop;
	struct room_user user;
	struct admit_limits limits;
	const char *disk_path;            /* whose free space counts */
	uint64_t space_free_bytes;        /* MACHINE_UNKNOWN = what boxes write goes there, too */
	struct admit_machine machine;     /* as last seen */
	uint64_t seen_ms, told_ms;        /* when; on the loop's clock */
	uint64_t shut_ms;                 /* until when nobody goes in, */
	struct admit_output shut;         /* and what each is told */
	struct admit_sum used[2];         /* sandboxes, instances */
	struct fair waiting[2];           /* the same; struct room_item.fair */
	bool instances_turn;
	struct loop_timer look;           /* runs while somebody waits */
	struct admit_output why[2];       /* what each queue's first waits for */
	uint64_t waited_total;            /* items that had to */
};

/* disk_path is borrowed. */
void room_init(struct room *r, struct loop *l, const struct admit_limits *limits, const char *disk_path,
	       const struct room_user *user);
/* What boxes may still write, together, where that does not go to disk_path. */
void room_space(struct room *r, uint64_t free_bytes);
void room_done(struct room *r); /* the items are their owner's */

/* Enters for key (copied), in front of nobody. True: it is IN; false: it waits. size, instance are set by the caller. */
bool room_enter(struct room *r, struct room_item *it, const char *key);
/* One that is IN found no place after all, for a reason that is no sum of the room's. */
void room_again(struct room *r, struct room_item *it, const char *key, const char *why);
/* It is there already, whatever there is room for: of a former daemon. */
void room_take(struct room *r, struct room_item *it);
/* Out of the queue, or out of the room; harmless on one that is neither. */
void room_leave(struct room *r, struct room_item *it);
static inline bool room_waits(const struct room_item *it) { return fair_has(&it->fair); }
/* What the first who waits waits for, for people. */
const char *room_why(const struct room *r);
size_t room_waiting(const struct room *r, bool instances);
