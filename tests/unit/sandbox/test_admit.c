/* Admission: single rules, and what holds for whatever comes in. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/machine.h"
#include "base/macros.h"
#include "sandbox/admit.h"

#define GIB (1ull << 30)

/* 4 CPUs and 16 GiB, overcommitted by 2 each; ten places. Nothing is there, everything is free. */
static struct admit_input plain(void)
{
	return (struct admit_input){
		.limits = {
			.sums = { 10, 8000, 32 * GIB }, .instance_percent = 50, .cpu_pressure = 90, .memory_pressure = 20,
			.io_pressure = 80, .memory_free_bytes = GIB, .disk_free_bytes = GIB,
		},
		.machine = { 0, 0, 0, 8 * GIB, 100 * GIB, 100 * GIB },
		.wanted = { 1, 1000, GIB },
	};
}

static enum admit_verdict verdict(const struct admit_input *in, const char *word)
{
	struct admit_output out = admit_decide(in);

	if (word)
		cr_assert_not_null(strstr(out.why, word), "\"%s\" says nothing of \"%s\"", out.why, word);
	return out.verdict;
}

Test(admit, each_limit_in_turn)
{
	struct admit_input in = plain();

	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
	in.sandboxes = (struct admit_sum){ 10, 0, 0 };
	cr_assert_eq(verdict(&in, "all 10 places"), ADMIT_WAIT);
	in.sandboxes = (struct admit_sum){ 1, 7000, GIB };
	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
	in.sandboxes.cpu_milli++;
	cr_assert_eq(verdict(&in, "CPU"), ADMIT_WAIT);
	in.sandboxes = (struct admit_sum){ 1, 1000, 31 * GIB + 1 };
	cr_assert_eq(verdict(&in, "memory"), ADMIT_WAIT);
}

