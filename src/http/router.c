/* http/router.c: a tree of path segments; each node may hold one handler per method. */
#include "http/router.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "http/private.h"

#define MAX_PARAMS 8
#define MAX_SEGMENTS 64 /* of a request's path; a longer one matches only "{rest...}" */

struct route {
	struct route *next;
	char *method;
	char **names; /* of the parameters, in the order of the path */
	size_t n_names;
	http_handler_fn *fn;
	void *arg;
};

struct node {
	struct node *next;     /* sibling */
	char *literal;         /* NULL for a parameter */
	struct node *literals; /* children */
	struct node *param;
	struct route *routes; /* paths that end here */
	struct route *rest;   /* "{rest...}" after this node */
};

struct http_router {
	struct node root;
	http_handler_fn *fallback;
	void *fallback_arg;
};

/* -- making ---------------------------------------------------------------------------------------------------- */

struct http_router *http_router_new(void)
{
	return NEW(struct http_router);
}

static void free_routes(struct route *r)
{
	while (r) {
		struct route *next = r->next;
		for (size_t i = 0; i < r->n_names; i++)
			free(r->names[i]);
		free(r->names);
		free(r->method);
		free(r);
		r = next;
	}
}

/* As deep as the longest pattern. */
static void free_node(struct node *n)
{
	while (n->literals) {
		struct node *child = n->literals;
		n->literals = child->next;
		free_node(child);
		free(child);
	}
	if (n->param) {
		free_node(n->param);
		free(n->param);
	}
	free_routes(n->routes);
	free_routes(n->rest);
	free(n->literal);
}

struct http_router *http_router_free(struct http_router *r)
{
	if (!r)
		return NULL;
	free_node(&r->root);
	free(r);
	return NULL;
}

static struct node *literal_child(struct node *n, const char *s, size_t len, bool make)
{
	struct node *child;

	for (child = n->literals; child; child = child->next)
		if (strlen(child->literal) == len && !memcmp(child->literal, s, len))
			return child;
	if (!make)
		return NULL;
	child = NEW(struct node);
	child->literal = xstrndup(s, len);
	child->next = n->literals;
	n->literals = child;
	return child;
}

static void add_name(struct route *r, const char *s, size_t len)
{
	if (r->n_names == MAX_PARAMS)
		abort(); /* a pattern of ours: a mistake of the program */
	r->names = xrealloc(r->names, (r->n_names + 1) * sizeof(*r->names));
	r->names[r->n_names++] = xstrndup(s, len);
}

/* "{name}" or "{name...}"; false for a literal. */
static bool parse_param(const char *seg, size_t len, size_t *ret_name_len, bool *ret_rest)
{
	if (len < 3 || seg[0] != '{' || seg[len - 1] != '}')
		return false;
	*ret_rest = len > 5 && !memcmp(seg + len - 4, "...", 3);
	*ret_name_len = len - 2 - (*ret_rest ? 3 : 0);
	return true;
}

void http_router_add(struct http_router *r, const char *method, const char *pattern, http_handler_fn *fn, void *arg)
{
	struct route *route = NEW(struct route);
	struct node *n = &r->root;
	bool rest = false;

	*route = (struct route){ .method = xstrdup(method), .fn = fn, .arg = arg };
	for (const char *p = pattern; *p == '/' && !rest;) {
		size_t len = strcspn(++p, "/"), name_len;

		if (!parse_param(p, len, &name_len, &rest)) {
			n = literal_child(n, p, len, true);
		} else {
			add_name(route, p + 1, name_len);
			if (!rest && !n->param)
				n->param = NEW(struct node);
			n = rest ? n : n->param;
		}
		p += len;
	}
	struct route **list = rest ? &n->rest : &n->routes;
	route->next = *list;
	*list = route;
}

void http_router_fallback(struct http_router *r, http_handler_fn *fn, void *arg)
{
	r->fallback = fn;
	r->fallback_arg = arg;
}

/* -- matching -------------------------------------------------------------------------------------------------- */

struct segment {
	const char *s;
	size_t len;
};

struct match {
	const char *method;
	struct segment segments[MAX_SEGMENTS];
	size_t n_segments;
	struct segment values[MAX_PARAMS];
	const struct route *found;
	struct buf allow; /* methods of routes whose path matches */
};

static bool method_matches(const char *route, const char *method)
{
	return !strcmp(route, method) || (!strcmp(method, "HEAD") && !strcmp(route, "GET"));
}

static void allow_method(struct buf *b, const char *method)
{
	const char *at = strstr(b->data, method);
	size_t len = strlen(method);

	if (at && (at[len] == ',' || !at[len]))
		return;
	if (buf_printf(b, "%s%s", b->len ? ", " : "", method) < 0)
		return; /* full: Allow is a hint */
	if (!strcmp(method, "GET"))
		allow_method(b, "HEAD");
}

