/* The queues of those who wait for room: turns, order, places, those who leave. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "sandbox/room.h"

#define N 1200

static struct loop *loop;
static struct room room;
static struct item {
	struct room_item it;
	int order;      /* when it came in; 0 = not yet */
	char line[192]; /* the last that it was told */
} items[N];
static int n_in, n_full;

static void on_admitted(void *arg UNUSED, struct room_item *it)
{
	container_of(it, struct item, it)->order = ++n_in;
}

static void on_tell(void *arg UNUSED, struct room_item *it, const char *line)
{
	snprintf(container_of(it, struct item, it)->line, sizeof(items[0].line), "%s", line);
}

static void on_full(void *arg UNUSED)
{
	n_full++;
}

static void halt(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 0);
}

/* Enough for what is due at once. */
static void turn(void)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, halt, NULL);
	loop_timer_start(&t, 2);
	cr_assert_eq(loop_run(loop), 0);
	loop_timer_stop(&t);
}

static void begin_with(const struct admit_limits *limits)
{
	const struct room_user user = { .admitted = on_admitted, .tell = on_tell, .full = on_full };

	cr_assert_eq(loop_new(&loop, NULL), 0);
	memset(items, 0, sizeof(items));
	n_in = n_full = 0;
	room_init(&room, loop, limits, "/", &user);
}

static void begin(uint64_t boxes)
{
	begin_with(&(struct admit_limits){ .sums.boxes = boxes, .instance_percent = 50 });
}

static void end(void)
{
	room_done(&room);
	loop = loop_free(loop);
}

static bool enter(int n, const char *key, bool instance)
{
	items[n].it = (struct room_item){ .size = { 1, 1000, 1 << 20 }, .instance = instance };
	items[n].order = 0;
	if (!room_enter(&room, &items[n].it, key))
		return false;
	items[n].order = ++n_in;
	return true;
}

static void leave(int n)
{
	room_leave(&room, &items[n].it);
}

Test(room, those_who_fit_go_in_at_once_and_the_others_in_order)
{
	begin(2);
	cr_assert(enter(0, "a", false));
	cr_assert(enter(1, "a", false));
	for (int n = 2; n < 6; n++)
		cr_assert_not(enter(n, "a", false));
	turn();
	cr_assert_eq(room_waiting(&room, false), 4);
	cr_assert_str_eq(items[3].line, "waiting for room: 2 of 4 (all 2 places are in use)");
	leave(1);
	cr_assert_eq(items[2].order, 0, "admitted inside the call");
	turn();
	cr_assert_eq(items[2].order, 3);
	leave(0);
	leave(2);
	turn();
	cr_assert(items[3].order == 4 && items[4].order == 5 && !items[5].order);
	end();
}

Test(room, keys_take_turns)
{
	int big_before = 0;

	begin(100);
	for (int n = 0; n < 900; n++)
		enter(n, "big", false);
	for (int n = 900; n < 1000; n++)
		cr_assert_not(enter(n, "small", false));
	/* Everybody who is in leaves, in the order in which they came. */
	for (int gone = 1; gone <= 900; gone++) {
		for (int n = 0; n < 1000; n++)
			if (items[n].order == gone)
				leave(n);
		if (gone % 50 == 0)
			turn();
	}
	turn();
	cr_assert_eq(n_in, 1000, "%d came in", n_in);
	for (int n = 900; n < 1000; n++)
		cr_assert(items[n].order && items[n].order <= 301, "item %d came in as %d", n, items[n].order);
	for (int n = 0; n < 900; n++)
		big_before += items[n].order <= 300;
	cr_assert_eq(big_before, 200, "the first hundred, and then every other one");
	end();
}

Test(room, who_finds_no_place_waits_as_the_first_and_shuts_the_door)
{
	begin(10);
	cr_assert(enter(0, "a", false));
	cr_assert(enter(1, "a", false));
	room_again(&room, &items[1].it, "a", "no ids");
	items[1].order = 0;
	cr_assert_not(items[1].it.in);
	cr_assert_not(enter(2, "b", false));
	turn();
	cr_assert_str_eq(items[1].line, "waiting for room: 1 of 2 (no ids)");
	cr_assert_str_eq(items[2].line, "waiting for room: 2 of 2 (no ids)");
	cr_assert_eq(room.used[0].boxes, 1);
	for (int i = 0; i < 500 && !items[2].order; i++)
		turn();
	cr_assert(items[1].order && items[1].order < items[2].order);
	cr_assert_eq(room.used[0].boxes, 3);
	end();
}

Test(room, who_leaves_the_queue_is_not_served_and_holds_nobody_up)
{
	begin(1);
	enter(0, "a", false);
	for (int n = 1; n < 200; n++)
		enter(n, n % 3 ? "a" : "b", n % 7 == 0);
	turn();
	for (int n = 1; n < 200; n++)
		if (n % 2)
			leave(n);
	leave(1); /* again: harmless */
	for (int k = 0; k < 200; k++) {
		for (int n = 0; n < 200; n++)
			if (items[n].order && items[n].it.in)
				leave(n);
		turn();
	}
	for (int n = 1; n < 200; n++)
		cr_assert_eq(items[n].order != 0, n % 2 == 0, "item %d", n);
	cr_assert_eq(room.used[0].boxes + room.used[1].boxes, 0);
	end();
}

