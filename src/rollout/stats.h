/* rollout/stats.h: sums over the rollouts of one task, as task-difficulty tells them. Pure; any thread. */
#pragma once

#include <stdint.h>

#include "base/buf.h"

struct stats {
	uint64_t n;
	double reward_sum, reward_min, reward_max;
	struct buf chars; /* uint64_t, one for each rollout */
};

void stats_init(struct stats *s);
void stats_done(struct stats *s);
void stats_add(struct stats *s, double reward, uint64_t chars);
void stats_clear(struct stats *s); /* none, as after init */

/* After stats_sort(), of at least one: linear between the two nearest ranks, as percentile_cont of SQL and numpy's
 * default. */
void stats_sort(struct stats *s);
double stats_percentile(const struct stats *s, double percent);
double stats_mean(const struct stats *s);
