/* /v1/users and /v1/orgs: who there is, and who is a member of what. A user and an organisation are namespaces both, so
 * their names are of one space. What strangers may not know of looks as if it were not there. */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/mem.h"
#include "base/str.h"

#define BODY_MAX (16u * 1024)
#define PAGE_DEFAULT 100
#define PAGE_MAX 1000
#define NAMES_MAX 2000 /* bytes of names in an error */

/* -- the answers ------------------------------------------------------------------------------------------------- */

static void write_memberships(struct json_writer *w, const struct store_namespace *user)
{
	json_key(w, "organisations");
	json_open_array(w);
	list_foreach((struct list *)&user->memberships, struct store_member, of_user, m) {
		json_open_object(w);
		json_kv_str(w, "name", m->org->name);
		json_kv_str(w, "role", store_role_name(m->role));
		json_close(w);
	}
	json_close(w);
}

static void write_namespace(struct json_writer *w, const struct store_namespace *ns)
{
	int64_t members = 0;

	json_open_object(w);
	json_kv_str(w, "id", ns->id);
	json_kv_str(w, "name", ns->name);
	json_kv_str(w, "type", ns->type);
	if (store_namespace_is_user(ns)) {
		write_memberships(w, ns);
	} else {
		list_foreach((struct list *)&ns->members, struct store_member, of_org, m) {
			(void)m;
			members++;
		}
		json_kv_i64(w, "members", members);
	}
	api_write_time(w, "created_at", ns->created_ms);
	json_close(w);
}

static void reply_namespace(struct api *a, struct http_req *req, int status, const struct store_namespace *ns)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 1024 * 1024);
	json_write_begin(&w, &b);
	write_namespace(&w, ns);
	api_send_saved(a, req, status, &w, &b);
}

static void reply_member(struct api *a, struct http_req *req, const char *user, const char *role)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "user", user);
	json_kv_str(&w, "role", role);
	json_close(&w);
	api_send_saved(a, req, 200, &w, &b);
}

/* -- finding ----------------------------------------------------------------------------------------------------- */

static int missing(const char *what, const char *name, struct err *err)
{
	return err_set(err, -ENOENT, "there is no %s \"%.100s\" that this key may see", what, name);
}

static int find_org(struct api *a, const struct auth_caller *c, const char *name, struct store_namespace **ret, struct err *err)
{
	struct store_namespace *ns = store_namespace_find(a->store, name);

	if (!ns || store_namespace_is_user(ns) || auth_may_know(c, ns, NULL) < 0)
		return missing("organisation", name, err);
	*ret = ns;
	return 0;
}

static int find_user(struct api *a, const char *name, struct store_namespace **ret, struct err *err)
{
	struct store_namespace *ns = store_namespace_find(a->store, name);

	if (!ns || !store_namespace_is_user(ns))
		return missing("user", name, err);
	*ret = ns;
	return 0;
}

/* -- lists ------------------------------------------------------------------------------------------------------- */

struct listing {
	const struct auth_caller *caller;
	bool users;
	uint64_t limit, offset, total;
	struct json_writer w;
};

static bool on_listed(void *arg, struct store_namespace *ns)
{
	struct listing *l = arg;

	if (store_namespace_is_user(ns) != l->users || auth_may_know(l->caller, ns, NULL) < 0)
		return true;
	if (l->total >= l->offset && l->total - l->offset < l->limit)
		write_namespace(&l->w, ns);
	l->total++;
	return true;
}

