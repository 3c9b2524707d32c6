/* /v1/keys: API keys. The text of one is in the answer that makes it, and nowhere else, ever.
 *
 * A key acts for one namespace. One that has a user is personal: its user's own namespace, or an organisation, in which it
 * has at most what the user has as a member, as long as there is a membership. One without is the organisation's. */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define BODY_MAX (16u * 1024)
#define LABEL_MAX 100 /* bytes */
#define PAGE_DEFAULT 100
#define PAGE_MAX 1000
#define LIMIT_MAX 1000000
#define YEARS_MAX 100
#define YEAR_MS (366ll * 24 * 3600 * 1000)

/* -- the answers ------------------------------------------------------------------------------------------------- */

static const char *kind(const struct store_key *k)
{
	return k->role == STORE_ROLE_ADMIN ? "operator" : k->user ? "personal" : "organisation";
}

static const char *state(const struct store_key *k)
{
	return k->revoked_ms ? "revoked" : store_key_is_over(k) ? "expired" : "active";
}

/* null: the configuration's; 0: none. */
static void write_limit(struct json_writer *w, const char *name, int64_t limit)
{
	if (limit) {
		json_kv_i64(w, name, limit == STORE_LIMIT_NONE ? 0 : limit);
	} else {
		json_key(w, name);
		json_write_null(w);
	}
}

/* text: the key itself, once. */
static void write_key(struct json_writer *w, const struct store_key *k, const char *text)
{
	json_open_object(w);
	json_kv_str(w, "id", k->id);
	if (text)
		json_kv_str(w, "key", text);
	json_kv_str(w, "name", k->label);
	json_kv_str(w, "kind", kind(k));
	json_kv_str(w, "namespace", k->ns->name);
	json_kv_str(w, "user", k->user ? k->user->name : NULL);
	json_kv_str(w, "role", store_role_name(k->role));
	json_kv_str(w, "state", state(k));
	write_limit(w, "max_sessions", k->limits[STORE_USE_SESSIONS]);
	write_limit(w, "max_sandboxes", k->limits[STORE_USE_SANDBOXES]);
	write_limit(w, "max_rate", k->limits[STORE_LIMIT_RATE]);
	api_write_time(w, "created_at", k->created_ms);
	api_write_time(w, "expires_at", k->expires_ms);
	api_write_time(w, "last_used_at", k->last_used_ms);
	api_write_time(w, "revoked_at", k->revoked_ms);
	json_close(w);
}

static void reply_key(struct api *a, struct http_req *req, int status, const struct store_key *k, const char *text)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16 * 1024);
	json_write_begin(&w, &b);
	write_key(&w, k, text);
	api_send_saved(a, req, status, &w, &b);
}

/* -- POST -------------------------------------------------------------------------------------------------------- */

