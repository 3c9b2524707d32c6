/* The control plane's routes over a real connection: the server runs in a child, the test talks to it with plain bytes. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/metrics.h"
#include "api/common/upload.h"
#include "base/fd.h"

static char dir[64];
static char admin[AUTH_KEY_LEN], member[AUTH_KEY_LEN], stranger[AUTH_KEY_LEN], reader[AUTH_KEY_LEN];
static uint16_t port;
static pid_t child;

/* -- the server -------------------------------------------------------------------------------------------------- */

struct put { /* PUT /upload */
	struct http_req *req;
	struct upload *upload;
};

static void on_put_done(void *arg, uint64_t size, const struct err *err)
{
	struct put *p = arg;

	if (err)
		http_reply_error(p->req, err->code == -EMSGSIZE ? 413 : 500, "%s", err->msg);
	else
		http_reply_error(p->req, 200, "%llu bytes", (unsigned long long)size);
}

static void on_put_close(struct http_req *req, bool complete, void *arg)
{
	struct put *p = arg;

	(void)req;
	(void)complete;
	upload_free(p->upload);
}

static void on_put(struct http_req *req, void *arg)
{
	struct put *p = http_req_alloc(req, sizeof(*p));
	char path[128];
	struct err err;

	(void)arg;
	*p = (struct put){ .req = req };
	snprintf(path, sizeof(path), "%s/uploaded", dir);
	http_req_on_close(req, on_put_close, p);
	if (upload_start(&p->upload, req, path, 3 << 20, on_put_done, p, &err) < 0)
		http_reply_error(req, err.code == -EMSGSIZE ? 413 : 500, "%s", err.msg);
}

static void make_keys(struct store *s, struct auth *a, int out)
{
	struct store_namespace *local, *other;
	char path[96], keys[4][AUTH_KEY_LEN];
	struct err err;

	snprintf(path, sizeof(path), "%s/admin.key", dir);
	if (auth_first_start(a, path, keys[0], &err) < 0 || store_namespace_add(s, "other", "org", &other, &err) < 0)
		_exit(10);
	local = store_namespace_find(s, "local");
	if (auth_key_make(a, local, STORE_ROLE_MEMBER, "", keys[1], &err) < 0 ||
	    auth_key_make(a, other, STORE_ROLE_MEMBER, "", keys[2], &err) < 0 ||
	    auth_key_make(a, local, STORE_ROLE_READER, "", keys[3], &err) < 0)
		_exit(11);
	if (fd_write_all(out, keys, sizeof(keys)) < 0)
		_exit(12);
}

static void serve(int listener, int out)
{
	struct http_limits limits;
	struct http_server *server;
	struct http_router *router = http_router_new();
	struct api api = { .metrics = api_metrics_new(), .data_dir = dir, .upload_max_bytes = 1 << 20 };
	char path[96];
	struct err err;

	http_limits_default(&limits);
	snprintf(path, sizeof(path), "%s/x.db", dir);
	if (loop_new(&api.loop, &err) < 0 || store_open(&api.store, api.loop, path, &err) < 0 ||
	    auth_new(&api.auth, api.store, &err) < 0 ||
	    http_server_new(&server, api.loop, &limits, http_router_dispatch, router, &err) < 0)
		_exit(13);
	api.http = server;
	make_keys(api.store, api.auth, out);
	api_system_routes(&api, router);
	api_namespaces_routes(&api, router);
	api_keys_routes(&api, router);
	api_orgs_routes(&api, router);
	api_environments_routes(&api, router);
	api_deployments_routes(&api, router);
	api_details_routes(&api, router);
	api_git_routes(&api, router);
	api_settings_routes(&api, router);
	api_images_routes(&api, router);
	http_router_add(router, "PUT", "/upload", on_put, NULL);
	if (http_server_listen(server, listener, NULL, &err) < 0)
		_exit(14);
	_exit(loop_run(api.loop));
}

