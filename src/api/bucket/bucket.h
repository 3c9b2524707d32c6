/* api/bucket/bucket.h: whose files a caller may use, and what the handlers of /v1/files share. Loop thread only.
 *
 * Who may see an environment may read its files; members of its namespace change them. The key that an environment's server
 * has for a session acts for the namespace of the session's caller, so it is held shorter: the code behind it is somebody
 * else's. With it, files of the session's environment and of others of the same owner are read, and none are changed. */
#pragma once

#include "api/api.h"
#include "api/common/errors.h"
#include "bucket/bucket.h"
#include "bucket/tree.h"

/* The environment of an id. -ENOENT for one that is not there or must not be seen, -EPERM when it may be read and `change`
 * was asked for. */
MUST_CHECK int bucket_find(const struct bucket_access *a, const struct auth_caller *c, const char *env_id, bool change,
			   struct store_environment **ret, struct err *err);

/* For bucket_config: `name` ("owner/name", a bare name, NULL) where it names an environment whose files the caller may
 * have mounted; else the calling session's. *ret_change = the caller may make folders in it. */
MUST_CHECK int bucket_of_sandbox(const struct bucket_access *a, const struct auth_caller *c, const char *name,
				 struct store_environment **ret, bool *ret_change, struct err *err);

/* What the session talks to whose own key the caller has; NULL = it is an ordinary key, or there is no key. */
struct store_environment *bucket_session_environment(const struct bucket_access *a, const struct auth_caller *c);

/* Most bytes in a bucket; 0 = no limit. */
uint64_t bucket_quota(const struct bucket_access *a, const struct store_environment *e);

/* What an upload URL allows, in the order it is signed: purpose, environment, name, type, most bytes, end of validity. */
#define BUCKET_URL_FIELDS 6
void bucket_url_fields(const char *ret[BUCKET_URL_FIELDS], const char *env_id, const char *name, const char *type,
		       const char *max, const char *expires);

/* put.c, get.c */
void bucket_put_handler(struct http_req *req, void *api);
void bucket_get_handler(struct http_req *req, void *api);
