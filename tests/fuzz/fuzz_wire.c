/* Whatever bytes come: what parses can be read field by field, encoded again, and parses to the same. */
#include <stdlib.h>
#include <string.h>

#include "sandbox/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(8) char out[WIRE_MAX];
static volatile unsigned char sink;

static void read_all(const struct wire_in *in, unsigned int tag, struct wire_out *o)
{
	size_t n = wire_count(in, (enum wire_tag)tag);

	for (size_t i = 0; i < n; i++) {
		size_t len = 0;
		const unsigned char *p = wire_get(in, (enum wire_tag)tag, i, &len);
		const char *s = wire_get_str(in, (enum wire_tag)tag, i);

		if (!p || (s && strlen(s) + 1 != len))
			abort();
		for (size_t k = 0; k < len; k++)
			sink ^= p[k];
		wire_put(o, (enum wire_tag)tag, p, len);
	}
	if (wire_get(in, (enum wire_tag)tag, n, &(size_t){ 0 }))
		abort();
	wire_get_u64(in, (enum wire_tag)tag, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_in in, again;
	struct wire_out o;
	size_t len = 0;

	if (wire_parse(&in, data, size) < 0)
		return 0;
	wire_begin(&o, out, sizeof(out), in.type, in.request);
	for (unsigned int tag = 0; tag < 100; tag++)
		read_all(&in, tag, &o);
	if (wire_end(&o, &len) < 0 || wire_parse(&again, out, len) < 0 || len > size)
		abort();
	for (unsigned int tag = 0; tag < 100; tag++)
		if (wire_count(&in, (enum wire_tag)tag) != wire_count(&again, (enum wire_tag)tag))
			abort();
	return 0;
}