static void set_up(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	char keys[4][AUTH_KEY_LEN];
	int ends[2], listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(dir, sizeof(dir), "/tmp/test-api-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(listener, 16), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&a, &len), 0);
	port = ntohs(a.sin_port);
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	child = fork();
	if (child == 0)
		serve(listener, ends[1]);
	close(ends[1]);
	close(listener);
	cr_assert_eq(fd_read_all(ends[0], keys, sizeof(keys)), 0);
	close(ends[0]);
	memcpy(admin, keys[0], sizeof(admin));
	memcpy(member, keys[1], sizeof(member));
	memcpy(stranger, keys[2], sizeof(stranger));
	memcpy(reader, keys[3], sizeof(reader));
}

static void tear_down(void)
{
	pid_t pid;

	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	pid = fork();
	if (pid == 0) {
		execlp("rm", "rm", "-rf", dir, NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

TestSuite(control, .init = set_up, .fini = tear_down, .timeout = 30);

/* -- the client -------------------------------------------------------------------------------------------------- */

static char answer[1 << 20];

static int dial(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	struct timeval patience = { .tv_sec = 10 };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	cr_assert_eq(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
	return s;
}

/* The status; the whole answer is in `answer`. */
static int finish(int s)
{
	size_t n = 0;
	ssize_t got;

	while (n < sizeof(answer) - 1 && (got = read(s, answer + n, sizeof(answer) - 1 - n)) > 0)
		n += (size_t)got;
	answer[n] = '\0';
	close(s);
	cr_assert_eq(strncmp(answer, "HTTP/1.1 ", 9), 0, "%s", answer);
	return (answer[9] - 48) * 100 + (answer[10] - 48) * 10 + (answer[11] - 48);
}

static int ask(const char *key, const char *method, const char *path, const char *body)
{
	char head[1024];
	int s = dial();
	int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s%sContent-Length: %zu\r\n\r\n", method,
			 path, key ? "x-api-key: " : "", key ? key : "", key ? "\r\n" : "", body ? strlen(body) : 0);

	cr_assert_eq(fd_write_all(s, head, (size_t)n), 0);
	if (body)
		cr_assert_eq(fd_write_all(s, body, strlen(body)), 0);
	return finish(s);
}

static bool says(const char *text)
{
	return strstr(answer, text) != NULL;
}

/* -- the tests --------------------------------------------------------------------------------------------------- */

Test(control, open_to_all)
{
	cr_assert_eq(ask(NULL, "GET", "/health", NULL), 200);
	cr_assert_eq(ask(NULL, "GET", "/version", NULL), 200);
	cr_assert(says("\"name\":\"openreward\""));
	cr_assert_eq(ask(NULL, "GET", "/metrics", NULL), 200);
	cr_assert(says("# TYPE openreward_http_requests_total counter\nopenreward_http_requests_total "));
	cr_assert_eq(ask(NULL, "DELETE", "/health", NULL), 405);
	cr_assert(says("Allow: GET"));
	cr_assert_eq(ask(NULL, "GET", "/nothing", NULL), 404);
}

Test(control, keys)
{
	cr_assert_eq(ask(NULL, "GET", "/v1/namespace/current?type=org", NULL), 401);
	cr_assert(says("\"detail\"") && says("\"message\""));
	cr_assert_eq(ask("orw_wrong", "GET", "/v1/namespace/current?type=org", NULL), 401);
	cr_assert_eq(ask(member, "GET", "/v1/namespace/current?type=org", NULL), 200);
	cr_assert(says("\"name\":\"local\"") && says("\"type\":\"org\""));
	cr_assert_eq(ask(member, "GET", "/v1/namespace/current?type=user", NULL), 200, "what new things belong to, for clients");
	cr_assert_eq(ask(member, "GET", "/v1/namespace/current?type=both", NULL), 400);
	cr_assert(says("type: \\\"both\\\": expected user or org"));
	cr_assert_eq(ask(stranger, "GET", "/v1/namespace/current", NULL), 200);
	cr_assert(says("\"name\":\"other\""));
	cr_assert_eq(ask(member, "GET", "/v1/leaks", NULL), 403);
	cr_assert_eq(ask(admin, "GET", "/v1/leaks", NULL), 503, "no spawner in this test");
}

Test(control, environments)
{
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"a\",\"namespace\":\"local\",\"description\":\"first\"}"), 201);
	cr_assert(says("\"owner\":\"local\"") && says("\"name\":\"a\"") && says("\"is_private\":false"));
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"b\",\"isPrivate\":true,\"unknown\":1}"), 201);
	cr_assert_eq(ask(NULL, "GET", "/v1/environments/local/a", NULL), 200, "a public one needs no key");
	cr_assert_eq(ask(NULL, "GET", "/v1/environments/local/b", NULL), 404);
	cr_assert_eq(ask(stranger, "GET", "/v1/environments/local/b", NULL), 404);
	cr_assert_eq(ask(reader, "GET", "/v1/environments/local/b", NULL), 200);
	cr_assert_eq(ask(admin, "GET", "/v1/environments/local/b/variants", NULL), 200);
	cr_assert(says("[]"));
	cr_assert_eq(ask(admin, "GET", "/v1/environments/local/b/required-secrets", NULL), 200);
	cr_assert(says("{\"secrets\":[]}"));
	cr_assert_eq(ask(admin, "GET", "/v1/environments/local/none/required-secrets", NULL), 404);

	cr_assert_eq(ask(member, "GET", "/v1/environments", NULL), 200);
	cr_assert(says("\"total\":2"));
	cr_assert_eq(ask(stranger, "GET", "/v1/environments", NULL), 200);
	cr_assert(says("\"total\":1") && !says("\"name\":\"b\""));
	cr_assert_eq(ask(member, "GET", "/v1/environments?limit=1&offset=1", NULL), 200);
	cr_assert(says("\"total\":2") && says("\"name\":\"b\"") && !says("\"name\":\"a\""));
	cr_assert_eq(ask(member, "GET", "/v1/environments?search=FIR", NULL), 200);
	cr_assert(says("\"total\":1") && says("\"name\":\"a\""));
	cr_assert_eq(ask(member, "GET", "/v1/environments?owner=other", NULL), 200);
	cr_assert(says("\"total\":0"));
	cr_assert_eq(ask(member, "GET", "/v1/environments?limit=x", NULL), 400);
	cr_assert(says("limit") && says("whole number"));
}