static void list(struct http_req *req, struct api *a, bool users)
{
	struct listing l = { .caller = api_caller(a, req), .users = users };
	auto_buf struct buf b = { 0 };
	struct err err;

	if (!l.caller)
		return;
	if (api_page(req, PAGE_DEFAULT, PAGE_MAX, &l.limit, &l.offset, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, 16 * 1024 * 1024);
	json_write_begin(&l.w, &b);
	json_open_object(&l.w);
	json_key(&l.w, users ? "users" : "organisations");
	json_open_array(&l.w);
	store_namespaces(a->store, on_listed, &l);
	json_close(&l.w);
	json_kv_i64(&l.w, "total", (int64_t)l.total);
	json_close(&l.w);
	api_send(req, 200, &l.w, &b);
}

static void on_users(struct http_req *req, void *arg)
{
	list(req, arg, true);
}

static void on_orgs(struct http_req *req, void *arg)
{
	list(req, arg, false);
}

static void on_user(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_namespace *ns = NULL;
	struct err err;

	if (!c)
		return;
	int r = find_user(a, http_req_param(req, "user"), &ns, &err);
	if (r == 0 && auth_may_know(c, ns, NULL) < 0)
		r = missing("user", ns->name, &err);
	if (r < 0)
		api_reply_err(req, &err);
	else
		reply_namespace(a, req, 200, ns);
}

static void on_org(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_namespace *ns = NULL;
	struct err err;

	if (!c)
		return;
	if (find_org(a, c, http_req_param(req, "org"), &ns, &err) < 0)
		api_reply_err(req, &err);
	else
		reply_namespace(a, req, 200, ns);
}

/* -- new ones ---------------------------------------------------------------------------------------------------- */

static int make_user(struct api *a, const struct auth_caller *c, json_t *body, struct store_namespace **ret, struct err *err)
{
	const char *name = NULL;
	int r = auth_need_role(c, STORE_ROLE_ADMIN, err);

	r = r < 0 ? r : json_need_str(body, "name", &name, err);
	return r < 0 ? r : store_namespace_add(a->store, name, "user", ret, err);
}

/* Whom an organisation begins with: the one who makes it, or whom an operator names; NULL = nobody yet. */
static int first_owner(struct api *a, const struct auth_caller *c, json_t *body, struct store_namespace **ret, struct err *err)
{
	const char *owner = NULL;
	int r = json_get_str(body, "owner", &owner, err);

	*ret = c->user;
	if (r < 0)
		return r;
	if (c->role != STORE_ROLE_ADMIN && (!c->user || c->ns != c->user || c->session_id || c->key->role < STORE_ROLE_OWNER))
		return err_set(err, -EPERM, "organisations are made by operators, and by users with a personal key that is not restricted");
	if (!owner)
		return 0;
	r = find_user(a, owner, ret, err);
	if (r == 0 && *ret != c->user && c->role != STORE_ROLE_ADMIN)
		r = err_set(err, -EPERM, "owner: \"%.100s\": only an operator makes an organisation for somebody else", owner);
	return r;
}

static int make_org(struct api *a, const struct auth_caller *c, json_t *body, struct store_namespace **ret, struct err *err)
{
	struct store_namespace *owner = NULL;
	const char *name = NULL;
	int r = first_owner(a, c, body, &owner, err);

	r = r < 0 ? r : json_need_str(body, "name", &name, err);
	r = r < 0 ? r : store_namespace_add(a->store, name, "org", ret, err);
	if (r == 0 && owner)
		store_member_put(a->store, *ret, owner, STORE_ROLE_OWNER);
	return r;
}

typedef int make_fn(struct api *a, const struct auth_caller *c, json_t *body, struct store_namespace **ret, struct err *err);

static void make(struct http_req *req, const char *data, size_t len, struct api *a, make_fn *fn)
{
	const struct auth_caller *c = api_caller(a, req);
	struct store_namespace *ns = NULL;
	auto_json body = NULL;
	struct err err;

	if (!c)
		return;
	if (json_read_object(&body, data, len, &err) < 0 || fn(a, c, body, &ns, &err) < 0)
		api_reply_err(req, &err);
	if (!ns)
		return;
	api_audit_note(req, ns, ns->name, NULL);
	reply_namespace(a, req, 201, ns);
}

static void on_user_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	make(req, data, len, arg, make_user);
}

