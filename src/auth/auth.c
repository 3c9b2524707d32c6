#include "auth/auth.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "auth/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"
#include "store/audit.h"

#define RETRY_AFTER_S "2"

struct session_key {
	unsigned char hash[STORE_HASH_LEN];
	char session_id[STORE_ID_LEN];
	struct auth_caller caller;
	/* Of a former daemon; NULL = none. Not in keys_of_session itself while there is a newer one. */
	struct session_key *restored;
};

int auth_new(struct auth **ret, struct store *store, struct err *err)
{
	struct auth *a = NEW(struct auth);

	a->store = store;
	a->session_keys = map_new();
	a->keys_of_session = map_new();
	a->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	a->digest = EVP_MD_CTX_new();
	if (!a->sha256 || !a->digest) {
		auth_free(a);
		return err_set(err, -ENOTSUP, "OpenSSL has no SHA-256");
	}
	*ret = a;
	return 0;
}

struct auth *auth_free(struct auth *a)
{
	struct map_iter it = { 0 };

	if (!a)
		return NULL;
	while (map_next(a->keys_of_session, &it)) {
		struct session_key *k = it.value;
		if (k->restored != k)
			free(k->restored);
		free(k);
	}
	map_free(a->session_keys);
	map_free(a->keys_of_session);
	EVP_MD_CTX_free(a->digest);
	EVP_MD_free(a->sha256);
	free(a);
	return NULL;
}

struct store_key *auth_key_by_id(struct auth *a, const char *id)
{
	return id ? store_key_by_id(a->store, id) : NULL;
}

/* -- keys ------------------------------------------------------------------------------------------------------ */

static void hash_key(struct auth *a, const char *key, unsigned char ret[STORE_HASH_LEN])
{
	unsigned len = STORE_HASH_LEN;

	if (!EVP_DigestInit_ex2(a->digest, a->sha256, NULL) || !EVP_DigestUpdate(a->digest, key, strlen(key)) ||
	    !EVP_DigestFinal_ex(a->digest, ret, &len))
		abort(); /* SHA-256 cannot fail on memory; going on with an unset hash could let somebody in */
}

static bool looks_like_key(const char *key)
{
	return strlen(key) == AUTH_KEY_LEN - 1 && str_starts(key, AUTH_KEY_PREFIX);
}

/* What a key has where it acts; AUTH_NOBODY: its user is no member there any more. */
static int role_of(const struct store_key *k)
{
	if (!k->user || k->user == k->ns)
		return k->role;
	const struct store_member *m = store_member_find(k->ns, k->user);
	return m ? (int)MIN(k->role, m->role) : AUTH_NOBODY;
}

int auth_key(struct auth *a, const char *key, struct auth_caller *ret, struct err *err)
{
	unsigned char hash[STORE_HASH_LEN];

	if (!key || !looks_like_key(key))
		return err_set(err, -EKEYREJECTED, "the API key is not valid");
	hash_key(a, key, hash);
	const struct session_key *of_session = map_get_bytes(a->session_keys, hash, sizeof(hash));
	struct store_key *k = of_session ? of_session->caller.key : store_key_by_hash(a->store, hash);
	int role = k ? role_of(k) : AUTH_NOBODY;
	if (k ? store_key_is_over(k) || role == AUTH_NOBODY : !of_session)
		return err_set(err, -EKEYREJECTED, "the API key is not valid");
	if (of_session) {
		*ret = of_session->caller;
		if (k) /* what its user is where it acts may be less by now */
			ret->role = MIN(ret->role, (enum store_role)role);
		return 0;
	}
	*ret = (struct auth_caller){
		.namespace_id = k->ns->id,
		.namespace_name = k->ns->name,
		.key_id = k->id,
		.role = (enum store_role)role,
		.ns = k->ns,
		.user = k->user,
		.key = k,
	};
	return 0;
}

/* What `Authorization: SCHEME REST` has after SCHEME and blanks; NULL = no such header, or of another scheme. */
static const char *after_scheme(const struct http_req *req, const char *scheme)
{
	const char *value = http_req_header(req, "Authorization");
	size_t len = strlen(scheme);

	if (!value || strncasecmp(value, scheme, len) != 0 || value[len] != ' ')
		return NULL;
	return value + len + strspn(value + len, " ");
}

