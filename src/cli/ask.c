/* A call whose answer is one JSON value, and the names that people write for environments. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

int cli_ask(const struct cli_target *t, const char *method, const char *path, const char *body, json_t **ret, struct err *err)
{
	struct cli_request rq = { .method = method, .path = path, .body = body, .body_len = body ? strlen(body) : 0 };
	json_error_t ignored;
	int r = cli_http(t, &rq, err);

	if (r == 0) {
		*ret = json_loadb(rq.answer.data ? rq.answer.data : "", rq.answer.len, 0, &ignored);
		if (!*ret)
			r = err_set(err, -EPROTO, "%s%s does not answer with JSON", t->url, path);
	}
	cli_request_done(&rq);
	return r;
}

static bool is_full_name(const char *name)
{
	const char *slash = strchr(name, '/');
	auto_free char *owner = xstrndup(name, slash ? (size_t)(slash - name) : 0);

	return slash && str_is_name(owner, 100) && str_is_name(slash + 1, 100);
}

int cli_own_namespace(const struct cli_target *t, char **ret, struct err *err)
{
	auto_json body = NULL;
	const char *name = NULL;
	int r = cli_ask(t, "GET", "/v1/namespace/current", NULL, &body, err);

	r = r < 0 ? r : json_need_str(body, "name", &name, err);
	if (r == 0)
		*ret = xstrdup(name);
	return r;
}

int cli_full_name(const struct cli_target *t, const char *name, char **ret, struct err *err)
{
	auto_free char *owner = NULL;

	if (is_full_name(name)) {
		*ret = xstrdup(name);
		return 0;
	}
	if (!str_is_name(name, 100))
		return err_set(err, -EINVAL, "\"%.200s\": expected NAMESPACE/NAME or NAME, each of letters, digits, '.', '_' and '-'",
			       name);
	int r = cli_own_namespace(t, &owner, err);
	if (r == 0)
		*ret = xasprintf("%s/%s", owner, name);
	return r;
}
