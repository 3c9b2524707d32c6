/* The audit log, from the requests: every change, whoever asks for it and whatever becomes of it. What is done in sessions
 * and sandboxes is no change here: it is what they are for, and by far too much. */
#include "store/audit.h"

#include <stdio.h>
#include <string.h>

#include "auth/auth.h"
#include "auth/private.h"
#include "base/mem.h"
#include "base/str.h"

#define ACTION_MAX 512 /* bytes; a longer path is cut */

static bool is_change(const char *method, const char *path)
{
	static const char *const not_these[] = { "/v1/sandboxes/", "/v1/rollouts" };

	if (str_eq(path, "/v1/backup")) /* nothing changes, but everything leaves */
		return true;
	if (str_eq(method, "GET") || str_eq(method, "HEAD"))
		return false;
	if (str_starts(path, "/git/"))
		return str_ends(path, "/git-receive-pack");
	for (size_t i = 0; i < ARRAY_LEN(not_these); i++)
		if (str_starts(path, not_these[i]))
			return false;
	return str_starts(path, "/v1/");
}

static struct store_environment *environment_of(struct auth *a, struct http_req *req)
{
	const char *id = http_req_param(req, "id"), *env = http_req_param(req, "env");
	struct store_environment *e = store_environment_by_id(a->store, env ? env : id ? id : "");
	struct store_deployment *d = e || !id ? NULL : store_deployment_by_id(a->store, id);

	return d ? d->environment : e;
}

/* Whose the thing is, as far as the path says it; else the caller's own. */
static const struct store_namespace *namespace_of(struct auth *a, struct http_req *req, const struct store_environment *e,
						  const struct auth_caller *c)
{
	static const char *const names[] = { "owner", "org", "user" };
	const struct store_namespace *ns = e ? e->ns : NULL;

	for (size_t i = 0; i < ARRAY_LEN(names) && !ns; i++) {
		const char *name = http_req_param(req, names[i]);
		ns = name ? store_namespace_find(a->store, name) : NULL;
	}
	return ns ? ns : c->ns;
}

static void on_answer(int status, void *arg)
{
	const struct auth_seen *seen = arg;

	store_audit_status(seen->auth->store, seen->audit_id, status);
}

/* On a full disk changes are refused one after another, and each would leave its entry in memory. */
int auth_audit_check(struct auth *a, struct http_req *req, struct err *err)
{
	return is_change(http_req_method(req), http_req_path(req)) ? store_check_queue(a->store, err) : 0;
}

/* Before what it is about: an entry is on disk whenever its change is. */
void auth_audit_begin(struct auth *a, struct http_req *req, struct auth_seen *seen)
{
	const struct auth_caller *c = &seen->caller;
	const char *method = http_req_method(req);

	if (!is_change(method, http_req_path(req)))
		return;
	const struct store_environment *e = environment_of(a, req);
	const struct store_namespace *of = namespace_of(a, req, e, c), *actor = c->user ? c->user : c->ns;
	auto_free char *target = e ? xasprintf("%s/%s", e->ns->name, e->name) : xstrdup("");
	char action[ACTION_MAX];
	snprintf(action, sizeof(action), "%s %s", method, http_req_target(req));
	const struct audit_entry entry = {
		.actor_id = actor->id, .actor = actor->name, .key_id = c->key_id ? c->key_id : "",
		.session_id = c->session_id ? c->session_id : "", .namespace_id = of->id, .namespace = of->name, .action = action,
		.target = target, .peer = http_req_peer(req),
	};
	seen->audit_id = store_audit_add(a->store, &entry);
	http_req_on_answer(req, on_answer, seen);
}

void auth_audit_note(struct http_req *req, const struct store_namespace *ns, const char *target)
{
	const struct auth_seen *seen = http_req_caller(req);

	if (seen && seen->audit_id)
		store_audit_target(seen->auth->store, seen->audit_id, ns, target);
}
