/* What belongs to a sandbox and outlives a request: sidecars, input and output of its runs, uploads, records. */
#include <time.h>

#include "unit/api/sandboxes.h"
#include "api/sandbox/sidecars.h"

TestSuite(sandbox_parts, .init = begin, .fini = end, .timeout = 60);

/* -- sidecars of a former daemon ---------------------------------------------------------------------------------------------- */

static void image_fails(void)
{
	struct err e;

	cr_assert_not_null(fake.image_done, "nobody asks for the image");
	err_set(&e, -EIO, "the registry is away");
	engine_image_fn *done = fake.image_done;
	fake.image_done = NULL;
	done(fake.image_arg, NULL, &e);
}

/* The image fails, and is asked for again after a pause, on the loop's clock: not before, and the status says how long it takes. */
static void pauses(uint64_t ms)
{
	uint64_t failed = loop_now_ms(loop);

	image_fails();
	const char *text = strstr(get(fd, "/v1/sandboxes/" OLD), "\"starts_in_s\":");
	cr_assert_not_null(text);
	double starts_in_s = strtod(text + strlen("\"starts_in_s\":"), NULL);
	cr_assert(starts_in_s <= (double)ms / 1000, "%g s, of a pause of %llu ms", starts_in_s, (unsigned long long)ms);
	while (!fake.image_done) /* or the suite's time is up */
		run_for(10);
	uint64_t after = loop_now_ms(loop) - failed;
	cr_assert(after >= ms, "asked for again after %llu ms, not %llu", (unsigned long long)after, (unsigned long long)ms);
}

Test(sandbox_parts, a_sidecar_whose_image_can_not_be_had_is_tried_again_and_again)
{
	auto_free char *note = xasprintf("{\"namespace\": \"%s\", \"sidecars\": [{\"name\": \"db\", \"image\": \"x\"}]}",
					 store_namespace_find(store, "local")->id);

	cr_assert(sandboxes_adopt(sandboxes, &old, note, strlen(note)));
	sandboxes_taken_over(sandboxes);
	fake.known(fake.heir);
	fd = connect_pair();
	for (uint64_t ms = 500; ms <= 2000; ms *= 2)
		pauses(ms);
	image_comes();
	cr_assert_not_null(fake.create_done, "and made when its image is there");
	close(fd);
}

#define DB "00000000-0000-8000-8000-0123456789cd"

static void tell_left(struct engine_exec *x, const char *id, uint32_t restarts)
{
	struct sidecar_label label = { .restarts = restarts };

	memcpy(label.magic, SIDECAR_LABEL, sizeof(label.magic));
	*x = (struct engine_exec){ .box = &old, .id = id };
	fake.left(fake.heir, x, &(struct engine_left){ .label = &label, .label_len = sizeof(label), .age_ms = 1000 });
}

/* One that runs, and the one before it, which has ended; init tells of them in this order. */
static void two_commands_left(const uint32_t restarts[2])
{
	static struct engine_box db = { .engine = &engine, .id = DB };
	static const char note_of_db[] = "{\"sidecar_of\": \"" OLD "\", \"name\": \"db\"}";
	static struct engine_exec x[2];
	auto_free char *note = xasprintf("{\"namespace\": \"%s\", \"sidecars\": [{\"name\": \"db\", \"image\": \"x\"}]}",
					 store_namespace_find(store, "local")->id);
	struct engine_exec_result res = { .return_code = 3, .outcome = ENGINE_EXITED };

	cr_assert(sandboxes_adopt(sandboxes, &old, note, strlen(note)));
	fake.known(fake.heir);
	cr_assert(sandboxes_adopt(sandboxes, &db, note_of_db, strlen(note_of_db)));
	sandboxes_taken_over(sandboxes);
	for (int i = 0; i < 2; i++)
		tell_left(&x[i], restarts[i] ? "11111111111111111111111111111111" : "00000000000000000000000000000000", restarts[i]);
	fake.exec_done(fake.exec_arg, &x[restarts[0] == 0 ? 0 : 1], &res, NULL);
	fake.known(fake.heir);
	run_for(700);
}

static void the_one_that_runs_goes_on(void)
{
	const struct sandbox *b = list_first(&sandboxes->all, struct sandbox, node);
	const struct sidecar *c = list_first(&b->sidecars, struct sidecar, node);

	cr_assert_eq(c->state, SIDECAR_RUNNING);
	cr_assert_eq(c->restarts, 1);
	cr_assert_str_eq(c->run->id, "11111111111111111111111111111111");
	cr_assert_not(c->run->over);
	cr_assert_eq(c->previous->res.return_code, 3);
	cr_assert_null(fake.image_done, "it is begun a second time");
	cr_assert_eq(fake.runs, 0);
}

Test(sandbox_parts, a_sidecar_that_runs_is_not_taken_for_the_one_before_it)
{
	two_commands_left((const uint32_t[]){ 1, 0 });
	the_one_that_runs_goes_on();
}

