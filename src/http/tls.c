/* http/tls.c: what OpenSSL is told once for all connections. */
#include "http/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "http/private.h"

#define PIN_BYTES 80

struct http_tls {
	char *certificate, *key; /* paths */
	SSL_CTX *ctx;            /* connections hold it, too */
	int64_t expires_ms;
	char pin[PIN_BYTES];
};

static const char *reason(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *text = e ? ERR_reason_error_string(e) : NULL;

	return text ? text : "not readable";
}

/* -- what is spoken ------------------------------------------------------------------------------------------------ */

/* Whoever offers protocols, and none of these, is refused; whoever offers none speaks HTTP/1.1. HTTP/2 where it is allowed. */
static int on_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_len, const unsigned char *in, unsigned in_len,
		   void *arg UNUSED)
{
	static const unsigned char ours[] = "\x02h2\x08http/1.1";
	size_t skip = SSL_get_app_data(ssl) ? 0 : 3;
	unsigned char *found = NULL;

	if (SSL_select_next_proto(&found, ret_len, ours + skip, (unsigned)(sizeof(ours) - 1 - skip), in,
				  in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*ret = found;
	return SSL_TLSEXT_ERR_OK;
}

/* Nobody is there to type it. */
static int no_password(char *buf UNUSED, int size UNUSED, int writing UNUSED, void *arg UNUSED)
{
	return -1;
}

static int set_protocol(SSL_CTX *ctx, struct err *err)
{
	static const unsigned char name[] = "openreward";

	/* The buffers of a connection that has nothing to say are given back: 34 KiB each. */
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	/* Bodies say their own end, so a peer that leaves without a word cuts nothing off that would pass for whole. */
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF |
					 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_passwd_cb(ctx, no_password);
	SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
	if (!SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) || !SSL_CTX_set_num_tickets(ctx, 1) ||
	    !SSL_CTX_set_session_id_context(ctx, name, sizeof(name) - 1) ||
	    !SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20"))
		return err_set(err, -EIO, "OpenSSL: %s", reason());
	return 0;
}

/* -- files --------------------------------------------------------------------------------------------------------- */

/* OpenSSL's own words about files that cannot be opened are worse. */
static int may_read(const char *what, const char *path, struct err *err)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? err_sys(err, "%s %s", what, path) : 0;
}

static int use_certificate(SSL_CTX *ctx, const char *path, struct err *err)
{
	int r = may_read("certificate", path, err);

	if (r < 0 || SSL_CTX_use_certificate_chain_file(ctx, path) == 1)
		return r;
	return err_set(err, -EINVAL, "certificate %s: %s: expected PEM, the server's own certificate first and the chain behind it",
		       path,
		       reason());
}

static int use_key(SSL_CTX *ctx, const char *path, const char *certificate, struct err *err)
{
	int r = may_read("key", path, err);

	if (r < 0 || SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM) == 1)
		return r;
	int why = ERR_GET_REASON(ERR_peek_last_error());
	if (why == X509_R_KEY_VALUES_MISMATCH || why == X509_R_KEY_TYPE_MISMATCH)
		return err_set(err, -EINVAL, "key %s: it does not belong to the certificate %s", path, certificate);
	return err_set(err, -EINVAL, "key %s: %s: expected a private key as PEM, not encrypted", path, reason());
}

/* -- what is told of them ------------------------------------------------------------------------------------------ */

static int64_t expiry_ms(const X509 *cert)
{
	struct tm tm = { 0 };

	if (!ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm))
		return 0;
	return (int64_t)timegm(&tm) * 1000;
}

static int make_pin(char ret[PIN_BYTES], const X509 *cert, struct err *err)
{
	unsigned char *der = NULL, hash[32];
	auto_buf struct buf b = { 0 };
	int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
	bool hashed = len > 0 && EVP_Digest(der, (size_t)len, hash, NULL, EVP_sha256(), NULL) == 1;

	OPENSSL_free(der);
	buf_init(&b, PIN_BYTES);
	if (!hashed || buf_puts(&b, "sha256//") < 0 || str_base64_append(&b, hash, sizeof(hash)) < 0)
		return err_set(err, -EIO, "OpenSSL: %s", reason());
	memcpy(ret, b.data, b.len + 1);
	return 0;
}

static int load(const struct http_tls *t, struct http_tls *ret, struct err *err)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int r;

	*ret = *t;
	ERR_clear_error();
	r = ctx ? set_protocol(ctx, err) : err_set(err, -ENOMEM, "OpenSSL: %s", reason());
	r = r < 0 ? r : use_certificate(ctx, t->certificate, err);
	r = r < 0 ? r : use_key(ctx, t->key, t->certificate, err);
	r = r < 0 ? r : make_pin(ret->pin, SSL_CTX_get0_certificate(ctx), err);
	ERR_clear_error();
	if (r < 0) {
		SSL_CTX_free(ctx);
		return r;
	}
	ret->expires_ms = expiry_ms(SSL_CTX_get0_certificate(ctx));
	ret->ctx = ctx;
	return 0;
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

int http_tls_reload(struct http_tls *t, struct err *err)
{
	struct http_tls loaded;
	int r = load(t, &loaded, err);

	if (r < 0)
		return r;
	SSL_CTX_free(t->ctx);
	*t = loaded;
	return 0;
}

int http_tls_new(struct http_tls **ret, const char *certificate, const char *key, struct err *err)
{
	struct http_tls *t = NEW(struct http_tls);

	t->certificate = xstrdup(certificate);
	t->key = xstrdup(key);
	int r = http_tls_reload(t, err);
	if (r < 0) {
		http_tls_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

struct http_tls *http_tls_free(struct http_tls *t)
{
	if (!t)
		return NULL;
	SSL_CTX_free(t->ctx);
	free(t->certificate);
	free(t->key);
	free(t);
	return NULL;
}

int64_t http_tls_expires_ms(const struct http_tls *t)
{
	return t->expires_ms;
}

const char *http_tls_pin(const struct http_tls *t)
{
	return t->pin;
}

struct ssl_st *tls_session(const struct http_tls *t, int fd, bool h2)
{
	SSL *ssl = SSL_new(t->ctx);

	if (!ssl || SSL_set_fd(ssl, fd) != 1) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_app_data(ssl, h2 ? (void *)t : NULL); /* for on_alpn() */
	SSL_set_accept_state(ssl);
	return ssl;
}
