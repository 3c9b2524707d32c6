/* openreward backup FILE, openreward restore FILE, and the child of the daemon that writes what the first one gets. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "backup/backup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "daemon/config.h"
#include "daemon/launch.h"

#define PROGRESS_MS 200
#define PIECE_BYTES (64u * 1024)

static const char backup_usage[] =
	"usage: openreward backup FILE [--buckets] [--no-compress] [--data DIR]\n"
	"Writes what the running server must keep to FILE, which appears once it is whole, readable for its owner alone: the database\n"
	"(keys, environments and their settings, runs and rollouts), the operator's key, the key of stored secrets, git repositories,\n"
	"the sources of deployments, and with --buckets the files of environments. Not in it: images (a restored server builds them\n"
	"again from the sources; imported ones have to be imported again) and the configuration file. Needs an operator's key; with\n"
	"--data DIR the server need not run. FILE is a tar that zstd has made smaller, or with --no-compress a plain one.\n";

static const char restore_usage[] =
	"usage: openreward restore FILE [--data DIR] [--config FILE]\n"
	"Makes a data directory (/var/lib/openreward) of a backup. The directory must be empty or missing, and no server may run on it.\n"
	"FILE is checked from its first byte to its last before anything is written. Then `openreward serve` goes on from there, and\n"
	"builds the images of environments again.\n";

/* -- what is shown while it lasts ---------------------------------------------------------------------------------- */

struct meter {
	bool shown; /* standard error is a terminal */
	uint64_t last_ms;
};

static void meter_show(void *arg, const char *what, uint64_t done, uint64_t total)
{
	struct meter *m = arg;
	uint64_t now = time_now_ms();

	if (!m->shown || (now - m->last_ms < PROGRESS_MS && done != total))
		return;
	m->last_ms = now;
	fprintf(stderr, "\r%s: %llu MiB", what, (unsigned long long)(done >> 20));
	if (total)
		fprintf(stderr, " of %llu", (unsigned long long)(total >> 20));
	fputs("\033[K", stderr);
}

static void meter_end(const struct meter *m)
{
	if (m->shown && m->last_ms)
		fputs("\r\033[K", stderr);
}

static void print_info(const struct backup_info *i)
{
	for (size_t k = 0; k < BACKUP_N_PARTS; k++)
		if (i->parts[k].files)
			printf("  %-10s %llu file%s, %llu bytes\n", backup_part_name((enum backup_part)k),
			       (unsigned long long)i->parts[k].files, i->parts[k].files == 1 ? "" : "s",
			       (unsigned long long)i->parts[k].bytes);
	if (i->changed)
		printf("  %llu file%s changed while being read: what is in the backup of them may be of no use\n",
		       (unsigned long long)i->changed, i->changed == 1 ? "" : "s");
	if (i->unreadable)
		printf("  %llu file%s of buckets could not be read, and are missing\n", (unsigned long long)i->unreadable,
		       i->unreadable == 1 ? "" : "s");
}

/* Why a transfer is to end: a signal, or a failure of on_data(). */
static volatile int stopped;

static void on_signal(int signo)
{
	stopped = signo;
}

/* What was written aside is removed before the end. */
static void watch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	const struct sigaction action = { .sa_handler = on_signal };

	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		(void)sigaction(signals[i], &action, NULL);
}

struct options {
	const char *data, *config;
	bool buckets, plain;
};

/* -- backup -------------------------------------------------------------------------------------------------------- */

struct saving {
	FILE *f;
	struct backup_squeeze *squeeze; /* NULL = as it comes */
	struct backup_check *check;
	struct meter meter;
	uint64_t bytes;
	struct err err; /* the first failure */
	int failed;     /* its code */
};

static int put(void *arg, const char *p, size_t len, struct err *err)
{
	const struct saving *s = arg;

	return fwrite(p, 1, len, s->f) == len ? 0 : err_sys(err, "writing");
}

