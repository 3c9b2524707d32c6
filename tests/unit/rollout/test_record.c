/* Events in the store: whatever the order and however often, the same comes of it; reading by pages; retention. */
#include "base/str.h"
#include "store/audit.h"
#include "unit/rollout/records.h"

TestSuite(record, .init = set_up, .fini = tear_down, .timeout = 120);

static char *rollout(const char *id, const char *run, int at)
{
	return xasprintf("{\"eventType\": \"rollout\", \"eventId\": \"%s\", \"timestamp\": %d, \"runName\": \"%s\", \"rolloutName\": \"n-%s\","
			 " \"split\": \"train\", \"metadata\": {\"of\": \"%s\"}, \"rollout_info\": {\"task_index\": 5, \"top_k\": 1}}",
			 id, at, run, id, id);
}

static void post_rollout(const char *id, const char *run, int messages)
{
	auto_free char *first = rollout(id, run, 1);

	post(NS, first);
	for (int i = 0; i < messages; i++) {
		auto_free char *name = xasprintf("%s-%d", id, i);
		auto_free char *text = message(id, name, i, 0.5);
		post(NS, text);
	}
}

static void put_run(void *arg, const struct record_run *run)
{
	struct seen *s = arg;

	s->run = run->key;
	put(s, "run %s %llu %llu %g\n", run->name, (unsigned long long)run->num_rollouts, (unsigned long long)run->num_messages,
	    run->avg_reward);
}

static void put_rollout(void *arg, const struct record_rollout *o)
{
	struct seen *s = arg;

	s->rollout = o->key;
	put(s, "rollout %s %s %s %s %lld %llu %llu %g %d %lld %s %s\n", o->id, o->name, o->split, o->environment_id,
	    (long long)o->task_index, (unsigned long long)o->num_messages, (unsigned long long)o->response_chars, o->max_reward,
	    o->is_finished, (long long)o->created_ms, o->metadata, o->rollout_info);
}

static bool put_message(void *arg, const struct record_message *m)
{
	put(arg, "  %lld %s %s %s\n", (long long)m->position, m->id, m->content, m->metadata ? m->metadata : "-");
	return true;
}

static void put_task(void *arg, const struct record_task *t)
{
	put(arg, "task %s %lld %g %llu\n", t->split, (long long)t->task_index, t->reward, (unsigned long long)t->response_chars);
}

#define N_ROLLOUTS 6
#define N_MESSAGES 8

static void look_at_all(struct seen *s, struct store_reader *r)
{
	const struct record_task_filter any = { .min_model_params = -1, .max_model_params = -1, .task_index = -1 };

	cr_assert_eq(store_run_find(r, s->ns, "the run", put_run, s, &s->err), 0, "%s", s->err.msg);
	for (int i = 0; i < N_ROLLOUTS; i++) {
		char id[16];
		snprintf(id, sizeof(id), "r%d", i);
		cr_assert_eq(store_rollout_find(r, s->ns, id, put_rollout, s, &s->err), 0, "%s", s->err.msg);
		cr_assert_eq(store_messages(r, s->rollout, INT64_MIN, 0, 0, 1000, put_message, s, &s->err), 0);
	}
	cr_assert_eq(store_tasks(r, ENV, &any, put_task, s, &s->err), 0);
}

/* -- any order ----------------------------------------------------------------------------------------------------- */

#define N_EVENTS (N_ROLLOUTS * (N_MESSAGES + 4))

static void make_events(char *ret[N_EVENTS])
{
	int n = 0;

	for (int i = 0; i < N_ROLLOUTS; i++) {
		char id[16], mid[32];
		snprintf(id, sizeof(id), "r%d", i);
		ret[n++] = rollout(id, "the run", 10 + i);
		for (int k = 0; k < N_MESSAGES; k++) {
			snprintf(mid, sizeof(mid), "m%d-%d", i, k);
			ret[n++] = message(id, mid, k, (k * 7 + i) % 5 * 0.25);
		}
		/* Updates that contradict each other: the latest wins; of two of one time the larger. */
		for (int k = 0; k < 3; k++)
			ret[n++] = xasprintf("{\"eventType\": \"rollout_update\", \"eventId\": \"%s\", \"timestamp\": %d, \"rollout_info\":"
					     " {\"task_index\": %d, \"top_k\": %d, \"harness\": null}}", id, k < 2 ? 500 + k : 501, k + i, k);
	}
	cr_assert_eq(n, N_EVENTS);
}

