/* /v1/github/...: repositories elsewhere, for the command line: is there a connection, what can be linked, link, settings. */
#include "api/deployments/github.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/common/errors.h"
#include "api/deployments/source.h"
#include "api/environments/details.h"
#include "base/mem.h"
#include "base/str.h"
#include "env/env.h"
#include "git/git.h"
#include "git/github.h"
#include "store/envset.h"

#define BODY_MAX (64u * 1024)
#define REPOS_PAGE 100
#define REPOS_PAGES_MAX 50 /* of GitHub's, in one answer */
#define INSTALLATION 1     /* there is one token, so one installation; clients send it back */

/* -- who may --------------------------------------------------------------------------------------------------------- */

/* A member whose namespace the operator named, or an admin: whatever the token reads can be linked. */
static const struct auth_caller *permitted(struct api *a, struct http_req *req)
{
	const struct auth_caller *c = api_caller_with(a, req, STORE_ROLE_MEMBER);
	bool allowed = c && c->role == STORE_ROLE_ADMIN;

	for (char *const *p = a->github_namespaces; c && p && *p; p++)
		allowed = allowed || str_eq(*p, c->namespace_name);
	if (c && (!allowed || c->session_id)) {
		http_reply_error(req, 403, "the namespace \"%s\" may not use this server's connection to GitHub: the operator names those that "
				 "may in github.namespaces", c->namespace_name);
		return NULL;
	}
	return c;
}

/* The environment of a path for a key that may change it, or NULL after an answer. */
static struct store_environment *changeable(struct api *a, struct http_req *req, struct store_environment *e)
{
	const struct auth_caller *c = api_caller(a, req);
	struct err err;

	if (!c)
		return NULL;
	int r = e ? auth_may_change(c, e, &err) : err_set(&err, -ENOENT, "Deployment not found. There is no such environment");
	if (r == 0)
		return e;
	api_reply_err(req, &err);
	return NULL;
}

static struct store_environment *by_id(struct api *a, struct http_req *req)
{
	return changeable(a, req, store_environment_by_id(a->store, http_req_param(req, "id")));
}

static struct store_environment *by_name(struct api *a, struct http_req *req)
{
	return changeable(a, req, store_environment_find(a->store, http_req_param(req, "owner"), http_req_param(req, "name")));
}

static void reply_pair(struct http_req *req, int status, const char *key, const char *value)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16 * 1024);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, key, value);
	json_close(&w);
	api_send(req, status, &w, &b);
}

/* -- one question to GitHub, for one request -------------------------------------------------------------------------- */

struct ask { /* ends with its request, or its answer */
	struct api *api;
	struct http_req *req;
	struct github_call *call;
	struct store_environment *e; /* connect */
	json_t *body;                /* connect */
	struct json_writer w;        /* repos */
	struct buf out;
	unsigned page;
};

static void ask_free(struct ask *k)
{
	github_cancel(k->call);
	json_decref(k->body);
	buf_done(&k->out);
	free(k);
}

static void on_asker_gone(struct http_req *req, bool complete, void *arg)
{
	(void)req;
	(void)complete;
	ask_free(arg);
}

static struct ask *ask_new(struct api *a, struct http_req *req)
{
	struct ask *k = NEW(struct ask);

	k->api = a;
	k->req = req;
	buf_init(&k->out, 16 * 1024 * 1024);
	http_req_on_close(req, on_asker_gone, k);
	return k;
}

static void ask(struct ask *k, const char *path, github_answer_fn *fn)
{
	k->call = github_get(k->api->github, path, fn, k);
}

/* 0, or a negative errno with what GitHub said: never its text alone, which may be a page. */
static int check_answer(int status, const char *body, size_t len, const struct err *call_err, struct err *err)
{
	auto_json j = NULL;
	const char *message = NULL;

	if (call_err) {
		err_copy(err, call_err);
		return call_err->code;
	}
	if (status == 200)
		return 0;
	if (json_read_object(&j, body, len, NULL) == 0)
		(void)!json_get_str(j, "message", &message, NULL);
	return err_set(err, status == 404 ? -ENOENT : status >= 500 || status == 429 ? -EAGAIN : -EPERM,
		       "GitHub answered %d: %.300s",
		       status, message ? message : "no message");
}

