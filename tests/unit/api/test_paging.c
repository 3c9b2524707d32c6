/* A page's token continues the list it was made for, and nothing else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/common/paging.h"

static const struct signer signer = { .key = "0123456789abcdef0123456789abcde" };

static int read_token(const struct signer *s, const struct paging_list *list, const char *token, int64_t *a, int64_t *b)
{
	struct err err = ERR_INIT;
	int r = paging_read(s, list, token, a, b, &err);

	if (r < 0)
		cr_assert(strstr(err.msg, "pageToken: expected"), "%s", err.msg);
	return r;
}

Test(paging, a_token_is_of_its_list)
{
	const struct paging_list list = { { "runs", "ns", "abc" } };
	const struct paging_list others[] = { { { "runs", "ns", "abd" } }, { { "runs", "nt", "abc" } }, { { "rollouts", "ns", "abc" } },
					      { { "runs", "nsabc", "" } } };
	const struct signer other = { .key = "x" };
	int64_t a = 0, b = 0;
	auto_free char *token = paging_token(&signer, &list, -7, INT64_MAX);

	cr_assert_eq(read_token(&signer, &list, token, &a, &b), 0);
	cr_assert_eq(a, -7);
	cr_assert_eq(b, INT64_MAX);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		cr_assert_eq(read_token(&signer, &others[i], token, &a, &b), -EINVAL);
	cr_assert_eq(read_token(&other, &list, token, &a, &b), -EINVAL);
}

Test(paging, nothing_else_is_a_token)
{
	const struct paging_list list = { { "runs" } };
	int64_t a = 5, b = 6;
	auto_free char *token = paging_token(&signer, &list, 1, 2);

	cr_assert_eq(read_token(&signer, &list, NULL, &a, &b), 0);
	cr_assert_eq(read_token(&signer, &list, "", &a, &b), 0);
	cr_assert(a == 5 && b == 6);
	for (size_t i = 0; i < strlen(token); i++) {
		char changed[256];
		snprintf(changed, sizeof(changed), "%s", token);
		changed[i] ^= 1;
		cr_assert_eq(read_token(&signer, &list, changed, &a, &b), -EINVAL, "%s", changed);
		changed[i] = '\0';
		cr_assert(i == 0 || read_token(&signer, &list, changed, &a, &b) == -EINVAL);
	}
	cr_assert_eq(read_token(&signer, &list, "100", &a, &b), -EINVAL);
}
