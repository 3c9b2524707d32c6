/* git/renames.c: a repository gets its new name before the record of its environment has it. A note in DATA/git/.renamed, which
 * is on the disk before, tells the next start of a daemon that ended between the two whose the repository is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/private.h"

#define NOTE_MAX 1024

/* -- the note: namespace, old and new name, a line each ---------------------------------------------------------------- */

static int note_rename(struct git *g, const char *environment_id, const char *namespace, const char *old_name,
		       const char *new_name, struct err *err)
{
	auto_free char *folder = xasprintf("%s/.renamed", g->root), *path = xasprintf("%s/%s", folder, environment_id);
	auto_free char *text = xasprintf("%s\n%s\n%s\n", namespace, old_name, new_name);
	int r = fd_mkdirs(folder, 0750, err);

	r = r < 0 ? r : fd_write_file(path, text, strlen(text), 0640, err);
	return r < 0 ? r : fd_sync_names(path, err);
}

int git_rename(struct git *g, const char *environment_id, const char *namespace, const char *old_name, const char *new_name,
	       struct err *err)
{
	auto_free char *from = git_repository(g, namespace, old_name), *to = git_repository(g, namespace, new_name);
	int r = serve_check_rename(g, namespace, old_name, new_name, err);

	if (r < 0 || access(from, F_OK) < 0)
		return r;
	if (access(to, F_OK) == 0)
		return err_set(err, -EEXIST, "there is a repository \"%s/%s\" already", namespace, new_name);
	r = note_rename(g, environment_id, namespace, old_name, new_name, err);
	if (r < 0)
		return r;
	return rename(from, to) < 0 ? err_sys(err, "rename %s", from) : 0;
}

/* -- at the start ------------------------------------------------------------------------------------------------------ */

/* The name that the record does not have; one that is another environment's by now is left to that. */
static bool give_back(struct git *g, struct store *s, const struct store_environment *e, const char *name)
{
	auto_free char *from = git_repository(g, e->ns->name, name), *to = git_repository(g, e->ns->name, e->name);

	if (!str_is_name(name, STORE_NAME_MAX) || store_environment_find(s, e->ns->name, name))
		return false;
	return access(to, F_OK) < 0 && rename(from, to) == 0;
}

static void settle(struct git *g, struct store *s, const char *folder, const char *id)
{
	auto_free char *path = xasprintf("%s/%s", folder, id);
	const struct store_environment *e = store_environment_by_id(s, id);
	auto_buf struct buf b = { 0 };
	struct err err;

	buf_init(&b, NOTE_MAX);
	if (e && fd_read_file(path, &b, &err) == 0) {
		char *rest = b.data;
		const char *namespace = strsep(&rest, "\n"), *old_name = strsep(&rest, "\n"), *new_name = strsep(&rest, "\n");
		if (new_name && str_eq(namespace, e->ns->name) && !give_back(g, s, e, new_name))
			(void)give_back(g, s, e, old_name);
	}
	unlink(path);
}

void git_settle_renames(struct git *g, struct store *s)
{
	auto_free char *folder = xasprintf("%s/.renamed", g->root);
	DIR *d = opendir(folder);

	if (!d)
		return;
	for (struct dirent *entry; (entry = readdir(d));)
		if (*entry->d_name != '.')
			settle(g, s, folder, entry->d_name);
	closedir(d);
}
