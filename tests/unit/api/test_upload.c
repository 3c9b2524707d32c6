/* A body on its way to a file whose writer is held up. */
#include "api/common/upload.h"

#include "unit/http/harness.h"

#define BODY (2u << 20)

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
