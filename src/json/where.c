/* Where in a value a byte of its text lies: "events[3].content". */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "json/private.h"

#define KEY_SHOWN 60 /* bytes of one name */

struct level {
	bool object, in_value; /* in_value: behind the ':' */
	size_t index;          /* of an array */
	const char *key;
	size_t key_len;
};

struct walk {
	struct level levels[JSON_DEPTH_MAX + 1];
	size_t depth;
};

static struct level *innermost(struct walk *w)
{
	return w->depth ? &w->levels[w->depth - 1] : NULL;
}

/* The offset behind the string that begins at p[i]; end where it goes on beyond that. */
static size_t skip_string(const char *p, size_t i, size_t end)
{
	for (i++; i < end && p[i] != '"'; i++)
		i += p[i] == '\\';
	return MIN(i + 1, end);
}

static size_t on_string(struct walk *w, const char *p, size_t i, size_t end)
{
	struct level *l = innermost(w);
	size_t next = skip_string(p, i, end);

	if (l && l->object && !l->in_value && next - i >= 2) {
		l->key = p + i + 1;
		l->key_len = next - i - 2;
	}
	return next;
}

static void on_mark(struct walk *w, char c)
{
	struct level *l = innermost(w);

	if ((c == '{' || c == '[') && w->depth < ARRAY_LEN(w->levels)) {
		w->levels[w->depth++] = (struct level){ .object = c == '{' };
	} else if ((c == '}' || c == ']') && w->depth) {
		w->depth--;
	} else if (c == ':' && l) {
		l->in_value = true;
	} else if (c == ',' && l) {
		l->in_value = false;
		l->index++;
	}
}

static bool is_shown(const struct level *l)
{
	if (!l->object)
		return true;
	for (size_t i = 0; i < l->key_len; i++) /* it goes into a message as it is */
		if ((unsigned char)l->key[i] < 0x20 || (unsigned char)l->key[i] >= 0x7f)
			return false;
	return l->in_value && l->key_len && l->key_len <= KEY_SHOWN;
}

void json_where(const char *p, size_t position, char *ret, size_t size)
{
	struct walk w = { .depth = 0 };
	size_t len = 0;

	for (size_t i = 0; i < position;) {
		if (p[i] == '"')
			i = on_string(&w, p, i, position);
		else
			on_mark(&w, p[i++]);
	}
	*ret = '\0';
	for (size_t i = 0; i < w.depth && is_shown(&w.levels[i]) && len < size; i++) {
		const struct level *l = &w.levels[i];

		len += (size_t)(l->object ? snprintf(ret + len, size - len, "%s%.*s", len ? "." : "", (int)l->key_len, l->key)
					  : snprintf(ret + len, size - len, "[%zu]", l->index));
	}
}