Test(room, instances_and_sandboxes_take_turns)
{
	begin(8);
	for (int n = 0; n < 8; n++)
		cr_assert(enter(n, "a", false));
	for (int n = 100; n < 200; n++)
		enter(n, "a", false);
	enter(200, "env", true);
	enter(201, "env", true);
	turn();
	for (int n = 0; n < 4; n++)
		leave(n);
	turn();
	cr_assert(items[200].order && items[200].order <= 10, "an instance starves: %d", items[200].order);
	cr_assert(items[201].order && items[201].order <= 12);
	cr_assert(items[100].order && items[101].order && !items[102].order);
	end();
}

/* Instances at their share wait for one of them; sandboxes, on which their sessions wait, go on. */
Test(room, instances_at_their_share_hold_up_no_sandbox)
{
	begin(4);
	cr_assert(enter(0, "e", true));
	cr_assert(enter(1, "e", true));
	cr_assert_not(enter(2, "e", true));
	turn();
	cr_assert_not_null(strstr(items[2].line, "instances have their 50 %"));
	cr_assert_not(enter(3, "a", false), "it is told in the next turn");
	enter(4, "a", false);
	enter(5, "a", false);
	turn();
	cr_assert(items[3].order && items[4].order && !items[5].order && !items[2].order);
	leave(0);
	turn();
	cr_assert(items[2].order);
	end();
}

/* A small one does not keep a large one out, whichever of the two kinds it is. */
Test(room, a_large_one_is_not_overtaken_for_ever)
{
	begin_with(&(struct admit_limits){ .sums = { 0, 4000, 0 } });
	for (int n = 0; n < 4; n++)
		cr_assert(enter(n, "a", false));
	items[10].it = (struct room_item){ .size = { 1, 4000, 1 }, .instance = true };
	cr_assert_not(room_enter(&room, &items[10].it, "env"));
	for (int n = 20; n < 40; n++)
		enter(n, "b", false);
	turn();
	for (int n = 0; n < 3; n++)
		leave(n);
	turn();
	/* The sandboxes' turn may come first, once. */
	int passed = items[20].order != 0;
	cr_assert_not(items[21].order);
	leave(3);
	if (passed)
		leave(20);
	turn();
	cr_assert(items[10].order);
	end();
}

Test(room, a_machine_without_anything_to_spare_tells_why_and_goes_on_when_there_is)
{
	begin_with(&(struct admit_limits){ .disk_free_bytes = UINT64_MAX });
	cr_assert_not(enter(0, "a", false));
	turn();
	cr_assert_not_null(strstr(items[0].line, "waiting for room: 1 of 1 (the disk has "));
	cr_assert_geq(n_full, 1);
	room.limits.disk_free_bytes = 0;
	for (int k = 0; k < 500 && !items[0].order; k++)
		turn();
	cr_assert(items[0].order, "nobody looked again");
	end();
}

Test(room, what_boxes_can_write_is_waited_for)
{
	begin_with(&(struct admit_limits){ .disk_free_bytes = 1 << 20 });
	cr_assert(enter(0, "a", false), "nobody said anything of it");
	room_space(&room, 0);
	cr_assert_not(enter(1, "a", false));
	turn();
	cr_assert_not_null(strstr(items[1].line, "(0 MiB are left for what sandboxes write, expected 1)"));
	room_space(&room, 1 << 20);
	for (int k = 0; k < 500 && !items[1].order; k++)
		turn();
	cr_assert(items[1].order, "nobody looked again");
	end();
}

/* Whatever happens in whatever order: never more than fit, nobody lost, order within a key. */
Test(room, random_traces, .timeout = 60)
{
	static const char *const keys[] = { "a", "b", "c", "d" };
	unsigned seed = 7;

	for (int round = 0; round < 20; round++) {
		begin((uint64_t)(1 + rand_r(&seed) % 9));
		for (int step = 0; step < 400; step++) {
			int n = step;

			enter(n, keys[rand_r(&seed) % 4], rand_r(&seed) % 5 == 0);
			if (rand_r(&seed) % 3 == 0)
				leave(rand_r(&seed) % (step + 1));
			if (rand_r(&seed) % 4 == 0)
				turn();
			cr_assert_leq(room.used[0].boxes + room.used[1].boxes, room.limits.sums.boxes);
		}
		while (room_waiting(&room, false) + room_waiting(&room, true)) {
			int before = n_in;

			for (int n = 0; n < 400; n++)
				if (items[n].it.in)
					leave(n);
			turn();
			cr_assert_gt(n_in, before, "nothing moves");
		}
		for (int n = 0; n < 400; n++)
			leave(n);
		cr_assert_eq(room.used[0].boxes + room.used[1].boxes + room.used[0].cpu_milli + room.used[1].cpu_milli, 0);
		end();
	}
}
