/* What a connection asks of one sandbox: MAKE, END, TAKE, NOTE, RENEW. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spawner/box.h"

void box_make(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	struct err err = ERR_INIT;
	struct plan p;
	int r = plan_decode(&p, in, &err);

	if (r < 0) {
		conn_fail(sp, to, "check the plan", r, NULL, err.msg);
	} else if (sp->closing_ms) {
		conn_fail(sp, to, "make a sandbox", -ESHUTDOWN, NULL, "the spawner is ending");
	} else if (box_find(sp, p.id) || box_owns(sp, p.id) || clean_has(sp, p.id)) {
		conn_fail(sp, to, "make a sandbox", -EEXIST, p.id, "a sandbox of this id exists");
	} else if (!pool_take(sp, &p, in, to) && !blanks_take(sp, &p, in, to)) {
		r = box_begin(sp, &p, NULL, in, to);
		if (r < 0)
			conn_fail(sp, to, "make a sandbox", r, p.beside,
				  p.beside ? "the sandbox it is to be beside is not ready" : NULL);
	}
}

void box_end(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *reason = wire_get_str(in, WIRE_T_REASON, 0);
	struct box *b = box_find(sp, id);

	if (!b) {
		conn_fail(sp, to, "end a sandbox", -ENOENT, id, "there is no such sandbox");
		return;
	}
	if (b->n_enders == ENDERS_MAX) {
		conn_fail(sp, to, "end a sandbox", -EBUSY, id, "it is being ended already");
		return;
	}
	b->enders[b->n_enders++] = to;
	if (b->state == BOX_STARTING)
		box_fail(b, "make a sandbox", -ECANCELED, "ended while it started");
	else
		box_kill(b, reason ? reason : "deleted");
	box_over_if_dead(b);
}

void box_take(struct spawner *sp, const struct wire_in *in, struct waiter to)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	struct box *b = box_find(sp, id);

	if (!b || b->state == BOX_ENDING) {
		conn_fail(sp, to, "take over a sandbox", b ? -EBUSY : -ENOENT, id,
			  b ? "it is ending" : "there is no such sandbox");
		return;
	}
	b->taken = true;
	if (b->state == BOX_READY)
		box_tell_made(b, to);
	else
		b->maker = to; /* its own is dead, or would not share it */
}

void box_note(struct spawner *sp, const struct wire_in *in)
{
	struct box *b = box_find(sp, wire_get_str(in, WIRE_T_ID, 0));

	if (b)
		box_take_note(b, in);
}

void box_renew(struct spawner *sp, const struct wire_in *in)
{
	struct box *b = box_find(sp, wire_get_str(in, WIRE_T_ID, 0));

	if (!b || b->state != BOX_READY)
		return;
	box_prolong(b, MIN(wire_get_u64(in, WIRE_T_LEASE_MS, b->lease_ms), UINT64_MAX / 2));
}

void box_take_note(struct box *b, const struct wire_in *in)
{
	size_t len = 0;
	const void *p = wire_get(in, WIRE_T_NOTE, 0, &len);

	if (!p || len > WIRE_NOTE_MAX)
		return;
	free(b->note);
	b->note_len = len;
	b->note = malloc(MAX(len, (size_t)1));
	if (b->note)
		memcpy(b->note, p, len);
}
