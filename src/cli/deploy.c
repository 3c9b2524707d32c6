/* openreward deploy DIR: sends the folder, follows the build, ends when sessions can begin.
 *
 * A child writes the tar into a pipe while this process sends what comes out of it: the folder is never held whole, and
 * a file that cannot be read ends the upload before the server has a complete tar. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/pax.h"
#include "json/json.h"

static const char usage[] = "usage: openreward deploy DIR [--name NAMESPACE/NAME] [--size CPU:GIB] [--data DATA]\n"
			    "Builds DIR/Dockerfile on the server and serves it as an environment. Files named in DIR/.dockerignore\n"
			    "are not sent. The default name is that of the folder, in the key's own namespace. Ends with 0 when\n"
			    "the environment is ready, with 1 when it could not be built or started.\n";

struct deploy {
	const char *dir, *size, *data;
	char *owner, *name;
	struct cli_target target;
	pid_t child;
	int pipe;          /* read end of the tar */
	uint64_t sent;
	bool tty, child_failed;
	uint64_t shown_ms;
	char *id;          /* of the deployment */
};

/* -- the folder ------------------------------------------------------------------------------------------------ */

static int check_folder(struct deploy *d, int *ret_fd, struct err *err)
{
	auto_fd fd = open(d->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "%s", d->dir);
	if (faccessat(fd, "Dockerfile", R_OK, 0) < 0)
		return err_set(err, -ENOENT, "%s has no Dockerfile that can be read: an environment is a folder with a Dockerfile whose"
					     " image serves HTTP on port 8080", d->dir);
	*ret_fd = fd_steal(&fd);
	return 0;
}

static int read_ignore(int dir, struct ignore **ret, struct err *err)
{
	auto_fd fd = openat(dir, ".dockerignore", O_RDONLY | O_CLOEXEC);
	auto_buf struct buf b = { 0 };

	*ret = NULL;
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, ".dockerignore");
	buf_init(&b, 1024 * 1024);
	int r = fd_read_to_end(fd, &b);
	if (r < 0)
		return err_sys_code(err, r, ".dockerignore");
	*ret = ignore_new(b.data, b.len);
	return 0;
}

static NORETURN void write_tar(int out, int dir)
{
	struct pax_totals totals;
	struct ignore *g;
	struct err err;

	signal(SIGPIPE, SIG_IGN); /* the server refused: the parent says why */
	int r = read_ignore(dir, &g, &err);
	r = r < 0 ? r : pax_write(out, dir, g, &totals, &err);
	if (r < 0 && r != -EPIPE)
		cli_fail("%s", err.msg);
	if (r == 0 && totals.skipped)
		fprintf(stderr, "openreward: %llu sockets, pipes or devices were left out\n", (unsigned long long)totals.skipped);
	_exit(r < 0);
}

static int start_tar(struct deploy *d, struct err *err)
{
	auto_fd dir = -1;
	int ends[2];
	int r = check_folder(d, &dir, err);

	if (r < 0)
		return r;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	d->child = fork();
	if (d->child == 0) {
		close(ends[0]);
		write_tar(ends[1], dir);
	}
	close(ends[1]);
	d->pipe = ends[0];
	return d->child < 0 ? err_sys(err, "fork") : 0;
}

/* -- sending --------------------------------------------------------------------------------------------------- */

static void show_progress(struct deploy *d, bool last)
{
	if (!d->tty || (!last && time_now_ms() - d->shown_ms < 200))
		return;
	d->shown_ms = time_now_ms();
	fprintf(stderr, "\rsending %s: %.1f MiB%s", d->dir, (double)d->sent / (1 << 20), last ? "\n" : "");
}

/* The end of the pipe is the end of the tar only if its writer is content. */
static ssize_t end_of_tar(struct deploy *d)
{
	int status = 0;

	waitpid(d->child, &status, 0);
	d->child = 0;
	d->child_failed = status != 0;
	show_progress(d, true);
	return d->child_failed ? -1 : 0;
}

static ssize_t read_tar(void *arg, char *p, size_t cap)
{
	struct deploy *d = arg;
	ssize_t n;

	do
		n = read(d->pipe, p, cap);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return end_of_tar(d);
	d->sent += (uint64_t)n;
	show_progress(d, false);
	return n;
}

static int send_folder(struct deploy *d, struct err *err)
{
	auto_free char *path = xasprintf("/v1/environments/%s/%s/deployments%s%s", d->owner, d->name, d->size ? "?size=" : "",
					 d->size ? d->size : "");
	struct cli_request rq = { .method = "POST", .path = path, .content_type = "application/x-tar", .read = read_tar, .arg = d };
	auto_json body = NULL;
	const char *id = NULL;
	int r = start_tar(d, err);

	if (r < 0)
		return r;
	r = cli_http(&d->target, &rq, err);
	if (d->child_failed)
		r = err_set(err, -EIO, "%s was not sent", d->dir);
	r = r < 0 ? r : json_read_object(&body, rq.answer.data, rq.answer.len, err);
	r = r < 0 ? r : json_need_str(body, "id", &id, err);
	if (r == 0)
		d->id = xstrdup(id);
	cli_request_done(&rq);
	return r;
}

