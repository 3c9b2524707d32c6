/* base/tally.h: how many of something each key has; a key that has none costs nothing. And the rule by which a bounded queue
 * is shared between keys. Owned by whoever began it; any thread, one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct map;

struct tally {
	struct map *counts; /* private */
};

void tally_init(struct tally *t);
void tally_done(struct tally *t);
void tally_add(struct tally *t, const char *key); /* one more; key is copied */
void tally_sub(struct tally *t, const char *key); /* one less, of one that was added */
size_t tally_of(const struct tally *t, const char *key);

/* A queue that all keys share. */
struct share {
	size_t max;   /* may wait in it together */
	/* A key may have so many times the places that are still free, and one in any case; 0 = as many as there are. */
	size_t times;
};

/* Whether one more of a key may wait, of which `own` wait, beside `waiting` of all keys together. One key alone gets
 * times/(times+1) of the queue, two get times/(2*times+1) each, and so on: however many are greedy, places stay free for who
 * comes next, and nobody is held to a fixed part while the queue is empty. */
bool share_admits(const struct share *s, size_t waiting, size_t own);
/* The same for people: 0, or -EUSERS that says how many wait ("sessions wait for an instance") and which setting is in the way. own
 * may count some that wait no more. */
MUST_CHECK int share_check(const struct share *s, size_t waiting, size_t own, const char *who_wait, struct err *err);
