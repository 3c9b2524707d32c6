/* Whatever events_read() accepts keeps what its header promises; whatever it refuses has a reason. */
#include <stdlib.h>
#include <string.h>

#include "rollout/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_event(const struct record_event *e)
{
	if (!e->id || !*e->id || strlen(e->id) > EVENT_ID_MAX || e->at_ms < 0 || e->at_ms > EVENT_TIME_MAX)
		abort();
	if (e->kind == RECORD_MESSAGE && (!e->rollout || !*e->rollout || !e->type || e->position < 0))
		abort();
	if (e->kind == RECORD_ROLLOUT && (!e->run || !*e->run || strlen(e->run) > EVENT_NAME_MAX))
		abort();
	if (e->info && !json_is_object(e->info))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = ERR_INIT;
	struct record_batch b;

	if (events_read(&b, (const char *)data, size, 16, &err) < 0) {
		if (err.code >= 0 || !err.msg[0])
			abort();
		return 0;
	}
	if (b.n > 16)
		abort();
	for (size_t i = 0; i < b.n; i++)
		check_event(&b.events[i]);
	b.free_owned(&b);
	return 0;
}
