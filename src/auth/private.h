/* auth/private.h: shared by the files of src/auth. */
#pragma once

#include <openssl/evp.h>

#include "auth/auth.h"
#include "base/map.h"

struct auth {
	struct store *store;
	struct map *session_keys;    /* struct session_key by the hash of its text */
	struct map *keys_of_session; /* the same by session id */
	EVP_MD *sha256;              /* fetched once, with its context: each request's key is hashed */
	EVP_MD_CTX *digest;
	struct auth_limits limits;
};

/* What is remembered with a request: a handler that reads a body asks twice. */
struct auth_seen {
	struct auth_caller caller;
	struct auth *auth;
	int64_t audit_id; /* 0 = no entry */
};

/* limits.c: one request of a key. -EUSERS (429). */
MUST_CHECK int auth_take_token(struct auth *a, struct store_key *k, struct err *err);

/* audit.c: whether there is room for an entry where the request asks for a change. -ENOSPC (507): nothing can be written, and too
 * much waits for it already. */
MUST_CHECK int auth_audit_check(struct auth *a, struct http_req *req, struct err *err);
/* Writes it; the answer's status follows by itself. */
void auth_audit_begin(struct auth *a, struct http_req *req, struct auth_seen *seen);
