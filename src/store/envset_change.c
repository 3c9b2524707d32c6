/* Changes of an environment's settings: every value is checked before the first is set. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "store/envset.h"
#include "store/internal.h"

#define NAME_BYTES_MAX 128
#define VALUE_BYTES_MAX (64u * 1024)
#define PAIRS_MAX 256

/* It may hold secrets. NULL is allowed. */
static void text_free(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

static int wrong(enum envset id, const char *value, struct err *err)
{
	char expected[256];

	return err_set(err, -EINVAL, "%s: \"%.200s\": expected %s", envset_rows[id].name, value,
		       envset_expected(id, expected, sizeof(expected)));
}

static int find(const char *name, enum envset *ret, struct err *err)
{
	char known[900];
	size_t n = 0;

	for (enum envset id = 0; id < ENVSET_N; id++) {
		if (str_eq(envset_rows[id].name, name)) {
			*ret = id;
			return 0;
		}
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", id ? ", " : "", envset_rows[id].name);
		n = MIN(n, sizeof(known) - 1);
	}
	return err_set(err, -EINVAL, "\"%.100s\" is no setting of an environment: expected one of %s", name, known);
}

/* -- checks by type ---------------------------------------------------------------------------------------------- */

static bool in_range(enum envset id, uint64_t v)
{
	return v >= envset_rows[id].min && v <= envset_rows[id].max;
}

static bool is_choice(const char *choices, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = choices;; p++) {
		size_t n = strcspn(p, "|");
		if (n == len && !memcmp(p, word, n))
			return true;
		p += n;
		if (!*p)
			return false;
	}
}

static bool is_source_path(const char *s)
{
	return *s != '/' && *s != '-' && !strstr(s, "..") && strlen(s) < 256 &&
	       strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/:@-") == strlen(s);
}

static bool fits(enum envset id, const char *text)
{
	uint64_t v = 0, w = 0;

	switch (envset_rows[id].type) {
	case ENVTYPE_COUNT: return str_to_u64(text, &v) == 0 && in_range(id, v);
	case ENVTYPE_DURATION: return str_to_duration(text, &v) == 0 && in_range(id, v);
	case ENVTYPE_SIZE: return str_to_bytes(text, &v) == 0 && in_range(id, v);
	case ENVTYPE_MACHINE: return str_to_machine(text, &v, &w) == 0;
	case ENVTYPE_BOOL: return str_eq(text, "true") || str_eq(text, "false");
	case ENVTYPE_CHOICE: return is_choice(envset_rows[id].fallback, text);
	case ENVTYPE_PATH: return is_source_path(text);
	case ENVTYPE_MAP:
	case ENVTYPE_SECRETS: break;
	}
	return false;
}

/* -- from JSON ----------------------------------------------------------------------------------------------------- */

/* A scalar as its text, NULL = the default; malloc'ed. -EINVAL: an object or array. */
static int text_of(enum envset id, json_t *v, char **ret, struct err *err)
{
	bool is_path = envset_rows[id].type == ENVTYPE_PATH;

	if (json_is_string(v))
		*ret = *json_string_value(v) ? xstrdup(json_string_value(v)) : NULL;
	else if (json_is_integer(v) && !is_path)
		*ret = xasprintf("%lld", (long long)json_integer_value(v));
	else if (json_is_boolean(v) && !is_path)
		*ret = xstrdup(json_is_true(v) ? "true" : "false");
	else {
		auto_free char *shown = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		return wrong(id, shown ? shown : "?", err);
	}
	return 0;
}

static int scalar(enum envset id, json_t *v, char **ret, struct err *err)
{
	auto_free char *text = NULL;
	int r = text_of(id, v, &text, err);

	if (r == 0 && text && !fits(id, text))
		r = wrong(id, text, err);
	if (r == 0)
		*ret = STEAL(text);
	return r;
}

static bool is_variable(const char *name)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

	return *name && strlen(name) <= NAME_BYTES_MAX && strspn(name, letters) == strlen(name) && !strchr("0123456789", *name);
}

static int check_pair(enum envset id, const char *name, json_t *value, struct err *err)
{
	const char *setting = envset_rows[id].name;

	if (!is_variable(name))
		return err_set(err, -EINVAL, "%s: \"%.140s\": expected a name of letters, digits and '_', at most %d bytes",
			       setting,
			       name, NAME_BYTES_MAX);
	if (!json_is_string(value) && !json_is_null(value))
		return err_set(err, -EINVAL, "%s.%s: expected a text, or null to remove it", setting, name);
	if (json_is_string(value) && json_string_length(value) > VALUE_BYTES_MAX)
		return err_set(err, -EINVAL, "%s.%s: %zu bytes: expected at most %u", setting, name, json_string_length(value),
			       VALUE_BYTES_MAX);
	return 0;
}

