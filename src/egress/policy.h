/* egress/policy.h: which destinations a sandbox may reach. Pure: what it depends on comes in as arguments.
 *
 * The order, first match wins:
 *   1. a blocked sandbox reaches nothing;
 *   2. the platform's address is the platform, port 53 of anything else is our own DNS over TCP;
 *   3. the operator's rules by address or range, and names that a rule allows and that DNS has just resolved
 *      (pins), allow;
 *   4. loopback, private, link-local, multicast and reserved ranges, and the host's own addresses, are refused, in
 *      every disguise (v4-mapped, v4-compatible, NAT64, 6to4);
 *   5. everything else is allowed. */
#pragma once

#include "base/err.h"
#include "egress/addr.h"
#include "sandbox/plan.h"

/* -- rules -------------------------------------------------------------------------------------------------- */
enum egress_rule_kind {
	EGRESS_RULE_NAME,   /* exactly this name */
	EGRESS_RULE_SUFFIX, /* "*.example.com": names below example.com, not itself */
	EGRESS_RULE_RANGE,  /* an address or a range of them */
};

struct egress_rule {
	enum egress_rule_kind kind;
	char name[254];           /* lower case; of a suffix the part behind "*." */
	struct egress_addr addr;  /* of a range */
	unsigned bits;            /* of a range: the prefix length */
	uint16_t port;            /* 0 = any */
};

struct egress_rules {
	struct egress_rule *items; /* owned */
	size_t n;
};

/* "pypi.example.com", "*.example.com:443", "10.1.2.3:80", "10.0.0.0/8", "fd00::5", "[fd00::]/8", "[fd00::5]:443".
 * -EINVAL says what was expected; nothing is added then. */
MUST_CHECK int egress_rules_add(struct egress_rules *rules, const char *text, struct err *err);
void egress_rules_done(struct egress_rules *rules);

bool egress_rules_allow_addr(const struct egress_rules *rules, const struct egress_addr *a, uint16_t port);
/* The first rule behind prev (NULL = from the start) that allows a lower-case name; NULL = none. */
const struct egress_rule *egress_rules_next_name(const struct egress_rules *rules, const char *name,
						 const struct egress_rule *prev);

/* -- pins --------------------------------------------------------------------------------------------------- */
#define EGRESS_PINS_MAX 128        /* of one sandbox; beyond, the one that ends first gives way */
#define EGRESS_PIN_MIN_MS 60000    /* programs keep an address longer than its TTL says */
#define EGRESS_PIN_MAX_MS 3600000

/* An address that stands for an allowed name, for a while, in one sandbox. */
struct egress_pin {
	struct egress_addr addr;
	uint16_t port;    /* of the rule; 0 = any */
	uint64_t ends_ms; /* monotonic */
};

struct egress_pins {
	struct egress_pin *items; /* owned; NULL until the first: most sandboxes have none */
	size_t n;
};

/* ttl_s is brought between the limits above. An equal pin is renewed, never shortened. Aborts on out-of-memory. */
void egress_pins_add(struct egress_pins *pins, const struct egress_addr *a, uint16_t port, uint32_t ttl_s,
		     uint64_t now_ms);
bool egress_pins_allow(const struct egress_pins *pins, const struct egress_addr *a, uint16_t port, uint64_t now_ms);
void egress_pins_done(struct egress_pins *pins);

/* -- the decision ------------------------------------------------------------------------------------------- */
enum egress_verdict { EGRESS_REFUSE, EGRESS_DIAL, EGRESS_PLATFORM, EGRESS_DNS };

struct egress_question {
	enum plan_net net;
	struct egress_addr addr;             /* as the sandbox gave it */
	uint16_t port;                       /* 0 is refused */
	const struct egress_rules *allow;    /* for every sandbox */
	const struct egress_rules *build;    /* also for PLAN_NET_BUILD */
	const struct egress_pins *pins;      /* the sandbox's */
	const struct egress_addr *host;      /* addresses of this machine */
	size_t n_host;
	uint64_t now_ms;
};

/* *ret_reason: why it is refused ("private range 10.0.0.0/8"), a static string; untouched otherwise. */
enum egress_verdict egress_decide(const struct egress_question *q, const char **ret_reason);

/* Step 4 alone: NULL when a may be reached by anyone, else the reason. */
const char *egress_refused_range(const struct egress_addr *a, const struct egress_addr *host, size_t n_host);
