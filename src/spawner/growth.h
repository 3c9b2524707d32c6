/* spawner/growth.h: how large the file system of ours (volumes.h) is to be, and how much of that the disk must really hold. Pure:
 * figures in, figures out.
 *
 * A write into a hole of its file fails when the disk is full, and btrfs with it. So:
 *
 *   LOOSE   the disk has plenty. Holes may be as large as half of what it has, and are given back where files were removed. That
 *           is safe as long as others leave as much as there are holes: when they have come within SLACK of that, it becomes
 *   BACKED  all of it is allocated and no hole is made any more, so btrfs itself says when it is full. It begins with 1 GiB and
 *           grows ahead of need, as far as the disk keeps its reserve; while nobody has a sandbox and next to nothing is used it
 *           goes back to 1 GiB. When the disk has plenty again, it becomes LOOSE.
 *
 * "Ahead" is what can be written while one look follows another and the file grows: a matter of how many processors write. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct growth {
	uint64_t size, free;     /* bytes: of the file system, now */
	uint64_t held;           /* of the disk, by its file: the rest of size are holes */
	uint64_t total;          /* at most so large */
	uint64_t below, reserve; /* free on the disk, and to be left free there */
	uint64_t kept;           /* what the last trim left of the disk without use, in pieces */
	unsigned cpus;           /* that may write */
	bool idle;               /* nobody has a sandbox, for some time */
	bool backed;
	bool hollow;             /* the disk holds no room for anybody: it can only be LOOSE */
};

struct growth_plan {
	uint64_t size;
	bool backed;
	bool trim; /* make holes of what is free */
};

#define GROWTH_FIRST_BYTES (1ull << 30)   /* how large a BACKED one begins, where the disk has as much */
#define GROWTH_LEAST_BYTES (256ull << 20) /* with less it does not begin */

/* How it is to begin: of g total, below and reserve are looked at. Size 0 = there is no room for one. */
struct growth_plan growth_first(const struct growth *g);
/* How it is to be: what differs from g is to be changed. */
struct growth_plan growth_next(const struct growth *g);
/* What can be written to it, at its size, and by how much it may grow beyond that. */
uint64_t growth_free(const struct growth *g);
uint64_t growth_more(const struct growth *g);
/* When to look again. */
unsigned growth_next_ms(const struct growth *g);
