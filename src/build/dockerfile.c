#include "build/dockerfile.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"

#define TEXT_MAX (4u << 20)

struct scan {
	struct strv images, stages; /* images: pairs; names of stages */
	struct strv args;           /* "K=V" of the ARG lines before the first FROM */
	bool in_stage;              /* a FROM was seen: ARG lines no longer count for FROM */
};

static bool is_stage(const struct scan *x, const char *name)
{
	for (size_t i = 0; i < x->stages.n; i++)
		if (!strcasecmp(x->stages.list[i], name))
			return true;
	return false;
}

static bool is_listed(const struct scan *x, const char *written)
{
	for (size_t i = 0; i < x->images.n; i += 2)
		if (str_eq(x->images.list[i], written))
			return true;
	return false;
}

/* The next word, unquoted in place; NULL at the end. */
static char *next_word(char **at)
{
	char *s = *at + strspn(*at, " \t");

	if (!*s)
		return NULL;
	size_t n = strcspn(s, " \t");
	*at = s + n + (s[n] != 0);
	s[n] = 0;
	if (n >= 2 && (*s == '"' || *s == '\'') && s[n - 1] == *s) {
		s[n - 1] = 0;
		s++;
	}
	return s;
}

/* "$NAME", "${NAME}" and "${NAME:-WORD}"; false when a variable has no value here. */
static bool expand(const struct scan *x, const char *s, struct buf *out)
{
	while (*s) {
		if (*s != '$') {
			(void)!buf_append(out, s++, 1);
			continue;
		}
		bool brace = *++s == '{';
		s += brace;
		size_t n = 0;
		while (isalnum((unsigned char)s[n]) || s[n] == '_')
			n++;
		auto_free char *name = xstrndup(s, n);
		const char *value = host_get((const char *const *)x->args.list, name);
		s += n;
		auto_free char *other = brace && str_starts(s, ":-") ? xstrndup(s + 2, strcspn(s + 2, "}")) : NULL;
		s += other ? strlen(other) + 2 : 0;
		if (!n || (brace && *s != '}') || (str_empty(value) && !other))
			return false;
		s += brace;
		(void)!buf_puts(out, str_empty(value) ? other : value);
	}
	return true;
}

static void add_image(struct scan *x, const char *word)
{
	auto_buf struct buf name = { 0 };

	buf_init(&name, 4096);
	if (!expand(x, word, &name) || !name.len || str_eq(name.data, "scratch") || is_stage(x, name.data) ||
	    is_listed(x, word))
		return;
	strv_add(&x->images, xstrdup(word));
	strv_add(&x->images, xstrdup(name.data));
}

static void take_from(struct scan *x, char *rest)
{
	char *word = next_word(&rest);

	while (word && str_starts(word, "--"))
		word = next_word(&rest);
	if (word)
		add_image(x, word);
	x->in_stage = true;
	word = next_word(&rest);
	if (word && !strcasecmp(word, "as") && (word = next_word(&rest)))
		strv_add(&x->stages, xstrdup(word));
}

static void take_copy(struct scan *x, char *rest)
{
	char *word;

	while ((word = next_word(&rest)) && str_starts(word, "--"))
		if (str_starts(word, "--from=") && !isdigit((unsigned char)word[7]))
			add_image(x, word + 7);
}

static void take_arg(struct scan *x, char *rest)
{
	char *word;

	while (!x->in_stage && (word = next_word(&rest)))
		if (strchr(word, '=')) {
			char *value = strchr(word, '=') + 1;
			size_t n = strlen(value);
			if (n >= 2 && (*value == '"' || *value == '\'') && value[n - 1] == *value) {
				value[n - 1] = 0;
				memmove(value, value + 1, n - 1);
			}
			strv_add(&x->args, xstrdup(word));
		}
}

static void take_line(struct scan *x, char *line)
{
	char *rest = line, *word = next_word(&rest);

	if (!word || *word == '#')
		return;
	if (!strcasecmp(word, "FROM"))
		take_from(x, rest);
	else if (!strcasecmp(word, "ARG"))
		take_arg(x, rest);
	else if (!strcasecmp(word, "COPY"))
		take_copy(x, rest);
}

/* Joins lines that end in a backslash; comment lines between them do not end them. */
char **dockerfile_images(const char *text)
{
	struct scan x = { 0 };
	auto_buf struct buf line = { 0 };

	buf_init(&line, TEXT_MAX);
	for (const char *p = text; *p;) {
		size_t n = strcspn(p, "\n");
		auto_free char *one = xstrndup(p, n);
		char *s = host_trim(one);
		size_t len = strlen(s);
		bool more = len && s[len - 1] == '\\';
		p += n + (p[n] != 0);
		if (*s == '#')
			continue;
		if (more)
			s[len - 1] = ' ';
		(void)!buf_puts(&line, s);
		if (more && *p)
			continue;
		take_line(&x, line.data);
		buf_clear(&line);
	}
	strv_free(x.stages.list);
	strv_free(x.args.list);
	return strv_take(&x.images);
}
