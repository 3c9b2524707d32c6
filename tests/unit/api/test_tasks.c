/* Tasks over real connections: unix ones, whose bytes count as acknowledged once written, and TCP ones, where the kernel
 * says. */
#include "api/sandbox/tasks.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "unit/http/harness.h"
#include "base/str.h"
#include "base/time.h"

static struct tasks *tasks;
static struct task *served; /* what the next request is attached to */
static bool as_first, ends_at_once;
static int released;

static void on_close(struct http_req *req UNUSED, bool complete, void *arg)
{
	task_stream_closed(arg, complete);
}

static void handler(struct http_req *req, void *arg UNUSED)
{
	struct task_stream *st = http_req_alloc(req, sizeof(*st));

	st->task = NULL;
	http_req_on_close(req, on_close, st);
	task_attach(served, st, req, as_first);
	if (ends_at_once)
		tasks = tasks_free(tasks, "it has ended");
}

static void release(void *arg UNUSED)
{
	released++;
}

static ssize_t read_text(void *arg, uint64_t *pos, char *p, size_t cap)
{
	const char *text = arg;
	size_t n = MIN(strlen(text) - (size_t)*pos, cap);

	memcpy(p, text + *pos, n);
	*pos += n;
	return (ssize_t)n;
}

static const unsigned char key_a[TASK_KEY_LEN] = "a", key_b[TASK_KEY_LEN] = "b";

static struct task *make(const unsigned char *key)
{
	struct task_result r = { .release = release, .arg = (void *)(uintptr_t)"{\"x\":1}" };

	return task_new(tasks, key, &r);
}

static void begin(void)
{
	harness_begin(handler, NULL);
	tasks = tasks_new(loop, 100, 200, NULL);
	as_first = true;
	released = 0;
}

static void end(void)
{
	tasks = tasks_free(tasks, "the end");
	harness_end();
}

TestSuite(tasks, .init = begin, .fini = end, .timeout = 60);

#define REQUEST "POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

static const char *attach(int fd, struct task *t)
{
	served = t;
	return talk(fd, REQUEST);
}

static int connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), s;
	struct err err = ERR_INIT;

	cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(l, 1), 0);
	cr_assert_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
	cr_assert_eq(connect(c, (struct sockaddr *)&a, sizeof(a)), 0);
	s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	close(l);
	cr_assert_eq(http_server_adopt(server, s, 0, &err), 0, "%s", err.msg);
	cr_assert_eq(fcntl(c, F_SETFL, O_NONBLOCK), 0);
	return c;
}

Test(tasks, the_id_comes_first_and_the_result_when_there_is_one)
{
	struct task *t = make(key_a);
	int fd = connect_pair();
	const char *text = attach(fd, t);
	auto_free char *event = xasprintf("event: task_id\ndata: %s\n\n", task_id(t));

	cr_assert_not_null(strstr(text, event));
	cr_assert_null(strstr(text, "event: end"));
	cr_assert_eq(strlen(task_id(t)), TASK_ID_LEN - 1);
	task_finish(t, read_text);
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: end\ndata: {\"x\":1}\n\n"));
	close(fd);
}

Test(tasks, a_failure_is_an_error_event)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	attach(fd, t);
	task_fail(t, "no such thing");
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: error\ndata: no such thing\n\n"));
	close(fd);
}

/* A result waits until its id has left; the sandbox may end before that. */
Test(tasks, a_result_whose_id_has_not_left_is_an_error_at_the_end)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	task_finish(t, read_text);
	ends_at_once = true;
	const char *text = attach(fd, t);
	cr_assert_not_null(strstr(text, "event: error\ndata: it has ended\n\n\r\n0\r\n\r\n"), "%s", text);
	close(fd);
}

static ssize_t read_without_end(void *arg UNUSED, uint64_t *pos, char *p, size_t cap)
{
	memset(p, 'x', cap);
	*pos += cap;
	return (ssize_t)cap;
}

