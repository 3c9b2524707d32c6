/* api/bucket/access.c: see bucket.h. */
#include <errno.h>
#include <string.h>

#include "api/bucket/bucket.h"
#include "base/mem.h"
#include "base/str.h"

struct store_environment *bucket_session_environment(const struct bucket_access *a, const struct auth_caller *c)
{
	return c && c->session_id && a->session_environment ? a->session_environment(a->session_arg, c->session_id) : NULL;
}

/* The owner of a session's environment is who wrote the code that holds the session's key. */
static bool session_may_read(const struct bucket_access *a, const struct auth_caller *c, const struct store_environment *e)
{
	const struct store_environment *own = bucket_session_environment(a, c);

	return own && own->ns == e->ns;
}

int bucket_find(const struct bucket_access *a, const struct auth_caller *c, const char *env_id, bool change,
		struct store_environment **ret, struct err *err)
{
	struct store_environment *e = store_environment_by_id(a->store, env_id);
	int r;

	if (!e || (c && c->session_id && e->is_private && !session_may_read(a, c, e)))
		return err_set(err, -ENOENT, "there is no environment with the id \"%.100s\"", env_id);
	if (c && c->session_id && change)
		return err_set(err, -EPERM, "the key of a session changes no files: use an API key of the environment's namespace");
	if (!(c && c->session_id)) {
		r = change ? auth_may_change(c, e, err) : auth_may_see(c, e, err);
		if (r == -ENOENT) /* the same words as for one that is not there */
			return err_set(err, r, "there is no environment with the id \"%.100s\"", env_id);
		if (r < 0)
			return r;
	}
	*ret = e;
	return 0;
}

static struct store_environment *named(const struct bucket_access *a, const struct auth_caller *c, const char *name)
{
	const char *slash = name ? strchr(name, '/') : NULL;
	auto_free char *owner = slash ? xstrndup(name, (size_t)(slash - name)) : xstrdup(c->namespace_name);

	return str_empty(name) ? NULL : store_environment_find(a->store, owner, slash ? slash + 1 : name);
}

int bucket_of_sandbox(const struct bucket_access *a, const struct auth_caller *c, const char *name,
		      struct store_environment **ret, bool *ret_change, struct err *err)
{
	struct store_environment *e = named(a, c, name), *session = bucket_session_environment(a, c);

	if (session) {
		*ret = e && e->ns == session->ns ? e : session;
		*ret_change = true; /* the owner's own code */
		return 0;
	}
	if (!e || c->session_id || auth_may_see(c, e, err) < 0)
		return err_set(err, -EINVAL, "bucket_config: environment \"%.200s\": expected OWNER/NAME of an environment whose files "
			       "this key may read; only an environment's own sandboxes may leave it out", name ? name : "");
	*ret = e;
	*ret_change = auth_may_change(c, e, NULL) == 0;
	return 0;
}

uint64_t bucket_quota(const struct bucket_access *a, const struct store_environment *e UNUSED)
{
	return a->quota_bytes;
}

void bucket_url_fields(const char *ret[BUCKET_URL_FIELDS], const char *env_id, const char *name, const char *type,
		       const char *max, const char *expires)
{
	ret[0] = "upload";
	ret[1] = env_id;
	ret[2] = name;
	ret[3] = type;
	ret[4] = max;
	ret[5] = expires;
}
