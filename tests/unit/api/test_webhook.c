/* Webhooks from nobody in particular: what they may hold before their signature can be looked at. */
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "api/deployments/github.h"
#include "git/git.h"
#include "unit/image/tmpdir.h"
#include "unit/http/harness.h"

#define BODY_MAX "26214400"
#define SIGNATURE "sha256=0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"

static struct api api = { .github_webhook_secret = "secret" };
static struct http_router *router;

static void begin(void)
{
	router = http_router_new();
	api_webhook_routes(&api, router);
	harness_begin(http_router_dispatch, router);
}

static void end(void)
{
	harness_end();
	http_router_free(router);
}

TestSuite(webhook, .init = begin, .fini = end, .timeout = 30);

/* What comes at once; the connection is in *ret. */
static const char *announce(int *ret, const char *signature, const char *length)
{
	auto_free char *head = xasprintf("POST /v1/github/webhook HTTP/1.1\r\nHost: h\r\nX-Hub-Signature-256: %s\r\n%s\r\n\r\n", signature,
					 length);

	*ret = connect_pair();
	return talk(*ret, head);
}

Test(webhook, a_malformed_signature_is_refused_before_the_body)
{
	static const char *const bad[] = { "", "x", "sha256=", "sha1=0123456789abcdef0123456789abcdef01234567", SIGNATURE "0",
					   "sha256=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeg" };
	int fd;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		const char *answer = announce(&fd, bad[i], "Content-Length: " BODY_MAX);
		cr_assert(strstr(answer, "HTTP/1.1 401") == answer && strstr(answer, "expected"), "%s: %s", bad[i], answer);
		close(fd);
	}
	run_for(5);
	cr_assert_eq(api.webhook_bytes, 0);
}

Test(webhook, bodies_under_way_have_a_limit_together)
{
	int held[4], fd;

	for (size_t i = 0; i < ARRAY_LEN(held); i++)
		cr_assert_str_eq(announce(&held[i], SIGNATURE, i % 2 ? "Content-Length: " BODY_MAX : "Transfer-Encoding: chunked"), "");
	const char *answer = announce(&fd, SIGNATURE, "Content-Length: 2");
	cr_assert(strstr(answer, "HTTP/1.1 503") == answer && strstr(answer, "Retry-After: "), "%s", answer);
	close(fd);
	close(held[0]); /* it leaves */
	run_for(5);
	cr_assert_str_eq(announce(&fd, SIGNATURE, "Content-Length: 2"), "");
	cr_assert_eq(strncmp(talk(fd, "{}"), "HTTP/1.1 401", 12), 0, "it is signed by somebody else");
	cr_assert_eq(strncmp(talk(held[2], "0\r\n\r\n"), "HTTP/1.1 401", 12), 0);
	cr_assert_eq(api.webhook_bytes, 2 * strtoull(BODY_MAX, NULL, 10), "two are under way");
	close(held[1]);
	close(held[3]);
	run_for(5);
	cr_assert_eq(api.webhook_bytes, 0);
}

Test(webhook, one_that_is_too_large_or_leaves_gives_its_share_back)
{
	int fd;

	cr_assert_eq(strncmp(announce(&fd, SIGNATURE, "Content-Length: 26214401"), "HTTP/1.1 413", 12), 0);
	close(fd);
	announce(&fd, SIGNATURE, "Content-Length: 5");
	cr_assert_eq(strncmp(talk(fd, "{}"), "", 1), 0);
	cr_assert_eq(api.webhook_bytes, 5);
	close(fd);
	run_for(5);
	cr_assert_eq(api.webhook_bytes, 0);
}

/* -- a push that could not be deployed ------------------------------------------------------------------------------- */

static char dir[] = "/tmp/orw-webhook-XXXXXX";

/* A push to main of repository 7, as GitHub signs it. */
static const char *push(const char *delivery)
{
	static const char body[] = "{\"ref\": \"refs/heads/main\", \"repository\": {\"id\": 7}}";
	unsigned char sum[EVP_MAX_MD_SIZE];
	char hex[2 * EVP_MAX_MD_SIZE + 1];
	unsigned n = 0;
	int fd = connect_pair();

	HMAC(EVP_sha256(), api.github_webhook_secret, (int)strlen(api.github_webhook_secret), (const unsigned char *)body, strlen(body), sum,
	     &n);
	for (unsigned i = 0; i < n; i++)
		snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
	auto_free char *text = xasprintf("POST /v1/github/webhook HTTP/1.1\r\nHost: h\r\nX-Hub-Signature-256: sha256=%s\r\n"
					 "X-GitHub-Event: push\r\nX-GitHub-Delivery: %s\r\nContent-Length: %zu\r\n\r\n%s", hex, delivery,
					 strlen(body), body);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	run_for(200);
	const char *answer = read_now(fd);
	close(fd);
	return answer;
}

Test(webhook, a_delivery_of_which_nothing_came_may_come_again)
{
	struct git_settings s = { .data_dir = dir, .max_processes = 1 };
	struct store_namespace *ns;
	struct store_environment *e;
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	auto_free char *db = xasprintf("%s/db", dir);
	api.loop = loop;
	api.data_dir = dir; /* without builds/, so that no deployment can be begun */
	api.envs = (struct envs *)&api; /* never looked into */
	cr_assert_eq(store_open(&api.store, loop, db, &err), 0, "%s", err.msg);
	cr_assert_eq(git_new(&api.git, loop, &s, &err), 0, "%s", err.msg);
	cr_assert_eq(store_namespace_add(api.store, "a", "org", &ns, &err), 0);
	cr_assert_eq(store_environment_add(api.store, ns, "e", &e, &err), 0);
	e->origin.github_id = 7;
	cr_assert_eq(strncmp(push("one"), "HTTP/1.1 507", 12), 0);
	cr_assert_not(store_delivery_known(api.store, "one"));
	e->origin.github_id = 8;
	const char *answer = push("one");
	cr_assert(strstr(answer, "HTTP/1.1 200") == answer && strstr(answer, "ignored"), "%s", answer);
	answer = push("one");
	cr_assert(strstr(answer, "HTTP/1.1 200") == answer && strstr(answer, "duplicate"), "%s", answer);
	run_for(5);
	cr_assert_eq(api.webhook_bytes, 0);
	git_free(api.git);
	store_free(api.store);
	tmpdir_remove(dir);
}
