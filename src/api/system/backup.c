/* GET /v1/backup: everything that is kept, as one file (backup/backup.h). A child of the daemon writes it into a pipe, the same
 * program as the same user: it may wait for the disk as long as it likes, and what is in memory here is one piece. Nothing is read
 * from the pipe while the client does not take what was sent. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#define PIECE_BYTES (64u * 1024)
#define SAID_BYTES 1000 /* of its standard error */

struct dump {
	struct http_req *req; /* NULL = the client is gone */
	struct loop *loop;
	struct loop_io io;    /* of the pipe */
	struct loop_child child;
	int fd;               /* its end of the pipe that is read; -1 = nothing more comes */
	int said;             /* its standard error */
	int status;           /* how it ended, as waitpid(2) tells */
	bool over;            /* it did */
};

static void dump_free(void *arg)
{
	struct dump *d = arg;

	fd_close(d->fd);
	fd_close(d->said);
	free(d);
}

/* What went wrong before anything was sent. */
static void reply_failure(struct dump *d)
{
	char said[SAID_BYTES + 1] = "";
	ssize_t n = pread(d->said, said, SAID_BYTES, 0);
	struct err err = ERR_INIT;

	said[n > 0 ? n : 0] = '\0';
	said[strcspn(said, "\n")] = '\0';
	const char *text = str_starts(said, "openreward: ") ? said + strlen("openreward: ") : said;
	int status = WIFEXITED(d->status) ? WEXITSTATUS(d->status) : 0;
	if (status == API_BACKUP_FULL)
		err_set(&err, -ENOSPC, "%s", text);
	else if (status == API_BACKUP_BUSY)
		err_set(&err, -EBUSY, "%s", text);
	else
		err_set(&err, -EIO, "%s", *text ? text : "the backup ended without a reason");
	api_reply_err(d->req, &err);
}

static void finish(struct dump *d)
{
	if (!d->over || d->fd >= 0)
		return;
	if (d->req && !http_reply_started(d->req))
		reply_failure(d);
	else if (d->req && WIFEXITED(d->status) && WEXITSTATUS(d->status) == 0)
		http_reply_end(d->req);
	else if (d->req)
		http_req_abort(d->req); /* the client sees that its last chunk is missing */
	if (!d->req)
		loop_release(d->loop, dump_free, d);
}

static void close_pipe(struct dump *d)
{
	loop_io_close(&d->io);
	d->fd = fd_close(d->fd);
}

static void on_readable(struct loop_io *io, uint32_t events UNUSED, void *arg)
{
	struct dump *d = arg;
	char piece[PIECE_BYTES];
	ssize_t n = read(d->fd, piece, sizeof(piece));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_pipe(d);
		finish(d);
		return;
	}
	if (!http_reply_started(d->req)) {
		http_reply_header(d->req, "Cache-Control", "no-store");
		http_reply_start(d->req, 200, "application/x-tar", -1);
	}
	if (!http_reply_write(d->req, piece, (size_t)n))
		loop_io_set(io, 0);
}

static void on_drained(struct http_req *req UNUSED, void *arg)
{
	struct dump *d = arg;

	if (d->fd >= 0)
		loop_io_set(&d->io, EPOLLIN);
}

static void on_ended(struct loop_child *c UNUSED, int status, void *arg)
{
	struct dump *d = arg;

	d->status = status;
	d->over = true;
	finish(d);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct dump *d = arg;

	d->req = NULL;
	if (d->fd >= 0)
		close_pipe(d);
	if (!d->over)
		(void)kill(d->child.pid, SIGKILL); /* what it made has no name */
	else
		finish(d);
}

/* -- the child ----------------------------------------------------------------------------------------------------- */

static int spawn(const char *const *argv, int out, int said, pid_t *ret)
{
	static const char *const env[] = { "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t all, none;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	int r = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	r = r ? r : posix_spawn_file_actions_adddup2(&files, out, 1);
	r = r ? r : posix_spawn_file_actions_adddup2(&files, said, 2);
	r = r ? r : posix_spawn(ret, "/proc/self/exe", &files, &attributes, (char *const *)argv, (char *const *)env);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

static int start(struct dump *d, const char *data_dir, bool buckets, struct err *err)
{
	const char *argv[] = { "openreward", API_BACKUP_VERB, "--data", data_dir, buckets ? "--buckets" : NULL, NULL };
	int ends[2];
	pid_t pid = 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, "making a pipe");
	auto_fd out = ends[1];
	d->fd = ends[0];
	d->said = memfd_create("backup", MFD_CLOEXEC);
	int r = d->said < 0 ? err_sys(err, "making a file in memory") : fd_set_nonblock(d->fd, true);
	r = r < 0 ? r : loop_io_open(&d->io, d->loop, d->fd, EPOLLIN, on_readable, d, err);
	if (r == 0)
		r = spawn(argv, out, d->said, &pid);
	if (r < 0)
		return err_sys_code(err, r, "starting the backup");
	r = loop_child_open(&d->child, d->loop, pid, on_ended, d, err);
	if (r < 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
	return r;
}

static int want_buckets(struct http_req *req, bool *ret, struct err *err)
{
	const char *text = http_req_query(req, "buckets");

	if (str_empty(text) || str_eq(text, "0") || str_eq(text, "false"))
		*ret = false;
	else if (str_eq(text, "1") || str_eq(text, "true"))
		*ret = true;
	else
		return err_set(err, -EINVAL, "buckets: \"%.100s\": expected true or false", text);
	return 0;
}

/* Everything that was answered is in the database by then: answers wait for that. */
static void on_backup(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller_with(a, req, STORE_ROLE_ADMIN);
	bool buckets = false;
	struct err err;

	if (!c)
		return;
	if (want_buckets(req, &buckets, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	struct dump *d = NEW(struct dump);
	d->loop = a->loop;
	d->fd = d->said = -1;
	if (start(d, a->data_dir, buckets, &err) < 0) {
		loop_io_close(&d->io);
		dump_free(d);
		api_reply_err(req, &err);
		return;
	}
	log_event(LOG_INFO, "backup", LOG_KV("key", c->key_id), "a backup was begun");
	d->req = req;
	http_req_on_close(req, on_gone, d);
	http_reply_on_drain(req, on_drained, d);
	http_req_watch_peer(req);
}

void api_backup_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/backup", on_backup, a);
}