static void on_make_user(struct http_req *req, void *arg)
{
	if (api_caller_with(arg, req, STORE_ROLE_ADMIN)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_user_body, arg);
}

static void on_org_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	make(req, data, len, arg, make_org);
}

static void on_make_org(struct http_req *req, void *arg)
{
	if (api_caller(arg, req))
		http_req_body(req, BODY_MAX, on_org_body, arg);
}

/* -- members ----------------------------------------------------------------------------------------------------- */

static void write_members(struct json_writer *w, const struct store_namespace *org)
{
	json_open_object(w);
	json_key(w, "members");
	json_open_array(w);
	list_foreach((struct list *)&org->members, struct store_member, of_org, m) {
		json_open_object(w);
		json_kv_str(w, "user", m->user->name);
		json_kv_str(w, "role", store_role_name(m->role));
		api_write_time(w, "created_at", m->created_ms);
		json_close(w);
	}
	json_close(w);
	json_close(w);
}

static void on_members(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_namespace *org = NULL;
	struct json_writer w;
	auto_buf struct buf b = { 0 };
	struct err err;

	if (!c)
		return;
	if (find_org(a, c, http_req_param(req, "org"), &org, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, 16 * 1024 * 1024);
	json_write_begin(&w, &b);
	write_members(&w, org);
	api_send(req, 200, &w, &b);
}

static int stays_owned(const struct store_member *m, struct err *err)
{
	if (!store_member_is_last_owner(m))
		return 0;
	return err_set(err, -EBUSY, "\"%s\" is the last owner of \"%s\": make another member an owner first", m->user->name,
		       m->org->name);
}

static int put_member(struct api *a, const struct auth_caller *c, struct http_req *req, json_t *body, struct store_member **ret,
		      struct err *err)
{
	struct store_namespace *org = NULL, *user = NULL;
	const char *name = NULL;
	enum store_role role;
	int r = find_org(a, c, http_req_param(req, "org"), &org, err);

	r = r < 0 ? r : auth_may_manage(c, org, err);
	r = r < 0 ? r : find_user(a, http_req_param(req, "user"), &user, err);
	r = r < 0 ? r : json_need_str(body, "role", &name, err);
	r = r < 0 ? r : store_role_read("role", name, STORE_ROLE_OWNER, &role, err);
	if (r < 0)
		return r;
	struct store_member *m = store_member_find(org, user);
	r = m && role < STORE_ROLE_OWNER ? stays_owned(m, err) : 0;
	r = r < 0 ? r : store_check_room(a->store, err);
	if (r < 0)
		return r;
	*ret = store_member_put(a->store, org, user, role);
	return 0;
}

static void on_put_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_member *m = NULL;
	auto_json body = NULL;
	struct err err;

	if (!c)
		return;
	if (json_read_object(&body, data, len, &err) < 0 || put_member(a, c, req, body, &m, &err) < 0)
		api_reply_err(req, &err);
	if (!m)
		return;
	api_audit_note(req, m->org, store_role_name(m->role), NULL);
	reply_member(a, req, m->user->name, store_role_name(m->role));
}

static void on_put_member(struct http_req *req, void *arg)
{
	if (api_caller(arg, req))
		http_req_body(req, BODY_MAX, on_put_body, arg);
}

/* Owners remove anybody, and everybody may leave. */
static int remove_member(struct api *a, const struct auth_caller *c, struct http_req *req, struct store_namespace **ret_user,
			 struct err *err)
{
	struct store_namespace *org = NULL, *user = NULL;
	int r = find_org(a, c, http_req_param(req, "org"), &org, err);

	r = r < 0 ? r : find_user(a, http_req_param(req, "user"), &user, err);
	if (r == 0 && (c->user != user || c->session_id))
		r = auth_may_manage(c, org, err);
	if (r < 0)
		return r;
	struct store_member *m = store_member_find(org, user);
	if (!m)
		return err_set(err, -ENOENT, "\"%s\" is no member of \"%s\"", user->name, org->name);
	r = stays_owned(m, err);
	if (r == 0)
		store_member_remove(a->store, m);
	*ret_user = user;
	return r;
}

