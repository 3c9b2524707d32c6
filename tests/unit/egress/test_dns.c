#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "egress/dnsmsg.h"
#include "egress/hosts.h"
#include "egress/resolver.h"

/* -- messages ---------------------------------------------------------------------------------------------------- */
/* A question for a.Bc.d of a type; its length. */
static size_t question(uint8_t *q, uint16_t type)
{
	static const uint8_t bytes[] = { 0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 2, 'B', 'c', 1, 'd', 0, 0, 0, 0, 1 };

	memcpy(q, bytes, sizeof(bytes));
	q[20] = (uint8_t)(type >> 8);
	q[21] = (uint8_t)type;
	return sizeof(bytes);
}

Test(dns, a_query_is_read)
{
	struct egress_dns_query q;
	uint8_t msg[64];
	size_t len = question(msg, EGRESS_DNS_AAAA);

	cr_assert_eq(egress_dns_parse(&q, msg, len), 0);
	cr_expect_eq(q.id, 0xabcd);
	cr_expect_str_eq(q.name, "a.bc.d");
	cr_expect_eq(q.type, EGRESS_DNS_AAAA);
	cr_expect_eq(q.class, EGRESS_DNS_IN);
	cr_expect_eq(q.end, len);
	/* Bytes behind the question (EDNS) are allowed. */
	cr_expect_eq(egress_dns_parse(&q, msg, len + 11), 0);
	cr_expect_eq(q.end, len);
}

Test(dns, odd_bytes_in_names_cannot_pass_for_others)
{
	uint8_t msg[64];
	struct egress_dns_query q;
	size_t len = question(msg, 1);

	msg[15] = '.';
	msg[16] = '\0';
	cr_assert_eq(egress_dns_parse(&q, msg, len), 0);
	cr_expect_str_eq(q.name, "a.\\046\\000.d");
}

Test(dns, what_is_malformed_is_told_or_dropped)
{
	uint8_t msg[64];
	struct egress_dns_query q;
	size_t len = question(msg, 1);

	for (size_t n = 0; n < EGRESS_DNS_HEADER; n++)
		cr_expect_eq(egress_dns_parse(&q, msg, n), -EBADMSG, "%zu bytes", n);
	for (size_t n = EGRESS_DNS_HEADER; n < len; n++) {
		/* In memory of just that size, so that a sanitizer sees a read beyond. */
		auto_free void *exact = xmemdup(msg, n);
		cr_expect_eq(egress_dns_parse(&q, exact, n), EGRESS_DNS_FORMERR, "%zu bytes", n);
		cr_expect_eq(q.end, EGRESS_DNS_HEADER);
	}
	msg[2] = 0x81;
	cr_expect_eq(egress_dns_parse(&q, msg, len), -EBADMSG, "an answer is not answered");
	msg[2] = 0x29;
	cr_expect_eq(egress_dns_parse(&q, msg, len), EGRESS_DNS_NOTIMP);
	msg[2] = 1;
	msg[5] = 2;
	cr_expect_eq(egress_dns_parse(&q, msg, len), EGRESS_DNS_FORMERR, "two questions");
	msg[5] = 1;
	msg[12] = 0xc0;
	cr_expect_eq(egress_dns_parse(&q, msg, len), EGRESS_DNS_FORMERR, "a pointer in a question");
}

/* 255 bytes with all lengths and the end is the limit. */
Test(dns, the_longest_name)
{
	uint8_t msg[512] = { 0, 1, 1, 0, 0, 1 };
	struct egress_dns_query q;
	size_t pos = 12;

	for (int i = 0; i < 4; i++) {
		size_t n = i < 3 ? 63 : 61;
		msg[pos++] = (uint8_t)n;
		memset(msg + pos, 0xff, n);
		pos += n;
	}
	msg[pos++] = 0;
	cr_assert_eq(pos - 12, 255);
	cr_expect_eq(egress_dns_parse(&q, msg, pos + 4), 0);
	cr_expect_eq(strlen(q.name), 250 * 4 + 3);
	msg[12 + 3 * 64] = 62;
	cr_expect_eq(egress_dns_parse(&q, msg, pos + 5), EGRESS_DNS_FORMERR);
	msg[12] = 64;
	cr_expect_eq(egress_dns_parse(&q, msg, pos + 4), EGRESS_DNS_FORMERR);
}

