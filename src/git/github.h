/* git/github.h: GitHub: its REST API, fetches from it, and the proof that a webhook is its own. Loop thread only.
 *
 * One token, the operator's. It is in no URL, argument, file, log or message: the API gets it in a header, git in a variable
 * of the child's environment, bound to the operator's github.url, and redirects are not followed. */
#pragma once

#include "git/git.h"

struct github;
struct github_call;

struct github_settings { /* borrowed */
	const char *api_url; /* "https://api.github.com" */
	const char *url;     /* "https://github.com" */
	const char *token;   /* "" = no connection */
};

MUST_CHECK int github_new(struct github **ret, struct loop *l, struct git *git, const struct github_settings *s, struct err *err);
struct github *github_free(struct github *h); /* calls nobody; NULL is allowed; returns NULL */
bool github_has_token(const struct github *h);

/* GET api_url + path. body is NUL-terminated, at most 8 MiB, for the call. err: GitHub could not be asked. Once, from the
 * loop, unless github_cancel() comes before. */
typedef void github_answer_fn(void *arg, int status, const char *body, size_t len, const struct err *err);
struct github_call *github_get(struct github *h, const char *path, github_answer_fn *fn, void *arg);
void github_cancel(struct github_call *c); /* NULL is allowed */

/* Fetches a branch of url/repo into a bare repository, made where it is missing. One at a time per repository, in order. */
typedef void github_fetched_fn(void *arg, const char *commit, const struct err *err);
void github_fetch(struct github *h, const char *repo, const char *branch, const char *repository, github_fetched_fn *fn, void *arg);

/* "OWNER/NAME" as GitHub has them. */
bool github_is_repo(const char *s);
bool github_is_signature(const char *header); /* "sha256=" and 64 hex digits; NULL is none */
/* Whether header ("sha256=" and 64 hex digits) is the HMAC-SHA256 of the body, compared in constant time. Never with an
 * empty secret. */
bool github_signed(const char *secret, const char *header, const void *body, size_t len);
