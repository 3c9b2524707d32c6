/* Session ids: the route survives the text, the rest is random, and nothing else parses. */
#include <criterion/criterion.h>
#include <string.h>

#include "auth/sid.h"
#include "base/str.h"

TestSuite(sid, .timeout = 10);

Test(sid, carries_its_route)
{
	static const struct sid_route routes[] = {
		{ 0, SID_SESSION, 0 }, { SID_NODE_MAX, SID_TASK, UINT32_MAX }, { 0x5a3, SID_SANDBOX, 0x01020304 },
	};
	char id[SID_LEN];
	struct sid_route got;

	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		sid_make(id, &routes[i]);
		cr_assert_eq(strlen(id), SID_LEN - 1);
		cr_assert_eq(id[14], '8', "version of %s", id);
		cr_assert(strchr("89ab", id[19]), "variant of %s", id);
		cr_assert_eq(sid_parse(id, &got), 0);
		cr_assert_eq(got.node, routes[i].node);
		cr_assert_eq(got.kind, routes[i].kind);
		cr_assert_eq(got.slot, routes[i].slot);
	}
}

Test(sid, two_of_one_slot_differ)
{
	struct sid_route route = { 1, SID_SESSION, 9 };
	char a[SID_LEN], b[SID_LEN];

	sid_make(a, &route);
	sid_make(b, &route);
	cr_assert_str_neq(a, b);
}

Test(sid, everything_else_is_refused)
{
	static const char *const bad[] = {
		NULL, "", "x", "00000009-0011-8000-8000-00000000000",  "00000009-0011-8000-8000-0000000000000",
		"00000009-0011-4000-8000-000000000000" /* version 4 */, "00000009-0011-8000-c000-000000000000" /* variant */,
		"00000009-0010-8000-8000-000000000000" /* kind 0 */, "00000009-0015-8000-8000-000000000000" /* kind 5 */,
		"0000000900011-8000-8000-000000000000", "00000009-0011-8000-8000-00000000000g",
		"--------------------------------0000",
	};
	struct sid_route got;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_lt(sid_parse(bad[i], &got), 0, "%s", bad[i] ? bad[i] : "NULL");
	cr_assert_eq(sid_parse("00000009-0011-8000-8000-0000000000AB", &got), 0);
	cr_assert_eq(got.slot, 9);
	cr_assert_eq(got.node, 1);
}

/* Each of the 74 bits is one in half of the ids, and no two of them move together: far outside chance otherwise. */
Test(sid, what_is_random_is_random)
{
	static const unsigned char fixed[16] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0, 0, 0xc0 };
	enum { IDS = 4096, LIMIT = 350 }; /* of a deviation; its standard deviation is 32 */
	struct sid_route route = { 1, SID_SESSION, 9 };
	static signed char bits[128][IDS];
	size_t n = 0;

	for (size_t k = 0; k < IDS; k++) {
		char id[SID_LEN], hex[33], *to = hex;
		unsigned char b[16];

		sid_make(id, &route);
		for (const char *p = id; *p; p++)
			if (*p != '-')
				*to++ = *p;
		*to = '\0';
		cr_assert_eq(str_unhex(hex, b, sizeof(b)), 0);
		n = 0;
		for (size_t i = 0; i < 128; i++)
			if (!(fixed[i / 8] & 0x80 >> i % 8))
				bits[n++][k] = b[i / 8] & 0x80 >> i % 8 ? 1 : -1;
	}
	cr_assert_eq(n, 74);
	for (size_t i = 0; i < n; i++)
		for (size_t j = i; j < n; j++) {
			int sum = 0;
			for (size_t k = 0; k < IDS; k++)
				sum += i == j ? bits[i][k] : bits[i][k] * bits[j][k];
			cr_assert(sum < LIMIT && sum > -LIMIT, "bits %zu and %zu: %d", i, j, sum);
		}
}
