/* Names, signatures, and the two ends of a push: what a hook may say, and what a pusher is shown. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "git/private.h"

Test(git, branches)
{
	static const char *const good[] = { "main", "release/1.2", "a-b_c", "feature/x.y" };
	static const char *const bad[] = { "", "-x", "/x", "x/", "x//y", "a..b", ".x", "a/.b", "x.lock", "x.lock/y", "@", "a b", "a~b", "a^",
					   "a:b", "a?b", "a*b", "a[b", "a\\b", "a@{b", "x.", "HEAD", "a\nb" };

	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		cr_assert(git_is_branch(good[i]), "%s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_not(git_is_branch(bad[i]), "%s", bad[i]);
}

Test(git, subdirectories)
{
	static const char *const good[] = { "a", "envs/one", "a b", "..a", "a.." };
	static const char *const bad[] = { "", "/", "/a", "a/", "..", "a/..", "a/../b", "a//b", "./a", "a/.", "a\\b", "a\nb" };

	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		cr_assert(git_is_subdirectory(good[i]), "%s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_not(git_is_subdirectory(bad[i]), "%s", bad[i]);
}

Test(git, repositories_of_github)
{
	cr_assert(github_is_repo("me/it"));
	cr_assert(github_is_repo("me/.github"));
	cr_assert_not(github_is_repo("me"));
	cr_assert_not(github_is_repo("me/"));
	cr_assert_not(github_is_repo("/it"));
	cr_assert_not(github_is_repo("me/.."));
	cr_assert_not(github_is_repo("me/it/more"));
	cr_assert_not(github_is_repo("me/it?x"));
	cr_assert_not(github_is_repo(NULL));
}

/* The example of GitHub's own documentation. */
Test(git, signatures)
{
	static const char secret[] = "It's a Secret to Everybody", body[] = "Hello, World!";
	static const char right[] = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
	char wrong[sizeof(right)];

	cr_assert(github_signed(secret, right, body, strlen(body)));
	for (size_t i = 0; i < strlen(right); i++) {
		memcpy(wrong, right, sizeof(right));
		wrong[i] = wrong[i] == '0' ? '1' : '0';
		cr_assert_not(github_signed(secret, wrong, body, strlen(body)), "%zu", i);
	}
	cr_assert_not(github_signed("", right, body, strlen(body)));
	cr_assert_not(github_signed(secret, NULL, body, strlen(body)));
	cr_assert_not(github_signed(secret, "sha256=", body, strlen(body)));
	cr_assert_not(github_signed(secret, right, body, strlen(body) - 1));
}

/* -- a push ---------------------------------------------------------------------------------------------------------- */

static struct git g;
static struct seen {
	unsigned changed, gone;
	size_t n;
	char ref[64];
	struct git_push *push;
} seen;

static void on_changed(void *arg, struct git_push *p, const struct git_ref_change *c, size_t n)
{
	(void)arg;
	seen.changed++;
	seen.n = n;
	seen.push = p;
	if (n)
		snprintf(seen.ref, sizeof(seen.ref), "%s", c[0].ref);
}

static void on_gone(void *arg, struct git_push *p)
{
	(void)arg;
	(void)p;
	seen.gone++;
}

static const struct git_push_events events = { .changed = on_changed, .gone = on_gone };

static void on_stop(struct loop_timer *t, void *arg)
{
	(void)t;
	loop_stop(arg, 0);
}

static void turn(void)
{
	struct loop_timer t;

	loop_timer_init(&t, g.loop, on_stop, g.loop);
	loop_timer_start(&t, 20);
	cr_assert_eq(loop_run(g.loop), 0);
}

static struct git_push *open_push(int *ret_fd)
{
	struct git_push *p;
	struct err err;

	memset(&seen, 0, sizeof(seen));
	cr_assert_eq(loop_new(&g.loop, &err), 0);
	cr_assert_eq(push_new(&p, &g, &events, NULL, ret_fd, &err), 0);
	return p;
}

#define ID "0123456789abcdef0123456789abcdef01234567"

Test(git, a_report_is_heard_once_it_is_whole)
{
	static const char first[] = ID " " ID " refs/heads/main\n", second[] = ID " nonsense refs/heads/x\nrefs\n\n";
	auto_fd fd = -1;
	struct git_push *p = open_push(&fd);
	char said[256] = "";

	cr_assert_eq(fd_write_all(fd, first, strlen(first)), 0);
	turn();
	cr_assert_eq(seen.changed, 0);
	cr_assert_eq(fd_write_all(fd, second, strlen(second)), 0);
	turn();
	cr_assert_eq(seen.changed, 1);
	cr_assert_eq(seen.n, 1);
	cr_assert_str_eq(seen.ref, "refs/heads/main");
	git_push_say(p, "two\033[2J words\r");
	git_push_end(p);
	turn();
	cr_assert_gt(read(fd, said, sizeof(said) - 1), 0);
	cr_assert_str_eq(said, "two?[2J words?\n");
	cr_assert_eq(read(fd, said, sizeof(said)), 0); /* the end of file that lets the hook end */
	push_free(p);
	cr_assert_eq(seen.gone, 0);
	loop_free(g.loop);
}

Test(git, a_push_that_reports_nothing_is_gone)
{
	int fd;
	struct git_push *p = open_push(&fd);

	fd_close(fd);
	turn();
	cr_assert_eq(seen.changed, 0);
	push_free(p);
	cr_assert_eq(seen.gone, 1);
	loop_free(g.loop);
}

Test(git, a_reader_that_is_too_slow_loses_lines_and_holds_nobody_up)
{
	auto_fd fd = -1;
	struct git_push *p = open_push(&fd);
	char line[1024];

	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	for (int i = 0; i < 4096; i++)
		git_push_say(p, line);
	turn();
	push_free(p);
	cr_assert_eq(seen.gone, 1);
	loop_free(g.loop);
}
