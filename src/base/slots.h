/* base/slots.h: a file of records of one size, mapped into memory: what a process writes there by plain stores is read by
 * the next one on the same file, however the first one ended (not after a power cut: nothing is synced). Taking and giving
 * back a record costs no system call. Owned by whoever opened it; one thread; one process at a time, which a lock of the
 * owner's sees to.
 *
 * A record begins with a uint32_t that is 0 while it is free. Its owner writes that word last when it fills a record
 * (slots_publish), so that one which was being written at the end of the process counts as free.
 *
 * The file also names a life, a text of the caller's: records of another life say what was true in that. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define SLOTS_NONE UINT32_MAX
#define SLOTS_LIFE_MAX 40 /* with the NUL */

struct slots;

struct slots_spec {
	const char *path;
	const char *kind;      /* up to 7 characters: another kind's file is not read */
	const char *life;
	uint32_t record_bytes; /* a multiple of 8. Another size is another version: nothing is read */
	uint32_t max;          /* records at most */
};

/* *ret_same: the records are of this life. A file that is missing or not one of ours begins anew. The disk space of
 * every record that is handed out is reserved before, so that a store never fails. -ENOSPC, or what open(2) says. */
MUST_CHECK int slots_open(struct slots **ret, const struct slots_spec *spec, bool *ret_same, struct err *err);
/* From now on nothing is written: records stay as they are for the next process. slots_take gives none, slots_at NULL. */
void slots_seal(struct slots *s);
struct slots *slots_close(struct slots *s); /* the file stays. NULL is allowed; returns NULL */
DEFINE_FREEP(slots, slots_close)

/* A free record, zeroed, the longest free one first; SLOTS_NONE when max are taken, the disk is full, or s is NULL. */
uint32_t slots_take(struct slots *s);
/* Frees it. SLOTS_NONE and a NULL s are allowed. */
void slots_give(struct slots *s, uint32_t slot);
/* NULL for a slot that does not exist, SLOTS_NONE, or a NULL s. Valid until slots_close. */
void *slots_at(const struct slots *s, uint32_t slot);
uint32_t slots_count(const struct slots *s); /* slots that slots_at knows; 0 for NULL */

/* Makes everything written before visible no later than state, whenever the process ends. */
static inline void slots_publish(uint32_t *state, uint32_t value)
{
	__atomic_store_n(state, value, __ATOMIC_RELEASE);
}
