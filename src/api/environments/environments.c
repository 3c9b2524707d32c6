/* /v1/environments: the records. What runs is env/'s. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/environments/details.h"
#include "base/mem.h"
#include "base/str.h"

#define BODY_MAX (64u * 1024)
#define PAGE_DEFAULT 50
#define PAGE_MAX 500
#define ANSWER_MAX (1024u * 1024)
#define LIST_MAX (64u * 1024 * 1024) /* a page of the longest descriptions, all of it escapes */

static const struct store_deployment *serving(const struct store_environment *e)
{
	list_foreach(&e->deployments, struct store_deployment, of_environment, d)
		if (d->state == STORE_DEPLOYMENT_READY)
			return d;
	return list_first(&e->deployments, struct store_deployment, of_environment);
}

static void write_size(struct api *a, struct json_writer *w, const struct store_environment *e)
{
	uint64_t cpu = e->cpu_milli ? e->cpu_milli : a->default_cpu_milli;
	uint64_t memory = e->memory_bytes ? e->memory_bytes : a->default_memory_bytes;

	json_key(w, "compute_config");
	json_open_object(w);
	json_kv_double(w, "cpu_count", (double)cpu / 1000);
	json_kv_double(w, "mem_gb", (double)memory / (double)(1ull << 30));
	json_close(w);
}

static void write_environment(struct api *a, struct json_writer *w, const struct store_environment *e)
{
	const struct store_deployment *d = serving(e);
	auto_free char *repo = *e->origin.github_repo ? xasprintf("%s/%s", a->github_url, e->origin.github_repo) : xstrdup("");

	json_open_object(w);
	json_kv_str(w, "id", e->id);
	json_kv_str(w, "owner", e->ns->name);
	json_kv_str(w, "namespace", e->ns->name);
	json_kv_str(w, "name", e->name);
	json_kv_str(w, "description", e->description);
	json_kv_bool(w, "is_private", e->is_private);
	json_kv_bool(w, "is_harbor", e->is_harbor);
	json_kv_bool(w, "has_github_connection", e->origin.github_id != 0);
	json_kv_str(w, "original_github_url", *repo ? repo : NULL);
	details_write(w, e);
	write_size(a, w, e);
	json_kv_i64(w, "max_concurrency", (int64_t)e->max_concurrency);
	json_kv_i64(w, "max_scale", (int64_t)e->max_scale);
	json_kv_str(w, "status", d ? store_deployment_state_name(d->state) : NULL);
	json_kv_str(w, "deployment_id", d ? d->id : NULL);
	api_write_time(w, "created_at", e->created_ms);
	api_write_time(w, "updated_at", e->updated_ms);
	json_close(w);
}

/* -- POST /v1/environments ------------------------------------------------------------------------------------- */

static int find_namespace(struct api *a, const struct auth_caller *c, const char *name, struct store_namespace **ret,
			  struct err *err)
{
	struct store_namespace *ns = str_empty(name) ? c->ns : store_namespace_find(a->store, name);

	if (!ns || auth_role_in(c, ns) == AUTH_NOBODY)
		return err_set(err, -EPERM, "namespace: \"%.100s\": expected one that this key belongs to: \"%s\"", name,
			       c->namespace_name);
	*ret = ns;
	return auth_may_change_namespace(c, ns, err);
}

static int create(struct api *a, const struct auth_caller *c, json_t *body, struct store_environment **ret, struct err *err)
{
	const char *name = NULL, *namespace = NULL, *description = "";
	bool is_private = false, is_harbor = false;
	struct store_namespace *ns = NULL;
	struct store_environment *e = NULL;
	int r = json_need_str(body, "name", &name, err);

	r = r < 0 ? r : json_get_str(body, "namespace", &namespace, err);
	r = r < 0 ? r : json_get_str(body, "description", &description, err);
	r = r < 0 ? r : json_get_bool(body, "isPrivate", &is_private, err);
	r = r < 0 ? r : json_get_bool(body, "isHarbor", &is_harbor, err);
	if (r == 0 && is_harbor)
		r = err_set(err, -EINVAL, "isHarbor: true: this server does not support Harbor environments yet");
	r = r < 0 ? r : details_check_description(body, "description", err);
	r = r < 0 ? r : details_check_origin(body, err);
	r = r < 0 ? r : find_namespace(a, c, namespace, &ns, err);
	r = r < 0 ? r : store_environment_add(a->store, ns, name, &e, err);
	if (r < 0)
		return r;
	store_set_str(&e->description, description);
	e->is_private = is_private;
	store_environment_save(a->store, e);
	*ret = e;
	return details_origin(a->store, e, body, err);
}