Test(control, settings)
{
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"s\"}"), 201);
	cr_assert_eq(ask(member, "PATCH", "/v1/environments/local/s/settings", "{\"max_scale\":4,\"branch\":\"dev\",\"env\":{\"A\":\"b\"}}"), 200);
	cr_assert(says("\"max_scale\":4") && says("\"branch\":\"dev\"") && says("\"set\":[\"max_scale\",\"env\",\"branch\"]"), "%s", answer);
	cr_assert_eq(ask(member, "PATCH", "/v1/environments/local/s/settings", "{\"max_scale\":2,\"branch\":\"a..b\"}"), 400);
	cr_assert(says("branch") && says("a..b") && says("expected"));
	cr_assert_eq(ask(member, "PATCH", "/v1/environments/local/s/settings", "{\"max_scale\":1001,\"branch\":\"other\"}"), 400);
	cr_assert_eq(ask(member, "PATCH", "/v1/environments/local/s/settings", "[]"), 400);
	cr_assert_eq(ask(member, "GET", "/v1/environments/local/s/settings", NULL), 200);
	cr_assert(says("\"max_scale\":4") && says("\"branch\":\"dev\""), "nothing of a refused change holds: %s", answer);
	cr_assert(says("\"expected\":\"a whole number from 1 to"), "%s", answer);
	cr_assert_eq(ask(member, "PATCH", "/v1/environments/local/s/settings", "{\"max_scale\":null,\"branch\":\"\",\"env\":null}"), 200);
	cr_assert(says("\"max_scale\":1") && says("\"branch\":\"main\"") && says("\"set\":[]"), "%s", answer);
	cr_assert_eq(ask(stranger, "GET", "/v1/environments/local/s/settings", NULL), 403);
	cr_assert_eq(ask(reader, "GET", "/v1/environments/local/s/settings", NULL), 403);
	cr_assert_eq(ask(NULL, "GET", "/v1/environments/local/s/settings", NULL), 401);
}

