/* /v1/images: what the command line's `image` verbs ask. Bringing an image here needs an admin's key: it spends disk and
 * network, and everybody's sandboxes may use it. */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/common/lines.h"
#include "api/common/metrics.h"
#include "api/images/access.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "image/image.h"

#define BODY_MAX (64u * 1024)
#define LIST_MAX (16u * 1024 * 1024)
#define BOOTSTRAP_DEFAULT "python:3.11-slim"

static struct images *images_of(struct api *a, struct http_req *req)
{
	if (!a->images)
		http_reply_error(req, 503, "images are not ready yet");
	return a->images;
}

static void write_image(struct json_writer *w, struct images *s, const struct image *i)
{
	char created[TIME_ISO_LEN], used[TIME_ISO_LEN];
	bool busy;

	json_open_object(w);
	json_kv_str(w, "name", i->name);
	json_kv_str(w, "digest", i->digest);
	json_kv_i64(w, "size_bytes", (int64_t)i->size_bytes);
	json_kv_i64(w, "layers", (int64_t)i->n_layers);
	json_kv_u64s(w, "layer_bytes", i->layer_bytes, i->n_layers);
	json_kv_str(w, "created_at", time_iso(i->created_ms, created));
	json_kv_str(w, "last_used_at", time_iso(images_used_ms(s, i->name, &busy), used));
	json_kv_bool(w, "in_use", busy);
	json_close(w);
}

static void on_list(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct image **list;
	size_t n;
	struct json_writer w;
	auto_buf struct buf b = { 0 };
	struct err err;
	const struct auth_caller *caller = api_caller(a, req);

	if (!caller || !images_of(a, req))
		return;
	if (images_list(a->images, &list, &n, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, LIST_MAX);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_i64(&w, "total_bytes", (int64_t)images_total_bytes(list, n));
	json_kv_i64(&w, "budget_bytes", (int64_t)images_budget_bytes(a->images));
	json_key(&w, "images");
	json_open_array(&w);
	for (size_t i = 0; i < n; i++) {
		if (!image_is_hidden(&a->bucket, caller, list[i]->name))
			write_image(&w, a->images, list[i]);
		image_unref(list[i]);
	}
	free(list);
	json_close(&w);
	json_close(&w);
	api_send(req, 200, &w, &b);
}

/* -- pull, bootstrap, import: long, told line by line ------------------------------------------------------------ */

struct bringing { /* from the request to the end of the job; the job goes on when the client leaves */
	struct api *api;
	uint64_t started_us;
	struct lines *lines; /* NULL = the client is gone */
};

static void on_gone(void *arg)
{
	struct bringing *b = arg;

	b->lines = NULL;
}

static void on_progress(void *arg, const char *line)
{
	struct bringing *b = arg;

	if (b->lines)
		lines_line(b->lines, line);
}

static void on_brought(void *arg, struct image *img, const struct err *err)
{
	auto_free struct bringing *job = arg;
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!err && job->api->metrics)
		api_metrics_observe(job->api->metrics, "openreward_image_bring_seconds", "Time of a pull, import or bootstrap.",
				    time_now_us() - job->started_us);
	if (job->lines && err) {
		lines_fail(job->lines, err);
	} else if (job->lines) {
		buf_init(&b, BODY_MAX);
		json_write_begin(&w, &b);
		json_open_object(&w);
		json_kv_str(&w, "status", "ready");
		json_key(&w, "image");
		write_image(&w, job->api->images, img);
		json_close(&w);
		if (json_write_end(&w) == 0)
			lines_end(job->lines, &b);
	}
	if (img)
		image_unref(img);
}

static struct bringing *begin(struct api *a, struct http_req *req)
{
	struct bringing *b = NEW(struct bringing);

	b->api = a;
	b->started_us = time_now_us();
	b->lines = lines_start(req, on_gone, b);
	return b;
}

static int check_ref(const char *ref, struct err *err)
{
	auto_free char *normal = NULL;
	int r = image_normalise(&normal, ref, err);

	return r < 0 ? err_wrap(err, r, "name") : 0;
}

/* Reads "name" (and what else a route wants) and refuses before the stream begins what can be refused. */
static int read_name(json_t **body, const char *data, size_t len, const char *fallback, const char **ret, struct err *err)
{
	int r = len ? json_read_object(body, data, len, err) : 0;

	*ret = fallback;
	if (r == 0 && len)
		r = json_get_str(*body, "name", ret, err);
	if (r == 0 && !*ret)
		r = err_set(err, -EINVAL, "name: missing: expected an image's name, as in python:3.11-slim");
	return r < 0 ? r : check_ref(*ret, err);
}

static void on_pull_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	auto_json body = NULL;
	const char *name;
	struct err err;

	if (read_name(&body, data, len, NULL, &name, &err) < 0)
		api_reply_err(req, &err);
	else
		images_prepare(a->images, name, on_progress, on_brought, begin(a, req));
}

