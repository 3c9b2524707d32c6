/* http/origin.c: addresses, ranges, and the trail that proxies leave in header fields. */
#include "http/origin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

/* -- addresses --------------------------------------------------------------------------------------------------- */

static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

static void set_v4(struct http_address *ret, const void *four)
{
	memcpy(ret->bytes, mapped, sizeof(mapped));
	memcpy(ret->bytes + sizeof(mapped), four, 4);
}

/* Without brackets, port or zone. */
static bool parse_address(struct http_address *ret, const char *text)
{
	struct in_addr v4;

	if (inet_pton(AF_INET, text, &v4) == 1) {
		set_v4(ret, &v4);
		return true;
	}
	return inet_pton(AF_INET6, text, ret->bytes) == 1;
}

bool http_address_of(struct http_address *ret, const struct sockaddr *sa)
{
	if (sa->sa_family == AF_INET)
		set_v4(ret, &((const struct sockaddr_in *)(const void *)sa)->sin_addr);
	else if (sa->sa_family == AF_INET6)
		memcpy(ret->bytes, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, sizeof(ret->bytes));
	else
		return false;
	return true;
}

bool http_sockaddr_text(const struct sockaddr *sa, char *ret, size_t size)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;
	char ip[INET6_ADDRSTRLEN];

	if (sa->sa_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip)))
		snprintf(ret, size, "%s:%u", ip, ntohs(v4->sin_port));
	else if (sa->sa_family == AF_INET6 && inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip)))
		snprintf(ret, size, "[%s]:%u", ip, ntohs(v6->sin6_port));
	else
		return false;
	return true;
}

bool http_address_is_loopback(const struct http_address *a)
{
	static const uint8_t one[16] = { [15] = 1 };

	if (!memcmp(a->bytes, mapped, sizeof(mapped)))
		return a->bytes[12] == 127;
	return !memcmp(a->bytes, one, sizeof(one));
}

/* -- ranges -------------------------------------------------------------------------------------------------------- */

static bool has_bits_beyond(const struct http_address *a, unsigned bits)
{
	for (unsigned i = bits; i < 128; i++)
		if (a->bytes[i / 8] >> (7 - i % 8) & 1)
			return true;
	return false;
}

int http_range_parse(struct http_range *ret, const char *text, struct err *err)
{
	size_t len = strcspn(text, "/");
	char address[INET6_ADDRSTRLEN + 1];
	struct http_range r;
	uint64_t bits;

	if (len >= sizeof(address))
		return err_set(err, -EINVAL, "\"%.100s\": expected an address or a range, as in 10.1.2.3 or 10.0.0.0/8", text);
	memcpy(address, text, len);
	address[len] = '\0';
	if (!parse_address(&r.base, address))
		return err_set(err, -EINVAL, "\"%s\": expected an address or a range, as in 10.1.2.3 or 10.0.0.0/8", text);
	unsigned first = strchr(address, ':') ? 0 : 96;
	if (!text[len])
		bits = 128 - first;
	else if (str_to_u64(text + len + 1, &bits) < 0 || bits > 128 - first)
		return err_set(err, -EINVAL, "\"%.100s\": expected at most /%u behind this address", text, 128 - first);
	r.bits = first + (unsigned)bits;
	if (has_bits_beyond(&r.base, r.bits))
		return err_set(err, -EINVAL, "\"%.100s\": the address has bits beyond its first %u: expected the beginning of the range",
			       text, (unsigned)bits);
	*ret = r;
	return 0;
}

static bool has(const struct http_range *r, const struct http_address *a)
{
	unsigned whole = r->bits / 8, rest = r->bits % 8;

	if (memcmp(r->base.bytes, a->bytes, whole) != 0)
		return false;
	return !rest || (r->base.bytes[whole] ^ a->bytes[whole]) >> (8 - rest) == 0;
}

