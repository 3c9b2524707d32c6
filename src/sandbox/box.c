/* sandbox/box.c: the life of a box: see the states in local.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "base/time.h"
#include "sandbox/private.h"

/* An answer of init's: one that shares two CPUs with thousands of busy processes may take more than a minute. */
#define INIT_TIMEOUT_MS 180000
#define ORPHAN_MS 5000        /* from the loss of init's socket to the end by force */

/* -- ends --------------------------------------------------------------------------------------------------------------- */

static void box_release(void *arg)
{
	struct box *b = arg;

	list_foreach(&b->waiters, struct waiter, node, w)
		free(w);
	image_unref(b->image);
	strv_free(b->env);
	free(b->hosts_extra);
	free(b->end_reason);
	free(b->note);
	free(b->key);
	free(b->plan);
	for (size_t i = 0; i < ARRAY_LEN(b->bucket); i++)
		free(b->bucket[i]);
	free(b);
}

static void box_close(struct box *b)
{
	b->state = BOX_GONE;
	loop_timer_stop(&b->orphan);
	room_leave(&b->local->room, &b->place);
	if (map_get(b->local->boxes, b->id) == b)
		map_del(b->local->boxes, b->id);
	b->init = chan_end(b->init);
}

static void box_free(struct box *b)
{
	chan_forget(link_chan(b->local->link), b);
	if (!b->deferred) /* else end_deferred() does it */
		loop_release(b->local->loop, box_release, b);
}

void box_leave(struct box *b)
{
	b->state = BOX_GONE;
	loop_timer_stop(&b->orphan);
	room_leave(&b->local->room, &b->place);
	b->init = chan_free(b->init);
}

void box_forget(struct box *b)
{
	box_close(b);
	execs_orphan(b);
	box_free(b);
}

static void tell_waiters(struct box *b)
{
	while (!list_empty(&b->waiters)) {
		struct waiter *w = list_first(&b->waiters, struct waiter, node);

		list_remove(&w->node);
		if (w->done)
			w->done(w->arg, NULL);
		free(w);
	}
}

static const char *explain(const char *reason)
{
	if (str_eq(reason, "host"))
		return "by a fault of the host, outcome infra";
	return str_eq(reason, "killed") ? "its first process was killed, outcome infra" : reason;
}

void box_end(struct box *b, const char *reason)
{
	auto_free char *why = xstrdup(b->end_reason ? b->end_reason : reason);
	struct chan *init = b->init;
	struct err err;

	if (b->state == BOX_GONE)
		return;
	err_set(&err, -EIDRM, "the sandbox has ended (%s)", explain(why));
	b->state = BOX_GONE;
	if (init)
		chan_fail_all(init, &err);
	execs_fail(b, &err);
	box_close(b);
	execs_orphan(b);
	if (b->created) {
		engine_create_fn *created = b->created;

		b->created = NULL;
		b->local->counts.failed_total++;
		created(b->arg, NULL, b->err.code ? &b->err : &err);
	} else if (b->on_end) {
		b->on_end(b->arg, &b->base, why);
	}
	tell_waiters(b);
	box_free(b);
}

static void end_deferred(void *arg)
{
	struct box *b = arg;

	b->deferred = false;
	if (b->state == BOX_GONE)
		loop_release(b->local->loop, box_release, b);
	else
		box_end(b, "host");
}

static void defer_end(struct box *b)
{
	b->deferred = true;
	loop_defer(b->local->loop, end_deferred, b);
}

static void on_ended(void *arg, const struct wire_in *in UNUSED, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct box *b = arg;

	/* -ENOENT: it ended by itself just before. A lost connection ends all boxes by itself. */
	if (err && err->code == -ECONNRESET)
		return;
	box_end(b, "deleted");
}

static struct wire_out *put_end(struct chan *c, const char *id, const char *reason)
{
	struct wire_out *o = chan_begin(c, WIRE_END, true);

	wire_put_str(o, WIRE_T_ID, id);
	wire_put_str(o, WIRE_T_REASON, reason);
	return o;
}

