/* gateway/bare.c: paths without the name of an environment. Clients without a variant ask for /prompt and the like; an
 * environment's server answers those with a 308 to /{its first environment}/prompt, and the client asks again. Where the
 * server's /list_environments has told that name, such a request goes to the right path at once. A server that has no such
 * list, and a path that is not one of these, get what the client sent. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"
#include "json/json.h"

#define ENV_NAME_MAX 200

static bool is_bare(const char *path)
{
	static const char *const calls[] = {
		"call", "prompt", "tools", "task_tools", "splits", "tasks", "num_tasks", "task", "task_range", "messages",
		"score_group",
	};
	if (*path != '/')
		return false;
	for (size_t k = 0; k < ARRAY_LEN(calls); k++)
		if (str_eq(path + 1, calls[k]))
			return true;
	return false;
}

/* A name that needs no escape in a path, and is none of the calls: that one's path would mean itself. */
static bool is_usable(const char *name)
{
	auto_free char *path = xasprintf("/%s", name);
	return str_is_name(name, ENV_NAME_MAX) && !is_bare(path);
}

char *bare_first_environment(const char *list, size_t len)
{
	auto_json names = NULL;
	if (json_read(&names, list, len, NULL) < 0 || !json_is_array(names))
		return NULL;
	for (size_t k = 0; k < json_array_size(names); k++) {
		const char *name = json_string_value(json_array_get(names, k));
		if (!name || !is_usable(name))
			return NULL;
	}
	return json_array_size(names) ? xstrdup(json_string_value(json_array_get(names, 0))) : NULL;
}

const char *bare_target(struct http_req *req, const char *env)
{
	const char *path = http_req_path(req), *query = http_req_raw_query(req);
	if (!env || !is_bare(path))
		return NULL;
	char *made = http_req_alloc(req, strlen(env) + strlen(path) + strlen(query) + 3);
	char *end = str_put(str_put(str_put(str_put(str_put(made, "/"), env), path), *query ? "?" : ""), query);
	*end = '\0';
	return made;
}
