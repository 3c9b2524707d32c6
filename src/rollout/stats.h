/* rollout/stats.h: sums over the rollouts of one task, as task-difficulty tells them. Pure; any thread. */
#pragma once

#include <stdint.h>

#include "base/buf.h"

struct stats {
	uint64_t n;                        /* rollouts */
	double reward_sum;
	double reward_min, reward_max;     /* undefined while n is 0 */
	struct buf chars;                  /* a uint64_t for each rollout */
};

void stats_init(struct stats *s);
void stats_done(struct stats *s);
/* chars: characters of what the model made. */
void stats_add(struct stats *s, double reward, uint64_t chars);
void stats_clear(struct stats *s); /* none, as after init */

/* Of chars, and of at least one rollout. The percentile, 0 to 100, is linear between the two nearest ranks, as
 * percentile_cont of SQL and numpy's default; it takes a stats_sort() since the last stats_add(). */
void stats_sort(struct stats *s);
double stats_percentile(const struct stats *s, double percent);
double stats_mean(const struct stats *s);
