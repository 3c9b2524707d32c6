/* Reverse proxies: what ranges hold, whom the trail of header fields leads to, and that nobody else is believed. */
#include <arpa/inet.h>

#include "harness.h"
#include "base/str.h"
#include "http/origin.h"

TestSuite(origin, .timeout = 10);

/* -- ranges ---------------------------------------------------------------------------------------------------------- */

static struct http_range range(const char *text)
{
	struct http_range r;
	struct err err = ERR_INIT;

	cr_assert_eq(http_range_parse(&r, text, &err), 0, "%s: %s", text, err.msg);
	return r;
}

static bool has(const char *of, const char *address)
{
	struct http_range r = range(of), a = range(address);

	return http_ranges_have(&r, 1, &a.base);
}

Test(origin, ranges_have_their_addresses_and_no_others)
{
	cr_expect(has("10.0.0.0/8", "10.255.255.255"));
	cr_expect(!has("10.0.0.0/8", "11.0.0.0"));
	cr_expect(has("10.128.0.0/9", "10.128.0.1"));
	cr_expect(!has("10.128.0.0/9", "10.127.255.255"));
	cr_expect(has("192.0.2.7", "192.0.2.7"));
	cr_expect(!has("192.0.2.7", "192.0.2.6"));
	cr_expect(has("0.0.0.0/0", "255.255.255.255"));
	cr_expect(!has("0.0.0.0/0", "2001:db8::1"), "another family");
	cr_expect(has("::/0", "2001:db8::1"));
	cr_expect(has("2001:db8::/33", "2001:db8:7fff::1"));
	cr_expect(!has("2001:db8::/33", "2001:db8:8000::1"));
	cr_expect(has("::ffff:10.1.2.3", "10.1.2.3"), "the same address");
}

Test(origin, what_is_no_range_is_refused_by_name)
{
	static const char *const bad[] = { "",	      "proxy.test", "10.0.0",	"10.0.0.0/33", "10.0.0.0/",   "10.0.0.0/x", "10.0.0.1/8",
					   "::1/129", "[::1]",	    "10.0.0.1:80", "fe80::1%lo", "10.0.0.0/-1", "2001:db8::1/32" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct http_range r;
		struct err err = ERR_INIT;
		cr_expect_eq(http_range_parse(&r, bad[i], &err), -EINVAL, "%s", bad[i]);
		cr_expect(strstr(err.msg, bad[i]), "\"%s\" names the value", err.msg);
	}
}

Test(origin, loopback_is_told)
{
	static const char *const loop_ones[] = { "127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1" };
	static const char *const others[] = { "128.0.0.1", "0.0.0.0", "::", "::2", "::127.0.0.1", "10.0.0.1" };

	for (size_t i = 0; i < ARRAY_LEN(loop_ones); i++)
		cr_expect(http_address_is_loopback(&(struct http_range){ .base = range(loop_ones[i]).base }.base), "%s", loop_ones[i]);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		cr_expect(!http_address_is_loopback(&(struct http_range){ .base = range(others[i]).base }.base), "%s", others[i]);
}

/* -- the trail -------------------------------------------------------------------------------------------------------- */

#define XFF(v) { "X-Forwarded-For", v }
#define XFP(v) { "X-Forwarded-Proto", v }
#define XFH(v) { "X-Forwarded-Host", v }
#define FWD(v) { "Forwarded", v }

struct trail_case {
	struct http_header h[4];
	const char *address, *scheme, *host; /* NULL = not told */
};

