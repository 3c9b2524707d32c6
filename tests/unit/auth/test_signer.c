#include <criterion/criterion.h>
#include <string.h>

#include "auth/signer.h"

static const struct signer key = { "0123456789abcdef0123456789abcdef" };
static const struct signer other = { "0123456789abcdef0123456789abcdeg" };

Test(signer, takes_its_own_and_nothing_else)
{
	const char *fields[] = { "upload", "env", "name" }, *moved[] = { "upload", "envn", "ame" }, *more[] = { "upload", "env", "name", "" };
	char s[SIGNATURE_LEN], cut[SIGNATURE_LEN];

	signer_sign(&key, fields, 3, s);
	cr_assert_eq(strlen(s), SIGNATURE_LEN - 1);
	cr_assert(signer_check(&key, fields, 3, s));
	cr_assert_not(signer_check(&other, fields, 3, s));
	cr_assert_not(signer_check(&key, moved, 3, s), "fields do not run together");
	cr_assert_not(signer_check(&key, more, 4, s));
	cr_assert_not(signer_check(&key, fields, 2, s));
	cr_assert_not(signer_check(&key, fields, 3, NULL));
	cr_assert_not(signer_check(&key, fields, 3, ""));
	memcpy(cut, s, sizeof(s));
	cut[SIGNATURE_LEN - 2] = '\0';
	cr_assert_not(signer_check(&key, fields, 3, cut));
	for (size_t i = 0; i < SIGNATURE_LEN - 1; i++) {
		memcpy(cut, s, sizeof(s));
		cut[i] = cut[i] == '0' ? '1' : '0';
		cr_assert_not(signer_check(&key, fields, 3, cut), "byte %zu", i);
	}
}
