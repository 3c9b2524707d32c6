/* gateway/overrides.c: "env" of POST /create_session: variables for an instance of the session's own. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "gateway/private.h"

#define OPEN_NAMES "OPENAI_BASE_URL, OPENAI_API_KEY, ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY"

/* What says which model is asked, by whom: no more than that of another's environment is a stranger's to choose. */
static const char *const providers[][2] = {
	{ "OPENAI_BASE_URL", "OPENAI_API_KEY" }, { "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY" },
};

static bool is_open_to_all(const char *name)
{
	for (size_t k = 0; k < ARRAY_LEN(providers); k++)
		if (str_eq(name, providers[k][0]) || str_eq(name, providers[k][1]))
			return true;
	return false;
}

static int check(const char *name, json_t *value, bool owner, struct err *err)
{
	if (!*name || strchr(name, '='))
		return err_set(err, -EINVAL, "env: \"%.100s\": expected the name of a variable, without \"=\"", name);
	if (!owner && !is_open_to_all(name))
		return err_set(err, -EINVAL, "env.%.100s: only the environment's owner may set it; others may set " OPEN_NAMES,
			       name);
	if (str_eq(name, "PORT"))
		return err_set(err, -EINVAL, "env.PORT: the platform sets it: the server is asked on port 8080");
	if (!json_is_string(value))
		return err_set(err, -EINVAL, "env.%.100s: expected a string", name);
	if (strlen(json_string_value(value)) != json_string_length(value))
		return err_set(err, -EINVAL, "env.%.100s: expected a string without NUL", name);
	return 0;
}

/* Else the owner's or the operator's key, which the instance has, would be sent to a stranger's server. */
static int check_providers(json_t *env, struct err *err)
{
	for (size_t k = 0; k < ARRAY_LEN(providers); k++)
		if (json_object_get(env, providers[k][0]) && !json_object_get(env, providers[k][1]))
			return err_set(err, -EINVAL, "env.%s: only the environment's owner may set it without env.%s",
				       providers[k][0], providers[k][1]);
	return 0;
}

int overrides_read(char ***ret, json_t *env, const struct auth_caller *caller, const struct store_environment *of,
		   struct err *err)
{
	bool owner = auth_may_change(caller, of, NULL) == 0;
	const char *name;
	json_t *value;
	struct strv vars = { 0 };

	if (!owner && check_providers(env, err) < 0)
		return -EINVAL;
	json_object_foreach(env, name, value) {
		int r = check(name, value, owner, err);
		if (r < 0) {
			strv_erase(vars.list);
			return r;
		}
		strv_add(&vars, xasprintf("%s=%s", name, json_string_value(value)));
	}
	*ret = vars.list;
	return 0;
}
