/* auth/auth.h: who is asking, and what they may do. Keys are 32 random bytes written as "orw_" and 43 characters of
 * base64url; the store has their SHA-256 only. A look-up is one hash and one map access: nothing here touches the
 * database. The randomness of a key (256 bits) makes a plain fast hash enough: there is no dictionary to try.
 * Owned by the daemon; borrows the store. Loop thread only. */
#pragma once

#include "http/server.h"
#include "store/store.h"

#define AUTH_KEY_PREFIX "orw_"
#define AUTH_KEY_LEN 48 /* characters of a key with the final NUL */

struct auth;

/* Of each key that has none of its own; 0 = no limit. By enum store_key_use: what is open at once, that of the sessions that
 * it opened included. STORE_LIMIT_RATE: requests a second; twice as many may come at once after a pause. Pings and deletes
 * are free. */
struct auth_limits {
	uint64_t of[STORE_LIMITS];
};

MUST_CHECK int auth_new(struct auth **ret, struct store *store, struct err *err);
void auth_set_limits(struct auth *a, const struct auth_limits *limits); /* copied; without it there are none */
struct auth *auth_free(struct auth *a); /* NULL is allowed; returns NULL */
DEFINE_FREEP(auth, auth_free)

/* The one who sent a request. Lives as long as the request; ns and key belong to the store. role is what it has in ns. */
struct auth_caller {
	const char *namespace_id, *namespace_name;
	const char *key_id;
	enum store_role role;
	struct store_namespace *ns;
	const char *session_id; /* the key is the own one of this session; NULL = an ordinary key */
	struct store_namespace *user; /* who it is, whose organisations it may act in; NULL = a key of a namespace or session */
	struct store_key *key;        /* the ordinary key, also behind a session's; NULL = a session's of a former daemon */
};

/* Reads `X-API-Key: KEY` (any case), or `Authorization: Bearer KEY`, or the password of `Authorization: Basic`, as git sends
 * it (any user name). -EKEYREJECTED (401) when there is none or it is not
 * valid, expired or revoked; the message does not say which keys exist and never repeats the key. -EPERM (403): its role is
 * reader, and this request does more than read, whatever it is about. -EUSERS (429): it has sent too many requests.
 * -ENOSPC (507): a change that the audit log has no room for (store_check_queue). */
MUST_CHECK int auth_request(struct auth *a, struct http_req *req, const struct auth_caller **ret, struct err *err);
/* The user name of `Authorization: Basic`, which no key depends on; alive as long as the request. NULL or "": none. */
const char *auth_basic_user(struct http_req *req);
/* For what may be asked without a key (public environments): *ret = NULL when the request names no key; a key that is
 * named must be valid. */
MUST_CHECK int auth_request_optional(struct auth *a, struct http_req *req, const struct auth_caller **ret, struct err *err);
/* The text of a key, when it does not come with a request ("api_key" of X-Secrets). ret->* belong to the store. */
MUST_CHECK int auth_key(struct auth *a, const char *key, struct auth_caller *ret, struct err *err);

/* Answers with what auth_request() said: 401, 403 or 429. */
void auth_refuse(struct http_req *req, const struct err *err);

/* Says more of the request's entry in the audit log (store/audit.h) than its path does: whose the thing is, and what. Harmless
 * where there is none. */
void auth_audit_note(struct http_req *req, const struct store_namespace *ns, const char *target);

/* One more session or sandbox of c's key. -EUSERS (429) at its limit. */
MUST_CHECK int auth_may_open(struct auth *a, const struct auth_caller *c, enum store_key_use use, struct err *err);
/* What is open is counted by whoever holds it, from auth_count(key, use, 1) to auth_count(key, use, -1). key may be NULL. */
void auth_count(struct store_key *key, enum store_key_use use, int by);
struct store_key *auth_key_by_id(struct auth *a, const char *id); /* NULL = none; id may be NULL */

/* What c has in ns: its role where it acts for ns, admin for admins, what its user is where that is a member, cut to the
 * key's own role. AUTH_NOBODY: a stranger, as is everybody where c is NULL. */
#define AUTH_NOBODY (-1)
int auth_role_in(const struct auth_caller *c, const struct store_namespace *ns);
/* A method and path that a reader may send: everything that changes nothing. Sessions may be opened, looked at and ended:
 * tasks are listed through them; the gateway sees to it that a reader has its own only. */