/* -- GET auth-status, install-url, reauth-url -------------------------------------------------------------------------- */

static void on_status(void *arg, int status, const char *body, size_t len, const struct err *call_err)
{
	struct ask *k = arg;
	struct err err;

	k->call = NULL;
	if (!call_err && status == 401)
		reply_pair(k->req, 200, "status", "requiresReauth");
	else if (check_answer(status, body, len, call_err, &err) < 0)
		api_reply_err(k->req, &err);
	else
		reply_pair(k->req, 200, "status", "success");
}

static void on_auth_status(struct http_req *req, void *arg)
{
	struct api *a = arg;

	if (!permitted(a, req))
		return;
	if (!github_has_token(a->github))
		reply_pair(req, 200, "status", "noAuth");
	else
		ask(ask_new(a, req), "/rate_limit", on_status); /* every token may ask this, and it counts for nothing */
}

static void on_url(struct http_req *req, void *arg)
{
	auto_free char *url = xasprintf("%s://%s/settings/github", http_req_scheme(req), http_req_host(req));

	if (api_caller(arg, req))
		reply_pair(req, 200, "url", url);
}

static void on_page(struct http_req *req, void *arg)
{
	static const char page[] =
		"<!doctype html><meta charset=utf-8><title>GitHub</title><h1>Connecting this server to GitHub</h1>"
		"<p>The connection is a token in the server's configuration, which its operator sets:<pre>github:\n"
		"  token: a token that may read the repositories to be linked (fine-grained: Contents and Metadata, read-only)\n"
		"  webhook_secret: any long random text\n  namespaces: [those whose members may link them]</pre>"
		"<p>Start the server again afterwards. At GitHub, give each repository a webhook for pushes to "
		"<code>/v1/github/webhook</code> of this server, content type application/json, with the same secret.";

	(void)arg;
	api_page_reply(req, 200, page, sizeof(page) - 1);
}

/* -- GET repos --------------------------------------------------------------------------------------------------------- */

static void next_page(struct ask *k);

static void write_repos(struct json_writer *w, json_t *list)
{
	size_t i;
	json_t *repo;

	json_array_foreach(list, i, repo) {
		json_t *id = json_object_get(repo, "id");
		const char *name = json_string_value(json_object_get(repo, "full_name"));
		if (!json_is_integer(id) || !github_is_repo(name))
			continue;
		json_open_object(w);
		json_kv_i64(w, "id", json_integer_value(id));
		json_kv_str(w, "fullName", name);
		json_kv_i64(w, "installationId", INSTALLATION);
		json_close(w);
	}
}

static void on_repos_page(void *arg, int status, const char *body, size_t len, const struct err *call_err)
{
	struct ask *k = arg;
	auto_json list = NULL;
	struct err err;

	k->call = NULL;
	int r = check_answer(status, body, len, call_err, &err);
	r = r < 0 ? r : json_read(&list, body, len, &err);
	if (r == 0 && !json_is_array(list))
		r = err_set(&err, -EAGAIN, "GitHub answered something else than a list of repositories");
	if (r < 0) {
		api_reply_err(k->req, &err);
		return;
	}
	write_repos(&k->w, list);
	if (json_array_size(list) == REPOS_PAGE && k->page < REPOS_PAGES_MAX) {
		next_page(k);
		return;
	}
	json_close(&k->w);
	json_close(&k->w);
	api_send(k->req, 200, &k->w, &k->out);
}

static void next_page(struct ask *k)
{
	auto_free char *path = xasprintf("/user/repos?per_page=%d&page=%u", REPOS_PAGE, ++k->page);

	ask(k, path, on_repos_page);
}

static void on_repos(struct http_req *req, void *arg)
{
	struct api *a = arg;

	if (!permitted(a, req))
		return;
	if (!github_has_token(a->github)) {
		static const char none[] = "{\"status\":\"noAuth\",\"repos\":[]}";
		http_reply(req, 200, "application/json", none, sizeof(none) - 1);
		return;
	}
	struct ask *k = ask_new(a, req);
	json_write_begin(&k->w, &k->out);
	json_open_object(&k->w);
	json_kv_str(&k->w, "status", "success");
	json_key(&k->w, "repos");
	json_open_array(&k->w);
	next_page(k);
}

