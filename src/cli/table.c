/* Lists for people, or as JSON lines for programs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

#define PAGE 500
#define COLUMNS_MAX 12

/* -- cells ------------------------------------------------------------------------------------------------------- */

/* "acme (owner), beta (reader)" */
static char *join(json_t *list)
{
	auto_buf struct buf b = { 0 };
	json_t *item;
	size_t i;

	buf_init(&b, BUF_UNLIMITED);
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));
		const char *role = json_string_value(json_object_get(item, "role"));
		if (buf_printf(&b, "%s%s (%s)", i ? ", " : "", name ? name : "", role ? role : "") < 0)
			break;
	}
	return xstrdup(b.len ? b.data : "-");
}

/* A control character becomes a '?': what a stranger wrote must not steer the terminal. */
static char *harmless(const char *s)
{
	char *copy = xstrdup(s);

	for (unsigned char *p = (unsigned char *)copy; *p; p++)
		if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0))
			*p = '?';
	return copy;
}

static bool is_time(const char *key)
{
	return str_ends(key, "_at") || str_eq(key, "at");
}

static char *cell(json_t *row, const struct cli_column *c)
{
	json_t *v = json_object_get(row, c->key);
	const char *text = json_string_value(v);

	if (json_is_integer(v))
		return xasprintf("%lld", (long long)json_integer_value(v));
	if (json_is_array(v))
		return join(v);
	if (str_empty(text))
		return xstrdup("-");
	return is_time(c->key) ? xasprintf("%.19s", text) : harmless(text);
}

static int width(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static void measure(json_t *rows, const struct cli_column *columns, size_t n, int *widths)
{
	json_t *row;
	size_t i;

	for (size_t c = 0; c < n; c++)
		widths[c] = width(columns[c].title);
	json_array_foreach(rows, i, row)
		for (size_t c = 0; c < n; c++) {
			auto_free char *text = cell(row, &columns[c]);
			widths[c] = MAX(widths[c], width(text));
		}
}

static void put(const char *text, int to, bool last)
{
	fputs(text, stdout);
	if (last)
		putchar('\n');
	else
		printf("%*s", to - width(text) + 2, "");
}

void cli_print_rows(json_t *rows, const struct cli_column *columns, size_t n, bool json, bool with_titles)
{
	int widths[COLUMNS_MAX] = { 0 };
	json_t *row;
	size_t i;

	n = MIN(n, (size_t)COLUMNS_MAX);
	measure(rows, columns, n, widths);
	for (size_t c = 0; c < n && with_titles && !json; c++)
		put(columns[c].title, widths[c], c + 1 == n);
	json_array_foreach(rows, i, row) {
		auto_free char *text = json ? json_dumps(row, JSON_COMPACT) : NULL;
		if (text)
			puts(text);
		for (size_t c = 0; c < n && !json; c++) {
			auto_free char *shown = cell(row, &columns[c]);
			put(shown, widths[c], c + 1 == n);
		}
	}
}

int cli_list(const struct cli_target *t, const char *path, const char *key, const struct cli_column *columns, size_t n, bool json,
	     struct err *err)
{
	auto_json all = json_array();
	size_t got = 0;

	do {
		auto_free char *full = xasprintf("%s%climit=%d&offset=%zu", path, strchr(path, '?') ? '&' : '?', PAGE,
						 json_array_size(all));
		auto_json page = NULL;
		int r = cli_ask(t, "GET", full, NULL, &page, err);
		if (r < 0)
			return r;
		got = json_array_size(json_object_get(page, key));
		json_array_extend(all, json_object_get(page, key));
	} while (got == PAGE);
	cli_print_rows(all, columns, n, json, true);
	return 0;
}

char *cli_path(const char *before, const char *part)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, BUF_UNLIMITED);
	if (buf_puts(&b, before) < 0 || str_percent_encode(&b, part) < 0)
		abort(); /* an unlimited buffer has no way to fail */
	return buf_steal(&b, NULL);
}
