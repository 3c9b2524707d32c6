/* base/fair.h: a queue that serves several keys in turn: round-robin over keys, first come first served within one.
 * Intrusive: an item is a struct fair_item inside the caller's object, which the caller owns. A key's lane exists while
 * it has items. Everything is O(1) in items and O(n) in keys that wait. Any thread, one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"

struct fair_lane; /* private */

struct fair {
	struct list lanes; /* private: the first is served next */
	size_t len;        /* items */
};

struct fair_item {
	struct list node;       /* private */
	struct fair_lane *lane; /* private; NULL = in no queue */
};

void fair_init(struct fair *f);
/* key is copied. it must be in no queue: zeroed, or taken out before. */
void fair_push(struct fair *f, struct fair_item *it, const char *key);
/* As if it had never been taken out: the first of all. */
void fair_push_first(struct fair *f, struct fair_item *it, const char *key);
/* Who is next; NULL when it is empty. */
struct fair_item *fair_first(const struct fair *f);
/* Takes the first out: its key goes behind all others. */
struct fair_item *fair_pop(struct fair *f);
/* Takes any out, without a change to the keys' turns; harmless on one that is in no queue. */
void fair_remove(struct fair *f, struct fair_item *it);
static inline bool fair_has(const struct fair_item *it) { return it->lane; }
/* Visits all in the order in which they are served, each with its place; O(n) for all. fn must not change the queue. */
void fair_in_order(const struct fair *f, void (*fn)(struct fair_item *it, size_t place, void *arg), void *arg);
/* Visits all, key by key; fn must not change the queue. */
void fair_each(const struct fair *f, void (*fn)(struct fair_item *it, void *arg), void *arg);
