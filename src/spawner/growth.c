#include "spawner/growth.h"

#include "base/macros.h"
#include "spawner/volumes.h"

#define GIB (1ull << 30)
#define SLACK (2 * GIB)                /* others may take so much between two looks */
#define PLENTY (4 * SLACK)             /* with so much it is, or becomes, LOOSE */
#define AHEAD_PER_CPU (256ull << 20)   /* some 1.5 GB/s into the page cache, for a sixth of a second */
#define STEP_MAX (8 * GIB)
#define WRITES_PER_CPU_MS (2ull << 20) /* the most that one of them writes in a millisecond */
#define LOOK_MIN_MS 20u
#define LOOK_MAX_MS 1000u
#define LOOK_FULL_MS 500u
#define IDLE_SHARE 8                   /* it is made smaller when less than this part is used */
#define MOVED_MAX (256ull << 20)       /* and no more than this has to be moved */
#define TRIM_FROM GIB

static uint64_t whole(uint64_t bytes)
{
	return bytes / VOLUMES_UNIT * VOLUMES_UNIT;
}

static uint64_t left(uint64_t all, uint64_t less)
{
	return all > less ? all - less : 0;
}

static uint64_t cpus(const struct growth *g)
{
	return MAX(g->cpus, 1u);
}

static uint64_t ahead(const struct growth *g)
{
	return MIN(cpus(g) * AHEAD_PER_CPU, g->size / 2);
}

/* What the disk can give. */
static uint64_t room(const struct growth *g)
{
	return left(g->below, g->reserve);
}

static uint64_t holes(const struct growth *g)
{
	return left(g->size, g->held);
}

static uint64_t used(const struct growth *g)
{
	return left(g->size, g->free);
}

/* -- the beginning ----------------------------------------------------------------------------------------------- */
struct growth_plan growth_first(const struct growth *g)
{
	struct growth_plan p = { .backed = room(g) < PLENTY };
	uint64_t most = p.backed ? MIN(MAX(room(g), MIN(g->below / 2, GROWTH_LEAST_BYTES)), GROWTH_FIRST_BYTES) : room(g) / 2;

	p.size = whole(MIN(most, g->total));
	if (p.size < GROWTH_LEAST_BYTES)
		p.size = 0;
	return p;
}

/* -- LOOSE ------------------------------------------------------------------------------------------------------- */
/* Others took the room at once: what cannot be allocated any more must go, as far as nothing lies there. */
static uint64_t size_to_back(const struct growth *g)
{
	return MIN(g->size, whole(g->held + room(g)));
}

static struct growth_plan next_loose(const struct growth *g)
{
	struct growth_plan p = { .size = g->size };
	uint64_t to;

	if (room(g) < holes(g) + SLACK && !g->hollow)
		return (struct growth_plan){ .size = size_to_back(g), .backed = true };
	to = whole(MIN(g->held + room(g) / 2, g->total));
	if (holes(g) < room(g) / 4 && to > g->size)
		p.size = to;
	else
		p.trim = left(g->held, used(g)) >= 2 * g->kept + TRIM_FROM;
	return p;
}

/* -- BACKED ------------------------------------------------------------------------------------------------------ */
static bool is_too_large(const struct growth *g)
{
	return g->idle && g->size > GROWTH_FIRST_BYTES && used(g) < g->size / IDLE_SHARE && used(g) < MOVED_MAX;
}

static struct growth_plan next_backed(const struct growth *g)
{
	struct growth_plan p = { .size = g->size, .backed = true };

	if (room(g) >= PLENTY)
		return next_loose(g);
	if (g->free < ahead(g))
		p.size += MIN(whole(MAX(ahead(g), MIN(g->size / 2, STEP_MAX))), growth_more(g));
	else if (is_too_large(g))
		p.size = GROWTH_FIRST_BYTES;
	return p;
}

/* -- the whole --------------------------------------------------------------------------------------------------- */
struct growth_plan growth_next(const struct growth *g)
{
	return g->backed ? next_backed(g) : next_loose(g);
}

uint64_t growth_free(const struct growth *g)
{
	return left(g->free, left(holes(g), room(g)));
}

uint64_t growth_more(const struct growth *g)
{
	return whole(MIN(left(g->total, g->size), left(room(g), holes(g))));
}

unsigned growth_next_ms(const struct growth *g)
{
	uint64_t safe = g->backed ? UINT64_MAX : left(room(g), holes(g) + SLACK);
	uint64_t ms = MIN(left(g->free, ahead(g)), safe) / (cpus(g) * WRITES_PER_CPU_MS);

	if (g->backed && g->free < ahead(g) && growth_more(g) == 0)
		return LOOK_FULL_MS; /* there is nothing to be in time for */
	return (unsigned)MAX(MIN(ms, (uint64_t)LOOK_MAX_MS), (uint64_t)LOOK_MIN_MS);
}
