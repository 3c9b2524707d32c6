/* What a key may have open, and how often it may ask: its own limits, else those of the configuration; and those of its makers. */
#include <errno.h>

#include "auth/private.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

static const char *const setting_names[] = { [STORE_USE_SESSIONS] = "sessions", [STORE_USE_SANDBOXES] = "sandboxes",
					     [STORE_LIMIT_RATE] = "rate" };

void auth_set_limits(struct auth *a, const struct auth_limits *limits)
{
	a->limits = *limits;
}

/* 0 = none. */
static uint64_t in_force(const struct auth *a, const int64_t limits[STORE_LIMITS], int which)
{
	return limits[which] == STORE_LIMIT_NONE ? 0 : limits[which] ? (uint64_t)limits[which] : a->limits.of[which];
}

static bool has_own(const struct store_key *k, int which)
{
	return k->limits[which] > 0;
}

/* Those that k's makers have of their own hold for what they made, too, all of it together: else who is limited would make more
 * keys. */
static const struct store_key *next_limited(const struct store_key *k, int which)
{
	do
		k = k->maker;
	while (k && !has_own(k, which));
	return k;
}

static int beyond(const struct store_key *asking, const struct store_key *k, int which, uint64_t limit, const char *what,
		  struct err *err)
{
	if (k != asking)
		return err_set(err, -EUSERS, "%s, those of other keys that key %.8s made included, whose limit is %llu: try again later", what,
			       k->id, (unsigned long long)limit);
	if (k->limits[which])
		return err_set(err, -EUSERS, "%s, and this key's own limit is %llu: try again later", what,
			       (unsigned long long)limit);
	return err_set(err, -EUSERS, "%s, and keys.%s is %llu: try again later", what, setting_names[which],
		       (unsigned long long)limit);
}

int auth_may_open(struct auth *a, const struct auth_caller *c, enum store_key_use use, struct err *err)
{
	for (const struct store_key *k = c->key; k; k = next_limited(k, (int)use)) {
		uint64_t limit = in_force(a, k->limits, (int)use);
		if (!limit || k->n_open[use] < limit)
			continue;
		auto_free char *what = xasprintf("%zu %s of this key are open", k->n_open[use], setting_names[use]);
		return beyond(c->key, k, (int)use, limit, what, err);
	}
	return 0;
}

void auth_count(struct store_key *key, enum store_key_use use, int by)
{
	for (; key; key = key->maker)
		key->n_open[use] += (size_t)by;
}

/* A bucket of tokens that is filled with `limit` of them a second. */
static bool has_token(struct store_key *k, uint64_t limit, uint64_t now)
{
	double full = 2.0 * (double)limit;

	if (!k->tokens_ms)
		k->tokens = full;
	else
		k->tokens = MIN(full, k->tokens + (double)(now - k->tokens_ms) * (double)limit / 1000);
	k->tokens_ms = now;
	return k->tokens >= 1;
}

/* What holds of k for requests of key; 0 = none. */
static uint64_t rate(const struct auth *a, const struct store_key *key, const struct store_key *k)
{
	return k == key || has_own(k, STORE_LIMIT_RATE) ? in_force(a, k->limits, STORE_LIMIT_RATE) : 0;
}

int auth_take_token(struct auth *a, struct store_key *key, struct err *err)
{
	uint64_t now = 0;

	for (struct store_key *k = key; k; k = k->maker) {
		uint64_t limit = rate(a, key, k);
		now = limit && !now ? time_now_ms() : now;
		if (limit && !has_token(k, limit, now))
			return beyond(key, k, STORE_LIMIT_RATE, limit, "requests come too fast", err);
	}
	for (struct store_key *k = now ? key : NULL; k; k = k->maker)
		k->tokens -= rate(a, key, k) != 0;
	return 0;
}

void auth_limits_in_force(struct auth *a, const struct store_key *key, int64_t ret[STORE_LIMITS])
{
	for (int i = 0; i < STORE_LIMITS; i++) {
		ret[i] = key->limits[i];
		for (const struct store_key *k = next_limited(key, i); k; k = next_limited(k, i)) {
			uint64_t limit = in_force(a, ret, i);
			if (!limit || limit > (uint64_t)k->limits[i])
				ret[i] = k->limits[i];
		}
	}
}

int auth_may_limit(struct auth *a, const struct auth_caller *c, const int64_t limits[STORE_LIMITS], struct err *err)
{
	static const char *const fields[] = { [STORE_USE_SESSIONS] = "maxSessions", [STORE_USE_SANDBOXES] = "maxSandboxes",
					      [STORE_LIMIT_RATE] = "maxRate" };

	int64_t most[STORE_LIMITS];

	if (c->role == STORE_ROLE_ADMIN)
		return 0;
	auth_limits_in_force(a, c->key, most);
	for (int i = 0; i < STORE_LIMITS; i++) {
		uint64_t own = in_force(a, most, i), other = in_force(a, limits, i);
		if (own && (!other || other > own))
			return err_set(err, -EPERM, "%s: expected at most %llu, the limit of the key that asks; operators give more",
				       fields[i],
				       (unsigned long long)own);
	}
	return 0;
}
