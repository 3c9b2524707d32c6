#include "egress/hosts.h"

#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define HOSTS_MAX_BYTES (1024 * 1024)

static bool is_loopback(const struct egress_addr *a)
{
	static const struct egress_addr v4 = { .family = 4, .bytes = { 127 } };
	static const struct egress_addr v6 = { .family = 6, .bytes = { [15] = 1 } };

	return egress_addr_in(a, &v4, 8) || egress_addr_eq(a, &v6);
}

/* The next word of *rest, which is changed in place; NULL at the end. */
static char *next_word(char **rest)
{
	char *word;

	do
		word = strsep(rest, " \t\r");
	while (word && !*word);
	return word;
}

static bool line_has_name(char *rest, const char *name)
{
	char *word;

	while ((word = next_word(&rest)))
		if (str_ieq(word, name))
			return true;
	return false;
}

size_t egress_hosts_find(const char *text, const char *name, uint8_t family, struct egress_addr *ret, size_t max)
{
	auto_free char *copy = xstrdup(text);
	char *rest = copy, *line;
	size_t n = 0;

	while (n < max && (line = strsep(&rest, "\n"))) {
		struct egress_addr a;
		line[strcspn(line, "#")] = '\0';
		char *word = next_word(&line);
		if (!word || egress_addr_parse(word, &a) < 0 || a.family != family || is_loopback(&a))
			continue;
		if (line_has_name(line, name))
			ret[n++] = a;
	}
	return n;
}

size_t egress_hosts_find_file(const char *path, const char *name, uint8_t family, struct egress_addr *ret, size_t max)
{
	struct buf text;
	size_t n = 0;

	buf_init(&text, HOSTS_MAX_BYTES);
	if (fd_read_file(path, &text, NULL) == 0)
		n = egress_hosts_find(text.data, name, family, ret, max);
	buf_done(&text);
	return n;
}
