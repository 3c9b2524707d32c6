/* Settings of environments: reading them, and making them readable. Changing them is envset_change.c. */
#include "store/envset.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

const struct envset_row envset_rows[ENVSET_N] = {
#define X(id, name, type, fallback, min, max, doc) [ENVSET_##id] = { name, type, fallback, min, max, doc },
	ENVSETS(X)
#undef X
};
_Static_assert((int)ENVSET_N <= STORE_ENVSET_MAX, "struct store_environment has room for STORE_ENVSET_MAX settings");

static const char *const type_names[] = {
	[ENVTYPE_COUNT] = "count",   [ENVTYPE_DURATION] = "duration", [ENVTYPE_SIZE] = "size",     [ENVTYPE_MACHINE] = "machine",
	[ENVTYPE_BOOL] = "boolean",  [ENVTYPE_CHOICE] = "choice",     [ENVTYPE_PATH] = "path",
	[ENVTYPE_MAP] = "variables", [ENVTYPE_SECRETS] = "secrets",
};

bool envset_is_set(const struct store_environment *e, enum envset id)
{
	return e->settings[id] != NULL;
}

static bool from_configuration(enum envset id)
{
	return envset_rows[id].fallback[0] == '@';
}

const char *envset_text(const struct store_environment *e, enum envset id)
{
	const char *fallback = envset_rows[id].fallback;

	if (e->settings[id])
		return e->settings[id];
	if (envset_rows[id].type == ENVTYPE_CHOICE) /* the first word */
		return "";
	return from_configuration(id) ? "" : fallback;
}

static uint64_t choice_place(const char *choices, const char *word)
{
	uint64_t place = 0;
	size_t len = strlen(word);

	for (const char *p = choices;; place++) {
		size_t n = strcspn(p, "|");
		if (n == len && !memcmp(p, word, n))
			return place;
		if (!p[n])
			return 0;
		p += n + 1;
	}
}

static uint64_t number_of(enum envset id, const char *text)
{
	uint64_t v = 0;

	switch (envset_rows[id].type) {
	case ENVTYPE_COUNT: return str_to_u64(text, &v) < 0 ? 0 : v;
	case ENVTYPE_DURATION: return str_to_duration(text, &v) < 0 ? 0 : v;
	case ENVTYPE_SIZE: return str_to_bytes(text, &v) < 0 ? 0 : v;
	case ENVTYPE_BOOL: return str_eq(text, "true");
	case ENVTYPE_CHOICE: return choice_place(envset_rows[id].fallback, text);
	case ENVTYPE_MACHINE:
	case ENVTYPE_PATH:
	case ENVTYPE_MAP:
	case ENVTYPE_SECRETS: break;
	}
	return 0;
}

uint64_t envset_number(const struct store_environment *e, enum envset id)
{
	return number_of(id, envset_text(e, id));
}

uint64_t envset_number_or(const struct store_environment *e, enum envset id, uint64_t fallback)
{
	return envset_is_set(e, id) ? envset_number(e, id) : fallback;
}

void envset_each(const struct store_environment *e, enum envset id, envset_pair_fn *fn, void *arg)
{
	const char *text = envset_text(e, id);
	auto_json map = NULL;
	const char *name;
	json_t *value;

	if (!*text || json_read_object(&map, text, strlen(text), NULL) < 0)
		return;
	json_object_foreach(map, name, value)
		fn(arg, name, json_string_value(value));
}

/* -- for people ------------------------------------------------------------------------------------------------ */

static const char *range(enum envset id, const char *of, const char *unit, char *buf, size_t len)
{
	const struct envset_row *row = &envset_rows[id];

	snprintf(buf, len, "%s from %llu to %llu%s", of, (unsigned long long)row->min, (unsigned long long)row->max, unit);
	return buf;
}