/* 10/8 and fd00::/8 are ours. */
static const struct trail_case trails[] = {
	{ { { 0 } }, NULL, NULL, NULL },
	{ { XFF("203.0.113.9") }, "203.0.113.9", NULL, NULL },
	{ { XFF("1.1.1.1, 203.0.113.9") }, "203.0.113.9", NULL, NULL }, /* what the client says of itself is not believed */
	{ { XFF("203.0.113.9, 10.0.0.1, fd00::2") }, "203.0.113.9", NULL, NULL },
	{ { XFF("1.1.1.1"), XFF("203.0.113.9,10.0.0.1") }, "203.0.113.9", NULL, NULL },
	{ { XFF("10.0.0.5, 10.0.0.1") }, "10.0.0.5", NULL, NULL }, /* one of our own asks */
	{ { XFF("203.0.113.9, unknown, 10.0.0.1") }, "10.0.0.1", NULL, NULL },
	{ { XFF("unknown") }, NULL, NULL, NULL },
	{ { XFF("\"x, 203.0.113.9") }, "203.0.113.9", NULL, NULL }, /* no quotes in this one */
	{ { XFF("203.0.113.9:4711") }, "203.0.113.9", NULL, NULL },
	{ { XFF("[2001:db8::1]:4711") }, "2001:db8::1", NULL, NULL },
	{ { XFF("2001:db8::1") }, "2001:db8::1", NULL, NULL },
	{ { XFP("https") }, NULL, "https", NULL },
	{ { XFP("http, https"), XFF("203.0.113.9") }, "203.0.113.9", "https", NULL },
	{ { XFP("ftp"), XFH("a b") }, NULL, NULL, NULL },
	{ { XFH("evil\", \"x"), XFP("HTTPS") }, NULL, "https", NULL },
	{ { XFH("openreward.test:8443"), XFP("https"), XFF("203.0.113.9") }, "203.0.113.9", "https", "openreward.test:8443" },
	{ { FWD("for=203.0.113.9;proto=https;host=a.test") }, "203.0.113.9", "https", "a.test" },
	{ { FWD("For=\"[2001:db8::1]:4711\" ; Proto=https, for=10.0.0.1;proto=http") }, "2001:db8::1", "https", NULL },
	{ { FWD("for=1.1.1.1"), FWD("for=203.0.113.9") }, "203.0.113.9", NULL, NULL },
	{ { FWD("for=_hidden, for=10.0.0.1") }, "10.0.0.1", NULL, NULL },
	{ { FWD("for=\"1.1.1.1, for=\"203.0.113.9") }, NULL, NULL, NULL },
	{ { FWD(";;,=,for=,for") }, NULL, NULL, NULL },
	{ { FWD("for=203.0.113.9;proto=https"), XFF("203.0.113.9"), XFP("https") }, "203.0.113.9", "https", NULL },
	/* A proxy passes on what its client made up, beside its own. */
	{ { FWD("for=127.0.0.1;proto=https"), XFF("203.0.113.9") }, NULL, NULL, NULL },
	{ { XFF("127.0.0.1"), FWD("for=203.0.113.9") }, NULL, NULL, NULL },
};

static void expect_trail(const struct trail_case *c)
{
	struct http_range ours[] = { range("10.0.0.0/8"), range("fd00::/8") };
	struct http_origin o;
	size_t n = 0;

	while (n < ARRAY_LEN(c->h) && c->h[n].name)
		n++;
	http_origin_read(&o, ours, ARRAY_LEN(ours), c->h, n);
	const char *what = n ? c->h[0].value : "nothing";
	cr_expect_eq(o.known, c->address != NULL, "%s", what);
	if (c->address && o.known) {
		struct http_range want = range(c->address);
		cr_expect_arr_eq(&o.address, &want.base, sizeof(o.address), "%s", what);
	}
	cr_expect(str_eq(o.scheme, c->scheme), "%s: %s", what, o.scheme);
	cr_expect_str_eq(o.host, c->host ? c->host : "", "%s", what);
}

Test(origin, trails_lead_to_the_first_stranger)
{
	for (size_t i = 0; i < ARRAY_LEN(trails); i++)
		expect_trail(&trails[i]);
}

Test(origin, an_endless_trail_is_not_believed)
{
	char text[HTTP_HOPS_MAX * 12 + 64] = "203.0.113.9";
	struct http_header h = { "X-Forwarded-For", text };
	struct http_range ours = range("10.0.0.0/8");
	struct http_origin o;
	size_t len = strlen(text);

	for (int i = 1; i < HTTP_HOPS_MAX; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, ",10.0.0.1");
	http_origin_read(&o, &ours, 1, &h, 1);
	cr_expect(o.known, "as many as may be");
	snprintf(text + len, sizeof(text) - len, ",10.0.0.1");
	http_origin_read(&o, &ours, 1, &h, 1);
	cr_expect_not(o.known, "one more");
}

/* -- requests --------------------------------------------------------------------------------------------------------- */

static void say_whence(struct http_req *req, void *arg UNUSED)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "<%s %s://%s %s>", http_req_peer(req), http_req_scheme(req), http_req_host(req),
			 http_req_is_local(req) ? "local" : "remote");

	http_reply(req, 200, "text/plain", text, (size_t)n);
}

