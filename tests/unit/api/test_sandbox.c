/* Sandboxes: made, ended, seen; their commands; what the next daemon finds. */
#include <openssl/evp.h>

#include "unit/api/sandboxes.h"

TestSuite(sandbox, .init = begin, .fini = end, .timeout = 60);

Test(sandbox, is_told_when_it_is_ready)
{
	fd = connect_pair();
	const char *text = post(fd, "/create_sandbox", NULL, NULL,
				"{\"image\": \"x\", \"env\": {\"A\": \"1\"}, \"host_aliases\": [{\"ip\": \"1.2.3.4\", \"hostnames\": [\"h\"]}]}");
	cr_assert_not_null(strstr(text, "event: task_id"));
	cr_assert_null(strstr(text, "event: end"));
	image_comes();
	cr_assert_str_eq(fake.env, "A=1|");
	cr_assert_str_eq(fake.hosts, "1.2.3.4 h\n");
	box_comes();
	run_for(5);
	auto_free char *want = xasprintf("event: end\ndata: {\"sid\": \"%s\"}", fake.id);
	cr_assert_not_null(strstr(read_now(fd), want));
	close(fd);
}

Test(sandbox, an_image_that_can_not_come_is_an_error_event)
{
	struct err e;

	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	err_set(&e, -EIO, "image x is not here and could not be pulled: no");
	fake.image_done(fake.image_arg, NULL, &e);
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: error\ndata: image x is not here and could not be pulled: no"));
	close(fd);
}

static void all_are_told(const int *streams, size_t n, const char *line)
{
	auto_free char *want = xasprintf(": %s\n\n", line);

	cr_assert_not_null(fake.image_progress);
	fake.image_progress(fake.image_arg, line);
	run_for(5);
	for (size_t i = 0; i < n; i++)
		cr_assert_not_null(strstr(read_now(streams[i]), want), "stream %zu: %s", i, line);
}

Test(sandbox, whoever_waits_is_told_how_far_the_images_have_come)
{
	int streams[] = { connect_pair(), connect_pair() };

	fd = streams[0];
	const char *id = strstr(post(fd, "/create_sandbox", NULL, NULL,
				     "{\"image\": \"x\", \"sidecars\": [{\"name\": \"db\", \"image\": \"y\"}]}"), "data: ");
	cr_assert_not_null(id);
	auto_free char *body = xasprintf("{\"task_id\": \"%.36s\"}", id + 6);
	cr_assert_not_null(strstr(post(streams[1], "/create_sandbox", NULL, NULL, body), "event: task_id"));
	all_are_told(streams, 2, "pulling x: 3 of 7 MiB");
	all_are_told(streams, 2, "pulling x: 7 of 7 MiB");
	image_comes();
	cr_assert_not_null(fake.image_done, "nobody asks for the sidecar's image");
	all_are_told(streams, 2, "pulling y: 1 of 2 MiB");
	image_comes();
	box_comes();
	close(streams[0]);
	close(streams[1]);
}

Test(sandbox, a_delete_while_the_image_comes_is_answered_at_once)
{
	char sid[64] = "";

	fd = connect_pair();
	const char *id = strstr(post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}"), "data: ");
	cr_assert_not_null(id);
	snprintf(sid, sizeof(sid), "%.36s", id + 6);
	int other = connect_pair();
	cr_assert_not_null(strstr(post(other, "/delete_session", sid, NULL, ""), "200 OK"));
	cr_assert_not_null(strstr(read_now(fd), "event: error"));
	fake.image_progress(fake.image_arg, "finds nobody");
	image_comes(); /* either */
	cr_assert_str_eq(fake.id, "");
	close(fd);
	close(other);
}

