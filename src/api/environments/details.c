/* PUT /v1/environments/{owner}/{name}/details, and what else describes an environment. */
#include "api/environments/details.h"

#include <errno.h>
#include <string.h>

#include "api/common/errors.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/git.h"

#define BODY_MAX (64u * 1024)
#define URL_MAX 2000
#define DESCRIPTION_MAX 8192 /* bytes: a list has hundreds */

/* -- branch and subdirectory ------------------------------------------------------------------------------------------ */

int details_check_origin(json_t *body, struct err *err)
{
	const char *branch = NULL, *subdirectory = NULL;
	int r = json_get_str(body, "branch", &branch, err);

	r = r < 0 ? r : json_get_str(body, "subdirectory", &subdirectory, err);
	if (r < 0)
		return r;
	if (branch && !git_is_branch(branch))
		return err_set(err, -EINVAL, "branch: \"%.100s\": expected the name of a branch, as in main", branch);
	if (!str_empty(subdirectory) && !git_is_subdirectory(subdirectory))
		return err_set(err, -EINVAL, "subdirectory: \"%.100s\": expected a folder of the repository, as in envs/one",
			       subdirectory);
	return 0;
}

int details_origin(struct store *s, struct store_environment *e, json_t *body, struct err *err)
{
	json_t *branch = json_object_get(body, "branch"), *subdirectory = json_object_get(body, "subdirectory");
	int r = details_check_origin(body, err);

	if (r < 0)
		return r;
	if (json_is_string(branch))
		store_set_str(&e->origin.branch, json_string_value(branch));
	if (subdirectory)
		store_set_str(&e->origin.subdirectory, json_string_value(subdirectory)); /* NULL = "" */
	if (json_is_string(branch) || subdirectory)
		store_origin_save(s, e);
	return 0;
}

static void write_or_null(struct json_writer *w, const char *key, const char *text)
{
	json_kv_str(w, key, *text ? text : NULL);
}

void details_write(struct json_writer *w, const struct store_environment *e)
{
	const struct store_origin *o = &e->origin;

	json_kv_str(w, "branch", o->branch);
	write_or_null(w, "subdirectory", o->subdirectory);
	write_or_null(w, "arxiv_url", o->arxiv_url);
	write_or_null(w, "external_github_url", o->github_url);
	write_or_null(w, "external_hf_url", o->hf_url);
}

/* -- PUT .../details ---------------------------------------------------------------------------------------------------- */

int details_check_description(json_t *body, const char *key, struct err *err)
{
	const char *text = NULL;
	int r = json_get_str(body, key, &text, err);

	if (r < 0 || !text || strlen(text) <= DESCRIPTION_MAX)
		return r;
	return err_set(err, -EINVAL, "%s: a text of %zu bytes: expected at most %d", key, strlen(text), DESCRIPTION_MAX);
}

static int check_url(json_t *body, const char *key, struct err *err)
{
	const char *url = NULL;
	int r = json_get_str(body, key, &url, err);

	if (r < 0 || str_empty(url))
		return r;
	if ((!str_starts(url, "https://") && !str_starts(url, "http://")) || strlen(url) > URL_MAX)
		return err_set(err, -EINVAL, "%s: \"%.100s\": expected an address that begins with https:// or http://", key, url);
	return 0;
}

static int check(const struct store_environment *e, json_t *body, struct err *err)
{
	static const char *const urls[] = { "new_arxiv_url", "new_external_github_url", "new_external_hf_url" };
	const char *text = NULL;
	bool harbor = false, private;
	int r = json_get_bool(body, "new_is_harbor", &harbor, err);

	if (r == 0 && harbor)
		r = err_set(err, -EINVAL, "new_is_harbor: true: this server does not support Harbor environments yet");
	r = r < 0 ? r : json_get_bool(body, "new_is_private", &private, err);
	r = r < 0 ? r : json_get_str(body, "new_name", &text, err);
	if (r == 0 && !str_empty(text))
		r = store_environment_check(e->ns, e, "new_name", text, err);
	r = r < 0 ? r : details_check_description(body, "new_description", err);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(urls); i++)
		r = check_url(body, urls[i], err);
	return r < 0 ? r : details_check_origin(body, err);
}

/* The repository first: it may be in use. The name was checked. */
static int rename_to(struct api *a, struct store_environment *e, const char *name, struct err *err)
{
	if (str_empty(name) || str_eq(name, e->name))
		return 0;
	int r = a->git ? git_rename(a->git, e->id, e->ns->name, e->name, name, err) : 0;
	return r < 0 ? r : store_environment_rename(a->store, e, name, err);
}

/* null and "" clear it. */
static void set_text(json_t *body, const char *key, char **field)
{
	json_t *v = json_object_get(body, key);

	if (v)
		store_set_str(field, json_string_value(v));
}

static int change(struct api *a, struct store_environment *e, json_t *body, struct err *err)
{
	int r = check(e, body, err);

	r = r < 0 ? r : store_check_room(a->store, err);
	r = r < 0 ? r : rename_to(a, e, json_string_value(json_object_get(body, "new_name")), err);
	r = r < 0 ? r : details_origin(a->store, e, body, err);
	if (r < 0)
		return r;
	if (json_is_string(json_object_get(body, "new_description")))
		set_text(body, "new_description", &e->description);
	set_text(body, "new_arxiv_url", &e->origin.arxiv_url);
	set_text(body, "new_external_github_url", &e->origin.github_url);
	set_text(body, "new_external_hf_url", &e->origin.hf_url);
	if (json_is_boolean(json_object_get(body, "new_is_private")))
		e->is_private = json_is_true(json_object_get(body, "new_is_private"));
	store_origin_save(a->store, e);
	store_environment_save(a->store, e);
	return 0;
}

static void on_details_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct store_environment *e = api_changeable(arg, req);
	auto_json body = NULL;
	struct err err;

	if (!e)
		return;
	int r = json_read_object(&body, data, len, &err);
	if (r == 0)
		api_audit_note(req, e->ns, e->name, body);
	if (r < 0 || change(arg, e, body, &err) < 0)
		api_reply_err(req, &err);
	else
		api_environment_saved(arg, req, e, 200);
}

static void on_details(struct http_req *req, void *arg)
{
	if (api_changeable(arg, req)) /* before the body is asked for */
		http_req_body(req, BODY_MAX, on_details_body, arg);
}

void api_details_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "PUT", "/v1/environments/{owner}/{name}/details", on_details, a);
}