static ssize_t read_in_vain(void *arg UNUSED, uint64_t *pos UNUSED, char *p UNUSED, size_t cap UNUSED)
{
	return -EIO;
}

/* What came last. */
static const char *read_to_its_end(int fd)
{
	static char last[2048];
	size_t kept = 0;

	while (!memmem(last, kept, "\r\n0\r\n\r\n", 7)) {
		run_for(1);
		for (const char *text = read_now(fd); *text; text++) {
			if (kept == sizeof(last) - 1)
				memmove(last, last + 1024, kept -= 1024);
			last[kept++] = *text;
		}
	}
	last[kept] = 0;
	return last;
}

Test(tasks, a_result_whose_sandbox_goes_while_it_is_read_is_lost_by_infra)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	attach(fd, t);
	task_finish(t, read_without_end);
	run_for(20);
	tasks = tasks_free(tasks, "the end");
	cr_assert_not_null(strstr(read_to_its_end(fd),
				  "event: error\ndata: the sandbox has ended while its result was read (outcome infra)\n\n"));
	close(fd);
}

Test(tasks, a_result_that_cannot_be_read_is_lost_by_infra)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	attach(fd, t);
	task_finish(t, read_in_vain);
	cr_assert_not_null(strstr(read_to_its_end(fd),
				  "event: error\ndata: the result could not be read: Input/output error (outcome infra)\n\n"));
	close(fd);
}

Test(tasks, several_readers_get_the_same)
{
	struct task *t = make(key_a);
	int one = connect_pair(), two = connect_pair();

	attach(one, t);
	attach(two, t);
	task_finish(t, read_text);
	run_for(5);
	cr_assert_not_null(strstr(read_now(one), "{\"x\":1}"));
	cr_assert_not_null(strstr(read_now(two), "{\"x\":1}"));
	close(one);
	close(two);
}

Test(tasks, an_unread_result_stays)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	attach(fd, t);
	close(fd);
	run_for(5);
	task_finish(t, read_text);
	run_for(400);
	cr_assert_eq(task_find(tasks, task_id(t)), t);
	fd = connect_pair();
	cr_assert_not_null(strstr(attach(fd, t), "{\"x\":1}"));
	close(fd);
}

Test(tasks, a_result_that_was_read_goes_after_its_time)
{
	tasks = tasks_free(tasks, "another patience");
	tasks = tasks_new(loop, 1500, 200, NULL); /* a busy machine takes more than 100 ms for 50 */
	struct task *t = make(key_a);
	char id[TASK_ID_LEN];
	int fd = connect_pair();

	snprintf(id, sizeof(id), "%s", task_id(t));
	attach(fd, t);
	task_finish(t, read_text);
	run_for(50);
	cr_assert_eq(task_find(tasks, id), t);
	cr_assert_eq(released, 0);
	run_for(1600);
	cr_assert_null(task_find(tasks, id));
	cr_assert_eq(released, 1);
	close(fd);
}

Test(tasks, results_that_were_read_make_room)
{
	struct task *t[4];
	int fd[4];

	tasks = tasks_free(tasks, "another patience");
	tasks = tasks_new(loop, 60000, 200, NULL);
	for (int i = 0; i < 4; i++) {
		t[i] = make(key_a);
		task_finish(t[i], read_text);
	}
	for (int i = 0; i < 3; i++) {
		fd[i] = connect_pair();
		attach(fd[i], t[i]);
		run_for(5);
		close(fd[i]);
	}
	run_for(5);
	tasks_make_room(tasks, 5);
	cr_assert_eq(released, 0);
	auto_free char *first = xstrdup(task_id(t[0]));
	tasks_make_room(tasks, 4);
	cr_assert_eq(released, 1);
	cr_assert_null(task_find(tasks, first), "the one that was read first");
	tasks_make_room(tasks, 1);
	cr_assert_eq(released, 3, "what nobody has read stays");
	cr_assert_eq(task_find(tasks, task_id(t[3])), t[3]);
}