Test(sandbox, a_delete_while_it_is_made_waits_for_its_end)
{
	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	image_comes();
	int other = connect_pair();
	cr_assert_str_eq(post(other, "/delete_session", fake.id, NULL, ""), "");
	box_comes();
	cr_assert_str_eq(fake.destroyed, "deleted");
	run_for(5);
	cr_assert_str_eq(read_now(other), "");
	fake.on_end(fake.create_arg, &fake.box, "deleted");
	run_for(5);
	cr_assert_not_null(strstr(read_now(other), fake.id));
	close(fd);
	close(other);
}

Test(sandbox, beyond_the_queue_is_429_with_its_length)
{
	fd = connect_pair();
	fake.waiting = 1;
	int other = connect_pair();
	post(other, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}"); /* its image is looked for: it waits too */
	const char *text = post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	cr_assert(str_starts(text, "HTTP/1.1 429 "));
	cr_assert_not_null(strstr(text, "Retry-After: "));
	cr_assert_not_null(strstr(text, "2 creates wait for room already, and queue.max is 2"));
	cr_assert_null(strstr(text, "maximum capacity"));
	fake.waiting = 0;
	image_comes();
	box_comes();
	ready(fd);
	close(fd);
	close(other);
}

Test(sandbox, who_waits_for_room_is_told_and_leaves_with_its_client)
{
	char sid[64];

	fake.waits = true;
	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	image_comes();
	snprintf(sid, sizeof(sid), "%s", fake.id);
	fake.progress(fake.create_arg, "waiting for room: 3 of 17");
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), ": waiting for room: 3 of 17"));
	cr_assert(*fake.spec_key, "no key: the queue can't be fair");
	close(fd);
	run_for(20);
	cr_assert_not(fake.waits, "it still waits");
	/* The same client again, with the id that it had: anew, under this id. */
	fd = connect_pair();
	auto_free char *body = xasprintf("{\"image\": \"x\", \"task_id\": \"%s\"}", sid);
	post(fd, "/create_sandbox", NULL, NULL, body);
	fake.id[0] = '\0';
	image_comes();
	cr_assert_str_eq(fake.id, sid);
	box_comes();
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: end"));
	close(fd);
}

Test(sandbox, a_client_that_is_gone_before_it_would_wait_never_does)
{
	fake.waits = true;
	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	close(fd);
	run_for(20);
	image_comes();
	cr_assert_not(fake.waits);
	cr_assert_eq(fake.waiting, 0);
}

Test(sandbox, a_delete_of_one_that_waits_for_room_is_answered_at_once)
{
	fake.waits = true;
	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	image_comes();
	int other = connect_pair();
	cr_assert_not_null(strstr(post(other, "/delete_session", fake.id, NULL, ""), "200 OK"));
	cr_assert_not(fake.waits);
	cr_assert_not_null(strstr(read_now(fd), "event: error"));
	close(fd);
	close(other);
}

Test(sandbox, runs)
{
	struct engine_exec_result res = { .return_code = 3, .outcome = ENGINE_EXITED, .bytes = 5 };

	fd = connect_pair();
	ready(fd);
	const char *text = post(fd, "/run", fake.id, NULL, "{\"cmd\": \"c\", \"timeout_s\": 1.5, \"max_bytes\": 7}");
	cr_assert_not_null(strstr(text, "event: task_id"));
	cr_assert_str_eq(fake.cmd, "c");
	cr_assert_eq(fake.timeout_ms, 1500);
	cr_assert_eq(fake.max_bytes, 7);
	fake.exec_done(fake.exec_arg, &fake.exec, &res, NULL);
	run_for(5);
	text = read_now(fd);
	cr_assert_not_null(strstr(text, "\"return_code\":3,"));
	cr_assert_not_null(strstr(text, "\"output\":\"aGVsbG8=\"}"));
	cr_assert_not(fake.released);
	close(fd);
}

Test(sandbox, a_run_that_could_not_begin_leaves_no_task)
{
	fd = connect_pair();
	ready(fd);
	cr_assert(str_starts(post(fd, "/run", fake.id, NULL, "{\"cmd\": \"gone\"}"), "HTTP/1.1 410 "));
	close(fd);
}

