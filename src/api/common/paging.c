#include "api/common/paging.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define SIGNED_CHARS 32 /* of the signature: 128 bits */
#define POSITION_MAX 48

static void sign(const struct signer *s, const struct paging_list *list, const char *position, char ret[SIGNATURE_LEN])
{
	const char *fields[PAGING_FIELDS + 2] = { "list" };

	for (size_t i = 0; i < PAGING_FIELDS; i++)
		fields[i + 1] = list->fields[i] ? list->fields[i] : "";
	fields[PAGING_FIELDS + 1] = position;
	signer_sign(s, fields, ARRAY_LEN(fields), ret);
}

char *paging_token(const struct signer *s, const struct paging_list *list, int64_t position, int64_t second)
{
	char signature[SIGNATURE_LEN], text[POSITION_MAX];

	snprintf(text, sizeof(text), "%lld.%lld", (long long)position, (long long)second);
	sign(s, list, text, signature);
	return xasprintf("%.*s%s", SIGNED_CHARS, signature, text);
}

int paging_read(const struct signer *s, const struct paging_list *list, const char *token, int64_t *ret,
		int64_t *ret_second, struct err *err)
{
	char signature[SIGNATURE_LEN];
	size_t len = str_empty(token) ? 0 : strlen(token);

	if (!len)
		return 0;
	if (len > SIGNED_CHARS && len < SIGNED_CHARS + POSITION_MAX) {
		auto_free char *first = xstrndup(token + SIGNED_CHARS, strcspn(token + SIGNED_CHARS, "."));
		const char *dot = strchr(token + SIGNED_CHARS, '.');
		sign(s, list, token + SIGNED_CHARS, signature);
		if (str_ct_eq(signature, token, SIGNED_CHARS) && dot && str_to_i64(first, ret) == 0 &&
		    str_to_i64(dot + 1, ret_second) == 0)
			return 0;
	}
	return err_set(err, -EINVAL, "pageToken: expected the nextPageToken of the same list");
}
