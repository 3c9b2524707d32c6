#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The functions of <ctype.h> and strtod() ask the locale; these do not. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool str_eq(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

bool str_ieq(const char *a, const char *b)
{
	if (!a || !b)
		return a == b;
	while (*a && lower(*a) == lower(*b)) {
		a++;
		b++;
	}
	return *a == *b;
}

char *str_put(char *to, const char *s)
{
	size_t len = strlen(s);

	memcpy(to, s, len);
	return to + len;
}

static char *put_digits(char *to, uint64_t v, unsigned base)
{
	char digits[20];
	size_t n = sizeof(digits);

	do {
		digits[--n] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	memcpy(to, digits + n, sizeof(digits) - n);
	return to + sizeof(digits) - n;
}

char *str_put_u64(char *to, uint64_t v)
{
	return put_digits(to, v, 10);
}

char *str_put_hex(char *to, uint64_t v)
{
	return put_digits(to, v, 16);
}

bool str_starts(const char *s, const char *prefix)
{
	return s && strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
	size_t n = s ? strlen(s) : 0, m = strlen(suffix);

	return s && n >= m && memcmp(s + n - m, suffix, m) == 0;
}

int str_to_u64(const char *s, uint64_t *ret)
{
	uint64_t v = 0;

	if (str_empty(s))
		return -EINVAL;
	for (const char *p = s; *p; p++)
		if (!is_digit(*p))
			return -EINVAL;
	for (; *s; s++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	*ret = v;
	return 0;
}

int str_to_i64(const char *s, int64_t *ret)
{
	bool negative = s && *s == '-';
	uint64_t v, limit = (uint64_t)INT64_MAX + negative;
	int r = str_to_u64(negative ? s + 1 : s, &v);

	if (r < 0)
		return r;
	if (v > limit)
		return -ERANGE;
	*ret = (int64_t)(negative ? 0 - v : v);
	return 0;
}

/* Digits, then optionally a point and digits. */
static bool is_decimal(const char *s)
{
	const char *p = s;

	while (is_digit(*p))
		p++;
	if (p == s)
		return false;
	if (*p != '.')
		return *p == '\0';
	s = ++p;
	while (is_digit(*p))
		p++;
	return p > s && *p == '\0';
}

int str_to_double(const char *s, double *ret)
{
	const char *digits = s && *s == '-' ? s + 1 : s;
	double v;

	if (str_empty(digits) || !is_decimal(digits))
		return -EINVAL;
	v = strtod(s, NULL); /* the programs never call setlocale(), so the point is a point */
	if (!isfinite(v))
		return -ERANGE;
	*ret = v;
	return 0;
}

bool str_is_name(const char *s, size_t max_len)
{
	size_t n = 0;

	if (str_empty(s) || !is_alnum(s[0]))
		return false;
	for (; s[n]; n++)
		if (n >= max_len || (!is_alnum(s[n]) && !strchr("._-", s[n])))
			return false;
	return n <= max_len;
}

/* Length of the sequence that starts at s, or 0 where there is none that is valid. */
static size_t utf8_sequence(const unsigned char *s, size_t len)
{
	/* Per lead byte: how many follow, and the range of the first of them (which keeps out overlong forms,
	 * surrogates and what lies beyond U+10FFFF). */
	static const struct {
		unsigned char from, to, follow, min, max;
	} rules[] = {
		{ 0x01, 0x7f, 0, 0, 0 },       { 0xc2, 0xdf, 1, 0x80, 0xbf }, { 0xe0, 0xe0, 2, 0xa0, 0xbf },
		{ 0xe1, 0xec, 2, 0x80, 0xbf }, { 0xed, 0xed, 2, 0x80, 0x9f }, { 0xee, 0xef, 2, 0x80, 0xbf },
		{ 0xf0, 0xf0, 3, 0x90, 0xbf }, { 0xf1, 0xf3, 3, 0x80, 0xbf }, { 0xf4, 0xf4, 3, 0x80, 0x8f },
	};

	for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
		if (s[0] < rules[i].from || s[0] > rules[i].to)
			continue;
		if (rules[i].follow >= len)
			return 0;
		for (size_t k = 1; k <= rules[i].follow; k++)
			if (s[k] < (k == 1 ? rules[i].min : 0x80) || s[k] > (k == 1 ? rules[i].max : 0xbf))
				return 0;
		return 1u + rules[i].follow;
	}
	return 0;
}

bool str_is_utf8(const char *s, size_t len)
{
	size_t n;

	for (size_t i = 0; i < len; i += n) {
		n = utf8_sequence((const unsigned char *)s + i, len - i);
		if (n == 0)
			return false;
	}
	return true;
}

bool str_ct_eq(const void *a, const void *b, size_t len)
{
	const volatile unsigned char *x = a, *y = b;
	unsigned char differ = 0;

	for (size_t i = 0; i < len; i++)
		differ |= x[i] ^ y[i];
	return differ == 0;
}

uint32_t str_hash32(const char *s)
{
	uint32_t h = 2166136261u;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h;
}
