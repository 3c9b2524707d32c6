#include "egress/policy.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "init/boot.h"

/* -- ranges ------------------------------------------------------------------------------------------------------ */
struct range {
	struct egress_addr net;
	unsigned bits;
	const char *reason;
};

#define V4(a, b, c, d) { .family = 4, .bytes = { a, b, c, d } }
#define V6(...) { .family = 6, .bytes = { __VA_ARGS__ } }

static const struct range refused[] = {
	{ V4(0, 0, 0, 0), 8, "this network 0.0.0.0/8" },
	{ V4(10, 0, 0, 0), 8, "private range 10.0.0.0/8" },
	{ V4(100, 64, 0, 0), 10, "shared range 100.64.0.0/10" },
	{ V4(127, 0, 0, 0), 8, "loopback range 127.0.0.0/8" },
	{ V4(168, 63, 129, 16), 32, "metadata address 168.63.129.16 of Azure" },
	{ V4(169, 254, 0, 0), 16, "link-local range 169.254.0.0/16" },
	{ V4(172, 16, 0, 0), 12, "private range 172.16.0.0/12" },
	{ V4(192, 0, 0, 0), 24, "protocol assignments 192.0.0.0/24" },
	{ V4(192, 168, 0, 0), 16, "private range 192.168.0.0/16" },
	{ V4(198, 18, 0, 0), 15, "internal range 198.18.0.0/15" },
	{ V4(224, 0, 0, 0), 3, "multicast or reserved range 224.0.0.0/3" },
	{ V6(0), 127, "loopback address" },
	/* Where its IPv4 part lies is up to the network that uses it. */
	{ V6(0x00, 0x64, 0xff, 0x9b, 0x00, 0x01), 48, "local translation range 64:ff9b:1::/48" },
	{ V6(0xfc), 7, "private range fc00::/7" },
	{ V6(0xfe, 0x80), 10, "link-local range fe80::/10" },
	{ V6(0xfe, 0xc0), 10, "site-local range fec0::/10" },
	{ V6(0xff), 8, "multicast range ff00::/8" },
};

/* IPv6 ranges that carry an IPv4 address, and at which byte. */
static const struct {
	struct egress_addr net;
	unsigned bits, at;
} carriers[] = {
	{ V6([10] = 0xff, [11] = 0xff), 96, 12 },
	{ V6(0), 96, 12 },
	{ V6(0x00, 0x64, 0xff, 0x9b), 96, 12 },
	{ V6(0x20, 0x02), 16, 2 },
};

static bool carried_v4(const struct egress_addr *a, struct egress_addr *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(carriers); i++) {
		if (!egress_addr_in(a, &carriers[i].net, carriers[i].bits))
			continue;
		*ret = (struct egress_addr){ .family = 4 };
		memcpy(ret->bytes, a->bytes + carriers[i].at, 4);
		return true;
	}
	return false;
}

static const char *refused_plain(const struct egress_addr *a, const struct egress_addr *host, size_t n_host)
{
	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		if (egress_addr_in(a, &refused[i].net, refused[i].bits))
			return refused[i].reason;
	for (size_t i = 0; i < n_host; i++)
		if (egress_addr_eq(a, &host[i]))
			return "an address of the host";
	return NULL;
}

const char *egress_refused_range(const struct egress_addr *a, const struct egress_addr *host, size_t n_host)
{
	struct egress_addr inner;
	const char *reason = refused_plain(a, host, n_host);

	if (!reason && carried_v4(a, &inner))
		reason = refused_plain(&inner, host, n_host);
	return reason;
}

/* -- rules ------------------------------------------------------------------------------------------------------- */
static int bad_rule(struct err *err, const char *text)
{
	return err_set(err, -EINVAL,
		       "egress rule '%s': expected NAME, *.NAME, ADDRESS or ADDRESS/BITS, each with an optional :PORT "
		       "(IPv6 with a port or in brackets: [ADDRESS]/BITS:PORT)",
		       text);
}

