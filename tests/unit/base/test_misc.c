/* Lists, memory, lists of strings, random bytes, clocks. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <signal.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/strv.h"
#include "base/time.h"

struct item {
	int n;
	struct list link;
};

Test(list, keeps_order_and_survives_removal)
{
	struct list l = LIST_INIT(l);
	struct item items[4] = { { .n = 1 }, { .n = 2 }, { .n = 3 }, { .n = 0 } };
	int seen = 0;

	cr_assert(list_empty(&l));
	cr_assert_null(list_first(&l, struct item, link));
	for (int i = 0; i < 3; i++)
		list_push_back(&l, &items[i].link);
	list_push_front(&l, &items[3].link);
	cr_assert_eq(list_first(&l, struct item, link)->n, 0);
	list_foreach (&l, struct item, link, it) {
		cr_assert_eq(it->n, seen++);
		list_remove(&it->link);
	}
	cr_assert_eq(seen, 4);
	cr_assert(list_empty(&l));
	list_remove(&items[0].link); /* in none: harmless */
}

Test(mem, strings_and_null)
{
	auto_free char *a = xstrndup("abcdef", 3), *b = xasprintf("%s-%d", a, 7), *c = xstrdup(NULL);
	auto_free unsigned char *zero = xcalloc(3, 5);
	static const unsigned char none[15];

	cr_assert_str_eq(a, "abc");
	cr_assert_str_eq(b, "abc-7");
	cr_assert_null(c);
	cr_assert_arr_eq(zero, none, 15);
}

Test(mem, overflow_aborts, .signal = SIGABRT)
{
	/* Through a variable, so that the compiler does not warn of what is tested. */
	volatile size_t huge = SIZE_MAX / 2;

	xcalloc(huge, 3);
}

Test(random, uuids_are_version_4_and_differ)
{
	char a[UUID_LEN], b[UUID_LEN];

	for (int i = 0; i < 1000; i++) {
		cr_assert_eq(random_uuid(a), a);
		random_uuid(b);
		cr_assert_str_neq(a, b);
		cr_assert_eq(strlen(a), 36);
		for (int k = 0; k < 36; k++)
			if (k == 8 || k == 13 || k == 18 || k == 23)
				cr_assert_eq(a[k], '-');
			else
				cr_assert(isxdigit((unsigned char)a[k]) && !isupper((unsigned char)a[k]));
		cr_assert_eq(a[14], '4');
		cr_assert(strchr("89ab", a[19]));
	}
}

Test(time, iso_form)
{
	char s[TIME_ISO_LEN];

	cr_assert_str_eq(time_iso(0, s), "1970-01-01T00:00:00.000Z");
	cr_assert_str_eq(time_iso(1767323045678, s), "2026-01-02T03:04:05.678Z");
	cr_assert_str_eq(time_iso(951782399999, s), "2000-02-28T23:59:59.999Z");
	cr_assert_str_eq(time_iso(951782400000, s), "2000-02-29T00:00:00.000Z");
	cr_assert_str_eq(time_iso(-1, s), "1969-12-31T23:59:59.999Z");
	time_iso(INT64_MAX, s); /* stays within its buffer */
	cr_assert_lt(strlen(s), TIME_ISO_LEN);
}

Test(time, clocks_agree)
{
	uint64_t ms = time_now_ms(), us = time_now_us();

	cr_assert_geq(us / 1000, ms);
	cr_assert_leq(us / 1000, ms + 1000);
	cr_assert_gt(time_wall_ms(), 1700000000000);
}

Test(strv, grows_is_copied_and_taken)
{
	struct strv v = { 0 };

	strv_add_all(&v, NULL);
	cr_assert_null(v.list);
	strv_add(&v, xstrdup("a"));
	strv_add_all(&v, (char *const[]){ "b", "c", NULL });
	cr_assert_eq(v.n, 3);
	cr_assert_null(v.list[3]);
	char **copy = strv_dup((const char *const *)v.list);
	cr_assert_neq(copy[2], v.list[2]);
	cr_assert_str_eq(copy[2], "c");
	char **taken = strv_take(&v);
	cr_assert_str_eq(taken[0], "a");
	cr_assert(!v.list && v.n == 0);
	cr_assert_null(strv_free(taken));
	cr_assert_null(strv_erase(copy));
	cr_assert_null(strv_free(NULL));
}

Test(strv, is_a_list_where_nothing_is_in_it)
{
	struct strv v = { 0 };
	char **taken = strv_take(&v), **copy = strv_dup(NULL);

	cr_assert(taken && !*taken);
	cr_assert(copy && !*copy);
	strv_free(taken);
	strv_free(copy);
}
