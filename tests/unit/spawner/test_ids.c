#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spawner/ids.h"

static char dir[] = "/tmp/orw-ids-XXXXXX";

static void setup(void)
{
	cr_assert_not_null(mkdtemp(dir));
}

static void teardown(void)
{
	char path[64];

	for (unsigned int i = 0; i < IDS_BLOCKS; i++) {
		snprintf(path, sizeof(path), "%s/ids-%u.lock", dir, i);
		unlink(path);
	}
	cr_assert_eq(rmdir(dir), 0);
}

TestSuite(ids, .init = setup, .fini = teardown);

Test(ids, two_daemons_never_share_a_block)
{
	struct ids all[IDS_BLOCKS + 1];
	struct err err = ERR_INIT;

	for (unsigned int i = 0; i < IDS_BLOCKS; i++) {
		cr_assert_eq(ids_init(&all[i], dir, 3, &err), 0, "%s", err.msg);
		for (unsigned int k = 0; k < i; k++)
			cr_assert_neq(all[i].base, all[k].base);
		cr_assert_lt((uint64_t)all[i].base + IDS_RANGES * IDS_PER_RANGE, 1ull << 32);
	}
	cr_assert_eq(ids_init(&all[IDS_BLOCKS], dir, 3, &err), -EUSERS);
	for (unsigned int i = 0; i < IDS_BLOCKS; i++)
		ids_done(&all[i]);
}

Test(ids, every_range_once)
{
	static struct ids ids;
	struct err err = ERR_INIT;
	uid_t first, again;

	cr_assert_eq(ids_init(&ids, dir, 0, &err), 0);
	for (uint32_t i = 0; i < IDS_RANGES; i++) {
		cr_assert_eq(ids_take(&ids, &first), 0);
		cr_assert_eq(first, ids.base + i * IDS_PER_RANGE);
		cr_assert(ids_taken(&ids, first + IDS_PER_RANGE - 1));
	}
	cr_assert_eq(ids_take(&ids, &first), -EUSERS);
	ids_give(&ids, ids.base + 5 * IDS_PER_RANGE);
	cr_assert(!ids_taken(&ids, ids.base + 5 * IDS_PER_RANGE + 1000));
	cr_assert_eq(ids_take(&ids, &again), 0);
	cr_assert_eq(again, ids.base + 5 * IDS_PER_RANGE);
	cr_assert(!ids_ours(&ids, ids.base - 1));
	cr_assert(!ids_ours(&ids, 0));
	ids_done(&ids);
}

Test(ids, a_range_comes_back_as_late_as_possible)
{
	struct ids ids;
	uid_t a, b;

	cr_assert_eq(ids_init(&ids, dir, 0, NULL), 0);
	cr_assert_eq(ids_take(&ids, &a), 0);
	ids_give(&ids, a);
	cr_assert_eq(ids_take(&ids, &b), 0);
	cr_assert_neq(a, b);
	ids_done(&ids);
}
