/* Pages for people whose client printed an address: /rollout/{id}, /settings/api-keys and, where a browser asks,
 * /{owner}/{name}. They are behind the fallback of the routes, so that a session's calls of the same paths are the session's.
 *
 * No page needs a key, asks for one or takes one: a browser that had it would send it with whatever other sites make it send.
 * So they show what everybody may see, and say how the rest is seen with one. */
#include <string.h>

#include "api/api.h"
#include "base/mem.h"
#include "base/str.h"

#define PAGE_MAX (64u * 1024)
#define ID_MAX 200

struct page {
	struct http_req *req;
	struct buf b;
	int r; /* the first failure */
};

static void put(struct page *p, const char *html)
{
	p->r = p->r < 0 ? p->r : buf_puts(&p->b, html);
}

static void put_text(struct page *p, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<': put(p, "&lt;"); break;
		case '>': put(p, "&gt;"); break;
		case '&': put(p, "&amp;"); break;
		case '"': put(p, "&quot;"); break;
		case '\'': put(p, "&#39;"); break;
		default: p->r = p->r < 0 ? p->r : buf_append(&p->b, text, 1);
		}
	}
}

static void page_begin(struct page *p, struct http_req *req, const char *title)
{
	*p = (struct page){ .req = req };
	buf_init(&p->b, PAGE_MAX);
	put(p, "<!doctype html><html lang=en><meta charset=utf-8><title>");
	put_text(p, title);
	put(p, "</title><h1>");
	put_text(p, title);
	put(p, "</h1>\n");
}

static void put_origin(struct page *p)
{
	put_text(p, http_req_scheme(p->req));
	put(p, "://");
	put_text(p, http_req_host(p->req)); /* of letters, digits and punctuation that no shell minds: others were refused */
}

static void page_end(struct page *p, int status)
{
	if (p->r < 0)
		http_reply_error(p->req, 500, "the page is too large");
	else
		api_page_reply(p->req, status, p->b.data, p->b.len);
	buf_done(&p->b);
}

/* -- the pages --------------------------------------------------------------------------------------------------- */

/* Whether there is such a rollout is not looked at: it is its namespace's alone. */
static void show_rollout(struct http_req *req, const char *id)
{
	struct page p;

	page_begin(&p, req, "A rollout");
	put(&p, "<p>This is the address of one rollout. It is seen with a key of the namespace that recorded it:\n<pre>curl -H "
		"\"X-API-Key: $OPENREWARD_API_KEY\" ");
	put_origin(&p);
	put(&p, "/v1/rollouts/");
	put_text(&p, id);
	put(&p, "\nopenreward runs\nopenreward rollouts RUN ");
	put_text(&p, id);
	put(&p, "\norwd rollouts RUN</pre>\n<p>RUN is a line of the second command, or of <code>orwd runs</code>.\n");
	page_end(&p, 200);
}

static void show_keys(struct http_req *req)
{
	struct page p;

	page_begin(&p, req, "API keys");
	put(&p, "<p>Keys are made at the command line, with a key that may, and shown once:\n<pre>openreward key create\n"
		"openreward key ls\nopenreward key revoke ID</pre>\n"
		"<p>On the server itself, its operator makes the first one of a user:\n<pre>openreward user create NAME\n"
		"openreward key create --user NAME</pre>\n<p>Clients find this server, and whose they are, by\n<pre>export OPENREWARD_URL=");
	put_origin(&p);
	put(&p, "\nexport OPENREWARD_API_URL=");
	put_origin(&p);
	put(&p, "\nexport OPENREWARD_SESSION_URL=");
	put_origin(&p);
	put(&p, "\nexport OPENREWARD_API_KEY=orw_...</pre>\n");
	page_end(&p, 200);
}

static void show_environment(struct http_req *req, const struct store_environment *e)
{
	auto_free char *name = xasprintf("%s/%s", e->ns->name, e->name);
	struct page p;

	page_begin(&p, req, name);
	put(&p, "<p>");
	put_text(&p, e->description);
	put(&p, "\n<p>An environment of this server:\n<pre>orwd get ");
	put_text(&p, name);
	put(&p, "\norwd deployments ");
	put_text(&p, name);
	put(&p, "</pre>\n<pre>from openreward import OpenReward\nenvironment = OpenReward().environments.get(name=\"");
	put_text(&p, name);
	put(&p, "\")</pre>\n");
	page_end(&p, 200);
}

static void show_no_environment(struct http_req *req, const char *owner, const char *name)
{
	struct page p;

	page_begin(&p, req, "No public environment");
	put(&p, "<p>There is no public environment of this name here. A private one is seen with a key that may:\n<pre>orwd get ");
	put_text(&p, owner);
	put(&p, "/");
	put_text(&p, name);
	put(&p, "</pre>\n");
	page_end(&p, 404);
}

/* -- which one --------------------------------------------------------------------------------------------------- */

static bool is_browser(const struct http_req *req)
{
	const char *accept = http_req_header(req, "Accept");

	return accept && strstr(accept, "text/html");
}

/* What people paste into a shell from these pages is of letters, digits, '.', '_' and '-' alone. */
static bool show_path(struct api *a, struct http_req *req)
{
	const char *path = http_req_path(req), *rollout = "/rollout/";
	const char *slash = strchr(path + 1, '/');
	struct store_environment *e;

	if (str_eq(path, "/settings/api-keys")) {
		show_keys(req);
		return true;
	}
	if (str_starts(path, rollout) && str_is_name(path + strlen(rollout), ID_MAX)) {
		show_rollout(req, path + strlen(rollout));
		return true;
	}
	auto_free char *owner = slash ? xstrndup(path + 1, (size_t)(slash - path - 1)) : NULL;
	if (!owner || !is_browser(req) || !str_is_name(owner, STORE_NAME_MAX) || !str_is_name(slash + 1, STORE_NAME_MAX))
		return false;
	e = store_environment_find(a->store, owner, slash + 1);
	if (e && auth_may_see(NULL, e, NULL) == 0)
		show_environment(req, e);
	else
		show_no_environment(req, owner, slash + 1);
	return true;
}

static void on_other(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const char *method = http_req_method(req);
	bool asks = str_eq(method, "GET") || str_eq(method, "HEAD");

	if (!asks || *http_req_path(req) != '/' || http_req_header(req, "X-Session-ID") || !show_path(a, req))
		a->of_session(req, a->of_session_arg);
}

void api_pages_routes(struct api *a, struct http_router *r)
{
	http_router_fallback(r, on_other, a);
}
