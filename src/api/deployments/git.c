/* /git/{owner}/{name}/...: git's smart HTTP. Who may do what is decided here, before git sees a byte: a key that may see an
 * environment may fetch its source, a member of its namespace may push. A push to a new name makes the environment. */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/deployments/source.h"
#include "base/mem.h"
#include "base/str.h"
#include "env/env.h"
#include "git/git.h"

/* -- after a push: from changed refs to the end of the deployment ---------------------------------------------------- */

struct pushing {
	struct api *api;
	struct store_namespace *ns;
	char *name;
	struct git_push *push;     /* NULL = the pusher is gone */
	struct env_follow *follow;
	bool exporting;
};

static void pushing_free(struct pushing *p)
{
	free(p->name);
	free(p);
}

static void say(struct pushing *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void say(struct pushing *p, const char *fmt, ...)
{
	auto_buf struct buf b = { 0 };
	va_list ap;

	if (!p->push)
		return;
	buf_init(&b, 16 * 1024);
	va_start(ap, fmt);
	int r = buf_vprintf(&b, fmt, ap);
	va_end(ap);
	git_push_say(p->push, r < 0 ? "(a line that was too long)" : b.data);
}

static void pushing_end(struct pushing *p)
{
	if (p->push)
		git_push_end(p->push);
	pushing_free(p);
}

static void on_line(void *arg, const char *line)
{
	say(arg, "%.8000s", line);
}

static void on_over(void *arg, enum store_deployment_state state, const char *reason)
{
	struct pushing *p = arg;

	if (state == STORE_DEPLOYMENT_READY)
		say(p, "deployed: %s/%s serves this commit", p->ns->name, p->name);
	else
		say(p, "not deployed (%s): %s", store_deployment_state_name(state), str_empty(reason) ? "no reason given" : reason);
	pushing_end(p);
}

static void say_lines(struct pushing *p, const char *lines)
{
	auto_free char *copy = xstrdup(lines);
	char *rest = copy;

	for (char *line; (line = strsep(&rest, "\n"));)
		if (*line)
			say(p, "note: %s", line);
}

static void on_deploying(void *arg, struct store_deployment *d, const char *notes, const struct err *err)
{
	struct pushing *p = arg;
	struct err own;

	p->exporting = false;
	if (!p->push) {
		pushing_free(p);
		return;
	}
	say_lines(p, notes);
	if (err) {
		on_over(p, d->state, err->msg);
		return;
	}
	if (env_follow(&p->follow, p->api->envs, d, on_line, on_over, p, &own) < 0) {
		say(p, "its log cannot be followed: %s", own.msg);
		pushing_end(p);
	}
}

static const struct git_ref_change *find_branch(const struct git_ref_change *changes, size_t n, const char *branch)
{
	auto_free char *ref = xasprintf("refs/heads/%s", branch);

	for (size_t i = 0; i < n; i++)
		if (str_eq(changes[i].ref, ref))
			return &changes[i];
	return NULL;
}

static int find_environment(struct pushing *p, struct store_environment **ret, struct err *err)
{
	if (store_namespace_find(p->api->store, p->ns->name) != p->ns)
		return err_set(err, -ENOENT, "the namespace \"%s\" was removed meanwhile", p->ns->name);
	struct store_environment *e = store_environment_find(p->api->store, p->ns->name, p->name);
	int r = e ? 0 : store_environment_add(p->api->store, p->ns, p->name, &e, err);

	if (r == 0)
		*ret = e;
	return r;
}

static int deploy(struct pushing *p, struct store_environment *e, const struct git_ref_change *c, struct err *err)
{
	auto_free char *repository = git_repository(p->api->git, p->ns->name, p->name);
	struct store_deployment *d;
	int r = source_begin(p->api, e, "git", e->origin.branch, c->new_id, &d, err);

	if (r < 0)
		return r;
	say(p, "deployment %s of %s/%s: %s at %.12s", d->id, p->ns->name, p->name, e->origin.branch, c->new_id);
	say(p, "interrupting now ends the watching alone");
	p->exporting = true;
	source_deploy(p->api, d, repository, on_deploying, p);
	return 0;
}

static void on_changed(void *arg, struct git_push *push, const struct git_ref_change *changes, size_t n)
{
	struct pushing *p = arg;
	struct store_environment *e = NULL;
	struct err err = ERR_INIT;

	p->push = push;
	if (find_environment(p, &e, &err) < 0 || !e) {
		say(p, "not deployed: %s", err.msg);
		pushing_end(p);
		return;
	}
	const struct git_ref_change *c = find_branch(changes, n, e->origin.branch);
	if (!c)
		say(p, "kept, not deployed: %s/%s is deployed from its branch \"%s\"", p->ns->name, p->name, e->origin.branch);
	else if (strspn(c->new_id, "0") == strlen(c->new_id))
		say(p, "the branch \"%s\" is gone; what was deployed goes on serving", e->origin.branch);
	else if (deploy(p, e, c, &err) < 0)
		say(p, "not deployed: %s", err.msg);
	else
		return;
	pushing_end(p);
}

static void on_gone(void *arg, struct git_push *push)
{
	struct pushing *p = arg;

	(void)push;
	p->push = NULL;
	if (p->follow)
		env_unfollow(p->follow);
	if (!p->exporting)
		pushing_free(p);
}

static const struct git_push_events push_events = { .changed = on_changed, .gone = on_gone };

/* -- a request ------------------------------------------------------------------------------------------------------- */

struct visit { /* lives as long as its request, or until the repository is there */
	struct api *api;
	struct http_req *req; /* NULL = gone */
	const struct auth_caller *caller;
	char *owner, *name;
	const char *service_path;
	bool writes, pushes;  /* pushes: it sends the pack; asking for the refs is no push yet */
};

static void visit_free(struct visit *v)
{
	free(v->owner);
	free(v->name);
	free(v);
}

static void reply_unknown(struct http_req *req, const struct err *err)
{
	if (err->code == -EKEYREJECTED)
		http_reply_header(req, "WWW-Authenticate", "Basic realm=\"openreward: any user name, an API key as password\"");
	api_reply_err(req, err);
}

/* Another's name is told apart from one that does not exist only where it may be seen. */
static int check_new(struct api *a, const struct auth_caller *c, const char *owner, const char *name, bool writes,
		     struct err *err)
{
	const struct store_namespace *ns = store_namespace_find(a->store, owner);

	if (!ns || !writes || auth_role_in(c, ns) == AUTH_NOBODY)
		return err_set(err, -ENOENT, "there is no environment \"%.100s/%.100s\" that this key may see", owner, name);
	int r = auth_may_change_namespace(c, ns, err);
	return r < 0 ? r : store_environment_check(ns, NULL, "name", name, err); /* before there is a repository of its name */
}

static int check(struct api *a, const struct auth_caller *c, const char *owner, const char *name, bool writes, struct err *err)
{
	struct store_environment *e = store_environment_find(a->store, owner, name);

	if (c->session_id)
		return err_set(err, -EPERM, "a session's key may neither push nor fetch");
	if (!e)
		return check_new(a, c, owner, name, writes, err);
	return writes ? auth_may_change(c, e, err) : auth_may_see(c, e, err);
}

/* NAME or NAME.git. */
static int parse_name(const char *owner, const char *text, char **ret, struct err *err)
{
	size_t len = strlen(text);
	auto_free char *name = xstrndup(text, str_ends(text, ".git") ? len - 4 : len);

	if (!str_is_name(owner, STORE_NAME_MAX) || !str_is_name(name, STORE_NAME_MAX))
		return err_set(err, -EINVAL,
			       "\"%.100s/%.100s\": expected NAMESPACE/NAME of letters, digits, '.', '_' and '-', each beginning with a "
			       "letter or digit", owner, text);
	*ret = STEAL(name);
	return 0;
}

static void on_visitor_gone(struct http_req *req, bool complete, void *arg)
{
	(void)req;
	(void)complete;
	((struct visit *)arg)->req = NULL;
}

static struct pushing *new_pushing(const struct visit *v)
{
	struct pushing *p = NEW(struct pushing);

	p->api = v->api;
	p->ns = store_namespace_find(v->api->store, v->owner);
	p->name = xstrdup(v->name);
	return p;
}

/* Again, as the key or the whole namespace may be gone by now. */
static int check_again(struct visit *v, struct err *err)
{
	int r = auth_request(v->api->auth, v->req, &v->caller, err);

	return r < 0 ? r : check(v->api, v->caller, v->owner, v->name, v->writes, err);
}

static void on_repository(void *arg, const struct err *err)
{
	struct visit *v = arg;
	struct err own;

	if (v->req) {
		http_req_on_close(v->req, NULL, NULL);
		if (err)
			api_reply_err(v->req, err);
		else if (check_again(v, &own) < 0)
			reply_unknown(v->req, &own);
		else
			git_serve(v->api->git, v->req, v->owner, v->name, v->service_path, v->caller->key_id,
				  v->pushes ? &push_events : NULL,
				  v->pushes ? new_pushing(v) : NULL);
	}
	visit_free(v);
}

static void visit(struct http_req *req, struct api *a, const char *service_path, bool writes)
{
	const char *owner = http_req_param(req, "owner");
	const struct auth_caller *c;
	auto_free char *name = NULL;
	struct err err;

	int r = auth_request(a->auth, req, &c, &err);
	r = r < 0 ? r : parse_name(owner, http_req_param(req, "name"), &name, &err);
	r = r < 0 ? r : check(a, c, owner, name, writes, &err);
	if (r < 0) {
		reply_unknown(req, &err);
		return;
	}
	if (!a->git) {
		http_reply_error(req, 503, "git is not ready yet");
		return;
	}
	struct store_environment *e = store_environment_find(a->store, owner, name);
	auto_free char *path = git_repository(a->git, owner, name);
	struct visit *v = NEW(struct visit);
	*v = (struct visit){ .api = a, .req = req, .caller = c, .owner = xstrdup(owner), .name = STEAL(name),
			     .service_path = service_path, .writes = writes, .pushes = str_eq(service_path, "/git-receive-pack") };
	http_req_on_close(req, on_visitor_gone, v);
	git_make(a->git, path, e ? e->origin.branch : STORE_BRANCH_DEFAULT, on_repository, v);
}

static void on_refs(struct http_req *req, void *arg)
{
	const char *service = http_req_query(req, "service");
	bool writes = str_eq(service, "git-receive-pack");

	if (!writes && !str_eq(service, "git-upload-pack"))
		http_reply_error(req, 403, "service: \"%.40s\": expected git-upload-pack or git-receive-pack: git's dumb protocol is not "
				 "served", service ? service : "");
	else
		visit(req, arg, "/info/refs", writes);
}

static void on_fetch(struct http_req *req, void *arg)
{
	visit(req, arg, "/git-upload-pack", false);
}

static void on_push(struct http_req *req, void *arg)
{
	visit(req, arg, "/git-receive-pack", true);
}

void api_git_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/git/{owner}/{name}/info/refs", on_refs, a);
	http_router_add(r, "POST", "/git/{owner}/{name}/git-upload-pack", on_fetch, a);
	http_router_add(r, "POST", "/git/{owner}/{name}/git-receive-pack", on_push, a);
}
