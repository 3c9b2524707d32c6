/* api/api.h: what the handlers of the control plane share, and where each registers itself. Owned by the daemon, which
 * fills it in before the routes are added and keeps it until the HTTP server is gone. Members are borrowed. A member may
 * be NULL in unit tests; a handler that needs one which is missing answers 503. Loop thread only. */
#pragma once

#include "auth/auth.h"
#include "auth/signer.h"
#include "base/map.h"
#include "http/router.h"
#include "json/json.h"
#include "store/store.h"

struct buckets;
struct envs;
struct git;
struct github;
struct images;
struct recorder;
struct difficulty;
struct api_metrics;

/* Asks the spawner for what no living object owns; done gets one line per thing ("" = none) or an error. */
typedef void api_leaks_done_fn(void *arg, const char *lines, const struct err *err);
typedef void api_leaks_fn(void *leaks_arg, api_leaks_done_fn *done, void *arg);

/* Who may use which environment's files, and how many bytes (api/bucket/bucket.h). */
struct bucket_access {
	struct store *store;
	struct buckets *buckets;
	uint64_t quota_bytes; /* of one environment; 0 = no limit */
	uint64_t file_bytes;  /* of one file */
	uint64_t url_ms;      /* how long an upload URL is valid */
	struct signer signer;
	/* The environment that a session talks to; NULL = no such session. */
	struct store_environment *(*session_environment)(void *arg, const char *session_id);
	void *session_arg;
};

struct api {
	struct loop *loop;
	struct store *store;
	struct auth *auth;
	struct images *images;
	struct envs *envs;
	struct git *git;
	struct github *github;
	struct recorder *recorder;
	struct difficulty *difficulty;
	struct api_metrics *metrics;
	struct bucket_access bucket;
	struct http_server *http;
	const char *github_url;      /* "https://github.com": what people open */
	const char *github_webhook_secret; /* "" = none are taken */
	uint64_t webhook_bytes;      /* of bodies under way: api/deployments/webhook.c's own */
	char *const *github_namespaces; /* whose members may use the token; ends with NULL */
	const char *data_dir;        /* DATA */
	uint64_t upload_max_bytes;   /* of a deployment's tar */
	uint64_t body_max_bytes;     /* of a body that is read whole */
	uint64_t default_cpu_milli;  /* size of an instance when neither deployment nor environment names one */
	uint64_t default_memory_bytes;
	api_leaks_fn *leaks;
	void *leaks_arg;
	http_handler_fn *of_session; /* for a call that is the instance's when X-Session-ID is there; NULL = always ours */
	void *of_session_arg;
	bool (*ready)(void *arg);    /* /health answers 503 until it says true; NULL = ready */
	void *ready_arg;
};

/* One per resource, most of them in a file of that name. */
void api_system_routes(struct api *a, struct http_router *r);       /* /health /version /metrics /v1/leaks */
void api_openapi_routes(struct api *a, struct http_router *r);      /* /openapi.json */
void api_namespaces_routes(struct api *a, struct http_router *r);   /* /v1/namespace/current */
void api_keys_routes(struct api *a, struct http_router *r);         /* /v1/keys... */
void api_orgs_routes(struct api *a, struct http_router *r);         /* /v1/users..., /v1/orgs... */
void api_audit_routes(struct api *a, struct http_router *r);        /* /v1/audit */
void api_environments_routes(struct api *a, struct http_router *r); /* /v1/environments... */
void api_details_routes(struct api *a, struct http_router *r);      /* /v1/environments/{owner}/{name}/details */
void api_settings_routes(struct api *a, struct http_router *r);     /* .../settings */
void api_removal_routes(struct api *a, struct http_router *r);      /* DELETE of an environment */
void api_logs_routes(struct api *a, struct http_router *r);         /* .../logs */
void api_deployments_routes(struct api *a, struct http_router *r);  /* .../deployments, /v1/github/... */
void api_git_routes(struct api *a, struct http_router *r);          /* /git/... */
void api_github_routes(struct api *a, struct http_router *r);       /* /v1/github/... */
void api_images_routes(struct api *a, struct http_router *r);       /* /v1/images... */
void api_bucket_routes(struct api *a, struct http_router *r);       /* /v1/files... */
void api_rollouts_routes(struct api *a, struct http_router *r);     /* POST /v1/rollouts */
void api_records_routes(struct api *a, struct http_router *r);      /* GET /v1/runs..., /v1/rollouts/{id} */
void api_export_routes(struct api *a, struct http_router *r);       /* /v1/runs/{id}/export */
void api_backup_routes(struct api *a, struct http_router *r);       /* /v1/backup */
void api_difficulty_routes(struct api *a, struct http_router *r);   /* .../task-difficulty */
void api_pages_routes(struct api *a, struct http_router *r);        /* pages for people; of_session is set. The last of all */
void api_billing_routes(struct api *a, struct http_router *r);      /* /v1/billing/api-usage */

/* The child that writes a backup: its verb, and how it ends where it has written nothing. */
#define API_BACKUP_VERB "backup-stream"
#define API_BACKUP_FULL 3
#define API_BACKUP_BUSY 4

/* -- for handlers (errors are answered with api_reply_err, api/common/errors.h) -- */
/* The caller, or NULL after a 401 was answered. */
const struct auth_caller *api_caller(struct api *a, struct http_req *req);
/* The caller with at least this role, or NULL after a 401 or 403 was answered. */
const struct auth_caller *api_caller_with(struct api *a, struct http_req *req, enum store_role role);
/* The environment of a path with {owner} and {name}, for a key that may change it, or NULL after an answer: 401, 403, 404. */
struct store_environment *api_changeable(struct api *a, struct http_req *req);
/* Answers with the environments that the server of e lists; api->envs is set. */
void variants_reply(struct api *api, struct http_req *req, struct store_environment *e);
/* e for a key of its owner or an admin, or NULL after an answer: 404, 403; what: "environment", "deployment". e may be NULL. */
struct store_environment *api_owned(struct api *api, struct http_req *req, struct store_environment *e, const char *what);
/* Answers with the environment when its changes are on disk. */
void api_environment_saved(struct api *a, struct http_req *req, struct store_environment *e, int status);
/* Ends the writer and answers with what it wrote into b. */
void api_send(struct http_req *req, int status, struct json_writer *w, const struct buf *b);
/* Answers with what the writer wrote into b when every change made so far is on disk. Takes what b holds. The request's
 * on_close runs as ever. */
void api_send_saved(struct api *a, struct http_req *req, int status, struct json_writer *w, struct buf *b);
/* For the audit log: NAME of ns is what it is about, and which members of body were given (NULL = none), not their values. */
void api_audit_note(struct http_req *req, const struct store_namespace *ns, const char *name, json_t *body);
/* Answers with a page that loads, runs and sends nothing; html is of ours, or escaped. */
void api_page_reply(struct http_req *req, int status, const char *html, size_t len);
void api_write_time(struct json_writer *w, const char *key, int64_t wall_ms); /* 0 writes null */
/* A text of the query, in the request's memory; NULL = absent or empty. -EINVAL names it where it is no UTF-8. */
MUST_CHECK int api_text(struct http_req *req, const char *name, const char **ret, struct err *err);
/* "limit" and "offset" of the query. limit is cut to max. -EINVAL names the parameter. */
MUST_CHECK int api_page(struct http_req *req, uint64_t default_limit, uint64_t max_limit, uint64_t *ret_limit,
			uint64_t *ret_offset, struct err *err);
