/* A body on its way to a file whose writer is held up. */
#include "api/common/upload.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "unit/http/harness.h"

#define BODY (2u << 20)

static _Atomic int n_removed; /* names of the test's folder */
static _Atomic bool on_loop;  /* one of them */
static pthread_t loop_thread;

static void note(const char *path)
{
	if (!strstr(path, "orw-upload"))
		return;
	n_removed++;
	if (pthread_equal(pthread_self(), loop_thread))
		on_loop = true;
}

/* In the place of the C library's. */
int unlink(const char *path)
{
	note(path);
	return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
	note(path);
	return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static struct upload *upload;
static int file[2]; /* a pipe: what is in it and not read holds the writer up */
static int frees;

static void on_free(void *arg UNUSED)
{
	frees++;
}

static void on_done(void *arg UNUSED, uint64_t size UNUSED, const struct err *err UNUSED)
{
}

static void on_close(struct http_req *r UNUSED, bool complete UNUSED, void *arg UNUSED)
{
	upload_free_then(upload, on_free, NULL);
}

static void handle(struct http_req *r, void *arg UNUSED)
{
	struct err err;

	http_req_on_close(r, on_close, NULL);
	cr_assert_eq(upload_start_fd(&upload, r, dup(file[1]), BODY, on_done, NULL, &err), 0, "%s", err.msg);
}

/* What a writer has begun goes into the file still. */
Test(upload, is_over_with_its_last_write, .timeout = 30)
{
	static char body[BODY], got[BODY];
	char head[96];
	size_t sent = 0, len = 0;
	ssize_t n;

	cr_assert_eq(pipe(file), 0);
	cr_assert_eq(fd_set_nonblock(file[0], true), 0);
	harness_begin(handle, NULL);
	int fd = connect_pair();
	n = snprintf(head, sizeof(head), "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %u\r\n\r\n", BODY);
	cr_assert_eq(write(fd, head, (size_t)n), n);
	for (int i = 0; i < 200 && sent < BODY - 1; i++) {
		n = write(fd, body + sent, BODY - 1 - sent);
		sent += n > 0 ? (size_t)n : 0;
		run_for(5);
	}
	fd_close(fd);
	run_for(100);
	cr_assert_eq(frees, 0, "a writer is held up");
	fd_close(file[1]);
	for (int i = 0; i < 1000 && !frees; i++) {
		n = read(file[0], got, sizeof(got));
		len += n > 0 ? (size_t)n : 0;
		run_for(1);
	}
	cr_assert_eq(frees, 1);
	cr_assert_geq(len, 1u << 20, "%zu", len);
	harness_end();
	fd_close(file[0]);
}

Test(upload, that_never_began_is_over_at_once)
{
	upload_free_then(NULL, on_free, NULL);
	cr_assert_eq(frees, 1);
}

static char folder[] = "/tmp/orw-upload-XXXXXX";
static char path[64];
static struct loop *of_upload;

static void on_over(void *arg UNUSED)
{
	frees++;
	upload_remove(of_upload, xstrdup(path), true);
}

static void on_broken(struct http_req *r UNUSED, bool complete UNUSED, void *arg UNUSED)
{
	upload_free_then(upload, on_over, NULL);
}

static void handle_file(struct http_req *r, void *arg UNUSED)
{
	struct err err;

	http_req_on_close(r, on_broken, NULL);
	cr_assert_eq(upload_start(&upload, r, path, BODY, on_done, NULL, &err), 0, "%s", err.msg);
}

/* Many GiB of one take the kernel its time, in which nobody else would be served. */
Test(upload, that_breaks_off_is_removed_by_a_worker, .timeout = 30)
{
	static const char head[] = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\nsome";

	loop_thread = pthread_self();
	cr_assert_not_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
	harness_begin(handle_file, NULL);
	of_upload = loop;
	int fd = connect_pair();
	talk(fd, head);
	cr_assert_eq(access(path, F_OK), 0);
	fd_close(fd);
	for (int i = 0; i < 1000 && access(folder, F_OK) == 0; i++)
		run_for(1);
	cr_assert_neq(access(folder, F_OK), 0, "it is left");
	cr_assert_eq(frees, 1);
	harness_end();
	cr_assert_eq(n_removed, 3, "the upload's own end, and who asked for it");
	cr_assert_not(on_loop, "nobody else was served meanwhile");
}
