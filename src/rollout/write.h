/* rollout/write.h: runs, rollouts and messages as JSON, with the names that clients read. Any thread. */
#pragma once

#include "store/record.h"
#include "json/json.h"

/* Members of an object that is open. */
void write_run(struct json_writer *w, const struct record_run *r);
void write_rollout(struct json_writer *w, const struct record_rollout *o);
void write_rollout_detail(struct json_writer *w, const struct record_rollout *o); /* what lists leave out */
void write_message(struct json_writer *w, const struct record_message *m);
