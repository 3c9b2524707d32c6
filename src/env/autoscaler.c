/* env/autoscaler.c: see autoscaler.h. */
#include "env/autoscaler.h"

#include "base/macros.h"

static uint64_t needed(const struct autoscaler_input *in)
{
	uint64_t people = in->sessions + in->waiting, each = MAX(in->concurrency, (uint64_t)1);
	uint64_t n = people / each + (people % each != 0);

	return n ? n : in->visitors != 0;
}

/* Those that nobody used for long enough. */
static uint64_t expired(const struct autoscaler_input *in)
{
	uint64_t n = 0;

	for (size_t k = 0; k < in->n_unused; k++)
		n += in->unused_ms[k] >= in->idle_ms;
	return MIN(n, in->replicas);
}

static void at_least(struct autoscaler_output *out, uint64_t n, const char *why)
{
	if (out->replicas < n)
		*out = (struct autoscaler_output){ n, why };
}

static void at_most(struct autoscaler_output *out, uint64_t n, const char *why)
{
	if (out->replicas > n)
		*out = (struct autoscaler_output){ n, why };
}

struct autoscaler_output autoscaler_decide(const struct autoscaler_input *in)
{
	uint64_t gone = expired(in);
	struct autoscaler_output out = { in->replicas - gone, gone ? "unused for the idle time" : "as it is" };

	at_least(&out, needed(in), "sessions and creates need them");
	at_least(&out, in->min, "min_scale");
	at_most(&out, in->max, "max_scale");
	at_most(&out, in->capacity, "the machine has no more room");
	at_least(&out, in->busy, "in use");
	return out;
}
