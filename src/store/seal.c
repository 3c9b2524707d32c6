#include "store/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

#define NAME "secrets.key"
#define PREFIX "sealed1:"
#define NONCE_BYTES 12
#define TAG_BYTES 16
#define TEXT_MAX (32u << 20)

void seal_init(struct seal *s, const char *database_path)
{
	auto_free char *copy = xstrdup(database_path);

	*s = (struct seal){ .path = xasprintf("%s/" NAME, dirname(copy)) };
}

void seal_done(struct seal *s)
{
	free(s->path);
	explicit_bzero(s, sizeof(*s));
}

/* -- the key ----------------------------------------------------------------------------------------------------- */

static int read_key(struct seal *s, struct err *err)
{
	auto_fd fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	unsigned char more;

	if (fd < 0)
		return err_sys(err, "the key of stored secrets, %s", s->path);
	if (read(fd, s->key, sizeof(s->key)) != sizeof(s->key) || read(fd, &more, 1) != 0)
		return err_set(err, -EINVAL, "%s: expected a key of %zu bytes", s->path, sizeof(s->key));
	s->loaded = true;
	return 0;
}

static int make_key(struct seal *s, struct err *err)
{
	unsigned char key[sizeof(s->key)];

	random_bytes(key, sizeof(key));
	int r = fd_write_file(s->path, key, sizeof(key), 0600, err);
	explicit_bzero(key, sizeof(key));
	return r < 0 ? r : read_key(s, err);
}

static int need_key(struct seal *s, bool make, struct err *err)
{
	if (s->loaded)
		return 0;
	int r = read_key(s, err);
	return r == -ENOENT && make ? make_key(s, err) : r;
}

/* -- texts ------------------------------------------------------------------------------------------------------- */

static int failed(EVP_CIPHER_CTX *c)
{
	EVP_CIPHER_CTX_free(c);
	return -EINVAL;
}

/* in and out have len bytes; the tag is made, or checked. Negative only for a tag that does not fit. */
static int crypt_bytes(const struct seal *s, bool seal, const unsigned char *nonce, const char *belongs_to,
		       const unsigned char *in, size_t len, unsigned char *out, unsigned char *tag)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n = 0;

	if (!c || EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, s->key, nonce, seal) != 1 ||
	    EVP_CipherUpdate(c, NULL, &n, (const unsigned char *)belongs_to, (int)strlen(belongs_to)) != 1 ||
	    EVP_CipherUpdate(c, out, &n, in, (int)len) != 1)
		return failed(c);
	if (!seal && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) != 1)
		return failed(c);
	if (EVP_CipherFinal_ex(c, out + n, &n) != 1)
		return failed(c);
	if (seal && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) != 1)
		return failed(c);
	EVP_CIPHER_CTX_free(c);
	return 0;
}

int seal_text(struct seal *s, const char *belongs_to, const char *text, char **ret, struct err *err)
{
	size_t len = strlen(text), all = NONCE_BYTES + TAG_BYTES + len;
	int r = len > TEXT_MAX ? err_set(err, -EMSGSIZE, "%zu bytes of secrets: expected at most %u", len, TEXT_MAX) :
				 need_key(s, true, err);
	auto_buf struct buf b = { 0 };

	if (r < 0)
		return r;
	auto_free unsigned char *bytes = xmalloc(all);
	random_bytes(bytes, NONCE_BYTES);
	buf_init(&b, BUF_UNLIMITED);
	r = crypt_bytes(s, true, bytes, belongs_to, (const unsigned char *)text, len, bytes + NONCE_BYTES + TAG_BYTES,
			bytes + NONCE_BYTES);
	r = r < 0 ? r : buf_puts(&b, PREFIX);
	r = r < 0 ? r : str_base64_append(&b, bytes, all);
	if (r < 0)
		return err_set(err, r, "secrets could not be sealed");
	*ret = xstrdup(b.data);
	return 0;
}

int seal_open(struct seal *s, const char *belongs_to, const char *sealed, char **ret, struct err *err)
{
	auto_buf struct buf b = { 0 };
	int r = need_key(s, false, err);

	if (r < 0)
		return r;
	buf_init(&b, BUF_UNLIMITED);
	if (!str_starts(sealed, PREFIX) || str_base64_decode(&b, sealed + strlen(PREFIX), strlen(sealed + strlen(PREFIX))) < 0 ||
	    b.len < NONCE_BYTES + TAG_BYTES)
		return err_set(err, -EINVAL, "%s: these are no sealed secrets", belongs_to);
	size_t len = b.len - NONCE_BYTES - TAG_BYTES;
	unsigned char *bytes = (unsigned char *)b.data;
	auto_free char *text = xmalloc(len + 1);
	r = crypt_bytes(s, false, bytes, belongs_to, bytes + NONCE_BYTES + TAG_BYTES, len, (unsigned char *)text,
			bytes + NONCE_BYTES);
	text[len] = 0;
	if (r < 0)
		return err_set(err, r, "%s: its secrets were sealed with another key than %s", belongs_to, s->path);
	*ret = STEAL(text);
	return 0;
}
