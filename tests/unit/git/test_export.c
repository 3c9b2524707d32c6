/* A commit as a tar: what is on the disk when it is told to be there. */
#include "unit/synced.h"

#include <criterion/criterion.h>

#include "base/mem.h"
#include "base/str.h"
#include "git/git.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-git-XXXXXX";
static struct loop *loop;
static struct git *git;
static char out[256];

static void on_over(void *arg, int status, const char *text, const char *said, const struct err *err)
{
	(void)arg;
	cr_assert(!err && !status, "%s", err ? err->msg : said);
	snprintf(out, sizeof(out), "%.*s", (int)strcspn(text, "\n"), text);
	loop_stop(loop, 0);
}

static const char *run(const char *repository, const char *const *argv)
{
	static const char *const who[] = { "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
					   NULL };
	const struct git_command c = { .argv = argv, .repository = repository, .env = who, .stdout_fd = -1 };

	git_start(git, &c, on_over, NULL);
	cr_assert_eq(loop_run(loop), 0);
	return out;
}

static void on_made(void *arg, const struct err *err)
{
	(void)arg;
	cr_assert_null(err);
	loop_stop(loop, 0);
}

static void on_exported(void *arg, const char *notes, const struct err *err)
{
	(void)arg;
	cr_assert(!err && str_empty(notes), "%s", err ? err->msg : notes);
	loop_stop(loop, 0);
}

Test(export, is_on_disk_when_it_is_told, .timeout = 60)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	const struct git_settings s = { .data_dir = dir, .time_limit_ms = 30000, .max_processes = 1 };
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(git_new(&git, loop, &s, &err), 0, "%s", err.msg);
	auto_free char *repository = git_repository(git, "a", "b"), *folder = xasprintf("%s/one", dir);
	auto_free char *tar = xasprintf("%s/source.tar", folder), *part = xasprintf("%s.part", tar);
	git_make(git, repository, "main", on_made, NULL);
	cr_assert_eq(loop_run(loop), 0);
	auto_free char *tree = xstrdup(run(repository, (const char *[]){ "mktree", NULL }));
	auto_free char *commit = xstrdup(run(repository, (const char *[]){ "commit-tree", tree, "-m", "x", NULL }));
	run(repository, (const char *[]){ "update-ref", "refs/heads/main", commit, NULL });
	cr_assert_eq(mkdir(folder, 0755), 0);
	git_export(git, repository, "main", commit, "", tar, on_exported, NULL);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(access(tar, R_OK), 0);
	cr_assert_neq(synced_at(part), SIZE_MAX, "the bytes, before they got their name");
	cr_assert_lt(synced_at(part), synced_at(folder));
	cr_assert_neq(synced_at(folder), SIZE_MAX, "the name");
	cr_assert_neq(synced_at(dir), SIZE_MAX, "the folder's name");
	git_free(git);
	loop_free(loop);
	tmpdir_remove(dir);
}
