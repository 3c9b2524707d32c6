/* env/autoscaler.h: how many instances an environment should have. Pure: the same input gives the same output, nothing is
 * kept, any thread. env/scale.c asks at every create and each second, and carries it out.
 *
 * What holds, whatever comes in:
 *   - never fewer than the busy ones: a replica with a session is not dropped;
 *   - never more than max or capacity, unless so many are busy;
 *   - monotone: more sessions or more who wait never give fewer replicas;
 *   - nothing flaps: one is dropped only after idle_ms without a session, and placement (env/waits.c) fills the fullest
 *     first, so under a constant load the same ones stay empty, and under a sawtooth shorter than idle_ms none is;
 *   - without sessions and with min 0 it reaches zero. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct autoscaler_input {
	uint64_t sessions;         /* that hold a place */
	uint64_t waiting;          /* creates that wait for a place */
	uint64_t visitors;         /* who wait for any instance, without a place: listings */
	uint64_t replicas;         /* now: healthy ones and starting ones */
	uint64_t busy;             /* of these, in use */
	const uint64_t *unused_ms; /* for each healthy one that is not in use: since when; n_unused of them */
	size_t n_unused;
	uint64_t concurrency;      /* places of one; at least 1 */
	uint64_t min, max;         /* max wins over min */
	uint64_t idle_ms;
	uint64_t capacity;         /* replicas that the machine has room for, those there included; UINT64_MAX = unknown */
};

struct autoscaler_output {
	uint64_t replicas;
	const char *why; /* for a log: what decided; static */
};

struct autoscaler_output autoscaler_decide(const struct autoscaler_input *in);
