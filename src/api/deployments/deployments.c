/* Deployments: a folder comes in as a tar, a build starts, its log can be read and followed. The states are env/'s. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/common/lines.h"
#include "api/common/upload.h"
#include "api/deployments/logs.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"
#include "env/env.h"

#define ANSWER_MAX (8u * 1024 * 1024)
#define TRANSITIONS_MAX 1000 /* in one answer, which each rollback would make longer for ever */

static void write_transitions(struct json_writer *w, const struct store_deployment *d)
{
	char at[TIME_ISO_LEN];
	size_t n = 0;

	list_foreach(&d->transitions, struct store_transition, of_deployment, t)
		n++;
	json_key(w, "transitions");
	json_open_array(w);
	list_foreach(&d->transitions, struct store_transition, of_deployment, t) {
		if (n-- > TRANSITIONS_MAX)
			continue;
		json_open_object(w);
		json_kv_str(w, "from", t->from == t->to ? NULL : store_deployment_state_name(t->from));
		json_kv_str(w, "to", store_deployment_state_name(t->to));
		json_kv_str(w, "reason", t->reason);
		json_kv_str(w, "at", time_iso(t->at_ms, at));
		json_close(w);
	}
	json_close(w);
}

/* whole: with its history. */
static void write_deployment(struct json_writer *w, const struct store_deployment *d, bool whole)
{
	char created[TIME_ISO_LEN], updated[TIME_ISO_LEN];

	json_open_object(w);
	json_kv_str(w, "id", d->id);
	json_kv_str(w, "environmentId", d->environment->id);
	json_kv_str(w, "status", store_deployment_state_name(d->state));
	json_kv_str(w, "source", d->source);
	json_kv_str(w, "image", *d->image ? d->image : NULL);
	json_kv_str(w, "reason", *d->reason ? d->reason : NULL);
	json_kv_str(w, "gitBranch", *d->branch ? d->branch : NULL);
	json_kv_str(w, "commitSha", *d->commit ? d->commit : NULL);
	json_kv_str(w, "created_at", time_iso(d->created_ms, created));
	json_kv_str(w, "updated_at", time_iso(d->updated_ms, updated));
	if (whole)
		write_transitions(w, d);
	json_close(w);
}

/* -- POST /v1/environments/{owner}/{name}/deployments?size=CPU:GIB ---------------------------------------------- */

struct arrival { /* a folder on its way in; ends with its request */
	struct api *api;
	struct http_req *req;
	const struct auth_caller *caller;
	const char *owner, *name;
	char id[UUID_LEN];     /* of the deployment to be */
	char *folder;          /* DATA/builds/<id> */
	bool sized, kept;      /* kept: the deployment owns the folder now */
	struct engine_size size;
	struct upload *upload;
	struct store_environment *e;
};

static char *tar_of(const struct arrival *a)
{
	return xasprintf("%s/source.tar", a->folder);
}

/* Nothing writes to the folder any more. */
static void arrival_over(void *arg)
{
	struct arrival *a = arg;

	if (!a->kept)
		upload_remove(a->api->loop, tar_of(a), true);
	free(a->folder);
	free(a);
}

static void on_arrival_close(struct http_req *req, bool complete, void *arg)
{
	struct arrival *a = arg;

	(void)req;
	(void)complete;
	upload_free_then(STEAL(a->upload), arrival_over, a);
}

/* The environment to deploy to, or NULL when it is to be made once the folder is here. */
static int find_target(struct arrival *a, struct err *err)
{
	struct store_environment *e = store_environment_find(a->api->store, a->owner, a->name);

	if (e) {
		a->e = e;
		return auth_may_change(a->caller, e, err);
	}
	const struct store_namespace *ns = store_namespace_find(a->api->store, a->owner);
	if (!ns || auth_role_in(a->caller, ns) == AUTH_NOBODY)
		return err_set(err, -ENOENT, "there is no namespace \"%.100s\" that this key may see", a->owner);
	int r = auth_may_change_namespace(a->caller, ns, err);
	if (r < 0)
		return r;
	return store_environment_check(ns, NULL, "name", a->name, err);
}

