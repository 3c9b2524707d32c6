#include "cli/ignore.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"

struct pattern {
	char *text;
	bool exception;
};

struct ignore {
	struct pattern *patterns;
	size_t n;
	bool has_exceptions;
};

/* -- patterns -------------------------------------------------------------------------------------------------- */

/* [abc], [a-z], [^a]: *p stands after '['. Sets *p after ']'. A class without end matches nothing. */
static bool class_matches(const char **p, char c)
{
	bool negated = **p == '^', hit = false;
	const char *s = *p + negated;

	for (bool first = true; *s && (first || *s != ']'); first = false) {
		char low = *s == '\\' && s[1] ? *++s : *s;
		char high = low;
		s++;
		if (s[0] == '-' && s[1] && s[1] != ']') {
			high = s[1] == '\\' && s[2] ? s[2] : s[1];
			s += s[1] == '\\' && s[2] ? 3 : 2;
		}
		hit |= c >= low && c <= high;
	}
	*p = *s ? s + 1 : s;
	return *s && hit != negated;
}

/* One segment against one name, without slashes. */
static bool segment_matches(const char *p, const char *p_end, const char *s, const char *s_end)
{
	const char *star = NULL, *resume = NULL;

	while (s < s_end) {
		const char *next = p;
		bool hit = false;
		if (p < p_end && *p == '*') {
			star = ++p;
			resume = s;
			continue;
		}
		if (p < p_end && *p == '[') {
			next = p + 1;
			hit = class_matches(&next, *s) && next <= p_end;
		} else if (p < p_end) {
			bool escaped = *p == '\\' && p + 1 < p_end;
			hit = (*p == '?' && !escaped) || p[escaped] == *s;
			next = p + 1 + escaped;
		}
		if (hit) {
			p = next;
			s++;
		} else if (star) { /* let the last star take one byte more */
			p = star;
			s = ++resume;
		} else {
			return false;
		}
	}
	while (p < p_end && *p == '*')
		p++;
	return p == p_end;
}

/* Segment by segment; "**" takes none or more of them. */
static bool path_matches(const char *p, const char *s)
{
	while (*p) {
		size_t p_len = strcspn(p, "/"), s_len = strcspn(s, "/");
		const char *p_next = p + p_len + (p[p_len] == '/');
		const char *s_next = s + s_len + (s[s_len] == '/');
		if (p_len == 2 && p[0] == '*' && p[1] == '*') {
			if (!*p_next)
				return *s != '\0';
			for (; *s; s += strcspn(s, "/"), s += *s == '/')
				if (path_matches(p_next, s))
					return true;
			return false;
		}
		if (!*s || !segment_matches(p, p + p_len, s, s + s_len))
			return false;
		p = p_next;
		s = s_next;
	}
	return !*s;
}

/* The path itself, or a folder above it. */
static bool pattern_matches(const char *pattern, const char *path)
{
	auto_free char *part = xstrdup(path);

	for (char *slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (path_matches(pattern, part))
			return true;
		*slash = '/';
	}
	return path_matches(pattern, part);
}

/* -- the file -------------------------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* Drops "./", leading, doubled and trailing slashes. NULL = nothing is left. */
static char *clean(const char *s, size_t len)
{
	char *out = xmalloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; i < len;) {
		size_t part = 0;
		while (i + part < len && s[i + part] != '/')
			part++;
		bool dot = part == 1 && s[i] == '.';
		if (part && !dot) {
			if (n)
				out[n++] = '/';
			memcpy(out + n, s + i, part);
			n += part;
		}
		i += part + 1;
	}
	out[n] = '\0';
	if (n)
		return out;
	free(out);
	return NULL;
}

static void add_line(struct ignore *g, const char *s, size_t len)
{
	struct pattern p = { 0 };

	if (len && s[0] == '#')
		return;
	while (len && is_blank(s[0]))
		s++, len--;
	while (len && is_blank(s[len - 1]))
		len--;
	if (len && s[0] == '!') {
		p.exception = true;
		s++, len--;
	}
	p.text = clean(s, len);
	if (!p.text)
		return;
	g->has_exceptions |= p.exception;
	g->patterns = xrealloc(g->patterns, (g->n + 1) * sizeof(*g->patterns));
	g->patterns[g->n++] = p;
}

struct ignore *ignore_new(const char *text, size_t len)
{
	struct ignore *g = NEW(struct ignore);

	if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) /* a byte order mark, as some editors leave it */
		text += 3, len -= 3;
	while (len) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len;
		add_line(g, text, n);
		n += end != NULL;
		text += n;
		len -= n;
	}
	return g;
}

struct ignore *ignore_free(struct ignore *g)
{
	if (!g)
		return NULL;
	for (size_t i = 0; i < g->n; i++)
		free(g->patterns[i].text);
	free(g->patterns);
	free(g);
	return NULL;
}

bool ignore_matches(const struct ignore *g, const char *path)
{
	bool ignored = false;

	for (size_t i = 0; i < g->n; i++)
		if (ignored == g->patterns[i].exception && pattern_matches(g->patterns[i].text, path))
			ignored = !g->patterns[i].exception;
	return ignored;
}

bool ignore_prunes(const struct ignore *g, const char *path)
{
	return !g->has_exceptions && ignore_matches(g, path);
}
