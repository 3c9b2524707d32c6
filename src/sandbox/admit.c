/* sandbox/admit.c: see admit.h. */
#include "sandbox/admit.h"

#include <stdio.h>

#include "base/machine.h"
#include "base/macros.h"

#define MIB (1ull << 20)
#define PERCENT 100 /* and hundredths of a percent in one */

typedef unsigned long long ull;

#define WAIT(verdict_, ...)                                            \
	({                                                             \
		struct admit_output o_ = { .verdict = (verdict_) };    \
		snprintf(o_.why, sizeof(o_.why), __VA_ARGS__);         \
		o_;                                                    \
	})

static const struct admit_output now = { .verdict = ADMIT_NOW };

/* What even an empty machine needs. */
static struct admit_output check_free(const struct admit_input *in)
{
	const struct admit_limits *l = &in->limits;
	const struct admit_machine *m = &in->machine;

	if (m->memory_free_bytes < l->memory_free_bytes)
		return WAIT(ADMIT_WAIT, "the machine has %llu MiB of memory left, expected %llu", (ull)(m->memory_free_bytes / MIB),
			    (ull)(l->memory_free_bytes / MIB));
	if (m->disk_free_bytes < l->disk_free_bytes)
		return WAIT(ADMIT_WAIT, "the disk has %llu MiB left, expected %llu", (ull)(m->disk_free_bytes / MIB),
			    (ull)(l->disk_free_bytes / MIB));
	if (m->space_free_bytes < l->disk_free_bytes)
		return WAIT(ADMIT_WAIT, "%llu MiB are left for what sandboxes write, expected %llu",
			    (ull)(m->space_free_bytes / MIB),
			    (ull)(l->disk_free_bytes / MIB));
	return now;
}

static struct admit_output check_pressure(const struct admit_input *in)
{
	const struct admit_limits *l = &in->limits;
	const struct admit_machine *m = &in->machine;
	const struct {
		const char *what;
		uint64_t is, limit;
	} all[] = {
		{ "memory", m->memory_pressure, l->memory_pressure },
		{ "its disk", m->io_pressure, l->io_pressure },
		{ "CPU", m->cpu_pressure, l->cpu_pressure },
	};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i].limit && all[i].is != MACHINE_UNKNOWN && all[i].is >= all[i].limit * PERCENT)
			return WAIT(ADMIT_WAIT, "the machine waits for %s %llu %% of the time", all[i].what,
				    (ull)(all[i].is / PERCENT));
	return now;
}

static bool fits(uint64_t used, uint64_t wanted, uint64_t limit)
{
	uint64_t sum;

	return !limit || (!__builtin_add_overflow(used, wanted, &sum) && sum <= limit);
}

static struct admit_output check_sums(const struct admit_input *in)
{
	const struct admit_sum *a = &in->sandboxes, *b = &in->instances, *w = &in->wanted, *l = &in->limits.sums;

	if (!fits(a->boxes + b->boxes, w->boxes, l->boxes))
		return WAIT(ADMIT_WAIT, "all %llu places are in use", (ull)l->boxes);
	if (!fits(a->cpu_milli + b->cpu_milli, w->cpu_milli, l->cpu_milli))
		return WAIT(ADMIT_WAIT, "all CPUs are in use");
	if (!fits(a->memory_bytes + b->memory_bytes, w->memory_bytes, l->memory_bytes))
		return WAIT(ADMIT_WAIT, "all memory is in use");
	return now;
}

/* Rounded up: of one box there is a share too. */
static uint64_t share(uint64_t limit, uint64_t percent)
{
	return limit / PERCENT * percent + (limit % PERCENT * percent + PERCENT - 1) / PERCENT;
}

static struct admit_output check_share(const struct admit_input *in)
{
	const struct admit_sum *b = &in->instances, *w = &in->wanted, *l = &in->limits.sums;
	uint64_t p = in->limits.instance_percent;

	if (!in->instance || !p || !b->boxes)
		return now;
	if (fits(b->boxes, w->boxes, share(l->boxes, p)) && fits(b->cpu_milli, w->cpu_milli, share(l->cpu_milli, p)) &&
	    fits(b->memory_bytes, w->memory_bytes, share(l->memory_bytes, p)))
		return now;
	return WAIT(ADMIT_WAIT_SHARE, "instances have their %llu %% of the machine", (ull)p);
}

struct admit_output admit_decide(const struct admit_input *in)
{
	static struct admit_output (*const checks[])(const struct admit_input *in) = { check_share, check_pressure, check_sums };
	struct admit_output out = check_free(in);

	if (out.verdict != ADMIT_NOW || in->sandboxes.boxes + in->instances.boxes == 0)
		return out;
	for (size_t i = 0; i < ARRAY_LEN(checks) && out.verdict == ADMIT_NOW; i++)
		out = checks[i](in);
	return out;
}
