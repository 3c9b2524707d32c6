/* Which images go: the rules of image/choose.h on lists that are written down. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "image/choose.h"

#define ROOM 8

static struct {
	struct image images[ROOM];
	struct choice list[ROOM];
	char *layers[ROOM][3];
	uint64_t bytes[ROOM][3];
	size_t n, order[ROOM];
	uint64_t left;
} x;

/* layers: "b" or "bt", the base first; each has the size of its letter's place in the alphabet times 10. */
static struct choice *put(const char *digest, const char *layers, int64_t used_ms)
{
	static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
	struct image *i = &x.images[x.n];
	struct choice *c = &x.list[x.n];

	*i = (struct image){ .digest = (char *)(uintptr_t)digest, .layers = x.layers[x.n], .layer_bytes = x.bytes[x.n] };
	i->n_layers = strlen(layers);
	for (size_t k = 0; k < i->n_layers; k++) {
		size_t letter = (size_t)(layers[i->n_layers - 1 - k] - 'a');
		i->layers[k] = (char *)(uintptr_t)names[letter];
		i->layer_bytes[k] = (letter + 1) * 10;
	}
	*c = (struct choice){ .image = i, .used_ms = used_ms };
	x.n++;
	return c;
}

static size_t choose(uint64_t budget)
{
	return image_choose(x.list, x.n, budget, x.order, &x.left);
}

static void begin(void)
{
	memset(&x, 0, sizeof(x));
}

TestSuite(choose, .init = begin);

Test(choose, nothing_goes_within_the_budget)
{
	put("1", "a", 1);
	put("2", "b", 2);
	cr_assert_eq(choose(30), 0);
	cr_assert_eq(x.left, 30);
	cr_assert_eq(choose(UINT64_MAX), 0);
	x.n = 0;
	cr_assert_eq(choose(0), 0);
}

Test(choose, the_longest_unused_goes_first_and_no_more_than_needed)
{
	put("1", "a", 300);
	put("2", "b", 100);
	put("3", "c", 200);
	cr_assert_eq(choose(40), 1);
	cr_assert_eq(x.order[0], 1);
	cr_assert_eq(x.list[1].frees_bytes, 20);
	cr_assert_eq(x.left, 40);
	cr_assert(x.list[1].goes && !x.list[0].goes && !x.list[2].goes);
	cr_assert_eq(choose(39), 2);
	cr_assert_eq(x.order[1], 2);
	cr_assert_eq(x.left, 10);
}

Test(choose, what_is_kept_stays_whatever_the_budget)
{
	put("1", "a", 1)->kept = true;
	put("2", "b", 2);
	cr_assert_eq(choose(0), 1);
	cr_assert_eq(x.order[0], 1);
	cr_assert_eq(x.left, 10);
}

Test(choose, shared_layers_count_once_and_go_with_the_last)
{
	put("1", "ab", 1);
	put("2", "ac", 2);
	cr_assert_eq(image_choose_total(x.list, x.n), 60);
	cr_assert_eq(choose(60), 0);
	cr_assert_eq(choose(50), 1);
	cr_assert_eq(x.list[0].frees_bytes, 20, "the shared layer stays with the other");
	cr_assert_eq(x.left, 40);
	cr_assert_eq(choose(0), 2);
	cr_assert_eq(x.list[1].frees_bytes, 40);
	cr_assert_eq(x.left, 0);
}

Test(choose, a_base_stays_under_what_lies_on_it)
{
	put("base", "a", 1);
	put("top", "ab", 2)->kept = true;
	cr_assert_eq(choose(0), 0);
	cr_assert_eq(x.left, 30);
	x.list[1].kept = false;
	cr_assert_eq(choose(0), 2);
	cr_assert_eq(x.order[0], 1, "first what lies on it");
	cr_assert_eq(x.order[1], 0);
	cr_assert_eq(choose(10), 1);
	cr_assert_eq(x.order[0], 1);
}

Test(choose, two_names_of_one_image_go_together)
{
	put("1", "b", 1);
	put("2", "a", 3);
	put("1", "b", 5);
	cr_assert_eq(choose(20), 1);
	cr_assert_eq(x.order[0], 1, "used by its newer name after the other");
	cr_assert_eq(choose(10), 3);
	x.list[2].kept = true;
	cr_assert_eq(choose(0), 1);
	cr_assert_eq(x.order[0], 1, "one name alone would free nothing");
}

Test(choose, a_record_without_sizes_of_layers_counts_to_its_top)
{
	struct choice *c = put("1", "ab", 1);

	x.images[0].layer_bytes = NULL;
	x.images[0].size_bytes = 77;
	cr_assert_eq(image_choose_total(x.list, 1), 77);
	put("2", "c", 2);
	cr_assert_eq(choose(50), 1);
	cr_assert_eq(c->frees_bytes, 77);
}

/* As settings added to another image: neither lies on the other, so neither waits for the other. */
Test(choose, images_of_the_same_layers_do_not_hold_each_other)
{
	put("1", "ab", 2);
	put("2", "ab", 1);
	cr_assert_eq(choose(29), 2);
	cr_assert_eq(x.order[0], 1);
	cr_assert_eq(x.list[1].frees_bytes, 0, "the other has them still");
	cr_assert_eq(x.list[0].frees_bytes, 30);
	x.list[0].kept = true;
	cr_assert_eq(choose(29), 1);
	cr_assert_eq(x.left, 30);
}

/* FROM alone: the same digest and the same layers, and yet a store of its own that the layers are not in. */
Test(choose, a_build_that_adds_nothing_goes_before_its_base)
{
	struct choice *base = put("1", "a", 1), *build = put("1", "a", 2);

	x.images[0].name = (char *)(uintptr_t) "docker.io/library/x:1";
	x.images[1].name = (char *)(uintptr_t) "localhost/env/me/x:1";
	x.layers[0][0] = x.layers[1][0] = (char *)(uintptr_t) "bases/store/overlay/a/diff";
	cr_assert_eq(choose(0), 2);
	cr_assert_eq(x.order[0], 1, "its base was used longer ago, and waits");
	cr_assert_eq(base->frees_bytes, 10);
	build->kept = true;
	cr_assert_eq(choose(0), 0);
	build->kept = false;
	base->kept = true;
	cr_assert_eq(choose(0), 1);
	cr_assert_eq(x.order[0], 1);
}
