/* base/slice.h: how long a thread runs before another gets the processor (sched(7), EEVDF; Linux 6.12 and later, earlier ones
 * ignore it), not how much it gets. Who has a shorter slice takes the processor from one with a longer one at once when it wakes
 * up; else it waits until that one's is over, or for the next tick of the kernel's clock, 4 ms on most machines. Children inherit
 * it. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#define SLICE_SHORT_NS 100000u     /* the shortest and */
#define SLICE_LONG_NS 100000000u   /* the longest that the kernel has */
#define SLICE_DEFAULT 0u           /* its own: 1 to 3 ms */

/* tid: 0 = the caller. A thread with a policy of its own (real time, batch, idle) is left alone, as is one that may not be changed:
 * it is a hint. */
void slice_set(pid_t tid, uint64_t ns);
/* 0 = it can't be told. */
uint64_t slice_get(pid_t tid);
/* The kernel's own again, if it is `was`. */
void slice_reset(pid_t tid, uint64_t was);
