/* Repositories whose environment got another name, where the daemon ended in the middle. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "git/git.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-git-XXXXXX";
static struct loop *loop;
static struct git *git;
static struct store *store;
static struct store_namespace *ns;
static struct store_environment *e;

static void begin(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	const struct git_settings s = { .data_dir = dir, .max_processes = 1 };
	auto_free char *db = xasprintf("%s/db", dir), *folder = xasprintf("%s/git/a", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(store_open(&store, loop, db, &err), 0, "%s", err.msg);
	cr_assert_eq(git_new(&git, loop, &s, &err), 0, "%s", err.msg);
	cr_assert_eq(store_namespace_add(store, "a", "org", &ns, &err), 0);
	cr_assert_eq(store_environment_add(store, ns, "old", &e, &err), 0);
	cr_assert_eq(mkdir(folder, 0755), 0);
}

static void end(void)
{
	git_free(git);
	store_free(store);
	loop_free(loop);
	tmpdir_remove(dir);
}

TestSuite(renames, .init = begin, .fini = end, .timeout = 30);

static void make(const char *name)
{
	auto_free char *path = git_repository(git, "a", name);

	cr_assert_eq(mkdir(path, 0755), 0);
}

static bool is_there(const char *name)
{
	auto_free char *path = git_repository(git, "a", name);

	return access(path, F_OK) == 0;
}

static bool is_noted(void)
{
	auto_free char *path = xasprintf("%s/git/.renamed/%s", dir, e->id);

	return access(path, F_OK) == 0;
}

static void rename_repository(const char *from, const char *to)
{
	struct err err = ERR_INIT;

	cr_assert_eq(git_rename(git, e->id, "a", from, to, &err), 0, "%s", err.msg);
}

Test(renames, one_whose_record_kept_the_old_name_is_undone)
{
	make("old");
	rename_repository("old", "new");
	cr_assert(is_there("new") && !is_there("old") && is_noted());
	git_settle_renames(git, store); /* the record was not written before the end */
	cr_assert(is_there("old") && !is_there("new") && !is_noted());
}

Test(renames, one_whose_record_has_the_new_name_stays_or_is_finished)
{
	struct err err = ERR_INIT;

	make("old");
	rename_repository("old", "new");
	cr_assert_eq(store_environment_rename(store, e, "new", &err), 0);
	git_settle_renames(git, store);
	cr_assert(is_there("new") && !is_there("old") && !is_noted());
	rename_repository("new", "newer");
	cr_assert_eq(store_environment_rename(store, e, "newer", &err), 0);
	auto_free char *from = git_repository(git, "a", "newer"), *to = git_repository(git, "a", "new");
	cr_assert_eq(rename(from, to), 0); /* what a power cut took back */
	git_settle_renames(git, store);
	cr_assert(is_there("newer") && !is_there("new"));
}

Test(renames, two_in_a_row_are_undone_together)
{
	make("old");
	rename_repository("old", "new");
	rename_repository("new", "newer");
	git_settle_renames(git, store);
	cr_assert(is_there("old") && !is_there("new") && !is_there("newer"));
}

Test(renames, what_is_another_environments_is_left_to_it)
{
	struct store_environment *other;
	struct err err = ERR_INIT;

	make("old");
	rename_repository("old", "new");
	cr_assert_eq(store_environment_add(store, ns, "new", &other, &err), 0);
	git_settle_renames(git, store);
	cr_assert(is_there("new") && !is_there("old") && !is_noted());
}

Test(renames, without_a_repository_there_is_nothing_to_note)
{
	rename_repository("old", "new");
	cr_assert_not(is_noted());
	git_settle_renames(git, store);
}
