/* sandbox/room.c: see room.h. */
#include "sandbox/room.h"

#include <stdio.h>

#include "base/machine.h"

static struct room_item *item_of(struct fair_item *f)
{
	return f ? container_of(f, struct room_item, fair) : NULL;
}

/* -- what there is ------------------------------------------------------------------------------------------------------- */

static uint64_t pressure(const char *resource, uint64_t limit)
{
	return limit ? machine_pressure(resource) : MACHINE_UNKNOWN;
}

static void look_at_machine(struct room *r)
{
	uint64_t now = loop_now_ms(r->loop);
	const struct admit_limits *l = &r->limits;

	if (r->seen_ms && now - r->seen_ms < ROOM_LOOK_MS)
		return;
	r->seen_ms = now;
	r->machine = (struct admit_machine){
		.cpu_pressure = pressure("cpu", l->cpu_pressure), .memory_pressure = pressure("memory", l->memory_pressure),
		.io_pressure = pressure("io", l->io_pressure),
		.memory_free_bytes = l->memory_free_bytes ? machine_memory_free() : MACHINE_UNKNOWN,
		.disk_free_bytes = l->disk_free_bytes ? machine_disk_free(r->disk_path) : MACHINE_UNKNOWN,
	};
}

static struct admit_output decide(struct room *r, const struct room_item *it)
{
	struct admit_input in = {
		.limits = r->limits, .machine = r->machine, .sandboxes = r->used[0], .instances = r->used[1], .wanted = it->size,
		.instance = it->instance,
	};

	if (loop_now_ms(r->loop) < r->shut_ms)
		return r->shut;
	in.machine.space_free_bytes = r->space_free_bytes;
	return admit_decide(&in);
}

static void add(struct admit_sum *sum, const struct admit_sum *more)
{
	sum->boxes += more->boxes;
	sum->cpu_milli += more->cpu_milli;
	sum->memory_bytes += more->memory_bytes;
}

static void subtract(struct admit_sum *sum, const struct admit_sum *less)
{
	sum->boxes -= less->boxes;
	sum->cpu_milli -= less->cpu_milli;
	sum->memory_bytes -= less->memory_bytes;
}

void room_take(struct room *r, struct room_item *it)
{
	it->in = true;
	add(&r->used[it->instance], &it->size);
}

/* -- those who wait ------------------------------------------------------------------------------------------------------- */

static bool anybody(const struct room *r)
{
	return r->waiting[0].len || r->waiting[1].len;
}

static void tell(struct room *r, struct room_item *it, size_t place)
{
	const char *why = r->why[it->instance].why;
	char line[192];

	it->told = place;
	snprintf(line, sizeof(line), "waiting for room: %zu of %zu%s%s%s", place, r->waiting[it->instance].len, *why ? " (" : "",
		 why,
		 *why ? ")" : "");
	r->user.tell(r->user.arg, it, line);
}

static void tell_new(struct fair_item *f, size_t place, void *room)
{
	struct room_item *it = item_of(f);

	if (!it->told)
		tell(room, it, place + 1);
}

static void tell_changed(struct fair_item *f, size_t place, void *room)
{
	struct room_item *it = item_of(f);

	if (it->told != place + 1)
		tell(room, it, place + 1);
}

static void tell_all(struct room *r)
{
	uint64_t now = loop_now_ms(r->loop);
	bool again = now - r->told_ms >= ROOM_TELL_MS;

	for (int k = 0; k < 2; k++)
		fair_in_order(&r->waiting[k], again ? tell_changed : tell_new, r);
	if (!again)
		return;
	r->told_ms = now;
	r->user.full(r->user.arg);
}

/* The first of a queue goes in, if it fits. An empty queue holds nobody up. */
static enum admit_verdict serve_first(struct room *r, int kind)
{
	struct room_item *it = item_of(fair_first(&r->waiting[kind]));

	if (!it)
		return ADMIT_WAIT_SHARE;
	r->why[kind] = decide(r, it);
	if (r->why[kind].verdict != ADMIT_NOW)
		return r->why[kind].verdict;
	fair_pop(&r->waiting[kind]);
	room_take(r, it);
	r->instances_turn = !kind;
	r->user.admitted(r->user.arg, it);
	return ADMIT_NOW;
}

/* False: nobody else fits. */
static bool serve_one(struct room *r)
{
	enum admit_verdict v;

	if (!r->instances_turn && serve_first(r, 0) == ADMIT_NOW)
		return true;
	v = serve_first(r, 1);
	if (v == ADMIT_WAIT_SHARE)
		v = serve_first(r, 0);
	return v == ADMIT_NOW;
}

static void on_look(struct loop_timer *t, void *arg)
{
	struct room *r = arg;

	look_at_machine(r);
	while (anybody(r) && serve_one(r))
		;
	if (!anybody(r))
		return;
	if (!loop_timer_armed(t))
		loop_timer_start(t, ROOM_LOOK_MS);
	tell_all(r);
}

bool room_enter(struct room *r, struct room_item *it, const char *key)
{
	look_at_machine(r);
	if (!anybody(r) && decide(r, it).verdict == ADMIT_NOW) {
		room_take(r, it);
		return true;
	}
	fair_push(&r->waiting[it->instance], &it->fair, key);
	r->waited_total++;
	it->told = 0;
	loop_timer_start(&r->look, 0);
	return false;
}

void room_again(struct room *r, struct room_item *it, const char *key, const char *why)
{
	it->in = false;
	subtract(&r->used[it->instance], &it->size);
	fair_push_first(&r->waiting[it->instance], &it->fair, key);
	it->told = 0;
	r->shut_ms = loop_now_ms(r->loop) + ROOM_SHUT_MS;
	r->shut.verdict = ADMIT_WAIT;
	snprintf(r->shut.why, sizeof(r->shut.why), "%s", why);
	loop_timer_start(&r->look, 0);
}

void room_leave(struct room *r, struct room_item *it)
{
	if (room_waits(it)) {
		fair_remove(&r->waiting[it->instance], &it->fair);
	} else if (it->in) {
		it->in = false;
		subtract(&r->used[it->instance], &it->size);
	} else {
		return;
	}
	if (anybody(r))
		loop_timer_start(&r->look, 0);
}

const char *room_why(const struct room *r)
{
	return r->why[r->waiting[0].len ? 0 : 1].why;
}

size_t room_waiting(const struct room *r, bool instances)
{
	return r->waiting[instances].len;
}

/* -- life ------------------------------------------------------------------------------------------------------------------ */

void room_init(struct room *r, struct loop *l, const struct admit_limits *limits, const char *disk_path,
	       const struct room_user *user)
{
	*r = (struct room){ .loop = l, .user = *user, .limits = *limits, .disk_path = disk_path,
		.space_free_bytes = MACHINE_UNKNOWN };
	fair_init(&r->waiting[0]);
	fair_init(&r->waiting[1]);
	loop_timer_init(&r->look, l, on_look, r);
}

void room_space(struct room *r, uint64_t free_bytes)
{
	r->space_free_bytes = free_bytes;
}

void room_done(struct room *r)
{
	loop_timer_stop(&r->look);
}
