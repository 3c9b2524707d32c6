/* Percentiles and means of one task. */
#include <criterion/criterion.h>
#include <math.h>

#include "rollout/stats.h"

static bool near(double a, double b)
{
	return fabs(a - b) < 1e-9 * (1 + fabs(b));
}

Test(stats, one)
{
	struct stats s;

	stats_init(&s);
	stats_add(&s, 0.5, 7);
	stats_sort(&s);
	cr_assert(near(stats_percentile(&s, 1), 7) && near(stats_percentile(&s, 99), 7) && near(stats_mean(&s), 7));
	stats_done(&s);
}

Test(stats, between_ranks_and_after_a_clear)
{
	struct stats s;

	stats_init(&s);
	stats_add(&s, -9, 1000);
	stats_clear(&s);
	for (uint64_t i = 4; i-- > 0;)
		stats_add(&s, (double)i - 1, i * 10); /* 30, 20, 10, 0 */
	stats_sort(&s);
	cr_assert_eq(s.n, 4);
	cr_assert(near(s.reward_min, -1) && near(s.reward_max, 2) && near(s.reward_sum, 2));
	cr_assert(near(stats_percentile(&s, 0), 0) && near(stats_percentile(&s, 100), 30));
	cr_assert(near(stats_percentile(&s, 50), 15));
	cr_assert(near(stats_percentile(&s, 10), 3));
	cr_assert(near(stats_percentile(&s, 99), 29.7));
	cr_assert(near(stats_mean(&s), 15));
	stats_done(&s);
}
