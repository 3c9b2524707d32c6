/* All sandboxes at once: the list of them, their clock, egress, the spawner's end. */
#include <errno.h>

#include "base/time.h"
#include "spawner/box.h"

static uint64_t left(const struct box *b, uint64_t now_ms)
{
	return b->lease_at_ms > now_ms ? b->lease_at_ms - now_ms : 0;
}

void boxes_list(struct spawner *sp, struct waiter to)
{
	uint64_t now = time_now_ms();

	list_foreach(&sp->boxes, struct box, link, b) {
		struct wire_out o;

		if (b->state == BOX_ENDING || b->spare)
			continue;
		conn_begin(sp, &o, WIRE_ITEM, to);
		wire_put_str(&o, WIRE_T_ID, b->id);
		wire_put_u64(&o, WIRE_T_KIND, b->kind);
		wire_put_u64(&o, WIRE_T_PID, b->state == BOX_READY ? (uint64_t)b->init_pid : 0);
		wire_put_u64(&o, WIRE_T_LEASE_MS, left(b, now));
		conn_answer(sp, to, &o);
	}
	conn_ok(sp, to);
}

bool boxes_taken(const struct spawner *sp)
{
	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		if (!b->spare)
			return true;
	return false;
}

/* -- the clock, egress, the spawner's end ------------------------------------------------------------------------ */
static void box_tick(struct box *b, uint64_t now_ms)
{
	bool lease = b->lease_at_ms && b->lease_at_ms <= now_ms;
	bool hard = b->hard_at_ms && b->hard_at_ms <= now_ms;

	if (b->state == BOX_ENDING)
		return;
	if (b->state == BOX_STARTING && lease)
		box_fail(b, "start within three minutes", -ETIMEDOUT, "");
	else if (lease || hard)
		box_kill(b, hard ? "deadline" : "lease");
	else
		box_watch_clock(b);
	box_over_if_dead(b);
}

void boxes_tick(struct spawner *sp, uint64_t now_ms)
{
	list_foreach(&sp->boxes, struct box, link, b)
		box_tick(b, now_ms);
}

void boxes_close(struct spawner *sp)
{
	list_foreach(&sp->boxes, struct box, link, b) {
		if (b->state == BOX_STARTING)
			box_fail(b, "make a sandbox", -ESHUTDOWN, "the spawner is ending");
		else
			box_kill(b, "host");
		box_over_if_dead(b);
	}
}

void boxes_register(struct spawner *sp, bool again)
{
	list_foreach(&sp->boxes, struct box, link, b)
		if (b->state != BOX_ENDING && !b->spare && !b->owner && (again || !b->registered))
			box_register(b);
}
