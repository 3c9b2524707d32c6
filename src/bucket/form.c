/* bucket/form.c: names whose characters have several forms: "é" is one character, or an e and a mark. Linux takes them for two
 * names, macOS for one, and hands over the second. What is there keeps the form in which it came; it is found by either, and
 * nothing is put beside it that differs by its form only. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/unicode.h"
#include "bucket/private.h"

/* A part of a path as the folder `at` has it: as it was sent where that is there. NULL = it has none. */
static char *find_part(int at, const char *part)
{
	char *forms[] = { xstrdup(part), unicode_composed(part), unicode_decomposed(part) }, *found = NULL;
	struct stat st;

	for (size_t i = 0; i < ARRAY_LEN(forms); i++)
		if (!found && forms[i] && fstatat(at, forms[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			found = forms[i];
		else
			free(forms[i]);
	return found;
}

/* Down from `at`, which is closed; -1 = no further. */
static int enter(int at, const char *part)
{
	int next = part ? beneath(at, part, O_PATH | O_DIRECTORY, 0) : -1;

	fd_close(at);
	return MAX(next, -1);
}

char *name_there(int buckets, const char *env_id, const char *name)
{
	if (unicode_is_ascii(name))
		return xstrdup(name);
	auto_fd at = open_folder(buckets, env_id, "");
	auto_free char *copy = xstrdup(name);
	auto_buf struct buf b = { 0 };
	char *rest = copy;
	int r = 0;

	buf_init(&b, BUCKET_NAME_MAX);
	for (char *part; r == 0 && (part = strsep(&rest, "/"));) {
		auto_free char *found = at < 0 ? NULL : find_part(at, part);

		r = buf_printf(&b, "%s%s", b.len ? "/" : "", found ? found : part);
		at = at < 0 ? at : enter(at, found);
	}
	return r < 0 ? xstrdup(name) : buf_steal(&b, NULL);
}

static const char *form_of(const char *name)
{
	auto_free char *composed = unicode_composed(name);
	auto_free char *decomposed = unicode_decomposed(name);

	return str_eq(name, composed) ? "NFC" : str_eq(name, decomposed) ? "NFD" : "neither NFC nor NFD";
}

int bucket_check_form(int buckets, const char *env_id, const char *name, struct err *err)
{
	auto_free char *there = name_there(buckets, env_id, name);

	if (str_eq(there, name))
		return 0;
	return err_set(err, -EEXIST, "\"%.200s\" (%s): there is \"%.200s\" (%s), which differs by its Unicode form only: send that name, "
		       "or delete what is there", name, form_of(name), there, form_of(there));
}

void begins_init(struct begins *b, const char *begin)
{
	bool ascii = unicode_is_ascii(begin);

	*b = (struct begins){ { xstrdup(begin), ascii ? NULL : unicode_composed(begin),
		ascii ? NULL : unicode_decomposed(begin) } };
}

void begins_done(struct begins *b)
{
	for (size_t i = 0; i < ARRAY_LEN(b->form); i++)
		free(b->form[i]);
}

bool begins_with(const char *name, const struct begins *b)
{
	for (size_t i = 0; i < ARRAY_LEN(b->form); i++)
		if (b->form[i] && str_starts(name, b->form[i]))
			return true;
	return false;
}
