/* rollout/events.h: what clients post to /v1/rollouts, checked and made into events of the store. Pure functions: any
 * thread; the largest bodies take tenths of a second, so a worker calls them. */
#pragma once

#include "store/record.h"

#define EVENT_ID_MAX 200               /* bytes of an eventId */
#define EVENT_NAME_MAX 1000            /* bytes of a name: of a run, a rollout, a tool, an environment, a model, ... */
#define EVENT_TIME_MAX 253402300799999 /* ms: the last of the year 9999 */

/* Fills in all of ret but namespace_id, done and arg. The texts of its events point into what ret->owned keeps, body
 * not included. -EINVAL names the event by its place in the list, the field, its value and what was expected; nothing
 * is to be freed then. A batch that is not given to the store is freed with ret->free_owned(ret). */
MUST_CHECK int events_read(struct record_batch *ret, const char *body, size_t len, size_t max_events, struct err *err);