/* -- the end of it --------------------------------------------------------------------------------------------- */

static void print_tail(const struct cli_progress *p)
{
	fprintf(stderr, "the last lines:\n");
	for (size_t i = 0; i < ARRAY_LEN(p->tail); i++) {
		const char *line = p->tail[(p->next + i) % ARRAY_LEN(p->tail)];
		if (line)
			fprintf(stderr, "  %s\n", line);
	}
}

static int report(struct deploy *d, struct cli_progress *p, uint64_t started_ms)
{
	auto_json last = NULL;
	struct err err;

	if (!p->last.len || json_read_object(&last, p->last.data, p->last.len, &err) < 0)
		return cli_fail("the connection broke; the deployment %s goes on: `openreward logs --build %s/%s` shows it", d->id,
				d->owner,
				d->name);
	const char *status = json_string_value(json_object_get(last, "status"));
	const char *reason = json_string_value(json_object_get(last, "reason"));
	if (str_eq(status, "ready")) {
		printf("ready: %s/%s after %.1f s (deployment %s)\n", d->owner, d->name,
		       (double)(time_now_ms() - started_ms) / 1000, d->id);
		return 0;
	}
	cli_fail("%s/%s %s: %s", d->owner, d->name, status ? status : "failed", reason ? reason : "the server does not say why");
	if (!reason || !strchr(reason, '\n')) /* else it brings the lines that matter */
		print_tail(p);
	return 1;
}

static int follow(struct deploy *d, uint64_t started_ms)
{
	auto_free char *path = xasprintf("/v1/deployments/%s/follow", d->id);
	struct cli_progress p;
	struct cli_request rq = { .method = "GET", .path = path, .line = cli_progress_line, .arg = &p };
	struct err err;

	cli_progress_init(&p, stdout);
	int r = cli_http(&d->target, &rq, &err);
	/* A stream that breaks has told its lines already: report() says so when the last object is missing. */
	int status = r < 0 && r != -EPIPE ? cli_fail("%s", err.msg) : report(d, &p, started_ms);
	cli_request_done(&rq);
	cli_progress_done(&p);
	return status;
}

/* -- names ----------------------------------------------------------------------------------------------------- */

static char *folder_name(const char *dir)
{
	auto_free char *real = realpath(dir, NULL);

	return xstrdup(real ? strrchr(real, '/') + 1 : dir);
}

static int resolve_name(struct deploy *d, const char *given, struct err *err)
{
	const char *slash = given ? strchr(given, '/') : NULL;
	int r = 0;

	d->name = given ? xstrdup(slash ? slash + 1 : given) : folder_name(d->dir);
	if (slash)
		d->owner = xstrndup(given, (size_t)(slash - given));
	else
		r = cli_own_namespace(&d->target, &d->owner, err);
	if (r < 0)
		return r;
	if (!str_is_name(d->owner, 64) || !str_is_name(d->name, 64))
		return err_set(err, -EINVAL, "--name: \"%s/%s\": expected NAMESPACE/NAME, each of 1 to 64 letters, digits, '.', '_' and '-',"
					     " first a letter or digit", d->owner, d->name);
	return 0;
}

static int run(struct deploy *d, const char *name)
{
	uint64_t started_ms = time_now_ms();
	auto_fd dir = -1;
	struct err err;
	int r = check_folder(d, &dir, &err); /* before anything is asked of the server */

	r = r < 0 ? r : cli_target_find(&d->target, d->data, &err);
	r = r < 0 ? r : resolve_name(d, name, &err);
	r = r < 0 ? r : send_folder(d, &err);
	return r < 0 ? cli_fail("%s", err.msg) : follow(d, started_ms);
}

int cli_deploy(int argc, char **argv)
{
	static const struct option options[] = { { "name", required_argument, NULL, 'n' }, { "size", required_argument, NULL, 's' },
						 { "data", required_argument, NULL, 'd' }, { "help", no_argument, NULL, 'h' },
						 { 0 } };
	struct deploy d = { .pipe = -1, .tty = isatty(STDERR_FILENO) };
	const char *name = NULL;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 'n': name = optarg; break;
		case 's': d.size = optarg; break;
		case 'd': d.data = optarg; break;
		case 'h': fputs(usage, stdout); return 0;
		default: return 2;
		}
	}
	if (optind + 1 != argc)
		return cli_misuse(usage, "deploy takes one folder");
	if (d.size && d.size[strspn(d.size, "0123456789.:")] != '\0')
		return cli_misuse(usage, "--size: \"%s\": expected CPU:GIB, as in 1:2 or 0.5:1", d.size);
	d.dir = argv[optind];
	signal(SIGPIPE, SIG_IGN);
	int r = run(&d, name);
	fd_close(d.pipe); /* a child that still writes sees it and ends */
	if (d.child > 0)
		waitpid(d.child, NULL, 0);
	cli_target_done(&d.target);
	free(d.owner);
	free(d.name);
	free(d.id);
	return r;
}