static void on_data(void *arg, const char *p, size_t len)
{
	struct saving *s = arg;

	if (s->failed)
		return;
	s->failed = backup_check_feed(s->check, p, len, &s->err);
	if (s->failed == 0)
		s->failed = s->squeeze ? backup_squeeze_feed(s->squeeze, p, len, &s->err) : put(s, p, len, &s->err);
	if (s->failed)
		stopped = 1;
	s->bytes += len;
	meter_show(&s->meter, "backup", s->bytes, 0);
}

/* What came, from wherever, to its end. r: how the coming ended. */
static int end_saving(struct saving *s, int r, struct backup_info *ret, struct err *err)
{
	meter_end(&s->meter);
	if (s->failed)
		return err_set(err, s->failed, "%s", s->err.msg);
	r = r < 0 ? r : backup_check_end(s->check, ret, err);
	return r < 0 || !s->squeeze ? r : backup_squeeze_end(s->squeeze, err);
}

static int fetch(const struct cli_target *t, bool buckets, struct saving *s, struct backup_info *ret, struct err *err)
{
	struct cli_request rq = { .method = "GET", .path = buckets ? "/v1/backup?buckets=true" : "/v1/backup", .data = on_data,
				  .arg = s, .stop = &stopped };
	int r = cli_http(t, &rq, err);

	cli_request_done(&rq);
	return end_saving(s, r, ret, err);
}

/* -- of a server that does not run --------------------------------------------------------------------------------- */

/* What the server's own child does, in one of ours. */
static int write_offline(int out, const char *data, bool buckets)
{
	const struct backup_settings s = { .data_dir = data, .buckets = buckets, .offline = true };
	bool begun = false;
	struct err err;
	int r = backup_write(out, &s, &begun, &err);

	return r == 0 || r == -EPIPE ? 0 : cli_fail("%s", err.msg);
}

static int read_all(struct saving *s, int fd, struct err *err)
{
	char piece[PIECE_BYTES];
	ssize_t n;

	while (!stopped && (n = read(fd, piece, sizeof(piece))) != 0) {
		if (n < 0 && errno != EINTR)
			return err_sys(err, "reading the backup");
		if (n > 0)
			on_data(s, piece, (size_t)n);
	}
	return stopped ? err_set(err, -EINTR, "stopped") : 0;
}

static int read_offline(const char *data, bool buckets, struct saving *s, struct backup_info *ret, struct err *err)
{
	int ends[2], status = 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, "making a pipe");
	auto_fd in = ends[0];
	pid_t pid = fork();
	if (pid == 0) {
		(void)signal(SIGPIPE, SIG_IGN);
		fd_close(ends[0]);
		_exit(write_offline(ends[1], data, buckets));
	}
	fd_close(ends[1]);
	int r = pid < 0 ? err_sys(err, "starting a process") : read_all(s, in, err);
	fd_close(fd_steal(&in)); /* one that still writes ends */
	if (pid > 0 && waitpid(pid, &status, 0) == pid && r == 0 && status)
		r = err_set(err, -EIO, "there is no backup");
	return end_saving(s, r, ret, err);
}

/* *ret_fd stays -1 where a server has it, or there is nothing: then the usual way finds out which. A lock that was not there, as in
 * what was just restored, is to be removed again: *ret_made. */
static void lock_offline(const char *data, int *ret_fd, bool *ret_made)
{
	auto_free char *database = xasprintf("%s/openreward.db", data);
	auto_free char *lock = xasprintf("%s/lock", data);

	*ret_made = access(lock, F_OK) < 0;
	if (access(database, R_OK | W_OK) == 0)
		(void)!launch_lock(ret_fd, data, NULL);
}

static void unlock_offline(const char *data, bool made)
{
	auto_free char *lock = xasprintf("%s/lock", data);

	if (made)
		(void)unlink(lock);
}