/* Init owes us nothing: neither an answer nor the end of a command. */
static bool is_at_rest(const struct box *b)
{
	return list_empty(&b->execs) && b->init && chan_is_idle(b->init);
}

/* Asks the spawner to end it. The first reason stays. */
void ask_end(struct box *b, const char *reason)
{
	struct chan *c = link_chan(b->local->link);

	if (b->state == BOX_GONE)
		return;
	if (!b->end_reason)
		b->end_reason = xstrdup(reason);
	b->state = BOX_ENDING;
	if (!c || chan_send(c, put_end(c, b->id, reason), NULL, 0, on_ended, b, NULL) < 0)
		defer_end(b);
	/* Else the end of its socket would wake us while init dies, to tell what ENDED tells. */
	if (is_at_rest(b))
		b->init = chan_free(b->init);
}

void local_destroy(struct engine_box *base, const char *reason, engine_done_fn *done, void *arg)
{
	struct box *b = (struct box *)base;

	if (done) {
		struct waiter *w = NEW(struct waiter);

		*w = (struct waiter){ .done = done, .arg = arg };
		list_push_back(&b->waiters, &w->node);
	}
	if (b->state != BOX_ENDING)
		ask_end(b, reason);
}

/* -- init ----------------------------------------------------------------------------------------------------------------- */

static void on_orphan(struct loop_timer *t UNUSED, void *arg)
{
	struct box *b = arg;

	if (b->state != BOX_ENDING)
		ask_end(b, b->main_over ? "exited" : "killed");
}

/* Init is dead, or about to be: the spawner, its parent, says how, and what ran is told that. */
static void on_init_lost(void *arg, const struct err *why UNUSED)
{
	struct box *b = arg;
	struct err err;

	if (b->state == BOX_GONE)
		return;
	b->init = chan_free(b->init);
	if (b->state == BOX_READY) {
		loop_timer_start(&b->orphan, ORPHAN_MS);
		return;
	}
	err_set(&err, -EIDRM, "the sandbox has ended");
	execs_fail(b, &err);
}

static void on_init_event(void *arg, const struct wire_in *in, int *fds, size_t n_fds)
{
	if (in->type == WIRE_DONE)
		execs_event(arg, in, fds, n_fds);
	else if (in->type == WIRE_MORE)
		stream_more(arg, in);
}

struct chan *box_chan(struct box *b, struct err *err)
{
	if (box_lives(b) && b->init)
		return b->init;
	err_set(err, -EIDRM, "the sandbox has ended%s%s", b->end_reason ? ": " : "", b->end_reason ? b->end_reason : "");
	return NULL;
}

/* -- creation ------------------------------------------------------------------------------------------------------------- */

/* It exists, but nobody will get it. */
static void give_up(struct box *b, const struct err *err)
{
	err_copy(&b->err, err);
	if (b->state != BOX_ENDING && b->state != BOX_GONE)
		ask_end(b, "host");
}

static void box_ready(struct box *b)
{
	engine_create_fn *created = b->created;

	b->state = BOX_READY;
	b->created = NULL;
	b->local->counts.created_total++;
	b->local->counts.create_us_total += time_now_us() - b->asked_us;
	created(b->arg, &b->base, NULL);
}

static void on_configured(void *arg, const struct wire_in *in UNUSED, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct box *b = arg;
	struct err e;

	if (b->state == BOX_GONE)
		return;
	if (!err) {
		box_ready(b);
		return;
	}
	err_copy(&e, err);
	err_wrap(&e, err->code, "prepare the sandbox");
	give_up(b, &e);
}

static const char *workdir_of(const struct image *img)
{
	return str_empty(img->workdir) ? "/" : img->workdir;
}

void box_named(struct box *b, const char *hostname)
{
	auto_free char *before = xasprintf("HOSTNAME=%s", b->hostname);

	for (size_t i = 0; b->env && b->env[i]; i++)
		if (str_eq(b->env[i], before)) { /* else it is the image's or the caller's own */
			free(b->env[i]);
			b->env[i] = xasprintf("HOSTNAME=%s", hostname);
		}
	snprintf(b->hostname, sizeof(b->hostname), "%s", hostname);
}

