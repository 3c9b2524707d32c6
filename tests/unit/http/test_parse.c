/* The codec: one case per way to make two parsers disagree, and every way to cut the bytes in two. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "http/parse.h"

#define H "Host: a\r\n"

struct result {
	int status; /* 0 = accepted, -1 = incomplete, else the refusal's */
	struct http_head head;
	char block[8192];
	struct http_header slots[200];
	char body[4096];
	size_t body_len, used;
	bool ended;
};


static int feed_body(struct result *r, struct http_body *b, const char *p, size_t len)
{
	struct http_body_piece piece;
	struct http_refusal why;

	do {
		if (http_body_next(b, p, len, &piece, &why) < 0)
			return r->status = why.status;
		memcpy(r->body + r->body_len, piece.data ? piece.data : "", piece.len);
		r->body_len += piece.len;
		r->used += piece.used;
		p += piece.used;
		len -= piece.used;
	} while (piece.used && !piece.end);
	r->ended = piece.end;
	return 0;
}

/* Parses one message that arrives in two pieces, cut at `cut`. Each look is at memory of just that size. */
static void parse_cut(struct result *r, enum http_side side, const char *p, size_t len, size_t cut)
{
	struct http_head_scan scan = { 0 };
	struct http_limits limits;
	struct http_refusal why;
	struct http_body body;
	size_t end = 0, at[2] = { cut, len };
	int found = 0;

	memset(r, 0, sizeof(*r));
	http_limits_default(&limits);
	for (int i = 0; i < 2 && found == 0; i++) {
		auto_free char *exact = xmemdup(p, at[i] + (at[i] == 0));
		found = http_head_find(&scan, side, exact, at[i], &limits, &end, &why);
	}
	if (found <= 0) {
		r->status = found < 0 ? why.status : -1;
		return;
	}
	memcpy(r->block, p + scan.start, end - scan.start);
	if (http_head_parse(&r->head, side, r->block, end - scan.start, r->slots, &why) < 0) {
		r->status = why.status;
		return;
	}
	http_body_init(&body, r->head.body_length);
	r->used = end;
	if (cut > end && feed_body(r, &body, p + end, cut - end))
		return;
	if (!r->ended)
		feed_body(r, &body, p + r->used, len - r->used);
}

static void parse(struct result *r, const char *text)
{
	parse_cut(r, HTTP_SIDE_REQUEST, text, strlen(text), strlen(text));
}

/* -- refused --------------------------------------------------------------------------------------------------- */

