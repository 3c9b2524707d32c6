/* tests/fuzz/script.h: an input read as a list of steps, and messages of sandbox/wire.h made of it: the head is right and fields are
 * well-formed, so that no byte is spent on what fuzz_wire.c looks for. Reading beyond the end gives zeros. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "sandbox/wire.h"

#define SCRIPT_FIELDS 16
#define SCRIPT_IDS 4 /* sandboxes that messages name */

struct script {
	const uint8_t *p, *end;
};

#define check(ok) check_at((ok), __LINE__)
static inline void check_at(bool ok, int line)
{
	if (ok)
		return;
	fprintf(stderr, "the check of line %d failed\n", line); /* a root of its own has no symbolizer */
	abort();
}

static inline uint8_t script_byte(struct script *s)
{
	return s->p < s->end ? *s->p++ : 0;
}

static inline uint64_t script_number(struct script *s, size_t bytes)
{
	uint64_t v = 0;

	while (bytes-- > 0)
		v = v << 8 | script_byte(s);
	return v;
}

/* At most len bytes of what is left; borrowed. */
static inline size_t script_take(struct script *s, size_t len, const uint8_t **ret)
{
	size_t n = MIN(len, (size_t)(s->end - s->p));

	*ret = s->p;
	s->p += n;
	return n;
}

static inline void script_id(char ret[37], unsigned n)
{
	snprintf(ret, 37, "00000000-0000-4000-8000-%012u", n % SCRIPT_IDS);
}

/* A tag, and what it holds: up to 111 bytes, a text of up to 111, a number, or one of a few ids. */
static inline void script_field(struct script *s, struct wire_out *o)
{
	enum wire_tag tag = (enum wire_tag)script_byte(s);
	uint8_t kind = script_byte(s);
	const uint8_t *bytes;
	char text[112];

	if (kind < 112) {
		size_t n = script_take(s, kind, &bytes);

		wire_put(o, tag, bytes, n);
	} else if (kind < 224) {
		size_t n = script_take(s, kind - 112u, &bytes);

		memcpy(text, bytes, n);
		text[n] = 0;
		wire_put_str(o, tag, text);
	} else if (kind < 248) {
		wire_put_u64(o, tag, script_number(s, kind % 8 + 1u));
	} else if (kind < 252) {
		wire_put_u64(o, tag, UINT64_MAX);
	} else {
		script_id(text, kind);
		wire_put_str(o, tag, text);
	}
}

static inline void script_fields(struct script *s, struct wire_out *o)
{
	for (unsigned n = script_byte(s) % SCRIPT_FIELDS; n > 0; n--)
		script_field(s, o);
}
