/* Settings of environments: what is accepted, what is refused and how, what is there after a new start; and the moves of
 * a deployment. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "store/envset.h"

static char dir[64], path[96];
static struct loop *loop;
static struct store *s;
static struct store_environment *e;

static void open_again(void)
{
	struct err err = ERR_INIT;

	s = store_free(s);
	cr_assert_eq(store_open(&s, loop, path, &err), 0, "%s", err.msg);
	e = store_environment_find(s, "n", "x");
}

static void set_up(void)
{
	struct store_namespace *ns;
	struct err err;

	snprintf(dir, sizeof(dir), "/tmp/test-envset-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.db", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
	open_again();
	cr_assert_eq(store_namespace_add(s, "n", "user", &ns, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "x", &e, &err), 0);
}

static void tear_down(void)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char p[128];

	store_free(s);
	loop_free(loop);
	for (size_t i = 0; i < 3; i++) {
		snprintf(p, sizeof(p), "%s%s", path, suffixes[i]);
		unlink(p);
	}
	snprintf(p, sizeof(p), "%s/secrets.key", dir);
	unlink(p);
	rmdir(dir);
}

TestSuite(envset, .init = set_up, .fini = tear_down, .timeout = 20);

static struct err change(const char *json)
{
	struct err err = ERR_INIT;
	auto_json v = NULL;

	cr_assert_eq(json_read_object(&v, json, strlen(json), &err), 0, "%s", err.msg);
	if (envset_change(s, e, v, &err) == 0)
		err.code = 0;
	return err;
}

Test(envset, defaults_hold_until_something_is_set)
{
	cr_assert_eq(envset_number(e, ENVSET_MAX_SCALE), e->max_scale);
	cr_assert_eq(envset_number(e, ENVSET_CONCURRENCY), e->max_concurrency);
	cr_assert_eq(envset_number_or(e, ENVSET_HEALTH_TIMEOUT, 77), 77);
	cr_assert_str_eq(envset_text(e, ENVSET_DOCKERFILE), "Dockerfile");
	cr_assert_str_eq(envset_text(e, ENVSET_SIZE), "");
	cr_assert_eq(change("{\"health_timeout\": \"30s\", \"max_scale\": 4, \"concurrency\": \"16\", \"size\": \"0.5:1\"}").code, 0);
	cr_assert_eq(envset_number_or(e, ENVSET_HEALTH_TIMEOUT, 77), 30000);
	cr_assert_eq(e->max_scale, 4);
	cr_assert_eq(e->max_concurrency, 16);
	cr_assert_eq(e->cpu_milli, 500);
	cr_assert_eq(change("{\"max_scale\": null, \"size\": \"\"}").code, 0);
	cr_assert_eq(e->max_scale, 1);
	cr_assert_eq(e->cpu_milli, 0, "0: the server's default");
}

Test(envset, it_is_there_after_a_new_start)
{
	cr_assert_eq(change("{\"min_scale\": 2, \"max_scale\": 3, \"dockerfile\": \"dev/x\", \"env\": {\"A\": \"1\", \"B\": \"2\"}}").code, 0);
	cr_assert_eq(change("{\"env\": {\"A\": null}, \"dockerfile\": null}").code, 0);
	open_again();
	cr_assert_eq(envset_number(e, ENVSET_MIN_SCALE), 2);
	cr_assert_eq(e->max_scale, 3);
	cr_assert_not(envset_is_set(e, ENVSET_DOCKERFILE));
	cr_assert_str_eq(envset_text(e, ENVSET_ENV), "{\"B\":\"2\"}");
}

Test(envset, a_bad_value_names_setting_value_and_expectation_and_changes_nothing)
{
	static const struct {
		const char *json, *says[3];
	} cases[] = {
		{ "{\"max_scale\": 9, \"concurrency\": \"many\"}", { "concurrency", "many", "whole number from 1 to" } },
		{ "{\"max_scale\": 1001}", { "max_scale", "\"1001\"", "from 0 to 1000" } },
		{ "{\"max_scale\": [1]}", { "max_scale", "[1]", "whole number" } },
		{ "{\"idle_timeout\": \"10\"}", { "idle_timeout", "\"10\"", "duration" } },
		{ "{\"size\": \"huge\"}", { "size", "huge", "CPU:GIB" } },
		{ "{\"dockerfile\": \"../x\"}", { "dockerfile", "../x", "inside the source" } },
		{ "{\"dockerfile\": \"/etc\"}", { "dockerfile", "/etc", "inside the source" } },
		{ "{\"nothing\": 1}", { "nothing", "no setting", "max_scale" } },
		{ "{\"env\": {\"1A\": \"x\"}}", { "env", "1A", "letters" } },
		{ "{\"env\": {\"A\": 1}}", { "env.A", "text", "null" } },
		{ "{\"min_scale\": 5}", { "min_scale", "5", "max_scale, which is 1" } },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = change(cases[i].json);
		cr_assert_eq(err.code, -EINVAL, "%s", cases[i].json);
		for (size_t k = 0; k < 3; k++)
			cr_assert(strstr(err.msg, cases[i].says[k]), "%s: %s", cases[i].json, err.msg);
	}
	for (enum envset id = 0; id < ENVSET_N; id++)
		cr_assert_not(envset_is_set(e, id), "%s was set", envset_rows[id].name);
	cr_assert_eq(e->max_scale, 1);
}

/* -- states ---------------------------------------------------------------------------------------------------------- */

