/* Counts by key, and what one key may have of a queue. */
#include <criterion/criterion.h>

#include "base/tally.h"

TestSuite(tally, .timeout = 10);

Test(tally, counts_each_key_apart)
{
	struct tally t;

	tally_init(&t);
	cr_assert_eq(tally_of(&t, "a"), 0);
	tally_add(&t, "a");
	tally_add(&t, "a");
	tally_add(&t, "");
	cr_assert_eq(tally_of(&t, "a"), 2);
	cr_assert_eq(tally_of(&t, ""), 1);
	tally_sub(&t, "a");
	tally_sub(&t, "");
	cr_assert_eq(tally_of(&t, "a"), 1);
	cr_assert_eq(tally_of(&t, ""), 0);
	tally_done(&t);
}

/* How far each gets when all of them ask in turn until nobody is admitted any more. */
static void fill(const struct share *s, size_t *own, size_t keys)
{
	size_t waiting = 0, before = 1;

	for (size_t k = 0; k < keys; k++)
		own[k] = 0;
	while (before != waiting) {
		before = waiting;
		for (size_t k = 0; k < keys; k++)
			if (share_admits(s, waiting, own[k])) {
				own[k]++;
				waiting++;
			}
	}
}

Test(tally, greedy_keys_leave_places_to_the_next)
{
	const struct share s = { .max = 1000, .times = 4 };
	size_t own[10];

	fill(&s, own, 1);
	cr_assert_eq(own[0], 800);
	fill(&s, own, 2);
	cr_assert(own[0] >= 443 && own[0] <= 446 && own[1] >= 443 && own[1] <= 446, "%zu %zu", own[0], own[1]);
	fill(&s, own, 10);
	for (size_t k = 0; k < 10; k++)
		cr_assert(own[k] >= 96 && own[k] <= 100, "%zu", own[k]);
	cr_assert(share_admits(&s, 976, 0), "the eleventh");
}

Test(tally, a_small_queue_takes_one_of_each_and_none_beyond_its_bound)
{
	const struct share s = { .max = 2, .times = 1 }, open = { .max = 2, .times = 0 };

	cr_assert(share_admits(&s, 0, 0));
	cr_assert_not(share_admits(&s, 1, 1));
	cr_assert(share_admits(&s, 1, 0));
	cr_assert_not(share_admits(&s, 2, 0));
	cr_assert(share_admits(&open, 1, 1), "0 = one key may fill it");
	cr_assert_not(share_admits(&open, 2, 2));
}
