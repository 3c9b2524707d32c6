/* The fair queue: turns of keys, order within one, places that come true. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "base/fair.h"
#include "base/macros.h"

struct item {
	struct fair_item fair;
	char key[4];
	int n;
};

static struct fair queue;
static struct item items[64];

static struct item *push(const char *key, int n)
{
	struct item *it = &items[n];

	*it = (struct item){ .n = n };
	snprintf(it->key, sizeof(it->key), "%s", key);
	fair_push(&queue, &it->fair, key);
	return it;
}

static int pop(void)
{
	struct fair_item *it = fair_pop(&queue);

	return it ? container_of(it, struct item, fair)->n : -1;
}

/* At places[n]. */
static void note_place(struct fair_item *it, size_t place, void *arg)
{
	size_t *places = arg;

	places[container_of(it, struct item, fair)->n] = place;
}

Test(fair, keys_take_turns_and_each_is_first_come_first_served)
{
	fair_init(&queue);
	cr_assert_eq(pop(), -1);
	for (int n = 0; n < 4; n++)
		push("a", n);
	push("b", 10);
	push("b", 11);
	push("c", 20);
	const int expected[] = { 0, 10, 20, 1, 11, 2, 3, -1 };
	for (size_t i = 0; i < ARRAY_LEN(expected); i++)
		cr_assert_eq(pop(), expected[i], "%zu", i);
	cr_assert_eq(queue.len, 0);
}

Test(fair, one_key_with_many_does_not_starve_a_late_one)
{
	fair_init(&queue);
	for (int n = 0; n < 50; n++)
		push("a", n);
	pop();
	push("b", 60);
	size_t places[ARRAY_LEN(items)];
	fair_in_order(&queue, note_place, places);
	cr_assert_leq(places[60], 1);
	int before = 0;
	while (pop() != 60)
		before++;
	cr_assert_leq(before, 1);
}

Test(fair, places_come_true)
{
	fair_init(&queue);
	static const char keys[] = "abbacabccabbbac";
	size_t places[sizeof(keys)];
	for (int n = 0; keys[n]; n++)
		push((char[]){ keys[n], 0 }, n);
	fair_in_order(&queue, note_place, places);
	for (size_t at = 0; queue.len; at++)
		cr_assert_eq(places[pop()], at);
	fair_in_order(&queue, note_place, NULL);
}

Test(fair, removal_keeps_the_turns)
{
	fair_init(&queue);
	push("a", 0);
	push("b", 1);
	push("a", 2);
	push("c", 3);
	fair_remove(&queue, &items[1].fair);
	fair_remove(&queue, &items[1].fair);
	cr_assert(!fair_has(&items[1].fair));
	cr_assert_eq(pop(), 0);
	cr_assert_eq(pop(), 3);
	cr_assert_eq(pop(), 2);
	cr_assert_null(fair_first(&queue));
}

Test(fair, who_comes_back_is_as_if_it_had_never_gone)
{
	fair_init(&queue);
	push("a", 0);
	push("b", 1);
	push("a", 2);
	cr_assert_eq(pop(), 0);
	fair_push_first(&queue, &items[0].fair, "a");
	cr_assert_eq(queue.len, 3);
	cr_assert_eq(pop(), 0);
	cr_assert_eq(pop(), 1);
	cr_assert_eq(pop(), 2);
	fair_push_first(&queue, &items[2].fair, "a"); /* of a key that waits no more */
	cr_assert_eq(pop(), 2);
	cr_assert_null(fair_first(&queue));
}
