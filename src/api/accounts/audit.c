/* GET /v1/audit: what was changed, or tried, newest first: an operator sees all, an owner what concerns the namespace. */
#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/common/paging.h"
#include "api/common/question.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "store/audit.h"

#define PAGE_DEFAULT 100
#define PAGE_MAX 1000
#define TEXT_MAX 512 /* bytes of what is looked for */

struct asked {
	struct question q;
	struct audit_filter filter; /* its texts are these: */
	char namespace_id[STORE_ID_LEN];
	char *actor, *action, *token;
	uint64_t limit;
	/* the worker's */
	uint64_t n;
	int64_t last;
	bool more;
};

static void asked_done(struct question *q)
{
	struct asked *x = (struct asked *)q;

	free(x->actor);
	free(x->action);
	free(x->token);
}

/* -- the worker -------------------------------------------------------------------------------------------------- */

static void kv_text(struct json_writer *w, const char *key, const char *text)
{
	json_kv_str(w, key, *text ? text : NULL);
}

static void on_entry(void *arg, const struct audit_entry *e)
{
	struct asked *x = arg;
	struct json_writer *w = &x->q.w;

	if (x->n == x->limit) { /* one more than was asked for says that there is a next page */
		x->more = true;
		return;
	}
	json_open_object(w);
	json_kv_i64(w, "id", e->id);
	api_write_time(w, "at", e->at_ms);
	json_kv_str(w, "actor", e->actor);
	kv_text(w, "key", e->key_id);
	kv_text(w, "session", e->session_id);
	json_kv_str(w, "namespace", e->namespace);
	json_kv_str(w, "action", e->action);
	kv_text(w, "target", e->target);
	kv_text(w, "from", e->peer);
	if (e->status) {
		json_kv_i64(w, "status", e->status);
	} else {
		json_key(w, "status");
		json_write_null(w);
	}
	json_close(w);
	x->last = e->id;
	x->n++;
}

static void work(void *arg, struct store_reader *r)
{
	struct asked *x = arg;
	struct json_writer *w = &x->q.w;
	const struct paging_list list = { { "audit", x->namespace_id, x->actor, x->action } };
	int64_t before = 0, since = x->filter.since_ms;

	if (paging_read(x->q.signer, &list, x->token, &before, &since, &x->q.err) < 0)
		return;
	x->filter.since_ms = since;
	json_open_object(w);
	json_key(w, "entries");
	json_open_array(w);
	if (store_audit_read(r, &x->filter, before, x->limit + 1, on_entry, x, &x->q.err) < 0)
		return;
	json_close(w);
	auto_free char *token = x->more && x->n ? paging_token(x->q.signer, &list, x->last, since) : NULL;
	json_kv_str(w, "nextPageToken", token);
	json_close(w);
}

/* -- the question ------------------------------------------------------------------------------------------------ */

/* Whose: an operator's is everybody's where none is named, others' is their own. */
static int read_namespace(struct api *a, struct http_req *req, struct asked *x, struct err *err)
{
	const struct auth_caller *c;
	const char *name = http_req_query(req, "namespace");
	int r = auth_request(a->auth, req, &c, err);

	if (r < 0 || (str_empty(name) && c->role == STORE_ROLE_ADMIN))
		return r;
	const struct store_namespace *ns = str_empty(name) ? c->ns : store_namespace_find(a->store, name);
	if (!ns)
		return err_set(err, -ENOENT, "there is no namespace \"%.100s\" that this key may see", name);
	memcpy(x->namespace_id, ns->id, sizeof(x->namespace_id));
	x->filter.namespace_id = x->namespace_id;
	return auth_may_manage(c, ns, err);
}

static int read_text(struct http_req *req, const char *name, char **ret, struct err *err)
{
	const char *text = NULL;
	int r = api_text(req, name, &text, err);

	if (r < 0 || !text)
		return r;
	if (strlen(text) > TEXT_MAX)
		return err_set(err, -EINVAL, "%s: \"%.40s...\": expected at most %d bytes", name, text, TEXT_MAX);
	*ret = xstrdup(text);
	return 0;
}

/* "since": how long ago, as "24h". */
static int read_since(struct http_req *req, int64_t *ret, struct err *err)
{
	const char *text = http_req_query(req, "since");
	uint64_t ms;

	if (str_empty(text))
		return 0;
	if (str_to_duration(text, &ms) < 0 || ms > (uint64_t)INT64_MAX / 2)
		return err_set(err, -EINVAL, "since: \"%.60s\": expected how long ago, as in \"30m\", \"24h\" or \"7d\"", text);
	*ret = MAX((int64_t)0, time_wall_ms() - (int64_t)ms);
	return 0;
}

static void on_audit(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct asked *x = question_new(a, req, sizeof(*x));
	uint64_t offset;
	struct err err;

	if (!x)
		return;
	x->q.work = work;
	x->q.done = asked_done;
	int r = read_namespace(a, req, x, &err);
	r = r < 0 ? r : read_text(req, "actor", &x->actor, &err);
	r = r < 0 ? r : read_text(req, "action", &x->action, &err);
	r = r < 0 ? r : read_text(req, "pageToken", &x->token, &err);
	r = r < 0 ? r : read_since(req, &x->filter.since_ms, &err);
	r = r < 0 ? r : api_page(req, PAGE_DEFAULT, PAGE_MAX, &x->limit, &offset, &err);
	x->filter.actor = x->actor;
	x->filter.action = x->action;
	if (r < 0)
		question_refuse(&x->q, &err);
	else
		question_ask(a, &x->q);
}

void api_audit_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/audit", on_audit, a);
}