static uint64_t state;

/* The same numbers each time (xorshift), so that a failure can be had again. */
static size_t below(size_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % n;
}

static void shuffle(int *order, size_t n, unsigned seed)
{
	state = seed;
	for (size_t i = 0; i < n; i++)
		order[i] = (int)i / 2; /* each twice */
	for (size_t i = n; i-- > 1;) {
		size_t k = below(i + 1);
		int t = order[i];
		order[i] = order[k];
		order[k] = t;
	}
}

static size_t post_all(char *const *events, const int *order, size_t n)
{
	size_t recorded = 0;

	for (size_t i = 0; i < n;) {
		auto_buf struct buf b = { 0 };
		buf_init(&b, BUF_UNLIMITED);
		for (size_t count = 1 + below(12); count-- && i < n; i++)
			cr_assert_eq(buf_printf(&b, "%s%s", b.len ? "," : "", events[order ? order[i] : (int)i]), 0);
		recorded += post(NS, b.data).batch.recorded;
	}
	return recorded;
}

static void forget_all(void)
{
	tear_down();
	set_up();
}

Test(record, any_order_and_any_repetition_come_to_the_same)
{
	char *events[N_EVENTS];
	int order[2 * N_EVENTS];

	make_events(events);
	state = 1;
	post_all(events, NULL, N_EVENTS);
	auto_free char *expected = see(NS, look_at_all);
	cr_assert(strstr(expected, "run the run 6 48 1\n"), "%s", expected);
	cr_assert(strstr(expected, "\"task_index\":7"), "%s", expected);
	for (unsigned seed = 1; seed <= 10; seed++) {
		forget_all();
		shuffle(order, ARRAY_LEN(order), seed);
		post_all(events, order, ARRAY_LEN(order));
		auto_free char *found = see(NS, look_at_all);
		cr_assert_str_eq(found, expected, "seed %u", seed);
	}
	/* Once more, all of it: nothing is new. */
	cr_assert_eq(post_all(events, order, ARRAY_LEN(order)), 0);
	auto_free char *again = see(NS, look_at_all);
	cr_assert_str_eq(again, expected);
	for (size_t i = 0; i < N_EVENTS; i++)
		free(events[i]);
}

static void look_for_r1(struct seen *s, struct store_reader *r)
{
	if (store_rollout_find(r, s->ns, "r1", put_rollout, s, &s->err) < 0)
		cr_assert_eq(s->err.code, -ENOENT);
}

static void look_at_runs(struct seen *s, struct store_reader *r)
{
	uint64_t total;

	cr_assert_eq(store_runs(r, s->ns, "", 0, 0, 100, put_run, s, &total, &s->err), 0);
	put(s, "%llu in all\n", (unsigned long long)total);
}

Test(record, namespaces_do_not_meet)
{
	auto_free char *mine = rollout("r1", "a", 1);
	auto_free char *theirs = rollout("r1", "b", 2);

	cr_assert_eq(post(NS, mine).batch.recorded, 1);
	auto_free char *none = see(NT, look_for_r1);
	cr_assert(strstr(none, "not found"), "%s", none);
	cr_assert_eq(post(NT, theirs).batch.recorded, 1);
	auto_free char *a = see(NS, look_at_runs);
	auto_free char *b = see(NT, look_at_runs);
	cr_assert_str_eq(a, "run a 1 0 nan\n1 in all\n");
	cr_assert_str_eq(b, "run b 1 0 nan\n1 in all\n");
}

static void look_at_own_tasks(struct seen *s, struct store_reader *r)
{
	const struct record_task_filter own = { .namespace_id = s->ns, .min_model_params = -1, .max_model_params = -1, .task_index = -1 };

	cr_assert_eq(store_tasks(r, ENV, &own, put_task, s, &s->err), 0);
}

Test(record, tasks_can_be_asked_of_one_namespace)
{
	auto_free char *mine = message("r1", "m", 0, 0.5);
	auto_free char *begins = rollout("r1", "a", 1);
	auto_free char *theirs = message("r1", "m", 0, 0.75);

	post(NS, mine);
	post(NS, begins);
	post(NT, theirs);
	auto_free char *unlisted = see(NT, look_at_own_tasks);
	cr_assert_str_eq(unlisted, "", "it has no run yet");
	post(NT, begins);
	auto_free char *a = see(NS, look_at_own_tasks);
	auto_free char *b = see(NT, look_at_own_tasks);
	cr_assert_str_eq(a, "task train 5 0.5 9\n");
	cr_assert_str_eq(b, "task train 5 0.75 9\n");
}

