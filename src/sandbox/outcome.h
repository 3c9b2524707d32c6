/* sandbox/outcome.h: what a run's end means, from the evidence that init collected. Pure; any thread.
 *
 * The first that holds: infra (ours or the host's fault: also a process that the kernel killed because the host, not the sandbox,
 * had no memory left), killed (somebody asked), timeout (its deadline), oom (the
 * kernel's oom killer struck in the sandbox while it ran), disk (next to no room was left at its end), pids (the process
 * limit was hit while it ran), signalled, exited. */
#pragma once

#include "engine/engine.h"

#define OUTCOME_DISK_FREE_BYTES (1u << 20) /* less than this is a full disk */

struct outcome_evidence {
	int wait_status;         /* of the first process, as waitpid gives it */
	bool timed_out, killed;  /* by init: at the deadline; by request */
	uint64_t oom_kills, pids_hits; /* events of the sandbox while the run lived */
	uint64_t limit_hits;           /* how often it came to its own limit of memory meanwhile; UINT64_MAX = unknown */
	uint64_t disk_free_bytes;      /* at the end; UINT64_MAX = unknown */
};

enum engine_outcome outcome_of(const struct outcome_evidence *e);
/* 0..255: the exit code, 128 + n for a signal, 124 when the deadline killed it. */
int outcome_return_code(const struct outcome_evidence *e);
/* False where the result says nothing about the agent: infra and killed. */
bool outcome_trainable(enum engine_outcome o);
