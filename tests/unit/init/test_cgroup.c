/* The counters of a sandbox, from files that say what the test wants. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "init/init.h"
#include "sandbox/outcome.h"

#define S 1000000ull

static struct init in;

static void begin(void)
{
	in.groups.oom_fd = memfd_create("events", MFD_CLOEXEC);
	in.groups.pids_fd = -1;
	cr_assert_geq(in.groups.oom_fd, 0);
}

static void end(void)
{
	close(in.groups.oom_fd);
}

TestSuite(cgroup, .init = begin, .fini = end);

static void events(const char *text)
{
	cr_assert_eq(ftruncate(in.groups.oom_fd, 0), 0);
	cr_assert_eq(pwrite(in.groups.oom_fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

static struct counters at_end(const struct counters *from, uint64_t now_us)
{
	struct counters now = groups_counters(&in, now_us);

	return groups_counted(from, &now);
}

Test(cgroup, a_kill_whose_hit_was_counted_just_before_the_start_has_its_hit)
{
	struct outcome_evidence e;
	struct counters base, c;

	events("low 0\nmax 7\noom 0\noom_kill 0\n");
	groups_begin(&in, 100 * S);
	events("low 0\nmax 8\noom 1\noom_kill 0\n");
	base = groups_begin(&in, 200 * S);
	events("low 0\nmax 8\noom 1\noom_kill 1\n");
	c = at_end(&base, 201 * S);
	cr_assert_eq(c.oom_kills, 1);
	cr_assert_eq(c.limit_hits, 1);
	e = (struct outcome_evidence){ .oom_kills = c.oom_kills, .limit_hits = c.limit_hits, .disk_free_bytes = UINT64_MAX };
	cr_assert_eq(outcome_of(&e), ENGINE_OOM, "the host was not short");
}

Test(cgroup, a_hit_of_long_ago_is_no_run_s)
{
	struct counters base, c;

	base = groups_begin(&in, 100 * S);
	events("oom 1\noom_kill 1\n");
	c = at_end(&base, 101 * S);
	cr_assert_eq(c.limit_hits, 1);
	base = groups_begin(&in, 107 * S);
	events("oom 1\noom_kill 2\n");
	c = at_end(&base, 108 * S);
	cr_assert_eq(c.oom_kills, 1);
	cr_assert_eq(c.limit_hits, 0, "the host was short");
}

Test(cgroup, hits_that_follow_each_other_are_all_recent)
{
	struct counters base;

	for (uint64_t t = 0; t < 3; t++) {
		events(t == 0 ? "oom 1\n" : t == 1 ? "oom 2\n" : "oom 3\n");
		groups_counters(&in, 100 * S + t * 4 * S);
	}
	base = groups_begin(&in, 109 * S);
	cr_assert_eq(base.limit_hits, 0);
	base = groups_begin(&in, 114 * S);
	cr_assert_eq(base.limit_hits, 3);
}
