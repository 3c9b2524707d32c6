#include "auth/signer.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

#define SETTING "signing_key"
#define FIELDS_MAX_BYTES (64u * 1024)

void signer_init(struct signer *s, struct store *store)
{
	const char *known = store_setting(store, SETTING);
	char text[2 * sizeof(s->key) + 1];

	if (known && str_unhex(known, s->key, sizeof(s->key)) == 0)
		return;
	random_bytes(s->key, sizeof(s->key));
	str_hex(s->key, sizeof(s->key), text);
	store_setting_put(store, SETTING, text);
	explicit_bzero(text, sizeof(text));
}

void signer_sign(const struct signer *s, const char *const *fields, size_t n, char ret[SIGNATURE_LEN])
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int len = sizeof(mac);
	auto_buf struct buf b = { 0 };
	int r = 0;

	buf_init(&b, FIELDS_MAX_BYTES);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = buf_printf(&b, "%zu:%s,", strlen(fields[i]), fields[i]);
	if (r < 0 || !HMAC(EVP_sha256(), s->key, sizeof(s->key), (const unsigned char *)b.data, b.len, mac, &len))
		abort(); /* fields of a request that was checked: a mistake of the program, and no signature is safe then */
	str_hex(mac, (SIGNATURE_LEN - 1) / 2, ret);
}

bool signer_check(const struct signer *s, const char *const *fields, size_t n, const char *signature)
{
	char good[SIGNATURE_LEN];

	if (!signature || strlen(signature) != SIGNATURE_LEN - 1)
		return false;
	signer_sign(s, fields, n, good);
	return str_ct_eq(good, signature, SIGNATURE_LEN - 1);
}
