/* Blanks: sandboxes that are made as far as that needs no plan: range, cgroups, net namespace, init up to where it needs its
 * root, /dev, /proc, /sys, folders, probable limits. Their builders wait for a plan, and any MAKE of a sandbox that stands alone
 * may get one, whatever its image and size are: what is left is the root, and limits that differ.
 *
 * A few are kept while somebody has asked for a sandbox of late, none while memory is short. The next one is begun when a sandbox
 * is ready and none is there, else when nobody has asked for a moment. */
#include "base/random.h"
#include "base/time.h"
#include "spawner/box.h"

#define BLANKS_MAX 64
#define QUIET_MS 5       /* since the last take, and since the last one was begun */
#define BACKOFF_MS 10000 /* after one that could not be made */

void blanks_init(struct spawner *sp)
{
	list_init(&sp->blanks.waiting);
}

static void drop_all(struct spawner *sp)
{
	list_foreach(&sp->blanks.waiting, struct box, spare_link, b) {
		list_remove(&b->spare_link);
		sp->blanks.n--;
		box_drop(b);
	}
}

static bool may_begin(const struct spawner *sp, uint64_t now_ms)
{
	const struct blanks *k = &sp->blanks;

	return k->taken_at_ms && !sp->closing_ms && !sp->pressed && k->n < k->max && now_ms >= k->not_before_ms;
}

static void begin(struct spawner *sp, uint64_t now_ms)
{
	struct blanks *k = &sp->blanks;
	char name[PLAN_ID_LEN];
	struct box *b;

	random_uuid(name);
	b = box_begin_blank(sp, name, &k->limits);
	if (!b) {
		k->not_before_ms = now_ms + BACKOFF_MS;
		return;
	}
	list_push_back(&k->waiting, &b->spare_link);
	k->n++;
	k->busy_at_ms = now_ms;
}

static void fill(struct spawner *sp, uint64_t now_ms)
{
	struct blanks *k = &sp->blanks;

	if (may_begin(sp, now_ms) && (k->n == 0 || now_ms - k->busy_at_ms >= QUIET_MS))
		begin(sp, now_ms);
	if (may_begin(sp, now_ms))
		spawner_wake(sp, k->busy_at_ms + QUIET_MS);
}

/* The next ones will most probably be asked for with the same. */
static void expect(struct blanks *k, const struct cgroup_limits *l)
{
	k->limits = cgroup_limits_all(l) ? *l : (struct cgroup_limits){ 0 };
}

/* A limit can be made another, not none. */
static bool fits(const struct box *b, const struct cgroup_limits *l)
{
	return cgroup_limits_all(l) || !cgroup_limits_all(&b->ahead);
}

bool blanks_take(struct spawner *sp, const struct plan *p, const struct wire_in *in, struct waiter to)
{
	const struct cgroup_limits limits = start_limits(p);
	struct blanks *k = &sp->blanks;
	struct box *b;

	if (p->beside || !k->max)
		return false;
	expect(k, &limits);
	k->taken_at_ms = k->busy_at_ms = time_now_ms();
	spawner_wake(sp, k->busy_at_ms + QUIET_MS);
	while ((b = list_first(&k->waiting, struct box, spare_link))) {
		list_remove(&b->spare_link);
		k->n--;
		if (fits(b, &limits) && box_fill(b, p, in, to))
			return true;
		box_drop(b); /* its builder has just died, or those that wait expect limits */
	}
	return false;
}

void blanks_made(struct spawner *sp)
{
	fill(sp, time_now_ms());
}

void blanks_lost(struct box *b)
{
	struct blanks *k = &b->sp->blanks;

	if (list_empty(&b->spare_link))
		return; /* dropped */
	list_remove(&b->spare_link);
	k->n--;
	k->not_before_ms = time_now_ms() + BACKOFF_MS;
	spawner_wake(b->sp, k->not_before_ms);
}

void blanks_set(struct spawner *sp, uint64_t max)
{
	sp->blanks.max = MIN(max, (uint64_t)BLANKS_MAX);
	if (sp->blanks.n > sp->blanks.max)
		drop_all(sp);
}

void blanks_close(struct spawner *sp)
{
	drop_all(sp);
}

void blanks_tick(struct spawner *sp, uint64_t now_ms)
{
	struct blanks *k = &sp->blanks;

	if (!k->taken_at_ms)
		return;
	spawner_look_at_memory(sp, now_ms);
	if (now_ms - k->taken_at_ms >= sp->pool.keep_ms)
		k->taken_at_ms = 0;
	else
		spawner_wake(sp, sp->look_at_ms);
	if (sp->pressed || !k->taken_at_ms)
		drop_all(sp);
	fill(sp, now_ms);
}
