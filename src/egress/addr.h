/* egress/addr.h: an IP address as a value. Pure functions, any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/macros.h"

struct egress_addr {
	uint8_t family;    /* 4, 6, or 0 = none: the numbers of the wire's FAMILY */
	uint8_t bytes[16]; /* network order; of IPv4 the first four, the rest zero */
};

#define EGRESS_ADDR_TEXT 46 /* bytes of the longest text with its NUL */

/* "192.0.2.1", "2001:db8::1", without brackets, port or zone. -EINVAL otherwise; *ret is then untouched. */
MUST_CHECK int egress_addr_parse(const char *text, struct egress_addr *ret);
/* From the wire: len must be 4 for family 4 and 16 for family 6, else -EINVAL. */
MUST_CHECK int egress_addr_from_bytes(uint64_t family, const void *p, size_t len, struct egress_addr *ret);
/* -EAFNOSUPPORT for what is neither AF_INET nor AF_INET6. */
MUST_CHECK int egress_addr_from_sockaddr(const struct sockaddr *sa, struct egress_addr *ret);
/* Fills *ret and returns its length. port in host order. a->family must not be 0. */
socklen_t egress_addr_to_sockaddr(const struct egress_addr *a, uint16_t port, struct sockaddr_storage *ret);
/* Into ret[EGRESS_ADDR_TEXT]; "-" for family 0. Returns ret. */
const char *egress_addr_text(const struct egress_addr *a, char *ret);

bool egress_addr_eq(const struct egress_addr *a, const struct egress_addr *b);
/* True when the first bits of both are the same; always false for different families. bits: 0..32 or 0..128. */
bool egress_addr_in(const struct egress_addr *a, const struct egress_addr *net, unsigned bits);
/* IPv4 inside ::ffff:0:0/96 becomes that IPv4; everything else stays. */
struct egress_addr egress_addr_unmap(const struct egress_addr *a);
