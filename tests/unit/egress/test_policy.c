#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "egress/policy.h"
#include "init/boot.h"

static struct egress_addr addr(const char *text)
{
	struct egress_addr a;

	cr_assert_eq(egress_addr_parse(text, &a), 0, "%s", text);
	return a;
}

/* -- ranges ------------------------------------------------------------------------------------------------------ */
static bool refused(const char *text)
{
	struct egress_addr a = addr(text);

	return egress_refused_range(&a, NULL, 0) != NULL;
}

/* Both ends of every refused range, and what lies just outside. */
Test(policy, edges_of_the_refused_ranges)
{
	static const struct {
		const char *before, *first, *last, *after; /* NULL: there is none, or it is refused for another reason */
	} ranges[] = {
		{ NULL, "0.0.0.0", "0.255.255.255", "1.0.0.0" },
		{ "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0" },
		{ "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0" },
		{ "126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0" },
		{ "168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17" },
		{ "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0" },
		{ "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0" },
		{ "191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0" },
		{ "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0" },
		{ "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0" },
		{ "223.255.255.255", "224.0.0.0", "255.255.255.255", NULL },
		{ NULL, "::", "::1", NULL },
		{ "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::" },
		{ "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL },
		{ NULL, "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL },
		{ NULL, "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL },
		{ "64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "64:ff9b:2::" },
	};

	for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
		cr_expect(!ranges[i].before || !refused(ranges[i].before), "%s", ranges[i].before);
		cr_expect(refused(ranges[i].first), "%s", ranges[i].first);
		cr_expect(refused(ranges[i].last), "%s", ranges[i].last);
		cr_expect(!ranges[i].after || !refused(ranges[i].after), "%s", ranges[i].after);
	}
}

Test(policy, disguises_of_ipv4)
{
	static const char *const bad[] = {
		"::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1", "::127.0.0.1", "::2",
		"64:ff9b::10.0.0.1", "64:ff9b::192.168.1.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::5",
		"2002:c0a8:101:1:2:3:4:5", "2002:a9fe:a9fe::1",
	};
	static const char *const good[] = { "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::1111" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_expect(refused(bad[i]), "%s", bad[i]);
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		cr_expect(!refused(good[i]), "%s", good[i]);
}

Test(policy, the_hosts_addresses_in_every_form)
{
	const struct egress_addr host[] = { addr("203.0.113.9"), addr("2001:db8::9") };
	static const char *const forms[] = { "203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9", "64:ff9b::203.0.113.9", "2002:cb00:7109::" };

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct egress_addr a = addr(forms[i]);
		cr_expect_not_null(egress_refused_range(&a, host, 2), "%s", forms[i]);
		cr_expect_null(egress_refused_range(&a, host, 0), "%s", forms[i]);
	}
}

/* -- rules ------------------------------------------------------------------------------------------------------- */
static bool rule_allows(const char *rule, const char *to, uint16_t port)
{
	struct egress_rules rules = { 0 };
	struct err err = ERR_INIT;
	struct egress_addr a = addr(to);

	cr_assert_eq(egress_rules_add(&rules, rule, &err), 0, "%s", err.msg);
	bool r = egress_rules_allow_addr(&rules, &a, port);
	egress_rules_done(&rules);
	return r;
}

Test(policy, rules_by_address)
{
	cr_expect(rule_allows("10.1.2.3", "10.1.2.3", 1));
	cr_expect(rule_allows("10.1.2.3:80", "10.1.2.3", 80));
	cr_expect_not(rule_allows("10.1.2.3:80", "10.1.2.3", 81));
	cr_expect_not(rule_allows("10.1.2.3", "10.1.2.4", 1));
	cr_expect(rule_allows("10.0.0.0/9", "10.127.255.255", 1));
	cr_expect_not(rule_allows("10.0.0.0/9", "10.128.0.0", 1));
	cr_expect(rule_allows("10.0.0.0/9:443", "10.0.0.1", 443));
	cr_expect_not(rule_allows("10.0.0.0/9:443", "10.0.0.1", 442));
	cr_expect(rule_allows("0.0.0.0/0", "192.168.0.1", 1));
	cr_expect_not(rule_allows("0.0.0.0/0", "fd00::1", 1), "another family");
	cr_expect(rule_allows("fd00::1", "fd00::1", 1));
	cr_expect(rule_allows("fd00::/8", "fdff::1", 1));
	cr_expect(rule_allows("[fd00::]/8", "fdff::1", 1));
	cr_expect(rule_allows("[fd00::]/8:22", "fdff::1", 22));
	cr_expect_not(rule_allows("[fd00::]/8:22", "fdff::1", 23));
	cr_expect(rule_allows("[fd00::1]:443", "fd00::1", 443));
	cr_expect_not(rule_allows("[fd00::1]:443", "fd00::1", 80));
	cr_expect_not(rule_allows("pypi.test", "10.0.0.1", 80), "a name allows no address by itself");
}

Test(policy, bad_rules_are_named)
{
	static const char *const bad[] = {
		"", ":80", "host:0", "host:65536", "host:x", "host:", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "fd00::/129", "10.1.2",
		"1.2.3.4.5", "*.", "*", "a..b", ".a", "a b", "*.*.x", "[10.0.0.1]", "[fd00::1", "fd00::1]", "[fd00::1]x", "http://x/",
		"host/8", "ho*st",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct egress_rules rules = { 0 };
		struct err err = ERR_INIT;
		cr_expect_eq(egress_rules_add(&rules, bad[i], &err), -EINVAL, "'%s'", bad[i]);
		cr_expect_not_null(strstr(err.msg, bad[i]));
		cr_expect_eq(rules.n, 0);
		egress_rules_done(&rules);
	}
}

static size_t n_matches(const struct egress_rules *rules, const char *name)
{
	size_t n = 0;

	for (const struct egress_rule *r = NULL; (r = egress_rules_next_name(rules, name, r));)
		n++;
	return n;
}

Test(policy, rules_by_name)
{
	struct egress_rules rules = { 0 };

	cr_assert_eq(egress_rules_add(&rules, "PyPI.Example.com:443", NULL), 0);
	cr_assert_eq(egress_rules_add(&rules, "*.example.com", NULL), 0);
	cr_assert_eq(egress_rules_add(&rules, "10.0.0.0/8", NULL), 0);
	cr_assert_eq(egress_rules_add(&rules, "mirror.:80", NULL), 0);
	cr_expect_eq(n_matches(&rules, "pypi.example.com"), 2);
	cr_expect_eq(n_matches(&rules, "a.b.example.com"), 1);
	cr_expect_eq(n_matches(&rules, "example.com"), 0, "names below it only");
	cr_expect_eq(n_matches(&rules, "badexample.com"), 0);
	cr_expect_eq(n_matches(&rules, "pypi.example.com.evil.test"), 0);
	cr_expect_eq(n_matches(&rules, "x\\046example.com"), 0, "a dot inside a label is no separator");
	cr_expect_eq(n_matches(&rules, "mirror"), 1);
	cr_expect_eq(n_matches(&rules, ""), 0);
	egress_rules_done(&rules);
}

/* -- pins -------------------------------------------------------------------------------------------------------- */
Test(policy, pins_end_and_are_renewed)
{
	struct egress_pins pins = { 0 };
	struct egress_addr a = addr("10.0.0.1"), b = addr("10.0.0.2");

	cr_expect_not(egress_pins_allow(&pins, &a, 80, 1000));
	egress_pins_add(&pins, &a, 80, 1, 1000);
	cr_expect(egress_pins_allow(&pins, &a, 80, 1000 + EGRESS_PIN_MIN_MS - 1), "a short TTL is stretched");
	cr_expect_not(egress_pins_allow(&pins, &a, 80, 1000 + EGRESS_PIN_MIN_MS));
	cr_expect_not(egress_pins_allow(&pins, &a, 81, 1000));
	cr_expect_not(egress_pins_allow(&pins, &b, 80, 1000));
	egress_pins_add(&pins, &a, 80, 4000000, 2000);
	cr_expect(egress_pins_allow(&pins, &a, 80, 2000 + EGRESS_PIN_MAX_MS - 1));
	cr_expect_not(egress_pins_allow(&pins, &a, 80, 2000 + EGRESS_PIN_MAX_MS), "a long one is cut");
	egress_pins_add(&pins, &a, 80, 1, 3000);
	cr_expect(egress_pins_allow(&pins, &a, 80, 2000 + EGRESS_PIN_MAX_MS - 1), "never shortened");
	cr_expect_eq(pins.n, 1);
	egress_pins_done(&pins);
}

Test(policy, pins_are_bounded)
{
	struct egress_pins pins = { 0 };
	struct egress_addr a = addr("10.0.0.0");

	for (unsigned i = 0; i < 3 * EGRESS_PINS_MAX; i++) {
		a.bytes[2] = (uint8_t)(i >> 8);
		a.bytes[3] = (uint8_t)i;
		egress_pins_add(&pins, &a, 0, 60, 1000 + i);
	}
	cr_expect_eq(pins.n, EGRESS_PINS_MAX);
	cr_expect(egress_pins_allow(&pins, &a, 9, 2000), "the last is there");
	a.bytes[2] = a.bytes[3] = 0;
	cr_expect_not(egress_pins_allow(&pins, &a, 9, 2000), "the first gave way");
	egress_pins_done(&pins);
}

/* -- the decision ------------------------------------------------------------------------------------------------ */
static struct egress_rules allow, build;
static struct egress_pins pins;

static enum egress_verdict decide(enum plan_net net, const char *to, uint16_t port)
{
	const char *reason = NULL;
	struct egress_question q = { .net = net, .addr = addr(to), .port = port, .allow = &allow, .build = &build,
				     .pins = &pins, .now_ms = 1000 };
	enum egress_verdict v = egress_decide(&q, &reason);

	cr_expect_eq(v == EGRESS_REFUSE, reason != NULL);
	return v;
}

Test(policy, decisions)
{
	struct egress_addr pinned = addr("10.9.9.9");

	cr_assert_eq(egress_rules_add(&allow, "10.1.1.1:80", NULL), 0);
	cr_assert_eq(egress_rules_add(&build, "10.2.0.0/16", NULL), 0);
	egress_pins_add(&pins, &pinned, 443, 60, 1000);

	cr_expect_eq(decide(PLAN_NET_OPEN, "8.8.8.8", 443), EGRESS_DIAL);
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.0.0.1", 443), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_OPEN, "8.8.8.8", 0), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.1.1.1", 80), EGRESS_DIAL);
	cr_expect_eq(decide(PLAN_NET_OPEN, "::ffff:10.1.1.1", 80), EGRESS_DIAL, "the same address");
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.1.1.1", 81), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.2.1.1", 80), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_BUILD, "10.2.1.1", 80), EGRESS_DIAL);
	cr_expect_eq(decide(PLAN_NET_BUILD, "10.1.1.1", 80), EGRESS_DIAL);
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.9.9.9", 443), EGRESS_DIAL);
	cr_expect_eq(decide(PLAN_NET_OPEN, "10.9.9.9", 80), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_OPEN, STEER_PLATFORM_V4, 8080), EGRESS_PLATFORM);
	cr_expect_eq(decide(PLAN_NET_OPEN, STEER_PLATFORM_V4, 53), EGRESS_PLATFORM, "any port");
	cr_expect_eq(decide(PLAN_NET_OPEN, STEER_NAMESERVER, 53), EGRESS_DNS);
	cr_expect_eq(decide(PLAN_NET_OPEN, "8.8.8.8", 53), EGRESS_DNS);
	cr_expect_eq(decide(PLAN_NET_OPEN, STEER_NAMESERVER, 80), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_BLOCKED, "8.8.8.8", 443), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_BLOCKED, "10.1.1.1", 80), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_BLOCKED, STEER_PLATFORM_V4, 80), EGRESS_REFUSE);
	cr_expect_eq(decide(PLAN_NET_BLOCKED, STEER_NAMESERVER, 53), EGRESS_REFUSE);
	egress_rules_done(&allow);
	egress_rules_done(&build);
	egress_pins_done(&pins);
}