/* All is asked again: another push may have made it meanwhile, and the caller may have lost a role, or its namespace. */
static int make_target(struct arrival *a, struct err *err)
{
	struct store *s = a->api->store;

	if (a->e && a->e->removing)
		return err_set(err, -ENOENT, "%s/%s was deleted meanwhile", a->owner, a->name);
	if (a->e)
		return auth_may_change(a->caller, a->e, err);
	int r = find_target(a, err);
	if (r < 0 || a->e)
		return r;
	return store_environment_add(s, store_namespace_find(s, a->owner), a->name, &a->e, err);
}

static int parse_size(struct arrival *a, struct err *err)
{
	const char *text = http_req_query(a->req, "size");

	if (str_empty(text))
		return 0;
	if (str_to_machine(text, &a->size.cpu_milli, &a->size.memory_bytes) < 0)
		return err_set(err, -EINVAL, "size: \"%.100s\": expected CPU:GIB, as in 1:2 or 0.5:1", text);
	a->sized = true;
	return 0;
}

static void reply_deployed(struct arrival *a)
{
	const struct store_deployment *d = store_deployment_by_id(a->api->store, a->id);
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64 * 1024);
	json_write_begin(&w, &b);
	write_deployment(&w, d, false);
	api_send_saved(a->api, a->req, 201, &w, &b);
}

static int deploy(struct arrival *a, struct err *err)
{
	struct store_deployment *d = store_deployment_add(a->api->store, a->e, a->id, "folder");

	a->kept = true; /* from here on the folder is the deployment's */
	if (a->sized) {
		d->cpu_milli = a->size.cpu_milli;
		d->memory_bytes = a->size.memory_bytes;
		store_deployment_save(a->api->store, d);
	}
	return envs_deploy(a->api->envs, d, err);
}

static void on_uploaded(void *arg, uint64_t size_bytes, const struct err *upload_err)
{
	struct arrival *a = arg;
	struct err err;
	int r = 0;

	if (upload_err) {
		api_reply_err(a->req, upload_err);
		return;
	}
	a->caller = api_caller(a->api, a->req); /* its key may be revoked by now */
	if (!a->caller)
		return;
	if (size_bytes == 0)
		r = err_set(&err, -EINVAL, "the body is empty: expected a tar of the folder to build");
	r = r < 0 ? r : store_check_room(a->api->store, &err);
	r = r < 0 ? r : make_target(a, &err);
	r = r < 0 ? r : deploy(a, &err);
	if (r < 0)
		api_reply_err(a->req, &err);
	else
		reply_deployed(a);
}

static int start_arrival(struct arrival *a, struct err *err)
{
	int r = find_target(a, err);

	r = r < 0 ? r : parse_size(a, err);
	r = r < 0 ? r : store_check_room(a->api->store, err);
	if (r < 0)
		return r;
	if (mkdir(a->folder, 0750) < 0)
		return err_sys(err, "making %s", a->folder);
	auto_free char *tar = tar_of(a);
	return upload_start_durable(&a->upload, a->req, tar, a->api->upload_max_bytes, on_uploaded, a, err);
}

static void on_deploy(struct http_req *req, void *arg)
{
	struct api *api = arg;
	const struct auth_caller *c = api_caller(api, req);
	struct err err;

	if (!c)
		return;
	if (!api->envs) {
		http_reply_error(req, 503, "deployments are not ready yet");
		return;
	}
	struct arrival *a = NEW(struct arrival);
	a->api = api;
	a->req = req;
	a->caller = c;
	a->owner = http_req_param(req, "owner");
	a->name = http_req_param(req, "name");
	random_uuid(a->id);
	a->folder = xasprintf("%s/builds/%s", api->data_dir, a->id);
	http_req_on_close(req, on_arrival_close, a);
	if (start_arrival(a, &err) < 0)
		api_reply_err(req, &err);
}

