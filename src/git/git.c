#include "git/git.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/rmtree.h"
#include "base/str.h"
#include "git/private.h"

/* Says what changed over GIT_HOOK_FD, an empty line at the end, and passes on what comes back until its other end is
 * closed. It executes nothing of what was pushed. */
static const char hook[] = "#!/bin/sh\n"
			   "[ -e /proc/self/fd/3 ] || exit 0\n"
			   "cat >&3 && echo >&3 && exec cat <&3\n";

int git_new(struct git **ret, struct loop *l, const struct git_settings *s, struct err *err)
{
	auto_free char *root = xasprintf("%s/git", s->data_dir);
	auto_free char *hooks = xasprintf("%s/.hooks", root);
	auto_free char *path = xasprintf("%s/post-receive", hooks);
	auto_free char *making = xasprintf("%s/.making", root);
	int r = fd_mkdirs(hooks, 0750, err);

	(void)!rmtree(AT_FDCWD, making); /* what a former daemon's git left */
	r = r < 0 ? r : fd_mkdirs(making, 0750, err);
	r = r < 0 ? r : fd_write_file(path, hook, sizeof(hook) - 1, 0750, err);
	if (r < 0)
		return r;
	struct git *g = NEW(struct git);
	*g = (struct git){ .loop = l, .settings = *s, .root = STEAL(root) };
	list_init(&g->children);
	list_init(&g->serving);
	list_init(&g->fetches);
	*ret = g;
	return 0;
}

struct git *git_free(struct git *g)
{
	if (!g)
		return NULL;
	git_children_kill(g);
	github_fetches_free(g);
	free(g->root);
	free(g);
	return NULL;
}

char *git_repository(const struct git *g, const char *namespace, const char *name)
{
	return xasprintf("%s/%s/%s.git", g->root, namespace, name);
}

char *git_github_repository(const struct git *g, const char *environment_id)
{
	return xasprintf("%s/.github/%s.git", g->root, environment_id);
}

bool git_is_branch(const char *s)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+@=,";

	if (str_empty(s) || strlen(s) > 200 || s[strspn(s, allowed)] || strchr("-/.", s[0]) || str_ends(s, "/") || str_ends(s, "."))
		return false;
	return !strstr(s, "..") && !strstr(s, "//") && !strstr(s, "/.") && !strstr(s, "@{") && !strstr(s, ".lock/") &&
	       !str_ends(s, ".lock") && !str_eq(s, "@") && !str_eq(s, "HEAD");
}

bool git_is_subdirectory(const char *s)
{
	auto_free char *copy = xstrdup(s);
	char *rest = copy;

	if (str_empty(s) || strlen(s) > 1000 || !str_is_utf8(s, strlen(s)))
		return false;
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '\\')
			return false;
	for (char *part; (part = strsep(&rest, "/"));)
		if (!*part || str_eq(part, ".") || str_eq(part, ".."))
			return false;
	return true;
}

/* -- making and renaming ------------------------------------------------------------------------------------------- */

struct making {
	struct git *git;
	char *path, *aside;
	git_made_fn *done;
	void *arg;
	struct err err;
};

static bool is_whole(const char *path)
{
	auto_free char *head = xasprintf("%s/HEAD", path), *objects = xasprintf("%s/objects", path);

	return access(head, F_OK) == 0 && access(objects, F_OK) == 0;
}

/* What git init leaves to the kernel: without HEAD it is no repository, whatever is pushed to it. */
static int sync_file(const struct making *m, const char *name, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", m->aside, name);
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 || fsync(fd) < 0 ? err_sys(err, "sync %s", path) : 0;
}

/* What is in the way is a twin's, which was faster, or no repository: git init writes HEAD first, and a full disk ends it. */
static int put_in_place(const struct making *m, struct err *err)
{
	static const char *const written[] = { "HEAD", "config", "objects", "refs", "." };
	int r = 0;

	if (is_whole(m->path))
		return 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(written); i++)
		r = sync_file(m, written[i], err);
	if (r < 0)
		return r;
	r = rmtree(AT_FDCWD, m->path);
	if (r < 0 || (rename(m->aside, m->path) < 0 && !is_whole(m->path)))
		return err_sys_code(err, r < 0 ? r : -errno, "putting %s in place", m->path);
	return fd_sync_names(m->path, err);
}

static void on_place(void *arg)
{
	struct making *m = arg;

	(void)!put_in_place(m, &m->err);
	(void)!rmtree(AT_FDCWD, m->aside);
}

static void over(struct making *m)
{
	m->done(m->arg, m->err.code ? &m->err : NULL);
	free(m->path);
	free(m->aside);
	free(m);
}

static void on_there(void *arg)
{
	over(arg);
}

static void on_init_over(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct making *m = arg;

	(void)out;
	if (!err && !status) {
		loop_work(m->git->loop, LOOP_LANE_ANY, on_place, on_there, m);
		return;
	}
	if (err)
		m->err = *err;
	else
		err_set(&m->err, -EIO, "making a repository: %s", said);
	(void)!rmtree(AT_FDCWD, m->aside);
	over(m);
}

void git_make(struct git *g, const char *path, const char *branch, git_made_fn *done, void *arg)
{
	struct making *m = NEW(struct making);
	auto_free char *folder = xstrndup(path, (size_t)(strrchr(path, '/') - path));
	auto_free char *option = xasprintf("--initial-branch=%s", branch);

	*m = (struct making){
		.git = g, .path = xstrdup(path), .aside = xasprintf("%s/.making/%llu", g->root, ++g->n_made),
		.done = done, .arg = arg,
	};
	const char *argv[] = { "init", "--quiet", "--bare", "--template=", option, m->aside, NULL };
	struct git_command c = { .argv = argv, .stdout_fd = -1 };

	if (is_whole(path) || fd_mkdirs(folder, 0750, &m->err) < 0)
		loop_defer(g->loop, on_there, m);
	else
		git_start(g, &c, on_init_over, m);
}