bool http_ranges_have(const struct http_range *ranges, size_t n, const struct http_address *a)
{
	for (size_t i = 0; i < n; i++)
		if (has(&ranges[i], a))
			return true;
	return false;
}

/* -- the trail ------------------------------------------------------------------------------------------------------ */

struct text {
	const char *p;
	size_t len;
};

struct hop {
	bool known;
	struct http_address address;
	struct text scheme, host; /* len 0 = not told */
};

struct trail {
	struct hop hops[HTTP_HOPS_MAX];
	size_t n;
	bool any;  /* header fields of its kind were there */
	bool bad;  /* and cannot be understood */
};

static struct text trim(struct text t)
{
	while (t.len && (t.p[0] == ' ' || t.p[0] == '\t')) {
		t.p++;
		t.len--;
	}
	while (t.len && (t.p[t.len - 1] == ' ' || t.p[t.len - 1] == '\t'))
		t.len--;
	return t;
}

/* Up to the next `end`, with quotes to one that is in no quoted string; the rest stays in *t. False when nothing is left. */
static bool next_part(struct text *t, char end, bool quotes, struct text *ret)
{
	bool quoted = false;
	size_t i = 0;

	if (!t->p)
		return false;
	for (; i < t->len && (quoted || t->p[i] != end); i++) {
		if (quotes && t->p[i] == '"')
			quoted = !quoted;
		else if (quoted && t->p[i] == '\\' && i + 1 < t->len)
			i++;
	}
	*ret = trim((struct text){ t->p, i });
	*t = i < t->len ? (struct text){ t->p + i + 1, t->len - i - 1 } : (struct text){ NULL, 0 };
	return true;
}

/* Nothing that is looked for here has an escape within. */
static struct text unquote(struct text t)
{
	if (t.len >= 2 && t.p[0] == '"' && t.p[t.len - 1] == '"')
		return (struct text){ t.p + 1, t.len - 2 };
	return t;
}

/* "1.2.3.4", "1.2.3.4:80", "::1", "[::1]", "[::1]:80". */
static bool parse_node(struct http_address *ret, struct text t)
{
	char text[INET6_ADDRSTRLEN + 1];
	const char *end = t.p + t.len, *colon = memchr(t.p, ':', t.len);

	if (t.len && t.p[0] == '[') {
		end = memchr(t.p, ']', t.len);
		if (!end)
			return false;
		t.p++;
	} else if (colon && !memchr(colon + 1, ':', (size_t)(end - colon - 1))) {
		end = colon;
	}
	if ((size_t)(end - t.p) >= sizeof(text))
		return false;
	memcpy(text, t.p, (size_t)(end - t.p));
	text[end - t.p] = '\0';
	return parse_address(ret, text);
}

static struct hop *add_hop(struct trail *t)
{
	if (t->n == HTTP_HOPS_MAX) {
		t->bad = true;
		return NULL;
	}
	t->hops[t->n] = (struct hop){ 0 };
	return &t->hops[t->n++];
}

static struct text text_of(const char *s)
{
	return (struct text){ s, strlen(s) };
}

static void add_addresses(struct trail *t, const char *value)
{
	struct text rest = text_of(value), part;
	struct hop *hop;

	while (next_part(&rest, ',', false, &part) && (hop = add_hop(t)))
		hop->known = parse_node(&hop->address, part);
}

static struct text last_part(const char *value)
{
	struct text rest = text_of(value), part = { 0 };

	while (next_part(&rest, ',', false, &part))
		continue;
	return part;
}

/* Our proxy sets scheme and host once, for the whole way, or adds its own at the end. */
static void read_x_forwarded(struct trail *t, const struct http_header *h, size_t n)
{
	struct text scheme = { 0 }, host = { 0 };

	for (size_t i = 0; i < n; i++) {
		if (str_ieq(h[i].name, "X-Forwarded-For"))
			add_addresses(t, h[i].value);
		else if (str_ieq(h[i].name, "X-Forwarded-Proto"))
			scheme = last_part(h[i].value);
		else if (str_ieq(h[i].name, "X-Forwarded-Host"))
			host = last_part(h[i].value);
	}
	t->any = t->n || scheme.len || host.len;
	if (t->any && !t->n)
		(void)add_hop(t);
	for (size_t i = 0; i < t->n; i++) {
		t->hops[i].scheme = scheme;
		t->hops[i].host = host;
	}
}

