/* Whatever message comes: a plan that is accepted names nothing that leads out of where the spawner looks, and survives
 * encoding. The input is the fields; the head is put before it, as every fuzzed byte in it would be wasted. */
#include <stdlib.h>
#include <string.h>

#include "sandbox/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(8) char msg[WIRE_MAX], out[WIRE_MAX];

static void check_path(const char *p)
{
	if (!*p || strstr(p, "//") || strncmp(p, "../", 3) == 0 || strstr(p, "/../") || strcmp(p, "..") == 0)
		abort();
	if (strlen(p) >= 3 && strcmp(p + strlen(p) - 3, "/..") == 0)
		abort();
}

static void check(const struct plan *p)
{
	if (strlen(p->id) != PLAN_ID_LEN - 1 || strchr(p->id, '/') || p->n_layers < 1 || p->n_layers > PLAN_LAYERS_MAX)
		abort();
	for (size_t i = 0; i < p->n_layers; i++) {
		check_path(p->layers[i]);
		if (p->layers[i][0] == '/')
			abort();
	}
	for (size_t i = 0; i < p->n_mounts; i++) {
		check_path(p->mounts[i].source);
		check_path(p->mounts[i].target);
		if (p->mounts[i].target[0] != '/' || strcmp(p->mounts[i].target, "/") == 0)
			abort();
	}
	if (p->bucket.id) {
		check_path(p->bucket.target);
		if (strlen(p->bucket.id) != PLAN_ID_LEN - 1 || p->bucket.target[0] != '/')
			abort();
		if (p->bucket.dir && *p->bucket.dir)
			check_path(p->bucket.dir);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct wire_head h = { WIRE_MAGIC, WIRE_VERSION, WIRE_MAKE, 1 };
	struct err err = ERR_INIT;
	struct plan p, q;
	struct wire_in in;
	struct wire_out o;
	size_t len = 0;

	if (size > sizeof(msg) - sizeof(h))
		return 0;
	memcpy(msg, &h, sizeof(h));
	memcpy(msg + sizeof(h), data, size);
	if (wire_parse(&in, msg, sizeof(h) + size) < 0)
		return 0;
	if (plan_decode(&p, &in, &err) < 0) {
		if (!err.msg[0] || err.code >= 0)
			abort();
		return 0;
	}
	check(&p);
	wire_begin(&o, out, sizeof(out), WIRE_MAKE, 1);
	plan_encode(&p, &o);
	if (wire_end(&o, &len) < 0)
		return 0; /* the defaults may be longer than what came */
	if (wire_parse(&in, out, len) < 0 || plan_decode(&q, &in, &err) < 0 || q.n_layers != p.n_layers)
		abort();
	return 0;
}