/* -- lists ----------------------------------------------------------------------------------------------------- */

static void reply_list(struct http_req *req, const struct store_environment *e)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, ANSWER_MAX);
	json_write_begin(&w, &b);
	json_open_array(&w);
	list_foreach(&e->deployments, struct store_deployment, of_environment, d)
		write_deployment(&w, d, false);
	json_close(&w);
	api_send(req, 200, &w, &b);
}

/* The environment by its id, for a key that may change it: deployments and logs are the owner's. */
struct store_environment *api_owned(struct api *api, struct http_req *req, struct store_environment *e, const char *what)
{
	const struct auth_caller *c = api_caller(api, req);
	struct err err = ERR_INIT;
	int r = 0;

	if (!c)
		return NULL;
	if (!e || auth_may_see(c, e, &err) < 0)
		r = err_set(&err, -ENOENT, "there is no such %s", what);
	else if (auth_role_in(c, e->ns) == AUTH_NOBODY)
		r = err_set(&err, -EPERM, "this %s belongs to another namespace than this key", what);
	if (r == 0)
		return e;
	api_reply_err(req, &err);
	return NULL;
}

static void on_list_named(struct http_req *req, void *arg)
{
	struct api *api = arg;
	struct store_environment *e = store_environment_find(api->store, http_req_param(req, "owner"), http_req_param(req, "name"));

	e = api_owned(api, req, e, "environment");
	if (e)
		reply_list(req, e);
}

static void on_list_by_id(struct http_req *req, void *arg)
{
	struct api *api = arg;
	struct store_environment *e = api_owned(api, req, store_environment_by_id(api->store, http_req_param(req, "id")),
						"environment");

	if (e)
		reply_list(req, e);
}

static struct store_deployment *deployment(struct api *api, struct http_req *req)
{
	struct store_deployment *d = store_deployment_by_prefix(api->store, http_req_param(req, "id"));

	return api_owned(api, req, d ? d->environment : NULL, "deployment") ? d : NULL;
}

static void reply_whole(struct http_req *req, const struct store_deployment *d)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, ANSWER_MAX);
	json_write_begin(&w, &b);
	write_deployment(&w, d, true);
	api_send(req, 200, &w, &b);
}

static void reply_changed(struct api *api, struct http_req *req, const struct store_deployment *d)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, ANSWER_MAX);
	json_write_begin(&w, &b);
	write_deployment(&w, d, true);
	api_send_saved(api, req, 200, &w, &b);
}

static void on_get(struct http_req *req, void *arg)
{
	const struct store_deployment *d = deployment(arg, req);

	if (d)
		reply_whole(req, d);
}

static void on_cancel(struct http_req *req, void *arg)
{
	struct api *api = arg;
	struct store_deployment *d = deployment(api, req);
	const struct auth_caller *c = d ? api_caller(api, req) : NULL;
	struct err err = ERR_INIT;

	if (!c)
		return;
	if (auth_may_change(c, d->environment, &err) < 0)
		api_reply_err(req, &err);
	else if (!api->envs)
		http_reply_error(req, 503, "deployments are not ready yet");
	else if (envs_cancel(api->envs, d, "cancelled", &err) < 0)
		api_reply_err(req, &err);
	else
		reply_changed(api, req, d);
}

/* POST .../rollback, body {"deployment_id"} or nothing = the one that served before. */
static void on_rollback_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct api *api = arg;
	struct store_environment *e = store_environment_find(api->store, http_req_param(req, "owner"), http_req_param(req, "name"));
	struct store_deployment *d = NULL;
	const char *id = NULL;
	auto_json body = NULL;
	struct err err = ERR_INIT;
	int r = len ? json_read_object(&body, data, len, &err) : 0;

	e = api_owned(api, req, e, "environment");
	const struct auth_caller *c = e ? api_caller(api, req) : NULL;
	if (!c)
		return;
	r = r < 0 ? r : auth_may_change(c, e, &err);
	if (r == 0 && body)
		r = json_get_str(body, "deployment_id", &id, &err);
	if (r == 0 && id && !(d = store_deployment_by_id(api->store, id)))
		r = err_set(&err, -ENOENT, "deployment_id: \"%.100s\": there is no such deployment", id);
	r = r < 0 ? r : envs_rollback(api->envs, e, d, &d, &err);
	if (r < 0)
		api_reply_err(req, &err);
	else
		reply_changed(api, req, d);
}

