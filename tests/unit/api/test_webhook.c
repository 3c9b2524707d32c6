/* Webhooks from nobody in particular: what they may hold before their signature can be looked at. */
#include "api/deployments/github.h"
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
