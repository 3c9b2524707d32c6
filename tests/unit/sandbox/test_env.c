#include <criterion/criterion.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "sandbox/private.h"

Test(env, later_lists_win_and_places_stay)
{
	const char *const image[] = { "PATH=/bin", "LANG=C", NULL };
	const char *const box[] = { "LANG=de", "A=1", "A=2", NULL };
	const char *const *const lists[] = { image, NULL, box };
	size_t bytes = 0;
	char **env = env_merge(lists, 3, &bytes);

	cr_assert_str_eq(env[0], "PATH=/bin");
	cr_assert_str_eq(env[1], "LANG=de");
	cr_assert_str_eq(env[2], "A=2");
	cr_assert_null(env[3]);
	cr_assert_eq(bytes, 9 + 7 + 3 + 3 * 16);
	cr_assert_null(strv_free(env));
}

Test(env, a_name_is_no_prefix)
{
	const char *const a[] = { "A=1", "AB=2", NULL };
	const char *const b[] = { "AB=3", NULL };
	const char *const *const lists[] = { a, b };
	size_t bytes;
	char **env = env_merge(lists, 2, &bytes);

	cr_assert_str_eq(env[0], "A=1");
	cr_assert_str_eq(env[1], "AB=3");
	cr_assert_null(env[2]);
	strv_free(env);
}

Test(env, nothing_gives_an_empty_list)
{
	const char *const *const lists[] = { NULL };
	size_t bytes = 7;
	char **env = env_merge(lists, 1, &bytes);

	cr_assert_null(env[0]);
	cr_assert_eq(bytes, 0);
	strv_free(env);
}

/* The loop waits for it, however many an image names: the check of their size comes after. */
Test(env, a_great_many_take_no_time, .timeout = 10)
{
	enum { MANY = 150000 };
	char **image = xcalloc(MANY + 1, sizeof(*image));
	const char *const box[] = { "V149999=last", "=no name", NULL };

	for (size_t i = 0; i < MANY; i++)
		image[i] = xasprintf("V%zu=", i);
	const char *const *const lists[] = { (const char *const *)image, box };
	size_t bytes;
	char **env = env_merge(lists, 2, &bytes);

	cr_assert_str_eq(env[0], "V0=");
	cr_assert_str_eq(env[MANY - 1], "V149999=last");
	cr_assert_str_eq(env[MANY], "=no name");
	cr_assert_null(env[MANY + 1]);
	strv_free(env);
	strv_free(image);
}
