/* Paths of files that clients name, as init joins and cuts them, and the users that files belong to, from a passwd and a group
 * file that strangers wrote. The input is split at NULs: folder, path, user, passwd, group. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/passwd.h"
#include "base/str.h"
#include "init/path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void cut(const char *path)
{
	auto_free char *copy = xstrdup(path);
	const char *parent, *leaf;

	if (path_split(copy, &parent, &leaf) < 0)
		return;
	check(*parent == '/' && *leaf && !strchr(leaf, '/') && !str_eq(leaf, ".") && !str_eq(leaf, ".."));
	auto_free char *again = xasprintf("%s/%s", parent, leaf);
	check(strlen(again) <= strlen(path) + 2 && strlen(again) + 2 > strlen(leaf));
}

static void join(const char *cwd, const char *path)
{
	char joined[PATH_BYTES];

	if (path_join(joined, cwd, path) < 0)
		return;
	check(*joined == '/' && memchr(joined, 0, sizeof(joined)));
	check(str_ends(joined, path));
	cut(joined);
}

static void who(const char *spec, const char *passwd, const char *group)
{
	auto_free char *p = xstrdup(passwd), *g = xstrdup(group);
	struct user u;

	if (passwd_resolve(&u, p, g, spec, NULL) == 0)
		check(u.n_groups <= USER_GROUPS_MAX && memchr(u.home, 0, sizeof(u.home)) && *u.home == '/');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *parts[5] = { "", "", "", "", "" };
	auto_free char *text = xmalloc(size + 1);

	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	for (size_t i = 0, at = 0; i < 5 && at < size; i++) {
		parts[i] = text + at;
		at += strlen(text + at) + 1;
	}
	join(parts[0], parts[1]);
	who(parts[2], parts[3], parts[4]);
	return 0;
}
