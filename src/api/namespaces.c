/* GET /v1/namespace/current?type=user|org: whose key is this. */
#include "api/api.h"
#include "base/str.h"

/* The type asked for does not matter: a key has one namespace, and clients ask for the other type when they get a 404. */
static void on_current(struct http_req *req, void *arg)
{
	const struct auth_caller *c = api_caller(arg, req);
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!c)
		return;
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
