/* Whatever bytes come, egress's DNS parser reads only them, and its answers parse as what they are. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "egress/dnsmsg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(const struct egress_addr *a, uint32_t ttl_s UNUSED, void *arg)
{
	if (a->family != 4 && a->family != 6)
		abort();
	(*(size_t *)arg)++;
}

static void check_answer(const uint8_t *msg, const struct egress_dns_query *q, const uint8_t *reply, size_t len, size_t records)
{
	size_t n = 0;

	if (len < EGRESS_DNS_HEADER || len > EGRESS_DNS_SHORT_MAX || !(reply[2] & 0x80))
		abort();
	if (q->end > EGRESS_DNS_HEADER && !egress_dns_is_answer(reply, len, q->id, msg, q))
		abort();
	egress_dns_records(reply, len, count, &n);
	if (n != records)
		abort();
}

static void check_query(const uint8_t *data, size_t size, const struct egress_dns_query *q, int code)
{
	const struct egress_addr a = { .family = 4, .bytes = { 198, 18, 0, 80 } };
	uint8_t reply[EGRESS_DNS_SHORT_MAX];

	if (q->end > size || strlen(q->name) >= sizeof(q->name))
		abort();
	size_t len = egress_dns_answer_code(data, q, code ? (enum egress_dns_rcode)code : EGRESS_DNS_SERVFAIL, reply);
	check_answer(data, q, reply, len, 0);
	if (code == 0) {
		len = egress_dns_answer_v4(data, q, &a, 60, reply);
		check_answer(data, q, reply, len, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct egress_dns_query q;
	size_t n = 0;
	int r = egress_dns_parse(&q, data, size);

	if (r >= 0)
		check_query(data, size, &q, r);
	/* The second half as an answer to the first. */
	size_t half = size / 2;
	if (egress_dns_parse(&q, data, half) == 0)
		egress_dns_is_answer(data + half, size - half, q.id, data, &q);
	egress_dns_is_truncated(data, size);
	egress_dns_records(data, size, count, &n);
	return 0;
}
