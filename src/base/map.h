/* base/map.h: hash map from byte strings to pointers. Keys are copied; values belong to the caller. Hashing is keyed
 * with a random seed per map (SipHash-1-3), so that peers cannot choose collisions. Any thread, one at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

struct map;

struct map *map_new(void);
struct map *map_free(struct map *m); /* returns NULL; frees keys, not values */
DEFINE_FREEP(map, map_free)

/* Keys are any bytes, the empty key included; the forms without a length take strings. A value of NULL can be stored
 * but not told from an absent one. Look-up is O(1); a put may grow the table, and aborts on out-of-memory. */
size_t map_len(const struct map *m);
void *map_get(const struct map *m, const char *key);                      /* NULL = absent */
void *map_get_bytes(const struct map *m, const void *key, size_t len);
void *map_put(struct map *m, const char *key, void *value);               /* returns the value replaced, or NULL */
void *map_put_bytes(struct map *m, const void *key, size_t len, void *value);
void *map_del(struct map *m, const char *key);                            /* returns the value removed, or NULL */
void *map_del_bytes(struct map *m, const void *key, size_t len);

/* Visits every entry, in no order. The map may not be changed meanwhile, except that the current key may be deleted.
 * After such a deletion it.key is gone too.
 *   struct map_iter it = {0}; while (map_next(m, &it)) use(it.key, it.value); */
struct map_iter {
	const char *key; /* NUL-terminated copy */
	size_t key_len;
	void *value;
	size_t pos; /* private */
};
bool map_next(const struct map *m, struct map_iter *it);
