/* A file on its way into a bucket whose environment is deleted while a worker syncs it. */
#include <semaphore.h>
#include <sys/syscall.h>

#include "api/bucket/bucket.h"
#include "base/str.h"
#include "base/time.h"
#include "http/router.h"
#include "unit/http/harness.h"
#include "unit/image/tmpdir.h"

static sem_t reached, gate;

/* In the place of the C library's: holds the worker up that syncs an upload. */
int fsync(int fd)
{
	char link[32], path[256];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	if (strstr(path, "/.aside/up-")) {
		sem_post(&reached);
		sem_wait(&gate);
	}
	return (int)syscall(SYS_fsync, fd);
}

static char dir[] = "/tmp/orw-put-XXXXXX";
static struct api api;
static struct http_router *router;
static struct store_environment *environment;
static char *folder;

static void begin(void)
{
	struct store_namespace *ns;
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	auto_free char *db = xasprintf("%s/db", dir), *above = xasprintf("%s/buckets", dir);
	router = http_router_new();
	http_router_add(router, "PUT", "/v1/files/{env}/{path...}", bucket_put_handler, &api);
	harness_begin(http_router_dispatch, router);
	cr_assert_eq(mkdir(above, 0700), 0);
	api = (struct api){ .loop = loop, .bucket = { .file_bytes = 1 << 20 } };
	cr_assert_eq(store_open(&api.store, loop, db, &err), 0, "%s", err.msg);
	cr_assert_eq(buckets_new(&api.bucket.buckets, loop, dir, &err), 0, "%s", err.msg);
	signer_init(&api.bucket.signer, api.store);
	cr_assert_eq(store_namespace_add(api.store, "a", "org", &ns, &err), 0);
	cr_assert_eq(store_environment_add(api.store, ns, "e", &environment, &err), 0);
	folder = xasprintf("%s/%s", above, environment->id);
	sem_init(&reached, 0, 0);
	sem_init(&gate, 0, 0);
}

static void end(void)
{
	run_for(5); /* connections are closed, what they left is given back */
	free(folder);
	buckets_free(api.bucket.buckets);
	store_free(api.store);
	harness_end();
	http_router_free(router);
	tmpdir_remove(dir);
}

TestSuite(put, .init = begin, .fini = end, .timeout = 30);

/* Returns the far end once a worker syncs what was sent. */
static int send_file(void)
{
	const char *fields[BUCKET_URL_FIELDS];
	char expires[24], signature[SIGNATURE_LEN];
	int fd = connect_pair();

	snprintf(expires, sizeof(expires), "%lld", (long long)time_wall_ms() + 60000);
	bucket_url_fields(fields, environment->id, "sub/file", "text/plain", "100", expires);
	signer_sign(&api.bucket.signer, fields, BUCKET_URL_FIELDS, signature);
	auto_free char *text = xasprintf("PUT /v1/files/%s/sub/file?type=text/plain&max=100&expires=%s&signature=%s HTTP/1.1\r\n"
					 "Host: h\r\nContent-Length: 5\r\n\r\nbytes", environment->id, expires, signature);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	for (int i = 0; sem_trywait(&reached) < 0; i++) {
		cr_assert_lt(i, 5000, "%s", read_now(fd));
		run_for(1);
	}
	return fd;
}

Test(put, into_an_environment_that_stays)
{
	auto_free char *path = xasprintf("%s/sub/file", folder);
	int fd = send_file();

	sem_post(&gate);
	run_for(200);
	const char *answer = read_now(fd);
	cr_assert_eq(strncmp(answer, "HTTP/1.1 200", 12), 0, "%s", answer);
	cr_assert_eq(access(path, R_OK), 0);
	close(fd);
}

Test(put, makes_no_folder_of_a_deleted_environment_anew)
{
	int fd = send_file();

	environment->removing = true; /* and its files are gone: there were none */
	sem_post(&gate);
	run_for(200);
	const char *answer = read_now(fd);
	cr_assert_eq(strncmp(answer, "HTTP/1.1 404", 12), 0, "%s", answer);
	cr_assert_neq(access(folder, F_OK), 0, "the folder is there again");
	close(fd);
}

Test(put, makes_none_for_a_client_that_left)
{
	int fd = send_file();

	close(fd);
	run_for(20);
	environment->removing = true;
	sem_post(&gate);
	run_for(200);
	cr_assert_neq(access(folder, F_OK), 0, "the folder is there again");
}
