/* gateway/secrets.c: the key that an environment gets. Clients send their own platform key along in X-Secrets, so that the
 * environment can open sandboxes for the session; the environment's code need not be able to do more than that. It gets
 * a key of the session instead: valid for the platform alone, gone with the session, and it says to which session the
 * sandboxes opened with it belong. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"
#include "json/json.h"

#define SECRETS_MAX (64u * 1024)

/* True when the secret is a key of this platform, of whatever namespace: its owner may have several. */
static bool is_our_key(struct session *s, const char *value)
{
	struct auth_caller of_secret;
	return value && auth_key(s->g->auth, value, &of_secret, NULL) == 0;
}

static bool replace(struct session *s, json_t *secret)
{
	if (json_is_string(secret) && is_our_key(s, json_string_value(secret)))
		return json_string_set(secret, s->key) == 0;
	if (!is_our_key(s, json_string_value(json_object_get(secret, "value"))))
		return false;
	return json_object_set_new(secret, "value", json_string(s->key)) == 0;
}

static int decode(json_t **ret, const char *header)
{
	auto_buf struct buf text = { 0 };
	buf_init(&text, SECRETS_MAX);
	int r = str_base64_decode(&text, header, strlen(header));
	return r < 0 ? r : json_read_object(ret, text.data, text.len, NULL);
}

static char *encode(json_t *secrets)
{
	auto_buf struct buf json = { 0 }, out = { 0 };
	struct json_writer w;
	buf_init(&json, 2 * SECRETS_MAX);
	buf_init(&out, 4 * SECRETS_MAX);
	json_write_begin(&w, &json);
	json_value(&w, secrets);
	if (json_write_end(&w) < 0 || str_base64_append(&out, json.data, json.len) < 0)
		return NULL;
	return buf_steal(&out, NULL);
}

static void make_key(struct session *s, const struct auth_caller *caller)
{
	unsigned char hash[AUTH_HASH_LEN];
	enum store_role role;
	auth_session_key_make(s->g->auth, caller, s->id, s->key);
	if (auth_session_key_hash(s->g->auth, s->id, hash, &role))
		table_key(s, hash, role);
}

char *secrets_for_instance(struct session *s, const struct auth_caller *caller, const char *header)
{
	auto_json secrets = NULL;
	if (str_empty(header) || decode(&secrets, header) < 0)
		return NULL;
	if (!*s->key) /* once: a second one would make the first invalid, which a server may have from a /create before */
		make_key(s, caller);
	bool any = false;
	const char *name;
	json_t *secret;
	json_object_foreach(secrets, name, secret)
		any |= replace(s, secret);
	return any ? encode(secrets) : NULL;
}
