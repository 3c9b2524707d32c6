/* http/parse.c: the header section: its end, its lines, what it says about the message. */
#include "http/parse.h"

#include <errno.h>
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

/* One line without its CR LF. */
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

/* What is seen of the headers that say how the message is to be read. */
struct meaning {
	const char *length, *coding, *host, *expect;
	size_t n_lengths, n_codings, n_hosts;
	bool close, keep;
};

static const char *known_method(const char *p, size_t len)
{
	static const char *const all[] = {
		"POST", "GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE", "COPY", "LOCK", "MKCOL", "MOVE",
		"PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT",
		"MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE",
	};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (!strncmp(all[i], p, len) && !all[i][len])
			return all[i];
	return NULL;
}

/* The lines were looked at by http_head_find(): blanks, version and colons are where they belong. end is the line's CR. */
static int take_request_line(struct http_head *h, char *line, char *end, struct http_refusal *why)
{
	char *space = memchr(line, ' ', (size_t)(end - line));

	h->method = known_method(line, (size_t)(space - line));
	if (!h->method)
		return refuse(why, 501, "the method is not known here");
	h->target = space + 1;
	end[-9] = '\0';
	h->minor = end[-1] - '0';
	return 0;
}

/* "HTTP/1.1 200" or "HTTP/1.1 200 ..." */
static int take_status_line(struct http_head *h, const char *line, const char *end, struct http_refusal *why)
{
	const char *status = line + 9;
	bool apart = line[8] == ' ' && (status + 3 == end || status[3] == ' ');

	if (!apart || status[0] < '1' || !is_digit(status[0]) || !is_digit(status[1]) || !is_digit(status[2]))
		return refuse(why, 400, "the status is not a number of three digits");
	h->status = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
	h->minor = line[7] - '0';
	return 0;
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

/* By the first letter: nearly every header is told apart by it. */
static void note_meaning(struct meaning *m, const struct http_header *x)
{
	switch (*x->name | 0x20) {
	case 'c':
		if (str_ieq(x->name, "Content-Length")) {
			m->length = m->n_lengths++ ? m->length : x->value;
		} else if (str_ieq(x->name, "Connection")) {
			m->close = m->close || has_token(x->value, "close");
			m->keep = m->keep || has_token(x->value, "keep-alive");
		}
		break;
	case 'e':
		if (!m->expect && str_ieq(x->name, "Expect"))
			m->expect = x->value;
		break;
	case 'h':
		if (str_ieq(x->name, "Host"))
			m->host = m->n_hosts++ ? m->host : x->value;
		break;
	case 't':
		if (str_ieq(x->name, "Transfer-Encoding"))
			m->coding = m->n_codings++ ? m->coding : x->value;
		break;
	default:
		break;
	}
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static void take_header(struct http_head *h, struct meaning *m, char *line, char *end)
{
	char *colon = memchr(line, ':', (size_t)(end - line)), *value = colon + 1;

	while (value < end && is_blank(*value))
		value++;
	while (end > value && is_blank(end[-1]))
		end--;
	*colon = *end = '\0';
	h->headers[h->n_headers] = (struct http_header){ line, value };
	note_meaning(m, &h->headers[h->n_headers++]);
}

/* Ends targets, names and values with NUL, in place. */
static int take_lines(struct http_head *h, struct meaning *m, enum http_side side, char *block, size_t len,
		      struct http_refusal *why)
{
	char *line = block, *past = block + len, *nl = memchr(block, '\n', len);
	int r = side == HTTP_SIDE_REQUEST ? take_request_line(h, line, nl - 1, why) : take_status_line(h, line, nl - 1, why);

	while (r == 0) {
		line = nl + 1;
		nl = memchr(line, '\n', (size_t)(past - line));
		if (nl - line == 1)
			break;
		take_header(h, m, line, nl - 1);
	}
	return r;
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

static int read_coding(struct http_head *h, const struct meaning *m, struct http_refusal *why)
{
	if (h->minor == 0)
		return refuse(why, 400, "Transfer-Encoding in a message of HTTP/1.0");
	if (m->n_lengths)
		return refuse(why, 400, "both Content-Length and Transfer-Encoding are given");
	if (m->n_codings > 1)
		return refuse(why, 400, "Transfer-Encoding is given more than once");
	if (!str_ieq(m->coding, "chunked"))
		return refuse(why, 501, "the only transfer coding known here is \"chunked\"");
	h->body_length = HTTP_LENGTH_CHUNKED;
	return 0;
}

/* How long is the body? Whatever could be read in two ways is refused. */
static int read_length(struct http_head *h, const struct meaning *m, enum http_side side, struct http_refusal *why)
{
	uint64_t bytes;

	/* RFC 9112, 6.3: these have none, whatever their fields say. */
	if (side == HTTP_SIDE_RESPONSE && (h->status < 200 || h->status == 204 || h->status == 304)) {
		h->body_length = 0;
		return 0;
	}
	if (m->coding)
		return read_coding(h, m, why);
	if (m->n_lengths > 1)
		return refuse(why, 400, "Content-Length is given more than once");
	if (m->length && (strlen(m->length) > 18 || str_to_u64(m->length, &bytes) < 0))
		return refuse(why, 400, "Content-Length is not a number");
	h->body_length = m->length ? (int64_t)bytes : side == HTTP_SIDE_RESPONSE ? HTTP_LENGTH_UNTIL_CLOSE : 0;
	return 0;
}

static bool is_host_char(char c)
{
	static const bool table[256] = {
		['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['0' ... '9'] = true, ['.'] = true, ['-'] = true, ['_'] = true,
		['~'] = true, [':'] = true, ['['] = true, [']'] = true, ['%'] = true,
	};

	return table[(unsigned char)c];
}

/* One Host, and one that cannot be taken for anything else. */
static int check_host(const struct http_head *h, const struct meaning *m, struct http_refusal *why)
{
	if (m->n_hosts > 1)
		return refuse(why, 400, "Host is given more than once");
	if (m->n_hosts == 0 && h->minor >= 1)
		return refuse(why, 400, "Host is missing");
	for (const char *c = m->host; c && *c; c++)
		if (!is_host_char(*c))
			return refuse(why, 400, "Host holds a character that is not allowed there");
	return 0;
}

/* A path, or "http://HOST/...", whose host is looked at as Host is; "*" is OPTIONS' own. */
static int check_target(const char *target, struct http_refusal *why)
{
	size_t scheme = !strncasecmp(target, "http://", 7) ? 7 : !strncasecmp(target, "https://", 8) ? 8 : 0;

	if (*target == '/' || !strcmp(target, "*"))
		return 0;
	if (!scheme)
		return refuse(why, 400, "the request target is neither a path nor an http address");
	for (const char *c = target + scheme; *c && *c != '/' && *c != '?'; c++)
		if (!is_host_char(*c))
			return refuse(why, 400, "the request target has no valid host");
	return 0;
}

static int check_request(struct http_head *h, const struct meaning *m, struct http_refusal *why)
{
	int r;

	if (!strcmp(h->method, "CONNECT"))
		return refuse(why, 405, "CONNECT is not served here");
	if (m->expect && h->minor >= 1) {
		if (!str_ieq(m->expect, "100-continue"))
			return refuse(why, 417, "the only expectation known here is \"100-continue\"");
		h->expect_continue = true;
	}
	r = check_host(h, m, why);
	return r < 0 ? r : check_target(h->target, why);
}

int http_head_parse(struct http_head *ret, enum http_side side, char *block, size_t len, struct http_header *slots,
		    struct http_refusal *why)
{
	struct meaning m = { 0 };
	int r;

	*ret = (struct http_head){ .headers = slots };
	r = take_lines(ret, &m, side, block, len, why);
	if (r < 0)
		return r;
	block[len] = '\0';
	ret->keep_alive = !m.close && (ret->minor >= 1 || m.keep);
	r = side == HTTP_SIDE_REQUEST ? check_request(ret, &m, why) : 0;
	return r < 0 ? r : read_length(ret, &m, side, why);
}

const char *http_reason(int status)
{
	static const char *const names[] = {
		[100] = "Continue", [101] = "Switching Protocols", [102] = "Processing", [200] = "OK", [201] = "Created",
		[202] = "Accepted", [203] = "Non-Authoritative Information", [204] = "No Content", [205] = "Reset Content",
		[206] = "Partial Content", [207] = "Multi-Status", [208] = "Already Reported", [226] = "IM Used",
		[300] = "Multiple Choices", [301] = "Moved Permanently", [302] = "Found", [303] = "See Other",
		[304] = "Not Modified", [305] = "Use Proxy", [307] = "Temporary Redirect", [308] = "Permanent Redirect",
		[400] = "Bad Request", [401] = "Unauthorized", [402] = "Payment Required", [403] = "Forbidden",
		[404] = "Not Found", [405] = "Method Not Allowed", [406] = "Not Acceptable",
		[407] = "Proxy Authentication Required", [408] = "Request Timeout", [409] = "Conflict", [410] = "Gone",
		[411] = "Length Required", [412] = "Precondition Failed", [413] = "Payload Too Large", [414] = "URI Too Long",
		[415] = "Unsupported Media Type", [416] = "Range Not Satisfiable", [417] = "Expectation Failed",
		[421] = "Misdirected Request", [422] = "Unprocessable Entity", [423] = "Locked", [424] = "Failed Dependency",
		[426] = "Upgrade Required", [428] = "Precondition Required", [429] = "Too Many Requests",
		[431] = "Request Header Fields Too Large", [451] = "Unavailable For Legal Reasons",
		[500] = "Internal Server Error", [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable",
		[504] = "Gateway Timeout", [505] = "HTTP Version Not Supported", [506] = "Variant Also Negotiates",
		[507] = "Insufficient Storage", [508] = "Loop Detected", [510] = "Not Extended",
		[511] = "Network Authentication Required",
	};

	return status >= 0 && (size_t)status < ARRAY_LEN(names) && names[status] ? names[status] : "Unknown";
}
