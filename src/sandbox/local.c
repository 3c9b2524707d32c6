/* sandbox/local.c: the engine itself: its table, the link's events, the mounts that every box gets. */
#include "sandbox/local.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/machine.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"

#define PIDS_MAX_DEFAULT 4096
#define TELL_FULL_MS 60000 /* between two lines of the log that say how many wait */

static void local_prepare_image(struct engine *e, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg)
{
	images_prepare(((struct local *)e)->images, ref, progress, done, arg);
}

static const struct engine_ops local_ops = {
	.prepare_image = local_prepare_image,
	.create = local_create,
	.uncreate = local_uncreate,
	.waiting = local_waiting,
	.destroy = local_destroy,
	.renew = local_renew,
	.exec = local_exec,
	.exec_read = local_exec_read,
	.exec_kill = local_exec_kill,
	.exec_release = local_exec_release,
	.exec_fetch = local_exec_fetch,
	.exec_on_more = local_exec_on_more,
	.exec_input = local_exec_input,
	.exec_input_end = local_exec_input_end,
	.exec_resize = local_exec_resize,
	.exec_signal = local_exec_signal,
	.usage = local_usage,
	.adopt = local_adopt,
	.left = local_left,
	.claim = local_claim,
	.note = local_note,
	.connect = local_connect,
	.open = local_open,
	.commit = local_commit,
	.discard = local_discard,
};

/* -- the link's events -------------------------------------------------------------------------------------------------- */

static void on_gone(void *arg, const char *id, const char *reason)
{
	struct local *e = arg;
	struct box *b = map_get(e->boxes, id);

	if (b)
		box_end(b, b->main_over && str_eq(reason, "killed") ? "exited" : reason);
}

static void on_space(void *arg, const struct link_space *is)
{
	struct local *e = arg;

	e->counts.space = *is;
	room_space(&e->room, is->broken ? 0 : is->free + is->more);
}

static void on_lost(void *arg, const struct err *why UNUSED)
{
	struct local *e = arg;

	e->counts.space = (struct link_space){ 0 };
	room_space(&e->room, MACHINE_UNKNOWN);

	/* Callbacks may make new boxes, which fail at once and are not in the map before their MAKE is sent. */
	while (map_len(e->boxes) > 0) {
		struct map_iter it = { 0 };

		if (!map_next(e->boxes, &it))
			break;
		box_end(it.value, "host");
	}
}

/* To every spawner that this engine gets to see. Where it can't be told, nothing is prepared. */
static void set_pool(struct local *e)
{
	struct chan *c = link_chan(e->link);
	struct wire_out *o;

	if (!c)
		return;
	o = chan_begin(c, WIRE_POOL, false);
	wire_put_u64(o, WIRE_T_POOL_MAX, e->settings.pool_max);
	wire_put_u64(o, WIRE_T_POOL_KEEP_MS, e->settings.pool_keep_ms);
	wire_put_u64(o, WIRE_T_POOL_BYTES, e->settings.pool_bytes);
	wire_put_u64(o, WIRE_T_POOL_BLANKS, e->settings.pool_blanks);
	chan_tell(c, o);
}

static void on_up(void *arg)
{
	local_reconcile(arg);
	set_pool(arg);
}

static void on_full(void *arg)
{
	struct local *e = arg;
	uint64_t now = loop_now_ms(e->loop);

	if (!e->told_full_ms || now - e->told_full_ms >= TELL_FULL_MS) {
		e->told_full_ms = now;
		log_info("sandbox", "%zu sandboxes and %zu instances wait for room: %s", room_waiting(&e->room, false),
			 room_waiting(&e->room, true), room_why(&e->room));
	}
	if (e->base.full)
		e->base.full(e->base.full_arg);
}

/* -- life --------------------------------------------------------------------------------------------------------------- */

static int add_mount(struct local *e, const struct engine_mount *m, struct err *err)
{
	if (e->n_mounts == PLAN_MOUNTS_MAX)
		return err_set(err, -E2BIG, "sandboxes.mounts: more than %d", PLAN_MOUNTS_MAX);
	e->mounts[e->n_mounts++] = (struct plan_mount){
		.source = m->source, .target = m->target, .flags = m->read_only ? PLAN_MOUNT_RO : 0,
	};
	return 0;
}

static uint64_t times(uint64_t factor, uint64_t what)
{
	uint64_t v;

	return __builtin_mul_overflow(factor, what, &v) ? UINT64_MAX : v;
}

static void open_room(struct local *e)
{
	const struct room_user user = { .admitted = box_admitted, .tell = box_told, .full = on_full, .arg = e };
	struct admit_limits limits = e->settings.room;
	struct machine m;

	machine_here(&m);
	limits.sums.cpu_milli = times(limits.sums.cpu_milli, m.cpu_milli);
	limits.sums.memory_bytes = times(limits.sums.memory_bytes, m.memory_bytes);
	room_init(&e->room, e->loop, &limits, e->settings.data_dir, &user);
}

int local_engine_new(struct engine **ret, struct loop *l, struct link *k, struct images *images,
		     const struct local_settings *settings, struct err *err)
{
	static const struct link_events events = { .gone = on_gone, .lost = on_lost, .space = on_space, .up = on_up };
	struct local *e = NEW(struct local);

	e->base.ops = &local_ops;
	e->loop = l;
	e->link = k;
	e->images = images;
	e->settings = *settings;
	e->settings.pids_max = settings->pids_max ? settings->pids_max : PIDS_MAX_DEFAULT;
	e->boxes = map_new();
	open_room(e);
	for (size_t i = 0; settings->mounts && settings->mounts[i].source; i++) {
		int r = add_mount(e, &settings->mounts[i], err);

		if (r < 0) {
			local_engine_free(&e->base);
			return r;
		}
	}
	link_set_events(k, &events, e);
	set_pool(e);
	*ret = &e->base;
	return 0;
}

void local_engine_leave(struct engine *base)
{
	struct local *e = (struct local *)base;
	struct map_iter it = { 0 };

	while (e && map_next(e->boxes, &it))
		box_leave(it.value);
}

struct engine *local_engine_free(struct engine *base)
{
	struct local *e = (struct local *)base;
	struct map_iter it = { 0 };

	if (!e)
		return NULL;
	link_set_events(e->link, NULL, e);
	chan_forget(link_chan(e->link), e);
	takeover_free(e->takeover);
	while (map_next(e->boxes, &it))
		box_forget(it.value);
	map_free(e->boxes);
	room_done(&e->room);
	free(e);
	return NULL;
}

void local_engine_counts(const struct engine *base, struct local_counts *ret)
{
	const struct local *e = (const struct local *)base;

	*ret = e->counts;
	ret->waiting = room_waiting(&e->room, false);
	ret->waiting_instances = room_waiting(&e->room, true);
	ret->waited_total = e->room.waited_total;
	ret->boxes = map_len(e->boxes) - ret->waiting - ret->waiting_instances;
}
