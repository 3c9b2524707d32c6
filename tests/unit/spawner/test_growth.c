/* How large the file system of sandboxes is: figures by hand, and a disk that is played through. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/macros.h"
#include "spawner/growth.h"
#include "spawner/volumes.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

Test(growth, it_begins_small_where_there_is_little)
{
	struct growth g = { .total = 100 * GIB, .below = 4 * GIB, .reserve = GIB };
	struct growth_plan p = growth_first(&g);

	cr_assert(p.size == GROWTH_FIRST_BYTES && p.backed);
	g.below = GIB + 300 * MIB;
	cr_assert_eq(growth_first(&g).size, 288 * MIB);
	g.below = GIB; /* the reserve is there for others, but something must hold the limits */
	cr_assert_eq(growth_first(&g).size, GROWTH_LEAST_BYTES);
	g.below = 500 * MIB;
	cr_assert_eq(growth_first(&g).size, 0);
	g.below = 4 * GIB;
	g.total = 200 * MIB;
	cr_assert_eq(growth_first(&g).size, 0);
}

Test(growth, it_takes_nothing_where_there_is_plenty)
{
	const struct growth g = { .total = 1000 * GIB, .below = 101 * GIB, .reserve = GIB };
	struct growth_plan p = growth_first(&g);

	cr_assert(p.size == 50 * GIB && !p.backed);
}

Test(growth, a_backed_one_grows_before_it_is_full)
{
	struct growth g = { .size = GIB, .held = GIB, .free = 600 * MIB, .total = 100 * GIB, .below = 4 * GIB, .reserve = GIB, .cpus = 2, .backed = true };

	cr_assert_eq(growth_next(&g).size, g.size);
	cr_assert_eq(growth_more(&g), 3 * GIB);
	g.free = 500 * MIB;
	cr_assert_eq(growth_next(&g).size, g.size + 512 * MIB);
	g.below = GIB + 100 * MIB;
	cr_assert_eq(growth_next(&g).size, g.size + 96 * MIB, "what leaves the reserve, in whole units");
	g.below = GIB;
	cr_assert_eq(growth_next(&g).size, g.size);
	g.below = 4 * GIB;
	g.total = g.size;
	cr_assert_eq(growth_next(&g).size, g.size);
}

Test(growth, a_backed_one_that_nobody_uses_gives_its_room_back)
{
	struct growth g = { .size = 9 * GIB, .held = 9 * GIB, .free = 9 * GIB - 10 * MIB, .total = 100 * GIB, .below = GIB, .reserve = GIB, .cpus = 2, .backed = true };

	cr_assert_eq(growth_next(&g).size, g.size, "somebody has a sandbox");
	g.idle = true;
	cr_assert_eq(growth_next(&g).size, GROWTH_FIRST_BYTES);
	g.free = 8 * GIB;
	cr_assert_eq(growth_next(&g).size, g.size, "too much is used");
}

Test(growth, holes_are_filled_before_the_disk_is_full)
{
	struct growth g = { .size = 50 * GIB, .held = 10 * GIB, .free = 40 * GIB, .total = 100 * GIB, .below = 60 * GIB, .reserve = GIB, .cpus = 2 };

	cr_assert_not(growth_next(&g).backed);
	g.below = 42 * GIB;
	cr_assert(growth_next(&g).backed && growth_next(&g).size == g.size, "there are holes of 40");
	g.below = 20 * GIB;
	cr_assert(growth_next(&g).backed && growth_next(&g).size < g.size, "what cannot be had must go");
	cr_assert_eq(growth_free(&g), 19 * GIB);
	g.hollow = true;
	cr_assert_not(growth_next(&g).backed, "there is nothing that could fill them");
}

Test(growth, what_was_freed_is_given_back)
{
	struct growth g = { .size = 50 * GIB, .held = 30 * GIB, .free = 48 * GIB, .total = 50 * GIB, .below = 60 * GIB, .reserve = GIB, .cpus = 2 };

	cr_assert(growth_next(&g).trim);
	g.kept = 28 * GIB;
	cr_assert_not(growth_next(&g).trim, "as much could not be given back the last time");
	g.kept = 0;
	g.backed = true;
	g.below = GIB;
	cr_assert_not(growth_next(&g).trim);
}

Test(growth, a_disk_with_plenty_again_needs_no_backing)
{
	const struct growth g = { .size = GIB, .held = GIB, .free = GIB, .total = 100 * GIB, .below = 60 * GIB, .reserve = GIB, .cpus = 2, .backed = true };
	struct growth_plan p = growth_next(&g);

	cr_assert(!p.backed && p.size > g.size && !p.trim);
}

/* -- played through ------------------------------------------------------------------------------------------------ */
/* written: by sandboxes, and so held; foreign: by others. */
struct play {
	struct growth g;
	uint64_t disk, foreign, written;
	unsigned seed;
};

static void settle(struct play *p)
{
	p->g.free = less(p->g.size, p->written);
	p->g.below = less(p->disk, p->foreign + p->g.held);
}

static void carry_out(struct play *p, const struct growth_plan *to)
{
	if (to->trim)
		p->g.held = p->written;
	p->g.size = to->size;
	p->g.held = to->backed ? to->size : MIN(p->g.held, to->size);
	p->g.backed = to->backed;
	settle(p);
	cr_assert_leq(p->foreign + p->g.held, p->disk, "more is promised than there is");
}

/* Between two looks: sandboxes write or remove, others take or give back, at rates that the looks are made for. */
static void live(struct play *p, unsigned ms)
{
	uint64_t most = ms * (4ull << 20), n = (uint64_t)rand_r(&p->seed) % (most + 1), below = p->g.below;

	if (rand_r(&p->seed) % 3)
		n = MIN(n, p->g.free);
	if (rand_r(&p->seed) % 40 == 0)
		p->written = 0;
	else if (n > p->g.free)
		cr_assert(growth_more(&p->g) == 0, "no room inside, and the disk has %llu MiB", (unsigned long long)(below >> 20));
	else
		p->written += n;
	p->g.held = MAX(p->g.held, p->written);
	settle(p);
	n = (uint64_t)rand_r(&p->seed) % (most / 2 + 1);
	if (rand_r(&p->seed) % 30 == 0)
		p->foreign /= 2;
	else
		p->foreign += MIN(n, p->g.below);
	settle(p);
	/* What is in a hole must find room: the whole point. */
	cr_assert_leq(less(p->g.size, p->g.held), p->g.below, "holes of %llu MiB, and %llu MiB below",
		      (unsigned long long)(less(p->g.size, p->g.held) >> 20), (unsigned long long)(p->g.below >> 20));
}

static void play(uint64_t disk, unsigned seed)
{
	struct play p = { .disk = disk, .g = { .total = disk / 10 * 9, .below = disk, .reserve = GIB, .cpus = 2 } };
	struct growth_plan first = growth_first(&p.g);

	p.seed = seed;
	carry_out(&p, &first);
	for (int i = 0; i < 3000; i++) {
		struct growth_plan to;

		p.g.idle = p.written == 0;
		to = growth_next(&p.g);
		carry_out(&p, &to);
		live(&p, growth_next_ms(&p.g));
	}
}

Test(growth, whoever_writes_finds_room_or_is_told)
{
	static const uint64_t disks[] = { 2, 5, 9, 20, 75, 400, 4000 };

	for (size_t i = 0; i < ARRAY_LEN(disks); i++)
		for (unsigned seed = 1; seed <= 20; seed++)
			play(disks[i] * GIB, seed);
}