Test(envset, a_deployment_moves_by_the_table_alone)
{
	static const enum store_deployment_state way[] = { STORE_DEPLOYMENT_BUILDING, STORE_DEPLOYMENT_DEPLOYING,
							   STORE_DEPLOYMENT_READY,    STORE_DEPLOYMENT_DRAINING,
							   STORE_DEPLOYMENT_STOPPED,  STORE_DEPLOYMENT_DEPLOYING,
							   STORE_DEPLOYMENT_FAILED };
	struct store_deployment *d = store_deployment_add(s, e, NULL, "folder");
	char id[STORE_ID_LEN];
	struct err err;
	size_t n = 0;

	memcpy(id, d->id, sizeof(id));
	for (size_t i = 0; i < ARRAY_LEN(way); i++)
		cr_assert_eq(store_deployment_move(s, d, way[i], i == 6 ? "no answer" : NULL, &err), 0, "%zu", i);
	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_READY, NULL, &err), -EPROTO);
	cr_assert(strstr(err.msg, "failed") && strstr(err.msg, "ready"), "%s", err.msg);
	open_again();
	d = store_deployment_by_id(s, id);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_FAILED);
	list_foreach(&d->transitions, struct store_transition, of_deployment, t) {
		cr_assert_eq(t->to, n ? way[n - 1] : STORE_DEPLOYMENT_QUEUED);
		cr_assert_gt(t->at_ms, 0);
		cr_assert_gt(strlen(t->reason), 0);
		n++;
	}
	cr_assert_eq(n, ARRAY_LEN(way) + 1, "%zu moves are recorded", n);
}

/* docs/deployments.md repeats the table for people: "| from | to | why |". */
Test(envset, the_document_has_the_same_table)
{
	static const char *const lines[] = {
#define X(from, to, why) STORE_DEPLOYMENT_##from != STORE_DEPLOYMENT_##to ? #from "|" #to "|" why : "",
		STORE_DEPLOYMENT_MOVES(X)
#undef X
	};
	auto_buf struct buf doc = { 0 };
	size_t rows = 0;

	buf_init(&doc, 1 << 20);
	cr_assert_eq(fd_read_file(TEST_SOURCE_ROOT "/docs/deployments.md", &doc, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		auto_free char *line = xstrdup(lines[i]);
		char *rest = line;
		const char *from = strsep(&rest, "|"), *to = strsep(&rest, "|");
		auto_free char *row = xasprintf("| %s | %s | %s |\n", from, to, rest);
		for (char *p = row; p < row + strlen(from) + strlen(to) + 5; p++)
			*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
		cr_assert(strstr(doc.data, row), "missing: %s", row);
	}
	for (const char *p = doc.data; (p = strstr(p, "\n| ")); p++)
		rows++;
	cr_assert_eq(rows, ARRAY_LEN(lines) + 1, "the head and one row for each move");
}

Test(envset, what_is_over_comes_back_by_a_rollback_alone)
{
	for (int from = STORE_DEPLOYMENT_QUEUED; from <= STORE_DEPLOYMENT_SUPERSEDED; from++)
		for (int to = STORE_DEPLOYMENT_QUEUED; to <= STORE_DEPLOYMENT_SUPERSEDED; to++)
			if (store_deployment_state_final((enum store_deployment_state)from) && to != STORE_DEPLOYMENT_DEPLOYING &&
			    to != STORE_DEPLOYMENT_QUEUED)
				cr_assert_not(store_deployment_may_move((enum store_deployment_state)from,
									(enum store_deployment_state)to));
	cr_assert_not(store_deployment_may_move(STORE_DEPLOYMENT_SUPERSEDED, STORE_DEPLOYMENT_DEPLOYING));
	cr_assert_not(store_deployment_may_move(STORE_DEPLOYMENT_SUPERSEDED, STORE_DEPLOYMENT_QUEUED));
}

/* -- secrets ------------------------------------------------------------------------------------------------------- */

static bool in_file(const char *file, const char *text)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16u << 20);
	return fd_read_file(file, &b, NULL) == 0 && memmem(b.data, b.len, text, strlen(text));
}

static void write_secret_name(void *arg, const char *name, const char *value)
{
	cr_assert_str_eq(value, "plain-and-secret");
	snprintf(arg, 32, "%s", name);
}

Test(envset, secrets_are_sealed_in_the_database)
{
	char wal[128], name[32] = "";

	snprintf(wal, sizeof(wal), "%s-wal", path);
	cr_assert_eq(change("{\"build_secrets\": {\"TOKEN\": \"plain-and-secret\"}, \"build_args\": {\"A\": \"plain-and-open\"}}").code, 0);
	open_again();
	cr_assert(in_file(path, "plain-and-open") || in_file(wal, "plain-and-open"));
	cr_assert(!in_file(path, "plain-and-secret") && !in_file(wal, "plain-and-secret"));
	envset_each(e, ENVSET_BUILD_SECRETS, write_secret_name, name);
	cr_assert_str_eq(name, "TOKEN");
	cr_assert_eq(change("{\"build_secrets\": {\"TOKEN\": null}}").code, 0);
	open_again();
	cr_assert(!envset_is_set(e, ENVSET_BUILD_SECRETS));
}

Test(envset, secrets_without_their_key_are_an_error_that_says_so)
{
	struct err err = ERR_INIT;
	char file[128];

	cr_assert_eq(change("{\"build_secrets\": {\"TOKEN\": \"x\"}}").code, 0);
	s = store_free(s);
	snprintf(file, sizeof(file), "%s/secrets.key", dir);
	unlink(file);
	cr_assert_eq(store_open(&s, loop, path, &err), -ENOENT);
	cr_assert(strstr(err.msg, "secrets.key") && strstr(err.msg, "n/x"), "%s", err.msg);
	s = NULL;
}