Test(tasks, reading_again_prolongs_it)
{
	tasks = tasks_free(tasks, "another patience");
	tasks = tasks_new(loop, 2000, 200, NULL);
	struct task *t = make(key_a);
	char id[TASK_ID_LEN];
	int fd = connect_pair();

	snprintf(id, sizeof(id), "%s", task_id(t));
	attach(fd, t);
	task_finish(t, read_text);
	run_for(1200);
	close(fd);
	fd = connect_pair();
	as_first = false;
	attach(fd, t);
	run_for(1200);
	cr_assert_eq(task_find(tasks, id), t);
	close(fd);
}

Test(tasks, equal_bodies_on_living_connections_are_two)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	cr_assert_null(task_find_twin(tasks, key_a));
	attach(fd, t);
	cr_assert_null(task_find_twin(tasks, key_a));
	close(fd);
}

Test(tasks, a_connection_that_knew_the_id_leaves_no_twin)
{
	struct task *t = make(key_a);
	int fd = connect_tcp();

	attach(fd, t);
	run_for(100); /* for the acknowledgement */
	close(fd);
	run_for(20);
	cr_assert_null(task_find_twin(tasks, key_a));
}

/* The request is there before the server looks, and the peer's socket is gone: no byte of the answer is acknowledged. */
Test(tasks, one_that_broke_before_is_joined)
{
	struct task *t = make(key_a);
	int fd = connect_tcp();

	served = t;
	cr_assert_eq(write(fd, REQUEST, strlen(REQUEST)), (ssize_t)strlen(REQUEST));
	close(fd);
	run_for(50);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
}

Test(tasks, the_rule_by_itself)
{
	struct task *t = make(key_a);
	int fd;

	task_first_closed(t, true);
	cr_assert_null(task_find_twin(tasks, key_a));
	task_first_closed(t, false);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
	cr_assert_null(task_find_twin(tasks, key_b));
	/* Whoever joins takes the place of the first: a third one is on its own. */
	fd = connect_pair();
	attach(fd, t);
	cr_assert_null(task_find_twin(tasks, key_a));
	close(fd);
}

/* Its client has the id, and comes with it on another connection before the end of the first is noticed. */
Test(tasks, one_that_was_claimed_is_never_joined)
{
	struct task *t = make(key_a);

	task_claim(t);
	task_first_closed(t, false);
	cr_assert_null(task_find_twin(tasks, key_a));
	t = make(key_b);
	task_first_closed(t, false);
	cr_assert_eq(task_find_twin(tasks, key_b), t);
	task_claim(t);
	task_first_closed(t, false);
	cr_assert_null(task_find_twin(tasks, key_b));
}

Test(tasks, after_its_time_no_twin_joins)
{
	struct task *t = make(key_a);

	uint64_t start = loop_now_ms(loop);
	task_first_closed(t, false);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
	while (task_find_twin(tasks, key_a) && time_now_ms() < start + 60000)
		run_for(10);
	cr_assert_null(task_find_twin(tasks, key_a));
	cr_assert_geq(loop_now_ms(loop), start + 200);
}

Test(tasks, the_end_of_the_table_tells_those_who_wait)
{
	int fd = connect_pair();

	attach(fd, make(key_a));
	tasks = tasks_free(tasks, "the sandbox has ended");
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: error\ndata: the sandbox has ended\n\n"));
	cr_assert_eq(released, 1);
	close(fd);
	tasks = tasks_new(loop, 1, 1, NULL);
}

/* -- what outlives the process ------------------------------------------------------------------------------------------------ */

static struct slots *records;
static char path[64];

