/* The local engine (takeover.c: test_takeover.c) against a spawner and inits that only speak the protocol. */
#include "unit/sandbox/engined.h"

TestSuite(local, .init = engined_begin, .fini = engined_end, .timeout = 60);

/* -- boxes --------------------------------------------------------------------------------------------------------------- */

Test(local, listeners_come_with_the_welcome)
{
	int fds[4];

	cr_assert_eq(link_take_listeners(spawner, fds, 4), 1);
	cr_assert_eq(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
	close(fds[0]);
	cr_assert_eq(link_take_listeners(spawner, fds, 4), 0);
}

Test(local, a_box_is_configured_before_anybody_has_it)
{
	cr_assert_not_null(create(ID));
	cr_assert_str_eq(made->id, ID);
	cr_assert_eq(boxes(), 1);
	cr_assert(str_starts(fake.config, "box-0123456789ab|127.0.0.1\tlocalhost\n"));
	cr_assert_not_null(strstr(fake.config, "127.0.0.1\tbox-0123456789ab\n10.0.0.9 alias\n|nameserver 198.18.0.53\n"));
	cr_assert_not_null(strstr(fake.config, "|/work"));
}

Test(local, a_box_that_is_configured_has_the_name_it_was_given)
{
	struct engine_exec_spec spec = { .cmd = "echo $FROM $MINE $HOSTNAME", .max_bytes = 1000 };

	snprintf(fake.hostname, sizeof(fake.hostname), "box-ba9876543210");
	cr_assert_str_eq(output_of(run_spec(create(ID), &spec)), "box 1 box-ba9876543210\n");
	cr_assert_str_eq(fake.config, "", "it was configured twice");
}

Test(local, what_the_spawner_refuses_is_told)
{
	snprintf(fake.fail_make, sizeof(fake.fail_make), "no space for layers");
	cr_assert_null(create(ID));
	cr_assert_eq(create_err.code, -ENOSPC);
	cr_assert_str_eq(create_err.msg, "make the sandbox: no space for layers");
	cr_assert_eq(boxes(), 0);
	cr_assert_eq(n_ended, 0);
}

static char told[200];

static void on_room(void *arg UNUSED, const char *line)
{
	snprintf(told, sizeof(told), "%s", line);
}

static char *id_of(int n)
{
	return xasprintf("00000000-0000-8000-8000-0000000000%02d", n);
}

Test(local, beyond_the_room_they_wait_in_order)
{
	struct engine_box *first = create(ID);

	for (int n = 1; n < MOST; n++) {
		auto_free char *id = id_of(n);

		cr_assert_not_null(create(id));
	}
	for (int n = 10; n < 13; n++) {
		auto_free char *id = id_of(n), *target = xstrdup("/files");
		struct engine_spec spec = { .id = id, .image = image, .key = "k", .progress = on_room,
					    .bucket = { .id = ID, .target = target } };

		engine->ops->create(engine, &spec, on_created, on_end, NULL);
		memset(target, 'x', strlen(target)); /* strings were copied */
	}
	cr_assert_not(turn(50));
	cr_assert_str_eq(told, "waiting for room: 3 of 3 (all 3 places are in use)");
	cr_assert_eq(engine->ops->waiting(engine), 3);
	cr_assert_eq(boxes(), MOST);
	cr_assert_eq(counts().boxes, (size_t)MOST);
	auto_free char *gone = id_of(10), *next = id_of(11);
	cr_assert(engine->ops->uncreate(engine, gone));
	cr_assert_not(engine->ops->uncreate(engine, gone));
	cr_assert_not(engine->ops->uncreate(engine, ID), "that one is there");
	engine->ops->destroy(first, "deleted", NULL, NULL);
	int before = n_created;
	for (int k = 0; k < 10 && n_created == before; k++)
		cr_assert(turn(5000));
	cr_assert_not_null(made);
	cr_assert_str_eq(made->id, next);
	cr_assert_eq(engine->ops->waiting(engine), 1);
	cr_assert_eq(counts().waited_total, 3);
}

/* The spawner's ids: they come back after their sandbox has ended. */
Test(local, a_sandbox_without_ids_waits_for_them)
{
	struct engine_spec spec = { .id = ID, .image = image, .key = "k", .progress = on_room };

	snprintf(fake.fail_make, sizeof(fake.fail_make), "all id ranges are in use");
	fake.fail_code = EUSERS;
	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	for (int i = 0; i < 100 && !engine->ops->waiting(engine); i++)
		turn(10);
	cr_assert_not(turn(50));
	cr_assert_str_eq(told, "waiting for room: 1 of 1 (all places for sandboxes are in use, or being cleaned)");
	cr_assert_eq(n_created, 0);
	__atomic_store_n(&fake.fail_make[0], 0, __ATOMIC_SEQ_CST);
	cr_assert(turn(5000));
	cr_assert_not_null(made);
	cr_assert_eq(counts().boxes, 1);
}

Test(local, one_that_waits_for_ids_can_be_given_up)
{
	struct engine_spec spec = { .id = ID, .image = image };

	snprintf(fake.fail_make, sizeof(fake.fail_make), "all id ranges are in use");
	fake.fail_code = EUSERS;
	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	for (int i = 0; i < 100 && !engine->ops->waiting(engine); i++)
		turn(10);
	cr_assert(engine->ops->uncreate(engine, ID));
	cr_assert_eq(engine->ops->waiting(engine), 0);
	cr_assert_eq(counts().boxes, 0);
	cr_assert_eq(n_created, 0);
}

Test(local, a_plan_against_the_rules_never_leaves)
{
	free(image->layers[0]);
	image->layers[0] = xstrdup("../../etc");
	cr_assert_null(create(ID));
	cr_assert_eq(create_err.code, -EINVAL);
	cr_assert_eq(boxes(), 0);
}

Test(local, too_many_variables)
{
	char *big = xcalloc(1, LOCAL_ENV_MAX + 10);

	memset(big, 'x', LOCAL_ENV_MAX + 9);
	memcpy(big, "BIG=", 4);
	image->env = strv_free(image->env);
	image->env = strv_dup((const char *const[]){ big, NULL });
	cr_assert_null(create(ID));
	cr_assert(str_starts(create_err.msg, "env: "), "%s", create_err.msg);
	free(big);
}

/* Each by itself is allowed; a daemon that takes over could not be told of them together. */
Test(local, more_than_its_note_can_tell)
{
	char *big = xcalloc(1, LOCAL_ENV_MAX), *note = xcalloc(1, 64 << 10);
	const char *const env[] = { big, NULL };
	struct engine_spec spec = {
		.id = ID, .image = image, .env = env, .lease_ms = 400, .note = note, .note_len = 64 << 10, .hosts_extra = "10.0.0.9 a\n",
	};
	size_t bytes = 0, max = 0;

	memset(big, 'x', 80 << 10);
	memcpy(big, "BIG=", 4);
	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	cr_assert(turn(5000));
	cr_assert_null(made);
	cr_assert_eq(create_err.code, -EINVAL);
	cr_assert_eq(sscanf(create_err.msg, "env, host_aliases and sidecars: %zu bytes, expected at most %zu", &bytes, &max), 2, "%s",
		     create_err.msg);
	cr_assert_gt(bytes, max);
	cr_assert_eq(boxes(), 0);
	spec.note_len -= bytes - max; /* as much as was said */
	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	cr_assert(turn(5000));
	cr_assert_not_null(made);
	free(big);
	free(note);
}

Test(local, destroy_tells_all_who_asked_and_then_is_over)
{
	struct engine_box *b = create(ID);

	engine->ops->destroy(b, "deleted", on_done, NULL);
	engine->ops->destroy(b, "lease", on_done, NULL);
	cr_assert_eq(n_ended, 0);
	cr_assert(turn(5000));
	cr_assert_eq(n_done, 2);
	cr_assert_eq(n_ended, 1);
	cr_assert_str_eq(end_reason, "deleted");
	cr_assert_eq(fake.ended, 1);
	cr_assert_eq(boxes(), 0);
}

Test(local, an_end_by_itself_keeps_its_reason)
{
	cr_assert_not_null(create(ID));
	fake_gone(ID, "lease");
	cr_assert(turn(5000));
	cr_assert_str_eq(end_reason, "lease");
	fake_gone(ID, "lease"); /* unknown by now */
	cr_assert_not(turn(20));
	cr_assert_eq(n_ended, 1);
}

Test(local, a_dead_spawner_ends_every_box)
{
	cr_assert_not_null(create(ID));
	cr_assert_not_null(create("00000000-0000-8000-8000-0123456789ac"));
	fake_die();
	cr_assert(turn(5000));
	if (n_ended < 2)
		cr_assert(turn(5000));
	cr_assert_eq(n_ended, 2);
	cr_assert_str_eq(end_reason, "host");
	cr_assert_null(create(ID));
	cr_assert_eq(create_err.code, -EAGAIN);
}

Test(local, leases_are_renewed_now_and_then)
{
	struct engine_box *b = create(ID);

	/* 400 ms, and what is not told until the next RENEW. */
	cr_assert_eq(fake.lease_ms, 500);
	fake.lease_ms = 0;
	for (int i = 0; i < 20; i++)
		engine->ops->renew(b);
	turn(30);
	cr_assert_eq(fake.renewed, 0);
	turn(120);
	for (int i = 0; i < 20; i++)
		engine->ops->renew(b);
	turn(50);
	cr_assert_eq(fake.renewed, 1);
	cr_assert_eq(fake.lease_ms, 500);
}

/* -- commands --------------------------------------------------------------------------------------------------------------- */

Test(local, a_command)
{
	struct engine_exec_spec spec = { .cmd = "echo $FROM $MINE $HOSTNAME; exit 3", .max_bytes = 1000 };
	struct engine_exec *x = run_spec(create(ID), &spec);

	cr_assert_eq(result.return_code, 3);
	cr_assert_eq(result.outcome, ENGINE_EXITED);
	cr_assert_str_eq(output_of(x), "box 1 box-0123456789ab\n");
	cr_assert_eq(engine->ops->exec_read(x, 4, (char[2]){ 0 }, 1), 1);
	cr_assert_eq(engine->ops->exec_read(x, 1000, (char[2]){ 0 }, 1), 0);
	engine->ops->exec_release(x);
	for (int i = 0; i < 100 && !__atomic_load_n(&fake.acked, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert_eq(fake.acked, 1);
}

Test(local, output_beside_a_message_reads_the_same)
{
	struct engine_exec_spec spec = { .cmd = "printf abc", .max_bytes = 1000 };
	struct engine_exec *x = run_spec(create(ID), &spec);

	cr_assert_eq(result.bytes, 3);
	cr_assert_str_eq(output_of(x), "abc");
	engine->ops->exec_release(x);
}

Test(local, a_long_command_goes_by_file)
{
	size_t len = 3 << 20;
	char *cmd = xcalloc(1, len + 40);
	struct engine_exec_spec spec = { .cmd = cmd, .max_bytes = 1000 };
	struct engine_exec *x;

	memset(cmd, '#', len);
	snprintf(cmd + len, 40, "\necho end of it $FROM");
	x = run_spec(create(ID), &spec);
	cr_assert_str_eq(output_of(x), "end of it box\n");
	engine->ops->exec_release(x);
	free(cmd);
}

Test(local, arguments_and_own_variables)
{
	const char *const argv[] = { "/bin/sh", "-c", "echo $0 $FROM $MINE", "zero", NULL };
	const char *const env[] = { "FROM=exec", NULL };
	struct engine_exec_spec spec = { .argv = argv, .env = env, .max_bytes = 1000 };
	struct engine_exec *x = run_spec(create(ID), &spec);

	cr_assert_str_eq(output_of(x), "zero exec 1\n");
	engine->ops->exec_release(x);
}

Test(local, a_signal_and_dropped_output)
{
	struct engine_exec_spec spec = { .cmd = "echo 123456789; kill -9 $$", .max_bytes = 4 };
	struct engine_exec *x = run_spec(create(ID), &spec);

	cr_assert_eq(result.return_code, 137);
	cr_assert_eq(result.outcome, ENGINE_SIGNALLED);
	cr_assert_eq(result.dropped, 6);
	cr_assert_str_eq(output_of(x), "1234");
	engine->ops->exec_release(x);
}

Test(local, commands_that_are_none)
{
	struct engine_box *b = create(ID);
	struct engine_exec_spec spec = { .id = "x", .cmd = "a\0b", .cmd_len = 3, .log_fd = -1 };
	struct engine_exec *x = NULL;

	cr_assert_eq(engine->ops->exec(b, &spec, on_run, NULL, &x, &err), -EINVAL);
	spec.cmd_len = (16u << 20) + 1;
	cr_assert_eq(engine->ops->exec(b, &spec, on_run, NULL, &x, &err), -EMSGSIZE);
	spec = (struct engine_exec_spec){ .id = "x", .log_fd = -1 };
	cr_assert_eq(engine->ops->exec(b, &spec, on_run, NULL, &x, &err), -EINVAL);
	cr_assert_null(x);
}

Test(local, a_released_command_calls_nobody)
{
	struct engine_exec_spec spec = { .id = "r", .cmd = "true", .cmd_len = 4, .log_fd = -1, .max_bytes = 10 };
	struct engine_exec *x;

	cr_assert_eq(engine->ops->exec(create(ID), &spec, on_run, NULL, &x, &err), 0);
	engine->ops->exec_release(x);
	for (int i = 0; i < 200 && !__atomic_load_n(&fake.acked, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert_eq(n_runs, 0);
	cr_assert_eq(fake.acked, 1);
}

Test(local, an_end_that_comes_before_the_start_is_the_end)
{
	struct engine_exec_spec spec = { .cmd = "echo x", .max_bytes = 10 };
	struct engine_exec *x;

	fake.done_first = true;
	x = run_spec(create(ID), &spec);
	cr_assert_str_eq(output_of(x), "x\n");
	engine->ops->exec_release(x);
	turn(20);
	turn(300); /* the start, of a command that nobody knows any more */
	cr_assert_eq(n_runs, 1);
}

Test(local, the_end_of_a_box_fails_its_commands_first)
{
	struct engine_exec_spec spec = { .id = "r", .cmd = "sleep 1", .cmd_len = 7, .log_fd = -1, .max_bytes = 10 };
	struct engine_box *b = create(ID);
	struct engine_exec *x;

	cr_assert_eq(engine->ops->exec(b, &spec, on_run, NULL, &x, &err), 0);
	fake_gone(ID, "killed");
	cr_assert(turn(5000));
	cr_assert_eq(n_runs, 1);
	cr_assert_eq(run_err.code, -EIDRM);
	cr_assert_eq(n_ended, 1);
	engine->ops->exec_release(x); /* outlives its box */
}

/* -- files and ports ----------------------------------------------------------------------------------------------------------- */

Test(local, files_are_opened_by_init)
{
	struct engine_box *b = create(ID);

	engine->ops->open(b, "/etc/passwd", ENGINE_OPEN_READ, NULL, on_open, NULL);
	cr_assert(turn(5000));
	cr_assert_gt(got_size, 10);
	close(got_fd);
	engine->ops->open(b, "/no/such", ENGINE_OPEN_READ, NULL, on_open, NULL);
	cr_assert(turn(5000));
	cr_assert_eq(got_err.code, -ENOENT);
	cr_assert_eq(got_fd, -1);
}

static int n_opened;

static void on_open_again(void *arg, int fd, uint64_t size, const char *tmp, const struct err *e)
{
	n_opened++;
	on_open(arg, fd, size, tmp, e);
}

Test(local, a_list_that_nobody_asked_for_is_no_answer)
{
	struct engine_box *b = create(ID);

	fake.items = true;
	engine->ops->open(b, "/etc/passwd", ENGINE_OPEN_READ, NULL, on_open_again, NULL);
	cr_assert(turn(5000));
	turn(50);
	cr_assert_eq(n_opened, 1);
	cr_assert_eq(got_err.code, -EPROTO);
	cr_assert_eq(got_fd, -1);
}

Test(local, ports_are_reached_through_init)
{
	struct engine_box *b = create(ID);
	char text[6] = "";

	engine->ops->connect(b, 8080, on_fd, NULL);
	cr_assert(turn(5000));
	cr_assert_eq(read(got_fd, text, 5), 5);
	cr_assert_str_eq(text, "hello");
	close(got_fd);
	engine->ops->connect(b, 81, on_fd, NULL);
	cr_assert(turn(5000));
	cr_assert_eq(got_err.code, -ECONNREFUSED);
}

Test(local, an_answer_whose_descriptor_finds_no_room_fails_alone)
{
	struct engine_box *b = create(ID);
	struct rlimit old;

	engine->ops->connect(b, 8080, on_fd, NULL);
	usleep(200000); /* the answer is there */
	old = use_up_descriptors();
	cr_assert(turn(5000));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	cr_assert_eq(got_err.code, -EMFILE, "%s", got_err.msg);
	cr_assert_lt(got_fd, 0);
	engine->ops->connect(b, 8080, on_fd, NULL);
	cr_assert(turn(5000));
	cr_assert_geq(got_fd, 0);
	close(got_fd);
}

static const struct engine_exec_spec prints = {
	.id = "run", .cmd = "printf abc", .cmd_len = 10, .shell = "/bin/sh", .log_fd = -1, .max_bytes = 9,
};

static void wait_for_an_end(void)
{
	for (int i = 0; i < 10000 && !__atomic_load_n(&fake.over, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	cr_assert_eq(fake.over, 1);
}

static void output_finds_no_descriptor(void)
{
	struct engine_exec *x;
	struct rlimit old;

	cr_assert_eq(engine->ops->exec(create(ID), &prints, on_run, NULL, &x, &err), 0);
	wait_for_an_end();
	old = use_up_descriptors();
	cr_assert_not(turn(50));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	cr_assert(turn(5000));
	cr_assert_eq(n_runs, 1);
	cr_assert_eq(run_err.code, 0, "%s", run_err.msg);
	cr_assert_eq(fake.results, 1);
	cr_assert_str_eq(output_of(x), "again");
	engine->ops->exec_release(x);
}

Test(local, a_result_whose_output_finds_no_room_is_asked_for_again)
{
	output_finds_no_descriptor();
}

Test(local, so_is_one_that_comes_in_place_of_the_start)
{
	fake.quiet = true;
	output_finds_no_descriptor();
}

Test(local, a_box_may_end_before_a_result_is_asked_for_again)
{
	struct engine_exec *x;
	struct rlimit old;

	cr_assert_eq(engine->ops->exec(create(ID), &prints, on_run, NULL, &x, &err), 0);
	wait_for_an_end();
	old = use_up_descriptors();
	cr_assert_not(turn(20));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	fake_gone(ID, "killed");
	cr_assert(turn(5000));
	cr_assert_eq(n_runs, 1);
	cr_assert_eq(run_err.code, -EIDRM);
	engine->ops->exec_release(x);
	turn(200); /* its time comes, and nobody is asked */
	cr_assert_eq(fake.results, 0);
}

Test(local, a_sandbox_that_finds_no_room_here_is_ended)
{
	struct engine_spec spec = { .id = ID, .image = image };
	struct rlimit old;

	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	usleep(200000);
	old = use_up_descriptors();
	for (int i = 0; i < 100 && !__atomic_load_n(&fake.ended, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	cr_assert_str_eq(fake.ended_id, ID);
	for (int i = 0; i < 100 && !n_created; i++)
		turn(10);
	cr_assert_null(made);
	cr_assert_eq(create_err.code, -EMFILE, "%s", create_err.msg);
	cr_assert_eq(boxes(), 0);
}

/* It may come to be when nobody counts it any more. */
Test(local, a_sandbox_that_is_not_there_in_time_is_ended)
{
	snprintf(fake.fail_make, sizeof(fake.fail_make), "no answer in time");
	fake.fail_code = ETIMEDOUT;
	cr_assert_null(create(ID));
	cr_assert_eq(create_err.code, -ETIMEDOUT, "%s", create_err.msg);
	cr_assert_eq(fake.ended, 1);
	cr_assert_str_eq(fake.ended_id, ID);
	cr_assert_eq(boxes(), 0);
}

Test(local, an_ending_box_refuses)
{
	struct engine_box *b = create(ID);

	engine->ops->destroy(b, "deleted", NULL, NULL);
	engine->ops->connect(b, 8080, on_fd, NULL);
	cr_assert(turn(5000));
	cr_assert_eq(got_err.code, -EIDRM);
}
