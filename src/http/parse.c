/* http/parse.c: the header section: its end, its lines, what it says about the message. */
#include "http/parse.h"

#include <errno.h>
#include <http_parser.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

#define BLANK_LINES_MAX 4 /* empty lines before a message that are forgiven; some clients send one after a body */

static int refuse(struct http_refusal *why, int status, const char *text)
{
	*why = (struct http_refusal){ status, text };
	return -EBADMSG;
}

static bool is_token(char c)
{
	static const bool table[256] = {
		['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['0' ... '9'] = true, ['!'] = true, ['#'] = true,
		['$'] = true, ['%'] = true, ['&'] = true, ['\''] = true, ['*'] = true, ['+'] = true, ['-'] = true,
		['.'] = true, ['^'] = true, ['_'] = true, ['`'] = true, ['|'] = true, ['~'] = true,
	};

	return table[(unsigned char)c];
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* -- the end of the section ------------------------------------------------------------------------------------ */

/* "HTTP/1.1" at p; 0 or a refusal. */
static int check_version(const char *p, struct http_refusal *why)
{
	if (memcmp(p, "HTTP/", 5) != 0 || !is_digit(p[5]) || p[6] != '.' || !is_digit(p[7]))
		return refuse(why, 400, "the first line is not one of HTTP/1.1");
	if (p[5] != '1' || p[7] > '1')
		return refuse(why, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
	return 0;
}

/* METHOD SP TARGET SP HTTP/1.x, with single blanks. */
static int check_request_line(const char *p, size_t len, struct http_refusal *why)
{
	const char *space = memchr(p, ' ', len);

	for (const char *c = p; c < p + len && *c != ' '; c++)
		if (!is_token(*c))
			return refuse(why, 400, "the method is not a token");
	if (!space || len < 10 || p[len - 9] != ' ' || space >= p + len - 10)
		return refuse(why, 400, "the request line is not METHOD TARGET HTTP/1.1");
	for (const char *c = space + 1; c < p + len - 9; c++)
		if (*c <= ' ' || *c == 0x7f || *c == '#') /* char is signed: bytes above 0x7f too */
			return refuse(why, 400, "the request target holds a character that must be percent-encoded");
	return check_version(p + len - 8, why);
}

static int check_first_line(enum http_side side, const char *p, size_t len, struct http_refusal *why)
{
	if (side == HTTP_SIDE_REQUEST)
		return check_request_line(p, len, why);
	if (len < 12)
		return refuse(why, 400, "the status line is too short");
	return check_version(p, why);
}

static int check_header_line(const char *p, size_t len, struct http_refusal *why)
{
	size_t i = 0;

	if (*p == ' ' || *p == '\t')
		return refuse(why, 400, "a header is folded over two lines");
	while (i < len && is_token(p[i]))
		i++;
	if (i == 0 || i == len || p[i] != ':')
		return refuse(why, 400, "the name of a header holds a character that is not allowed there");
	return 0;
}

/* One line without its CR LF. libhttp-parser lets control characters pass in the values of the headers that it reads
 * itself, Transfer-Encoding among them. */
static int check_line(const struct http_head_scan *s, enum http_side side, const char *p, size_t len,
		      struct http_refusal *why)
{
	for (size_t i = 0; i < len; i++)
		if (((unsigned char)p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f)
			return refuse(why, 400, "the header section holds a control character");
	return s->n_lines ? check_header_line(p, len, why) : check_first_line(side, p, len, why);
}

/* Empty lines before the message. Returns 1 when the first byte of the message is there. */
static int skip_blank_lines(struct http_head_scan *s, const char *p, size_t len, struct http_refusal *why)
{
	while (s->start < len && p[s->start] == '\r') {
		if (s->start + 1 == len)
			return 0;
		if (p[s->start + 1] != '\n' || s->start >= 2 * BLANK_LINES_MAX)
			return refuse(why, 400, "the message does not begin with its first line");
		s->start += 2;
		s->line = s->pos = s->start;
	}
	if (s->start < len && !is_token(p[s->start]))
		return refuse(why, 400, "the message does not begin with its first line");
	return s->start < len;
}

static int check_size(const struct http_head_scan *s, size_t bytes, const struct http_limits *limits,
		      struct http_refusal *why)
{
	if (bytes - s->start > limits->header_bytes)
		return s->n_lines ? refuse(why, 431, "the header section is too long") :
				    refuse(why, 414, "the request target is too long");
	if (s->n_lines > limits->header_count + 1)
		return refuse(why, 431, "there are too many headers");
	return 0;
}

int http_head_find(struct http_head_scan *s, enum http_side side, const char *p, size_t len,
		   const struct http_limits *limits, size_t *ret_end, struct http_refusal *why)
{
	const char *nl;
	int r = s->pos > s->start ? 1 : skip_blank_lines(s, p, len, why);

	if (r <= 0)
		return r;
	while ((nl = memchr(p + s->pos, '\n', len - s->pos))) {
		size_t at = (size_t)(nl - p);

		if (at == s->line || p[at - 1] != '\r')
			return refuse(why, 400, "the header section holds a LF without its CR");
		r = check_size(s, at + 1, limits, why);
		if (r < 0)
			return r;
		if (at - s->line == 1) {
			*ret_end = at + 1;
			return 1;
		}
		r = check_line(s, side, p + s->line, at - 1 - s->line, why);
		if (r < 0)
			return r;
		s->n_lines++;
		s->pos = s->line = at + 1;
	}
	s->pos = len;
	return check_size(s, len, limits, why);
}

/* -- the tokens ------------------------------------------------------------------------------------------------ */

struct parse {
	struct http_head *head;
	size_t target_len;
	bool complete;
};

static int on_url(http_parser *hp, const char *at, size_t len)
{
	struct parse *p = hp->data;

	p->head->target = (char *)at; /* in the caller's block, which is writable */
	p->target_len = len;
	return 0;
}

static int on_field(http_parser *hp, const char *at, size_t len UNUSED)
{
	struct http_head *h = ((struct parse *)hp->data)->head;

	h->headers[h->n_headers++] = (struct http_header){ at, "" };
	return 0;
}

static int on_value(http_parser *hp, const char *at, size_t len)
{
	struct http_head *h = ((struct parse *)hp->data)->head;

	if (len)
		h->headers[h->n_headers - 1].value = at;
	return 0;
}

static int on_complete(http_parser *hp)
{
	((struct parse *)hp->data)->complete = true;
	return 1; /* the body is not its business */
}

static int run_parser(struct parse *p, enum http_side side, const char *block, size_t len, struct http_refusal *why)
{
	static const http_parser_settings settings = {
		.on_url = on_url, .on_header_field = on_field, .on_header_value = on_value, .on_headers_complete = on_complete,
	};
	http_parser hp;

	http_parser_set_max_header_size(UINT32_MAX); /* the limit is http_head_find()'s */
	http_parser_init(&hp, side == HTTP_SIDE_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE);
	hp.data = p;
	http_parser_execute(&hp, &settings, block, len);
	if (HTTP_PARSER_ERRNO(&hp) == HPE_INVALID_METHOD)
		return refuse(why, 501, "the method is not known here");
	if (HTTP_PARSER_ERRNO(&hp) != HPE_OK)
		return refuse(why, 400, http_errno_description(HTTP_PARSER_ERRNO(&hp)));
	if (!p->complete)
		return refuse(why, 400, "the header section is not complete");
	p->head->method = side == HTTP_SIDE_REQUEST ? http_method_str((enum http_method)hp.method) : NULL;
	p->head->status = side == HTTP_SIDE_RESPONSE ? (int)hp.status_code : 0;
	p->head->minor = hp.http_minor;
	return 0;
}

/* Ends names and values with NUL, in place. Every line has been checked to hold a colon and to end in CR LF. */
static void cut_strings(struct http_head *h)
{
	for (size_t i = 0; i < h->n_headers; i++) {
		struct http_header *x = &h->headers[i];
		char *colon = strchr(x->name, ':');

		if (*x->value) {
			char *end = strchr(x->value, '\r');
			while (end > x->value && (end[-1] == ' ' || end[-1] == '\t'))
				end--;
			*end = '\0';
		}
		*colon = '\0';
	}
}

/* -- what it means --------------------------------------------------------------------------------------------- */

/* Nearly always told apart by the first letter, which spares the call. */
static bool same_name(const char *a, const char *b)
{
	return (*a | 0x20) == (*b | 0x20) && !strcasecmp(a, b);
}

const char *http_header_find(const struct http_header *h, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (same_name(h[i].name, name))
			return h[i].value;
	return NULL;
}

static size_t count(const struct http_head *h, const char *name)
{
	size_t n = 0;

	for (size_t i = 0; i < h->n_headers; i++)
		n += same_name(h->headers[i].name, name);
	return n;
}

static bool has_token(const char *list, const char *token)
{
	size_t len = strlen(token);

	while (*list) {
		list += strspn(list, ", \t");
		size_t n = strcspn(list, ", \t");
		if (n == len && !strncasecmp(list, token, n))
			return true;
		list += n;
	}
	return false;
}

static void read_connection(struct http_head *h)
{
	bool close = false, keep = false;

	for (size_t i = 0; i < h->n_headers; i++) {
		if (!same_name(h->headers[i].name, "Connection"))
			continue;
		close = close || has_token(h->headers[i].value, "close");
		keep = keep || has_token(h->headers[i].value, "keep-alive");
	}
	h->keep_alive = !close && (h->minor >= 1 || keep);
}

static int read_coding(struct http_head *h, const char *coding, size_t n_codings, size_t n_lengths,
		       struct http_refusal *why)
{
	if (h->minor == 0)
		return refuse(why, 400, "Transfer-Encoding in a message of HTTP/1.0");
	if (n_lengths)
		return refuse(why, 400, "both Content-Length and Transfer-Encoding are given");
	if (n_codings > 1)
		return refuse(why, 400, "Transfer-Encoding is given more than once");
	if (!str_ieq(coding, "chunked"))
		return refuse(why, 501, "the only transfer coding known here is \"chunked\"");
	h->body_length = HTTP_LENGTH_CHUNKED;
	return 0;
}

/* How long is the body? Whatever could be read in two ways is refused. */
static int read_length(struct http_head *h, enum http_side side, struct http_refusal *why)
{
	const char *length = http_header_find(h->headers, h->n_headers, "Content-Length");
	const char *coding = http_header_find(h->headers, h->n_headers, "Transfer-Encoding");
	size_t n_lengths = count(h, "Content-Length");
	uint64_t bytes;

	if (coding)
		return read_coding(h, coding, count(h, "Transfer-Encoding"), n_lengths, why);
	if (n_lengths > 1)
		return refuse(why, 400, "Content-Length is given more than once");
	if (length && (strlen(length) > 18 || str_to_u64(length, &bytes) < 0))
		return refuse(why, 400, "Content-Length is not a number");
	h->body_length = length ? (int64_t)bytes : side == HTTP_SIDE_RESPONSE ? HTTP_LENGTH_UNTIL_CLOSE : 0;
	if (side == HTTP_SIDE_RESPONSE && (h->status < 200 || h->status == 204 || h->status == 304))
		h->body_length = 0;
	return 0;
}

/* One Host, and one that cannot be taken for anything else. */
static int check_host(const struct http_head *h, struct http_refusal *why)
{
	const char *host = http_header_find(h->headers, h->n_headers, "Host");
	size_t n = count(h, "Host");

	if (n > 1)
		return refuse(why, 400, "Host is given more than once");
	if (n == 0 && h->minor >= 1)
		return refuse(why, 400, "Host is missing");
	if (host && host[strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~:[]%")])
		return refuse(why, 400, "Host holds a character that is not allowed there");
	return 0;
}

static int check_request(struct http_head *h, struct http_refusal *why)
{
	const char *expect = http_header_find(h->headers, h->n_headers, "Expect");

	if (!strcmp(h->method, "CONNECT"))
		return refuse(why, 405, "CONNECT is not served here");
	if (expect && h->minor >= 1) {
		if (!str_ieq(expect, "100-continue"))
			return refuse(why, 417, "the only expectation known here is \"100-continue\"");
		h->expect_continue = true;
	}
	return check_host(h, why);
}

int http_head_parse(struct http_head *ret, enum http_side side, char *block, size_t len, struct http_header *slots,
		    struct http_refusal *why)
{
	struct parse p = { .head = ret };
	int r;

	*ret = (struct http_head){ .headers = slots };
	r = run_parser(&p, side, block, len, why);
	if (r < 0)
		return r;
	block[len] = '\0';
	cut_strings(ret);
	if (ret->target)
		ret->target[p.target_len] = '\0';
	read_connection(ret);
	r = side == HTTP_SIDE_REQUEST ? check_request(ret, why) : 0;
	if (r < 0)
		return r;
	return read_length(ret, side, why);
}

const char *http_reason(int status)
{
	const char *s = http_status_str((enum http_status)status);

	return *s == '<' ? "Unknown" : s; /* "<unknown>" */
}
