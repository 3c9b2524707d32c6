#include "base/map.h"

#include <string.h>

#include "base/mem.h"
#include "base/random.h"

/* Open addressing with linear probing. A slot is empty (key NULL), deleted (key == gone) or holds an entry. Entries do
 * not move on deletion, which is what lets an iteration delete its current key. */
struct slot {
	uint64_t hash;
	char *key;
	size_t key_len;
	void *value;
};

struct map {
	struct slot *slots;
	size_t cap;  /* power of two, or 0 */
	size_t len;  /* entries */
	size_t used; /* entries and deleted slots */
	uint64_t seed[2];
};

static char gone[1];

/* -- SipHash-1-3 ---------------------------------------------------------------------------------------------- */

static uint64_t rotl(uint64_t x, int b)
{
	return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

static void sip_block(uint64_t v[4], uint64_t m)
{
	v[3] ^= m;
	sip_round(v);
	v[0] ^= m;
}

static uint64_t sip_hash(const uint64_t seed[2], const void *p, size_t len)
{
	uint64_t v[4] = {
		seed[0] ^ 0x736f6d6570736575u,
		seed[1] ^ 0x646f72616e646f6du,
		seed[0] ^ 0x6c7967656e657261u,
		seed[1] ^ 0x7465646279746573u,
	};
	const unsigned char *c = p;
	uint64_t m;

	for (size_t n = len / 8; n > 0; n--, c += 8) {
		memcpy(&m, c, 8);
		sip_block(v, m);
	}
	m = (uint64_t)len << 56;
	for (size_t i = 0; i < len % 8; i++)
		m |= (uint64_t)c[i] << 8 * i;
	sip_block(v, m);
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* -- the table ------------------------------------------------------------------------------------------------ */

struct map *map_new(void)
{
	struct map *m = NEW(struct map);

	random_bytes(m->seed, sizeof(m->seed));
	return m;
}

static bool holds_entry(const struct slot *s)
{
	return s->key && s->key != gone;
}

struct map *map_free(struct map *m)
{
	if (!m)
		return NULL;
	for (size_t i = 0; i < m->cap; i++)
		if (holds_entry(&m->slots[i]))
			free(m->slots[i].key);
	free(m->slots);
	free(m);
	return NULL;
}

size_t map_len(const struct map *m)
{
	return m->len;
}

static struct slot *find(const struct map *m, const void *key, size_t len, uint64_t hash)
{
	if (m->cap == 0)
		return NULL;
	for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
		struct slot *s = &m->slots[i];

		if (!s->key)
			return NULL;
		if (s->key != gone && s->hash == hash && s->key_len == len && memcmp(s->key, key, len) == 0)
			return s;
	}
}

void *map_get_bytes(const struct map *m, const void *key, size_t len)
{
	const struct slot *s = find(m, key, len, sip_hash(m->seed, key, len));

	return s ? s->value : NULL;
}

/* Into the first empty slot of the probe sequence; only for a key that is not there, and where there is room. */
static struct slot *free_slot(struct slot *slots, size_t cap, uint64_t hash)
{
	size_t i = hash & (cap - 1);

	while (slots[i].key)
		i = (i + 1) & (cap - 1);
	return &slots[i];
}

/* Keeps a quarter of the slots empty, so that probes end; deleted slots are dropped on the way. */
static void make_room(struct map *m)
{
	size_t cap = 8;
	struct slot *slots;

	if (m->cap && m->used + 1 <= m->cap / 4 * 3)
		return;
	while (cap / 2 < m->len + 1)
		cap *= 2;
	slots = xcalloc(cap, sizeof(*slots));
	for (size_t i = 0; i < m->cap; i++)
		if (holds_entry(&m->slots[i]))
			*free_slot(slots, cap, m->slots[i].hash) = m->slots[i];
	free(m->slots);
	m->slots = slots;
	m->cap = cap;
	m->used = m->len;
}

void *map_put_bytes(struct map *m, const void *key, size_t len, void *value)
{
	uint64_t hash = sip_hash(m->seed, key, len);
	struct slot *s = find(m, key, len, hash);

	if (s) {
		void *old = s->value;

		s->value = value;
		return old;
	}
	make_room(m);
	s = free_slot(m->slots, m->cap, hash);
	*s = (struct slot){ .hash = hash, .key = xmalloc(len + 1), .key_len = len, .value = value };
	if (len)
		memcpy(s->key, key, len);
	s->key[len] = '\0';
	m->len++;
	m->used++;
	return NULL;
}

void *map_del_bytes(struct map *m, const void *key, size_t len)
{
	struct slot *s = find(m, key, len, sip_hash(m->seed, key, len));
	void *value;

	if (!s)
		return NULL;
	value = s->value;
	free(s->key);
	*s = (struct slot){ .key = gone };
	m->len--;
	return value;
}

void *map_get(const struct map *m, const char *key)
{
	return map_get_bytes(m, key, strlen(key));
}

void *map_put(struct map *m, const char *key, void *value)
{
	return map_put_bytes(m, key, strlen(key), value);
}

void *map_del(struct map *m, const char *key)
{
	return map_del_bytes(m, key, strlen(key));
}

bool map_next(const struct map *m, struct map_iter *it)
{
	while (it->pos < m->cap) {
		const struct slot *s = &m->slots[it->pos++];

		if (!holds_entry(s))
			continue;
		it->key = s->key;
		it->key_len = s->key_len;
		it->value = s->value;
		return true;
	}
	return false;
}