static bool pick(struct match *m, const struct route *routes)
{
	for (const struct route *r = routes; r; r = r->next) {
		if (method_matches(r->method, m->method)) {
			m->found = r;
			return true;
		}
		allow_method(&m->allow, r->method);
	}
	return false;
}

static bool match_rest(struct match *m, const struct node *n, size_t i, size_t n_values)
{
	if (!n->rest || i >= m->n_segments || n_values >= MAX_PARAMS)
		return false;
	m->values[n_values] = (struct segment){ m->segments[i].s, strlen(m->segments[i].s) };
	return pick(m, n->rest);
}

/* Depth first: literal, parameter, rest. As deep as the longest pattern, which bounds the steps: at most 2^depth. */
static bool match_node(struct match *m, struct node *n, size_t i, size_t n_values)
{
	struct segment seg;
	struct node *child;

	if (i == m->n_segments)
		return pick(m, n->routes);
	seg = m->segments[i];
	child = literal_child(n, seg.s, seg.len, false);
	if (child && match_node(m, child, i + 1, n_values))
		return true;
	if (n->param && seg.len && n_values < MAX_PARAMS) {
		m->values[n_values] = seg;
		if (match_node(m, n->param, i + 1, n_values + 1))
			return true;
	}
	return match_rest(m, n, i, n_values);
}

/* The last segment that fits keeps everything after it: only a rest can match it then. */
static void split_path(struct match *m, const char *path)
{
	while (*path == '/' && m->n_segments < MAX_SEGMENTS) {
		size_t len = strcspn(++path, "/");
		if (m->n_segments == MAX_SEGMENTS - 1)
			len = strlen(path);
		m->segments[m->n_segments++] = (struct segment){ path, len };
		path += len;
	}
}

/* The name of the first with a bad escape; NULL = all are well. */
static const char *store_params(struct http_req *req, const struct match *m)
{
	size_t n = m->found->n_names;
	struct http_param *params = http_req_alloc(req, (n + 1) * sizeof(*params));

	for (size_t i = 0; i < n; i++) {
		auto_buf struct buf b = { 0 };
		char *value;

		buf_init(&b, BUF_UNLIMITED);
		if (str_percent_decode(&b, m->values[i].s, m->values[i].len, false) < 0)
			return m->found->names[i];
		value = http_req_alloc(req, b.len + 1);
		memcpy(value, b.data, b.len + 1);
		params[i] = (struct http_param){ m->found->names[i], value };
	}
	req_set_params(req, params, n);
	return NULL;
}

/* The name of the first parameter of the query with a bad escape, in the request's memory; NULL = there is none. Such a
 * value would count as absent. */
static const char *bad_query(struct http_req *req)
{
	for (const char *p = http_req_raw_query(req); *p; p += *p == '&') {
		size_t len = strcspn(p, "&"), key = strcspn(p, "=&");
		auto_buf struct buf b = { 0 };

		buf_init(&b, BUF_UNLIMITED);
		if (str_percent_decode(&b, p, len, true) < 0) {
			char *name = http_req_alloc(req, key + 1);
			memcpy(name, p, key);
			name[key] = '\0';
			return name;
		}
		p += len;
	}
	return NULL;
}

static void run(struct http_req *req, const struct match *m)
{
	static const char expected[] = "expected % and two hexadecimal digits, no %00";
	const char *of_path = store_params(req, m), *of_query = of_path ? NULL : bad_query(req);

	if (of_path)
		http_reply_error(req, 400, "%s: the path holds a bad escape here; %s", of_path, expected);
	else if (of_query)
		http_reply_error(req, 400, "%.100s: the query holds a bad escape here; %s", of_query, expected);
	else
		m->found->fn(req, m->found->arg);
}

static void reply_no_match(struct http_router *r, struct http_req *req, const struct match *m)
{
	if (m->allow.len) {
		http_reply_header(req, "Allow", m->allow.data);
		http_reply_error(req, 405, "%s is not allowed here: use %s", m->method, m->allow.data);
	} else if (r->fallback) {
		r->fallback(req, r->fallback_arg);
	} else {
		http_reply_error(req, 404, "there is nothing at %s", http_req_path(req));
	}
}

void http_router_dispatch(struct http_req *req, void *router)
{
	struct http_router *r = router;
	struct match m = { .method = http_req_method(req) };

	buf_init(&m.allow, 512);
	split_path(&m, http_req_path(req));
	match_node(&m, &r->root, 0, 0);
	if (!m.found)
		reply_no_match(r, req, &m);
	else
		run(req, &m);
	buf_done(&m.allow);
}