static int merge(enum envset id, const char *old, json_t *changes, char **ret, struct err *err)
{
	auto_json map = NULL;
	const char *name;
	json_t *value;

	if (!*old || json_read_object(&map, old, strlen(old), NULL) < 0)
		map = json_object();
	json_object_foreach(changes, name, value) {
		int r = check_pair(id, name, value, err);
		if (r < 0)
			return r;
		if (json_is_null(value) || !json_string_length(value))
			json_object_del(map, name);
		else
			json_object_set(map, name, value);
	}
	if (json_object_size(map) > PAIRS_MAX)
		return err_set(err, -EINVAL, "%s: %zu entries: expected at most %d", envset_rows[id].name, json_object_size(map),
			       PAIRS_MAX);
	*ret = json_object_size(map) ? json_dumps(map, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	return 0;
}

/* *ret = NULL: the default. */
static int new_text(const struct store_environment *e, enum envset id, json_t *v, char **ret, struct err *err)
{
	bool map = envset_rows[id].type == ENVTYPE_MAP || envset_rows[id].type == ENVTYPE_SECRETS;

	*ret = NULL;
	if (json_is_null(v))
		return 0;
	if (!map)
		return scalar(id, v, ret, err);
	if (json_is_string(v) && !json_string_length(v))
		return 0;
	if (!json_is_object(v)) /* a secret may stand there: it is not repeated */
		return wrong(id, "...", err);
	return merge(id, envset_text(e, id), v, ret, err);
}

/* -- setting ------------------------------------------------------------------------------------------------------- */

/* What has a column of its own in the environment's record follows. */
static void mirror(struct store_environment *e)
{
	e->cpu_milli = e->memory_bytes = 0;
	if (envset_is_set(e, ENVSET_SIZE))
		(void)!str_to_machine(envset_text(e, ENVSET_SIZE), &e->cpu_milli, &e->memory_bytes);
	e->max_concurrency = envset_number(e, ENVSET_CONCURRENCY);
	e->max_scale = envset_number(e, ENVSET_MAX_SCALE);
}

struct change {
	bool made;
	char *text;   /* NULL = the default */
	char *sealed; /* NULL = text is stored as it is */
};

/* Takes the text. */
static void put(struct store *s, struct store_environment *e, enum envset id, struct change *c)
{
	char *text = STEAL(c->text);
	struct store_op *op;

	text_free(e->settings[id]);
	e->settings[id] = text;
	if (e->removed)
		return;
	if (text)
		op = store_op_new(s, "INSERT INTO environment_setting (environment_id, name, value) VALUES (?, ?, ?)"
				     " ON CONFLICT (environment_id, name) DO UPDATE SET value = excluded.value");
	else
		op = store_op_new(s, "DELETE FROM environment_setting WHERE environment_id = ? AND name = ?");
	store_op_text(op, e->id);
	store_op_text(op, envset_rows[id].name);
	if (text)
		store_op_text(op, c->sealed ? c->sealed : text);
}

static void changes_free(struct change *all)
{
	for (enum envset id = 0; id < ENVSET_N; id++) {
		text_free(all[id].text);
		free(all[id].sealed);
	}
}

static char *owner_of_secrets(const struct store_environment *e, enum envset id)
{
	return xasprintf("%s %s", e->id, envset_rows[id].name);
}

static int seal_all(struct store *s, const struct store_environment *e, struct change *all, struct err *err)
{
	int r = 0;

	for (enum envset id = 0; r == 0 && id < ENVSET_N; id++) {
		if (!all[id].text || envset_rows[id].type != ENVTYPE_SECRETS)
			continue;
		auto_free char *owner = owner_of_secrets(e, id);
		r = seal_text(&s->seal, owner, all[id].text, &all[id].sealed, err);
	}
	return r;
}

static int check_all(const struct store_environment *e, json_t *changes, struct change *all, struct err *err)
{
	const char *name;
	json_t *value;
	enum envset id;

	json_object_foreach(changes, name, value) {
		int r = find(name, &id, err);
		r = r < 0 ? r : new_text(e, id, value, &all[id].text, err);
		if (r < 0)
			return r;
		all[id].made = true;
	}
	return 0;
}

static uint64_t will_be(const struct store_environment *e, const struct change *all, enum envset id)
{
	uint64_t v = envset_number(e, id);

	if (all[id].made)
		(void)!str_to_u64(all[id].text ? all[id].text : envset_rows[id].fallback, &v);
	return v;
}

/* all is to be freed, on failure too. */
static int check(const struct store_environment *e, json_t *changes, struct change *all, struct err *err)
{
	int r = check_all(e, changes, all, err);
	uint64_t least = will_be(e, all, ENVSET_MIN_SCALE), most = will_be(e, all, ENVSET_MAX_SCALE);

	if (r == 0 && least > most)
		r = err_set(err, -EINVAL, "min_scale: \"%llu\": expected at most max_scale, which is %llu",
			    (unsigned long long)least,
			    (unsigned long long)most);
	return r;
}

int envset_check(const struct store_environment *e, json_t *changes, struct err *err)
{
	struct change all[ENVSET_N] = { 0 };
	int r = check(e, changes, all, err);

	changes_free(all);
	return r;
}

int envset_change(struct store *s, struct store_environment *e, json_t *changes, struct err *err)
{
	struct change all[ENVSET_N] = { 0 };
	int r = check(e, changes, all, err);

	r = r < 0 ? r : store_check_room(s, err);
	r = r < 0 ? r : seal_all(s, e, all, err);
	for (enum envset id = 0; r == 0 && id < ENVSET_N; id++)
		if (all[id].made)
			put(s, e, id, &all[id]);
	changes_free(all);
	if (r < 0)
		return r;
	mirror(e);
	store_environment_save(s, e);
	return 0;
}

static int attach_secrets(struct store *s, struct store_environment *e, enum envset id, const char *sealed, struct err *err)
{
	auto_free char *owner = owner_of_secrets(e, id);
	char *text = NULL;
	int r = seal_open(&s->seal, owner, sealed, &text, err);

	if (r < 0)
		return err_wrap(err, r, "%s/%s: %s", e->ns->name, e->name, envset_rows[id].name);
	text_free(e->settings[id]);
	e->settings[id] = text;
	return 0;
}

int envset_attach(struct store *s, struct store_environment *e, const char *name, const char *text, struct err *err)
{
	enum envset id;

	if (find(name, &id, NULL) < 0)
		return 0;
	if (envset_rows[id].type == ENVTYPE_SECRETS)
		return attach_secrets(s, e, id, text, err);
	if (envset_rows[id].type == ENVTYPE_MAP || fits(id, text))
		store_set_str(&e->settings[id], text);
	return 0;
}
