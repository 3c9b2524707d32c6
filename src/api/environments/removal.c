/* DELETE /v1/environments/{owner}/{name}: sessions end with 410, and nothing of it is left: instances, builds, images,
 * files, repository, logs, records. The name is free again when the answer comes. What has begun goes on without its client. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rmtree.h"
#include "env/env.h"
#include "git/git.h"

struct removal {
	struct api *api;
	struct http_req *req; /* NULL = the client is gone */
	struct store_environment *e;
	struct folder {
		char *parent, *name;
	} *folders;
	size_t n_folders;
	struct err err; /* the worker's until on_files_gone */
};

static void removal_free(struct removal *x)
{
	for (size_t i = 0; i < x->n_folders; i++) {
		free(x->folders[i].parent);
		free(x->folders[i].name);
	}
	free(x->folders);
	free(x);
}

/* Takes path. */
static void add_folder(struct removal *x, char *path)
{
	char *slash = strrchr(path, '/');

	x->folders = xrealloc(x->folders, (x->n_folders + 1) * sizeof(*x->folders));
	x->folders[x->n_folders++] = (struct folder){ xstrndup(path, (size_t)(slash - path)), xstrdup(slash + 1) };
	free(path);
}

static void find_folders(struct removal *x)
{
	const char *data = x->api->data_dir;

	add_folder(x, xasprintf("%s/buckets/%s", data, x->e->id));
	if (x->api->git) {
		add_folder(x, git_repository(x->api->git, x->e->ns->name, x->e->name));
		add_folder(x, git_github_repository(x->api->git, x->e->id));
	}
	list_foreach(&x->e->deployments, struct store_deployment, of_environment, d) {
		add_folder(x, xasprintf("%s/builds/%s", data, d->id));
		add_folder(x, xasprintf("%s/logs/%s", data, d->id));
	}
}

/* -- step by step ------------------------------------------------------------------------------------------------------ */

static void on_synced(void *arg, const struct err *err)
{
	struct removal *x = arg;

	if (x->req) {
		http_req_on_close(x->req, NULL, NULL);
		if (err || x->err.code)
			api_reply_err(x->req, err ? err : &x->err);
		else
			http_reply(x->req, 200, "application/json", "{}", 2);
	}
	removal_free(x);
}

static void on_files_gone(void *arg)
{
	struct removal *x = arg;

	if (x->err.code)
		log_event(LOG_WARN, "api", LOG_KV("environment", x->e->id), "files of a deleted environment are left: %s",
			  x->err.msg);
	store_environment_remove(x->api->store, x->e);
	store_sync(x->api->store, on_synced, x);
}

static void on_files_work(void *arg)
{
	struct removal *x = arg;

	for (size_t i = 0; i < x->n_folders; i++) {
		auto_fd at = open(x->folders[i].parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		int r = at < 0 ? -errno : rmtree(at, x->folders[i].name);
		if (r < 0 && r != -ENOENT && !x->err.code)
			err_sys_code(&x->err, r, "remove %s/%s", x->folders[i].parent, x->folders[i].name);
	}
}

static void on_removed(void *arg)
{
	struct removal *x = arg;

	find_folders(x);
	loop_work(x->api->loop, LOOP_LANE_ANY, on_files_work, on_files_gone, x);
}

/* -- the request ------------------------------------------------------------------------------------------------------- */

static void on_gone(struct http_req *req, bool complete, void *arg)
{
	(void)req;
	(void)complete;
	((struct removal *)arg)->req = NULL;
}

static void on_delete(struct http_req *req, void *arg)
{
	struct api *api = arg;
	const struct auth_caller *c = api_caller_with(api, req, STORE_ROLE_MEMBER);
	struct store_environment *e = c ? store_environment_find(api->store, http_req_param(req, "owner"),
								 http_req_param(req, "name")) :
					  NULL;
	struct err err = ERR_INIT;

	if (!c)
		return;
	int r = e ? auth_may_change(c, e, &err) : err_set(&err, -ENOENT, "there is no such environment");
	if (r == 0 && c->session_id)
		r = err_set(&err, -EPERM, "a session's key cannot delete an environment");
	if (r < 0) {
		api_reply_err(req, &err);
	} else if (!api->envs) {
		http_reply_error(req, 503, "deployments are not ready yet");
	} else {
		struct removal *x = NEW(struct removal);
		*x = (struct removal){ .api = api, .req = req, .e = e, .err = ERR_INIT };
		http_req_on_close(req, on_gone, x);
		envs_remove(api->envs, e, "the environment was deleted", on_removed, x);
	}
}

void api_removal_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "DELETE", "/v1/environments/{owner}/{name}", on_delete, a);
}
