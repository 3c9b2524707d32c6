/* The autoscaler against inputs drawn at random, and against generated traces: a small world of instances that carries out what it
 * decides, as env/scale.c does, second by second. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "env/autoscaler.h"

/* -- properties, over random inputs ------------------------------------------------------------------------------------ */

static uint64_t draw(uint64_t below)
{
	return (uint64_t)random() % below;
}

static uint64_t unused[16];

static struct autoscaler_input random_input(void)
{
	struct autoscaler_input in = {
		.sessions = draw(50), .waiting = draw(50), .visitors = draw(3), .n_unused = draw(8), .busy = draw(8),
		.unused_ms = unused, .concurrency = 1 + draw(8), .min = draw(4), .max = 1 + draw(12), .idle_ms = 1000,
		.capacity = draw(2) ? UINT64_MAX : draw(12),
	};

	for (size_t k = 0; k < ARRAY_LEN(unused); k++)
		unused[k] = draw(2000);
	in.replicas = in.busy + in.n_unused + draw(3); /* the rest is starting */
	return in;
}

#define ROUNDS 200000

Test(autoscaler, never_drops_a_busy_replica_and_never_exceeds_its_limits)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct autoscaler_input in = random_input();
		struct autoscaler_output out = autoscaler_decide(&in);

		cr_assert_geq(out.replicas, in.busy);
		cr_assert_leq(out.replicas, MAX(in.busy, MIN(in.max, in.capacity)));
		cr_assert_not_null(out.why);
	}
}

Test(autoscaler, more_demand_never_gives_fewer)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct autoscaler_input in = random_input();
		uint64_t before = autoscaler_decide(&in).replicas;

		in.sessions += draw(10);
		in.waiting += draw(10);
		in.visitors += draw(2);
		cr_assert_geq(autoscaler_decide(&in).replicas, before);
	}
}

Test(autoscaler, enough_for_all_where_it_is_allowed)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct autoscaler_input in = random_input();
		uint64_t places = autoscaler_decide(&in).replicas * in.concurrency;

		if (in.max >= 100 && in.capacity >= 100)
			cr_assert_geq(places, in.sessions + in.waiting);
		in.max = in.capacity = 1000;
		cr_assert_geq(autoscaler_decide(&in).replicas * in.concurrency, in.sessions + in.waiting);
	}
}

Test(autoscaler, carried_out_it_is_content)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct autoscaler_input in = random_input();
		struct autoscaler_output out = autoscaler_decide(&in);

		/* What it asked for is there, and nothing else changed. */
		in.n_unused -= MIN(in.n_unused, in.replicas > out.replicas ? in.replicas - out.replicas : 0);
		for (size_t k = 0; k < in.n_unused; k++)
			unused[k] = 0;
		in.replicas = out.replicas;
		cr_assert_eq(autoscaler_decide(&in).replicas, out.replicas);
	}
}

/* -- traces -------------------------------------------------------------------------------------------------------------- */

#define WORLD_MAX 64
#define START_S 3 /* a replica's way to healthy */

struct replica {
	bool there;
	unsigned sessions, ready_in_s;
	uint64_t unused_ms;
};

struct world {
	struct replica r[WORLD_MAX];
	unsigned open, lost;      /* sessions that hold a place; that went with a crash */
	unsigned wanted;          /* of the trace, this second */
	unsigned changes, drops, most;
	uint64_t concurrency, min, max, idle_ms, capacity;
};

static unsigned count(const struct world *w)
{
	unsigned n = 0;

	for (size_t k = 0; k < WORLD_MAX; k++)
		n += w->r[k].there;
	return n;
}

/* The fullest that still fits. */
static struct replica *place(struct world *w)
{
	struct replica *best = NULL;

	for (size_t k = 0; k < WORLD_MAX; k++) {
		struct replica *r = &w->r[k];

		if (r->there && !r->ready_in_s && r->sessions < w->concurrency && (!best || r->sessions > best->sessions))
			best = r;
	}
	return best;
}

static void follow_demand(struct world *w)
{
	for (size_t k = 0; w->open > w->wanted; k = (k + 1) % WORLD_MAX) {
		if (!w->r[k].there || !w->r[k].sessions)
			continue;
		w->r[k].sessions--;
		w->open--;
	}
	for (struct replica *r; w->open < w->wanted && (r = place(w));) {
		r->sessions++;
		w->open++;
	}
}

static struct autoscaler_output decide(const struct world *w)
{
	uint64_t unused_ms[WORLD_MAX];
	struct autoscaler_input in = {
		.sessions = w->open, .waiting = w->wanted - w->open, .unused_ms = unused_ms, .concurrency = w->concurrency,
		.min = w->min, .max = w->max, .idle_ms = w->idle_ms, .capacity = w->capacity, .replicas = count(w),
	};

	for (size_t k = 0; k < WORLD_MAX; k++) {
		in.busy += w->r[k].there && w->r[k].sessions;
		if (w->r[k].there && !w->r[k].sessions && !w->r[k].ready_in_s)
			unused_ms[in.n_unused++] = w->r[k].unused_ms;
	}
	return autoscaler_decide(&in);
}

