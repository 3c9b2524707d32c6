/* A folder that comes in: what is on the disk when its deployment is answered. */
#include "unit/synced.h"

#include <semaphore.h>

#include "api/api.h"
#include "http/router.h"
#include "store/internal.h"
#include "unit/env/lives.h"

static struct api api;
static struct http_router *router;
static struct http_server *front;
static sem_t gate;
static bool synced;

static void on_hold(void *arg UNUSED)
{
	sem_wait(&gate);
}

static void on_held(void *arg UNUSED)
{
}

static void on_synced(void *arg UNUSED, const struct err *err)
{
	cr_assert_null(err);
	synced = true;
}

/* Nothing is written to the database until the gate opens. */
static void hold_store(void)
{
	cr_assert_eq(sem_init(&gate, 0, 0), 0);
	loop_work(loop, LOOP_LANE_STORE, on_hold, on_held, NULL);
}

static void open_front(void)
{
	struct err err = ERR_INIT;

	fake_begin_envs(1000);
	auto_free char *incoming = xasprintf("%s/builds", dir);
	cr_assert_eq(fd_mkdirs(incoming, 0755, &err), 0, "%s", err.msg);
	api = (struct api){ .loop = loop, .store = store, .auth = auth, .envs = envs, .data_dir = dir, .upload_max_bytes = 1 << 20 };
	router = http_router_new();
	api_deployments_routes(&api, router);
	cr_assert_eq(http_server_new(&front, loop, NULL, http_router_dispatch, router, &err), 0, "%s", err.msg);
}

static void close_front(void)
{
	http_server_free(front);
	http_router_free(router);
}

static char answer[4096];

static bool answered(int fd)
{
	size_t len = strlen(answer);
	ssize_t n = read(fd, answer + len, sizeof(answer) - 1 - len);

	answer[len + (n > 0 ? (size_t)n : 0)] = '\0';
	return *answer;
}

static int send_request(const char *method, const char *path, const char *body)
{
	auto_free char *text = xasprintf("%s %s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s", method, path,
					 key, strlen(body), body);
	struct err err = ERR_INIT;
	int p[2];

	*answer = '\0';
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	cr_assert_eq(http_server_adopt(front, p[0], 0, &err), 0, "%s", err.msg);
	cr_assert_eq(write(p[1], text, strlen(text)), (ssize_t)strlen(text));
	return p[1];
}

static struct store_deployment *newest(void)
{
	return list_first(&environment->deployments, struct store_deployment, of_environment);
}

FAKE_TEST(deploying, is_answered_when_source_and_record_are_on_disk)
{
	open_front();
	hold_store();
	int fd = send_request("POST", "/v1/environments/alice/counter/deployments", "no tar, but nobody looks");
	run_until(n_jobs == 1);
	auto_free char *above = xasprintf("%s/builds", dir), *folder = xasprintf("%s/%s", above, newest()->id);
	auto_free char *tar = xasprintf("%s/source.tar", folder);
	cr_assert_neq(synced_at(tar), SIZE_MAX);
	cr_assert_neq(synced_at(folder), SIZE_MAX);
	cr_assert_neq(synced_at(above), SIZE_MAX);
	run_for(50);
	cr_assert_not(answered(fd), "%s", answer);
	sem_post(&gate);
	run_until(answered(fd));
	cr_assert_eq(strncmp(answer, "HTTP/1.1 201", 12), 0, "%s", answer);
	close(fd);
	run_for(5);
	cr_assert_eq(access(tar, R_OK), 0, "it is the deployment's");
	close_front();
}

FAKE_TEST(deploying, of_a_client_that_leaves_goes_on)
{
	open_front();
	hold_store();
	int fd = send_request("POST", "/v1/environments/alice/counter/deployments", "no tar, but nobody looks");
	run_until(n_jobs == 1);
	close(fd);
	run_for(20);
	sem_post(&gate);
	store_sync(store, on_synced, NULL);
	run_until(synced);
	auto_free char *tar = xasprintf("%s/builds/%s/source.tar", dir, newest()->id);
	cr_assert_eq(access(tar, R_OK), 0);
	close_front();
}

FAKE_TEST(deploying, an_empty_body_leaves_nothing)
{
	open_front();
	int fd = send_request("POST", "/v1/environments/alice/counter/deployments", "");
	run_until(answered(fd));
	cr_assert_eq(strncmp(answer, "HTTP/1.1 400", 12), 0, "%s", answer);
	close(fd);
	auto_free char *builds_path = xasprintf("%s/builds", dir);
	run_until(rmdir(builds_path) == 0 || errno == ENOENT); /* no folder is left */
	cr_assert_null(newest());
	cr_assert_eq(mkdir(builds_path, 0755), 0);
	close_front();
}

FAKE_TEST(deploying, cancelled_and_rolled_back_are_answered_when_that_is_on_disk)
{
	open_front();
	struct store_deployment *first = built();
	built();
	struct store_deployment *third = deploy();
	auto_free char *path = xasprintf("/v1/deployments/%s/cancel", third->id);

	run_until(n_jobs == 3);
	hold_store();
	int fd = send_request("POST", path, "");
	run_until(third->state == STORE_DEPLOYMENT_STOPPED);
	run_for(20);
	cr_assert_not(answered(fd), "%s", answer);
	sem_post(&gate);
	run_until(answered(fd));
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s", answer);
	close(fd);
	hold_store();
	fd = send_request("POST", "/v1/environments/alice/counter/rollback", "");
	run_until(first->state == STORE_DEPLOYMENT_READY);
	run_for(20);
	cr_assert_not(answered(fd), "%s", answer);
	sem_post(&gate);
	run_until(answered(fd));
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s", answer);
	close(fd);
	close_front();
}

/* As many rollbacks make them, none of which may be the last that can be answered. */
static void move_often(struct store_deployment *d, size_t n, size_t reason_bytes)
{
	auto_free char *reason = xcalloc(reason_bytes + 1, 1);

	memset(reason, 'r', reason_bytes);
	for (size_t i = 0; i < n; i++)
		store_transition_attach(d, STORE_DEPLOYMENT_READY, STORE_DEPLOYMENT_DRAINING, reason);
}

static void assert_200(const char *method, const char *path)
{
	int fd = send_request(method, path, "");

	run_until(answered(fd));
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s %s: %s", method, path, answer);
	close(fd);
}

FAKE_TEST(deploying, a_long_history_is_answered_still)
{
	open_front();
	struct store_deployment *first = built();
	built();
	auto_free char *path = xasprintf("/v1/deployments/%s", first->id);

	move_often(first, 300, 250);
	assert_200("GET", path);
	assert_200("POST", "/v1/environments/alice/counter/rollback");
	move_often(first, 5000, 2000);
	assert_200("GET", path);
	close_front();
}