Test(record, an_event_that_came_for_another_rollout_changes_nothing)
{
	auto_free char *first = message("r1", "m", 0, 1);
	auto_free char *second = message("r2", "m", 3, 2);
	auto_free char *begins = rollout("r2", "a", 1);

	cr_assert_eq(post(NS, first).batch.recorded, 1);
	cr_assert_eq(post(NS, second).batch.repeated, 1);
	post(NS, begins);
	auto_free char *runs = see(NS, look_at_runs);
	cr_assert_str_eq(runs, "run a 1 0 nan\n1 in all\n");
}

Test(record, what_was_answered_is_there_after_a_new_start)
{
	post_rollout("r1", "a", 3);
	auto_free char *before = see(NS, look_for_r1);
	close_it();
	open_it();
	auto_free char *after = see(NS, look_for_r1);
	cr_assert_str_eq(after, before);
}

Test(record, a_failed_write_records_nothing)
{
	struct rlimit none = { .rlim_cur = 0, .rlim_max = RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
	auto_free char *text = rollout("r1", "a", 1);
	struct posted p;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
	start(&p, NS, text);
	while (!p.done)
		cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	cr_assert_lt(p.err.code, 0);
	cr_assert(strstr(p.err.msg, path), "%s", p.err.msg);
	auto_free char *nothing = see(NS, look_at_runs);
	cr_assert_str_eq(nothing, "0 in all\n");
	cr_assert_eq(post(NS, text).batch.recorded, 1);
}

/* The sum of a run is beyond what a number can hold, and then far below: no reason to refuse anybody's events. */
Test(record, rewards_that_cannot_be_summed_up_stop_nobody)
{
	static const double rewards[] = { -1.7e308, -1.7e308, -1.7e308, 1.7e308 }; /* the last is the third rollout's, too */

	for (int i = 0; i < (int)ARRAY_LEN(rewards); i++) {
		auto_free char *r = xasprintf("r%d", MIN(i, 2)), *id = xasprintf("m%d", i);
		auto_free char *first = rollout(r, "the run", 1), *text = message(r, id, i, rewards[i]);
		post(NS, first);
		post(NS, text);
	}
	post_rollout("another", "the run", 1);
}

Test(record, whoever_waits_when_the_store_closes_is_told)
{
	struct posted p[20];
	auto_free char *text = rollout("r1", "a", 1);

	for (size_t i = 0; i < ARRAY_LEN(p); i++)
		start(&p[i], NS, text);
	close_it();
	for (size_t i = 0; i < ARRAY_LEN(p); i++)
		cr_assert(p[i].done);
	cr_assert_eq(p[0].err.code, 0, "it was with the writer");
	cr_assert_lt(p[19].err.code, 0, "nobody had begun with it");
	open_it();
}

/* -- pages --------------------------------------------------------------------------------------------------------- */

struct page {
	int64_t position, key;
	size_t n;
};

static bool on_paged(void *arg, const struct record_message *m)
{
	struct page *p = arg;

	cr_assert(m->position > p->position || (m->position == p->position && m->key > p->key), "in order, and none twice");
	p->position = m->position;
	p->key = m->key;
	p->n++;
	return true;
}

static void look_by_pages(struct seen *s, struct store_reader *r)
{
	struct page all = { .position = INT64_MIN }, skipped = { .position = INT64_MIN };
	size_t before;

	cr_assert_eq(store_rollout_find(r, s->ns, "r1", put_rollout, s, &s->err), 0);
	do {
		before = all.n;
		cr_assert_eq(store_messages(r, s->rollout, all.position, all.key, 0, 7, on_paged, &all, &s->err), 0);
	} while (all.n > before);
	cr_assert_eq(store_messages(r, s->rollout, INT64_MIN, 0, 290, 100, on_paged, &skipped, &s->err), 0);
	put(s, "%zu and %zu", all.n, skipped.n);
}

Test(record, pages_have_every_message_once)
{
	auto_buf struct buf b = { 0 };
	auto_free char *begins = rollout("r1", "a", 1);

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_puts(&b, begins), 0);
	for (int i = 0; i < 300; i++) {
		auto_free char *id = xasprintf("m%d", i);
		auto_free char *text = message("r1", id, i * 37 % 50, 0); /* six of each position */
		cr_assert_eq(buf_printf(&b, ",%s", text), 0);
	}
	post(NS, b.data);
	auto_free char *found = see(NS, look_by_pages);
	cr_assert(strstr(found, "300 and 10"), "%s", found);
}

