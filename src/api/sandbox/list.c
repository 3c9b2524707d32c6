/* api/sandbox/list.c: GET /v1/sandboxes and GET, DELETE /v1/sandboxes/{id}: what a namespace has open, and what one uses.
 * Looking does not renew a lease. */
#include <errno.h>
#include <stdio.h>

#include "api/api.h"
#include "api/sandbox/sidecars.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define ANSWER_MAX_BYTES (1u << 20)

static const char *state_name(enum sandbox_state s)
{
	return s == SANDBOX_CREATING ? "creating" : s == SANDBOX_READY ? "ready" : "ending";
}

/* What is left until silence ends it; an open request holds it. */
static int64_t lease_left_ms(const struct sandbox *b)
{
	uint64_t idle = b->s->settings.idle_ms, silent = loop_now_ms(b->s->loop) - b->used_ms;

	if (!list_empty(&b->uses))
		return (int64_t)idle;
	return silent < idle ? (int64_t)(idle - silent) : 0;
}

static void put_members(struct json_writer *w, const struct sandbox *b)
{
	char at[TIME_ISO_LEN];

	json_kv_str(w, "id", b->id);
	json_kv_str(w, "state", state_name(b->state));
	json_kv_str(w, "image", b->image);
	json_kv_double(w, "cpus", (double)b->size.cpu_milli / 1000);
	json_kv_i64(w, "memory_bytes", (int64_t)b->size.memory_bytes);
	json_kv_str(w, "network", b->block_network ? "blocked" : "open");
	json_kv_str(w, "session", b->owner);
	json_kv_str(w, "created_at", time_iso(b->created_ms, at));
	json_kv_double(w, "age_s", (double)(time_wall_ms() - b->created_ms) / 1000);
	json_kv_double(w, "lease_left_s", (double)lease_left_ms(b) / 1000);
	if (!b->unknown)
		json_kv_i64(w, "background_runs", (int64_t)runs_count(b));
}

/* -- list -------------------------------------------------------------------------------------------------------------------- */

static void list_handler(struct http_req *req, void *sandboxes)
{
	struct sandboxes *s = sandboxes;
	const struct auth_caller *caller;
	uint64_t limit, offset, i = 0;
	auto_buf struct buf text = { 0 };
	struct json_writer w;
	struct err err;

	if (auth_request(s->auth, req, &caller, &err) < 0 || api_page(req, LIST_DEFAULT, LIST_MAX, &limit, &offset, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&text, ANSWER_MAX_BYTES);
	json_write_begin(&w, &text);
	json_open_object(&w);
	json_key(&w, "sandboxes");
	json_open_array(&w);
	list_foreach(&s->all, struct sandbox, node, b) {
		if (!str_eq(b->namespace_id, caller->namespace_id))
			continue;
		if (i >= offset && i < offset + limit) {
			json_open_object(&w);
			put_members(&w, b);
			json_close(&w);
		}
		i++;
	}
	json_close(&w);
	json_kv_i64(&w, "total", (int64_t)i);
	json_close(&w);
	api_send(req, 200, &w, &text);
}

/* -- one --------------------------------------------------------------------------------------------------------------------- */

struct look { /* a request that waits for init's figures */
	struct http_req *req; /* NULL = gone */
	struct sandboxes *s;
	char id[SID_LEN];
};

static void reply_one(struct look *k, const struct sandbox *b, const struct engine_usage *u)
{
	auto_buf struct buf text = { 0 };
	struct json_writer w;

	buf_init(&text, ANSWER_MAX_BYTES);
	json_write_begin(&w, &text);
	json_open_object(&w);
	put_members(&w, b);
	sidecars_put(&w, b);
	json_key(&w, "usage");
	if (u) {
		json_open_object(&w);
		json_kv_i64(&w, "memory_bytes", (int64_t)u->memory_bytes);
		json_kv_i64(&w, "memory_peak_bytes", (int64_t)u->memory_peak_bytes);
		json_kv_double(&w, "cpu_s", (double)u->cpu_us / 1e6);
		json_kv_i64(&w, "pids", (int64_t)u->pids);
		json_kv_i64(&w, "runs", (int64_t)u->runs);
		json_kv_i64(&w, "disk_free_bytes", (int64_t)u->disk_free_bytes);
		json_close(&w);
	} else {
		json_write_null(&w);
	}
	json_close(&w);
	api_send(k->req, 200, &w, &text);
}

static void on_usage(void *arg, const struct engine_usage *u, const struct err *err)
{
	struct look *k = arg;
	struct sandbox *b = map_get(k->s->live, k->id);

	if (k->req) {
		http_req_on_close(k->req, NULL, NULL);
		if (err || !b)
			api_reply_err(k->req, err ? err : &(struct err){ .code = -EIDRM, .msg = "the sandbox has ended" });
		else
			reply_one(k, b, u);
	}
	free(k);
}

static void on_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	((struct look *)arg)->req = NULL;
}

static struct sandbox *find(struct sandboxes *s, struct http_req *req)
{
	const struct auth_caller *caller;
	struct sandbox *b = NULL;
	struct err err;

	if (auth_request(s->auth, req, &caller, &err) == 0)
		b = sandbox_find(s, caller, http_req_param(req, "id"), &err);
	if (!b)
		api_reply_err(req, &err);
	return b;
}

static void get_handler(struct http_req *req, void *sandboxes)
{
	struct sandboxes *s = sandboxes;
	struct sandbox *b = find(s, req);
	struct look *k;

	if (!b || sandbox_park(b, req, get_handler))
		return;
	if (!b->box) {
		reply_one(&(struct look){ .req = req }, b, NULL);
		return;
	}
	k = NEW(struct look);
	*k = (struct look){ .req = req, .s = s };
	snprintf(k->id, sizeof(k->id), "%s", b->id);
	http_req_on_close(req, on_closed, k);
	s->engine->ops->usage(b->box, on_usage, k);
}

static void delete_handler(struct http_req *req, void *sandboxes)
{
	const char *id = http_req_param(req, "id");
	struct err err;

	if (sandboxes_remove(sandboxes, req, id))
		return;
	err_set(&err, -ENOENT, "sandbox %.64s is not known here", id);
	api_reply_err(req, &err);
}

void sandbox_list_routes(struct sandboxes *s, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/sandboxes", list_handler, s);
	http_router_add(r, "GET", "/v1/sandboxes/{id}", get_handler, s);
	http_router_add(r, "DELETE", "/v1/sandboxes/{id}", delete_handler, s);
}
