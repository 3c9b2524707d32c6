#include "rollout/write.h"

#include <string.h>

#include "base/str.h"
#include "base/time.h"

static void write_time(struct json_writer *w, const char *key, int64_t wall_ms)
{
	char text[TIME_ISO_LEN];

	json_kv_str(w, key, time_iso(wall_ms, text));
}

static void write_text(struct json_writer *w, const char *key, const char *text)
{
	json_kv_str(w, key, str_empty(text) ? NULL : text);
}

static void write_number(struct json_writer *w, const char *key, int64_t v)
{
	json_key(w, key);
	if (v < 0)
		json_write_null(w);
	else
		json_i64(w, v);
}

static void write_json(struct json_writer *w, const char *key, const char *json)
{
	json_key(w, key);
	if (str_empty(json))
		json_write_null(w);
	else
		json_raw(w, json, strlen(json));
}

void write_run(struct json_writer *w, const struct record_run *r)
{
	json_kv_str(w, "id", r->id);
	json_kv_str(w, "name", r->name);
	json_kv_i64(w, "num_rollouts", (int64_t)r->num_rollouts);
	json_kv_i64(w, "num_messages", (int64_t)r->num_messages);
	json_kv_double(w, "avg_rollout_reward", r->avg_reward); /* NAN is null */
	json_key(w, "avg_rollout_length");
	if (r->num_rollouts)
		json_double(w, (double)r->num_messages / (double)r->num_rollouts);
	else
		json_write_null(w);
	write_time(w, "created_at", r->created_ms);
	write_time(w, "updated_at", r->updated_ms);
}

void write_rollout(struct json_writer *w, const struct record_rollout *o)
{
	json_kv_str(w, "id", o->id);
	write_text(w, "rolloutName", o->name);
	write_text(w, "environment", o->environment);
	write_text(w, "variant", o->variant);
	write_text(w, "split", o->split);
	write_number(w, "step", o->step);
	write_number(w, "task_index", o->task_index);
	write_text(w, "model_name", o->model_name);
	json_kv_double(w, "max_reward", o->max_reward);
	json_kv_i64(w, "num_messages", (int64_t)o->num_messages);
	json_kv_i64(w, "response_chars", (int64_t)o->response_chars);
	json_kv_bool(w, "is_finished", o->is_finished);
	write_time(w, "created_at", o->created_ms);
	write_time(w, "updated_at", o->updated_ms);
}

void write_rollout_detail(struct json_writer *w, const struct record_rollout *o)
{
	write_text(w, "environment_id", o->environment_id);
	write_text(w, "variant_id", o->variant_id);
	write_json(w, "metadata", o->metadata);
	write_json(w, "task_spec", o->task_spec);
	write_json(w, "run_info", o->run_info);
	write_json(w, "rollout_info", o->rollout_info);
}

void write_message(struct json_writer *w, const struct record_message *m)
{
	json_kv_str(w, "id", m->id);
	json_kv_i64(w, "index", m->position);
	json_kv_str(w, "type", m->type);
	json_kv_str(w, "content", m->content);
	json_kv_str(w, "contentReference", m->content_reference);
	json_kv_str(w, "summary", m->summary);
	json_kv_str(w, "name", m->name);
	json_kv_str(w, "callId", m->call_id);
	json_kv_double(w, "reward", m->reward);
	json_kv_bool(w, "isFinished", m->is_finished);
	write_json(w, "metadata", m->metadata);
	write_time(w, "timestamp", m->at_ms);
}
