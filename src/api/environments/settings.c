/* GET and PATCH /v1/environments/{owner}/{name}/settings: the table is store/envset.h; branch and subdirectory, which say
 * where the source comes from, are handed to api/environments/details.h. They are for who may change them: variables may say
 * more of the owner than a stranger should know. */
#include "api/api.h"
#include "api/common/errors.h"
#include "api/environments/details.h"
#include "base/mem.h"
#include "base/str.h"
#include "store/envset.h"

#define BODY_MAX (2u * 1024 * 1024)

/* -- where the source comes from --------------------------------------------------------------------------------- */

static const struct {
	const char *name, *fallback, *expected, *doc;
} origins[] = {
	{ "branch", STORE_BRANCH_DEFAULT, "the name of a git branch", "The git branch whose pushes are deployed" },
	{ "subdirectory", "", "a folder of the repository", "Folder of the repository that is built; empty: its top" },
};

static const char *origin(const struct store_environment *e, size_t i)
{
	return i ? e->origin.subdirectory : e->origin.branch;
}

static void write_origin_row(struct json_writer *w, size_t i)
{
	json_open_object(w);
	json_kv_str(w, "name", origins[i].name);
	json_kv_str(w, "type", origins[i].name);
	json_kv_str(w, "default", origins[i].fallback);
	json_kv_str(w, "expected", origins[i].expected);
	json_kv_str(w, "description", origins[i].doc);
	json_close(w);
}

/* Both parts are checked before the first is changed; "" gives the default back, as null does. */
static int change_all(struct api *a, struct store_environment *e, json_t *body, struct err *err)
{
	auto_json from = json_object();

	for (size_t i = 0; i < ARRAY_LEN(origins); i++) {
		json_t *v = json_object_get(body, origins[i].name);
		if (!v)
			continue;
		bool back = json_is_null(v) || str_eq(json_string_value(v), "");
		json_object_set_new(from, origins[i].name, back ? json_string(origins[i].fallback) : json_incref(v));
		json_object_del(body, origins[i].name);
	}
	int r = details_check_origin(from, err);
	r = r < 0 ? r : envset_change(a->store, e, body, err);
	return r < 0 ? r : details_origin(a->store, e, from, err);
}

/* -- the answers ------------------------------------------------------------------------------------------------- */

static void write_settings(struct json_writer *w, const struct store_environment *e)
{
	json_open_object(w);
	json_key(w, "settings");
	json_open_object(w);
	envset_write_values(w, e);
	for (size_t i = 0; i < ARRAY_LEN(origins); i++)
		json_kv_str(w, origins[i].name, origin(e, i));
	json_close(w);
	json_key(w, "set");
	json_open_array(w);
	envset_write_set(w, e);
	for (size_t i = 0; i < ARRAY_LEN(origins); i++)
		if (!str_eq(origin(e, i), origins[i].fallback))
			json_str(w, origins[i].name);
	json_close(w);
	json_key(w, "known");
	json_open_array(w);
	envset_write_rows(w);
	for (size_t i = 0; i < ARRAY_LEN(origins); i++)
		write_origin_row(w, i);
	json_close(w);
	json_close(w);
}

static void reply(struct http_req *req, const struct store_environment *e)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64u * 1024 * 1024);
	json_write_begin(&w, &b);
	write_settings(&w, e);
	api_send(req, 200, &w, &b);
}

static void on_get(struct http_req *req, void *arg)
{
	const struct store_environment *e = api_changeable(arg, req);

	if (e)
		reply(req, e);
}

struct change { /* lives until the store has it */
	struct http_req *req; /* NULL = the client is gone */
	struct store_environment *e;
};

static void on_saved(void *arg, const struct err *err)
{
	auto_free struct change *c = arg;

	if (!c->req)
		return;
	http_req_on_close(c->req, NULL, NULL);
	if (err)
		api_reply_err(c->req, err);
	else
		reply(c->req, c->e);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct change *c = arg;

	c->req = NULL;
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	struct store_environment *e = api_changeable(a, req);
	auto_json body = NULL;
	struct err err;

	if (!e)
		return;
	int r = json_read_object(&body, data, len, &err);
	if (r == 0)
		api_audit_note(req, e->ns, e->name, body);
	if (r < 0 || change_all(a, e, body, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	struct change *c = NEW(struct change);
	*c = (struct change){ .req = req, .e = e };
	http_req_on_close(req, on_gone, c);
	store_sync(a->store, on_saved, c);
}

static void on_patch(struct http_req *req, void *arg)
{
	if (api_changeable(arg, req)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_body, arg);
}

void api_settings_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/settings", on_get, a);
	http_router_add(r, "PATCH", "/v1/environments/{owner}/{name}/settings", on_patch, a);
}
