/* What the handlers of the control plane share. */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

/* Nothing is loaded, run, sent or framed, whatever a text of somebody's should bring about. */
#define POLICY "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

void api_send(struct http_req *req, int status, struct json_writer *w, const struct buf *b)
{
	if (json_write_end(w) == 0)
		http_reply_json(req, status, b);
	else
		http_reply_error(req, 500, "the answer is too large");
}

void api_page_reply(struct http_req *req, int status, const char *html, size_t len)
{
	http_reply_header(req, "Content-Security-Policy", POLICY);
	http_reply_header(req, "X-Content-Type-Options", "nosniff");
	http_reply_header(req, "Referrer-Policy", "no-referrer");
	http_reply_header(req, "Cache-Control", "no-store");
	http_reply(req, status, "text/html; charset=utf-8", html, len);
}

void api_write_time(struct json_writer *w, const char *key, int64_t wall_ms)
{
	char text[TIME_ISO_LEN];

	json_kv_str(w, key, wall_ms ? time_iso(wall_ms, text) : NULL);
}

void api_audit_note(struct http_req *req, const struct store_namespace *ns, const char *name, json_t *body)
{
	auto_buf struct buf b = { 0 };
	const char *field, *between = ": ";
	json_t *unused;

	buf_init(&b, 1024);
	int r = buf_puts(&b, name);
	json_object_foreach(body, field, unused) {
		r = r < 0 ? r : buf_printf(&b, "%s%s", between, field);
		between = ", ";
	}
	auth_audit_note(req, ns, r < 0 ? name : b.data);
}

/* -- when it is on disk ------------------------------------------------------------------------------------------ */

struct saved { /* lives until the store has it */
	struct http_req *req; /* NULL = the client is gone */
	http_close_fn *close_fn; /* whoever had the request before */
	void *close_arg;
	int status;
	struct buf body;
};

static void on_saved(void *arg, const struct err *err)
{
	auto_free struct saved *s = arg;

	if (s->req) {
		http_req_on_close(s->req, s->close_fn, s->close_arg);
		if (err)
			api_reply_err(s->req, err);
		else
			http_reply_json(s->req, s->status, &s->body);
	}
	if (s->body.data)
		explicit_bzero(s->body.data, s->body.len); /* a key may be in it */
	buf_done(&s->body);
}

static void on_saved_gone(struct http_req *req, bool complete, void *arg)
{
	struct saved *s = arg;

	s->req = NULL;
	if (s->close_fn)
		s->close_fn(req, complete, s->close_arg);
}

void api_send_saved(struct api *a, struct http_req *req, int status, struct json_writer *w, struct buf *b)
{
	if (json_write_end(w) < 0) {
		http_reply_error(req, 500, "the answer is too large");
		return;
	}
	struct saved *s = NEW(struct saved);
	*s = (struct saved){ .req = req, .status = status, .body = *b };
	*b = (struct buf){ 0 };
	s->close_fn = http_req_close_fn(req, &s->close_arg);
	http_req_on_close(req, on_saved_gone, s);
	store_sync(a->store, on_saved, s);
}

/* -- who asks ---------------------------------------------------------------------------------------------------- */

const struct auth_caller *api_caller(struct api *a, struct http_req *req)
{
	const struct auth_caller *c;
	struct err err;

	if (auth_request(a->auth, req, &c, &err) < 0) {
		api_reply_err(req, &err);
		return NULL;
	}
	return c;
}

const struct auth_caller *api_caller_with(struct api *a, struct http_req *req, enum store_role role)
{
	const struct auth_caller *c = api_caller(a, req);
	struct err err;

	if (c && auth_need_role(c, role, &err) < 0) {
		api_reply_err(req, &err);
		return NULL;
	}
	return c;
}

struct store_environment *api_changeable(struct api *a, struct http_req *req)
{
	const struct auth_caller *c = api_caller(a, req);
	struct store_environment *e;
	struct err err;

	if (!c)
		return NULL;
	if (auth_find_environment(a->auth, c, http_req_param(req, "owner"), http_req_param(req, "name"), &e, &err) == 0 &&
	    auth_may_change(c, e, &err) == 0)
		return e;
	api_reply_err(req, &err);
	return NULL;
}

int api_text(struct http_req *req, const char *name, const char **ret, struct err *err)
{
	const char *text = http_req_query(req, name);

	if (text && !str_is_utf8(text, strlen(text)))
		return err_set(err, -EINVAL, "%s: expected a text in UTF-8", name);
	*ret = str_empty(text) ? NULL : text;
	return 0;
}

static int number(struct http_req *req, const char *name, uint64_t fallback, uint64_t *ret, struct err *err)
{
	const char *text = http_req_query(req, name);
	uint64_t v;

	if (str_empty(text)) {
		*ret = fallback;
		return 0;
	}
	if (str_to_u64(text, &v) < 0)
		return err_set(err, -EINVAL, "%s: \"%.100s\": expected a whole number", name, text);
	*ret = v;
	return 0;
}

int api_page(struct http_req *req, uint64_t default_limit, uint64_t max_limit, uint64_t *ret_limit, uint64_t *ret_offset,
	     struct err *err)
{
	uint64_t limit = 0, offset = 0;
	int r = number(req, "limit", default_limit, &limit, err);

	if (r == 0)
		r = number(req, "offset", 0, &offset, err);
	if (r < 0)
		return r;
	*ret_limit = MIN(limit, max_limit);
	*ret_offset = offset;
	return 0;
}