static void begin_kept(void)
{
	struct slots_spec spec = { .path = path, .kind = "tasks", .life = "one", .record_bytes = sizeof(struct task_record), .max = 64 };
	struct err err = ERR_INIT;
	bool same;
	int fd;

	harness_begin(handler, NULL);
	snprintf(path, sizeof(path), "/tmp/tasks-XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	close(fd);
	cr_assert_eq(slots_open(&records, &spec, &same, &err), 0, "%s", err.msg);
	tasks = tasks_new(loop, 60000, 60000, records);
	as_first = true;
}

static void end_kept(void)
{
	tasks = tasks_free(tasks, "the end");
	records = slots_close(records);
	unlink(path);
	harness_end();
}

TestSuite(kept_tasks, .init = begin_kept, .fini = end_kept, .timeout = 60);

static struct task_record *record_of(const struct task *t)
{
	unsigned char label[TASK_LABEL_LEN];
	uint32_t slot;

	task_label(t, label);
	memcpy(&slot, label + TASK_KEY_LEN, sizeof(slot));
	return slots_at(records, slot);
}

/* The daemon is killed with the record of a task in this state. */
static struct task *killed_with(uint32_t state, uint32_t broke_s)
{
	struct task *t = make(key_a);
	unsigned char label[TASK_LABEL_LEN];
	struct task_record *r = record_of(t), copy;
	char id[TASK_ID_LEN];

	task_label(t, label);
	snprintf(id, sizeof(id), "%s", task_id(t));
	copy = *r;
	copy.state = state;
	copy.broke_s = broke_s;
	task_drop(t);
	*r = copy; /* freeing it is what the killed one did not do */
	return task_restore(tasks, id, label, sizeof(label), &(struct task_result){ .arg = (void *)(uintptr_t)"{}" });
}

/* A sandbox that says of a run of its own that it has the record of this one. */
static struct task *restore_with_label_of(struct tasks *t, const struct task *other, const char *id)
{
	unsigned char label[TASK_LABEL_LEN];

	task_label(other, label);
	return task_restore(t, id, label, sizeof(label), &(struct task_result){ .arg = (void *)(uintptr_t)"{}" });
}

Test(kept_tasks, a_label_that_names_anothers_record_takes_nothing)
{
	struct task *t = make(key_a);
	struct tasks *hostile = tasks_new(loop, 60000, 60000, records);
	uint32_t n_free = 0, given = 0;

	restore_with_label_of(hostile, t, "0123456789abcdef0123456789abcdef");
	cr_assert_null(task_find_twin(hostile, key_a));
	restore_with_label_of(hostile, t, task_id(t)); /* not even if it knew the id */
	cr_assert_null(task_find_twin(hostile, key_a));
	tasks_free(hostile, "the end");
	cr_assert_eq(record_of(t)->state, TASK_USED | TASK_HELD);

	for (uint32_t i = 0; i < slots_count(records); i++)
		n_free += ((const struct task_record *)slots_at(records, i))->state == 0;
	while (slots_take(records) != SLOTS_NONE)
		given++;
	cr_assert_eq(given, n_free, "a record was handed out twice, or lost");
}

Test(kept_tasks, a_record_that_is_named_before_its_owner_comes_is_still_the_owners)
{
	struct task *t = make(key_a);
	unsigned char label[TASK_LABEL_LEN];
	struct task_record *r = record_of(t), copy = *r;
	struct tasks *hostile = tasks_new(loop, 60000, 60000, records);
	char id[TASK_ID_LEN];

	task_label(t, label);
	snprintf(id, sizeof(id), "%s", task_id(t));
	task_drop(t);
	*r = copy;
	r->state = TASK_USED;
	task_restore(hostile, "0123456789abcdef0123456789abcdef", label, sizeof(label), &(struct task_result){ .arg = NULL });
	t = task_restore(tasks, id, label, sizeof(label), &(struct task_result){ .arg = NULL });
	tasks_free(hostile, "the end");
	cr_assert_eq(r->state, TASK_USED | TASK_HELD);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
}

static void settle_wait(bool expected)
{
	cr_assert_eq(tasks_wait(tasks, key_a), expected);
	if (expected)
		tasks_waited(tasks, key_a);
}

Test(kept_tasks, a_task_whose_id_was_told_is_never_joined)
{
	/* READ and ACKED may be missing: the process may have been killed before it could write them down. */
	static const uint32_t more[] = { 0, TASK_ACKED, TASK_READ, TASK_ACKED | TASK_READ, TASK_ACKED | TASK_LATE, TASK_READ | TASK_LATE };

	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		killed_with(TASK_USED | TASK_TOLD | more[i], 0);
		settle_wait(false);
		cr_assert_null(task_find_twin(tasks, key_a), "with %u", more[i]);
	}
}

