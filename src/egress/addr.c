#include "egress/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

int egress_addr_parse(const char *text, struct egress_addr *ret)
{
	struct egress_addr a = { 0 };

	if (inet_pton(AF_INET, text, a.bytes) == 1)
		a.family = 4;
	else if (inet_pton(AF_INET6, text, a.bytes) == 1)
		a.family = 6;
	else
		return -EINVAL;
	*ret = a;
	return 0;
}

int egress_addr_from_bytes(uint64_t family, const void *p, size_t len, struct egress_addr *ret)
{
	struct egress_addr a = { .family = (uint8_t)family };

	if (!p || !((family == 4 && len == 4) || (family == 6 && len == 16)))
		return -EINVAL;
	memcpy(a.bytes, p, len);
	*ret = a;
	return 0;
}

int egress_addr_from_sockaddr(const struct sockaddr *sa, struct egress_addr *ret)
{
	if (sa->sa_family == AF_INET)
		return egress_addr_from_bytes(4, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4, ret);
	if (sa->sa_family == AF_INET6)
		return egress_addr_from_bytes(6, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16, ret);
	return -EAFNOSUPPORT;
}

socklen_t egress_addr_to_sockaddr(const struct egress_addr *a, uint16_t port, struct sockaddr_storage *ret)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

	memset(ret, 0, sizeof(*ret));
	if (a->family == 4) {
		memcpy(&v4.sin_addr, a->bytes, 4);
		memcpy(ret, &v4, sizeof(v4));
		return sizeof(v4);
	}
	memcpy(&v6.sin6_addr, a->bytes, 16);
	memcpy(ret, &v6, sizeof(v6));
	return sizeof(v6);
}

const char *egress_addr_text(const struct egress_addr *a, char *ret)
{
	if (a->family == 0 || !inet_ntop(a->family == 4 ? AF_INET : AF_INET6, a->bytes, ret, EGRESS_ADDR_TEXT))
		memcpy(ret, "-", 2);
	return ret;
}

bool egress_addr_eq(const struct egress_addr *a, const struct egress_addr *b)
{
	return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool egress_addr_in(const struct egress_addr *a, const struct egress_addr *net, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	if (a->family != net->family || memcmp(a->bytes, net->bytes, whole) != 0)
		return false;
	return rest == 0 || (a->bytes[whole] ^ net->bytes[whole]) >> (8 - rest) == 0;
}

struct egress_addr egress_addr_unmap(const struct egress_addr *a)
{
	static const struct egress_addr mapped = { .family = 6, .bytes = { [10] = 0xff, [11] = 0xff } };
	struct egress_addr v4 = { .family = 4 };

	if (!egress_addr_in(a, &mapped, 96))
		return *a;
	memcpy(v4.bytes, a->bytes + 12, 4);
	return v4;
}
