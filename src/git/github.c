#include "git/github.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "git/private.h"

#define SIGNATURE_BYTES 32

bool github_is_repo(const char *s)
{
	const char *slash = s ? strchr(s, '/') : NULL;
	auto_free char *owner = slash ? xstrndup(s, (size_t)(slash - s)) : NULL;

	/* A repository's name may begin with a dot or a dash, as in "me/.github". */
	return slash && str_is_name(owner, 100) && slash[1] && strlen(slash + 1) <= 100 && !str_eq(slash + 1, ".") &&
	       !str_eq(slash + 1, "..") &&
	       !slash[1 + strspn(slash + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")];
}

static bool read_signature(const char *header, unsigned char ret[SIGNATURE_BYTES])
{
	return header && str_starts(header, "sha256=") && str_unhex(header + strlen("sha256="), ret, SIGNATURE_BYTES) == 0;
}

bool github_is_signature(const char *header)
{
	unsigned char bytes[SIGNATURE_BYTES];

	return read_signature(header, bytes);
}

bool github_signed(const char *secret, const char *header, const void *body, size_t len)
{
	unsigned char theirs[SIGNATURE_BYTES], ours[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (str_empty(secret) || !read_signature(header, theirs))
		return false;
	if (!HMAC(EVP_sha256(), secret, (int)strlen(secret), body, len, ours, &n) || n != sizeof(theirs))
		return false;
	return str_ct_eq(theirs, ours, sizeof(theirs));
}

/* -- fetches --------------------------------------------------------------------------------------------------------- */

struct github_fetch {
	struct list node; /* of git.fetches; the first with its repository runs */
	struct git *git;
	char *url, *branch, *repository;
	char *header;     /* "Authorization: ..."; "" = none */
	char *header_key; /* of git's configuration: bound to the URL */
	github_fetched_fn *fn;
	void *arg;
};

static void run_next(struct git *g, const char *repository);

static void fetch_free(struct github_fetch *f)
{
	explicit_bzero(f->header, strlen(f->header));
	free(f->header);
	free(f->header_key);
	free(f->url);
	free(f->branch);
	free(f->repository);
	free(f);
}

static void finish(struct github_fetch *f, const char *commit, const struct err *err)
{
	list_remove(&f->node);
	run_next(f->git, f->repository);
	f->fn(f->arg, commit, err);
	fetch_free(f);
}

static void on_resolved(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct github_fetch *f = arg;
	auto_free char *commit = xstrndup(out, strcspn(out, "\n"));
	struct err own;

	(void)said;
	if (!err && status)
		err_set(&own, -ENOENT, "%s has no branch \"%s\"", f->url, f->branch);
	finish(f, commit, err ? err : status ? &own : NULL);
}

static void on_fetched(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct github_fetch *f = arg;
	auto_free char *ref = xasprintf("refs/heads/%s", f->branch);
	const char *argv[] = { "rev-parse", "--verify", "--quiet", ref, NULL };
	struct git_command c = { .argv = argv, .repository = f->repository, .stdout_fd = -1 };
	struct err own;

	(void)out;
	if (err || status) {
		err_set(&own, -EIO, "fetching \"%s\" from %s: %s", f->branch, f->url, err ? err->msg : said);
		finish(f, NULL, &own);
		return;
	}
	git_start(f->git, &c, on_resolved, f);
}

/* The ways out that the operator gave the daemon are git's as well. */
static const char *const proxies[] = { "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
				       "all_proxy" };

static void on_made(void *arg, const struct err *err)
{
	struct github_fetch *f = arg;
	auto_free char *refspec = xasprintf("+refs/heads/%s:refs/heads/%s", f->branch, f->branch);
	auto_free char *key = xasprintf("GIT_CONFIG_KEY_0=%s", f->header_key);
	auto_free char *value = xasprintf("GIT_CONFIG_VALUE_0=%s", f->header);
	const char *argv[] = { "fetch", "--quiet", "--depth=1", "--no-tags", "--force", "--end-of-options", f->url, refspec, NULL };
	char *passed[ARRAY_LEN(proxies)];
	const char *env[ARRAY_LEN(proxies) + 4] = { key, value, *f->header ? "GIT_CONFIG_COUNT=1" : "GIT_CONFIG_COUNT=0" };
	struct git_command c = { .argv = argv, .repository = f->repository, .env = env, .stdout_fd = -1 };
	size_t n = 0;

	if (err) {
		finish(f, NULL, err);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(proxies); i++) {
		const char *proxy = getenv(proxies[i]);
		if (proxy)
			env[3 + n] = passed[n] = xasprintf("%s=%s", proxies[i], proxy), n++;
	}
	git_start(f->git, &c, on_fetched, f);
	while (n)
		free(passed[--n]);
	explicit_bzero(value, strlen(value));
}

static void run(struct github_fetch *f)
{
	git_make(f->git, f->repository, f->branch, on_made, f);
}

static void run_next(struct git *g, const char *repository)
{
	list_foreach(&g->fetches, struct github_fetch, node, f) {
		if (str_eq(f->repository, repository)) {
			run(f);
			return;
		}
	}
}

static bool is_running(struct git *g, const char *repository)
{
	list_foreach(&g->fetches, struct github_fetch, node, f)
		if (str_eq(f->repository, repository))
			return true;
	return false;
}

static char *authorization(const char *token)
{
	auto_free char *pair = xasprintf("x-access-token:%s", token);
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16 * 1024);
	if (buf_puts(&b, "Authorization: Basic ") < 0 || str_base64_append(&b, pair, strlen(pair)) < 0)
		return xstrdup("");
	explicit_bzero(pair, strlen(pair));
	return buf_steal(&b, NULL);
}

void git_fetch_with(struct git *g, const char *base, const char *repo, const char *token, const char *branch,
		    const char *repository,
		    github_fetched_fn *fn, void *arg)
{
	struct github_fetch *f = NEW(struct github_fetch);
	bool busy = is_running(g, repository);

	*f = (struct github_fetch){
		.git = g, .url = xasprintf("%s/%s.git", base, repo), .branch = xstrdup(branch), .repository = xstrdup(repository),
		.header = str_empty(token) ? xstrdup("") : authorization(token),
		.header_key = xasprintf("http.%s/.extraHeader", base), .fn = fn, .arg = arg,
	};
	list_push_back(&g->fetches, &f->node);
	if (!busy)
		run(f);
}

void github_fetches_free(struct git *g)
{
	struct github_fetch *f;

	while ((f = list_first(&g->fetches, struct github_fetch, node))) {
		list_remove(&f->node);
		fetch_free(f);
	}
}
