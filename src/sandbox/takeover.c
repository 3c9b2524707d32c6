/* sandbox/takeover.c: the boxes of a former daemon become this one's.
 *
 *   LIST -> for each: TAKE -> MADE with the note: a box is made of it, TAKEN, and offered to its heir
 *             \-> RUNS -> its commands are known: left() -> READY
 *                    \-> CONFIG (a spawner of before left it to us)  -> READY
 *
 * TAKEs are under way at the same time, WINDOW at most, since an answer brings two descriptors and a note. One whose descriptors
 * found no room here is asked for again: those that were there first may be many, and about to go. When the spawner
 * has answered all, or LIMIT_MS are over, done is called: whose the boxes are is known then. Their inits are asked at the same
 * time, and nobody waits for them but who wants something of that box: a thousand of them may share a processor with what
 * they run. What nobody takes is ended, and so is what does not answer in the time that init has for any answer. Nothing here
 * waits for a sandbox's processes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"

#define WINDOW 128
#define LIMIT_MS 30000 /* for the spawner */
#define AGAIN_MS 100   /* after an answer whose descriptors found no room */

struct takeover {
	struct local *local;
	struct local_heirs heirs;
	local_taken_fn *done;
	void *arg;
	char (*ids)[PLAN_ID_LEN];
	size_t n_ids, cap_ids, next; /* next: its TAKE is not sent yet */
	struct list takes;           /* struct take: without an answer */
	size_t n_takes;
	size_t taken;                /* that have an heir */
	bool listed;
	struct loop_timer end;       /* due when all is answered, or after LIMIT_MS */
	struct loop_timer again;     /* armed: nothing is sent before it is due */
};

struct take {
	struct list node;
	struct takeover *t;
	char id[PLAN_ID_LEN];
};

/* -- its end ----------------------------------------------------------------------------------------------------------------- */

static bool is_over(const struct takeover *t)
{
	return t->listed && t->next == t->n_ids && !t->n_takes;
}

static void check_over(struct takeover *t)
{
	if (is_over(t))
		loop_timer_start(&t->end, 0);
}

static void take_free(struct take *k)
{
	list_remove(&k->node);
	k->t->n_takes--;
	free(k);
}

void takeover_free(struct takeover *t)
{
	struct chan *c;
	struct take *k;

	if (!t)
		return;
	c = link_chan(t->local->link);
	while ((k = list_first(&t->takes, struct take, node))) {
		chan_forget(c, k);
		take_free(k);
	}
	chan_forget(c, t);
	loop_timer_stop(&t->end);
	loop_timer_stop(&t->again);
	t->local->takeover = NULL;
	free(t->ids);
	free(t);
}

/* Those of which the spawner told nothing end with their leases. */
static void on_over(struct loop_timer *timer UNUSED, void *arg)
{
	struct takeover *t = arg;
	local_taken_fn *done = t->done;
	void *done_arg = t->arg;
	size_t taken = t->taken;

	if (!is_over(t))
		log_warn("sandbox", "the spawner did not tell of %zu sandboxes within %d s, or too many files were open here for them",
			 t->n_ids - t->next + t->n_takes, LIMIT_MS / 1000);
	takeover_free(t);
	done(done_arg, taken);
}

/* -- one box ----------------------------------------------------------------------------------------------------------------- */

static void give_up(struct box *b, const struct err *err)
{
	log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", b->id), "not taken over: %s", err->msg);
	ask_end(b, "host");
}

static void tell_left(struct box *b, engine_left_fn *fn, engine_known_fn *known, void *heir)
{
	execs_left(b, fn, heir);
	known(heir);
}

static void box_known(struct box *b)
{
	b->state = BOX_READY;
	if (b->left)
		tell_left(b, b->left, b->known, b->heir);
}

static void on_configured(void *arg, const struct wire_in *in UNUSED, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct box *b = arg;

	if (b->state != BOX_TAKEN)
		return;
	if (err)
		give_up(b, err);
	else
		box_known(b);
}

/* What is no answer of an init of ours is a forged one's: nothing more that it says is listened to. */
static void on_runs(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct box *b = arg;
	struct err e = ERR_INIT;
	int r = 0;

	if (b->state != BOX_TAKEN)
		return;
	if (err)
		give_up(b, err);
	else if (in->type == WIRE_ITEM)
		r = exec_left(b, in, &e);
	else if (wire_get_u64(in, WIRE_T_CONFIGURED, 0))
		box_known(b);
	else
		r = box_configure(b, on_configured, &e);
	if (r < 0)
		give_up(b, &e);
}

static int ask_runs(struct box *b, struct err *err)
{
	return chan_send(b->init, chan_begin(b->init, WIRE_RUNS, true), NULL, 0, on_runs, b, err);
}

static bool offer(struct takeover *t, struct box *b)
{
	const struct local_heirs *h = &t->heirs;

	if (b->instance)
		return h->instance && h->instance(h->instances, &b->base, b->note, b->note_len);
	return h->sandbox && h->sandbox(h->sandboxes, &b->base, b->note, b->note_len);
}

