#include "api/images/access.h"

#include <errno.h>
#include <string.h>

#include "api/bucket/bucket.h"
#include "base/mem.h"
#include "image/image.h"
#include "image/ref.h"

/* The tag is the deployment's id. NULL: it is gone, and its image an operator's matter. */
static const struct store_environment *built_for(const struct bucket_access *a, const char *name)
{
	const char *tag = strrchr(name, ':');
	const struct store_deployment *d = a && a->store && tag ? store_deployment_by_id(a->store, tag + 1) : NULL;

	return d ? d->environment : NULL;
}

bool image_is_hidden(const struct bucket_access *a, const struct auth_caller *c, const char *name)
{
	auto_free char *dir = NULL;

	if (!image_name_env_dir(name, &dir) || c->role == STORE_ROLE_ADMIN)
		return false;
	const struct store_environment *e = built_for(a, name);
	if (!e)
		return true;
	if (!c->session_id)
		return auth_role_in(c, e->ns) == AUTH_NOBODY;
	const struct store_environment *own = bucket_session_environment(a, c);
	return !own || own->ns != e->ns;
}

int image_check_access(const struct bucket_access *a, const struct auth_caller *c, const char *ref, struct err *err)
{
	auto_free char *name = NULL;

	if (image_normalise(&name, ref, NULL) < 0 || !image_is_hidden(a, c, name))
		return 0;
	return err_set(err, -ENOENT, "image %s is not here; names below localhost/ are built here and never pulled", ref);
}