static void remember(const struct egress_addr *a, uint32_t ttl_s, void *arg)
{
	char text[EGRESS_ADDR_TEXT];

	snprintf((char *)arg + strlen(arg), 200 - strlen(arg), "%s %u;", egress_addr_text(a, text), ttl_s);
}

Test(dns, our_answers)
{
	uint8_t msg[64], reply[EGRESS_DNS_SHORT_MAX];
	struct egress_dns_query q;
	struct egress_addr a = { .family = 4, .bytes = { 198, 18, 0, 80 } };
	char text[200] = "";
	size_t len = question(msg, 1);

	cr_assert_eq(egress_dns_parse(&q, msg, len), 0);
	cr_assert_eq(egress_dns_answer_v4(msg, &q, &a, 70000, reply), len + 16);
	cr_expect(egress_dns_is_answer(reply, len + 16, 0xabcd, msg, &q));
	egress_dns_records(reply, len + 16, remember, text);
	cr_expect_str_eq(text, "198.18.0.80 70000;");
	cr_assert_eq(egress_dns_answer_code(msg, &q, EGRESS_DNS_REFUSED, reply), len);
	cr_expect_eq(reply[2], 0x81, "an answer; recursion was desired");
	cr_expect_eq(reply[3], 0x85, "recursion is available; REFUSED");
}

Test(dns, records_of_a_compressed_answer)
{
	uint8_t msg[128];
	char text[200] = "";
	size_t len = question(msg, 1);
	static const uint8_t records[] = {
		0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 'x', 0xc0, 12,                               /* CNAME x */
		0xc0, 36, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 10, 1, 2, 3,                                     /* A */
		1, 'y', 0, 0, 28, 0, 1, 0, 0, 0, 7, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, /* AAAA */
		0xc0, 12, 0, 1, 0, 3, 0, 0, 0, 1, 0, 4, 9, 9, 9, 9,                                      /* A of class CHAOS */
		0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 3, 9, 9, 9,                                         /* A of 3 bytes */
	};

	memcpy(msg + len, records, sizeof(records));
	msg[2] = 0x81;
	msg[7] = 5;
	egress_dns_records(msg, len + sizeof(records), remember, text);
	cr_expect_str_eq(text, "10.1.2.3 256;fd00::1 7;");
	for (size_t n = 0; n < len + sizeof(records); n++) {
		auto_free void *exact = xmemdup(msg, n);
		text[0] = '\0';
		egress_dns_records(exact, n, remember, text);
	}
}

Test(dns, only_the_right_answer_counts)
{
	uint8_t msg[64], reply[64];
	struct egress_dns_query q;
	size_t len = question(msg, 1);

	cr_assert_eq(egress_dns_parse(&q, msg, len), 0);
	memcpy(reply, msg, len);
	cr_expect_not(egress_dns_is_answer(reply, len, 0xabcd, msg, &q), "a question");
	reply[2] |= 0x80;
	cr_expect(egress_dns_is_answer(reply, len, 0xabcd, msg, &q));
	cr_expect_not(egress_dns_is_answer(reply, len, 0xabce, msg, &q), "another identifier");
	cr_expect_not(egress_dns_is_answer(reply, len - 1, 0xabcd, msg, &q), "cut");
	reply[13] = 'A';
	cr_expect(egress_dns_is_answer(reply, len, 0xabcd, msg, &q), "letters' case");
	reply[13] = 'b';
	cr_expect_not(egress_dns_is_answer(reply, len, 0xabcd, msg, &q), "another name");
	reply[13] = 'a';
	reply[21] = 28;
	cr_expect_not(egress_dns_is_answer(reply, len, 0xabcd, msg, &q), "another type");
}

