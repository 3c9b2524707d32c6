/* The boxes of a former daemon, whose spawner and inits only speak the protocol. */
#include <sys/resource.h>

#include "unit/sandbox/engined.h"

TestSuite(takeover, .init = engined_begin, .fini = engined_end, .timeout = 60);

static void on_taken(void *arg, size_t n)
{
	*(size_t *)arg = n;
	stop();
}

Test(takeover, old_boxes_without_a_note_are_ended)
{
	const struct local_heirs heirs = { .instance = NULL };
	size_t taken = 99;

	snprintf(fake.old_id, sizeof(fake.old_id), "%s", ID);
	local_engine_take_over(engine, &heirs, on_taken, &taken);
	cr_assert(turn(5000));
	cr_assert_eq(taken, 0);
	for (int i = 0; i < 100 && !__atomic_load_n(&fake.ended, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert_eq(fake.ended, 1);
	cr_assert_str_eq(fake.ended_id, ID);
}

static struct engine_box *adopted;
static struct engine_exec *left;
static char left_label[32];
static int n_known;
static bool wanted = true;

static bool adopt(void *arg UNUSED, struct engine_box *box, const void *note, size_t len)
{
	if (!wanted)
		return false;
	cr_assert(len == 4 && !memcmp(note, "mine", 4));
	adopted = box;
	engine->ops->adopt(box, on_end, NULL);
	return true;
}

static void on_left_done(void *arg UNUSED, struct engine_exec *x UNUSED, const struct engine_exec_result *res UNUSED,
			 const struct err *e UNUSED)
{
	cr_assert_fail("it has not ended");
}

static void on_left(void *arg UNUSED, struct engine_exec *x, const struct engine_left *l)
{
	snprintf(left_label, sizeof(left_label), "%.*s", (int)l->label_len, (const char *)l->label);
	left = x;
	engine->ops->claim(x, on_left_done, NULL);
}

static void on_known(void *arg UNUSED)
{
	n_known++;
	stop();
}

/* The daemon is killed; the next one. */
static void new_engine(void)
{
	local_engine_leave(engine);
	local_engine_free(engine);
	link_free(spawner);
	cr_assert_eq(link_new(&spawner, loop, fake.path, &err), 0, "%s", err.msg);
	cr_assert_eq(local_engine_new(&engine, loop, spawner, images, &settings, &err), 0, "%s", err.msg);
}

/* It has taken over all that the spawner tells of. */
static size_t next_daemon(void)
{
	const struct local_heirs heirs = { .sandbox = adopt };
	size_t taken = 99;

	new_engine();
	local_engine_take_over(engine, &heirs, on_taken, &taken);
	cr_assert(turn(20000));
	return taken;
}

static void old_box(void)
{
	struct engine_spec spec = { .id = ID, .image = image, .note = "mine", .note_len = 4 };

	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	cr_assert(turn(5000));
}

/* A box of a former daemon whose init was asked, and does not answer. */
static struct fake_box *silent_init(void)
{
	struct fake_box *b = &fake.boxes[0];

	old_box();
	cr_assert_eq(next_daemon(), 1);
	for (int i = 0; i < 1000 && !__atomic_load_n(&b->runs, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert(b->runs);
	return b;
}

Test(takeover, an_init_that_is_slow_to_tell_its_commands_keeps_nobody_waiting)
{
	struct fake_box *b = silent_init();
	struct engine_box *old = adopted;

	cr_assert_str_eq(old->id, ID);
	engine->ops->left(old, on_left, on_known, NULL);
	cr_assert_not_null(create("00000000-0000-8000-8000-0123456789ac"));
	cr_assert_eq(n_known, 0);
	fake_tell_runs(b, "run1", "label1");
	cr_assert(turn(5000));
	cr_assert_eq(n_known, 1);
	cr_assert_str_eq(left->id, "run1");
	cr_assert_str_eq(left_label, "label1");
	cr_assert_eq(counts().execs, 1);
	engine->ops->exec_release(left);
}

Test(takeover, a_box_that_is_taken_over_keeps_the_name_it_was_given)
{
	struct engine_exec_spec spec = { .cmd = "echo $HOSTNAME", .max_bytes = 1000 };
	struct fake_box *b;

	snprintf(fake.hostname, sizeof(fake.hostname), "box-ba9876543210");
	b = silent_init();
	engine->ops->left(adopted, on_left, on_known, NULL);
	fake_tell_runs(b, "run1", "label1");
	cr_assert(turn(5000));
	cr_assert_str_eq(output_of(run_spec(adopted, &spec)), "box-ba9876543210\n");
	cr_assert_str_eq(fake.config, "");
	engine->ops->exec_release(left);
}

static void on_refused(void *arg, const struct err *e)
{
	*(int *)arg = e ? e->code : 0;
	stop();
}

/* Nobody else knows of it: its name is another image's by now. */
Test(takeover, a_box_that_is_taken_over_holds_its_image)
{
	int code = 0;
	struct image *on_top = image_new();

	old_box();
	cr_assert_eq(next_daemon(), 1);
	on_top->name = xstrdup("docker.io/library/y:1");
	on_top->digest = xstrdup("sha256:1");
	on_top->layers = xcalloc(1, sizeof(char *));
	on_top->layers[on_top->n_layers++] = xstrdup(image->layers[0]);
	on_top->workdir = xstrdup("/");
	on_top->user = xstrdup("");
	cr_assert_eq(image_record_write(fake.dir, on_top, &err), 0, "%s", err.msg);
	image_unref(on_top);
	images_remove(images, "y:1", on_refused, &code);
	cr_assert(turn(5000));
	cr_assert_eq(code, -EBUSY);
}

Test(takeover, commands_that_are_known_already_are_told_at_once)
{
	struct fake_box *b = silent_init();

	fake_tell_runs(b, "run1", "label1");
	for (int i = 0; i < 1000 && !counts().execs; i++)
		turn(10);
	turn(10); /* the OK behind it */
	engine->ops->left(adopted, on_left, on_known, NULL);
	cr_assert_eq(n_known, 1);
	engine->ops->exec_release(left);
}

Test(takeover, a_box_that_ends_before_it_has_told_tells_nothing)
{
	struct fake_box *b = silent_init();

	engine->ops->left(adopted, on_left, on_known, NULL);
	engine->ops->destroy(adopted, "deleted", NULL, NULL);
	cr_assert(turn(5000));
	cr_assert_eq(n_ended, 1);
	cr_assert_str_eq(end_reason, "deleted");
	cr_assert_eq(n_known, 0);
	cr_assert_lt(b->fd, 0);
	cr_assert_eq(boxes(), 0);
}

Test(takeover, an_init_that_dies_before_it_has_told_ends_its_box)
{
	struct fake_box *b = silent_init();

	engine->ops->left(adopted, on_left, on_known, NULL);
	shutdown(b->fd, SHUT_RDWR);
	cr_assert(turn(5000));
	cr_assert_eq(n_ended, 1);
	cr_assert_str_eq(end_reason, "host");
	cr_assert_eq(n_known, 0);
}

/* In pieces that the socket has room for. */
static void tell_items(const struct fake_box *b, size_t n)
{
	char id[16];

	for (size_t i = 0; i < n; i++) {
		snprintf(id, sizeof(id), "run%zu", i);
		fake_tell_item(b, id);
		for (int j = 0; j < 1000 && i % 32 == 31 && counts().execs <= i; j++)
			turn(1);
	}
}

static void await_execs(size_t n)
{
	for (int i = 0; i < 1000 && counts().execs != n; i++)
		turn(1);
	cr_assert_eq(counts().execs, n, "%zu commands", counts().execs);
}

Test(takeover, an_init_may_tell_of_as_many_commands_as_it_can_have)
{
	struct fake_box *b = silent_init();

	tell_items(b, WIRE_ITEMS_MAX - 1);
	fake_tell_runs(b, "last", "label");
	await_execs(WIRE_ITEMS_MAX);
	turn(10); /* the OK behind them */
	engine->ops->left(adopted, on_left, on_known, NULL);
	cr_assert_eq(n_known, 1);
	cr_assert_eq(n_ended, 0);
}

Test(takeover, an_init_that_tells_of_more_commands_is_forged)
{
	struct fake_box *b = silent_init();

	engine->ops->left(adopted, on_left, on_known, NULL);
	tell_items(b, WIRE_ITEMS_MAX);
	await_execs(WIRE_ITEMS_MAX);
	fake_tell_item(b, "one more");
	cr_assert(turn(5000));
	cr_assert_eq(n_ended, 1);
	cr_assert_str_eq(end_reason, "host");
	cr_assert_eq(n_known, 0);
	cr_assert_eq(counts().execs, 0);
}

Test(takeover, an_init_whose_command_has_an_endless_id_is_forged)
{
	struct fake_box *b = silent_init();
	char id[WIRE_RUN_ID_MAX + 1];

	memset(id, 'x', sizeof(id));
	id[WIRE_RUN_ID_MAX - 1] = 0; /* the longest that there is */
	fake_tell_item(b, id);
	await_execs(1);
	id[WIRE_RUN_ID_MAX - 1] = 'x';
	id[WIRE_RUN_ID_MAX] = 0;
	fake_tell_item(b, id);
	cr_assert(turn(5000));
	cr_assert_eq(n_ended, 1);
	cr_assert_str_eq(end_reason, "host");
}

Test(takeover, a_box_that_nobody_wants_is_ended)
{
	wanted = false;
	old_box();
	cr_assert_eq(next_daemon(), 0);
	for (int i = 0; i < 1000 && boxes(); i++)
		turn(10);
	cr_assert_eq(boxes(), 0);
	cr_assert_str_eq(fake.ended_id, ID);
}

/* The next daemon has asked for the box of the former one, and fake_take_late() is to answer. */
static void asked_for(size_t *ret_taken)
{
	static const struct local_heirs heirs = { .sandbox = adopt };

	old_box();
	new_engine();
	fake.slow_take = true;
	local_engine_take_over(engine, &heirs, on_taken, ret_taken);
	for (int i = 0; i < 1000 && !__atomic_load_n(&fake.take, __ATOMIC_SEQ_CST); i++)
		turn(10);
}

Test(takeover, an_engine_that_goes_while_it_takes_over)
{
	size_t taken = 99;

	asked_for(&taken);
	engine = local_engine_free(engine);
	fake_take_late(); /* finds nobody */
	cr_assert_not(turn(50));
	cr_assert_eq(taken, 99);
	cr_assert_null(adopted);
}

/* Lets nobody here have one more descriptor; the limit of before. */
static struct rlimit no_more_descriptors(void)
{
	struct rlimit was, none;
	int next = dup(0);

	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = was;
	none.rlim_cur = (rlim_t)next;
	close(next);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	return was;
}

Test(takeover, a_box_for_which_there_is_no_descriptor_is_taken_when_there_is_one)
{
	struct rlimit was;
	size_t taken = 99;

	asked_for(&taken);
	fake.slow_take = false; /* what is asked for again is answered by the spawner's thread, which needs some */
	was = no_more_descriptors();
	fake_take_late();
	cr_assert_not(turn(50));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
	cr_assert_null(adopted);
	cr_assert_eq(fake.ended, 0);
	cr_assert(turn(5000));
	cr_assert_eq(taken, 1);
	cr_assert_str_eq(adopted->id, ID);
	cr_assert_eq(fake.ended, 0);
}

/* Its RUNS fails first, whose callback asks for the sandbox's end. */
Test(takeover, who_asks_an_init_that_ends_before_it_tells_of_its_commands_is_answered)
{
	struct fake_box *b = silent_init();

	fake.mute = true;
	engine->ops->connect(adopted, 8080, on_fd, NULL);
	for (int i = 0; i < 1000 && !__atomic_load_n(&fake.connects, __ATOMIC_SEQ_CST); i++)
		turn(10);
	cr_assert_eq(shutdown(b->fd, SHUT_RDWR), 0);
	for (int i = 0; i < 100 && !got_err.code; i++)
		turn(10);
	cr_assert_eq(got_err.code, -EIDRM, "%d %s", got_err.code, got_err.msg);
}

static void on_lost_output(void *arg UNUSED, struct engine_exec *x UNUSED, const struct engine_exec_result *res, const struct err *e)
{
	cr_assert_null(res);
	got_err = *e;
	stop();
}

static void on_left_to_end(void *arg UNUSED, struct engine_exec *x, const struct engine_left *l UNUSED)
{
	left = x;
	engine->ops->claim(x, on_lost_output, NULL);
}

/* A command of a former daemon whose init says how it ended, with a field of the test's. */
static void left_ends_with(enum wire_tag tag, uint64_t value)
{
	static _Alignas(8) char buf[512];
	struct fake_box *b = silent_init();
	struct wire_out o;

	engine->ops->left(adopted, on_left_to_end, on_known, NULL);
	fake_tell_runs(b, "run1", "label1");
	cr_assert(turn(5000));
	wire_begin(&o, buf, sizeof(buf), WIRE_DONE, 0);
	wire_put_str(&o, WIRE_T_RUN_ID, "run1");
	wire_put_u64(&o, tag, value);
	cr_assert_eq(wire_send(b->fd, &o, NULL, 0), 0);
	cr_assert(turn(5000));
}

Test(takeover, output_that_the_host_could_not_keep_is_a_failure_of_the_host)
{
	left_ends_with(WIRE_T_ERRNO, ENFILE);
	cr_assert_eq(got_err.code, -EIO);
	cr_assert_not_null(strstr(got_err.msg, "Too many open files in system (outcome infra)"), "%s", got_err.msg);
	engine->ops->exec_release(left);
}

/* Whoever had no descriptor left for it, and has none later: the result says so, and is none. */
Test(takeover, a_result_without_its_output_is_a_failure)
{
	fake.mute = true;
	left_ends_with(WIRE_T_STORED, 5);
	cr_assert_eq(got_err.code, -EMFILE, "%s", got_err.msg);
	engine->ops->exec_release(left);
}
