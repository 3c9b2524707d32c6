/* auth/signer.h: signatures of this installation over a few fields: what a URL allows, where a page of a list ended. The
 * key is random and made at the first start, in the database; it never leaves the program. Loop thread only. */
#pragma once

#include "store/store.h"

#define SIGNATURE_LEN 65 /* hex of an HMAC-SHA256 with NUL */

struct signer {
	unsigned char key[32];
};

/* Takes the store's key, or makes one. */
void signer_init(struct signer *s, struct store *store);
/* Over the fields in their order and with their lengths, so that no two lists of fields look alike. */
void signer_sign(const struct signer *s, const char *const *fields, size_t n, char ret[SIGNATURE_LEN]);
/* In time that does not depend on where they differ; NULL is no signature. */
bool signer_check(const struct signer *s, const char *const *fields, size_t n, const char *signature);