/* -- settings ---------------------------------------------------------------------------------------------------------- */

/* The clients' names of what store/envset.h has under its own. */
static const struct {
	const char *theirs;
	enum envset id;
} scale_names[] = {
	{ "cpuMemory", ENVSET_SIZE }, { "minScale", ENVSET_MIN_SCALE }, { "maxScale", ENVSET_MAX_SCALE },
	{ "concurrency", ENVSET_CONCURRENCY },
};

/* "1-4" is CPU:GIB with another separator. */
static json_t *value_of(enum envset id, json_t *v)
{
	const char *text = json_string_value(v), *dash = text && id == ENVSET_SIZE ? strchr(text, '-') : NULL;

	if (!dash)
		return json_incref(v);
	auto_free char *size = xstrdup(text);
	size[dash - text] = ':';
	return json_string(size);
}

/* The error in the words of the one who asked. */
static int refused(int r, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(scale_names); i++) {
		const char *ours = envset_rows[scale_names[i].id].name;
		if (!str_starts(err->msg, ours))
			continue;
		auto_free char *rest = xstrdup(err->msg + strlen(ours));
		return err_set(err, r, "settings.%s%s", scale_names[i].theirs, rest);
	}
	return r;
}

/* The settings of body under our names; the caller owns *ret. Checked, and the rest of body too. */
static int parse_settings(const struct store_environment *e, json_t *body, json_t **ret, struct err *err)
{
	auto_json changes = json_object();
	json_t *theirs = NULL;
	int r = json_get_object(body, "settings", &theirs, err);

	for (size_t i = 0; r == 0 && theirs && i < ARRAY_LEN(scale_names); i++) {
		json_t *v = json_object_get(theirs, scale_names[i].theirs);
		if (v && !json_is_null(v))
			json_object_set_new(changes, envset_rows[scale_names[i].id].name, value_of(scale_names[i].id, v));
	}
	r = r < 0 ? r : details_check_origin(body, err);
	r = r < 0 ? r : envset_check(e, changes, err);
	if (r < 0)
		return refused(r, err);
	*ret = STEAL(changes);
	return 0;
}

/* All of it or nothing. */
static int apply(struct api *a, struct store_environment *e, json_t *body, struct err *err)
{
	auto_json changes = NULL;
	int r = parse_settings(e, body, &changes, err);

	r = r < 0 ? r : envset_change(a->store, e, changes, err);
	return r < 0 ? r : details_origin(a->store, e, body, err);
}

static void write_settings(struct api *a, struct json_writer *w, const struct store_environment *e)
{
	double cpu = (double)(e->cpu_milli ? e->cpu_milli : a->default_cpu_milli) / 1000;
	double gib = (double)(e->memory_bytes ? e->memory_bytes : a->default_memory_bytes) / (double)(1ull << 30);
	char size[64];

	snprintf(size, sizeof(size), "%g-%g", cpu, gib);
	json_key(w, "settings");
	json_open_object(w);
	json_kv_str(w, "cpuMemory", size);
	json_kv_i64(w, "minScale", (int64_t)envset_number(e, ENVSET_MIN_SCALE));
	json_kv_i64(w, "maxScale", (int64_t)e->max_scale);
	json_kv_i64(w, "concurrency", (int64_t)e->max_concurrency);
	json_close(w);
}

static void write_link(struct api *a, struct json_writer *w, const struct store_environment *e, const char *deployment)
{
	json_open_object(w);
	json_kv_str(w, "environmentId", e->id);
	json_key(w, "githubRepoId");
	if (e->origin.github_id)
		json_i64(w, e->origin.github_id);
	else
		json_write_null(w);
	json_kv_str(w, "fullName", *e->origin.github_repo ? e->origin.github_repo : NULL);
	json_kv_str(w, "branch", e->origin.branch);
	json_kv_str(w, "subdirectory", *e->origin.subdirectory ? e->origin.subdirectory : NULL);
	write_settings(a, w, e);
	if (deployment)
		json_kv_str(w, "deploymentId", deployment);
	json_close(w);
}

