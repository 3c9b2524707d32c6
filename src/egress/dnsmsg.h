/* egress/dnsmsg.h: as much of the DNS message format (RFC 1035) as a forwarder needs. No I/O, no allocation; no
 * function reads outside the bytes it is given, whatever they are (fuzzed: tests/fuzz/dns.c). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "egress/addr.h"

#define EGRESS_DNS_MAX 65535    /* bytes in a message */
#define EGRESS_DNS_HEADER 12
#define EGRESS_DNS_NAME_TEXT 1025 /* a name of 255 bytes, each escaped as \ddd, with its NUL */
#define EGRESS_DNS_SHORT_MAX 512  /* room that every function which writes an answer of ours needs */

enum egress_dns_type { EGRESS_DNS_A = 1, EGRESS_DNS_AAAA = 28 };
enum egress_dns_class { EGRESS_DNS_IN = 1 };
enum egress_dns_rcode {
	EGRESS_DNS_NOERROR = 0, EGRESS_DNS_FORMERR = 1, EGRESS_DNS_SERVFAIL = 2, EGRESS_DNS_NXDOMAIN = 3,
	EGRESS_DNS_NOTIMP = 4, EGRESS_DNS_REFUSED = 5,
};

struct egress_dns_query {
	uint16_t id;
	uint16_t type;     /* enum egress_dns_type and others */
	uint16_t class;
	size_t end;        /* bytes of header and question together: where the question ends */
	/* Lower case, dots between labels, no final dot ("" = the root). A byte that is neither a letter, a digit, '-'
	 * nor
	 * '_' is written \ddd, so that a dot inside a label cannot pass for one between two. */
	char name[EGRESS_DNS_NAME_TEXT];
};

/* 0; or a positive enum egress_dns_rcode to answer with (then ret->id is set and ret->end is EGRESS_DNS_HEADER); or
 * -EBADMSG for what is no query at all and must not be answered, lest two servers talk for ever. */
MUST_CHECK int egress_dns_parse(struct egress_dns_query *ret, const void *msg, size_t len);

/* Answers to a query (whose header and question are copied from msg), into ret of at least EGRESS_DNS_SHORT_MAX bytes.
 * Each returns the length. */
size_t egress_dns_answer_code(const void *msg, const struct egress_dns_query *q, enum egress_dns_rcode code,
			      uint8_t *ret);
size_t egress_dns_answer_v4(const void *msg, const struct egress_dns_query *q, const struct egress_addr *a,
			    uint32_t ttl_s, uint8_t *ret);

/* True when reply answers msg asked with the identifier id: same question (letters' case may differ), one of them. */
bool egress_dns_is_answer(const void *reply, size_t reply_len, uint16_t id, const void *msg,
			  const struct egress_dns_query *q);
bool egress_dns_is_truncated(const void *reply, size_t len);
bool egress_dns_is_refusal(const void *reply, size_t len); /* SERVFAIL, NOTIMP or REFUSED: no answer to what was asked */

/* The identifier is the first field of every message. len >= 2. */
void egress_dns_set_id(void *msg, uint16_t id);

/* Calls fn for every A and AAAA record of the answer section, in order; stops at the first that is malformed. */
typedef void egress_dns_record_fn(const struct egress_addr *a, uint32_t ttl_s, void *arg);
void egress_dns_records(const void *reply, size_t len, egress_dns_record_fn *fn, void *arg);
