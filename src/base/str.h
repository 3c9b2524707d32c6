/* base/str.h: strings: comparison, strict parsing of numbers, base64, hex, percent-encoding, constant-time equality.
 * Pure functions; no locale. Everything that parses refuses trailing bytes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

static inline bool str_empty(const char *s) { return !s || !*s; }
bool str_eq(const char *a, const char *b);          /* NULL equals NULL only */
bool str_ieq(const char *a, const char *b);         /* ASCII case ignored */
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);

/* Decimal without sign, blanks or leading '+'; -EINVAL or -ERANGE. */
MUST_CHECK int str_to_u64(const char *s, uint64_t *ret);
MUST_CHECK int str_to_i64(const char *s, int64_t *ret); /* a leading '-' is allowed */
MUST_CHECK int str_to_double(const char *s, double *ret); /* finite decimal: "0.5", "16"; no exponent, no hex */

/* Whole numbers with a unit ("250ms", "30s", "15m", "24h", "7d"; "50000", "64KiB", "2GiB", "1TiB"); a bare 0 needs none.
 * -EINVAL, -ERANGE. */
MUST_CHECK int str_to_duration(const char *s, uint64_t *ret_ms);
MUST_CHECK int str_to_bytes(const char *s, uint64_t *ret_bytes);
/* "CPU:GIB", as in "1:2" or "0.5:1" -> 1000 and 2 GiB; at least 0.01 and 0.05, at most 4096 and 65536. -EINVAL. */
MUST_CHECK int str_to_machine(const char *s, uint64_t *ret_cpu_milli, uint64_t *ret_memory_bytes);

/* True when every byte is in [A-Za-z0-9._-], the first is alphanumeric and the length is 1..max: the rule for names
 * of namespaces, environments and everything that becomes a path component. */
bool str_is_name(const char *s, size_t max_len);
bool str_is_utf8(const char *s, size_t len); /* strict: no surrogates, no overlong forms, no NUL */

/* Write to where the caller has room, and return the end of what was written; no NUL. */
char *str_put(char *to, const char *s);
char *str_put_u64(char *to, uint64_t v); /* decimal: at most 20 characters */
char *str_put_hex(char *to, uint64_t v); /* lower case, no zeros in front: at most 16 characters */

void str_hex(const void *p, size_t len, char *ret); /* writes 2*len+1 bytes, lower case */
int str_hex_digit(char c);                           /* its value; -1 = not one of 0-9, a-f, A-F */
MUST_CHECK int str_unhex(const char *s, void *ret, size_t len); /* exactly 2*len digits */

/* FNV-1a, 32 bits: short and the same everywhere, not safe against those who choose the text. Of DATA's real path it is, in
 * hex after "orw-", what everything of one platform is called where machines share names (cgroups). */
uint32_t str_hash32(const char *s);

/* Standard base64 with padding (RFC 4648, section 4). */
MUST_CHECK int str_base64_append(struct buf *b, const void *p, size_t len);
MUST_CHECK int str_base64_decode(struct buf *ret, const char *s, size_t len);

/* Percent-decoding of len bytes; '+' becomes a blank where form is set. -EINVAL for a bad escape or a decoded NUL. */
MUST_CHECK int str_percent_decode(struct buf *ret, const char *s, size_t len, bool form);
MUST_CHECK int str_percent_encode(struct buf *ret, const char *s); /* keeps RFC 3986 unreserved bytes only */

/* Compares len bytes in time that depends on len alone. */
bool str_ct_eq(const void *a, const void *b, size_t len);
