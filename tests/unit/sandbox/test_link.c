/* The link against a spawner that only speaks the protocol: jobs, and what is asked of it as a whole. */
#include "unit/sandbox/linked.h"

TestSuite(link, .init = linked_begin, .fini = linked_end, .timeout = 60);

/* -- jobs ----------------------------------------------------------------------------------------------------------------------- */

static char lines[200];
static int job_status;
static struct err job_err;

static void on_line(void *arg UNUSED, const char *line)
{
	size_t len = strlen(lines);

	snprintf(lines + len, sizeof(lines) - len, "%s|", line);
}

static void on_job(void *arg UNUSED, int status, const struct err *e)
{
	job_status = status;
	job_err.code = 0;
	if (e)
		job_err = *e;
	stop();
}

Test(link, a_job_tells_its_lines_and_its_end)
{
	const char *const argv[] = { "pulling", "", "done", NULL };
	struct image_jobs *jobs = link_jobs(spawner);
	uint64_t number = 0;

	job_status = 99;
	cr_assert_eq(jobs->start(jobs, "say", argv, -1, on_line, on_job, NULL, &number, &err), 0);
	cr_assert(turn(5000));
	cr_assert_str_eq(lines, "pulling|done|");
	cr_assert_eq(job_status, 0);
	cr_assert_eq(job_err.code, 0);
	cr_assert_gt(number, 0);
}

Test(link, a_failed_job_says_its_last_line)
{
	const char *const argv[] = { "trying", "no such host", NULL };
	struct image_jobs *jobs = link_jobs(spawner);
	uint64_t number;

	cr_assert_eq(jobs->start(jobs, "fail", argv, -1, on_line, on_job, NULL, &number, &err), 0);
	cr_assert(turn(5000));
	cr_assert_eq(job_status, 3);
	cr_assert_eq(job_err.code, -EIO);
	cr_assert_str_eq(job_err.msg, "no such host");
	cr_assert_eq(jobs->start(jobs, "busy", argv, -1, on_line, on_job, NULL, &number, &err), 0);
	cr_assert(turn(5000));
	cr_assert_eq(job_status, IMAGE_JOB_BUSY);
	cr_assert_eq(job_err.code, -EBUSY);
	cr_assert_str_eq(job_err.msg, "no such host");
}

Test(link, a_job_whose_output_finds_no_room_here_is_cancelled)
{
	const char *const argv[] = { "pulling", NULL };
	struct image_jobs *jobs = link_jobs(spawner);
	uint64_t number;
	struct rlimit old;

	cr_assert_eq(jobs->start(jobs, "say", argv, -1, on_line, on_job, NULL, &number, &err), 0);
	usleep(200000); /* the answer is there */
	old = use_up_descriptors();
	cr_assert(turn(5000));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	cr_assert_eq(job_err.code, -EMFILE, "%s", job_err.msg);
	for (int i = 0; i < 100 && !str_eq(fake.cancelled_id, fake.job_id); i++)
		turn(10);
	cr_assert_str_eq(fake.cancelled_id, fake.job_id);
}

/* -- the link --------------------------------------------------------------------------------------------------------------------- */

static char platform_id[64], leaks[ERR_MSG_MAX];
static uint64_t platform_number;

static void on_platform(void *arg UNUSED, const char *id, uint64_t number, uint16_t port, int fd)
{
	snprintf(platform_id, sizeof(platform_id), "%s:%u", id, port);
	platform_number = number;
	close(fd);
	stop();
}

Test(link, connections_to_the_platform)
{
	struct link_platform p = { .connection = on_platform };
	static _Alignas(8) char buf[512];
	struct wire_out o;
	int fd = dup(0);

	link_set_platform(spawner, &p);
	wire_begin(&o, buf, sizeof(buf), WIRE_PLATFORM, 0);
	wire_put_str(&o, WIRE_T_ID, ID);
	wire_put_u64(&o, WIRE_T_NUMBER, 42);
	wire_put_u64(&o, WIRE_T_PORT, 80);
	cr_assert_eq(wire_send(fake.egress, &o, &fd, 1), 0);
	close(fd);
	cr_assert(turn(5000));
	cr_assert_str_eq(platform_id, ID ":80");
	cr_assert_eq(platform_number, 42);
}

static void on_leaks(void *arg UNUSED, const char *text, const struct err *e)
{
	snprintf(leaks, sizeof(leaks), "%s", e ? e->msg : text);
	stop();
}

Test(link, leaks_and_shutdown)
{
	link_leaks(spawner, on_leaks, NULL);
	cr_assert(turn(5000));
	cr_assert_str_eq(leaks, "mount /x");
	link_shutdown(spawner, on_done, NULL);
	for (int i = 0; i < 100 && !n_done; i++)
		turn(10);
	cr_assert_eq(n_done, 1);
}

Test(link, nobody_there)
{
	struct link *other;

	cr_assert_lt(link_new(&other, loop, "/nowhere/socket", &err), 0);
	cr_assert_not_null(strstr(err.msg, "/nowhere/socket"));
}