int box_configure(struct box *b, chan_answer_fn *done, struct err *err)
{
	struct wire_out *o = chan_begin(b->init, WIRE_CONFIG, true);

	plan_put_config(b->hostname, b->hosts_extra, workdir_of(b->image), o);
	return chan_send(b->init, o, NULL, 0, done, b, err);
}

int box_connect(struct box *b, int fd, struct err *err)
{
	static const struct chan_events events = { .event = on_init_event, .lost = on_init_lost, .over = "the sandbox has ended" };
	int r = chan_new(&b->init, b->local->loop, fd, INIT_TIMEOUT_MS, &events, b, err);

	b->state = BOX_CONFIGURING;
	if (r == 0)
		chan_foreign(b->init);
	return r;
}

/* Their user ids come back a moment after they have ended: then there is room, or when others end. */
static bool waits_again(struct box *b, const struct err *err)
{
	if (err->code != -EUSERS || b->state != BOX_MAKING)
		return false;
	b->state = BOX_WAITING;
	room_again(&b->local->room, &b->place, b->key, "all places for sandboxes are in use, or being cleaned");
	return true;
}

static void on_made(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct box *b = arg;
	const char *hostname;
	struct err e = ERR_INIT;
	int r;

	if (err) {
		if (err->code == -ECONNRESET)
			return; /* the lost link ends it */
		if (waits_again(b, err))
			return;
		err_copy(&b->err, err);
		err_wrap(&b->err, err->code, "make the sandbox");
		if (err->code == -EMFILE || err->code == -ETIMEDOUT)
			ask_end(b, "host"); /* whose it is not: ours, perhaps, and then it exists, or will */
		else
			box_end(b, "host");
		return;
	}
	free(STEAL(b->plan));
	/* The process descriptor, too, is there for whoever wants it; the spawner's GONE tells enough. */
	r = n_fds < 1 ? err_set(&e, -EPROTO, "the sandbox came without its socket") : 0;
	b->local->counts.warm_total += wire_get_u64(in, WIRE_T_WARM, 0) != 0;
	b->local->counts.begun_total += wire_get_u64(in, WIRE_T_BLANK, 0) != 0;
	b->local->counts.spares = (size_t)wire_get_u64(in, WIRE_T_SPARES, 0);
	b->local->counts.blanks = (size_t)wire_get_u64(in, WIRE_T_BLANKS, 0);
	if (r == 0)
		r = box_connect(b, fd_steal(&fds[0]), &e);
	hostname = wire_get_str(in, WIRE_T_HOSTNAME, 0);
	if (r == 0 && hostname) {
		box_named(b, hostname);
		box_ready(b);
		return;
	}
	if (r == 0) /* by a spawner of before: it leaves CONFIG to us */
		r = box_configure(b, on_configured, &e);
	if (r < 0)
		give_up(b, &e);
}

static int check_env(struct box *b, const struct engine_spec *spec, struct err *err)
{
	auto_free char *host = xasprintf("HOSTNAME=%s", b->hostname);
	const char *const own[] = { host, NULL };
	const char *const *const lists[] = {
		own, (const char *const *)spec->image->env, b->local->settings.env, spec->env,
	};

	b->env = env_merge(lists, ARRAY_LEN(lists), &b->env_bytes);
	if (b->env_bytes > LOCAL_ENV_MAX)
		return err_set(err, -EINVAL, "env: %zu bytes with the image's own, expected at most %u", b->env_bytes,
			       LOCAL_ENV_MAX);
	return 0;
}

static uint64_t left_out(uint64_t lease_ms)
{
	return MIN((uint64_t)LOCAL_RENEW_MS, lease_ms / 4);
}

/* A use so soon after the last RENEW, or after the sandbox was made, is not told: it counts all the same. */
static uint64_t with_left_out(uint64_t lease_ms)
{
	return lease_ms + left_out(lease_ms);
}