Test(admit, real_pressure_whatever_the_sums_say)
{
	struct {
		size_t at;
		uint64_t value;
		const char *word;
	} cases[] = {
		{ offsetof(struct admit_machine, memory_pressure), 2000, "memory 20 %" },
		{ offsetof(struct admit_machine, io_pressure), 8050, "disk 80 %" },
		{ offsetof(struct admit_machine, cpu_pressure), 9999, "CPU 99 %" },
		{ offsetof(struct admit_machine, memory_free_bytes), GIB - 1, "1023 MiB of memory" },
		{ offsetof(struct admit_machine, disk_free_bytes), 0, "disk has 0 MiB" },
		{ offsetof(struct admit_machine, space_free_bytes), 5 << 20, "5 MiB are left for what sandboxes write" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct admit_input in = plain();
		uint64_t *field = (uint64_t *)(void *)((char *)&in.machine + cases[i].at);

		in.sandboxes = (struct admit_sum){ 1, 1000, GIB };
		*field = cases[i].value;
		cr_assert_eq(verdict(&in, cases[i].word), ADMIT_WAIT);
		*field = MACHINE_UNKNOWN;
		cr_assert_eq(verdict(&in, NULL), ADMIT_NOW, "%s", cases[i].word);
	}
}

Test(admit, instances_have_a_share_and_sandboxes_the_rest)
{
	struct admit_input in = plain();

	in.instance = true;
	in.instances = (struct admit_sum){ 4, 4000, 4 * GIB };
	cr_assert_eq(verdict(&in, "50 %"), ADMIT_WAIT_SHARE);
	in.instances.cpu_milli = 3000;
	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
	in.instances.boxes = 5;
	cr_assert_eq(verdict(&in, "50 %"), ADMIT_WAIT_SHARE);
	in.instance = false;
	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
	/* The first one always may, beyond its share too. */
	in = plain();
	in.instance = true;
	in.wanted.cpu_milli = 6000;
	in.sandboxes = (struct admit_sum){ 1, 1000, GIB };
	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
}

Test(admit, without_limits_everything_goes)
{
	struct admit_input in = { .sandboxes = { 100000, UINT64_MAX - 1, UINT64_MAX - 1 }, .wanted = { 1, 5000, GIB },
				  .machine = { 9999, 9999, 9999, 0, 0 } };

	cr_assert_eq(verdict(&in, NULL), ADMIT_NOW);
	in.limits.sums.cpu_milli = 1; /* and a sum that overflows is beyond any limit */
	cr_assert_eq(verdict(&in, "CPU"), ADMIT_WAIT);
}

/* -- generated ------------------------------------------------------------------------------------------------------------ */

static unsigned seed = 1;

static uint64_t up_to(uint64_t max)
{
	return (((uint64_t)rand_r(&seed) << 31) ^ (uint64_t)rand_r(&seed)) % (max + 1);
}

static uint64_t maybe(uint64_t rare, uint64_t v)
{
	return up_to(5) ? v : rare;
}

static struct admit_sum some_sum(void)
{
	uint64_t n = up_to(12);

	return (struct admit_sum){ n, n * up_to(2000), n * up_to(4 * GIB) };
}

static struct admit_input generated(void)
{
	return (struct admit_input){
		.limits = {
			.sums = { maybe(0, up_to(20)), maybe(0, up_to(20000)), maybe(0, up_to(64 * GIB)) },
			.instance_percent = maybe(0, up_to(100)), .cpu_pressure = maybe(0, up_to(100)),
			.memory_pressure = maybe(0, up_to(100)), .io_pressure = maybe(0, up_to(100)),
			.memory_free_bytes = up_to(GIB), .disk_free_bytes = up_to(GIB),
		},
		.machine = { maybe(MACHINE_UNKNOWN, up_to(10000)), maybe(MACHINE_UNKNOWN, up_to(10000)),
			     maybe(MACHINE_UNKNOWN, up_to(10000)), maybe(MACHINE_UNKNOWN, up_to(2 * GIB)),
			     maybe(MACHINE_UNKNOWN, up_to(2 * GIB)), maybe(MACHINE_UNKNOWN, up_to(2 * GIB)) },
		.sandboxes = some_sum(), .instances = some_sum(), .wanted = { 1, up_to(20000), up_to(16 * GIB) },
		.instance = up_to(1),
	};
}

static void less(uint64_t *v)
{
	if (*v != MACHINE_UNKNOWN)
		*v -= up_to(*v);
}

static void more(uint64_t *v)
{
	if (*v != MACHINE_UNKNOWN)
		*v += up_to(GIB);
}

/* The same with less in use or less pressure, in one place. */
static struct admit_input eased(struct admit_input in)
{
	switch (up_to(10)) {
	case 0: less(&in.sandboxes.boxes); break;
	case 1: less(&in.sandboxes.cpu_milli); break;
	case 2: less(&in.sandboxes.memory_bytes); break;
	case 3: less(&in.instances.cpu_milli); break;
	case 4: less(&in.instances.memory_bytes); break;
	case 5: less(&in.wanted.cpu_milli); break;
	case 6: less(&in.machine.memory_pressure); break;
	case 7: less(&in.machine.io_pressure); break;
	case 8: more(&in.machine.memory_free_bytes); break;
	case 9: more(&in.machine.disk_free_bytes); break;
	default: more(&in.machine.space_free_bytes);
	}
	return in;
}

static bool within(const struct admit_input *in)
{
	const struct admit_sum *l = &in->limits.sums, *a = &in->sandboxes, *b = &in->instances, *w = &in->wanted;

	return (!l->boxes || a->boxes + b->boxes + 1 <= l->boxes) &&
	       (!l->cpu_milli || a->cpu_milli + b->cpu_milli + w->cpu_milli <= l->cpu_milli) &&
	       (!l->memory_bytes || a->memory_bytes + b->memory_bytes + w->memory_bytes <= l->memory_bytes);
}

Test(admit, what_holds_whatever_comes_in)
{
	for (int n = 0; n < 200000; n++) {
		struct admit_input in = generated(), less_in = eased(in), again = in;
		struct admit_output out = admit_decide(&in), eased_out = admit_decide(&less_in), same = admit_decide(&again);
		bool empty = !in.sandboxes.boxes && !in.instances.boxes;
		bool room = in.machine.memory_free_bytes >= in.limits.memory_free_bytes &&
			    MIN(in.machine.disk_free_bytes, in.machine.space_free_bytes) >= in.limits.disk_free_bytes;

		cr_assert_eq(out.verdict, same.verdict);
		cr_assert_eq(out.verdict == ADMIT_NOW, out.why[0] == '\0', "%d: \"%s\"", n, out.why);
		cr_assert(out.verdict != ADMIT_NOW || eased_out.verdict == ADMIT_NOW, "%d: less use, and now: %s", n, eased_out.why);
		cr_assert(out.verdict != ADMIT_NOW || empty || within(&in), "%d: beyond the sums", n);
		cr_assert(out.verdict != ADMIT_NOW || room, "%d: nothing is free", n);
		cr_assert(out.verdict == ADMIT_NOW || !empty || !room, "%d: an empty machine refuses: %s", n, out.why);
		cr_assert(out.verdict != ADMIT_WAIT_SHARE || in.instance, "%d: a sandbox waits for the share of instances", n);
	}
}

Test(machine, pressure_is_read)
{
	cr_assert_eq(machine_pressure_of("some avg10=12.34 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00"), 1234);
	cr_assert_eq(machine_pressure_of("some avg10=0.05 avg60=1.00"), 5);
	cr_assert_eq(machine_pressure_of("some avg10=100.00 avg60"), 10000);
	cr_assert_eq(machine_pressure_of(""), MACHINE_UNKNOWN);
	cr_assert_eq(machine_pressure("no such thing"), MACHINE_UNKNOWN);
	cr_assert_gt(machine_memory_free(), 0);
	cr_assert_gt(machine_disk_free("/"), 0);
	cr_assert_eq(machine_disk_free("/no/such/path"), MACHINE_UNKNOWN);
}
