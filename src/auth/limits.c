/* What a key may have open, and how often it may ask: its own limits, else those of the configuration. */
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

static int beyond(const struct store_key *k, int which, uint64_t limit, const char *what, struct err *err)
{
	if (k->limits[which])
		return err_set(err, -EUSERS, "%s, and this key's own limit is %llu: try again later", what, (unsigned long long)limit);
	return err_set(err, -EUSERS, "%s, and keys.%s is %llu: try again later", what, setting_names[which], (unsigned long long)limit);
}

int auth_may_open(struct auth *a, const struct auth_caller *c, enum store_key_use use, struct err *err)
{
	uint64_t limit = c->key ? in_force(a, c->key->limits, (int)use) : 0;

	if (!limit || c->key->n_open[use] < limit)
		return 0;
	auto_free char *what = xasprintf("%zu %s of this key are open", c->key->n_open[use], setting_names[use]);
	return beyond(c->key, (int)use, limit, what, err);
}

void auth_count(struct store_key *key, enum store_key_use use, int by)
{
	if (key)
		key->n_open[use] += (size_t)by;
}

/* A bucket of tokens that is filled with `limit` of them a second. */
int auth_take_token(struct auth *a, struct store_key *k, struct err *err)
{
	uint64_t limit = in_force(a, k->limits, STORE_LIMIT_RATE), now;
	double full = 2.0 * (double)limit;

	if (!limit)
		return 0;
	now = time_now_ms();
	if (!k->tokens_ms)
		k->tokens = full;
	else
		k->tokens = MIN(full, k->tokens + (double)(now - k->tokens_ms) * (double)limit / 1000);
	k->tokens_ms = now;
	if (k->tokens < 1)
		return beyond(k, STORE_LIMIT_RATE, limit, "requests come too fast", err);
	k->tokens -= 1;
	return 0;
}

int auth_may_limit(struct auth *a, const struct auth_caller *c, const int64_t limits[STORE_LIMITS], struct err *err)
{
	static const char *const fields[] = { [STORE_USE_SESSIONS] = "maxSessions", [STORE_USE_SANDBOXES] = "maxSandboxes",
					      [STORE_LIMIT_RATE] = "maxRate" };

	if (c->role == STORE_ROLE_ADMIN)
		return 0;
	for (int i = 0; i < STORE_LIMITS; i++) {
		uint64_t own = in_force(a, c->key->limits, i), other = in_force(a, limits, i);
		if (own && (!other || other > own))
			return err_set(err, -EPERM, "%s: expected at most %llu, the limit of the key that asks; operators give more", fields[i],
				       (unsigned long long)own);
	}
	return 0;
}