/* Of "BASE64(USER:PASSWORD)", as long as the request; "" of what is none: a key that is not valid, a user that is not said. */
static const char *basic_part(struct http_req *req, const char *base64, bool user)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	int r = str_base64_decode(&b, base64, strlen(base64));
	const char *colon = r < 0 ? NULL : memchr(b.data, ':', b.len);
	const char *part = !colon ? "" : user ? b.data : colon + 1;
	size_t len = !colon ? 0 : user ? (size_t)(colon - b.data) : strlen(part);
	char *copy = http_req_alloc(req, len + 1);
	memcpy(copy, part, len);
	copy[len] = '\0';
	explicit_bzero(b.data, b.len);
	return copy;
}

const char *auth_basic_user(struct http_req *req)
{
	const char *basic = after_scheme(req, "Basic");

	return basic ? basic_part(req, basic, true) : NULL;
}

static const char *key_of(struct http_req *req)
{
	const char *key = http_req_header(req, "X-API-Key");

	if (!str_empty(key))
		return key;
	const char *bearer = after_scheme(req, "Bearer"), *basic = bearer ? NULL : after_scheme(req, "Basic");
	return basic ? basic_part(req, basic, false) : bearer;
}

/* What keeps alive and what ends is never refused: that would cost more than it spares. */
static bool is_free(const struct http_req *req)
{
	const char *path = http_req_path(req);

	return str_eq(path, "/ping") || str_eq(path, "/delete") || str_eq(path, "/delete_session");
}

/* Once for each request: a handler that reads a body asks twice. */
static int on_first_sight(struct auth *a, struct http_req *req, const struct auth_caller *c, struct err *err)
{
	if (!c->key)
		return 0;
	if (!c->session_id)
		store_key_used(a->store, c->key);
	return c->session_id || is_free(req) ? 0 : auth_take_token(a, c->key, err);
}

static int check_read_only(struct http_req *req, const struct auth_caller *c, struct err *err)
{
	if (c->role != STORE_ROLE_READER || auth_reads_only(http_req_method(req), http_req_path(req)))
		return 0;
	return err_set(err, -EPERM, "this key is read-only, and %s %.200s is a change: it needs a member's", http_req_method(req),
		       http_req_path(req));
}

int auth_request_optional(struct auth *a, struct http_req *req, const struct auth_caller **ret, struct err *err)
{
	const char *key = key_of(req);
	struct auth_caller caller;

	if (!key) {
		*ret = NULL;
		return 0;
	}
	int r = auth_key(a, key, &caller, err);
	if (r < 0)
		return r;
	struct auth_seen *seen = http_req_caller(req);
	bool first = !seen;
	if (first) {
		seen = http_req_alloc(req, sizeof(*seen));
		*seen = (struct auth_seen){ .auth = a };
		http_req_set_caller(req, seen);
	}
	seen->caller = caller;
	if (first) {
		r = on_first_sight(a, req, &caller, err);
		r = r < 0 ? r : auth_audit_check(a, req, err);
		if (r == 0) /* what came too often was not looked at, and would fill the log */
			auth_audit_begin(a, req, seen);
	}
	r = r < 0 ? r : check_read_only(req, &caller, err);
	if (r == 0)
		*ret = &seen->caller;
	return r;
}

void auth_refuse(struct http_req *req, const struct err *err)
{
	if (err->code == -EUSERS)
		http_reply_header(req, "Retry-After", RETRY_AFTER_S);
	http_reply_error(req, err->code == -EPERM ? 403 : err->code == -EUSERS ? 429 : 401, "%s", err->msg);
}

int auth_request(struct auth *a, struct http_req *req, const struct auth_caller **ret, struct err *err)
{
	const struct auth_caller *c;
	int r = auth_request_optional(a, req, &c, err);

	if (r < 0)
		return r;
	if (!c)
		return err_set(err, -EKEYREJECTED, "no API key: send one in the header X-API-Key or as a Bearer token");
	*ret = c;
	return 0;
}

/* 32 bytes in base64url without padding: 43 characters. */
static void key_text(const unsigned char bytes[32], char ret[AUTH_KEY_LEN])
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char *p = (char *)memcpy(ret, AUTH_KEY_PREFIX, strlen(AUTH_KEY_PREFIX)) + strlen(AUTH_KEY_PREFIX);
	uint32_t bits = 0;
	unsigned n = 0;

	for (size_t i = 0; i < 32; i++) {
		bits = bits << 8 | bytes[i];
		for (n += 8; n >= 6; n -= 6)
			*p++ = digits[bits >> (n - 6) & 63];
	}
	*p++ = digits[bits << (6 - n) & 63];
	*p = '\0';
}