/* -- resolv.conf and hosts --------------------------------------------------------------------------------------- */
Test(dns, servers_of_resolv_conf)
{
	struct egress_resolver r = { 0 };
	char text[EGRESS_ADDR_TEXT];

	cr_assert_eq(egress_resolver_parse(&r, "# nameserver 1.1.1.1\nsearch x.test\n nameserver\t10.0.0.53 # here\n"
					       "nameserver fe80::1%lo\r\nnameserver junk\nnameservers 4.4.4.4\n"
					       "nameserver 9.9.9.9\nnameserver 8.8.8.8\n"), 3);
	cr_expect_str_eq(egress_addr_text(&r.servers[0].addr, text), "10.0.0.53");
	cr_expect_str_eq(egress_addr_text(&r.servers[1].addr, text), "fe80::1");
	cr_expect_gt(r.servers[1].scope, 0);
	cr_expect_str_eq(egress_addr_text(&r.servers[2].addr, text), "9.9.9.9");
	cr_assert_eq(egress_resolver_parse(&r, ""), 1);
	cr_expect_str_eq(egress_addr_text(&r.servers[0].addr, text), "127.0.0.1");
	cr_expect_eq(r.servers[0].port, 53);
}

Test(dns, servers_of_the_command_line)
{
	static const char *const bad[] = { "", "host", "1.2.3.4:0", "1.2.3.4:x", "1.2.3.4:65536", "[::1", "::1:53:" };
	struct egress_resolver r;
	struct err err = ERR_INIT;

	egress_resolver_init(&r, NULL, "/nonexistent");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		cr_expect_eq(egress_resolver_add(&r, bad[i], &err), -EINVAL, "'%s'", bad[i]);
		cr_expect_not_null(strstr(err.msg, bad[i]));
	}
	cr_expect_eq(egress_resolver_add(&r, "1.2.3.4", &err), 0);
	cr_expect_eq(egress_resolver_add(&r, "1.2.3.4:5353", &err), 0);
	cr_expect_eq(egress_resolver_add(&r, "[::1]:54", &err), 0);
	cr_expect_eq(egress_resolver_add(&r, "::1", &err), -E2BIG);
	cr_expect_eq(r.servers[0].port, 53);
	cr_expect_eq(r.servers[1].port, 5353);
	cr_expect_eq(r.servers[2].port, 54);
	cr_expect_eq(r.servers[2].addr.family, 6);
}

Test(dns, names_of_a_hosts_file)
{
	static const char text[] = "127.0.0.1 localhost mirror\n# 10.0.0.9 mirror\n10.0.0.1\tbox Mirror mirror.test # x other\n"
				   "10.0.0.2 mirror\nfd00::1 mirror\njunk mirror\n10.0.0.3";
	struct egress_addr a[4];
	char out[EGRESS_ADDR_TEXT];

	cr_assert_eq(egress_hosts_find(text, "mirror", 4, a, 4), 2);
	cr_expect_str_eq(egress_addr_text(&a[0], out), "10.0.0.1");
	cr_assert_eq(egress_hosts_find(text, "mirror", 6, a, 4), 1);
	cr_expect_str_eq(egress_addr_text(&a[0], out), "fd00::1");
	cr_expect_eq(egress_hosts_find(text, "mirror", 4, a, 1), 1);
	cr_expect_eq(egress_hosts_find(text, "localhost", 4, a, 4), 0, "loopback would be the sandbox itself");
	cr_expect_eq(egress_hosts_find(text, "other", 4, a, 4), 0);
	cr_expect_eq(egress_hosts_find(text, "irror", 4, a, 4), 0);
	cr_expect_eq(egress_hosts_find_file("/nonexistent/hosts", "mirror", 4, a, 4), 0);
}