static void reply_link(struct api *a, struct http_req *req, const struct store_environment *e, const char *deployment)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64 * 1024);
	json_write_begin(&w, &b);
	write_link(a, &w, e, deployment);
	api_send_saved(a, req, 200, &w, &b);
}

/* -- a deployment from a linked repository ------------------------------------------------------------------------------ */

struct fetching {
	struct api *api;
	struct store_deployment *d;
};

static void on_fetched(void *arg, const char *commit, const struct err *err)
{
	auto_free struct fetching *f = arg;
	auto_free char *repository = git_github_repository(f->api->git, f->d->environment->id);

	if (err || f->d->environment->removing) {
		envs_reject(f->api->envs, f->d, STORE_DEPLOYMENT_FAILED, err ? err->msg : SOURCE_DELETED);
		return;
	}
	store_set_str(&f->d->commit, commit);
	store_deployment_save(f->api->store, f->d);
	source_deploy(f->api, f->d, repository, NULL, NULL);
}

int github_deploy(struct api *a, struct store_environment *e, struct store_deployment **ret, struct err *err)
{
	auto_free char *repository = git_github_repository(a->git, e->id);
	int r = source_begin(a, e, "github", e->origin.branch, "", ret, err);

	if (r < 0)
		return r;
	struct fetching *f = NEW(struct fetching);
	*f = (struct fetching){ .api = a, .d = *ret };
	github_fetch(a->github, e->origin.github_repo, e->origin.branch, repository, on_fetched, f);
	return 0;
}

/* -- POST environments/{owner}/{name}/connect ------------------------------------------------------------------------- */

static int link_to(struct api *a, struct store_environment *e, json_t *repo, json_t *body, struct err *err)
{
	const char *name = NULL, *branch = NULL;
	int64_t id = 0;
	int r = json_get_i64(repo, "id", 1, INT64_MAX, &id, err);

	r = r < 0 ? r : json_need_str(repo, "full_name", &name, err);
	r = r < 0 ? r : json_need_str(repo, "default_branch", &branch, err);
	if (r == 0 && (!github_is_repo(name) || !git_is_branch(branch)))
		r = err_set(err, -EINVAL, "the repository \"%.100s\" or its branch \"%.100s\" has a name that cannot be used here",
			    name, branch);
	if (r < 0)
		return r;
	if (!json_is_string(json_object_get(body, "branch"))) /* null is as good as absent */
		json_object_set_new(body, "branch", json_string(branch));
	r = apply(a, e, body, err);
	if (r < 0)
		return r;
	e->origin.github_id = id;
	store_set_str(&e->origin.github_repo, name);
	store_origin_save(a->store, e);
	return 0;
}

static void on_repository(void *arg, int status, const char *body, size_t len, const struct err *call_err)
{
	struct ask *k = arg;
	auto_json repo = NULL;
	struct store_deployment *d = NULL;
	struct err err;

	k->call = NULL;
	/* Asked again: while GitHub thought, the key may have been revoked, and the environment deleted. */
	if (!permitted(k->api, k->req) || !changeable(k->api, k->req, k->e))
		return;
	int r = check_answer(status, body, len, call_err, &err);
	r = r < 0 ? r : json_read_object(&repo, body, len, &err);
	r = r < 0 ? r : link_to(k->api, k->e, repo, k->body, &err);
	r = r < 0 ? r : github_deploy(k->api, k->e, &d, &err);
	if (r < 0)
		api_reply_err(k->req, &err);
	else
		reply_link(k->api, k->req, k->e, d->id);
}

static int parse_connect(const struct store_environment *e, json_t *body, int64_t *ret_repo, struct err *err)
{
	auto_json ignored = NULL;
	int64_t installation = 0;
	int r = json_get_i64(body, "githubRepoId", 1, INT64_MAX, ret_repo, err);

	if (r == 0 && !*ret_repo)
		r = err_set(err, -EINVAL, "githubRepoId: missing: expected the id that /v1/github/repos gives");
	r = r < 0 ? r : json_get_i64(body, "githubInstallationId", 0, INT64_MAX, &installation, err);
	return r < 0 ? r : parse_settings(e, body, &ignored, err);
}

