/* A sandbox that keeps a processor to itself weighs a tenth beside the others, as long as it does.
 *
 * What weighs the same should get a processor in turns. Seen with Linux 6.18, it does not beside one that forks, be it a bomb or a
 * loop of small commands: a command of another sandbox that was preempted waits for 40 to 60 ms, as long as the quota of the one
 * that forks lasts. Each fork gives a group another weight on that processor (reweight_entity in kernel/sched/fair.c), and its lead
 * over the others is not used up. With a tenth of the weight a group's time is used up ten times as fast, and nobody waits so long.
 *
 * Nobody starves: one that gets little because of its weight takes little, and weighs as much as before. */
#include "base/time.h"
#include "spawner/box.h"

#define LOOK_MS 50
#define QUIET_LOOK_MS 250  /* after nothing happened for QUIET_MS */
#define QUIET_MS 5000
#define PER_BOX_MS 1       /* as many do not come more often: a look at one costs a hundredth of that */
#define HEAVY_PERCENT 90   /* of a processor, or of its quota if that is less, from one look to the next */
#define STILL_HEAVY_PERCENT 60 /* for one that is: it gets less where others run beside it */
#define BUSY_PERCENT 20    /* all together: with less nobody is in the way */
#define BUSY_LOOKS 4       /* at them one by one, the last busy one included: who has used up a quota does nothing for a while */
#define LIGHTER 10
#define KEEP_MS 1000       /* after it was last seen: a quota is used up in the first half of its period, say */

static bool may_be_heavy(const struct box *b)
{
	return b->state == BOX_READY && !b->spare && b->kind == PLAN_SANDBOX;
}

/* Without a limit: what the kernel begins with. */
static uint64_t milli_of(const struct box *b)
{
	return b->cpu_milli ? b->cpu_milli : 1000;
}

static void weigh(struct box *b, bool light)
{
	uint64_t milli = milli_of(b);

	if (cgroup_weigh(&b->sp->host.cg, b->name, light ? milli / LIGHTER : milli) == 0)
		b->light = light;
}

static bool is_heavy(const struct box *b, uint64_t used_us, uint64_t us)
{
	const uint64_t percent = b->light ? STILL_HEAVY_PERCENT : HEAVY_PERCENT;

	return used_us * 100 >= us * MIN(milli_of(b), (uint64_t)1000) / 1000 * percent;
}

/* What a box took since it was made, or since a look long before the last one, is not what it takes now. */
static void look(struct box *b, uint64_t now_us, uint64_t now_ms)
{
	const uint64_t last_us = b->sp->weights.at_us;
	bool looked = b->looked_us && b->looked_us == last_us;
	uint64_t used = 0;

	if (!may_be_heavy(b) || cgroup_cpu_us(&b->sp->host.cg, b->name, &used) < 0)
		return;
	if (looked && used > b->used_us && is_heavy(b, used - b->used_us, now_us - last_us))
		b->light_until_ms = now_ms + KEEP_MS;
	b->used_us = used;
	b->looked_us = now_us;
	if (b->light != (now_ms < b->light_until_ms))
		weigh(b, !b->light);
	if (b->light)
		confine(b, now_ms);
	else
		unconfine(b, now_ms);
}

static void look_at_all(struct spawner *sp, uint64_t now_us, uint64_t now_ms)
{
	struct weights *w = &sp->weights;

	w->n_boxes = 0;
	w->any_light = false;
	list_foreach(&sp->boxes, struct box, link, b) {
		look(b, now_us, now_ms);
		w->n_boxes++;
		w->any_light |= b->light;
	}
}

static uint64_t period_ms(const struct weights *w, uint64_t now_ms)
{
	return MAX(now_ms - w->busy_ms < QUIET_MS ? LOOK_MS : QUIET_LOOK_MS, w->n_boxes * PER_BOX_MS);
}

static void look_at_sum(struct spawner *sp, uint64_t now_ms)
{
	struct weights *w = &sp->weights;
	uint64_t now_us = time_now_us(), used = w->used_us, us = MIN(now_us - w->at_us, period_ms(w, now_ms) * 1000);

	if (cgroup_cpu_us(&sp->host.cg, ".", &used) == 0 && used > w->used_us && (used - w->used_us) * 100 >= us * BUSY_PERCENT)
		w->busy_ms = now_ms;
	w->looks = w->busy_ms == now_ms ? BUSY_LOOKS : w->looks - !!w->looks;
	if (w->looks || w->any_light)
		look_at_all(sp, now_us, now_ms);
	w->used_us = used;
	w->at_us = now_us;
	w->next_ms = now_ms + period_ms(w, now_ms);
}

void weights_watch(struct spawner *sp)
{
	spawner_wake(sp, sp->weights.next_ms);
}

void weights_tick(struct spawner *sp, uint64_t now_ms)
{
	if (list_empty(&sp->boxes))
		return;
	if (now_ms >= sp->weights.next_ms)
		look_at_sum(sp, now_ms);
	weights_watch(sp);
}
