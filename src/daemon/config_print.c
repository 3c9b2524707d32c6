/* The configuration as YAML with its comments: what docs/openreward.yaml.example is made of. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "daemon/config_table.h"

static const void *place_of(const struct config *c, const struct config_key *k)
{
	return (const char *)c + k->offset;
}

static void format_unit(char *ret, size_t size, uint64_t v, const char *const *names, const uint64_t *factors, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (v && v % factors[i] == 0) {
			snprintf(ret, size, "%llu%s", (unsigned long long)(v / factors[i]), names[i]);
			return;
		}
	}
	snprintf(ret, size, "%llu", (unsigned long long)v);
}

/* In the largest unit that leaves a whole number. */
static void format_u64(const struct config_key *k, uint64_t v, char *ret, size_t size)
{
	static const char *const times[] = { "h", "m", "s", "ms" };
	static const uint64_t time_factors[] = { 3600000, 60000, 1000, 1 };
	static const char *const sizes[] = { "TiB", "GiB", "MiB", "KiB" };
	static const uint64_t size_factors[] = { 1ull << 40, 1ull << 30, 1ull << 20, 1ull << 10 };

	if (k->type == CONFIG_DURATION)
		format_unit(ret, size, v, times, time_factors, ARRAY_LEN(times));
	else if (k->type == CONFIG_SIZE)
		format_unit(ret, size, v, sizes, size_factors, ARRAY_LEN(sizes));
	else
		snprintf(ret, size, "%llu", (unsigned long long)v);
}

/* Plain where YAML reads it back as the same text, else in double quotes. */
static int print_text(struct buf *b, const char *s)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-:@";
	size_t len = strlen(s);

	if (len && s[strspn(s, plain)] == '\0' && s[0] != '-' && s[0] != ':' && s[0] != '@' && s[len - 1] != ':')
		return buf_puts(b, s);
	int r = buf_puts(b, "\"");
	for (; r == 0 && *s; s++) {
		if (*s == '"' || *s == '\\')
			r = buf_printf(b, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			r = buf_printf(b, "\\x%02x", (unsigned char)*s);
		else
			r = buf_append(b, s, 1);
	}
	return r < 0 ? r : buf_puts(b, "\"");
}

static int print_list(struct buf *b, char *const *list)
{
	int r = buf_puts(b, "[");

	for (size_t i = 0; r == 0 && list[i]; i++) {
		r = i ? buf_puts(b, ", ") : 0;
		if (r == 0)
			r = print_text(b, list[i]);
	}
	return r < 0 ? r : buf_puts(b, "]");
}

static int print_entry(struct buf *b, bool first, const char *name, const char *value)
{
	int r = first ? 0 : buf_puts(b, ", ");

	if (r == 0)
		r = print_text(b, name);
	if (r == 0)
		r = buf_puts(b, ": ");
	return r < 0 ? r : print_text(b, value);
}

static int print_map(struct buf *b, const struct config *c, const struct config_key *k)
{
	int r = buf_puts(b, "{");

	if (k->type == CONFIG_ALIASES) {
		for (const struct image_alias *a = c->image_aliases; r == 0 && a->from; a++)
			r = print_entry(b, a == c->image_aliases, a->from, a->to);
	} else {
		char *const *list = *(char *const *const *)place_of(c, k);
		for (size_t i = 0; r == 0 && list[i]; i++) {
			auto_free char *name = xstrndup(list[i], strcspn(list[i], "="));
			r = print_entry(b, i == 0, name, strchr(list[i], '=') + 1);
		}
	}
	return r < 0 ? r : buf_puts(b, "}");
}

static int print_value(struct buf *b, const struct config *c, const struct config_key *k)
{
	static const char *const levels[] = { "debug", "info", "warn", "error" };
	char number[32];

	switch (k->type) {
	case CONFIG_SECRET: return print_text(b, **(char *const *)place_of(c, k) ? "(set)" : "");
	case CONFIG_STR:
	case CONFIG_PATH:
	case CONFIG_MACHINE: return print_text(b, *(char *const *)place_of(c, k));
	case CONFIG_DURATION:
	case CONFIG_SIZE:
	case CONFIG_COUNT:
		format_u64(k, *(const uint64_t *)place_of(c, k), number, sizeof(number));
		return buf_puts(b, number);
	case CONFIG_BOOL: return buf_puts(b, *(const bool *)place_of(c, k) ? "true" : "false");
	case CONFIG_LEVEL: return buf_puts(b, levels[c->log_level]);
	case CONFIG_FORMAT: return buf_puts(b, c->log_format == LOG_JSON ? "json" : "text");
	case CONFIG_LISTEN:
		if (c->listen[0] && !c->listen[1])
			return print_text(b, c->listen[0]);
		return print_list(b, c->listen);
	case CONFIG_LIST:
	case CONFIG_MOUNTS: return print_list(b, *(char *const *const *)place_of(c, k));
	case CONFIG_ENV:
	case CONFIG_ALIASES: return print_map(b, c, k);
	}
	return 0;
}

static int print_comment(struct buf *b, const char *indent, const char *text)
{
	int r = 0;

	while (r == 0 && *text) {
		size_t len = strcspn(text, "\n");
		r = buf_printf(b, "%s# %.*s\n", indent, (int)len, text);
		text += len + (text[len] == '\n');
	}
	return r;
}

static int print_section(struct buf *b, const char *name)
{
	int r = print_comment(b, "", config_section_comment(name));

	return r < 0 ? r : buf_printf(b, "%s:\n", name);
}

static int print_key(struct buf *b, const struct config *c, const struct config_key *k)
{
	const char *dot = strchr(k->name, '.');
	const char *indent = dot ? "  " : "";
	int r = print_comment(b, indent, k->comment);

	if (r == 0)
		r = buf_printf(b, "%s%s: ", indent, dot ? dot + 1 : k->name);
	if (r == 0)
		r = print_value(b, c, k);
	return r < 0 ? r : buf_puts(b, "\n");
}

int config_print(const struct config *c, struct buf *ret)
{
	auto_free char *section = xstrdup("");
	int r = buf_puts(ret, "# openreward serve --config FILE: every key with its value. What a file leaves out has its default.\n"
			      "# Durations: 250ms, 30s, 15m, 24h. Sizes: 50000, 64KiB, 2GiB.\n\n");

	for (size_t i = 0; r == 0 && i < config_n_keys; i++) {
		const struct config_key *k = &config_keys[i];
		size_t len = strchr(k->name, '.') ? strcspn(k->name, ".") : 0;
		if (strlen(section) != len || strncmp(section, k->name, len) != 0) {
			free(section);
			section = xstrndup(k->name, len);
			r = buf_puts(ret, "\n");
			if (r == 0)
				r = print_section(ret, section);
		}
		if (r == 0)
			r = print_key(ret, c, k);
	}
	return r;
}
