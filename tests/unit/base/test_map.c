#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

static void *number(size_t n)
{
	return (void *)(uintptr_t)n;
}

static const char *key_of(size_t n)
{
	static char key[32];

	snprintf(key, sizeof(key), "key-%zu", n);
	return key;
}

Test(map, put_replaces_and_returns_the_old)
{
	AUTO(map_freep) struct map *m = map_new();

	cr_assert_null(map_get(m, "a"));
	cr_assert_null(map_del(m, "a"));
	cr_assert_null(map_put(m, "a", number(1)));
	cr_assert_eq(map_put(m, "a", number(2)), number(1));
	cr_assert_eq(map_len(m), 1);
	cr_assert_eq(map_get(m, "a"), number(2));
	cr_assert_eq(map_del(m, "a"), number(2));
	cr_assert_eq(map_len(m), 0);
	cr_assert_null(map_get(m, "a"));
}

Test(map, keys_are_bytes_and_copied)
{
	AUTO(map_freep) struct map *m = map_new();
	char key[4] = { 'a', '\0', 'b', 'x' };

	map_put_bytes(m, key, 3, number(1));
	map_put_bytes(m, "", 0, number(2));
	key[2] = 'c';
	map_put_bytes(m, key, 3, number(3));
	cr_assert_eq(map_get_bytes(m, "a\0b", 3), number(1));
	cr_assert_eq(map_get_bytes(m, "a\0c", 3), number(3));
	cr_assert_eq(map_get(m, ""), number(2));
	cr_assert_null(map_get(m, "a"));
}

Test(map, a_hundred_thousand_entries)
{
	enum { N = 100000 };
	AUTO(map_freep) struct map *m = map_new();
	struct map_iter it = { 0 };
	size_t n = 0, sum = 0;

	for (size_t i = 1; i <= N; i++)
		cr_assert_null(map_put(m, key_of(i), number(i)));
	cr_assert_eq(map_len(m), N);
	for (size_t i = 1; i <= N; i++)
		cr_assert_eq(map_get(m, key_of(i)), number(i));
	for (size_t i = 2; i <= N; i += 2)
		cr_assert_eq(map_del(m, key_of(i)), number(i));
	for (size_t i = 1; i <= N; i++)
		cr_assert_eq(map_get(m, key_of(i)), i % 2 ? number(i) : NULL);
	while (map_next(m, &it)) {
		n++;
		sum += (uintptr_t)it.value;
	}
	cr_assert_eq(n, N / 2);
	cr_assert_eq(sum, (size_t)N / 2 * (N / 2));
}

Test(map, churn_does_not_fill_it_with_the_deleted)
{
	AUTO(map_freep) struct map *m = map_new();

	/* Every look-up of an absent key ends only at an empty slot: without clean-up this would never end. */
	for (size_t i = 0; i < 200000; i++) {
		map_put(m, key_of(i), number(i + 1));
		cr_assert_eq(map_del(m, key_of(i)), number(i + 1));
		cr_assert_null(map_get(m, "absent"));
	}
	cr_assert_eq(map_len(m), 0);
}

Test(map, the_current_key_may_be_deleted_while_iterating)
{
	AUTO(map_freep) struct map *m = map_new();
	struct map_iter it = { 0 };
	size_t n = 0;

	for (size_t i = 1; i <= 1000; i++)
		map_put(m, key_of(i), number(i));
	while (map_next(m, &it)) {
		cr_assert_eq(strlen(it.key), it.key_len);
		cr_assert_eq(map_del(m, it.key), it.value);
		n++;
	}
	cr_assert_eq(n, 1000);
	cr_assert_eq(map_len(m), 0);
}

Test(map, nothing_in_an_empty_one)
{
	AUTO(map_freep) struct map *m = map_new();
	struct map_iter it = { 0 };

	cr_assert_not(map_next(m, &it));
	cr_assert_null(map_free(NULL));
}