/* A connection over TCP from 127.0.0.1. */
static int connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	struct err err = ERR_INIT;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(listener, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(listen(listener, 8), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&a, &len), 0);
	cr_assert_eq(http_server_listen(server, listener, NULL, &err), 0, "%s", err.msg);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(fd_set_nonblock(fd, true), 0);
	return fd;
}

static const char *answer_to(int fd, const char *request)
{
	static char all[8192];
	size_t len = 0;

	cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
	for (int i = 0; i < 1000 && !memchr(all, '>', len); i++) {
		run_for(5);
		ssize_t n = read(fd, all + len, sizeof(all) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
	}
	all[len] = '\0';
	return all;
}

#define FORWARDED_REQUEST "GET / HTTP/1.1\r\nHost: inner:80\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n" \
			  "X-Forwarded-Host: outer.test\r\n\r\n"

Test(origin, a_trusted_proxy_is_believed)
{
	static const char *const trusted[] = { "10.0.0.0/8", "127.0.0.1", NULL };
	struct err err = ERR_INIT;

	harness_begin(say_whence, NULL);
	cr_assert_eq(http_server_trust(server, trusted, &err), 0, "%s", err.msg);
	int fd = connect_tcp();
	const char *got = answer_to(fd, FORWARDED_REQUEST);
	cr_expect(strstr(got, "<203.0.113.9 https://outer.test remote>"), "%s", got);
	got = answer_to(fd, "GET / HTTP/1.1\r\nHost: inner:80\r\n\r\n");
	cr_expect(strstr(got, "<127.0.0.1:") && strstr(got, " http://inner:80 local>"), "%s", got);
	got = answer_to(fd, "GET / HTTP/1.1\r\nHost: inner:80\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
	cr_expect(strstr(got, "<127.0.0.1 http://inner:80 local>"), "%s", got);
	got = answer_to(fd, "GET / HTTP/1.1\r\nHost: inner:80\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
	cr_expect(strstr(got, "<127.0.0.1:") && strstr(got, " remote>"), "%s", got);
	got = answer_to(fd, "GET / HTTP/1.1\r\nHost: inner:80\r\nX-Forwarded-For: unknown\r\n\r\n");
	cr_expect(strstr(got, " remote>"), "%s", got);
	fd_close(fd);
	harness_end();
}

Test(origin, nobody_else_is_believed)
{
	static const char *const trusted[] = { "10.0.0.0/8", NULL };
	struct err err = ERR_INIT;

	harness_begin(say_whence, NULL);
	cr_assert_eq(http_server_trust(server, trusted, &err), 0, "%s", err.msg);
	int fd = connect_tcp();
	const char *got = answer_to(fd, FORWARDED_REQUEST);
	cr_expect(strstr(got, "<127.0.0.1:") && strstr(got, " http://inner:80 local>"), "%s", got);
	fd_close(fd);
	harness_end();
}

/* Its address is 127.0.0.1 as well, of a network of its own. */
Test(origin, a_sandbox_is_no_proxy_and_not_local)
{
	static const char *const trusted[] = { "127.0.0.0/8", NULL };
	struct err err = ERR_INIT;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	harness_begin(say_whence, NULL);
	cr_assert_eq(http_server_trust(server, trusted, &err), 0, "%s", err.msg);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(listen(listener, 8), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&a, &len), 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(fd_set_nonblock(fd, true), 0);
	cr_assert_eq(http_server_adopt(server, accept(listener, NULL, NULL), 7, &err), 0, "%s", err.msg);
	const char *got = answer_to(fd, FORWARDED_REQUEST);
	cr_expect(strstr(got, "<sandbox http://inner:80 remote>"), "%s", got);
	fd_close(fd);
	fd_close(listener);
	harness_end();
}

Test(origin, a_wrong_proxy_is_named)
{
	static const char *const wrong[] = { "10.0.0.0/8", "proxy.test", NULL };
	struct err err = ERR_INIT;

	harness_begin(say_whence, NULL);
	cr_assert_eq(http_server_trust(server, wrong, &err), -EINVAL);
	cr_expect(strstr(err.msg, "proxy.test"), "%s", err.msg);
	harness_end();
}
