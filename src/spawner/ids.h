/* spawner/ids.h: ranges of 65,536 user ids, one per sandbox, so that a file or process of one means nothing to another.
 *
 * A daemon owns one block of 4,096 ranges; blocks start at 0x80000000, above what distributions give to people and
 * containers. There are seven blocks, so at most seven daemons on one host. Which block is ours is settled by a lock
 * below /run, held for the spawner's life: two daemons cannot share one whatever their paths hash to. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define IDS_PER_RANGE 65536u
#define IDS_RANGES 4096u
#define IDS_BLOCKS 7u

struct ids {
	int lock_fd;
	uid_t base;   /* first id of the block */
	uint32_t next; /* where the search starts: ids come back as late as possible */
	uint64_t used[IDS_RANGES / 64];
};

/* lock_dir: made if missing. hash chooses where to start looking. -EUSERS when all blocks are taken. */
MUST_CHECK int ids_init(struct ids *ids, const char *lock_dir, uint32_t hash, struct err *err);
void ids_done(struct ids *ids);
/* *ret = the range's first id. -EUSERS when all ranges are in use. */
MUST_CHECK int ids_take(struct ids *ids, uid_t *ret);
void ids_give(struct ids *ids, uid_t first);
/* Whether an id lies in our block, and in a range that is taken. */
bool ids_ours(const struct ids *ids, uid_t id);
bool ids_taken(const struct ids *ids, uid_t id);
