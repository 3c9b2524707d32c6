/* POST /v1/github/webhook: a push at GitHub starts a deployment of each environment that is linked to the repository and
 * deployed from that branch. Nothing of the body is looked at before its signature is right; no key is needed. */
#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/deployments/github.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/github.h"
#include "store/audit.h"

#define BODY_MAX (25u * 1024 * 1024) /* GitHub's own limit */
#define BODIES_MAX (100ull * 1024 * 1024) /* together: anybody may send one */
#define DELIVERY_MAX 100

struct share { /* of BODIES_MAX */
	struct api *api;
	uint64_t bytes;
};

struct push_event {
	struct api *api;
	struct http_req *req;
	const char *delivery;
	int64_t repo;
	const char *ref;
	unsigned started;
	struct err err; /* of the first that was not deployed */
};

/* changed: the answer waits until deployments and the delivery are on disk; NULL = nothing is to be. */
static void reply(struct http_req *req, int status, const char *text, unsigned started, struct api *changed)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "status", text);
	json_kv_i64(&w, "deployments", started);
	json_close(&w);
	if (changed)
		api_send_saved(changed, req, status, &w, &b);
	else
		api_send(req, status, &w, &b);
}

/* Nobody's key asks for it: the repository does. Before the change, as every entry; what becomes of it follows. */
static int64_t audit(const struct push_event *p, const struct store_environment *e)
{
	auto_free char *actor = xasprintf("github:%s", e->origin.github_repo);
	auto_free char *target = xasprintf("%s/%s: a push to %s, delivery %s", e->ns->name, e->name, e->origin.branch, p->delivery);
	const struct audit_entry entry = {
		.actor_id = "", .actor = actor, .key_id = "", .session_id = "", .namespace_id = e->ns->id, .namespace = e->ns->name,
		.action = "POST /v1/github/webhook", .target = target, .peer = http_req_peer(p->req),
	};

	return store_audit_add(p->api->store, &entry);
}

static bool on_environment(void *arg, struct store_environment *e)
{
	struct push_event *p = arg;
	auto_free char *ref = xasprintf("refs/heads/%s", e->origin.branch);
	struct store_deployment *d;
	struct err err;

	if (e->origin.github_id != p->repo || !str_eq(ref, p->ref))
		return true;
	int64_t entry = audit(p, e);
	int r = github_deploy(p->api, e, &d, &err);
	store_audit_status(p->api->store, entry, r < 0 ? api_status_of(err.code) : 202);
	if (r == 0) {
		p->started++;
		return true;
	}
	log_event(LOG_WARN, "github", LOG_KV("environment", e->name), "a push was not deployed: %s", err.msg);
	if (!p->err.code)
		p->err = err;
	return true;
}

static int parse(json_t *body, struct push_event *ret, bool *ret_deleted, struct err *err)
{
	json_t *repo = NULL;
	int r = json_need_str(body, "ref", &ret->ref, err);

	r = r < 0 ? r : json_get_bool(body, "deleted", ret_deleted, err);
	r = r < 0 ? r : json_get_object(body, "repository", &repo, err);
	if (r == 0 && !repo)
		r = err_set(err, -EINVAL, "repository: missing: expected the repository that was pushed to");
	r = r < 0 ? r : json_get_i64(repo, "id", 1, INT64_MAX, &ret->repo, err);
	if (r == 0 && !ret->repo) /* which would be every environment that is linked to none */
		r = err_set(err, -EINVAL, "repository.id: missing: expected the number of the repository that was pushed to");
	return r;
}

static void take_push(struct http_req *req, struct api *a, const char *delivery, const char *data, size_t len)
{
	struct push_event p = { .api = a, .req = req, .delivery = delivery, .err = ERR_INIT };
	auto_json body = NULL;
	bool deleted = false;
	struct err err;

	if (json_read_object(&body, data, len, &err) < 0 || parse(body, &p, &deleted, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	if (!deleted)
		store_environments(a->store, on_environment, &p);
	if (p.err.code) { /* the delivery counts as none, or nothing would come of it when it is sent again */
		http_reply_error(req, p.err.code == -EAGAIN ? 503 : 507, "not deployed: %s", p.err.msg);
		return;
	}
	store_delivery_add(a->store, delivery);
	reply(req, p.started ? 202 : 200, p.started ? "deploying" : "ignored", p.started, a);
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	const char *event = http_req_header(req, "X-GitHub-Event"), *delivery = http_req_header(req, "X-GitHub-Delivery");

	if (!github_signed(a->github_webhook_secret, http_req_header(req, "X-Hub-Signature-256"), data, len))
		http_reply_error(req, 401, "X-Hub-Signature-256: expected the HMAC-SHA256 of the body with github.webhook_secret");
	else if (!str_is_name(delivery, DELIVERY_MAX))
		http_reply_error(req, 400, "X-GitHub-Delivery: expected the delivery's id");
	else if (store_delivery_known(a->store, delivery))
		reply(req, 200, "duplicate", 0, NULL);
	else if (str_eq(event, "push"))
		take_push(req, a, delivery, data, len);
	else
		reply(req, 200, str_eq(event, "ping") ? "pong" : "ignored", 0, NULL);
}

static void on_close(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	const struct share *s = arg;

	s->api->webhook_bytes -= s->bytes;
}

/* Before the body comes, and until the request ends, as long as it lies in memory. */
static int take_share(struct api *a, struct http_req *req, struct err *err)
{
	int64_t length = http_req_content_length(req);
	uint64_t bytes = length < 0 ? BODY_MAX : MIN((uint64_t)length, BODY_MAX);

	if (a->webhook_bytes + bytes > BODIES_MAX)
		return err_set(err, -EAGAIN, "too many webhooks are under way: expected bodies of at most %llu bytes together",
			       BODIES_MAX);
	struct share *s = http_req_alloc(req, sizeof(*s));
	*s = (struct share){ .api = a, .bytes = bytes };
	a->webhook_bytes += bytes;
	http_req_on_close(req, on_close, s);
	return 0;
}

static void on_webhook(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const char *signature = http_req_header(req, "X-Hub-Signature-256");
	struct err err;

	if (str_empty(a->github_webhook_secret))
		http_reply_error(req, 403, "webhooks are off: github.webhook_secret is not set");
	else if (!github_is_signature(signature))
		http_reply_error(req, 401, "X-Hub-Signature-256: %s: expected \"sha256=\" and 64 hexadecimal digits, the HMAC-SHA256"
				 " of the body", signature ? "malformed" : "missing");
	else if (take_share(a, req, &err) < 0)
		api_reply_err(req, &err);
	else
		http_req_body(req, BODY_MAX, on_body, a);
}

void api_webhook_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/github/webhook", on_webhook, a);
}