static void on_rollback(struct http_req *req, void *arg)
{
	struct api *api = arg;

	if (!api_caller(api, req))
		return;
	if (!api->envs)
		http_reply_error(req, 503, "deployments are not ready yet");
	else
		http_req_body(req, 64 * 1024, on_rollback_body, api);
}

/* -- logs ------------------------------------------------------------------------------------------------------ */

static void on_logs(struct http_req *req, void *arg)
{
	struct api *api = arg;
	const struct store_deployment *d = deployment(api, req);

	if (!d)
		return;
	auto_free char *path = xasprintf("%s/builds/%s/log", api->data_dir, d->id);
	logs_reply_text(req, path, store_deployment_state_name(d->state));
}

static void on_runtime_logs(struct http_req *req, void *arg)
{
	struct api *api = arg;
	const struct store_deployment *d = deployment(api, req);
	uint64_t limit, offset;
	struct err err;

	if (!d)
		return;
	if (api_page(req, 200, 10000, &limit, &offset, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	struct log_source *source = xcalloc(1, sizeof(*source));
	memcpy(source->id, d->id, sizeof(source->id));
	source->path = xasprintf("%s/logs/%s", api->data_dir, d->id);
	logs_reply_entries(req, source, 1, &(struct log_query){ .limit = limit, .status = store_deployment_state_name(d->state) });
}

/* Following: the answer's last line is {"status", "reason"}. */
struct following {
	struct env_follow *follow;
	struct lines *lines;
};

static void on_follow_line(void *arg, const char *line)
{
	lines_line(((struct following *)arg)->lines, line);
}

static void on_follow_over(void *arg, enum store_deployment_state state, const char *reason)
{
	auto_free struct following *f = arg;
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64 * 1024);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "status", store_deployment_state_name(state));
	json_kv_str(&w, "reason", str_empty(reason) ? NULL : reason);
	json_close(&w);
	if (json_write_end(&w) == 0)
		lines_end(f->lines, &b);
}

static void on_follower_gone(void *arg)
{
	struct following *f = arg;

	env_unfollow(f->follow);
	free(f);
}

static void on_follow(struct http_req *req, void *arg)
{
	struct api *api = arg;
	struct store_deployment *d = deployment(api, req);
	struct following *f;
	struct err err;

	if (!d)
		return;
	if (!api->envs) {
		http_reply_error(req, 503, "deployments are not ready yet");
		return;
	}
	f = NEW(struct following);
	if (env_follow(&f->follow, api->envs, d, on_follow_line, on_follow_over, f, &err) < 0) {
		free(f);
		api_reply_err(req, &err);
		return;
	}
	f->lines = lines_start(req, on_follower_gone, f); /* before the first callback: they come from the loop */
}

void api_deployments_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/environments/{owner}/{name}/deployments", on_deploy, a);
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/deployments", on_list_named, a);
	http_router_add(r, "POST", "/v1/environments/{owner}/{name}/rollback", on_rollback, a);
	http_router_add(r, "GET", "/v1/deployments/{id}", on_get, a);
	http_router_add(r, "GET", "/v1/deployments/{id}/follow", on_follow, a);
	http_router_add(r, "POST", "/v1/deployments/{id}/cancel", on_cancel, a);
	http_router_add(r, "GET", "/v1/github/environments/{id}/deployments", on_list_by_id, a);
	http_router_add(r, "GET", "/v1/github/deployments/{id}/logs", on_logs, a);
	http_router_add(r, "GET", "/v1/github/deployments/{id}/runtime-logs", on_runtime_logs, a);
}
