#include "base/random.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/types.h>

#include "base/str.h"

void random_bytes(void *p, size_t len)
{
	unsigned char *c = p;

	while (len > 0) {
		ssize_t n = getrandom(c, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			abort();
		c += n;
		len -= (size_t)n;
	}
}

uint64_t random_u64(void)
{
	uint64_t v;

	random_bytes(&v, sizeof(v));
	return v;
}

char *random_uuid(char *ret)
{
	static const unsigned char dash_before[] = { 4, 6, 8, 10 };
	unsigned char raw[16];
	size_t dash = 0;
	char *out = ret;

	random_bytes(raw, sizeof(raw));
	raw[6] = (unsigned char)((raw[6] & 0x0f) | 0x40); /* version 4 */
	raw[8] = (unsigned char)((raw[8] & 0x3f) | 0x80); /* RFC 4122 variant */
	for (size_t i = 0; i < sizeof(raw); i++) {
		if (dash < sizeof(dash_before) && dash_before[dash] == i) {
			*out++ = '-';
			dash++;
		}
		str_hex(raw + i, 1, out);
		out += 2;
	}
	return ret;
}
