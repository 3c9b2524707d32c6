/* The export of a run whose client is slow, while retention takes what it is at. */
#include "api/api.h"
#include "auth/auth.h"
#include "unit/rollout/records.h"
#include "unit/http/harness.h"

#define MESSAGES 100
#define TEXT (64u * 1024)

static struct auth *auth;
static struct http_router *router;
static struct api api;
static char key[AUTH_KEY_LEN];

static void begin(void)
{
	auto_free char *file = NULL;
	struct err err = ERR_INIT;

	set_up();
	file = xasprintf("%s/key", dir);
	cr_assert_eq(auth_new(&auth, store, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_first_start(auth, file, key, &err), 0, "%s", err.msg);
	unlink(file);
	api = (struct api){ .loop = loop, .store = store, .auth = auth };
	router = http_router_new();
	api_export_routes(&api, router);
	http_limits_default(&limits);
	cr_assert_eq(http_server_new(&server, loop, &limits, http_router_dispatch, router, &err), 0, "%s", err.msg);
}

static void end(void)
{
	server = http_server_free(server);
	http_router_free(router);
	auth = auth_free(auth);
	tear_down();
}

TestSuite(export, .init = begin, .fini = end, .timeout = 60);

static void post_rollout(const char *ns)
{
	post(ns, "{\"eventType\": \"rollout\", \"eventId\": \"r\", \"timestamp\": 1, \"runName\": \"a\"}");
}

/* More than the server and the socket take in. */
static void post_large(const char *ns)
{
	auto_free char *content = xcalloc(1, TEXT + 1);

	memset(content, 'x', TEXT);
	for (int i = 0; i < MESSAGES; i++) {
		auto_free char *m = xasprintf("{\"eventType\": \"message\", \"eventId\": \"%d\", \"timestamp\": 1, \"rolloutEventId\": \"r\","
					      " \"index\": %d, \"type\": \"assistant_message\", \"content\": \"%s\"}", i, i, content);
		post(ns, m);
	}
}

static void put_key(void *arg, const struct record_rollout *o)
{
	put(arg, "%lld", (long long)o->key);
}

static void look_at_key(struct seen *s, struct store_reader *r)
{
	cr_assert_eq(store_rollout_find(r, s->ns, "r", put_key, s, &s->err), 0, "%s", s->err.msg);
}

/* All of the answer, however long it takes. */
static void read_rest(int fd, struct buf *to)
{
	for (int i = 0; i < 2000 && !strstr(to->data, "\r\n0\r\n\r\n"); i++) {
		cr_assert_eq(buf_puts(to, read_now(fd)), 0);
		run_for(5);
	}
}

/* The row of one that went may be another's by then, whoever that is. */
Test(export, has_nothing_of_a_rollout_that_took_the_place_of_one_that_went)
{
	const char *ns = store_namespace_find(store, "local")->id;
	auto_free char *theirs = message("r", "theirs", MESSAGES * 2, 1);
	auto_buf struct buf answer = { 0 };

	buf_init(&answer, BUF_UNLIMITED);
	post_rollout(ns);
	post_large(ns);
	auto_free char *before = see(ns, look_at_key);
	int fd = connect_pair();
	auto_free char *request = xasprintf("GET /v1/runs/a/export HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n", key);
	cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
	run_for(200);
	trim((struct record_limits){ .max_messages = 1 });
	post_rollout(NT);
	post(NT, theirs);
	auto_free char *after = see(NT, look_at_key);
	cr_assert_str_eq(before, after, "or there is nothing to be confused");
	cr_assert_eq(buf_puts(&answer, read_now(fd)), 0);
	cr_assert_not_null(strstr(answer.data, "xxx"), "%.500s", answer.data);
	read_rest(fd, &answer);
	cr_assert_null(strstr(answer.data, "theirs"));
	cr_assert_not_null(strstr(answer.data, "\r\n0\r\n\r\n"), "it ends as a whole answer does");
	close(fd);
}
