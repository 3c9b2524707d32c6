#include "rollout/stats.h"

#include <math.h>
#include <string.h>

void stats_init(struct stats *s)
{
	*s = (struct stats){ 0 };
	buf_init(&s->chars, BUF_UNLIMITED);
}

void stats_done(struct stats *s)
{
	buf_done(&s->chars);
}

void stats_clear(struct stats *s)
{
	buf_clear(&s->chars);
	s->n = 0;
	s->reward_sum = 0;
}

void stats_add(struct stats *s, double reward, uint64_t chars)
{
	if (buf_append(&s->chars, &chars, sizeof(chars)) < 0)
		abort(); /* an unlimited buffer has no way to fail */
	s->reward_min = s->n ? MIN(s->reward_min, reward) : reward;
	s->reward_max = s->n ? MAX(s->reward_max, reward) : reward;
	s->reward_sum += reward;
	s->n++;
}

static uint64_t chars_at(const struct stats *s, uint64_t i)
{
	uint64_t v;

	memcpy(&v, s->chars.data + i * sizeof(v), sizeof(v));
	return v;
}

static int compare(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

void stats_sort(struct stats *s)
{
	qsort(s->chars.data, s->n, sizeof(uint64_t), compare);
}

double stats_percentile(const struct stats *s, double percent)
{
	double rank = percent / 100 * (double)(s->n - 1);
	uint64_t below = (uint64_t)floor(rank), above = (uint64_t)ceil(rank);
	double low = (double)chars_at(s, below), high = (double)chars_at(s, above);

	return low + (high - low) * (rank - (double)below);
}

double stats_mean(const struct stats *s)
{
	double sum = 0;

	for (uint64_t i = 0; i < s->n; i++)
		sum += (double)chars_at(s, i);
	return sum / (double)s->n;
}
