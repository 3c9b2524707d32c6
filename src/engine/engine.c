/* engine/engine.c: names of outcomes. */
#include "engine/engine.h"

const char *engine_outcome_name(enum engine_outcome o)
{
	static const char *const names[] = {
#define X(name, text) [ENGINE_##name] = text,
		ENGINE_OUTCOMES(X)
#undef X
	};

	return (size_t)o < ARRAY_LEN(names) ? names[o] : "unknown";
}