Test(sandbox, its_end_tells_runs_and_is_remembered)
{
	fd = connect_pair();
	ready(fd);
	post(fd, "/run", fake.id, NULL, "{\"cmd\": \"c\"}");
	fake.exec_done(fake.exec_arg, &fake.exec, NULL, &(struct err){ .code = -EIDRM, .msg = "the sandbox has ended" });
	fake.on_end(fake.create_arg, &fake.box, "lease");
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: error\ndata: the sandbox has ended"));
	cr_assert(fake.released);
	const char *text = post(fd, "/ping", fake.id, NULL, "");
	cr_assert(str_starts(text, "HTTP/1.1 410 "));
	cr_assert_not_null(strstr(text, "no ping"));
	cr_assert(str_starts(post(fd, "/delete_session", fake.id, NULL, ""), "HTTP/1.1 200 "));
	close(fd);
}

static void forge_id(char ret[SID_LEN], unsigned n)
{
	snprintf(ret, SID_LEN, "%08x-0000-8000-8000-0123456789ab", n);
}

/* sessions.remember_max, which is less here than the file of ids holds: so many are remembered. */
Test(sandbox, of_those_that_have_ended_the_newest_are_remembered)
{
	const char *namespace_id = store_namespace_find(store, "local")->id;
	char first[SID_LEN], id[SID_LEN];

	fd = connect_pair();
	snprintf(first, sizeof(first), "%s", ready(fd));
	fake.on_end(fake.create_arg, &fake.box, "lease");
	for (unsigned n = 1; n < SANDBOX_RECORDS_MAX; n++) {
		forge_id(id, n);
		sandbox_ended_add(sandboxes, id, namespace_id, "deleted");
	}
	run_for(150); /* they are looked at each 100 ms */
	cr_assert(str_starts(post(fd, "/ping", first, NULL, ""), "HTTP/1.1 410 "), "there is room for it");
	forge_id(id, SANDBOX_RECORDS_MAX);
	sandbox_ended_add(sandboxes, id, namespace_id, "deleted");
	for (int i = 0; i < 100 && map_get(sandboxes->ended, first); i++)
		run_for(20);
	cr_assert(str_starts(post(fd, "/ping", first, NULL, ""), "HTTP/1.1 404 "), "it is the oldest");
	cr_assert(str_starts(post(fd, "/delete_session", first, NULL, ""), "HTTP/1.1 404 "));
	cr_assert(str_starts(post(fd, "/run", first, NULL, "{\"cmd\": \"c\"}"), "HTTP/1.1 404 "));
	forge_id(id, 1);
	cr_assert(str_starts(post(fd, "/run", id, NULL, "{\"cmd\": \"c\"}"), "HTTP/1.1 410 "));
	cr_assert(str_starts(post(fd, "/delete_session", id, NULL, ""), "HTTP/1.1 200 "));
	close(fd);
}

Test(sandbox, open_requests_and_pings_renew_it)
{
	fd = connect_pair();
	ready(fd);
	int before = fake.renewed;
	post(fd, "/ping", fake.id, NULL, "");
	cr_assert_eq(fake.renewed, before + 1);
	post(fd, "/run", fake.id, NULL, "{\"cmd\": \"c\"}");
	before = fake.renewed;
	run_for(500); /* the lease and more */
	cr_assert_geq(fake.renewed, before + 3);
	close(fd);
	run_for(5);
	before = fake.renewed;
	run_for(300);
	cr_assert_eq(fake.renewed, before);
}