static int take(struct takeover *t, const char *id, const struct wire_in *in, int *fds, size_t n_fds, struct err *err)
{
	size_t len = 0;
	const void *note = wire_get(in, WIRE_T_NOTE, 0, &len);
	struct box *b;
	int r;

	if (!note || n_fds < 1)
		return err_set(err, -EPROTO, "%s", n_fds < 1 ? "it came without its socket" : "nobody has left a note of it");
	r = note_read(t->local, id, note, len, &b, err);
	if (r < 0)
		return r;
	if (wire_get_str(in, WIRE_T_HOSTNAME, 0))
		box_named(b, wire_get_str(in, WIRE_T_HOSTNAME, 0)); /* the note is older */
	map_put(t->local->boxes, b->id, b);
	room_take(&t->local->room, &b->place);
	r = box_connect(b, fd_steal(&fds[0]), err);
	b->state = BOX_TAKEN;
	r = r < 0 ? r : ask_runs(b, err);
	if (r < 0)
		give_up(b, err);
	else if (offer(t, b))
		t->taken++;
	else
		ask_end(b, "host");
	return 0;
}

static void send_takes(struct takeover *t);

static void add_id(struct takeover *t, const char *id)
{
	if (t->n_ids == t->cap_ids) {
		t->cap_ids = MAX((size_t)64, 2 * t->cap_ids);
		t->ids = xrealloc(t->ids, t->cap_ids * sizeof(*t->ids));
	}
	snprintf(t->ids[t->n_ids++], PLAN_ID_LEN, "%s", id);
}

static void on_again(struct loop_timer *timer UNUSED, void *arg)
{
	struct takeover *t = arg;

	send_takes(t);
	check_over(t);
}

static void take_again(struct takeover *t, const char *id)
{
	add_id(t, id);
	if (loop_timer_armed(&t->again))
		return;
	log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", id), "not taken over yet: too many open files");
	loop_timer_start(&t->again, AGAIN_MS);
}

static void on_taken(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct take *k = arg;
	struct takeover *t = k->t;
	struct err e = ERR_INIT;
	int r = err ? err->code : take(t, k->id, in, fds, n_fds, &e);

	if (r == -EMFILE)
		take_again(t, k->id);
	/* -ENOENT, -EBUSY: it has ended meanwhile. */
	else if (r < 0 && r != -ENOENT && r != -EBUSY && r != -ECONNRESET) {
		log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", k->id), "not taken over: %s", err ? err->msg : e.msg);
		box_end_by_id(t->local, k->id);
	}
	take_free(k);
	send_takes(t);
	check_over(t);
}

static void send_take(struct takeover *t, const char *id)
{
	struct chan *c = link_chan(t->local->link);
	struct take *k = NEW(struct take);
	struct wire_out *o;

	*k = (struct take){ .t = t };
	snprintf(k->id, sizeof(k->id), "%s", id);
	list_push_back(&t->takes, &k->node);
	t->n_takes++;
	o = c ? chan_begin(c, WIRE_TAKE, true) : NULL;
	if (o)
		wire_put_str(o, WIRE_T_ID, id);
	if (!o || chan_send(c, o, NULL, 0, on_taken, k, NULL) < 0)
		take_free(k); /* the spawner is gone, and the box with it */
}

static void send_takes(struct takeover *t)
{
	while (t->next < t->n_ids && t->n_takes < WINDOW && !loop_timer_armed(&t->again))
		send_take(t, t->ids[t->next++]);
}

/* -- all of them -------------------------------------------------------------------------------------------------------------- */

static void on_list(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct takeover *t = arg;
	const char *id = in ? wire_get_str(in, WIRE_T_ID, 0) : NULL;

	if (!err && in && in->type == WIRE_ITEM) {
		if (id && !map_get(t->local->boxes, id))
			add_id(t, id);
		return;
	}
	t->listed = true;
	send_takes(t);
	check_over(t);
}

void local_engine_take_over(struct engine *base, const struct local_heirs *heirs, local_taken_fn *done, void *arg)
{
	struct local *e = (struct local *)base;
	struct chan *c = link_chan(e->link);
	struct takeover *t = NEW(struct takeover);

	*t = (struct takeover){ .local = e, .heirs = *heirs, .done = done, .arg = arg };
	e->takeover = t;
	list_init(&t->takes);
	loop_timer_init(&t->end, e->loop, on_over, t);
	loop_timer_init(&t->again, e->loop, on_again, t);
	loop_timer_start(&t->end, LIMIT_MS);
	if (c && chan_send(c, chan_begin(c, WIRE_LIST, true), NULL, 0, on_list, t, NULL) == 0)
		return;
	t->listed = true;
	check_over(t);
}

void local_adopt(struct engine_box *base, engine_end_fn *on_end, void *arg)
{
	struct box *b = (struct box *)base;

	b->on_end = on_end;
	b->arg = arg;
}

void local_left(struct engine_box *base, engine_left_fn *fn, engine_known_fn *known, void *arg)
{
	struct box *b = (struct box *)base;

	if (b->state == BOX_READY) {
		tell_left(b, fn, known, arg);
		return;
	}
	b->left = fn;
	b->known = known;
	b->heir = arg;
}