int auth_key_make(struct auth *a, struct store_namespace *ns, enum store_role role, const char *label,
		  char ret[AUTH_KEY_LEN], struct err *err)
{
	struct store_key_spec spec = { .ns = ns, .role = role, .label = label };

	return auth_key_make_as(a, &spec, ret, NULL, err);
}

int auth_key_make_as(struct auth *a, const struct store_key_spec *spec, char ret[AUTH_KEY_LEN], struct store_key **ret_key,
		     struct err *err)
{
	unsigned char bytes[32], hash[STORE_HASH_LEN];
	char text[AUTH_KEY_LEN];
	struct store_key *k;

	random_bytes(bytes, sizeof(bytes));
	key_text(bytes, text);
	hash_key(a, text, hash);
	int r = store_key_add(a->store, spec, hash, &k, err);
	if (r == 0) {
		memcpy(ret, text, sizeof(text));
		if (ret_key)
			*ret_key = k;
	}
	explicit_bzero(bytes, sizeof(bytes));
	explicit_bzero(text, sizeof(text));
	return r;
}

static struct session_key *session_key_add(struct auth *a, const struct auth_caller *caller, const char *session_id,
					   const unsigned char hash[STORE_HASH_LEN])
{
	struct session_key *k = NEW(struct session_key);

	memcpy(k->hash, hash, sizeof(k->hash));
	snprintf(k->session_id, sizeof(k->session_id), "%s", session_id);
	k->caller = *caller;
	k->caller.session_id = k->session_id;
	k->caller.role = MIN(caller->role, STORE_ROLE_MEMBER);
	k->caller.user = NULL; /* nor in the organisations of whoever opened it */
	map_put_bytes(a->session_keys, k->hash, sizeof(k->hash), k);
	return k;
}

/* One whose text nobody has any more here, but perhaps an environment's server. */
static struct session_key *take_restored(struct auth *a, const char *session_id)
{
	struct session_key *old = map_get(a->keys_of_session, session_id), *restored = old ? old->restored : NULL;

	if (!old || restored != old)
		return old ? STEAL(old->restored) : NULL;
	map_del(a->keys_of_session, session_id);
	return restored;
}

void auth_session_key_make(struct auth *a, const struct auth_caller *caller, const char *session_id, char ret[AUTH_KEY_LEN])
{
	unsigned char bytes[32], hash[STORE_HASH_LEN];
	struct session_key *restored = take_restored(a, session_id), *k;

	auth_session_key_drop(a, session_id);
	random_bytes(bytes, sizeof(bytes));
	key_text(bytes, ret);
	explicit_bzero(bytes, sizeof(bytes));
	hash_key(a, ret, hash);
	k = session_key_add(a, caller, session_id, hash);
	k->restored = restored;
	map_put(a->keys_of_session, k->session_id, k);
}

void auth_session_key_restore(struct auth *a, const struct auth_caller *caller, const char *session_id,
			      const unsigned char hash[AUTH_HASH_LEN])
{
	struct session_key *k = session_key_add(a, caller, session_id, hash);

	k->restored = k; /* it is one itself */
	map_put(a->keys_of_session, k->session_id, k);
}

bool auth_session_key_hash(struct auth *a, const char *session_id, unsigned char ret[AUTH_HASH_LEN], enum store_role *ret_role)
{
	const struct session_key *k = map_get(a->keys_of_session, session_id);

	if (!k)
		return false;
	memcpy(ret, k->hash, AUTH_HASH_LEN);
	*ret_role = k->caller.role;
	return true;
}

static void session_key_free(struct auth *a, struct session_key *k)
{
	if (k)
		map_del_bytes(a->session_keys, k->hash, sizeof(k->hash));
	free(k);
}

void auth_session_key_drop(struct auth *a, const char *session_id)
{
	struct session_key *k = map_del(a->keys_of_session, session_id);

	if (k && k->restored != k)
		session_key_free(a, k->restored);
	session_key_free(a, k);
}