Test(control, bad_creations)
{
	static const struct {
		const char *body, *says;
		int status;
	} cases[] = {
		{ "{\"name\":", "line 1", 400 },         { "[]", "object", 400 },
		{ "{}", "name: missing", 400 },          { "{\"name\":5}", "name", 400 },
		{ "{\"name\":\"../x\"}", "../x", 400 },  { "{\"name\":\"a\",\"isPrivate\":\"yes\"}", "isPrivate", 400 },
		{ "{\"name\":\"a\",\"isHarbor\":true}", "isHarbor", 400 },
		{ "{\"name\":\"a\",\"namespace\":\"other\"}", "other", 403 },
		{ "{\"name\":\"a\",\"namespace\":\"none\"}", "none", 403 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(ask(member, "POST", "/v1/environments", cases[i].body), cases[i].status, "%s: %s", cases[i].body, answer);
		cr_assert(says(cases[i].says), "%s: %s", cases[i].body, answer);
	}
	cr_assert_eq(ask(reader, "POST", "/v1/environments", "{\"name\":\"a\"}"), 403);
	cr_assert_eq(ask(NULL, "POST", "/v1/environments", "{\"name\":\"a\"}"), 401);
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"a\"}"), 201);
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"a\"}"), 409);
	cr_assert_eq(ask(admin, "POST", "/v1/environments", "{\"name\":\"a\",\"namespace\":\"other\"}"), 201);
}

Test(control, deployments_of_others_are_hidden)
{
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\":\"b\",\"isPrivate\":true}"), 201);
	cr_assert_eq(ask(member, "GET", "/v1/environments/local/b/deployments", NULL), 200);
	cr_assert_eq(ask(stranger, "GET", "/v1/environments/local/b/deployments", NULL), 404);
	cr_assert_eq(ask(NULL, "GET", "/v1/environments/local/b/deployments", NULL), 401);
	cr_assert_eq(ask(member, "GET", "/v1/deployments/no-such-id", NULL), 404);
	cr_assert_eq(ask(member, "GET", "/v1/github/deployments/no-such-id/logs", NULL), 404);
}

/* -- uploads ------------------------------------------------------------------------------------------------------- */

static bool uploaded(void)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/uploaded", dir);
	return access(path, F_OK) == 0;
}

static int put_chunks(size_t n_chunks, bool end)
{
	static char piece[65536];
	int s = dial();
	static const char head[] = "PUT /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";

	signal(SIGPIPE, SIG_IGN);
	memset(piece, 'p', sizeof(piece));
	cr_assert_eq(fd_write_all(s, head, sizeof(head) - 1), 0);
	for (size_t i = 0; i < n_chunks; i++)
		if (fd_write_all(s, "10000\r\n", 7) < 0 || fd_write_all(s, piece, sizeof(piece)) < 0 || fd_write_all(s, "\r\n", 2) < 0)
			break;
	if (end)
		(void)!fd_write_all(s, "0\r\n\r\n", 5);
	return s;
}

Test(control, an_upload_reaches_the_disk)
{
	cr_assert_eq(finish(put_chunks(40, true)), 200);
	cr_assert(says("2621440 bytes"), "%s", answer);
	cr_assert(uploaded());
	cr_assert_eq(ask(NULL, "PUT", "/upload", "x"), 500, "the file is there already");
}

