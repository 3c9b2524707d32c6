/* Who follows the log of a deployment, over a stand-in for the engine. */
#include "base/time.h"
#include "unit/env/lives.h"

/* -- followers ----------------------------------------------------------------------------------------------------- */

struct follower {
	struct env_follow *f;
	struct store_deployment *d;
	char text[4096];
	unsigned overs;
	enum store_deployment_state state;
	bool leave_at_first;
};

static void on_line(void *arg, const char *line)
{
	struct follower *w = arg;
	size_t len = strlen(w->text);

	snprintf(w->text + len, sizeof(w->text) - len, "%s\n", line);
	if (w->leave_at_first)
		env_unfollow(w->f);
}

static void on_over(void *arg, enum store_deployment_state state, const char *reason UNUSED)
{
	struct follower *w = arg;

	w->overs++;
	w->state = state;
}

static void follow(struct follower *w, struct store_deployment *d)
{
	w->d = d;
	cr_assert_eq(env_follow(&w->f, envs, d, on_line, on_over, w, NULL), 0);
	cr_assert(!*w->text && !w->overs, "nothing comes inside the call");
}

/* -- a long log ---------------------------------------------------------------------------------------------------- */

struct counter {
	size_t lines, longest;
	unsigned turns;
	bool over;
};

static void count_line(void *arg, const char *line)
{
	struct counter *c = arg;

	c->lines++;
	c->longest = MAX(c->longest, strlen(line));
}

static void count_over(void *arg, enum store_deployment_state state UNUSED, const char *reason UNUSED)
{
	((struct counter *)arg)->over = true;
}

static void count_turn(void *arg)
{
	struct counter *c = arg;

	c->turns++;
	if (!c->over)
		loop_defer(loop, count_turn, c);
}

/* Two megabytes of short lines, one of 40,000 bytes, and a last one without its end: nobody else waits for all of them. */
FAKE_TEST(env, a_long_log_is_told_in_pieces)
{
	static char stuffing[40001];
	static struct counter c;
	struct env_follow *f;
	char path[512];

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	run_until(n_jobs == 1);
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	snprintf(path, sizeof(path), "%s/builds/%s/log", dir, d->id);
	FILE *log = fopen(path, "w");
	cr_assert_not_null(log);
	memset(stuffing, 'x', sizeof(stuffing) - 1);
	for (int i = 0; i < 20000; i++)
		fprintf(log, "2026-01-02T03:04:05.678Z %.75s\n%s", stuffing, i == 10000 ? stuffing : "");
	fprintf(log, "\nthe last");
	fclose(log);
	cr_assert_eq(env_follow(&f, envs, d, count_line, count_over, &c, NULL), 0);
	loop_defer(loop, count_turn, &c);
	run_until(c.over);
	cr_assert_eq(c.lines, 20002, "%zu", c.lines);
	cr_assert_eq(c.longest, 40000 + TIME_ISO_LEN + 75, "%zu", c.longest);
	cr_assert_gt(c.turns, 100, "%u", c.turns);
}

FAKE_TEST(env, followers_see_every_line_once_and_the_end_once)
{
	static struct follower early, late, after;

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	follow(&early, d);
	run_until(n_jobs == 1);
	jobs[0].line(jobs[0].arg, "STEP 1/2: FROM x");
	run_for(5);
	follow(&late, d);
	jobs[0].line(jobs[0].arg, "STEP 2/2: RUN y"); /* before the late one was given the kept log: it is in there */
	run_for(5);
	job_succeeds(&jobs[0]);
	run_until(early.overs);
	follow(&after, d);
	run_until(after.overs);
	cr_assert_eq(early.overs + late.overs + after.overs, 3);
	cr_assert_eq(after.state, STORE_DEPLOYMENT_READY);
	cr_assert_str_eq(early.text, late.text);
	cr_assert_str_eq(early.text, after.text);
	const char *step = strstr(early.text, "STEP 2/2: RUN y\n");
	cr_assert_not_null(step);
	cr_assert_null(strstr(step + 1, "STEP 2/2"), "%s", early.text);
	cr_assert_not_null(strstr(early.text, "ready: the server answers"));
}

/* While the kept log was told, which may take long, it failed, and was begun once more. */
FAKE_TEST(env, who_is_still_reading_hears_of_the_end_of_the_next_try)
{
	static struct counter c;
	struct store_deployment *to;
	struct env_follow *f;
	struct err err = ERR_INIT;
	char path[512];

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	run_until(n_jobs == 1);
	snprintf(path, sizeof(path), "%s/builds/%s/log", dir, d->id);
	FILE *log = fopen(path, "a");
	cr_assert_not_null(log);
	for (int i = 0; i < 20000; i++)
		fprintf(log, "2026-01-02T03:04:05.678Z line %d of many that are told in pieces, one in each turn of the loop\n", i);
	fclose(log);
	cr_assert_eq(env_follow(&f, envs, d, count_line, count_over, &c, NULL), 0);
	job_ends(&jobs[0], 256, "STEP 1 failed");
	run_until(d->state == STORE_DEPLOYMENT_FAILED);
	cr_assert_lt(c.lines, 20000, "it is still reading");
	cr_assert_eq(envs_rollback(envs, environment, d, &to, &err), 0, "%s", err.msg);
	run_until(c.lines > 20000 && n_jobs == 2);
	cr_assert(!c.over);
	job_succeeds(&jobs[1]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	cr_assert(c.over);
}

FAKE_TEST(env, a_follower_may_leave_inside_its_own_line)
{
	static struct follower replaying = { .leave_at_first = true }, living = { .leave_at_first = true }, soon;

	fake_begin_envs(1000);
	struct store_deployment *d = deploy();
	follow(&living, d);
	follow(&soon, d);
	env_unfollow(soon.f);
	run_until(n_jobs == 1);
	jobs[0].line(jobs[0].arg, "one");
	jobs[0].line(jobs[0].arg, "two");
	follow(&replaying, d);
	run_for(5);
	job_succeeds(&jobs[0]);
	run_until(d->state == STORE_DEPLOYMENT_READY);
	run_for(5);
	cr_assert_eq(replaying.overs + living.overs + soon.overs, 0);
	cr_assert_str_eq(soon.text, "");
	cr_assert_null(strstr(replaying.text, "two"));
}
