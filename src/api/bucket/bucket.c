/* /v1/files: upload URLs, listing, deletion. The bytes: put.c and get.c. */
#include "api/bucket/bucket.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define BODY_MAX (1u << 20)
#define FILES_MAX 50
#define PAGE_DEFAULT 100
#define PAGE_MAX 1000
#define TYPE_MAX 255
#define TYPE_DEFAULT "application/octet-stream"

/* -- what every call does ---------------------------------------------------------------------------------------------- */

struct call { /* a request whose work a worker does */
	struct api *api;
	struct http_req *req; /* NULL = the client is gone */
	struct store_environment *e;
	char *name;           /* of the file or folder; the prefix of a list */
	char *after;          /* list: the last name of the page before; NULL = the first page */
	bool folder;
	uint64_t limit;
	struct err err;
	uint64_t files, bytes;
	struct buf files_json, folders_json; /* list */
	struct json_writer files_writer, folders_writer;
	char *last;
	bool more;
	json_t *body;         /* upload URLs: what was asked for */
};

static void call_free(struct call *c)
{
	buf_done(&c->files_json);
	buf_done(&c->folders_json);
	free(c->name);
	free(c->after);
	free(c->last);
	json_decref(c->body);
	free(c);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct call *c = arg;

	c->req = NULL;
}

static void call_start(struct call *c, loop_fn *work, loop_fn *done)
{
	http_req_on_close(c->req, on_gone, c);
	loop_work(c->api->loop, LOOP_LANE_ANY, work, done, c);
}

/* False = nobody waits, or an error was answered; c is freed. */
static bool call_over(struct call *c)
{
	if (c->req)
		http_req_on_close(c->req, NULL, NULL);
	if (c->req && !c->err.code)
		return true;
	if (c->req)
		api_reply_file_err(c->req, &c->err);
	call_free(c);
	return false;
}

static int find(struct api *a, struct http_req *req, bool change, struct store_environment **ret, struct err *err)
{
	const struct auth_caller *caller;
	int r = change ? auth_request(a->auth, req, &caller, err) : auth_request_optional(a->auth, req, &caller, err);

	return r < 0 ? r : bucket_find(&a->bucket, caller, http_req_param(req, "env"), change, ret, err);
}

static struct call *call_new(struct api *a, struct http_req *req, struct store_environment *e, const char *name)
{
	struct call *c = NEW(struct call);

	*c = (struct call){ .api = a, .req = req, .e = e, .name = xstrdup(name) };
	return c;
}

/* -- POST /v1/files/upload-urls ------------------------------------------------------------------------------------------ */

/* The address that the client itself used, so that it can reach it again. */
static char *base_url(struct http_req *req)
{
	return xasprintf("%s://%s", http_req_scheme(req), http_req_host(req));
}

static int put_escaped(struct buf *b, const char *key, const char *value)
{
	int r = buf_puts(b, key);

	return r < 0 ? r : str_percent_encode(b, value);
}

static int append_url(struct buf *b, struct api *a, const char *base, const char *env_id, const char *name, const char *type)
{
	char max[24], expires[24], signature[SIGNATURE_LEN];
	const char *fields[BUCKET_URL_FIELDS];
	int r;

	snprintf(max, sizeof(max), "%" PRIu64, a->bucket.file_bytes);
	snprintf(expires, sizeof(expires), "%" PRId64, time_wall_ms() + (int64_t)a->bucket.url_ms);
	bucket_url_fields(fields, env_id, name, type, max, expires);
	signer_sign(&a->bucket.signer, fields, BUCKET_URL_FIELDS, signature);
	r = buf_printf(b, "%s/v1/files/%s", base, env_id);
	r = r < 0 ? r : put_escaped(b, "/", name);
	r = r < 0 ? r : put_escaped(b, "?type=", type);
	return r < 0 ? r : buf_printf(b, "&max=%s&expires=%s&signature=%s", max, expires, signature);
}