static int flush(FILE *f, const char *aside, const char *name, struct err *err)
{
	if (fflush(f) == EOF || fsync(fileno(f)) < 0)
		return err_sys(err, "%s", aside);
	return rename(aside, name) < 0 ? err_sys(err, "%s", name) : 0;
}

/* Beside its place, and for the owner alone from the first byte on. */
static int save(const struct cli_target *t, const char *name, const struct options *o, struct backup_info *ret, struct err *err)
{
	auto_free char *aside = xasprintf("%s.partial", name);
	AUTO(backup_check_freep) struct backup_check *check = backup_check_new(name);
	struct saving s = { .check = check, .meter = { .shown = isatty(STDERR_FILENO) } };

	watch_signals();
	(void)unlink(aside);
	int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, "%s", aside);
	s.f = fdopen(fd, "w");
	s.squeeze = o->plain ? NULL : backup_squeeze_new(put, &s);
	int r = t ? fetch(t, o->buckets, &s, ret, err) : read_offline(o->data, o->buckets, &s, ret, err);
	backup_squeeze_free(s.squeeze);
	r = r < 0 ? r : flush(s.f, aside, name, err);
	if (fclose(s.f) == EOF && r == 0)
		r = err_sys(err, "%s", name);
	if (r < 0)
		(void)unlink(aside);
	return r;
}

static int backup(const char *file, const struct options *o)
{
	struct cli_target t = { 0 };
	struct backup_info info;
	auto_fd lock = -1;
	bool made = false;
	struct err err;
	int r = 0;

	if (o->data)
		lock_offline(o->data, &lock, &made);
	if (lock < 0)
		r = cli_target_find(&t, o->data, &err);
	r = r < 0 ? r : save(lock < 0 ? &t : NULL, file, o, &info, &err);
	cli_target_done(&t);
	if (lock >= 0)
		unlock_offline(o->data, made);
	if (r < 0)
		return cli_fail("%s", err.msg);
	printf("%s: of openreward %s, %s%s\n", file, info.program, info.created, lock < 0 ? "" : ", of a server that does not run");
	print_info(&info);
	return 0;
}

/* accepted: the letters of the options that the verb has. False: the verb is over, with *ret_status. */
static bool read_options(int argc, char **argv, const char *accepted, const char *usage, struct options *ret, int *ret_status)
{
	static const struct option options[] = { { "buckets", no_argument, NULL, 'b' }, { "no-compress", no_argument, NULL, 'n' },
						 { "data", required_argument, NULL, 'd' },
						 { "config", required_argument, NULL, 'c' }, { "help", no_argument, NULL, 'h' },
						 { 0 } };

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (o != '?' && !strchr(accepted, o)) {
			*ret_status = cli_misuse(usage, "%s has no option %s", argv[0], argv[optind - 1]);
			return false;
		}
		switch (o) {
		case 'b': ret->buckets = true; break;
		case 'n': ret->plain = true; break;
		case 'd': ret->data = optarg; break;
		case 'c': ret->config = optarg; break;
		case 'h': fputs(usage, stdout); *ret_status = 0; return false;
		default: *ret_status = 2; return false;
		}
	}
	return true;
}

int cli_backup(int argc, char **argv)
{
	struct options o = { 0 };
	int status;

	if (!read_options(argc, argv, "bdhn", backup_usage, &o, &status))
		return status;
	if (optind + 1 != argc)
		return cli_misuse(backup_usage, "backup takes one file");
	return backup(argv[optind], &o);
}

/* Of the daemon's user, with a pipe to the daemon as standard output: see api/system/backup.c. */
int cli_dump(int argc, char **argv)
{
	struct options o = { 0 };
	bool begun = false;
	struct err err;
	int status;

	if (!read_options(argc, argv, "bd", backup_usage, &o, &status))
		return status;
	if (!o.data || isatty(STDOUT_FILENO))
		return cli_misuse(backup_usage, "%s is the server's own", argv[0]);
	umask(0077);
	(void)signal(SIGPIPE, SIG_IGN);
	const struct backup_settings s = { .data_dir = o.data, .buckets = o.buckets };
	int r = backup_write(STDOUT_FILENO, &s, &begun, &err);
	if (r < 0)
		cli_fail("%s", err.msg);
	if (r == 0 || (begun && r != -EPIPE))
		return 0;
	return r == -ENOSPC ? API_BACKUP_FULL : r == -EBUSY ? API_BACKUP_BUSY : 1;
}

