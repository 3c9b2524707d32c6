/* Changes that are asked for while the disk takes nothing: what they leave in memory has a bound. */
#include <signal.h>
#include <sys/resource.h>

#include "api/api.h"
#include "unit/http/harness.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-audited-XXXXXX";
static struct api api;
static struct http_router *router;
static char key[AUTH_KEY_LEN];

static void begin(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	auto_free char *db = xasprintf("%s/db", dir), *file = xasprintf("%s/key", dir);
	router = http_router_new();
	harness_begin(http_router_dispatch, router);
	api.loop = loop;
	cr_assert_eq(store_open(&api.store, loop, db, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_new(&api.auth, api.store, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_first_start(api.auth, file, key, &err), 0, "%s", err.msg);
	api_keys_routes(&api, router);
}

static void end(void)
{
	harness_end();
	http_router_free(router);
}

TestSuite(audited, .init = begin, .fini = end, .timeout = 30);

static void limit_files(rlim_t bytes)
{
	const struct rlimit l = { .rlim_cur = bytes, .rlim_max = RLIM_INFINITY };

	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static const char *ask(const char *method, const char *path, uint64_t patience_ms)
{
	auto_free char *text = xasprintf("%s %s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n", method, path,
					 key);
	int fd = connect_pair();

	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	run_for(patience_ms);
	const char *answer = read_now(fd);
	close(fd);
	return answer;
}

Test(audited, what_waits_for_the_disk_has_a_bound)
{
	const char *answer = "";
	int n;

	signal(SIGXFSZ, SIG_IGN);
	run_for(100); /* the first start is on disk */
	store_limit_queue(api.store, 20);
	limit_files(0);
	for (n = 0; n < 40 && !strncmp(answer = ask("DELETE", "/v1/keys/none", 20), "HTTP/1.1 404", 12); n++)
		;
	cr_assert(strstr(answer, "HTTP/1.1 507") == answer && strstr(answer, "changes wait to be written"), "%s", answer);
	cr_assert_leq(n, 12, "each leaves an entry and its status");
	answer = ask("GET", "/v1/keys", 10);
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s", answer);
	limit_files(RLIM_INFINITY);
	run_for(1500);
	cr_assert_eq(strncmp(ask("DELETE", "/v1/keys/none", 10), "HTTP/1.1 404", 12), 0);
	auth_free(api.auth);
	store_free(api.store);
	run_for(10);
	tmpdir_remove(dir);
}