Test(sandbox_parts, nor_when_the_one_before_is_told_of_first)
{
	two_commands_left((const uint32_t[]){ 0, 1 });
	the_one_that_runs_goes_on();
}

/* -- input of a run in the background --------------------------------------------------------------------------------------- */

/* A new sandbox and a run in it; the path of its input, with a query. */
static const char *begin_input(const char *query)
{
	static char path[256];

	fd = connect_pair();
	ready(fd);
	snprintf(path, sizeof(path), "/v1/sandboxes/%.40s/runs", fake.id);
	const char *run = strstr(post(fd, path, NULL, NULL, "{\"cmd\": \"cat\", \"stdin\": true}"), "\"id\":\"");
	cr_assert_not_null(run);
	snprintf(path, sizeof(path), "/v1/sandboxes/%.40s/runs/%.32s/stdin%s", fake.id, run + 6, query);
	return path;
}

Test(sandbox_parts, input_is_asked_for_once_whoever_waits_for_it)
{
	char text[16] = "";
	int p[2], first = connect_pair(), second = connect_pair();
	const char *path = begin_input("?close=1");

	cr_assert_eq(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	cr_assert_str_empty(post(first, path, NULL, NULL, "lost"));
	close(first); /* before init has answered */
	run_for(20);
	cr_assert_str_empty(post(second, path, NULL, NULL, "hello"));
	for (int i = fake.inputs; i > 0; i--)
		fake.input_done(fake.input_arg, fcntl(p[1], F_DUPFD_CLOEXEC, 0), NULL);
	close(p[1]);
	run_for(20);
	cr_assert_not_null(strstr(read_now(second), "{\"offset\": 5}"));
	cr_assert_eq(read(p[0], text, sizeof(text)), 5);
	cr_assert_str_eq(text, "hello");
	cr_assert_eq(read(p[0], text, sizeof(text)), 0, "nobody holds the input of a command open that was closed");
	close(p[0]);
	close(second);
}

static int left_given, left_end;

/* A run whose input has been given out, to left_given; the path to write to. */
static const char *run_with_input(int c)
{
	const char *path = begin_input("");
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	cr_assert_str_empty(post(c, path, NULL, NULL, "hello"));
	left_given = p[1];
	left_end = p[0];
	fake.input_done(fake.input_arg, p[1], NULL);
	run_for(20);
	cr_assert_not_null(strstr(read_now(c), "{\"offset\": 5}"));
	return path;
}

static void command_closes_its_input(void)
{
	close(left_end);
	run_for(20);
	cr_assert_eq(fcntl(left_given, F_GETFD), -1, "it is looked at for ever");
}

static uint64_t cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

Test(sandbox_parts, an_input_that_its_command_closed_keeps_nobody_busy)
{
	int c = connect_pair();
	const char *path = run_with_input(c);
	uint64_t before;

	command_closes_its_input();
	before = cpu_ms();
	run_for(1000);
	cr_assert_lt(cpu_ms() - before, 100);
	const char *text = post(c, path, NULL, NULL, "more");
	cr_assert_not_null(strstr(text, "has closed its standard input"), "%s", text);
	cr_assert_not_null(strstr(post(c, path, NULL, NULL, ""), "{\"offset\": 5}"));
	close(c);
	close(fd);
}

static const char *write_part(int c, const char *path, const char *part)
{
	auto_free char *text = xasprintf("POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s", path,
					 key, part);

	return talk(c, text);
}

Test(sandbox_parts, who_wrote_all_before_the_command_closed_its_input_is_told_so)
{
	int c = connect_pair();
	const char *path = run_with_input(c);

	cr_assert_str_empty(write_part(c, path, "2\r\nme\r\n"));
	command_closes_its_input();
	cr_assert_str_empty(read_now(c));
	cr_assert_not_null(strstr(talk(c, "0\r\n\r\n"), "{\"offset\": 7}"));
	close(c);
	close(fd);
}

Test(sandbox_parts, who_waits_for_a_full_input_that_is_closed_is_refused)
{
	int c = connect_pair();
	const char *path = run_with_input(c);
	char full[4096] = "";

	while (write(left_given, full, sizeof(full)) > 0)
		;
	cr_assert_str_empty(write_part(c, path, "2\r\nme\r\n"));
	command_closes_its_input();
	cr_assert_not_null(strstr(read_now(c), "has closed its standard input"));
	close(c);
	close(fd);
}

/* -- its output ------------------------------------------------------------------------------------------------------------ */

static void is_cut_off(const char *run, const char *query)
{
	const struct engine_fetched f = { .stored = 10, .fd = -1 };
	auto_free char *path = xasprintf("/v1/sandboxes/%s/runs/%.32s/output%s", fake.id, run, query);
	int c = connect_pair();
	char byte;

	get(c, path);
	fake.fetches = 0;
	fake.fetch_done(fake.fetch_arg, &f, NULL);
	run_for(20);
	cr_assert_null(strstr(read_now(c), "0\r\n\r\n"), "it looks complete");
	cr_assert_eq(read(c, &byte, 1), 0, "it breaks off");
	cr_assert_eq(fake.fetches, 0, "and is not asked for again at once");
	close(c);
}

Test(sandbox_parts, output_that_init_could_not_hand_over_is_cut_off)
{
	char path[128], run[33];

	fd = connect_pair();
	ready(fd);
	snprintf(path, sizeof(path), "/v1/sandboxes/%.40s/runs", fake.id);
	const char *id = strstr(post(fd, path, NULL, NULL, "{\"cmd\": \"cat\"}"), "\"id\":\"");
	cr_assert_not_null(id);
	snprintf(run, sizeof(run), "%.32s", id + 6);
	is_cut_off(run, "");
	is_cut_off(run, "?follow=1");
	close(fd);
}

/* -- uploads ------------------------------------------------------------------------------------------------------------------ */

#define MANY 1024 /* UPLOADS_MAX */
#define AT_ONCE 64

static void write_behind_nothing(int from, int n)
{
	auto_buf struct buf all = { 0 };
	const char *text;

	buf_init(&all, 1u << 20);
	for (int i = from; i < from + n; i++)
		cr_assert_eq(buf_printf(&all, "POST /write_file?path=/f%d&offset=5 HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nX-Session-ID: %s\r\n"
					"Content-Length: 1\r\n\r\nx", i, key, fake.id), 0);
	text = talk(fd, all.data);
	for (int i = 0; i < n; i++) {
		text = strstr(text, "\"detail\":\"/f");
		cr_assert_not_null(text);
		cr_assert_not_null(strstr(text++, "no upload is open"));
	}
}

Test(sandbox_parts, uploads_that_never_began_take_no_place)
{
	struct err e;

	fd = connect_pair();
	ready(fd);
	for (int i = 0; i < MANY; i += AT_ONCE)
		write_behind_nothing(i, AT_ONCE);
	cr_assert_str_empty(post(fd, "/write_file?path=/new&offset=0", fake.id, NULL, "x"));
	cr_assert_not_null(fake.open_done);
	err_set(&e, -ENOENT, "/new: no such folder");
	fake.open_done(fake.open_arg, -1, 0, NULL, &e);
	run_for(5);
	close(fd);
}

/* The answer, once the worker is through. */
static const char *opened(int file, uint64_t size, const struct err *e)
{
	const char *text = "";

	fake.open_done(fake.open_arg, file, size, "staged", e);
	for (int i = 0; i < 1000 && !*text; i++) {
		run_for(5);
		text = read_now(fd);
	}
	return text;
}

Test(sandbox_parts, a_commit_that_fails_for_now_keeps_what_was_sent)
{
	int file = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct err e;

	fd = connect_pair();
	ready(fd);
	cr_assert_str_empty(post(fd, "/write_file?path=/new&offset=0", fake.id, NULL, "x"));
	cr_assert_not_null(strstr(opened(dup(file), 0, NULL), "{\"written\": 1}"));
	cr_assert_str_empty(post(fd, "/write_file?path=/new&commit=1&size=1", fake.id, NULL, ""));
	err_set(&e, -EMFILE, "too many open files here");
	cr_assert_null(strstr(opened(-1, 0, &e), "HTTP/1.1 200"));
	cr_assert_str_empty(post(fd, "/write_file?path=/new&commit=1&size=1", fake.id, NULL, ""));
	cr_assert(fake.open_staged);
	cr_assert_not_null(strstr(opened(dup(file), 1, NULL),
				  "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\", \"size\": 1}"));
	close(file);
	close(fd);
}

/* -- what outlives the daemon ---------------------------------------------------------------------------------------------- */

/* The table of a life in which a spawner held so many tasks; how many records there are then. */
static uint32_t records_of_a_life(const char *life, int n)
{
	const unsigned char body[TASK_KEY_LEN] = { 1 };
	struct sandboxes_settings s = { .state_dir = dir, .life = life };
	struct sandboxes *table;
	struct tasks *tasks;
	struct err err = ERR_INIT;
	uint32_t count;

	cr_assert_eq(sandboxes_new(&table, loop, &engine, auth, &s, &err), 0, "%s", err.msg);
	tasks = tasks_new(loop, 1000, 1000, table->task_records);
	for (int i = 0; i < n; i++)
		task_new(tasks, body, &(struct task_result){ .arg = NULL });
	count = slots_count(table->task_records);
	records_leave(table); /* it dies */
	tasks_free(tasks, "gone");
	sandboxes_free(table);
	return count;
}

Test(sandbox_parts, tasks_of_a_lost_spawner_take_no_records)
{
	uint32_t first = records_of_a_life("one", 400), second = records_of_a_life("two", 400);

	for (const char *const *name = (const char *const[]){ "tasks", "sandbox", NULL }; *name; name++) {
		auto_free char *path = xasprintf("%s/%s", dir, *name);

		unlink(path);
	}
	cr_assert_eq(first, second, "%u, then %u", first, second);
}