static int check_type(const char *type, struct err *err)
{
	size_t len = strlen(type);

	for (const char *p = type; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			len = TYPE_MAX + 1;
	if (len && len <= TYPE_MAX && strchr(type, '/'))
		return 0;
	return err_set(err, -EINVAL, "files.contentType: expected a media type, as in \"" TYPE_DEFAULT "\"");
}

static int write_url(struct api *a, struct json_writer *w, json_t *file, const char *base, const char *env_id, struct err *err)
{
	const char *name = NULL, *type = TYPE_DEFAULT;
	auto_buf struct buf url = { 0 };
	int r = json_is_object(file) ? 0 : err_set(err, -EINVAL, "files: expected objects with fileName and contentType");

	r = r < 0 ? r : json_need_str(file, "fileName", &name, err);
	r = r < 0 ? r : bucket_check_name("files.fileName", name, err);
	r = r < 0 ? r : json_get_str(file, "contentType", &type, err);
	r = r < 0 ? r : check_type(type, err);
	if (r < 0)
		return r;
	buf_init(&url, 16 * 1024);
	if (append_url(&url, a, base, env_id, name, type) < 0)
		return err_set(err, -EINVAL, "files: the URL would be too long");
	json_open_object(w);
	json_kv_str(w, "fileName", name);
	json_kv_str(w, "uploadUrl", url.data);
	json_close(w);
	return 0;
}

static int write_urls(struct api *a, struct http_req *req, json_t *body, struct json_writer *w, struct store_environment **ret,
		      struct err *err)
{
	const struct auth_caller *caller;
	struct store_environment *e;
	const char *env_id = NULL;
	json_t *files = NULL, *file;
	auto_free char *base = base_url(req);
	size_t i;
	int r = auth_request(a->auth, req, &caller, err);

	r = r < 0 ? r : json_need_str(body, "environmentId", &env_id, err);
	r = r < 0 ? r : bucket_find(&a->bucket, caller, env_id, true, &e, err);
	r = r < 0 ? r : json_get_array(body, "files", &files, err);
	if (r < 0)
		return r;
	if (json_array_size(files) < 1 || json_array_size(files) > FILES_MAX)
		return err_set(err, -EINVAL, "files: %zu of them, expected 1..%d", json_array_size(files), FILES_MAX);
	json_open_object(w);
	json_key(w, "urls");
	json_open_array(w);
	json_array_foreach(files, i, file)
		r = r < 0 ? r : write_url(a, w, file, base, e->id, err);
	json_close(w);
	json_close(w);
	*ret = e;
	return r;
}

/* Told here, before a byte is sent, and once more when the file gets its place. */
static void urls_work(void *arg)
{
	struct call *c = arg;
	json_t *file;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(c->body, "files"), i, file)
		r = r < 0 ? r : bucket_check_form(buckets_fd(c->api->bucket.buckets), c->e->id,
						  json_string_value(json_object_get(file, "fileName")), &c->err);
	if (r < 0)
		err_wrap(&c->err, r, "files.fileName");
}

static void urls_done(void *arg)
{
	struct call *c = arg;

	if (!call_over(c))
		return;
	api_send(c->req, 200, &c->files_writer, &c->files_json);
	call_free(c);
}

static void on_urls_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct call *c = call_new(arg, req, NULL, NULL);
	struct err err;

	buf_init(&c->files_json, 2 << 20);
	json_write_begin(&c->files_writer, &c->files_json);
	if (json_read_object(&c->body, data, len, &err) == 0 && write_urls(arg, req, c->body, &c->files_writer, &c->e, &err) == 0) {
		call_start(c, urls_work, urls_done);
		return;
	}
	api_reply_err(req, &err);
	call_free(c);
}

static void on_urls(struct http_req *req, void *arg)
{
	if (api_caller(arg, req)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_urls_body, arg);
}

/* -- GET /v1/files/{env} -------------------------------------------------------------------------------------------------- */

/* A token is where the page before ended, signed together with what was listed: it continues that list and no other. */
static char *page_token(struct call *c, const char *last)
{
	const char *fields[] = { "page", c->e->id, c->name, last };
	char signature[SIGNATURE_LEN];
	auto_buf struct buf b = { 0 };

	buf_init(&b, 8192);
	signer_sign(&c->api->bucket.signer, fields, ARRAY_LEN(fields), signature);
	return buf_printf(&b, "%.32s", signature) < 0 || str_percent_encode(&b, last) < 0 ? NULL : buf_steal(&b, NULL);
}

static int read_token(struct call *c, const char *token, struct err *err)
{
	auto_buf struct buf b = { 0 };
	auto_free char *good = NULL;

	buf_init(&b, BUCKET_NAME_MAX + 1);
	if (str_empty(token))
		return 0;
	if (strlen(token) > 32 && str_percent_decode(&b, token + 32, strlen(token) - 32, false) == 0)
		good = page_token(c, b.data);
	if (!good || strlen(good) != strlen(token) || !str_ct_eq(good, token, strlen(good)))
		return err_set(err, -EINVAL, "pageToken: expected the nextPageToken of the same list: same environment, same prefix");
	c->after = buf_steal(&b, NULL);
	return 0;
}

static void on_entry(void *arg, const char *path, bool folder, uint64_t size, int64_t written_ms)
{
	struct call *c = arg;
	const char *leaf = strrchr(path, '/');
	char text[TIME_ISO_LEN];

	free(c->last);
	c->last = xstrdup(leaf ? leaf + 1 : path);
	if (folder) {
		json_str(&c->folders_writer, path);
		return;
	}
	json_open_object(&c->files_writer);
	json_kv_str(&c->files_writer, "path", path);
	json_kv_i64(&c->files_writer, "size", (int64_t)size);
	json_kv_str(&c->files_writer, "updatedAt", time_iso(written_ms, text));
	json_close(&c->files_writer);
}