static int fill_plan(struct box *b, const struct engine_spec *spec, struct err *err)
{
	struct local *e = b->local;
	struct plan *p = NEW(struct plan);

	b->plan = p;
	b->bucket[0] = xstrdup(spec->bucket.id);
	b->bucket[1] = xstrdup(spec->bucket.dir);
	b->bucket[2] = xstrdup(spec->bucket.target);

	if (spec->image->n_layers > PLAN_LAYERS_MAX)
		return err_set(err, -EINVAL, "image %s has %zu layers, expected at most %d", spec->image->name,
			       spec->image->n_layers, PLAN_LAYERS_MAX);
	*p = (struct plan){
		.id = b->id, .kind = spec->instance ? PLAN_INSTANCE : PLAN_SANDBOX,
		.net = spec->block_network ? PLAN_NET_BLOCKED : PLAN_NET_OPEN, .n_layers = spec->image->n_layers,
		.n_mounts = e->n_mounts, .hostname = b->hostname, .cpu_milli = spec->size.cpu_milli,
		.memory_bytes = spec->size.memory_bytes, .pids_max = e->settings.pids_max,
		.lease_ms = with_left_out(spec->lease_ms), .hard_ms = spec->hard_ms, .no_new_privs = e->settings.no_new_privs,
		.disk_bytes = e->settings.disk_bytes, .disk_files = e->settings.disk_files,
		.memory_upper = e->settings.memory_upper && !spec->instance,
		.hosts = b->hosts_extra, .workdir = workdir_of(b->image),
		.bucket = {
			.id = b->bucket[0], .dir = b->bucket[1], .target = b->bucket[2], .user = b->image->user,
			.flags = spec->bucket.read_only ? PLAN_MOUNT_RO : 0,
		},
		.beside = *b->beside ? b->beside : NULL,
	};
	for (size_t i = 0; i < p->n_layers; i++)
		p->layers[i] = b->image->layers[i];
	memcpy(p->mounts, e->mounts, e->n_mounts * sizeof(*e->mounts));
	return plan_check(p, err);
}

struct box *box_new(struct local *e, const char *id, struct image *img)
{
	struct box *b = NEW(struct box);

	b->base = (struct engine_box){ .engine = &e->base, .id = b->id };
	b->local = e;
	snprintf(b->id, sizeof(b->id), "%s", id);
	b->image = image_ref(img);
	b->renewed_ms = loop_now_ms(e->loop);
	list_init(&b->execs);
	list_init(&b->execs_over);
	list_init(&b->waiters);
	loop_timer_init(&b->orphan, e->loop, on_orphan, b);
	return b;
}

static struct box *box_of_spec(struct local *e, const struct engine_spec *spec)
{
	const struct box *owner = (const struct box *)spec->beside;
	struct box *b = box_new(e, spec->id, spec->image);

	plan_hostname(b->hostname, spec->instance ? PLAN_INSTANCE : PLAN_SANDBOX, spec->id);
	if (owner)
		memcpy(b->hostname, owner->hostname, sizeof(b->hostname));
	b->hosts_extra = xstrdup(owner ? owner->hosts_extra : spec->hosts_extra);
	snprintf(b->beside, sizeof(b->beside), "%s", owner ? owner->id : "");
	b->instance = b->place.instance = spec->instance;
	if (!owner)
		b->place.size = (struct admit_sum){
			1, spec->size.cpu_milli + spec->beside_size.cpu_milli,
			spec->size.memory_bytes + spec->beside_size.memory_bytes,
		};
	b->key = xstrdup(spec->key ? spec->key : "");
	b->progress = spec->progress;
	b->lease_ms = spec->lease_ms;
	b->hard_ms = spec->hard_ms;
	b->note = spec->note ? xmemdup(spec->note, spec->note_len) : NULL;
	b->note_len = spec->note ? spec->note_len : 0;
	return b;
}

static int prepare(struct box *b, const struct engine_spec *spec, struct err *err)
{
	int r;

	if (map_get(b->local->boxes, b->id))
		return err_set(err, -EEXIST, "a sandbox %s exists already", b->id);
	r = check_env(b, spec, err);
	r = r < 0 ? r : fill_plan(b, spec, err);
	return r < 0 ? r : note_check(b, err);
}