/* -- restore ------------------------------------------------------------------------------------------------------- */

/* Who will own the files: the user that the configuration names, or whoever calls where that is not root. */
static int find_owner(const struct config *c, struct backup_restore *s, struct err *err)
{
	s->uid = (uid_t)-1;
	s->gid = (gid_t)-1;
	return geteuid() == 0 ? launch_user(c, &s->uid, &s->gid, err) : 0;
}

static void print_restored(const struct backup_restored *r, const char *data)
{
	printf("restored %s of openreward %s, %s\n", data, r->info.program, r->info.created);
	print_info(&r->info);
	printf("  %llu namespaces, %llu valid keys, %llu environments\n", (unsigned long long)r->namespaces,
	       (unsigned long long)r->keys, (unsigned long long)r->environments);
	if (r->rebuilt)
		printf("  the next start builds the images of %llu of them again\n", (unsigned long long)r->rebuilt);
	if (r->imageless)
		printf("  %llu served from a source that is not kept: deploy them again\n", (unsigned long long)r->imageless);
	if (!r->info.parts[BACKUP_BUCKETS].files)
		printf("  files of environments were not in it\n");
	printf("now: openreward serve --data %s\n", data);
}

/* The lock is there as long as the restore lasts, so that no server starts meanwhile. */
static int restore_locked(const struct backup_restore *s, struct backup_restored *ret, struct err *err)
{
	auto_free char *path = xasprintf("%s/lock", s->data_dir);
	auto_fd lock = -1;
	bool empty = false;
	int r = backup_is_empty(s->data_dir, &empty, err);

	/* Where there is something, and no lock that could be held, nothing is left behind either. */
	if (r == 0 && (empty || access(path, F_OK) == 0))
		r = launch_lock(&lock, s->data_dir, err);
	if (r < 0)
		return r;
	if (!empty)
		return err_set(err, -ENOTEMPTY, "%s is not empty: a backup is restored into an empty or a new directory",
			       s->data_dir);
	r = backup_restore(s, ret, err);
	(void)unlink(path);
	return r;
}

static int restore(const struct config *c, const char *file)
{
	struct meter meter = { .shown = isatty(STDERR_FILENO) };
	struct backup_restore s = { .file = file, .data_dir = c->data, .progress = meter_show, .arg = &meter };
	struct backup_restored restored;
	struct err err;
	bool made = access(c->data, F_OK) < 0;
	int r = find_owner(c, &s, &err);

	r = r < 0 ? r : fd_mkdirs(c->data, 0755, &err);
	r = r < 0 ? r : restore_locked(&s, &restored, &err);
	meter_end(&meter);
	if (r < 0 && made)
		(void)rmdir(c->data);
	if (r < 0)
		return cli_fail("%s", err.msg);
	print_restored(&restored, c->data);
	return 0;
}

int cli_restore(int argc, char **argv)
{
	AUTO(config_freep) struct config *c = config_new();
	struct options o = { 0 };
	struct err err;
	int status;

	if (!read_options(argc, argv, "dch", restore_usage, &o, &status))
		return status;
	if (optind + 1 != argc)
		return cli_misuse(restore_usage, "restore takes one file");
	int r = o.config ? config_load(c, o.config, &err) : 0;
	r = r < 0 || !o.data ? r : config_set(c, "data", o.data, &err);
	r = r < 0 ? r : config_check(c, &err);
	return r < 0 ? cli_fail("%s", err.msg) : restore(c, argv[optind]);
}