/* Splits "HOST[:PORT]" where HOST may be "[v6]" with "/BITS" behind it, or a bare IPv6 address, which has more than
 * one colon. host is changed in place; *ret_port NULL = none. */
static void split_port(char *host, char **ret_port)
{
	char *colon = strrchr(host, ':');
	char *close = strchr(host, ']');

	*ret_port = NULL;
	if (!colon || (close ? colon < close : strchr(host, ':') != colon))
		return;
	*colon = '\0';
	*ret_port = colon + 1;
}

static int parse_port(const char *text, uint16_t *ret)
{
	uint64_t v;

	if (str_to_u64(text, &v) < 0 || v < 1 || v > 65535)
		return -EINVAL;
	*ret = (uint16_t)v;
	return 0;
}

/* "[v6]" or "[v6]/BITS" to the same without brackets, in place. */
static int strip_brackets(char *host)
{
	char *close = strchr(host, ']'), *to = host;

	if (host[0] != '[')
		return close ? -EINVAL : 0;
	if (!close || (close[1] != '\0' && close[1] != '/') || !strchr(host, ':'))
		return -EINVAL;
	for (const char *from = host; *from; from++)
		if (*from != '[' && *from != ']')
			*to++ = *from;
	*to = '\0';
	return 0;
}

static int parse_range(char *host, struct egress_rule *rule)
{
	char *slash = strchr(host, '/');
	uint64_t bits;

	if (slash)
		*slash = '\0';
	if (egress_addr_parse(host, &rule->addr) < 0)
		return -EINVAL;
	rule->kind = EGRESS_RULE_RANGE;
	rule->bits = rule->addr.family == 4 ? 32 : 128;
	if (!slash)
		return 0;
	if (str_to_u64(slash + 1, &bits) < 0 || bits > rule->bits)
		return -EINVAL;
	rule->bits = (unsigned)bits;
	return 0;
}

/* A name needs a letter: "10.1.2" is a mistake, not a name. */
static int parse_name(const char *host, struct egress_rule *rule)
{
	bool letter = false;

	rule->kind = str_starts(host, "*.") ? EGRESS_RULE_SUFFIX : EGRESS_RULE_NAME;
	if (rule->kind == EGRESS_RULE_SUFFIX)
		host += 2;
	size_t len = strlen(host);
	if (len > 1 && host[len - 1] == '.')
		len--;
	if (len == 0 || len >= sizeof(rule->name) || host[0] == '.')
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)host[i];
		if (!isalnum(c) && c != '-' && c != '_' && (c != '.' || host[i - 1] == '.'))
			return -EINVAL;
		letter |= isalpha(c) != 0;
		rule->name[i] = (char)tolower(c);
	}
	return letter ? 0 : -EINVAL;
}

int egress_rules_add(struct egress_rules *rules, const char *text, struct err *err)
{
	struct egress_rule rule = { 0 };
	auto_free char *host = xstrdup(text);
	char *port;

	split_port(host, &port);
	if (strip_brackets(host) < 0)
		return bad_rule(err, text);
	if (port && parse_port(port, &rule.port) < 0)
		return bad_rule(err, text);
	auto_free char *copy = xstrdup(host);
	if (parse_range(copy, &rule) < 0 && parse_name(host, &rule) < 0)
		return bad_rule(err, text);
	rules->items = xrealloc(rules->items, (rules->n + 1) * sizeof(rule));
	rules->items[rules->n++] = rule;
	return 0;
}

void egress_rules_done(struct egress_rules *rules)
{
	free(rules->items);
	*rules = (struct egress_rules){ 0 };
}

bool egress_rules_allow_addr(const struct egress_rules *rules, const struct egress_addr *a, uint16_t port)
{
	for (size_t i = 0; i < rules->n; i++) {
		const struct egress_rule *r = &rules->items[i];
		if (r->kind == EGRESS_RULE_RANGE && (r->port == 0 || r->port == port) &&
		    egress_addr_in(a, &r->addr, r->bits))
			return true;
	}
	return false;
}