static int read_label(json_t *body, const char **ret, struct err *err)
{
	int r = json_get_str(body, "name", ret, err);
	const unsigned char *p = (const unsigned char *)*ret;

	if (r < 0)
		return r;
	if (strlen(*ret) > LABEL_MAX)
		return err_set(err, -EINVAL, "name: \"%.40s...\" (%zu bytes): expected at most %d bytes", *ret, strlen(*ret),
			       LABEL_MAX);
	for (; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			return err_set(err, -EINVAL, "name: expected text without control characters");
	return 0;
}

/* "expiresIn": a duration; absent or null = 0. */
static int read_expiry(json_t *body, int64_t *ret, struct err *err)
{
	const char *text = NULL;
	uint64_t ms = 0;
	int r = json_get_str(body, "expiresIn", &text, err);

	if (r < 0 || !text)
		return r;
	if (str_to_duration(text, &ms) < 0 || !ms || ms > (uint64_t)(YEARS_MAX * YEAR_MS))
		return err_set(err, -EINVAL, "expiresIn: \"%.60s\": expected a duration of at most %d years, as in \"12h\" or \"30d\"", text,
			       YEARS_MAX);
	*ret = time_wall_ms() + (int64_t)ms;
	return 0;
}

static int read_limit(json_t *body, const char *name, int64_t *limit, struct err *err)
{
	int64_t n = 0;
	int r = json_get_i64(body, name, 0, LIMIT_MAX, &n, err);

	if (r == 0 && json_object_get(body, name))
		*limit = json_is_null(json_object_get(body, name)) ? 0 : n ? n : STORE_LIMIT_NONE;
	return r;
}

/* What is not given stays as it is. */
static int read_limits(json_t *body, int64_t limits[STORE_LIMITS], struct err *err)
{
	int r = read_limit(body, "maxSessions", &limits[STORE_USE_SESSIONS], err);

	r = r < 0 ? r : read_limit(body, "maxSandboxes", &limits[STORE_USE_SANDBOXES], err);
	return r < 0 ? r : read_limit(body, "maxRate", &limits[STORE_LIMIT_RATE], err);
}

static int find_user(struct api *a, const char *name, struct store_namespace **ret, struct err *err)
{
	struct store_namespace *ns = store_namespace_find(a->store, name);

	if (!ns || !store_namespace_is_user(ns))
		return err_set(err, -EINVAL, "user: \"%.100s\": there is no such user", name);
	*ret = ns;
	return 0;
}

/* What the key is for: a user's namespace says whose it is, too. */
static int read_owner(struct api *a, const struct auth_caller *c, json_t *body, struct store_key_spec *spec, struct err *err)
{
	const char *namespace = NULL, *user = NULL;
	int r = json_get_str(body, "namespace", &namespace, err);

	r = r < 0 ? r : json_get_str(body, "user", &user, err);
	r = r < 0 || !user ? r : find_user(a, user, &spec->user, err);
	if (r < 0)
		return r;
	spec->ns = namespace ? store_namespace_find(a->store, namespace) : user ? spec->user : c->ns;
	if (!spec->ns)
		return err_set(err, -ENOENT, "there is no namespace \"%.100s\" that this key may see", namespace);
	if (!spec->user && store_namespace_is_user(spec->ns))
		spec->user = spec->ns;
	return 0;
}

static int read_spec(struct api *a, const struct auth_caller *c, json_t *body, struct store_key_spec *spec, struct err *err)
{
	const char *role = NULL;
	bool read_only = false;
	int r = read_label(body, &spec->label, err);

	r = r < 0 ? r : json_get_str(body, "role", &role, err);
	r = r < 0 ? r : json_get_bool(body, "readOnly", &read_only, err);
	if (r == 0 && read_only && role && !str_eq(role, "reader"))
		r = err_set(err, -EINVAL, "readOnly: true: expected no role beside it, but there is \"%.60s\"", role);
	r = r < 0 ? r : read_expiry(body, &spec->expires_ms, err);
	r = r < 0 ? r : read_owner(a, c, body, spec, err);
	r = r < 0 ? r : auth_may_make_key(c, spec, read_only ? "reader" : role, err);
	if (r < 0)
		return r;
	if (c->role != STORE_ROLE_ADMIN) { /* a key that was restricted makes none that is not */
		auth_limits_in_force(a->auth, c->key, spec->limits);
		spec->maker = c->key;
	}
	r = read_limits(body, spec->limits, err);
	return r < 0 ? r : auth_may_limit(a->auth, c, spec->limits, err);
}

static void on_create_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_key_spec spec = { .label = "" };
	char text[AUTH_KEY_LEN];
	struct store_key *k;
	auto_json body = NULL;
	struct err err;

	if (!c)
		return;
	if (json_read_object(&body, len ? data : "{}", len ? len : 2, &err) < 0 || read_spec(a, c, body, &spec, &err) < 0 ||
	    auth_key_make_as(a->auth, &spec, text, &k, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	api_audit_note(req, k->ns, k->id, NULL);
	reply_key(a, req, 201, k, text);
	explicit_bzero(text, sizeof(text));
}

static void on_create(struct http_req *req, void *arg)
{
	if (api_caller(arg, req)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_create_body, arg);
}

/* -- GET --------------------------------------------------------------------------------------------------------- */

struct listing {
	const struct auth_caller *caller;
	const struct store_namespace *of; /* NULL = any */
	bool all;                         /* those that are over, too */
	uint64_t limit, offset, total;
	struct json_writer w;
};

static bool on_listed(void *arg, struct store_namespace *ns)
{
	struct listing *l = arg;

	list_foreach(&ns->keys, struct store_key, of_namespace, k) {
		if ((l->of && l->of != ns && l->of != k->user) || (!l->all && store_key_is_over(k)))
			continue;
		if (auth_may_manage_key(l->caller, k, NULL) < 0)
			continue;
		if (l->total >= l->offset && l->total - l->offset < l->limit)
			write_key(&l->w, k, NULL);
		l->total++;
	}
	return true;
}

static int read_query(struct api *a, struct http_req *req, struct listing *l, struct err *err)
{
	const char *name = http_req_query(req, "namespace"), *all = http_req_query(req, "all");

	l->all = all && !str_eq(all, "0") && !str_eq(all, "false");
	if (!str_empty(name)) {
		l->of = store_namespace_find(a->store, name);
		if (!l->of)
			return err_set(err, -ENOENT, "there is no namespace \"%.100s\" that this key may see", name);
		int r = auth_may_know(l->caller, l->of, err);
		if (r < 0)
			return r;
	}
	return api_page(req, PAGE_DEFAULT, PAGE_MAX, &l->limit, &l->offset, err);
}

static void on_list(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct listing l = { .caller = api_caller(a, req) };
	auto_buf struct buf b = { 0 };
	struct err err;

	if (!l.caller)
		return;
	if (read_query(a, req, &l, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, 4 * 1024 * 1024);
	json_write_begin(&l.w, &b);
	json_open_object(&l.w);
	json_key(&l.w, "keys");
	json_open_array(&l.w);
	store_namespaces(a->store, on_listed, &l);
	json_close(&l.w);
	json_kv_i64(&l.w, "total", (int64_t)l.total);
	json_close(&l.w);
	api_send(req, 200, &l.w, &b);
}

static void on_current(struct http_req *req, void *arg)
{
	const struct auth_caller *c = api_caller(arg, req);
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!c)
		return;
	if (c->session_id || !c->key) {
		http_reply_error(req, 404, "this is the key of session %s", c->session_id);
		return;
	}
	buf_init(&b, 16 * 1024);
	json_write_begin(&w, &b);
	write_key(&w, c->key, NULL);
	api_send(req, 200, &w, &b);
}

/* -- one --------------------------------------------------------------------------------------------------------- */

/* By its id, or the beginning of that; NULL after an answer. */
static struct store_key *named(struct api *a, struct http_req *req)
{
	const struct auth_caller *c = api_caller(a, req);
	const char *id = http_req_param(req, "id");
	struct err err;

	if (!c)
		return NULL;
	struct store_key *k = store_key_by_prefix(a->store, id);
	int r = k ? auth_may_manage_key(c, k, &err) : -ENOENT;
	if (r == 0)
		return k;
	if (r == -ENOENT)
		r = err_set(&err, r, "there is no key \"%.60s\" that this key may see", id);
	api_reply_err(req, &err);
	return NULL;
}

static void on_get(struct http_req *req, void *arg)
{
	struct store_key *k = named(arg, req);

	if (k)
		reply_key(arg, req, 200, k, NULL);
}

/* At once: the next request of whoever holds it is refused, and so are the keys of the sessions that it opened. */
static void on_revoke(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_key *k = named(a, req);

	if (!k)
		return;
	api_audit_note(req, k->ns, k->id, NULL);
	store_key_revoke(a->store, k);
	reply_key(a, req, 200, k, NULL);
}

/* In force at once: what is open beyond it stays open. */
static void on_limit_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	struct store_key *k = named(a, req);
	int64_t limits[STORE_LIMITS];
	auto_json body = NULL;
	struct err err;

	if (!k)
		return;
	memcpy(limits, k->limits, sizeof(limits));
	if (json_read_object(&body, data, len, &err) < 0 || read_limits(body, limits, &err) < 0 ||
	    auth_may_limit(a->auth, api_caller(a, req), limits, &err) < 0 || store_check_room(a->store, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	api_audit_note(req, k->ns, k->id, body);
	store_key_limit(a->store, k, limits);
	reply_key(a, req, 200, k, NULL);
}

static void on_limit(struct http_req *req, void *arg)
{
	if (named(arg, req))
		http_req_body(req, BODY_MAX, on_limit_body, arg);
}

void api_keys_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/keys", on_create, a);
	http_router_add(r, "GET", "/v1/keys", on_list, a);
	http_router_add(r, "GET", "/v1/keys/current", on_current, a);
	http_router_add(r, "GET", "/v1/keys/{id}", on_get, a);
	http_router_add(r, "PATCH", "/v1/keys/{id}", on_limit, a);
	http_router_add(r, "DELETE", "/v1/keys/{id}", on_revoke, a);
}