Test(sandbox, others_do_not_see_it)
{
	struct store_namespace *ns;
	char other[AUTH_KEY_LEN];
	struct err err;

	cr_assert_eq(store_namespace_add(store, "other", "user", &ns, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_key_make(auth, ns, STORE_ROLE_ADMIN, "", other, &err), 0);
	fd = connect_pair();
	ready(fd);
	static const char *const paths[] = { "/run", "/ping", "/delete_session", "/stat_file?path=/x", "/read_file?path=/x",
					     "/write_file?path=/x&offset=0", "/set_network" };
	for (size_t i = 0; i < ARRAY_LEN(paths); i++)
		cr_assert(str_starts(post(fd, paths[i], fake.id, other, "{\"cmd\": \"x\"}"), "HTTP/1.1 404 "), "%s", paths[i]);
	cr_assert_str_eq(fake.destroyed, "");
	close(fd);
}

Test(sandbox, a_reader_makes_none)
{
	char reader[AUTH_KEY_LEN];
	struct err err;

	cr_assert_eq(auth_key_make(auth, store_namespace_find(store, "local"), STORE_ROLE_READER, "", reader, &err), 0);
	fd = connect_pair();
	cr_assert(str_starts(post(fd, "/create_sandbox", NULL, reader, "{\"image\": \"x\"}"), "HTTP/1.1 403 "));
	close(fd);
}

static int n_done;

static void on_done(void *arg UNUSED)
{
	n_done++;
}

Test(sandbox, ends_with_its_session)
{
	char own[AUTH_KEY_LEN];
	struct auth_caller caller;
	struct err err;

	cr_assert_eq(auth_key(auth, key, &caller, &err), 0);
	auth_session_key_make(auth, &caller, "session-1", own);
	fd = connect_pair();
	post(fd, "/create_sandbox", NULL, own, "{\"image\": \"x\"}");
	image_comes();
	box_comes();
	sandboxes_end_owned(sandboxes, "session-2", on_done, NULL);
	cr_assert_eq(n_done, 0, "a callback ran inside the call");
	run_for(5);
	cr_assert_eq(n_done, 1);
	cr_assert_str_eq(fake.destroyed, "");
	sandboxes_end_owned(sandboxes, "session-1", on_done, NULL);
	run_for(5);
	cr_assert_str_eq(fake.destroyed, "deleted");
	cr_assert_eq(n_done, 1);
	fake.on_end(fake.create_arg, &fake.box, "deleted");
	run_for(5);
	cr_assert_eq(n_done, 2);
	close(fd);
}

Test(sandbox, the_end_of_all)
{
	fd = connect_pair();
	ready(fd);
	sandboxes_end_all(sandboxes, "deleted", on_done, NULL);
	cr_assert(str_starts(post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}"), "HTTP/1.1 503 "));
	fake.on_end(fake.create_arg, &fake.box, "deleted");
	run_for(5);
	cr_assert_eq(n_done, 1);
	close(fd);
}

/* -- of a former daemon: until its init has told what runs in it ---------------------------------------------------------- */

static void take_over(void)
{
	auto_free char *note = xasprintf("{\"namespace\": \"%s\"}", store_namespace_find(store, "local")->id);

	cr_assert(sandboxes_adopt(sandboxes, &old, note, strlen(note)));
	cr_assert_not_null(fake.known);
}

Test(sandbox, what_needs_its_commands_waits_for_them_and_nothing_else_does)
{
	struct engine_exec left = { .box = &old, .id = "0123456789abcdef0123456789abcdef" };
	struct engine_exec_result res = { .return_code = 3, .outcome = ENGINE_EXITED, .bytes = 5 };
	int anew = connect_pair(), resumed = connect_pair(), runs = connect_pair(), one = connect_pair();

	fd = connect_pair();
	take_over();
	cr_assert_str_empty(post(anew, "/run", OLD, NULL, "{\"cmd\": \"c\"}"));
	cr_assert_str_empty(post(resumed, "/run", OLD, NULL, "{\"cmd\": \"c\", \"task_id\": \"0123456789abcdef0123456789abcdef\"}"));
	cr_assert_str_empty(get(runs, "/v1/sandboxes/" OLD "/runs"));
	cr_assert_str_empty(get(one, "/v1/sandboxes/" OLD "/runs/0123456789abcdef0123456789abcdef"));

	cr_assert(str_starts(post(fd, "/ping", OLD, NULL, ""), "HTTP/1.1 200 "));
	const char *all = get(fd, "/v1/sandboxes");
	cr_assert_not_null(strstr(all, OLD));
	cr_assert_null(strstr(all, "background_runs"));
	ready(fd);
	cr_assert_not_null(strstr(post(fd, "/run", fake.id, NULL, "{\"cmd\": \"c\"}"), "event: task_id"));
	cr_assert_eq(fake.runs, 1);

	fake.left(fake.heir, &left, &(struct engine_left){ .label = "", .age_ms = 1000 });
	engine_exec_fn *left_done = fake.exec_done;
	void *left_arg = fake.exec_arg;
	fake.known(fake.heir);
	run_for(5);
	cr_assert_not_null(strstr(read_now(anew), "event: task_id"));
	cr_assert_eq(fake.runs, 2, "the one that named no task is a command of its own, once");
	cr_assert_not_null(strstr(read_now(runs), "\"total\":0"), "it is none in the background");
	cr_assert(str_starts(read_now(one), "HTTP/1.1 404 "));
	cr_assert_not_null(strstr(read_now(resumed), "event: task_id\ndata: 0123456789abcdef0123456789abcdef"));
	left_done(left_arg, &left, &res, NULL);
	run_for(5);
	cr_assert_not_null(strstr(read_now(resumed), "\"return_code\":3,"));
	cr_assert_not_null(strstr(get(fd = connect_pair(), "/v1/sandboxes"), "background_runs"));
}

Test(sandbox, who_goes_while_it_waits_begins_nothing)
{
	fd = connect_pair();
	take_over();
	post(fd, "/run", OLD, NULL, "{\"cmd\": \"c\"}");
	close(fd);
	run_for(20);
	fake.known(fake.heir);
	run_for(5);
	cr_assert_eq(fake.runs, 0);
}

Test(sandbox, the_end_of_one_that_never_told_is_told_to_who_waits)
{
	int deletes = connect_pair(), late = connect_pair(), attached = connect_pair();

	fd = connect_pair();
	take_over();
	post(fd, "/run", OLD, NULL, "{\"cmd\": \"c\"}");
	const char *text = post(attached, "/create_sandbox", NULL, NULL, "{\"task_id\": \"" OLD "\"}");
	cr_assert_not_null(strstr(text, "event: task_id"));
	cr_assert_null(strstr(text, "event: end"));
	post(deletes, "/delete_session", OLD, NULL, "");
	cr_assert_str_eq(fake.destroyed, "deleted");
	cr_assert(str_starts(post(late, "/run", OLD, NULL, "{\"cmd\": \"c\"}"), "HTTP/1.1 410 "));
	fake.old_end(fake.heir, &old, "deleted");
	run_for(5);
	cr_assert(str_starts(read_now(fd), "HTTP/1.1 410 "));
	cr_assert(str_starts(read_now(deletes), "HTTP/1.1 200 "));
	cr_assert_not_null(strstr(read_now(attached), "event: error"));
	cr_assert_eq(fake.runs, 0);
}

/* A command's record as the daemon that was killed left it. */
static uint32_t left_record(struct slots *file, const char *id)
{
	uint32_t slot = slots_take(file);
	struct task_record *r = slots_at(file, slot);

	memcpy(r->id, id, sizeof(r->id));
	slots_publish(&r->state, TASK_USED | TASK_TOLD | TASK_HELD);
	return slot;
}

static uint32_t state_of(uint32_t slot)
{
	return ((const struct task_record *)slots_at(sandboxes->task_records, slot))->state;
}

static void start_on_what_was_left(const char *path, const char *const *ids, uint32_t *ret_slots, size_t n)
{
	struct slots_spec spec = { .path = path, .kind = "tasks", .life = "l", .record_bytes = sizeof(struct task_record),
		.max = TASK_RECORDS_MAX };
	struct sandboxes_settings settings = { .idle_ms = 400, .state_dir = dir, .life = "l" };
	struct slots *file = NULL;
	struct err err = ERR_INIT;
	bool same;

	cr_assert_eq(slots_open(&file, &spec, &same, &err), 0, "%s", err.msg);
	for (size_t i = 0; i < n; i++)
		ret_slots[i] = left_record(file, ids[i]);
	slots_close(file);
	sandboxes_free(sandboxes);
	cr_assert_eq(sandboxes_new(&sandboxes, loop, &engine, auth, &settings, &err), 0, "%s", err.msg);
}

Test(sandbox, records_of_commands_that_went_with_their_sandbox_are_given_back_once_all_have_told)
{
	const char *const ids[] = { "00000000000000000000000000000000", "11111111111111111111111111111111" };
	struct engine_exec left = { .box = &old, .id = ids[0] };
	auto_free char *tasks = xasprintf("%s/tasks", dir), *known = xasprintf("%s/sandbox", dir);
	unsigned char label[TASK_LABEL_LEN] = "";
	uint32_t slots[2];

	start_on_what_was_left(tasks, ids, slots, 2);
	take_over();
	sandboxes_taken_over(sandboxes);
	run_for(250);
	cr_assert(state_of(slots[0]) && state_of(slots[1]));
	memcpy(label + TASK_KEY_LEN, &slots[0], sizeof(slots[0]));
	fake.left(fake.heir, &left, &(struct engine_left){ .label = label, .label_len = sizeof(label) });
	fake.known(fake.heir);
	run_for(250);
	cr_assert_eq(state_of(slots[0]), TASK_USED | TASK_TOLD | TASK_HELD);
	cr_assert_eq(state_of(slots[1]), 0);
	unlink(tasks);
	unlink(known);
}

/* A command that may or may not have been told of, and its body. */
static void one_in_doubt(const char *body)
{
	static const char id[] = "22222222222222222222222222222222";
	static struct engine_exec left = { .box = &old, .id = id };
	auto_free char *tasks = xasprintf("%s/tasks", dir), *known = xasprintf("%s/sandbox", dir);
	unsigned char label[TASK_LABEL_LEN] = "";
	uint32_t slot;

	start_on_what_was_left(tasks, &(const char *){ id }, &slot, 1);
	slots_publish(&((struct task_record *)slots_at(sandboxes->task_records, slot))->state, TASK_USED);
	take_over();
	cr_assert_eq(EVP_Digest(body, strlen(body), label, NULL, EVP_sha256(), NULL), 1);
	memcpy(label + TASK_KEY_LEN, &slot, sizeof(slot));
	fake.left(fake.heir, &left, &(struct engine_left){ .label = label, .label_len = sizeof(label) });
	fake.known(fake.heir);
	unlink(tasks);
	unlink(known);
}

/* Without the last word of a socket pair's end, as TCP has it: the far end is shut, and that is all. */
Test(sandbox, a_repetition_that_goes_while_it_waits_leaves_its_place_to_the_next)
{
	static const char body[] = "{\"cmd\": \"c\"}";
	int second = connect_pair();

	fd = connect_pair();
	one_in_doubt(body);
	cr_assert_str_empty(post(fd, "/run", OLD, NULL, body));
	run_for(100);
	shutdown(fd, SHUT_WR);
	run_for(20);
	cr_assert_str_empty(post(second, "/run", OLD, NULL, body), "it waits in its turn");
	run_for(3000);
	cr_assert_eq(fake.runs, 0, "it was begun twice");
	cr_assert_not_null(strstr(read_now(second), "event: task_id\ndata: 22222222222222222222222222222222"));
	close(second);
	close(fd);
}
