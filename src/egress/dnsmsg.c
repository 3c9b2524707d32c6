#include "egress/dnsmsg.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { FLAG_QR = 0x8000, FLAG_OPCODE = 0x7800, FLAG_TC = 0x0200, FLAG_RD = 0x0100, FLAG_RA = 0x0080 };
enum { NAME_MAX_BYTES = 255, LABEL_MAX_BYTES = 63, POINTER = 0xc0 };

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* Writes a label's text at out; returns its end. At most 4 bytes for each of the label's. */
static char *write_label(char *out, const uint8_t *label, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = label[i];
		if (isalnum(c) || c == '-' || c == '_') {
			*out++ = (char)tolower(c);
			continue;
		}
		*out++ = '\\';
		*out++ = (char)('0' + c / 100);
		*out++ = (char)('0' + c / 10 % 10);
		*out++ = (char)('0' + c % 10);
	}
	return out;
}

/* A name without compression, as questions have it: its end, or 0 when malformed. text has EGRESS_DNS_NAME_TEXT bytes.
 */
static size_t read_name(const uint8_t *msg, size_t len, size_t pos, char *text)
{
	size_t start = pos;
	char *out = text;

	for (;;) {
		if (pos >= len || pos - start >= NAME_MAX_BYTES)
			return 0;
		size_t n = msg[pos++];
		if (n == 0)
			break;
		if (n > LABEL_MAX_BYTES || n > len - pos || pos + n - start >= NAME_MAX_BYTES)
			return 0;
		if (out != text)
			*out++ = '.';
		out = write_label(out, msg + pos, n);
		pos += n;
	}
	*out = '\0';
	return pos;
}

/* Over a name that may end in a pointer, which is not followed; 0 when malformed. */
static size_t skip_name(const uint8_t *msg, size_t len, size_t pos)
{
	while (pos < len) {
		size_t n = msg[pos++];
		if (n == 0)
			return pos;
		if ((n & POINTER) == POINTER)
			return pos < len ? pos + 1 : 0;
		if (n > LABEL_MAX_BYTES || n > len - pos)
			return 0;
		pos += n;
	}
	return 0;
}

int egress_dns_parse(struct egress_dns_query *ret, const void *msg, size_t len)
{
	const uint8_t *p = msg;

	if (len < EGRESS_DNS_HEADER || len > EGRESS_DNS_MAX || get16(p + 2) & FLAG_QR)
		return -EBADMSG;
	memset(ret, 0, sizeof(*ret));
	ret->id = get16(p);
	ret->end = EGRESS_DNS_HEADER;
	if (get16(p + 2) & FLAG_OPCODE)
		return EGRESS_DNS_NOTIMP;
	if (get16(p + 4) != 1)
		return EGRESS_DNS_FORMERR;
	size_t end = read_name(p, len, EGRESS_DNS_HEADER, ret->name);
	if (end == 0 || len - end < 4) {
		ret->name[0] = '\0';
		return EGRESS_DNS_FORMERR;
	}
	ret->type = get16(p + end);
	ret->class = get16(p + end + 2);
	ret->end = end + 4;
	return 0;
}

/* Header and question of an answer; n_answers records are to follow. */
static size_t begin_answer(const void *msg, const struct egress_dns_query *q, enum egress_dns_rcode code,
			   uint16_t n_answers, uint8_t *ret)
{
	const uint8_t *p = msg;
	uint16_t flags = (uint16_t)(FLAG_QR | FLAG_RA | (get16(p + 2) & (FLAG_OPCODE | FLAG_RD)) | code);

	memcpy(ret, p, q->end);
	put16(ret + 2, flags);
	put16(ret + 4, q->end > EGRESS_DNS_HEADER ? 1 : 0);
	put16(ret + 6, n_answers);
	put16(ret + 8, 0);
	put16(ret + 10, 0);
	return q->end;
}

size_t egress_dns_answer_code(const void *msg, const struct egress_dns_query *q, enum egress_dns_rcode code,
			      uint8_t *ret)
{
	return begin_answer(msg, q, code, 0, ret);
}

size_t egress_dns_answer_v4(const void *msg, const struct egress_dns_query *q, const struct egress_addr *a,
			    uint32_t ttl_s, uint8_t *ret)
{
	size_t len = begin_answer(msg, q, EGRESS_DNS_NOERROR, 1, ret);
	uint8_t *p = ret + len;

	put16(p, POINTER << 8 | EGRESS_DNS_HEADER); /* the question's name */
	put16(p + 2, EGRESS_DNS_A);
	put16(p + 4, EGRESS_DNS_IN);
	put16(p + 6, (uint16_t)(ttl_s >> 16));
	put16(p + 8, (uint16_t)ttl_s);
	put16(p + 10, 4);
	memcpy(p + 12, a->bytes, 4);
	return len + 16;
}

bool egress_dns_is_answer(const void *reply, size_t reply_len, uint16_t id, const void *msg,
			  const struct egress_dns_query *q)
{
	const uint8_t *r = reply, *m = msg;

	if (reply_len < q->end || get16(r) != id || !(get16(r + 2) & FLAG_QR) || get16(r + 4) != 1)
		return false;
	/* Length bytes are below 64, so lowering letters leaves them alone. */
	for (size_t i = EGRESS_DNS_HEADER; i < q->end; i++)
		if (r[i] != m[i] && (i + 4 >= q->end || tolower(r[i]) != tolower(m[i])))
			return false;
	return true;
}

bool egress_dns_is_truncated(const void *reply, size_t len)
{
	return len >= EGRESS_DNS_HEADER && get16((const uint8_t *)reply + 2) & FLAG_TC;
}

bool egress_dns_is_refusal(const void *reply, size_t len)
{
	unsigned code = len >= EGRESS_DNS_HEADER ? ((const uint8_t *)reply)[3] & 0x0f : 0;

	return code == 2 || code == 4 || code == 5; /* RFC 1035, 4.1.1 */
}

void egress_dns_set_id(void *msg, uint16_t id)
{
	put16(msg, id);
}

/* One record at pos: its end, or 0 when malformed. */
static size_t read_record(const uint8_t *p, size_t len, size_t pos, egress_dns_record_fn *fn, void *arg)
{
	struct egress_addr a;

	pos = skip_name(p, len, pos);
	if (pos == 0 || len - pos < 10)
		return 0;
	uint16_t type = get16(p + pos), class = get16(p + pos + 2), size = get16(p + pos + 8);
	uint32_t ttl_s = get32(p + pos + 4);
	pos += 10;
	if (size > len - pos)
		return 0;
	uint64_t family = type == EGRESS_DNS_A ? 4 : type == EGRESS_DNS_AAAA ? 6 : 0;
	if (class == EGRESS_DNS_IN && egress_addr_from_bytes(family, p + pos, size, &a) == 0)
		fn(&a, ttl_s, arg);
	return pos + size;
}

void egress_dns_records(const void *reply, size_t len, egress_dns_record_fn *fn, void *arg)
{
	const uint8_t *p = reply;
	size_t pos = EGRESS_DNS_HEADER;

	if (len < EGRESS_DNS_HEADER)
		return;
	for (unsigned n = get16(p + 4); n > 0; n--) {
		pos = skip_name(p, len, pos);
		if (pos == 0 || len - pos < 4)
			return;
		pos += 4;
	}
	for (unsigned n = get16(p + 6); n > 0 && pos > 0; n--)
		pos = read_record(p, len, pos, fn, arg);
}