Test(control, an_upload_above_the_limit_is_refused)
{
	cr_assert_eq(finish(put_chunks(64, false)), 413);
	cr_assert_not(uploaded());
}

Test(control, an_upload_that_says_so_is_refused_before_it_is_sent)
{
	int s = dial();
	static const char head[] = "PUT /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";

	cr_assert_eq(fd_write_all(s, head, sizeof(head) - 1), 0);
	ssize_t n = read(s, answer, sizeof(answer) - 1);
	cr_assert_gt(n, 0);
	answer[n] = '\0';
	cr_assert_eq(strncmp(answer, "HTTP/1.1 413", 12), 0, "%s", answer);
	close(s);
}

Test(control, a_broken_upload_leaves_nothing)
{
	int s = put_chunks(20, false);

	for (int i = 0; i < 200 && !uploaded(); i++)
		usleep(10000);
	cr_assert(uploaded(), "it was begun");
	close(s);
	for (int i = 0; i < 200 && uploaded(); i++)
		usleep(10000);
	cr_assert_not(uploaded());
}

/* There is no git behind these routes here: 503 is what somebody gets who may. */
Test(control, who_may_fetch_and_push)
{
	static const char fetch[] = "/git/local/%s/info/refs?service=git-upload-pack";
	static const char push[] = "/git/local/%s/info/refs?service=git-receive-pack";
	const struct {
		const char *key, *name;
		int fetches, pushes;
	} rows[] = {
		{ NULL, "open", 401, 401 }, { "orw_wrong", "open", 401, 401 }, { reader, "open", 503, 403 },
		{ stranger, "open", 503, 403 }, { member, "open", 503, 503 }, { admin, "open", 503, 503 },
		{ stranger, "hidden", 404, 404 }, { reader, "hidden", 503, 403 }, { member, "hidden.git", 503, 503 },
		{ stranger, "new", 404, 404 }, { reader, "new", 404, 403 }, { member, "new", 404, 503 },
		{ admin, "%2e%2e", 400, 400 }, { admin, ".x", 400, 400 }, { admin, "a%2fb", 400, 400 },
	};
	char path[128];

	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\": \"open\"}"), 201);
	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\": \"hidden\", \"isPrivate\": true}"), 201);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		snprintf(path, sizeof(path), fetch, rows[i].name);
		cr_assert_eq(ask(rows[i].key, "GET", path, NULL), rows[i].fetches, "%zu: %s", i, answer);
		snprintf(path, sizeof(path), push, rows[i].name);
		cr_assert_eq(ask(rows[i].key, "GET", path, NULL), rows[i].pushes, "%zu: %s", i, answer);
	}
}

Test(control, who_may_change_details)
{
	static const char path[] = "/v1/environments/local/open/details";

	cr_assert_eq(ask(member, "POST", "/v1/environments", "{\"name\": \"open\"}"), 201);
	cr_assert_eq(ask(NULL, "PUT", path, "{}"), 401);
	cr_assert_eq(ask(reader, "PUT", path, "{}"), 403);
	cr_assert_eq(ask(stranger, "PUT", path, "{}"), 403);
	cr_assert_eq(ask(member, "PUT", path, "{\"branch\": \"-x\", \"new_description\": \"lost\"}"), 400);
	cr_assert_eq(ask(member, "PUT", path, "{\"subdirectory\": \"a/../b\"}"), 400);
	cr_assert_eq(ask(member, "PUT", path, "{\"new_name\": \"other\", \"branch\": \"release\"}"), 200);
	cr_assert_eq(ask(member, "GET", "/v1/environments/local/open", NULL), 404);
	cr_assert_eq(ask(member, "GET", "/v1/environments/local/other", NULL), 200);
	cr_assert(says("\"branch\":\"release\"") && !says("lost"), "%s", answer);
}
