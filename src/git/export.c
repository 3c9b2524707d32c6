/* git/export.c: a commit becomes a tar: is it still what the branch says, the archive, then what the tar lacks. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/private.h"

struct git_export {
	struct git *git;
	char *repository, *branch, *commit, *subdirectory, *path, *part;
	struct buf notes;
	struct err err; /* the worker's */
	git_exported_fn *done;
	void *arg;
};

static void export_free(struct git_export *x)
{
	unlink(x->part);
	buf_done(&x->notes);
	free(x->repository);
	free(x->branch);
	free(x->commit);
	free(x->subdirectory);
	free(x->path);
	free(x->part);
	free(x);
}

static void finish(struct git_export *x, const struct err *err)
{
	x->done(x->arg, x->notes.data, err);
	export_free(x);
}

static void run(struct git_export *x, const char *const *argv, int fd, git_done_fn *done)
{
	struct git_command c = { .argv = argv, .repository = x->repository, .stdout_fd = fd };

	git_start(x->git, &c, done, x);
}

/* An answer that the command itself gives (an exit status) is not an error. */
static bool failed(struct git_export *x, const struct err *err)
{
	if (err)
		finish(x, err);
	return err;
}

static int place(struct git_export *x, struct err *err)
{
	auto_fd fd = open(x->part, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 || fsync(fd) < 0)
		return err_sys(err, "sync %s", x->part);
	if (rename(x->part, x->path) < 0)
		return err_sys(err, "rename %s", x->part);
	return fd_sync_names(x->path, err);
}

/* A deployment that is on its way when the machine ends is built again from this: by then it is whole. */
static void on_place(void *arg)
{
	struct git_export *x = arg;

	x->err.code = place(x, &x->err);
}

static void on_placed(void *arg)
{
	struct git_export *x = arg;

	finish(x, x->err.code ? &x->err : NULL);
}

static void on_lfs(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct git_export *x = arg;

	(void)said;
	if (failed(x, err))
		return;
	if (status == 0 && *out)
		(void)!buf_puts(&x->notes, "files in Git LFS are not fetched: the build sees their pointers\n");
	loop_work(x->git->loop, LOOP_LANE_ANY, on_place, on_placed, x);
}

static void on_submodules(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct git_export *x = arg;
	const char *argv[] = { "grep", "-l", "-e", "filter=lfs", x->commit, "--", ":(glob)**/.gitattributes", NULL };

	(void)out;
	(void)said;
	if (failed(x, err))
		return;
	if (status == 0)
		(void)!buf_puts(&x->notes, "submodules are not fetched: their folders are empty in the build\n");
	run(x, argv, -1, on_lfs);
}

static void on_archived(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct git_export *x = arg;
	auto_free char *modules = xasprintf("%s:.gitmodules", x->commit);
	const char *argv[] = { "cat-file", "-e", modules, NULL };
	struct err own;

	(void)out;
	if (failed(x, err))
		return;
	if (status) {
		if (*x->subdirectory)
			err_set(&own, -EINVAL, "subdirectory: \"%s\": expected a folder of commit %.12s", x->subdirectory,
				x->commit);
		else
			err_set(&own, -EIO, "exporting commit %.12s: %s", x->commit, said);
		finish(x, &own);
		return;
	}
	run(x, argv, -1, on_submodules);
}

static void on_resolved(void *arg, int status, const char *out, const char *said, const struct err *err)
{
	struct git_export *x = arg;
	auto_free char *tree = *x->subdirectory ? xasprintf("%s:%s", x->commit, x->subdirectory) : xstrdup(x->commit);
	const char *argv[] = { "archive", "--format=tar", tree, NULL };
	struct err own;

	(void)said;
	if (failed(x, err))
		return;
	if (status || strncmp(out, x->commit, strlen(x->commit)) != 0) {
		err_set(&own, -ESTALE, "%s has moved on from %.12s", x->branch, x->commit);
		finish(x, &own);
		return;
	}
	auto_fd fd = open(x->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0) {
		err_sys(&own, "making %s", x->part);
		finish(x, &own);
		return;
	}
	run(x, argv, fd, on_archived);
}

void git_export(struct git *g, const char *repository, const char *branch, const char *commit, const char *subdirectory,
		const char *path, git_exported_fn *done, void *arg)
{
	struct git_export *x = NEW(struct git_export);
	auto_free char *ref = xasprintf("refs/heads/%s", branch);
	const char *argv[] = { "rev-parse", "--verify", "--quiet", ref, NULL };

	*x = (struct git_export){ .git = g, .repository = xstrdup(repository), .branch = xstrdup(branch), .commit = xstrdup(commit),
				  .subdirectory = xstrdup(subdirectory), .path = xstrdup(path),
				  .part = xasprintf("%s.part", path), .done = done, .arg = arg };
	buf_init(&x->notes, 4096);
	run(x, argv, -1, on_resolved);
}
