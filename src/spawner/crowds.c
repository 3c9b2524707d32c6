/* A sandbox in which there are hundreds of processes weighs a tenth when others want a processor too.
 *
 * Fair shares by group are not enough beside a fork bomb. Seen with Linux 6.18 while one grows: a command of another sandbox that
 * was preempted waits for 40 to 60 ms, as long as the bomb's quota lasts, and one bomb process follows the other. Each fork gives
 * their group a new weight on that processor (reweight_entity in kernel/sched/fair.c), and its lead over the others is not used up.
 * With a tenth of the weight a group's time is used up ten times as fast, and nobody waits so long.
 *
 * There is no event for a number of processes. So the number of all is read while there is a sandbox, and only when it has grown
 * are they looked at one by one. */
#include "base/time.h"
#include "spawner/box.h"

#define LOOK_MS 50         /* a bomb makes 512 processes in 40 to 100 */
#define QUIET_LOOK_MS 250  /* while their number stays the same, for QUIET_MS */
#define QUIET_MS 5000
#define CROWD_SHARE 8      /* of the processes that it may have: so many make a crowd */
#define CROWD_MIN 128
#define CROWD_UNLIMITED 512
#define LIGHTER 10
#define KEEP_MS 10000      /* after it was last seen to have them: a bomb that ends and begins anew stays light */
#define AGAIN_MS 1000      /* between two looks at all of them while one of them is light */
#define GROWN_MIN 32       /* more of them, or one for each sandbox, before all are looked at: a look costs less than a fork */

static uint64_t crowd_of(const struct box *b)
{
	return b->pids_max ? MAX(b->pids_max / CROWD_SHARE, (uint64_t)CROWD_MIN) : CROWD_UNLIMITED;
}

static bool may_crowd(const struct box *b)
{
	return b->state == BOX_READY && !b->spare && b->kind == PLAN_SANDBOX;
}

static void weigh(struct box *b, bool light)
{
	const uint64_t milli = b->cpu_milli ? b->cpu_milli : 1000; /* what the kernel begins with */

	if (cgroup_weigh(&b->sp->host.cg, b->name, light ? milli / LIGHTER : milli) == 0)
		b->light = light;
}

static void look(struct box *b, uint64_t now_ms)
{
	uint64_t n = 0;

	if (!may_crowd(b) || cgroup_processes(&b->sp->host.cg, b->name, &n) < 0)
		return;
	if (n >= crowd_of(b))
		b->light_until_ms = now_ms + KEEP_MS;
	if (b->light != (now_ms < b->light_until_ms))
		weigh(b, !b->light);
}

static void look_at_all(struct spawner *sp, uint64_t now_ms)
{
	struct crowds *c = &sp->crowds;

	c->n_boxes = 0;
	c->again_ms = 0;
	list_foreach(&sp->boxes, struct box, link, b) {
		look(b, now_ms);
		c->n_boxes++;
		if (b->light)
			c->again_ms = now_ms + AGAIN_MS;
	}
}

static void look_at_number(struct spawner *sp, uint64_t now_ms)
{
	struct crowds *c = &sp->crowds;
	uint64_t n = 0;

	if (cgroup_processes(&sp->host.cg, ".", &n) < 0)
		n = c->last; /* the next look tries again */
	if (n != c->last)
		c->changed_ms = now_ms;
	c->last = n;
	c->least = MIN(c->least, n);
	if (n - c->least >= MAX(c->n_boxes, (uint64_t)GROWN_MIN) || (c->again_ms && now_ms >= c->again_ms)) {
		look_at_all(sp, now_ms);
		c->least = n;
	}
	c->next_ms = now_ms + (now_ms - c->changed_ms < QUIET_MS ? LOOK_MS : QUIET_LOOK_MS);
}

void crowds_watch(struct spawner *sp)
{
	spawner_wake(sp, sp->crowds.next_ms);
}

void crowds_tick(struct spawner *sp, uint64_t now_ms)
{
	const struct crowds *c = &sp->crowds;

	if (list_empty(&sp->boxes))
		return;
	if (now_ms >= c->next_ms)
		look_at_number(sp, now_ms);
	crowds_watch(sp);
}
