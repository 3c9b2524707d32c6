#include "auth/sid.h"

#include <errno.h>
#include <string.h>

#include "base/random.h"
#include "base/str.h"

static const unsigned char dash_after[] = { 4, 6, 8, 10 }; /* bytes written before each dash */

char *sid_make(char ret[SID_LEN], const struct sid_route *route)
{
	unsigned char b[16];
	char *p = ret;
	size_t dash = 0;

	random_bytes(b, sizeof(b));
	b[0] = (unsigned char)(route->slot >> 24);
	b[1] = (unsigned char)(route->slot >> 16);
	b[2] = (unsigned char)(route->slot >> 8);
	b[3] = (unsigned char)route->slot;
	b[4] = (unsigned char)(route->node >> 4);
	b[5] = (unsigned char)((route->node & 0xf) << 4 | (route->kind & 0xf));
	b[6] = (unsigned char)(0x80 | (b[6] & 0x0f));
	b[8] = (unsigned char)(0x80 | (b[8] & 0x3f));
	for (size_t i = 0; i < sizeof(b); i++) {
		if (dash < ARRAY_LEN(dash_after) && i == dash_after[dash]) {
			*p++ = '-';
			dash++;
		}
		str_hex(&b[i], 1, p);
		p += 2;
	}
	return ret;
}

int sid_bytes(const char *s, unsigned char ret[SID_BYTES])
{
	char hex[2 * SID_BYTES + 1];
	size_t n = 0;

	if (!s || strlen(s) != SID_LEN - 1)
		return -EINVAL;
	for (size_t i = 0; i < SID_LEN - 1; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash != (s[i] == '-'))
			return -EINVAL;
		if (!dash)
			hex[n++] = s[i] >= 'A' && s[i] <= 'F' ? (char)(s[i] - 'A' + 'a') : s[i];
	}
	hex[n] = '\0';
	return str_unhex(hex, ret, SID_BYTES);
}

int sid_parse(const char *s, struct sid_route *ret)
{
	unsigned char b[SID_BYTES];

	if (sid_bytes(s, b) < 0)
		return -EINVAL;
	unsigned kind = b[5] & 0xf;
	if (b[6] >> 4 != 8 || b[8] >> 6 != 2 || kind < SID_SESSION || kind > SID_TASK)
		return -EINVAL;
	*ret = (struct sid_route){
		.slot = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3],
		.node = (uint16_t)(b[4] << 4 | b[5] >> 4),
		.kind = (enum sid_kind)kind,
	};
	return 0;
}
