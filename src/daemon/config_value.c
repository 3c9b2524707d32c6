/* Values: from text into their place in struct config, with errors that name key, value and expectation. */
#include "base/strv.h"
#include "daemon/config_table.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

int config_wrong(const struct config_key *k, const char *value, struct err *err, const char *expected)
{
	return err_set(err, -EINVAL, "%s: \"%.200s\": expected %s", k->name, value, expected);
}

static int put_u64(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	uint64_t v = 0;
	int r;
	const char *expected;

	if (k->type == CONFIG_DURATION) {
		r = str_to_duration(value, &v);
		expected = "a duration with its unit, as in 250ms, 30s, 15m, 24h";
	} else if (k->type == CONFIG_SIZE) {
		r = str_to_bytes(value, &v);
		expected = "a size, as in 50000, 64KiB, 2GiB";
	} else {
		r = str_to_u64(value, &v);
		expected = "a whole number";
	}
	if (r < 0)
		return config_wrong(k, value, err, expected);
	if (v < k->min || v > k->max) {
		const char *unit = k->type == CONFIG_DURATION ? " ms" : k->type == CONFIG_SIZE ? " bytes" : "";
		return err_set(err, -EINVAL, "%s: \"%s\": expected %llu to %llu%s", k->name, value,
			       (unsigned long long)k->min, (unsigned long long)k->max, unit);
	}
	*(uint64_t *)((char *)c + k->offset) = v;
	return 0;
}
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "struct http_limits has size_t members that the table fills as u64");

static int put_bool(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	bool *place = (bool *)((char *)c + k->offset);

	if (!str_eq(value, "true") && !str_eq(value, "false"))
		return config_wrong(k, value, err, "true or false");
	*place = str_eq(value, "true");
	return 0;
}

static int put_level(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (!str_eq(value, names[i]))
			continue;
		c->log_level = (enum log_level)i;
		return 0;
	}
	return config_wrong(k, value, err, "debug, info, warn or error");
}

static int put_format(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	if (!str_eq(value, "text") && !str_eq(value, "json"))
		return config_wrong(k, value, err, "text or json");
	c->log_format = str_eq(value, "json") ? LOG_JSON : LOG_TEXT;
	return 0;
}

static int put_str(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	char **place = (char **)((char *)c + k->offset);
	char *copy;

	if (k->type == CONFIG_MACHINE) {
		uint64_t cpu_milli, memory_bytes;
		if (str_to_machine(value, &cpu_milli, &memory_bytes) < 0)
			return config_wrong(k, value, err, "CPU:GIB, as in 1:2 or 0.5:1");
	}
	if (k->type == CONFIG_PATH && *value && *value != '/') {
		char cwd[PATH_MAX];
		if (!getcwd(cwd, sizeof(cwd)))
			return err_sys(err, "%s: the working directory", k->name);
		copy = xasprintf("%s/%s", cwd, value);
	} else {
		copy = xstrdup(value);
	}
	free(*place);
	*place = copy;
	return 0;
}

bool config_is_list(enum config_type t)
{
	return t == CONFIG_LISTEN || t == CONFIG_LIST || t == CONFIG_MOUNTS;
}

bool config_is_map(enum config_type t)
{
	return t == CONFIG_ENV || t == CONFIG_ALIASES;
}

int config_put(struct config *c, const struct config_key *k, const char *value, struct err *err)
{
	switch (k->type) {
	case CONFIG_STR:
	case CONFIG_SECRET:
	case CONFIG_PATH:
	case CONFIG_MACHINE: return put_str(c, k, value, err);
	case CONFIG_DURATION:
	case CONFIG_SIZE:
	case CONFIG_COUNT: return put_u64(c, k, value, err);
	case CONFIG_BOOL: return put_bool(c, k, value, err);
	case CONFIG_LEVEL: return put_level(c, k, value, err);
	case CONFIG_FORMAT: return put_format(c, k, value, err);
	case CONFIG_LISTEN: /* a list of one may be written without its brackets */
		config_clear(c, k);
		return config_add(c, k, NULL, value, err);
	case CONFIG_LIST:
	case CONFIG_MOUNTS: return config_wrong(k, value, err, "a list");
	case CONFIG_ENV:
	case CONFIG_ALIASES: return config_wrong(k, value, err, "a mapping of names to values");
	}
	return config_wrong(k, value, err, "nothing: this key has no type");
}

/* -- lists and mappings ---------------------------------------------------------------------------------------- */

static void clear_aliases(struct config *c)
{
	for (struct image_alias *a = c->image_aliases; a && a->from; a++) {
		free((void *)a->from);
		free((void *)a->to);
	}
	free(c->image_aliases);
	c->image_aliases = xcalloc(1, sizeof(*c->image_aliases));
}

void config_clear(struct config *c, const struct config_key *k)
{
	char ***place = (char ***)((char *)c + k->offset);

	if (k->type == CONFIG_ALIASES) {
		clear_aliases(c);
		return;
	}
	strv_free(*place);
	*place = strv_dup(NULL);
}

static void list_add(char ***place, char *value)
{
	size_t n = 0;

	while ((*place)[n])
		n++;
	*place = xrealloc(*place, (n + 2) * sizeof(**place));
	(*place)[n] = value;
	(*place)[n + 1] = NULL;
}

static void alias_add(struct config *c, const char *from, const char *to)
{
	size_t n = 0;

	while (c->image_aliases[n].from)
		n++;
	c->image_aliases = xrealloc(c->image_aliases, (n + 2) * sizeof(*c->image_aliases));
	c->image_aliases[n] = (struct image_alias){ .from = xstrdup(from), .to = xstrdup(to) };
	c->image_aliases[n + 1] = (struct image_alias){ 0 };
}

static int check_mount(const struct config_key *k, const char *value, struct err *err)
{
	const char *colon = strchr(value, ':');

	if (value[0] != '/' || (colon && (colon[1] != '/' || strchr(colon + 1, ':'))))
		return config_wrong(k, value, err, "SOURCE or SOURCE:TARGET, both absolute paths");
	return 0;
}

static int check_env_name(const struct config_key *k, const char *name, struct err *err)
{
	static const char all[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
	const char *first = all + strlen("0123456789");

	if (*name && strchr(first, *name) && !name[strspn(name, all)])
		return 0;
	return config_wrong(k, name, err, "names of variables: letters, digits and '_', not beginning with a digit");
}

int config_add(struct config *c, const struct config_key *k, const char *name, const char *value, struct err *err)
{
	char ***place = (char ***)((char *)c + k->offset);
	int r = 0;

	if (k->type == CONFIG_LISTEN)
		r = config_check_listen(k, value, err);
	else if (k->type == CONFIG_MOUNTS)
		r = check_mount(k, value, err);
	else if (k->type == CONFIG_ENV)
		r = check_env_name(k, name, err);
	else if (str_empty(value))
		r = config_wrong(k, value, err, "something: an element may not be empty");
	if (r < 0)
		return r;
	if (k->type == CONFIG_ALIASES)
		alias_add(c, name, value);
	else
		list_add(place, k->type == CONFIG_ENV ? xasprintf("%s=%s", name, value) : xstrdup(value));
	return 0;
}
