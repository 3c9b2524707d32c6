/* What git is told to sync, and what is synced of a repository that was made. */
#include "unit/synced.h"

#include "git/private.h"
#include "unit/http/harness.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-git-XXXXXX";
static struct git *git;
static char out[256];
static unsigned told; /* programs that were started with it in their environment */

/* In the place of the C library's: the child has our memory until it is another program. */
int execve(const char *path, char *const argv[], char *const env[])
{
	for (size_t i = 0; env[i]; i++)
		told += !strncmp(env[i], "GIT_CONFIG_VALUE_", 17) && strstr(env[i], "=" GIT_FSYNC);
	return (int)syscall(SYS_execve, path, argv, env);
}

static void begin(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	const struct git_settings s = { .data_dir = dir, .time_limit_ms = 30000, .max_processes = 1, .push_max_bytes = 1 << 20 };
	cr_assert_eq(git_new(&git, loop, &s, &err), 0, "%s", err.msg);
}

static void end(void)
{
	git_free(git);
	harness_end();
	tmpdir_remove(dir);
}

static void on_made(void *arg, const struct err *err)
{
	(void)arg;
	cr_assert_null(err);
	loop_stop(loop, 0);
}

static void make(const char *repository)
{
	git_make(git, repository, "main", on_made, NULL);
	cr_assert_eq(loop_run(loop), 0);
}

static void on_said(void *arg, int status, const char *text, const char *said, const struct err *err)
{
	(void)arg;
	cr_assert(!err && !status, "%s", err ? err->msg : said);
	snprintf(out, sizeof(out), "%s", text);
	loop_stop(loop, 0);
}

static void handle(struct http_req *r, void *arg)
{
	(void)arg;
	git_serve(git, r, "a", "b", "/info/refs", "somebody", NULL, NULL);
}

Test(durable, a_repository_that_was_made_is_on_disk, .timeout = 60)
{
	harness_begin(handle, NULL);
	begin();
	auto_free char *repository = git_repository(git, "a", "b"), *aside = xasprintf("%s/git/.making/1", dir);
	auto_free char *head = xasprintf("%s/HEAD", aside), *of = xasprintf("%s/git/a", dir);

	make(repository);
	cr_assert_neq(synced_at(head), SIZE_MAX);
	cr_assert_lt(synced_at(head), synced_at(of), "before it got its name");
	cr_assert_neq(synced_at(of), SIZE_MAX);
	cr_assert_neq(access(aside, F_OK), 0);
	end();
}

Test(durable, pushes_and_fetches_sync_objects_and_refs, .timeout = 60)
{
	static const char *const argv[] = { "config", "core.fsync", NULL };

	harness_begin(handle, NULL);
	begin();
	auto_free char *repository = git_repository(git, "a", "b");
	const struct git_command c = { .argv = argv, .repository = repository, .stdout_fd = -1 };

	make(repository);
	git_start(git, &c, on_said, NULL);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_str_eq(out, GIT_FSYNC "\n");
	cr_assert_eq(told, 0);
	int fd = connect_pair();
	static const char request[] = "GET /?service=git-receive-pack HTTP/1.1\r\nHost: h\r\n\r\n";
	const char *answer = "";
	cr_assert_eq(write(fd, request, sizeof(request) - 1), (ssize_t)sizeof(request) - 1);
	for (int i = 0; i < 1000 && !*answer; i++) { /* git has to be started */
		run_for(10);
		answer = read_now(fd);
	}
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s", answer);
	cr_assert_eq(told, 1);
	close(fd);
	run_for(20);
	end();
}