static void list_work(void *arg)
{
	struct call *c = arg;

	buf_init(&c->files_json, 16 << 20);
	buf_init(&c->folders_json, 16 << 20);
	json_write_begin(&c->files_writer, &c->files_json);
	json_write_begin(&c->folders_writer, &c->folders_json);
	json_open_array(&c->files_writer);
	json_open_array(&c->folders_writer);
	if (bucket_list(buckets_fd(c->api->bucket.buckets), c->e->id, c->name, c->after, c->limit, on_entry, c, &c->more,
			&c->err) < 0)
		return;
	json_close(&c->files_writer);
	json_close(&c->folders_writer);
	if (json_write_end(&c->files_writer) < 0 || json_write_end(&c->folders_writer) < 0)
		err_set(&c->err, -EINVAL, "limit: the page would be too large");
}

static void list_done(void *arg)
{
	struct call *c = arg;
	auto_free char *token = NULL;
	auto_buf struct buf b = { 0 };
	struct json_writer w;

	if (!call_over(c))
		return;
	token = c->more && c->last ? page_token(c, c->last) : NULL;
	buf_init(&b, 40 << 20);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_key(&w, "files");
	json_raw(&w, c->files_json.data, c->files_json.len);
	json_key(&w, "folders");
	json_raw(&w, c->folders_json.data, c->folders_json.len);
	json_kv_str(&w, "nextPageToken", token);
	json_close(&w);
	api_send(c->req, 200, &w, &b);
	call_free(c);
}

/* "data/" and "data/tr": the whole but for its last part is a name. */
static int check_prefix(const char *prefix, struct err *err)
{
	auto_free char *whole = xasprintf("%sx", prefix);

	return bucket_check_name("prefix", whole, err);
}

static void on_list(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const char *prefix = http_req_query(req, "prefix");
	struct store_environment *e;
	uint64_t limit = 0, offset;
	struct call *c;
	struct err err;
	int r = find(a, req, false, &e, &err);

	r = r < 0 ? r : check_prefix(prefix ? prefix : "", &err);
	r = r < 0 ? r : api_page(req, PAGE_DEFAULT, PAGE_MAX, &limit, &offset, &err);
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	c = call_new(a, req, e, prefix ? prefix : "");
	c->limit = MAX(limit, 1u);
	if (read_token(c, http_req_query(req, "pageToken"), &err) < 0) {
		api_reply_err(req, &err);
		call_free(c);
		return;
	}
	call_start(c, list_work, list_done);
}

/* -- DELETE /v1/files/{env}/{path}, .../folder/{path} ------------------------------------------------------------------------ */

static void remove_work(void *arg)
{
	struct call *c = arg;
	int fd = buckets_fd(c->api->bucket.buckets);
	int r = c->folder ? bucket_remove_folder(fd, c->e->id, c->name, &c->files, &c->bytes, &c->err) :
			    bucket_remove(fd, c->e->id, c->name, &c->bytes, &c->err);

	if (r < 0)
		c->bytes = 0;
}

static void remove_done(void *arg)
{
	struct call *c = arg;
	char text[64] = "{}";

	buckets_settle(c->api->bucket.buckets, c->e->id, 0, -(int64_t)c->bytes);
	if (!call_over(c))
		return;
	if (c->folder)
		snprintf(text, sizeof(text), "{\"deletedCount\": %" PRIu64 "}", c->files);
	http_reply(c->req, 200, "application/json", text, strlen(text));
	call_free(c);
}

static void remove_begin(struct http_req *req, struct api *a, bool folder, bool all)
{
	auto_free char *name = xstrdup(all ? "" : http_req_param(req, "path"));
	size_t len = strlen(name);
	struct store_environment *e;
	struct call *c;
	struct err err;
	int r = find(a, req, true, &e, &err);

	if (folder && len > 1 && name[len - 1] == '/')
		name[len - 1] = '\0'; /* as people write folders */
	r = r < 0 || all ? r : bucket_check_name("path", name, &err);
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	c = call_new(a, req, e, name);
	c->folder = folder;
	call_start(c, remove_work, remove_done);
}

static void on_remove(struct http_req *req, void *arg)
{
	remove_begin(req, arg, false, false);
}

static void on_remove_folder(struct http_req *req, void *arg)
{
	remove_begin(req, arg, true, false);
}

static void on_remove_all(struct http_req *req, void *arg)
{
	remove_begin(req, arg, true, true);
}

void api_bucket_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/files/upload-urls", on_urls, a);
	http_router_add(r, "GET", "/v1/files/{env}", on_list, a);
	http_router_add(r, "DELETE", "/v1/files/{env}", on_remove_all, a);
	http_router_add(r, "GET", "/v1/files/{env}/{path...}", bucket_get_handler, a);
	http_router_add(r, "PUT", "/v1/files/{env}/{path...}", bucket_put_handler, a);
	http_router_add(r, "DELETE", "/v1/files/{env}/{path...}", on_remove, a);
	http_router_add(r, "DELETE", "/v1/files/{env}/folder/{path...}", on_remove_folder, a);
}