static void start_one(struct world *w)
{
	for (size_t k = 0; k < WORLD_MAX; k++) {
		if (w->r[k].there)
			continue;
		w->r[k] = (struct replica){ .there = true, .ready_in_s = START_S };
		return;
	}
	cr_assert_fail("the world is full");
}

static void drop_one(struct world *w)
{
	struct replica *oldest = NULL;

	for (size_t k = 0; k < WORLD_MAX; k++) {
		struct replica *r = &w->r[k];

		if (r->there && !r->sessions && !r->ready_in_s && (!oldest || r->unused_ms > oldest->unused_ms))
			oldest = r;
	}
	cr_assert_not_null(oldest, "asked to drop one that is in use");
	oldest->there = false;
	w->drops++;
}

static void second(struct world *w, unsigned wanted)
{
	w->wanted = wanted;
	follow_demand(w);
	uint64_t target = decide(w).replicas;
	w->changes += target != count(w);
	while (count(w) < target)
		start_one(w);
	while (count(w) > target)
		drop_one(w);
	w->most = MAX(w->most, count(w));
	for (size_t k = 0; k < WORLD_MAX; k++) {
		struct replica *r = &w->r[k];

		r->unused_ms = r->sessions || r->ready_in_s ? 0 : r->unused_ms + 1000;
		r->ready_in_s -= r->ready_in_s > 0;
	}
}

static void crash(struct world *w)
{
	for (size_t k = 0; k < WORLD_MAX; k++) {
		if (!w->r[k].there || !w->r[k].sessions)
			continue;
		w->lost += w->r[k].sessions;
		w->open -= w->r[k].sessions;
		w->r[k].there = false;
		return;
	}
}

static struct world world_new(void)
{
	return (struct world){ .concurrency = 4, .max = 20, .idle_ms = 60000, .capacity = UINT64_MAX };
}

Test(autoscaler, a_burst_with_a_crash)
{
	struct world w = world_new();

	for (unsigned s = 0; s < 300; s++) {
		second(&w, s < 100 ? 40 : 0);
		if (s == 50)
			crash(&w);
	}
	cr_assert_eq(w.lost, 4, "its own sessions alone");
	cr_assert_eq(w.most, 10);
	cr_assert_eq(count(&w), 0, "it reaches zero");
	cr_assert_leq(w.changes, 3, "up, once more after the crash, down: %u", w.changes);
}

Test(autoscaler, a_ramp_with_a_crash)
{
	struct world w = world_new();

	w.max = 7;
	for (unsigned s = 0; s < 500; s++) {
		second(&w, s < 100 ? s / 2 : s < 200 ? (200 - s) / 2 : 0);
		if (s == 80)
			crash(&w);
		cr_assert_leq(count(&w), 7);
	}
	cr_assert_eq(w.most, 7);
	cr_assert_eq(count(&w), 0);
	cr_assert_eq(w.drops, 7, "each replica went once");
}

Test(autoscaler, a_sawtooth_with_a_crash_does_not_flap)
{
	struct world w = world_new();

	for (unsigned s = 0; s < 1000; s++) {
		second(&w, 2 + s % 30); /* shorter than the idle time */
		if (s == 500)
			crash(&w);
		cr_assert_eq(w.drops, 0, "second %u", s);
	}
	cr_assert_leq(w.changes, 9, "up to the peak, and once after the crash: %u", w.changes);
}

Test(autoscaler, a_constant_load_does_not_move_it)
{
	struct world w = world_new();

	for (unsigned s = 0; s < 1000; s++)
		second(&w, 17);
	cr_assert_eq(count(&w), 5);
	cr_assert_eq(w.changes, 1);
}

Test(autoscaler, the_minimum_stays_and_the_machine_limits)
{
	struct world w = world_new();

	w.min = 2;
	w.capacity = 3;
	for (unsigned s = 0; s < 500; s++)
		second(&w, s > 100 && s < 200 ? 30 : 0);
	cr_assert_eq(w.most, 3);
	cr_assert_eq(count(&w), 2);
}

/* -- a trainer ------------------------------------------------------------------------------------------------------------ */

/* Open sessions each 10 s of one that runs 16 rollouts for each of a few tasks, with pauses between its batches. */
static const unsigned char batches[] = { 0, 16, 16, 15, 11, 6, 2, 0, 0, 16, 32, 31, 27, 19, 12, 5, 1, 0, 16, 16, 14, 9, 3, 0,
					  0, 0, 0, 0, 0, 0, 0, 48, 48, 47, 40, 31, 22, 13, 7, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 };

Test(autoscaler, a_trainers_batches_with_a_crash)
{
	struct world w = world_new();

	for (unsigned s = 0; s < 10 * ARRAY_LEN(batches); s++) {
		second(&w, batches[s / 10]);
		if (s == 335)
			crash(&w);
	}
	cr_assert(w.lost > 0 && w.lost <= 4, "its own sessions alone: %u", w.lost);
	cr_assert_eq(w.most, 12);
	cr_assert_eq(count(&w), 0);
}