static bool rule_has_name(const struct egress_rule *r, const char *name)
{
	size_t len = strlen(name), n = strlen(r->name);

	if (r->kind == EGRESS_RULE_NAME)
		return str_eq(r->name, name);
	return r->kind == EGRESS_RULE_SUFFIX && len > n + 1 && name[len - n - 1] == '.' &&
	       str_eq(name + len - n, r->name);
}

const struct egress_rule *egress_rules_next_name(const struct egress_rules *rules, const char *name,
						 const struct egress_rule *prev)
{
	for (size_t i = prev ? (size_t)(prev - rules->items) + 1 : 0; i < rules->n; i++)
		if (rule_has_name(&rules->items[i], name))
			return &rules->items[i];
	return NULL;
}

/* -- pins -------------------------------------------------------------------------------------------------------- */
/* An equal one, an ended one, a new one, or the one that ends first. */
static struct egress_pin *pin_slot(struct egress_pins *pins, const struct egress_addr *a, uint16_t port)
{
	struct egress_pin *first = &pins->items[0];

	for (size_t i = 0; i < pins->n; i++) {
		struct egress_pin *p = &pins->items[i];
		if (p->port == port && egress_addr_eq(&p->addr, a))
			return p;
		if (p->ends_ms < first->ends_ms)
			first = p;
	}
	if (pins->n == EGRESS_PINS_MAX) {
		*first = (struct egress_pin){ 0 };
		return first;
	}
	pins->items[pins->n] = (struct egress_pin){ 0 };
	return &pins->items[pins->n++];
}

void egress_pins_add(struct egress_pins *pins, const struct egress_addr *a, uint16_t port, uint32_t ttl_s,
		     uint64_t now_ms)
{
	uint64_t life_ms = MIN(MAX((uint64_t)ttl_s * 1000, (uint64_t)EGRESS_PIN_MIN_MS), (uint64_t)EGRESS_PIN_MAX_MS);

	if (!pins->items)
		pins->items = xcalloc(EGRESS_PINS_MAX, sizeof(*pins->items));
	struct egress_pin *p = pin_slot(pins, a, port);
	p->addr = *a;
	p->port = port;
	p->ends_ms = MAX(p->ends_ms, now_ms + life_ms);
}

bool egress_pins_allow(const struct egress_pins *pins, const struct egress_addr *a, uint16_t port, uint64_t now_ms)
{
	for (size_t i = 0; i < pins->n; i++) {
		const struct egress_pin *p = &pins->items[i];
		if (p->ends_ms > now_ms && (p->port == 0 || p->port == port) && egress_addr_eq(&p->addr, a))
			return true;
	}
	return false;
}

void egress_pins_done(struct egress_pins *pins)
{
	free(pins->items);
	*pins = (struct egress_pins){ 0 };
}

/* -- the decision ------------------------------------------------------------------------------------------------ */
static bool allowed_by_operator(const struct egress_question *q, const struct egress_addr *a)
{
	return egress_rules_allow_addr(q->allow, a, q->port) ||
	       (q->net == PLAN_NET_BUILD && egress_rules_allow_addr(q->build, a, q->port)) ||
	       egress_pins_allow(q->pins, a, q->port, q->now_ms);
}

enum egress_verdict egress_decide(const struct egress_question *q, const char **ret_reason)
{
	struct egress_addr a = egress_addr_unmap(&q->addr), platform;

	if (q->net == PLAN_NET_BLOCKED) {
		*ret_reason = "the network is blocked";
		return EGRESS_REFUSE;
	}
	if (q->port == 0) {
		*ret_reason = "port 0";
		return EGRESS_REFUSE;
	}
	if (egress_addr_parse(STEER_PLATFORM_V4, &platform) == 0 && egress_addr_eq(&a, &platform))
		return EGRESS_PLATFORM;
	if (q->port == 53)
		return EGRESS_DNS;
	if (allowed_by_operator(q, &a))
		return EGRESS_DIAL;
	const char *reason = egress_refused_range(&a, q->host, q->n_host);
	if (!reason)
		return EGRESS_DIAL;
	*ret_reason = reason;
	return EGRESS_REFUSE;
}
