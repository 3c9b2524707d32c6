/* base/str.h, second part: hex, base64, percent-encoding. */
#include <errno.h>
#include <string.h>

#include "base/str.h"

void str_hex(const void *p, size_t len, char *ret)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *c = p;

	for (size_t i = 0; i < len; i++) {
		*ret++ = digits[c[i] >> 4];
		*ret++ = digits[c[i] & 15];
	}
	*ret = '\0';
}

int str_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int str_unhex(const char *s, void *ret, size_t len)
{
	unsigned char *out = ret;

	if (strlen(s) != 2 * len)
		return -EINVAL;
	for (size_t i = 0; i < 2 * len; i++)
		if (str_hex_digit(s[i]) < 0)
			return -EINVAL;
	for (size_t i = 0; i < len; i++)
		out[i] = (unsigned char)((unsigned)str_hex_digit(s[2 * i]) << 4 | (unsigned)str_hex_digit(s[2 * i + 1]));
	return 0;
}

int str_base64_append(struct buf *b, const void *p, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *c = p;
	size_t size = (len / 3 + (len % 3 != 0)) * 4;
	char *to;
	int r = buf_reserve(b, size, &to);

	if (r < 0)
		return r;
	for (size_t i = 0; i < len; i += 3) {
		size_t n = MIN(len - i, (size_t)3);
		uint32_t v = (uint32_t)c[i] << 16 | (n > 1 ? (uint32_t)c[i + 1] << 8 : 0) | (n > 2 ? c[i + 2] : 0);

		*to++ = digits[v >> 18];
		*to++ = digits[v >> 12 & 63];
		*to++ = n > 1 ? digits[v >> 6 & 63] : '=';
		*to++ = n > 2 ? digits[v & 63] : '=';
	}
	buf_commit(b, size);
	return 0;
}

static int base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

/* Four digits, of which the last n_pad are '='; the bits that padding leaves over must be zero, so that every content
 * has exactly one encoding. */
static int base64_group(const char *s, int n_pad, unsigned char *out)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++) {
		int d = i < 4 - n_pad ? base64_digit(s[i]) : 0;

		if (d < 0)
			return -EINVAL;
		v = v << 6 | (uint32_t)d;
	}
	if (v & ((1u << 8 * n_pad) - 1))
		return -EINVAL;
	for (int i = 0; i < 3 - n_pad; i++)
		out[i] = (unsigned char)(v >> (16 - 8 * i));
	return 0;
}

int str_base64_decode(struct buf *ret, const char *s, size_t len)
{
	int n_pad = 0, r;
	size_t size;
	char *to;

	if (len % 4 != 0)
		return -EINVAL;
	if (len > 0)
		n_pad = s[len - 1] != '=' ? 0 : s[len - 2] != '=' ? 1 : 2;
	size = len / 4 * 3 - (size_t)n_pad;
	r = buf_reserve(ret, size, &to);
	for (size_t i = 0; r == 0 && i < len; i += 4)
		r = base64_group(s + i, i + 4 == len ? n_pad : 0, (unsigned char *)to + i / 4 * 3);
	if (r < 0) {
		if (ret->base)
			ret->data[ret->len] = '\0'; /* half-decoded bytes were written past the end */
		return r;
	}
	buf_commit(ret, size);
	return 0;
}

/* One byte of the input at s, which may be an escape; returns how many bytes it took, or -EINVAL. */
static int percent_byte(const char *s, size_t len, bool form, char *ret)
{
	int hi, lo;

	if (*s != '%') {
		*ret = form && *s == '+' ? ' ' : *s;
		return *s ? 1 : -EINVAL;
	}
	if (len < 3)
		return -EINVAL;
	hi = str_hex_digit(s[1]);
	lo = str_hex_digit(s[2]);
	if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
		return -EINVAL;
	*ret = (char)(hi << 4 | lo);
	return 3;
}

int str_percent_decode(struct buf *ret, const char *s, size_t len, bool form)
{
	size_t out = 0;
	char *to;
	int r = 0;

	/* Never longer than the input; asked for at once so that a failure leaves the buffer unchanged. */
	auto_buf struct buf tmp = { 0 };
	buf_init(&tmp, len);
	r = buf_reserve(&tmp, len, &to);
	for (size_t i = 0; r >= 0 && i < len; i += (size_t)r) {
		r = percent_byte(s + i, len - i, form, to + out++);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : buf_append(ret, to, out);
}

static bool is_unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c != '\0' && strchr("-._~", c));
}

int str_percent_encode(struct buf *ret, const char *s)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t size = 0;
	char *to;
	int r;

	for (const char *p = s; *p; p++)
		size += is_unreserved(*p) ? 1 : 3;
	r = buf_reserve(ret, size, &to);
	if (r < 0)
		return r;
	for (; *s; s++) {
		if (is_unreserved(*s)) {
			*to++ = *s;
			continue;
		}
		*to++ = '%';
		*to++ = digits[(unsigned char)*s >> 4];
		*to++ = digits[(unsigned char)*s & 15];
	}
	buf_commit(ret, size);
	return 0;
}
