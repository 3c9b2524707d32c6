/* rollout/difficulty.h: the difficulty of an environment's tasks, kept between questions. What one question found is
 * kept by task, and the next of the same (environment, namespace, filter) looks again only at tasks that have changed
 * since. Owned by the daemon; used by workers, several at a time: two equal questions at once do not wait for each
 * other, the second starts from nothing. */
#pragma once

#include "store/record.h"
#include "json/json.h"

struct difficulty;

struct difficulty *difficulty_new(size_t max_bytes); /* beyond it what was not asked for the longest is forgotten */
struct difficulty *difficulty_free(struct difficulty *d); /* when no worker is in it; NULL is allowed; returns NULL */

/* Writes the list of tasks, ordered by split, variant and task_index. The answer is as the reader's view has it. */
MUST_CHECK int difficulty_write(struct difficulty *d, struct store_reader *r, const char *environment_id,
				const struct record_task_filter *f, struct json_writer *w, struct err *err);

/* For tests: tasks that were summed up since the start. */
uint64_t difficulty_computed(const struct difficulty *d);