static int send_make(struct box *b, struct err *err)
{
	struct chan *c = link_chan(b->local->link);
	struct wire_out *o;
	bool noted;
	int r;

	b->state = BOX_MAKING;
	if (!c)
		return err_set(err, -EAGAIN, "the spawner is away (outcome infra)");
	b->asked_us = time_now_us();
	o = chan_begin(c, WIRE_MAKE, true);
	plan_encode(b->plan, o);
	noted = note_put(b, o);
	r = chan_send(c, o, NULL, 0, on_made, b, err);
	if (r < 0)
		return r;
	if (!noted)
		note_send(b);
	return 0;
}

/* There is room for it. One that is not sent is unknown from then on: its end comes by itself. */
static void make(struct box *b)
{
	if (send_make(b, &b->err) == 0)
		return;
	map_del(b->local->boxes, b->id);
	defer_end(b);
}

void local_create(struct engine *base, const struct engine_spec *spec, engine_create_fn *done, engine_end_fn *on_end, void *arg)
{
	struct local *e = (struct local *)base;
	struct box *b = box_of_spec(e, spec);

	b->created = done;
	b->on_end = on_end;
	b->arg = arg;
	if (prepare(b, spec, &b->err) < 0) {
		defer_end(b);
		return;
	}
	map_put(e->boxes, b->id, b);
	if (*b->beside) /* its owner's place is for both */
		room_take(&e->room, &b->place);
	if (*b->beside || room_enter(&e->room, &b->place, b->key))
		make(b);
}

/* -- waiting for room --------------------------------------------------------------------------------------------------------- */

static struct box *box_of_place(struct room_item *it)
{
	return container_of(it, struct box, place);
}

void box_admitted(void *local UNUSED, struct room_item *it)
{
	make(box_of_place(it));
}

void box_told(void *local UNUSED, struct room_item *it, const char *line)
{
	const struct box *b = box_of_place(it);

	if (b->progress)
		b->progress(b->arg, line);
}

bool local_uncreate(struct engine *base, const char *id)
{
	struct local *e = (struct local *)base;
	struct box *b = map_get(e->boxes, id);

	if (!b || b->state != BOX_WAITING)
		return false;
	box_close(b);
	box_free(b);
	return true;
}

size_t local_waiting(struct engine *base)
{
	return room_waiting(&((struct local *)base)->room, false);
}

/* -- leases and left-overs ---------------------------------------------------------------------------------------------------- */

void local_renew(struct engine_box *base)
{
	struct box *b = (struct box *)base;
	struct chan *c = link_chan(b->local->link);
	uint64_t now = loop_now_ms(b->local->loop);
	struct wire_out *o;

	if (!b->lease_ms || !box_lives(b) || !c || now - b->renewed_ms < left_out(b->lease_ms))
		return;
	o = chan_begin(c, WIRE_RENEW, false);
	wire_put_str(o, WIRE_T_ID, b->id);
	wire_put_u64(o, WIRE_T_LEASE_MS, with_left_out(b->lease_ms));
	if (chan_send(c, o, NULL, 0, NULL, NULL, NULL) == 0)
		b->renewed_ms = now;
}

void box_end_by_id(struct local *e, const char *id)
{
	struct chan *c = link_chan(e->link);
	struct wire_out *o;

	if (!c)
		return;
	o = put_end(c, id, "host");
	/* What can't be asked for now ends with its lease. */
	chan_tell(c, o);
}

static void on_item(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct local *e = arg;
	const char *id = err || in->type != WIRE_ITEM ? NULL : wire_get_str(in, WIRE_T_ID, 0);

	if (id && !map_get(e->boxes, id))
		box_end_by_id(e, id);
}

void local_reconcile(struct local *e)
{
	struct chan *c = link_chan(e->link);

	if (c)
		(void)!chan_send(c, chan_begin(c, WIRE_LIST, true), NULL, 0, on_item, e, NULL);
}
