#include "http/router.h"

#include "unit/http/harness.h"

static struct http_router *router;

/* Answers with its own name and what it was given. */
static void show(struct http_req *r, void *arg)
{
	const char *a = http_req_param(r, "a"), *b = http_req_param(r, "b");
	char text[4096];
	int n = snprintf(text, sizeof(text), "%s a=%s b=%s;", (const char *)arg, a ? a : "-", b ? b : "-");

	http_reply(r, 200, NULL, text, (size_t)n);
}

static void begin(void)
{
	static const char *const patterns[] = {
		"/", "/x", "/x/{a}", "/x/{a}/y", "/x/lit", "/x/{a}/{b}", "/x/lit/z", "/files/{a}/{b...}", "/x/lit/deep/{a}/end",
	};

	router = http_router_new();
	for (size_t i = 0; i < ARRAY_LEN(patterns); i++)
		http_router_add(router, "GET", patterns[i], show, (void *)patterns[i]);
	http_router_add(router, "POST", "/x/lit", show, "POST /x/lit");
	http_router_add(router, "DELETE", "/x/{a}", show, "DELETE /x/{a}");
	harness_begin(http_router_dispatch, router);
}

static void end(void)
{
	harness_end();
	router = http_router_free(router);
}

TestSuite(http_router, .init = begin, .fini = end, .timeout = 30);

static const char *ask(const char *method, const char *target)
{
	const char *text;
	char request[4096];
	int fd = connect_pair();

	snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: h\r\n\r\n", method, target);
	text = talk(fd, request);
	close(fd);
	return text;
}

#define expect(method, target, text) cr_expect(strstr(ask(method, target), text), "%s", ask(method, target))

Test(http_router, literals_and_parameters)
{
	expect("GET", "/", "\r\n\r\n/ a=- b=-;");
	expect("GET", "/x", "\r\n\r\n/x a=- b=-;");
	expect("GET", "/x/1", "\r\n\r\n/x/{a} a=1 b=-;");
	expect("GET", "/x/lit", "\r\n\r\n/x/lit a=- b=-;");
	expect("GET", "/x/1/y", "\r\n\r\n/x/{a}/y a=1 b=-;");
	expect("GET", "/x/1/z", "\r\n\r\n/x/{a}/{b} a=1 b=z;");
	expect("GET", "/x/lit/z", "\r\n\r\n/x/lit/z a=-");
	expect("GET", "/x?lit", "\r\n\r\n/x a=-");
}

Test(http_router, goes_back_when_a_literal_leads_nowhere)
{
	expect("GET", "/x/lit/y", "\r\n\r\n/x/{a}/y a=lit");
	expect("GET", "/x/lit/other", "\r\n\r\n/x/{a}/{b} a=lit b=other;");
	expect("GET", "/x/lit/deep/1/end", "/x/lit/deep/{a}/end a=1 b=-;");
	expect("DELETE", "/x/lit", "DELETE /x/{a} a=lit");
}

Test(http_router, decodes_after_matching)
{
	expect("GET", "/x/a%2fb", "\r\n\r\n/x/{a} a=a/b b=-;");
	expect("GET", "/x/a+b%20c", "a=a+b c b=-;");
	expect("GET", "/x/%zz", "HTTP/1.1 400");
	expect("GET", "/x/%00", "HTTP/1.1 400");
	expect("GET", "//x///1", "\r\n\r\n/x/{a} a=1");
}

Test(http_router, a_bad_escape_in_the_query_names_its_parameter)
{
	expect("GET", "/x?a=%41&limit=%zz", "HTTP/1.1 400");
	expect("GET", "/x?a=%41&limit=%zz", "limit: ");
	expect("GET", "/x?limit=%00", "limit: ");
	expect("GET", "/x?&&a=%41&%4=1", "%4: ");
	expect("GET", "/x?a=1%", "a: ");
	expect("GET", "/x?&a=%41&", "\r\n\r\n/x a=-");
	http_router_fallback(router, show, "fallback");
	expect("GET", "/nothing?limit=%zz", "\r\n\r\nfallback");
}

Test(http_router, rest)
{
	expect("GET", "/files/f/a/b/c%2f", "/files/{a}/{b...} a=f b=a/b/c/;");
	expect("GET", "/files/f/", "a=f b=;");
	expect("GET", "/files/f", "HTTP/1.1 404");
}

Test(http_router, a_very_deep_path_is_only_a_rest)
{
	char target[2048] = "/files/f";

	for (int i = 0; i < 500; i++)
		memcpy(target + 8 + 2 * i, "/d", 3);
	expect("GET", target, "b=d/d/d/d");
	cr_expect(strstr(ask("GET", target), "/d/d;"));
	target[1] = 'g';
	expect("GET", target, "HTTP/1.1 404");
}

Test(http_router, no_match)
{
	expect("GET", "/nothing", "HTTP/1.1 404");
	expect("GET", "/nothing", "{\"detail\":\"there is nothing at /nothing\",\"message\":\"");
	expect("GET", "/x/", "HTTP/1.1 404");
	expect("PUT", "/x/lit", "HTTP/1.1 405");
	expect("PUT", "/x/lit", "\r\nAllow: POST, GET, HEAD, DELETE\r\n");
	expect("POST", "/x", "\r\nAllow: GET, HEAD\r\n");
	http_router_fallback(router, show, "fallback");
	expect("GET", "/nothing", "\r\n\r\nfallback");
	expect("PUT", "/x", "HTTP/1.1 405");
}

Test(http_router, head_is_served_by_get)
{
	const char *answer = ask("HEAD", "/x/1");

	cr_assert(strstr(answer, "HTTP/1.1 200"));
	cr_assert(strstr(answer, "\r\nContent-Length: 15\r\n"), "%s", answer);
	cr_assert_str_eq(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
}