static const struct probe {
	const char *name, *text;
	int status;
} probes[] = {
	{ "CL and TE", "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
	{ "TE and CL", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400 },
	{ "two CL", "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400 },
	{ "two equal CL", "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400 },
	{ "list in CL", "POST / HTTP/1.1\r\n" H "Content-Length: 3, 3\r\n\r\n", 400 },
	{ "+CL", "POST / HTTP/1.1\r\n" H "Content-Length: +3\r\n\r\n", 400 },
	{ "-CL", "POST / HTTP/1.1\r\n" H "Content-Length: -3\r\n\r\n", 400 },
	{ "hex CL", "POST / HTTP/1.1\r\n" H "Content-Length: 0x3\r\n\r\n", 400 },
	{ "empty CL", "POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\n", 400 },
	{ "CL of 2^64", "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551617\r\n\r\n", 400 },
	{ "blank in CL", "POST / HTTP/1.1\r\n" H "Content-Length: 1 2\r\n\r\n", 400 },
	{ "blank before colon", "POST / HTTP/1.1\r\n" H "Transfer-Encoding : chunked\r\n\r\n", 400 },
	{ "tab before colon", "POST / HTTP/1.1\r\n" H "Transfer-Encoding\t: chunked\r\n\r\n", 400 },
	{ "blank in name", "POST / HTTP/1.1\r\n" H "Foo Bar: x\r\n\r\n", 400 },
	{ "no colon", "POST / HTTP/1.1\r\n" H "Foo\r\n\r\n", 400 },
	{ "empty name", "POST / HTTP/1.1\r\n" H ": x\r\n\r\n", 400 },
	{ "two TE", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
	{ "TE list", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, identity\r\n\r\n", 501 },
	{ "TE gzip, chunked", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", 501 },
	{ "TE xchunked", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n", 501 },
	{ "TE quoted", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n\r\n", 501 },
	{ "TE identity", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n", 501 },
	{ "TE vertical tab", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \vchunked\r\n\r\n", 400 },
	{ "TE in 1.0", "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 400 },
	{ "quote in an authority", "GET http://a\"b/ HTTP/1.1\r\n" H "\r\n", 400 },
	{ "list in an authority", "GET http://a,b/ HTTP/1.1\r\n" H "\r\n", 400 },
	{ "other scheme", "GET ftp://a/ HTTP/1.1\r\n" H "\r\n", 400 },
	{ "star and more", "OPTIONS *x HTTP/1.1\r\n" H "\r\n", 400 },
	{ "lower-case method", "get / HTTP/1.1\r\n" H "\r\n", 501 },
	{ "beginning of a method", "GE / HTTP/1.1\r\n" H "\r\n", 501 },
	{ "no Host", "GET / HTTP/1.1\r\n\r\n", 400 },
	{ "two Hosts", "GET / HTTP/1.1\r\n" H "Host: b\r\n\r\n", 400 },
	{ "two equal Hosts", "GET / HTTP/1.1\r\n" H H "\r\n", 400 },
	{ "Host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400 },
	{ "Host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400 },
	{ "Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400 },
	{ "folded", "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 400 },
	{ "folded with tab", "GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n\r\n", 400 },
	{ "first header folded", "GET / HTTP/1.1\r\n X: a\r\n" H "\r\n", 400 },
	{ "bare LF", "GET / HTTP/1.1\r\n" H "X: a\n\r\n", 400 },
	{ "bare LF in the first line", "GET / HTTP/1.1\n" H "\r\n", 400 },
	{ "bare LF LF", "GET / HTTP/1.1\r\n" H "\n", 400 },
	{ "bare CR", "GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 400 },
	{ "CR CR LF", "GET / HTTP/1.1\r\n" H "X: a\r\r\n\r\n", 400 },
	{ "bare CR in the first line", "GET /\r HTTP/1.1\r\n" H "\r\n", 400 },
	{ "control in value", "GET / HTTP/1.1\r\n" H "X: a\001b\r\n\r\n", 400 },
	{ "DEL in value", "GET / HTTP/1.1\r\n" H "X: a\177b\r\n\r\n", 400 },
	{ "HTTP/0.9", "GET /\r\n\r\n", 400 },
	{ "HTTP/0.9 with version", "GET / HTTP/0.9\r\n" H "\r\n", 505 },
	{ "HTTP/1.2", "GET / HTTP/1.2\r\n" H "\r\n", 505 },
	{ "HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505 },
	{ "HTTP/11.1", "GET / HTTP/11.1\r\n" H "\r\n", 400 },
	{ "http/1.1", "GET / http/1.1\r\n" H "\r\n", 400 },
	{ "two blanks", "GET  / HTTP/1.1\r\n" H "\r\n", 400 },
	{ "blank in target", "GET /a b HTTP/1.1\r\n" H "\r\n", 400 },
	{ "trailing blank", "GET / HTTP/1.1 \r\n" H "\r\n", 400 },
	{ "tab for blank", "GET\t/\tHTTP/1.1\r\n" H "\r\n", 400 },
	{ "fragment", "GET /#x HTTP/1.1\r\n" H "\r\n", 400 },
	{ "bytes above 0x7f", "GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n", 400 },
	{ "TLS", "\x16\x03\x01\x02", 400 },
	{ "leading blank", " GET / HTTP/1.1\r\n" H "\r\n", 400 },
	{ "many blank lines", "\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", 400 },
	{ "CONNECT", "CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 405 },
	{ "unknown method", "FROB / HTTP/1.1\r\n" H "\r\n", 501 },
	{ "lower-case method", "get / HTTP/1.1\r\n" H "\r\n", 501 },
	{ "strange method", "G(T / HTTP/1.1\r\n" H "\r\n", 400 },
	{ "other expectation", "POST / HTTP/1.1\r\n" H "Expect: 200-ok\r\n\r\n", 417 },
	/* chunked bodies */
#define C "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n"
	{ "0x1", C "0x1\r\na\r\n0\r\n\r\n", 400 },
	{ "+1", C "+1\r\na\r\n0\r\n\r\n", 400 },
	{ "-1", C "-1\r\na\r\n0\r\n\r\n", 400 },
	{ "blank before size", C " 1\r\na\r\n0\r\n\r\n", 400 },
	{ "blank after size", C "1 \r\na\r\n0\r\n\r\n", 400 },
	{ "no size", C "\r\n\r\n", 400 },
	{ "ext without size", C ";x\r\n\r\n", 400 },
	{ "size too long", C "0000000000000001\r\na\r\n0\r\n\r\n", 400 },
	{ "size overflows", C "ffffffffffffffff1\r\n", 400 },
	{ "LF after size", C "1\na\r\n0\r\n\r\n", 400 },
	{ "LF in ext", C "1;a\nb\r\na\r\n0\r\n\r\n", 400 },
	{ "CR in ext", C "1;a\rb\r\na\r\n0\r\n\r\n", 400 },
	{ "data too long", C "1\r\nab\r\n0\r\n\r\n", 400 },
	{ "data ends in LF", C "1\r\na\n0\r\n\r\n", 400 },
	{ "data ends in CR", C "1\r\na\r0\r\n\r\n", 400 },
	{ "LF ends the trailers", C "0\r\n\n", 400 },
	{ "LF in a trailer", C "0\r\na: b\n\r\n", 400 },
	{ "bare CR in a trailer", C "0\r\na: b\rc\r\n\r\n", 400 },
};

Test(http_parse, refuses_what_could_be_read_in_two_ways)
{
	struct result *r = NEW(struct result);

	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		parse(r, probes[i].text);
		cr_expect_eq(r->status, probes[i].status, "%s: %d, expected %d", probes[i].name, r->status, probes[i].status);
	}
	free(r);
}

/* However the bytes are cut, what is refused stays refused. (The status may differ where an incomplete message is
 * refused sooner, which none of these is.) */
Test(http_parse, refuses_at_every_cut)
{
	struct result *r = NEW(struct result);

	for (size_t i = 0; i < ARRAY_LEN(probes); i++)
		for (size_t cut = 0; cut <= strlen(probes[i].text); cut++) {
			parse_cut(r, HTTP_SIDE_REQUEST, probes[i].text, strlen(probes[i].text), cut);
			cr_expect_eq(r->status, probes[i].status, "%s cut at %zu: %d", probes[i].name, cut, r->status);
		}
	free(r);
}

Test(http_parse, refuses_nul_everywhere)
{
	static const char text[] = "POST /a HTTP/1.1\r\nHost: a\r\nX: yy\r\nTransfer-Encoding: chunked\r\n\r\n"
				   "1;e\r\na\r\n0\r\nt: u\r\n\r\n";
	struct result *r = NEW(struct result);
	char copy[sizeof(text)];

	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		bool is_data = i == (size_t)(strstr(text, "\r\na\r\n0") + 2 - text);
		memcpy(copy, text, sizeof(text));
		copy[i] = '\0';
		parse_cut(r, HTTP_SIDE_REQUEST, copy, sizeof(text) - 1, sizeof(text) - 1);
		cr_expect(is_data ? r->status == 0 : r->status > 0, "NUL at %zu: %d", i, r->status);
	}
	free(r);
}

/* -- accepted -------------------------------------------------------------------------------------------------- */

static const struct good {
	const char *text, *method, *target, *body;
	int64_t length;
	bool keep;
} goods[] = {
	{ "GET / HTTP/1.1\r\n" H "\r\n", "GET", "/", "", 0, true },
	{ "\r\nGET / HTTP/1.1\r\n" H "\r\n", "GET", "/", "", 0, true },
	{ "GET /a?b=c%20 HTTP/1.0\r\n\r\n", "GET", "/a?b=c%20", "", 0, false },
	{ "GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n", "GET", "/", "", 0, true },
	{ "GET / HTTP/1.1\r\n" H "connection: foo\r\nConnection: bar, CLOSE\r\n\r\n", "GET", "/", "", 0, false },
	{ "GET http://b:80/x HTTP/1.1\r\n" H "\r\n", "GET", "http://b:80/x", "", 0, true },
	{ "OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS", "*", "", 0, true },
	{ "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", "POST", "/", "abc", 3, true },
	{ "POST / HTTP/1.1\r\n" H "Content-Length:  003 \r\n\r\nabc", "POST", "/", "abc", 3, true },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\n\r\n2;x=\"y\"\r\nab\r\n01\r\nc\r\n0\r\nA: b\r\nC: d\r\n\r\n",
	  "PUT", "/", "abc", -1, true },
	{ "DELETE / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "DELETE", "/", "", -1, true },
};

static void check_good(const struct good *g, const struct result *r, size_t cut)
{
	cr_assert_eq(r->status, 0, "%s at %zu: %d", g->text, cut, r->status);
	cr_assert_str_eq(r->head.method, g->method);
	cr_assert_str_eq(r->head.target, g->target);
	cr_assert_eq(r->head.body_length, g->length);
	cr_assert_eq(r->head.keep_alive, g->keep, "%s", g->text);
	cr_assert(r->ended, "%s at %zu", g->text, cut);
	cr_assert_eq(r->used, strlen(g->text));
	cr_assert_eq(r->body_len, strlen(g->body));
	cr_assert_arr_eq(r->body, g->body, r->body_len);
}

Test(http_parse, accepts_at_every_cut)
{
	struct result *r = NEW(struct result);

	for (size_t i = 0; i < ARRAY_LEN(goods); i++)
		for (size_t cut = 0; cut <= strlen(goods[i].text); cut++) {
			parse_cut(r, HTTP_SIDE_REQUEST, goods[i].text, strlen(goods[i].text), cut);
			check_good(&goods[i], r, cut);
		}
	free(r);
}

Test(http_parse, leaves_the_next_request_alone)
{
	struct result *r = NEW(struct result);

	parse(r, "POST / HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\naGET / HTTP/1.1\r\n");
	cr_assert_eq(r->body_len, 1);
	cr_assert_eq(r->used, strlen("POST / HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\na"));
	free(r);
}

Test(http_parse, trims_values_and_keeps_names)
{
	struct result *r = NEW(struct result);

	parse(r, "GET / HTTP/1.1\r\nHost:a\r\nX-One: \t b c \t\r\nX-Empty:\r\nx-two:\r\nX-Colon: a:b\r\n\r\n");
	cr_assert_eq(r->status, 0);
	cr_assert_eq(r->head.n_headers, 5);
	cr_assert_str_eq(r->head.headers[0].value, "a");
	cr_assert_str_eq(r->head.headers[1].name, "X-One");
	cr_assert_str_eq(r->head.headers[1].value, "b c");
	cr_assert_str_eq(r->head.headers[2].value, "");
	cr_assert_str_eq(http_header_find(r->head.headers, 5, "X-TWO"), "");
	cr_assert_str_eq(http_header_find(r->head.headers, 5, "x-colon"), "a:b");
	cr_assert_null(http_header_find(r->head.headers, 5, "x"));
	free(r);
}

/* -- limits ---------------------------------------------------------------------------------------------------- */

static int find(const char *p, size_t len, struct http_limits *limits)
{
	struct http_head_scan s = { 0 };
	struct http_refusal why = { 0 };
	size_t end;

	return http_head_find(&s, HTTP_SIDE_REQUEST, p, len, limits, &end, &why) < 0 ? why.status : 0;
}

Test(http_parse, bounds_the_header_section)
{
	struct http_limits limits;
	struct buf b;

	http_limits_default(&limits);
	limits.header_bytes = 1000;
	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_puts(&b, "GET / HTTP/1.1\r\nHost: a\r\nX: "), 0);
	while (b.len <= 1000) {
		cr_assert_eq(find(b.data, b.len, &limits), 0);
		cr_assert_eq(buf_puts(&b, "x"), 0);
	}
	cr_assert_eq(find(b.data, b.len, &limits), 431);
	memset(b.data + 4, '/', b.len - 4);
	cr_assert_eq(find(b.data, b.len, &limits), 414);
	buf_done(&b);
}

Test(http_parse, bounds_the_number_of_headers)
{
	struct http_limits limits;
	struct buf b;

	http_limits_default(&limits);
	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_puts(&b, "GET / HTTP/1.1\r\n"), 0);
	for (size_t i = 0; i < limits.header_count; i++)
		cr_assert_eq(buf_puts(&b, "a:\r\n"), 0);
	cr_assert_eq(find(b.data, b.len, &limits), 0);
	cr_assert_eq(buf_puts(&b, "a:\r\n\r\n"), 0);
	cr_assert_eq(find(b.data, b.len, &limits), 431);
	buf_done(&b);
}

/* Feeds `unit` until it is refused; returns how many bytes were taken. */
static size_t feed_until_refused(const char *begin, const char *unit, size_t max)
{
	struct http_body_piece piece;
	struct http_refusal why;
	struct http_body b;
	size_t total = 0;

	http_body_init(&b, HTTP_LENGTH_CHUNKED);
	cr_assert_eq(http_body_next(&b, begin, strlen(begin), &piece, &why), 0);
	while (total < max) {
		for (size_t off = 0; off < strlen(unit); off += piece.used)
			if (http_body_next(&b, unit + off, strlen(unit) - off, &piece, &why) < 0)
				return total;
		total += strlen(unit);
	}
	return total;
}

Test(http_parse, bounds_extensions_and_trailers)
{
	size_t max = 1 << 20;

	cr_assert_leq(feed_until_refused("1;", "x", max), HTTP_EXT_MAX);
	cr_assert_leq(feed_until_refused("", "1;xx\r\na\r\n", max), 10 * HTTP_EXT_MAX);
	cr_assert_leq(feed_until_refused("0\r\n", "a: b\r\n", max), 2 * HTTP_TRAILER_MAX);
	cr_assert_leq(feed_until_refused("0\r\n", "x", max), HTTP_TRAILER_MAX);
	cr_assert_eq(feed_until_refused("", "1\r\na\r\n", max - max % 6), max - max % 6);
}

/* -- answers --------------------------------------------------------------------------------------------------- */

static void parse_answer(struct result *r, const char *text)
{
	parse_cut(r, HTTP_SIDE_RESPONSE, text, strlen(text), strlen(text));
}

Test(http_parse, answers)
{
	static const char *const bad_status[] = {
		"HTTP/1.1 20\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n", "HTTP/1.1\t200 OK\r\n\r\n", "HTTP/1.1 200OK\r\n\r\n",
	};
	struct result *r = NEW(struct result);

	parse_answer(r, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
	cr_assert_eq(r->status, 0);
	cr_assert_eq(r->head.status, 200);
	cr_assert(r->ended && r->body_len == 2);
	parse_answer(r, "HTTP/1.1 204 \r\n\r\n");
	cr_assert(r->ended && r->head.status == 204);
	parse_answer(r, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n");
	cr_assert(r->ended && r->head.body_length == 0, "RFC 9112, 6.3: its fields say what a 200 would have had");
	parse_answer(r, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n");
	cr_assert(r->ended && r->head.body_length == 0);
	parse_answer(r, "HTTP/1.0 200 OK\r\n\r\nabc");
	cr_assert_eq(r->head.body_length, HTTP_LENGTH_UNTIL_CLOSE);
	cr_assert(!r->ended && r->body_len == 3);
	parse_answer(r, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n");
	cr_assert_eq(r->status, 400);
	parse_answer(r, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n");
	cr_assert_eq(r->status, 400);
	parse_answer(r, "HTTP/2.0 200 OK\r\n\r\n");
	cr_assert_eq(r->status, 505);
	parse_answer(r, "SSH-2.0-OpenSSH\r\n\r\n");
	cr_assert_eq(r->status, 400);
	for (size_t i = 0; i < ARRAY_LEN(bad_status); i++) {
		parse_answer(r, bad_status[i]);
		cr_assert_eq(r->status, 400, "%s", bad_status[i]);
	}
	free(r);
}

Test(http_parse, reasons)
{
	cr_assert_str_eq(http_reason(404), "Not Found");
	cr_assert_str_eq(http_reason(0), "Unknown");
	cr_assert_str_eq(http_reason(-1), "Unknown");
	cr_assert_str_eq(http_reason(799), "Unknown");
}