static void on_remove_member(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller(a, req);
	struct store_namespace *user = NULL;
	struct err err;

	if (!c)
		return;
	if (remove_member(a, c, req, &user, &err) < 0)
		api_reply_err(req, &err);
	else
		reply_member(a, req, user->name, NULL);
}

/* -- POST /v1/users/{user}/disable ------------------------------------------------------------------------------- */

static int check_owned(const struct store_namespace *user, struct err *err)
{
	int r = 0;

	list_foreach((struct list *)&user->memberships, struct store_member, of_user, m)
		r = r < 0 ? r : stays_owned(m, err);
	return r;
}

static int check_owns_nothing(const struct store_namespace *user, struct err *err)
{
	auto_buf struct buf names = { 0 };
	int r = 0;

	buf_init(&names, NAMES_MAX);
	list_foreach((struct list *)&user->environments, struct store_environment, of_namespace, e)
		if (r == 0)
			r = buf_printf(&names, "%s%s/%s", names.len ? ", " : "", user->name, e->name);
	if (!names.len)
		return 0;
	return err_set(err, -EBUSY, "\"%s\" owns environments, which must be deleted first: %s%s", user->name, names.data,
		       r < 0 ? ", and more" : "");
}

static void end_memberships(struct api *a, struct store_namespace *user)
{
	while (!list_empty(&user->memberships))
		store_member_remove(a->store, list_first(&user->memberships, struct store_member, of_user));
}

static bool revoke_keys_of(void *arg, struct store_namespace *ns)
{
	void **both = arg; /* the api, the user */
	struct api *a = both[0];

	list_foreach(&ns->keys, struct store_key, of_namespace, k)
		if (k->user == both[1])
			store_key_revoke(a->store, k);
	return true;
}

/* Its keys end, and its memberships. What it owns stays, and so does its name, for the records that name it. */
static void on_disable(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_namespace *user = NULL;
	struct err err;

	if (!api_caller_with(a, req, STORE_ROLE_ADMIN))
		return;
	if (find_user(a, http_req_param(req, "user"), &user, &err) < 0 || check_owned(user, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	store_namespaces(a->store, revoke_keys_of, (void *[]){ a, user });
	end_memberships(a, user);
	reply_namespace(a, req, 200, user);
}

/* -- DELETE /v1/users/{user} ------------------------------------------------------------------------------------- */

/* Its name is free when this is answered; what the audit log says of it stays. */
static void on_remove_user(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_namespace *user = NULL;
	struct err err;

	if (!api_caller_with(a, req, STORE_ROLE_ADMIN))
		return;
	if (find_user(a, http_req_param(req, "user"), &user, &err) < 0 || check_owned(user, &err) < 0 ||
	    check_owns_nothing(user, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	api_audit_note(req, user, user->name, NULL);
	end_memberships(a, user);
	store_user_remove(a->store, user);
	reply_namespace(a, req, 200, user);
}

void api_orgs_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/users", on_users, a);
	http_router_add(r, "POST", "/v1/users", on_make_user, a);
	http_router_add(r, "GET", "/v1/users/{user}", on_user, a);
	http_router_add(r, "DELETE", "/v1/users/{user}", on_remove_user, a);
	http_router_add(r, "POST", "/v1/users/{user}/disable", on_disable, a);
	http_router_add(r, "GET", "/v1/orgs", on_orgs, a);
	http_router_add(r, "POST", "/v1/orgs", on_make_org, a);
	http_router_add(r, "GET", "/v1/orgs/{org}", on_org, a);
	http_router_add(r, "GET", "/v1/orgs/{org}/members", on_members, a);
	http_router_add(r, "PUT", "/v1/orgs/{org}/members/{user}", on_put_member, a);
	http_router_add(r, "DELETE", "/v1/orgs/{org}/members/{user}", on_remove_member, a);
}