static void add_pair(struct hop *hop, struct text pair)
{
	const char *equals = memchr(pair.p, '=', pair.len);

	if (!equals)
		return;
	size_t len = (size_t)(equals - pair.p);
	struct text value = unquote(trim((struct text){ equals + 1, pair.len - len - 1 }));
	if (len == 3 && !strncasecmp(pair.p, "for", 3))
		hop->known = parse_node(&hop->address, value);
	else if (len == 5 && !strncasecmp(pair.p, "proto", 5))
		hop->scheme = value;
	else if (len == 4 && !strncasecmp(pair.p, "host", 4))
		hop->host = value;
}

static void read_forwarded(struct trail *t, const struct http_header *h, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct text rest = text_of(h[i].value), element, pair;
		struct hop *hop;

		if (!str_ieq(h[i].name, "Forwarded"))
			continue;
		t->any = true;
		while (next_part(&rest, ',', true, &element) && (hop = add_hop(t)))
			while (next_part(&element, ';', true, &pair))
				add_pair(hop, pair);
	}
}

/* -- what it comes to ------------------------------------------------------------------------------------------------ */

static const struct hop *first_hop(const struct trail *t, const struct http_range *trusted, size_t n)
{
	for (size_t i = t->n; i-- > 0;) {
		if (!t->hops[i].known) /* nobody says who that was: the proxy before it is all we know */
			return &t->hops[MIN(i + 1, t->n - 1)];
		if (!http_ranges_have(trusted, n, &t->hops[i].address))
			return &t->hops[i];
	}
	return t->n ? &t->hops[0] : NULL;
}

static bool text_is(struct text t, const char *s)
{
	return t.len == strlen(s) && !strncasecmp(t.p, s, t.len);
}

static void copy_host(char *ret, struct text t)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";

	if (!t.len || t.len > HTTP_HOST_MAX)
		return;
	for (size_t i = 0; i < t.len; i++)
		if (!strchr(allowed, t.p[i]))
			return;
	memcpy(ret, t.p, t.len);
	ret[t.len] = '\0';
}

static void tell(struct http_origin *ret, const struct trail *t, const struct http_range *trusted, size_t n)
{
	const struct hop *hop = t->bad ? NULL : first_hop(t, trusted, n);

	*ret = (struct http_origin){ 0 };
	if (!hop)
		return;
	ret->known = hop->known;
	ret->address = hop->address;
	ret->scheme = text_is(hop->scheme, "https") ? "https" : text_is(hop->scheme, "http") ? "http" : NULL;
	copy_host(ret->host, hop->host);
}

static bool agree(const struct http_origin *a, const struct http_origin *b)
{
	return a->known == b->known && !memcmp(&a->address, &b->address, sizeof(a->address)) && a->scheme == b->scheme &&
	       str_ieq(a->host, b->host);
}

void http_origin_read(struct http_origin *ret, const struct http_range *trusted, size_t n_trusted, const struct http_header *h,
		      size_t n)
{
	struct trail x = { .n = 0 }, standard = { .n = 0 };
	struct http_origin of_x, of_standard;

	read_x_forwarded(&x, h, n);
	read_forwarded(&standard, h, n);
	tell(&of_x, &x, trusted, n_trusted);
	tell(&of_standard, &standard, trusted, n_trusted);
	if (x.any && standard.any)
		*ret = agree(&of_x, &of_standard) ? of_x : (struct http_origin){ 0 };
	else
		*ret = x.any ? of_x : of_standard;
	ret->forwarded = x.any || standard.any;
}
