/* GET /v1/namespace/current?type=user|org: whose key is this. */
#include <errno.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/str.h"

/* Clients ask for an organisation, and for the user where there is none: a key of a user's own namespace has none. With "user"
 * they look for what new things are to belong to, and that is the organisation of a key that acts for one. */
static int check_type(struct http_req *req, const struct auth_caller *c, struct err *err)
{
	const char *type = http_req_query(req, "type");

	if (str_empty(type) || str_eq(type, "user"))
		return 0;
	if (!str_eq(type, "org"))
		return err_set(err, -EINVAL, "type: \"%.60s\": expected user or org", type);
	if (!store_namespace_is_user(c->ns))
		return 0;
	return err_set(err, -ENOENT, "this key acts for the user \"%s\", not for an organisation", c->namespace_name);
}

static void on_current(struct http_req *req, void *arg)
{
	const struct auth_caller *c = api_caller(arg, req);
	struct json_writer w;
	auto_buf struct buf b = { 0 };
	struct err err;

	if (!c)
		return;
	if (check_type(req, c, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "name", c->namespace_name);
	json_kv_str(&w, "id", c->namespace_id);
	json_kv_str(&w, "type", c->ns->type);
	json_close(&w);
	api_send(req, 200, &w, &b);
}

void api_namespaces_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/namespace/current", on_current, a);
}