/* The file's key, when it is one that this store knows. */
static bool file_key_valid(struct auth *a, const char *path, char ret[AUTH_KEY_LEN])
{
	struct auth_caller c;
	struct err err;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	if (fd_read_file(path, &b, &err) < 0)
		return false;
	b.data[strcspn(b.data, "\r\n")] = '\0';
	if (auth_key(a, b.data, &c, &err) < 0)
		return false;
	memcpy(ret, b.data, AUTH_KEY_LEN);
	return true;
}

int auth_first_start(struct auth *a, const char *path, char ret_text[AUTH_KEY_LEN], struct err *err)
{
	struct store_namespace *ns = store_namespace_find(a->store, STORE_NAMESPACE_LOCAL);
	char line[AUTH_KEY_LEN + 1];
	int r;

	if (ns && file_key_valid(a, path, ret_text))
		return 0;
	if (!ns) {
		/* "org": the command line asks for one first and takes it for the default owner. */
		r = store_namespace_add(a->store, STORE_NAMESPACE_LOCAL, "org", &ns, err);
		if (r < 0)
			return r;
	}
	r = auth_key_make(a, ns, STORE_ROLE_ADMIN, "admin.key", ret_text, err);
	if (r < 0)
		return r;
	store_audit_own(a->store, "START admin.key", "a key of an operator was made");
	snprintf(line, sizeof(line), "%s\n", ret_text);
	return fd_write_file(path, line, strlen(line), 0600, err);
}

/* -- permission ------------------------------------------------------------------------------------------------ */

int auth_role_in(const struct auth_caller *c, const struct store_namespace *ns)
{
	if (!c)
		return AUTH_NOBODY;
	if (c->ns == ns || c->role == STORE_ROLE_ADMIN)
		return c->role;
	/* A user's key for one organisation is for that alone. */
	const struct store_member *m = c->user && c->user == c->ns ? store_member_find(ns, c->user) : NULL;
	return m ? (int)MIN(c->key->role, m->role) : AUTH_NOBODY;
}

int auth_need_role(const struct auth_caller *c, enum store_role role, struct err *err)
{
	if (c->role >= role)
		return 0;
	return err_set(err, -EPERM, "this key's role is %s, the request needs %s", store_role_name(c->role),
		       store_role_name(role));
}

int auth_may_change_namespace(const struct auth_caller *c, const struct store_namespace *ns, struct err *err)
{
	int role = auth_role_in(c, ns);

	if (role >= STORE_ROLE_MEMBER)
		return 0;
	if (role == AUTH_NOBODY)
		return err_set(err, -EPERM, "the namespace \"%s\" is not this key's, which is \"%s\"", ns->name, c->namespace_name);
	return err_set(err, -EPERM, "this key's role in %s is %s, the request needs %s", ns->name,
		       store_role_name((enum store_role)role), store_role_name(STORE_ROLE_MEMBER));
}

static int not_there(const char *owner, const char *name, struct err *err)
{
	return err_set(err, -ENOENT, "Deployment not found. There is no environment \"%s/%s\" that this key may see", owner,
		       name);
}

static bool sees(const struct auth_caller *c, const struct store_environment *e)
{
	return !e->removing && (!e->is_private || auth_role_in(c, e->ns) >= STORE_ROLE_READER);
}

int auth_may_see(const struct auth_caller *c, const struct store_environment *e, struct err *err)
{
	return sees(c, e) ? 0 : not_there(e->ns->name, e->name, err);
}

int auth_may_change(const struct auth_caller *c, const struct store_environment *e, struct err *err)
{
	if (!sees(c, e))
		return not_there(e->ns->name, e->name, err);
	if (!c)
		return err_set(err, -EKEYREJECTED, "no API key: send one in the header X-API-Key or as a Bearer token");
	if (auth_role_in(c, e->ns) == AUTH_NOBODY)
		return err_set(err, -EPERM, "the environment \"%s/%s\" belongs to another namespace than this key", e->ns->name,
			       e->name);
	return auth_may_change_namespace(c, e->ns, err);
}

int auth_find_environment(struct auth *a, const struct auth_caller *c, const char *owner, const char *name,
			  struct store_environment **ret, struct err *err)
{
	if (str_empty(owner))
		owner = c ? c->namespace_name : STORE_NAMESPACE_LOCAL;
	struct store_environment *e = store_environment_find(a->store, owner, name);
	if (!e || !sees(c, e))
		return not_there(owner, name, err);
	*ret = e;
	return 0;
}
