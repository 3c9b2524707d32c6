/* auth/sid.h: ids of sessions and sandboxes. The id is the route: a UUID of version 8 whose bits say which node of the
 * installation owns it, of what kind it is and which slot of the owner's table holds it, next to 74 random bits that make
 * it a secret nobody can guess. Pure functions; any thread.
 *
 *   bytes 0..3   slot, 32 bits, big endian
 *   bytes 4..5   node (12 bits), kind (4 bits)
 *   byte  6      version 8 in the high half; the rest of bytes 6..15, but for the variant's two bits, is random
 *
 * (128 = 32 + 16 + 4 version + 2 variant + 74 random.) An id that parses proves nothing: the owner compares it whole. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define SID_LEN 37 /* characters with the final NUL */
#define SID_BYTES 16
#define SID_NODE_MAX 4095

enum sid_kind { SID_SESSION = 1, SID_SANDBOX = 2, SID_INSTANCE = 3, SID_TASK = 4 };

struct sid_route {
	uint16_t node;      /* 0..SID_NODE_MAX; 0 on a single machine */
	enum sid_kind kind;
	uint32_t slot;
};

/* A new id for a place in the owner's table. Returns ret. */
char *sid_make(char ret[SID_LEN], const struct sid_route *route);
/* -EINVAL for anything but a lower- or upper-case UUID of version 8 with a known kind. s may be NULL. */
MUST_CHECK int sid_parse(const char *s, struct sid_route *ret);
/* The bytes that an id's text says, of any version; -EINVAL for what is no UUID, or NULL. */
MUST_CHECK int sid_bytes(const char *s, unsigned char ret[SID_BYTES]);