static void on_bootstrap_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	auto_json body = NULL;
	const char *name;
	struct err err;

	if (read_name(&body, data, len, BOOTSTRAP_DEFAULT, &name, &err) < 0)
		api_reply_err(req, &err);
	else
		images_bootstrap(a->images, name, on_progress, on_brought, begin(a, req));
}

static void on_import_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	auto_json body = NULL;
	const char *name, *path = NULL;
	struct err err;
	int r = read_name(&body, data, len, NULL, &name, &err);

	r = r < 0 ? r : json_need_str(body, "path", &path, &err);
	if (r == 0 && path[0] != '/')
		r = err_set(&err, -EINVAL, "path: \"%.200s\": expected an absolute path on the server", path);
	if (r < 0)
		api_reply_err(req, &err);
	else
		images_import(a->images, path, name, on_progress, on_brought, begin(a, req));
}

static void ask_body(struct http_req *req, struct api *a, http_body_fn *fn)
{
	if (api_caller_with(a, req, STORE_ROLE_ADMIN) && images_of(a, req))
		http_req_body(req, BODY_MAX, fn, a);
}

static void on_pull(struct http_req *req, void *arg)
{
	ask_body(req, arg, on_pull_body);
}

static void on_bootstrap(struct http_req *req, void *arg)
{
	ask_body(req, arg, on_bootstrap_body);
}

static void on_import(struct http_req *req, void *arg)
{
	ask_body(req, arg, on_import_body);
}

/* -- POST /v1/images/gc -------------------------------------------------------------------------------------------- */

static void on_collected(void *arg, const struct images_gc *how, const struct err *err)
{
	auto_free struct bringing *job = arg;
	auto_buf struct buf b = { 0 };
	struct json_writer w;

	if (!job->lines)
		return;
	buf_init(&b, BODY_MAX);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "status", err ? "failed" : "ready");
	if (err)
		json_kv_str(&w, "error", err->msg);
	json_kv_i64(&w, "removed", (int64_t)how->removed);
	json_kv_i64(&w, "freed_bytes", (int64_t)how->freed_bytes);
	json_kv_i64(&w, "left_bytes", (int64_t)how->left_bytes);
	json_close(&w);
	if (json_write_end(&w) == 0)
		lines_end(job->lines, &b);
}

static void on_gc_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	auto_json body = NULL;
	int64_t bytes = (int64_t)images_budget_bytes(a->images);
	struct err err;
	int r = len ? json_read_object(&body, data, len, &err) : 0;

	if (r == 0 && len)
		r = json_get_i64(body, "budget_bytes", 0, INT64_MAX, &bytes, &err);
	if (r == 0 && !bytes && !json_object_get(body, "budget_bytes"))
		r = err_set(&err, -EINVAL, "budget_bytes: missing: expected how many bytes images may take, as images.budget is not set");
	if (r < 0)
		api_reply_err(req, &err);
	else
		images_gc(a->images, (uint64_t)bytes, on_progress, on_collected, begin(a, req));
}

static void on_gc(struct http_req *req, void *arg)
{
	ask_body(req, arg, on_gc_body);
}

/* -- DELETE /v1/images?name= ------------------------------------------------------------------------------------ */

struct removal {
	struct http_req *req; /* NULL = the client is gone */
};

static void on_removed(void *arg, const struct err *err)
{
	auto_free struct removal *rm = arg;

	if (!rm->req)
		return;
	http_req_on_close(rm->req, NULL, NULL);
	if (err)
		api_reply_err(rm->req, err);
	else
		http_reply(rm->req, 200, "application/json", "{}", 2);
}

static void on_remover_gone(struct http_req *req, bool complete, void *arg)
{
	struct removal *rm = arg;

	(void)req;
	(void)complete;
	rm->req = NULL;
}

static void on_remove(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const char *name = http_req_query(req, "name");
	struct err err;

	if (!api_caller_with(a, req, STORE_ROLE_ADMIN) || !images_of(a, req))
		return;
	if (str_empty(name)) {
		http_reply_error(req, 400, "name: missing: expected an image's name");
		return;
	}
	if (check_ref(name, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	struct removal *rm = NEW(struct removal);
	rm->req = req;
	http_req_on_close(req, on_remover_gone, rm);
	images_remove(a->images, name, on_removed, rm);
}

void api_images_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/images", on_list, a);
	http_router_add(r, "DELETE", "/v1/images", on_remove, a);
	http_router_add(r, "POST", "/v1/images/pull", on_pull, a);
	http_router_add(r, "POST", "/v1/images/bootstrap", on_bootstrap, a);
	http_router_add(r, "POST", "/v1/images/import", on_import, a);
	http_router_add(r, "POST", "/v1/images/gc", on_gc, a);
}
