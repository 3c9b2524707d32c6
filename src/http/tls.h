/* http/tls.h: a certificate with its key, which connections of a server are made safe with (http_server_listen). TLS 1.2
 * and 1.3, h2 and http/1.1 by ALPN, no client certificates, no renegotiation; tickets instead of a cache of sessions.
 *
 * Owned by whoever made it, and outlives the servers that use it. Loop thread only. The process must ignore SIGPIPE. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

struct http_tls;

/* Paths of PEM files: the server's certificate with the chain behind it; its key, not encrypted. Copied. The files must be
 * readable now, and at every http_tls_reload(). Errors name the file and what is wrong: the system's (-ENOENT, -EACCES),
 * -EINVAL for what is in it or a key of another certificate. */
MUST_CHECK int http_tls_new(struct http_tls **ret, const char *certificate, const char *key, struct err *err);
struct http_tls *http_tls_free(struct http_tls *t); /* NULL is allowed; returns NULL */
DEFINE_FREEP(http_tls, http_tls_free)

/* Reads both files anew: connections from now on have what is in them, those there are go on. On failure, which is as
 * with http_tls_new(), everything stays as it was. */
MUST_CHECK int http_tls_reload(struct http_tls *t, struct err *err);

int64_t http_tls_expires_ms(const struct http_tls *t); /* wall clock: the certificate is valid until then */
/* "sha256//BASE64": hash of the public key, in curl's notation. Valid until the next reload. */
const char *http_tls_pin(const struct http_tls *t);