static void put_ordinal(void *arg, const struct record_rollout *o)
{
	put(arg, "%lld:%s ", (long long)o->ordinal, o->id);
}

static void look_at_numbers(struct seen *s, struct store_reader *r)
{
	if (store_run_find(r, s->ns, "a", put_run, s, &s->err) == 0)
		cr_assert_eq(store_rollouts(r, s->run, 4, true, 3, put_ordinal, s, &s->err), 0);
}

/* -- retention ----------------------------------------------------------------------------------------------------- */

static void look_at_tasks(struct seen *s, struct store_reader *r)
{
	const struct record_task_filter any = { .min_model_params = -1, .max_model_params = -1, .task_index = -1 };

	cr_assert_eq(store_tasks(r, ENV, &any, put_task, s, &s->err), 0);
}

Test(record, the_oldest_go_whole_beyond_a_number_of_messages)
{
	post_rollout("r1", "a", 4);
	post_rollout("r2", "a", 4);
	post_rollout("r3", "b", 4);
	post_rollout("r4", "a", 4);
	trim((struct record_limits){ .max_messages = 16 });
	auto_free char *all = see(NS, look_at_runs);
	cr_assert_str_eq(all, "run b 1 4 0.5\nrun a 3 12 0.5\n2 in all\n");
}

Test(record, the_oldest_go_first)
{
	auto_free char *late = message("r1", "late", 9, 1);

	post_rollout("r1", "a", 4);
	post_rollout("r2", "a", 4);
	post_rollout("r3", "b", 4);
	post_rollout("r4", "a", 4);
	trim((struct record_limits){ .max_messages = 9 });
	auto_free char *left = see(NS, look_at_runs);
	cr_assert_str_eq(left, "run b 1 4 0.5\nrun a 1 4 0.5\n2 in all\n");
	auto_free char *gone = see(NS, look_for_r1);
	cr_assert(strstr(gone, "not found"), "%s", gone);
	auto_free char *numbers = see(NS, look_at_numbers);
	cr_assert_str_eq(numbers, "run a 1 4 0.5\n3:r4 ", "the numbers of those that are left stay");
	auto_free char *tasks = see(NS, look_at_tasks);
	cr_assert_str_eq(tasks, "task train 5 0.5 48\ntask train 5 0.5 48\n");
	/* An event for one that is gone makes no run of it. */
	cr_assert_eq(post(NS, late).batch.recorded, 1);
	trim((struct record_limits){ .max_messages = 1 });
	auto_free char *none = see(NS, look_at_runs);
	cr_assert_str_eq(none, "0 in all\n");
}

Test(record, a_long_rollout_goes_in_pieces_and_is_gone_at_once)
{
	struct trimmed t = { 0 };
	struct record_limits limits = { .max_messages = 1 };
	auto_buf struct buf b = { 0 };
	auto_free char *begins = rollout("r1", "a", 1);

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(buf_puts(&b, begins), 0);
	for (int i = 0; i < 1700; i++) {
		auto_free char *id = xasprintf("m%d", i);
		auto_free char *text = message("r1", id, i, 1);
		cr_assert_eq(buf_printf(&b, ",%s", text), 0);
	}
	post(NS, b.data);
	store_record_trim(store, &limits, on_trimmed, &t);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert(t.more);
	auto_free char *runs = see(NS, look_at_runs);
	cr_assert_str_eq(runs, "0 in all\n", "nobody sees half a rollout");
	cr_assert_geq(trim(limits), 2);
	cr_assert_eq(post(NS, b.data).batch.recorded, 1701, "nothing of it is remembered");
}

Test(record, the_silent_go_after_a_time)
{
	struct record_limits limits = { .keep_ms = 1 };
	int64_t until;

	post_rollout("r1", "a", 2);
	trim((struct record_limits){ 0 });
	trim((struct record_limits){ .keep_ms = 3600 * 1000 });
	auto_free char *there = see(NS, look_at_runs);
	cr_assert_str_eq(there, "run a 1 2 0.5\n1 in all\n");
	for (until = time_wall_ms() + 5; time_wall_ms() < until;)
		usleep(1000);
	trim(limits);
	auto_free char *gone = see(NS, look_at_runs);
	cr_assert_str_eq(gone, "0 in all\n");
}