Test(kept_tasks, one_that_was_not_told_is_joined_once_those_who_know_it_had_their_time)
{
	struct task *t = killed_with(TASK_USED, 0);

	settle_wait(true);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
	task_claim(t);
	settle_wait(false);
	cr_assert_null(task_find_twin(tasks, key_a));
}

Test(kept_tasks, one_whose_peer_had_gone_is_doubtful)
{
	struct task *t = killed_with(TASK_USED | TASK_TOLD | TASK_LATE, 0);

	settle_wait(true);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
}

Test(kept_tasks, one_whose_connection_broke_is_joined_at_once)
{
	struct task *t = killed_with(TASK_USED | TASK_TOLD, (uint32_t)MAX(loop_now_ms(loop) / 1000, (uint64_t)1));

	settle_wait(false);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
}

/* Its repetition came in time and waited, with others, for what runs in the sandbox. */
Test(kept_tasks, the_time_until_it_is_known_is_not_counted)
{
	uint32_t broke_s = (uint32_t)MAX(loop_now_ms(loop) / 1000, (uint64_t)1);
	struct task *t;

	tasks_free(tasks, "the end");
	tasks = tasks_new(loop, 60000, 2000, records);
	run_for(3200);
	t = killed_with(TASK_USED | TASK_TOLD, broke_s);
	cr_assert_eq(task_find_twin(tasks, key_a), t);
	run_for(2200);
	cr_assert_null(task_find_twin(tasks, key_a));
}

Test(kept_tasks, nor_is_one_that_was_claimed_before_its_stream_broke)
{
	struct task *t = make(key_a);

	task_claim(t);
	task_first_closed(t, false);
	cr_assert_eq(record_of(t)->broke_s, 0);
	killed_with(record_of(t)->state & ~(uint32_t)TASK_HELD, record_of(t)->broke_s);
	cr_assert_null(task_find_twin(tasks, key_a));
}

static struct task *reading;

static ssize_t read_once_told(void *arg, uint64_t *pos, char *p, size_t cap)
{
	cr_assert(record_of(reading)->state & TASK_TOLD, "a result was given before its id was with the kernel");
	return read_text(arg, pos, p, cap);
}

/* A repetition that joins what is over already gets id and result in two pieces. */
Test(kept_tasks, a_result_that_is_there_waits_for_the_id)
{
	int fd = connect_pair();
	const char *text;

	reading = killed_with(TASK_USED, 0);
	task_finish(reading, read_once_told);
	text = attach(fd, reading);
	cr_assert_not_null(strstr(text, "event: task_id"));
	run_for(50);
	if (!strstr(text, "event: end"))
		text = read_now(fd);
	cr_assert_not_null(strstr(text, "event: end\ndata: {}"));
	close(fd);
}

Test(kept_tasks, an_acknowledgement_is_written_down)
{
	struct task *t = make(key_a);
	int fd = connect_pair();

	attach(fd, t);
	cr_assert(record_of(t)->state & TASK_TOLD);
	run_for(1500); /* a unix socket's bytes count as acknowledged at once */
	cr_assert(record_of(t)->state & TASK_ACKED);
	cr_assert_eq(record_of(t)->state & TASK_LATE, 0);
	close(fd);
}