void api_environment_saved(struct api *a, struct http_req *req, struct store_environment *e, int status)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, ANSWER_MAX);
	json_write_begin(&w, &b);
	write_environment(a, &w, e);
	api_send_saved(a, req, status, &w, &b);
}

static void on_create_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *caller = api_caller(a, req);
	struct store_environment *e;
	auto_json body = NULL;
	struct err err;

	if (!caller)
		return;
	if (json_read_object(&body, data, len, &err) < 0 || create(a, caller, body, &e, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	api_audit_note(req, e->ns, e->name, body);
	api_environment_saved(a, req, e, 201);
}

static void on_create(struct http_req *req, void *arg)
{
	if (api_caller(arg, req)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_create_body, arg);
}

/* -- GET /v1/environments -------------------------------------------------------------------------------------- */

struct listing {
	struct api *api;
	const struct auth_caller *caller;
	const char *owner, *search;
	uint64_t limit, offset, total;
	struct json_writer w;
};

static bool on_listed(void *arg, struct store_environment *e)
{
	struct listing *l = arg;
	struct err err;

	if (l->owner && !str_eq(l->owner, e->ns->name))
		return true;
	if (l->search && !strcasestr(e->name, l->search) && !strcasestr(e->description, l->search))
		return true;
	if (auth_may_see(l->caller, e, &err) < 0)
		return true;
	if (l->total >= l->offset && l->total - l->offset < l->limit)
		write_environment(l->api, &l->w, e);
	l->total++;
	return true;
}

static void on_list(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct listing l = { .api = a, .caller = api_caller(a, req) };
	auto_buf struct buf b = { 0 };
	struct err err;

	if (!l.caller)
		return;
	if (api_text(req, "owner", &l.owner, &err) < 0 || api_text(req, "search", &l.search, &err) < 0 ||
	    api_page(req, PAGE_DEFAULT, PAGE_MAX, &l.limit, &l.offset, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, LIST_MAX);
	json_write_begin(&l.w, &b);
	json_open_object(&l.w);
	json_key(&l.w, "environments");
	json_open_array(&l.w);
	store_environments(a->store, on_listed, &l);
	json_close(&l.w);
	json_kv_i64(&l.w, "total", (int64_t)l.total);
	json_close(&l.w);
	api_send(req, 200, &l.w, &b);
}

/* -- GET /v1/environments/{owner}/{name}... -------------------------------------------------------------------- */

static struct store_environment *named(struct api *a, struct http_req *req)
{
	const struct auth_caller *c;
	struct store_environment *e;
	struct err err;

	if (auth_request_optional(a->auth, req, &c, &err) < 0 ||
	    auth_find_environment(a->auth, c, http_req_param(req, "owner"), http_req_param(req, "name"), &e, &err) < 0) {
		api_reply_err(req, &err);
		return NULL;
	}
	return e;
}

static void on_get(struct http_req *req, void *arg)
{
	struct store_environment *e = named(arg, req);
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!e)
		return;
	buf_init(&b, ANSWER_MAX);
	json_write_begin(&w, &b);
	write_environment(arg, &w, e);
	api_send(req, 200, &w, &b);
}

static void on_variants(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_environment *e = named(a, req);

	if (!e)
		return;
	if (list_empty(&e->deployments))
		http_reply(req, 200, "application/json", "[]", 2); /* nobody to ask */
	else if (a->envs)
		variants_reply(a, req, e);
	else
		http_reply_error(req, 503, "deployments are not ready yet");
}

/* Clients treat a 404 as "no such environment", so an environment that asks for none answers an empty list. */
static void on_required_secrets(struct http_req *req, void *arg)
{
	static const char none[] = "{\"secrets\":[]}";

	if (named(arg, req))
		http_reply(req, 200, "application/json", none, sizeof(none) - 1);
}

void api_environments_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/environments", on_create, a);
	http_router_add(r, "GET", "/v1/environments", on_list, a);
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}", on_get, a);
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/variants", on_variants, a);
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/required-secrets", on_required_secrets, a);
}