const char *envset_expected(enum envset id, char *buf, size_t len)
{
	const char *fixed = "";

	switch (envset_rows[id].type) {
	case ENVTYPE_COUNT: return range(id, "a whole number", "", buf, len);
	case ENVTYPE_DURATION: return range(id, "a duration as 30s, 15m or 24h,", " ms", buf, len);
	case ENVTYPE_SIZE: return range(id, "a size as 64KiB or 2GiB,", " bytes", buf, len);
	case ENVTYPE_MACHINE: fixed = "CPU:GIB, as in 1:2 or 0.5:1"; break;
	case ENVTYPE_BOOL: fixed = "true or false"; break;
	case ENVTYPE_CHOICE: snprintf(buf, len, "one of %s", envset_rows[id].fallback); return buf;
	case ENVTYPE_PATH:
		fixed = "a path inside the source, of letters, digits, '.', '_', '/', ':', '@' and '-', without '..'";
		break;
	case ENVTYPE_MAP:
	case ENVTYPE_SECRETS: fixed = "an object of texts, {\"NAME\": \"VALUE\"}, names of letters, digits and '_'"; break;
	}
	snprintf(buf, len, "%s", fixed);
	return buf;
}

static void write_pair(void *arg, const char *name, const char *value)
{
	json_kv_str(arg, name, value);
}

static void write_name(void *arg, const char *name, const char *value UNUSED)
{
	json_str(arg, name);
}

static void write_value(struct json_writer *w, const struct store_environment *e, enum envset id)
{
	switch (envset_rows[id].type) {
	case ENVTYPE_COUNT:
		if (envset_is_set(e, id) || !from_configuration(id))
			json_i64(w, (int64_t)envset_number(e, id));
		else
			json_write_null(w);
		return;
	case ENVTYPE_BOOL:
		if (envset_is_set(e, id) || !from_configuration(id))
			json_bool(w, envset_number(e, id));
		else
			json_write_null(w);
		return;
	case ENVTYPE_MAP:
		json_open_object(w);
		envset_each(e, id, write_pair, w);
		json_close(w);
		return;
	case ENVTYPE_SECRETS:
		json_open_array(w);
		envset_each(e, id, write_name, w);
		json_close(w);
		return;
	case ENVTYPE_CHOICE:
		if (!envset_is_set(e, id)) {
			json_str_len(w, envset_rows[id].fallback, strcspn(envset_rows[id].fallback, "|"));
			return;
		}
		break;
	case ENVTYPE_DURATION:
	case ENVTYPE_SIZE:
	case ENVTYPE_MACHINE:
	case ENVTYPE_PATH: break;
	}
	json_str(w, !envset_is_set(e, id) && from_configuration(id) ? NULL : envset_text(e, id));
}

static void write_row(struct json_writer *w, enum envset id)
{
	const struct envset_row *row = &envset_rows[id];
	char expected[256];

	json_open_object(w);
	json_kv_str(w, "name", row->name);
	json_kv_str(w, "type", type_names[row->type]);
	json_key(w, "default");
	if (from_configuration(id)) {
		auto_free char *text = xasprintf("%s of the server's configuration", row->fallback + 1);
		json_str(w, text);
	} else {
		json_str_len(w, row->fallback, row->type == ENVTYPE_CHOICE ? strcspn(row->fallback, "|") : strlen(row->fallback));
	}
	json_kv_str(w, "expected", envset_expected(id, expected, sizeof(expected)));
	json_kv_str(w, "description", row->doc);
	json_close(w);
}

void envset_write_values(struct json_writer *w, const struct store_environment *e)
{
	for (enum envset id = 0; id < ENVSET_N; id++) {
		json_key(w, envset_rows[id].name);
		write_value(w, e, id);
	}
}

void envset_write_set(struct json_writer *w, const struct store_environment *e)
{
	for (enum envset id = 0; id < ENVSET_N; id++)
		if (envset_is_set(e, id))
			json_str(w, envset_rows[id].name);
}

void envset_write_rows(struct json_writer *w)
{
	for (enum envset id = 0; id < ENVSET_N; id++)
		write_row(w, id);
}