bool auth_reads_only(const char *method, const char *path);
/* Environments, keys, ... of ns: member at least, where ns may be known. -EPERM. */
MUST_CHECK int auth_may_change_namespace(const struct auth_caller *c, const struct store_namespace *ns, struct err *err);
/* Its keys and members: an owner of ns, or an admin, not by a session's key. -ENOENT to strangers, in the words of what is
 * missing, else -EPERM. */
MUST_CHECK int auth_may_manage(const struct auth_caller *c, const struct store_namespace *ns, struct err *err);
MUST_CHECK int auth_may_know(const struct auth_caller *c, const struct store_namespace *ns, struct err *err); /* -ENOENT */
/* A key that was made: a user's own keys, and for who may manage where it acts. Errors as for auth_may_manage(). */
MUST_CHECK int auth_may_manage_key(const struct auth_caller *c, const struct store_key *k, struct err *err);
/* Fills in what spec leaves open (role NULL = the usual one; expires_ms 0 = as long as the caller's own) and checks that the
 * caller may make it: no key does more, or lives longer, than the one that made it. -EINVAL, -EPERM, -ENOENT. */
MUST_CHECK int auth_may_make_key(const struct auth_caller *c, struct store_key_spec *spec, const char *role, struct err *err);
/* A key's limits, narrowed by those of its makers (store_key.maker). */
void auth_limits_in_force(struct auth *a, const struct store_key *key, int64_t ret[STORE_LIMITS]);
/* The limits of a key that c makes, or may manage. Without an operator's key none is wider than what is in force for the
 * caller's own: -EPERM names it. */
MUST_CHECK int auth_may_limit(struct auth *a, const struct auth_caller *c, const int64_t limits[STORE_LIMITS], struct err *err);
/* -EPERM (403) with what was needed. */
MUST_CHECK int auth_need_role(const struct auth_caller *c, enum store_role role, struct err *err);

/* Environments. see: public ones, one's own namespace's, everything for admins; -ENOENT (404) otherwise, with the same
 * text as for one that does not exist. change: a member of its namespace or an admin; -ENOENT when it may not even be
 * seen, else -EPERM. c may be NULL (no key). */
MUST_CHECK int auth_may_see(const struct auth_caller *c, const struct store_environment *e, struct err *err);
MUST_CHECK int auth_may_change(const struct auth_caller *c, const struct store_environment *e, struct err *err);
/* Both look-ups in one: finds owner/name (owner NULL or "" = the caller's own namespace) and checks auth_may_see. */
MUST_CHECK int auth_find_environment(struct auth *a, const struct auth_caller *c, const char *owner, const char *name,
				     struct store_environment **ret, struct err *err);

/* Makes a key; its text is given once, here. The record is queued: store_sync() before telling anybody. ret_key may be NULL. */
MUST_CHECK int auth_key_make_as(struct auth *a, const struct store_key_spec *spec, char ret[AUTH_KEY_LEN],
				struct store_key **ret_key, struct err *err);
MUST_CHECK int auth_key_make(struct auth *a, struct store_namespace *ns, enum store_role role, const char *label,
			     char ret[AUTH_KEY_LEN], struct err *err);
/* The first start: a namespace `local` and an admin key in path (mode 0600), written aside and renamed. A later start
 * finds the namespace and does nothing, unless the file is gone: then it makes another key. *ret_text: the key. */
MUST_CHECK int auth_first_start(struct auth *a, const char *path, char ret_text[AUTH_KEY_LEN], struct err *err);

/* A key of a session's own, for the environment that serves it: it acts for caller's namespace, as a member at most, and
 * what it opens belongs to the session. In memory only; valid until dropped. One per session: asked again, the first
 * becomes invalid. */
void auth_session_key_make(struct auth *a, const struct auth_caller *caller, const char *session_id, char ret[AUTH_KEY_LEN]);
/* The same with the hash of a key that a former daemon made, whose text is gone: stays valid beside one that is made later. */
#define AUTH_HASH_LEN STORE_HASH_LEN
void auth_session_key_restore(struct auth *a, const struct auth_caller *caller, const char *session_id,
			      const unsigned char hash[AUTH_HASH_LEN]);
/* Of the key made last; false = there is none. */
bool auth_session_key_hash(struct auth *a, const char *session_id, unsigned char ret[AUTH_HASH_LEN], enum store_role *ret_role);
void auth_session_key_drop(struct auth *a, const char *session_id);