Test(record, those_of_a_removed_user_go)
{
	struct store_namespace *user = NULL;
	struct err err = ERR_INIT;

	cr_assert_eq(store_namespace_add(store, "alice", "user", &user, &err), 0);
	auto_free char *first = rollout("r1", "a", 1);
	auto_free char *text = message("r1", "m1", 0, 0.5);
	post(user->id, first);
	post(user->id, text);
	post_rollout("r1", "a", 2);
	trim((struct record_limits){ 0 });
	auto_free char *there = see(user->id, look_at_runs);
	cr_assert_str_eq(there, "run a 1 1 0.5\n1 in all\n");
	store_user_remove(store, user);
	post(NS, first); /* a turn of the writer */
	trim((struct record_limits){ 0 });
	auto_free char *gone = see(user->id, look_at_runs);
	cr_assert_str_eq(gone, "0 in all\n");
	auto_free char *others = see(NS, look_at_runs);
	cr_assert_str_eq(others, "run a 1 2 0.5\n1 in all\n");
}

static void put_change(void *arg, const char *split, const char *variant, int64_t task_index)
{
	put(arg, "%s:%s:%lld ", split, variant, (long long)task_index);
}

static void look_at_changes(struct seen *s, struct store_reader *r)
{
	int64_t version;

	cr_assert_eq(store_task_changes(r, ENV, 0, put_change, s, &version, &s->err), 0);
}

Test(record, tasks_without_rollouts_are_forgotten_by_the_next_start)
{
	post_rollout("r1", "a", 4);
	auto_free char *other = xasprintf("{\"eventType\": \"rollout\", \"eventId\": \"r2\", \"timestamp\": 1, \"runName\": \"a\","
					  " \"split\": \"train\", \"rollout_info\": {\"task_index\": 6}}");
	auto_free char *text = message("r2", "m", 0, 0.5);
	post(NS, other);
	post(NS, text);
	auto_free char *both = see(NS, look_at_changes);
	cr_assert_str_eq(both, "train::5 train::6 ");
	trim((struct record_limits){ .max_messages = 1 });
	auto_free char *kept = see(NS, look_at_changes);
	cr_assert_str_eq(kept, "train::6 train::5 ", "who has summed them up must hear of it");
	close_it();
	open_it();
	auto_free char *left = see(NS, look_at_changes);
	cr_assert_str_eq(left, "train::6 ");
}

/* -- the audit log ------------------------------------------------------------------------------------------------- */

static void put_entry(void *arg, const struct audit_entry *e)
{
	put(arg, "%lld ", (long long)e->id);
}

static void look_at_audit(struct seen *s, struct store_reader *r)
{
	const struct audit_filter all = { 0 };

	cr_assert_eq(store_audit_read(r, &all, 0, 5, put_entry, s, &s->err), 0);
}

static void on_synced(void *arg UNUSED, const struct err *err)
{
	cr_assert_null(err);
	loop_stop(loop, 0);
}

static void audited(int n, int64_t at_ms)
{
	for (int i = 0; i < n; i++) {
		const struct audit_entry e = { .at_ms = at_ms, .actor_id = "", .actor = "a", .key_id = "", .session_id = "",
					       .namespace_id = "", .namespace = "", .action = "POST /", .target = "", .peer = "" };
		store_audit_add(store, &e);
	}
	store_sync(store, on_synced, NULL);
	cr_assert_eq(loop_run(loop), 0);
}

Test(record, the_audit_log_goes_by_age_in_pieces)
{
	audited(1203, 1000);
	audited(2, 0);
	cr_assert_eq(trim((struct record_limits){ .keep_ms = 1 }), 1);
	auto_free char *kept = see(NS, look_at_audit);
	cr_assert_str_eq(kept, "1205 1204 1203 1202 1201 ");
	cr_assert_eq(trim((struct record_limits){ .audit_ms = 3600 * 1000 }), 3);
	auto_free char *young = see(NS, look_at_audit);
	cr_assert_str_eq(young, "1205 1204 ");
	cr_assert_eq(trim((struct record_limits){ .audit_ms = 1 }), 1);
	close_it();
	open_it();
	audited(1, 0);
	auto_free char *after = see(NS, look_at_audit);
	cr_assert(str_starts(after, "1206 "), "no id is given twice: %s", after);
}