static void on_connect_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *a = arg;
	struct store_environment *e = permitted(a, req) ? by_name(a, req) : NULL;
	auto_json body = NULL;
	int64_t repo = 0;
	struct err err;

	if (!e)
		return;
	int r = json_read_object(&body, data, len, &err);
	r = r < 0 ? r : parse_connect(e, body, &repo, &err);
	if (r == 0 && !github_has_token(a->github))
		r = err_set(&err, -EBUSY, "this server has no connection to GitHub: see /settings/github");
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	struct ask *k = ask_new(a, req);
	auto_free char *path = xasprintf("/repositories/%lld", (long long)repo);
	k->e = e;
	k->body = STEAL(body);
	ask(k, path, on_repository);
}

static void on_connect(struct http_req *req, void *arg)
{
	if (permitted(arg, req) && by_name(arg, req))
		http_req_body(req, BODY_MAX, on_connect_body, arg);
}

/* -- GET, PUT, DELETE environments/{id} --------------------------------------------------------------------------------- */

static void on_get(struct http_req *req, void *arg)
{
	const struct store_environment *e = by_id(arg, req);
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!e)
		return;
	buf_init(&b, 64 * 1024);
	json_write_begin(&w, &b);
	write_link(arg, &w, e, NULL);
	api_send(req, 200, &w, &b);
}

static void on_put_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct store_environment *e = by_id(arg, req);
	auto_json body = NULL;
	struct err err;

	if (!e)
		return;
	if (json_read_object(&body, data, len, &err) < 0 || apply(arg, e, body, &err) < 0)
		api_reply_err(req, &err);
	else
		reply_link(arg, req, e, NULL);
}

static void on_put(struct http_req *req, void *arg)
{
	if (by_id(arg, req))
		http_req_body(req, BODY_MAX, on_put_body, arg);
}

static void on_delete(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_environment *e = by_id(a, req);

	if (!e)
		return;
	e->origin.github_id = 0;
	store_set_str(&e->origin.github_repo, "");
	store_origin_save(a->store, e);
	reply_link(a, req, e, NULL);
}

/* -- task builds: of Harbor environments, which this server does not have ------------------------------------------------ */

static void on_task_builds(struct http_req *req, void *arg)
{
	struct api *a = arg;
	struct store_deployment *d = store_deployment_by_id(a->store, http_req_param(req, "id"));
	static const char none[] = "{\"taskBuilds\":[]}";

	if (!d && api_caller(a, req))
		http_reply_error(req, 404, "there is no such deployment");
	else if (d && changeable(a, req, d->environment))
		http_reply(req, 200, "application/json", none, sizeof(none) - 1);
}

static void on_task_build_logs(struct http_req *req, void *arg)
{
	if (api_caller(arg, req))
		http_reply_error(req, 404, "there is no such task build");
}

void api_github_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/settings/github", on_page, a);
	http_router_add(r, "GET", "/v1/github/auth-status", on_auth_status, a);
	http_router_add(r, "GET", "/v1/github/install-url", on_url, a);
	http_router_add(r, "GET", "/v1/github/reauth-url", on_url, a);
	http_router_add(r, "GET", "/v1/github/repos", on_repos, a);
	http_router_add(r, "POST", "/v1/github/environments/{owner}/{name}/connect", on_connect, a);
	http_router_add(r, "GET", "/v1/github/environments/{id}", on_get, a);
	http_router_add(r, "PUT", "/v1/github/environments/{id}", on_put, a);
	http_router_add(r, "DELETE", "/v1/github/environments/{id}", on_delete, a);
	http_router_add(r, "GET", "/v1/github/deployments/{id}/task-builds", on_task_builds, a);
	http_router_add(r, "GET", "/v1/github/task-builds/{id}/logs", on_task_build_logs, a);
	api_webhook_routes(a, r);
}
