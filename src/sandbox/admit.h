/* sandbox/admit.h: whether one more box may be made now. Pure: the same input gives the same answer, nothing is kept, any
 * thread. sandbox/room.c asks it and keeps those who have to wait.
 *
 * What holds, whatever comes in:
 *   - whoever may not go now waits; nobody is refused, and each answer but yes has a reason that people can read;
 *   - an empty machine takes anything that it can hold at all: a box larger than the sums waits until it is alone, not for
 *     ever; only short memory and a full disk stop that one too;
 *   - instances take at most their share of the sums, so that some are left for the sandboxes of their sessions: a session
 *     that holds an instance and waits for a sandbox does not wait for other instances. The first one always may;
 *   - less in use, or less pressure, never turns a yes into a wait. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct admit_sum {
	uint64_t boxes, cpu_milli, memory_bytes;
};

struct admit_limits { /* 0 = none of this kind, each */
	struct admit_sum sums;          /* of all boxes: the machine's own times the factors of overcommitment */
	uint64_t instance_percent;      /* of these sums, for instances */
	uint64_t cpu_pressure, memory_pressure, io_pressure; /* percent: base/machine.h */
	uint64_t memory_free_bytes, disk_free_bytes;         /* at least so much; the latter of each disk */
};

struct admit_machine { /* as measured, in the units of base/machine.h: pressures in hundredths; MACHINE_UNKNOWN = not known */
	uint64_t cpu_pressure, memory_pressure, io_pressure;
	uint64_t memory_free_bytes, disk_free_bytes;
	uint64_t space_free_bytes; /* where boxes write, if that has room of its own */
};

struct admit_input {
	struct admit_limits limits;
	struct admit_machine machine;
	struct admit_sum sandboxes, instances; /* there already, the ones that are being made included */
	struct admit_sum wanted;               /* boxes is 1 */
	bool instance;                         /* of which kind it is */
};

enum admit_verdict {
	ADMIT_NOW,
	ADMIT_WAIT,       /* for room, as everybody behind it does */
	ADMIT_WAIT_SHARE, /* for another instance's end: sandboxes need not wait for that */
};

struct admit_output {
	enum admit_verdict verdict;
	char why[96]; /* "" with ADMIT_NOW */
};

struct admit_output admit_decide(const struct admit_input *in);
