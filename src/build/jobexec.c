#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "base/time.h"
#include "build/hostconf.h"
#include "build/job.h"

#define LINE_MAX_BYTES 4096
#define TICK_MS 200

/* -- the environment of tools ------------------------------------------------------------------------------------ */
static const char *host_value(const struct job *j, const char *key, const char *fallback)
{
	size_t n = strlen(key);

	for (const char *const *e = j->host_env; e && *e; e++)
		if (!strncmp(*e, key, n) && (*e)[n] == '=')
			return *e + n + 1;
	return fallback;
}

static void put(const char *entry)
{
	auto_free char *name = xstrndup(entry, strcspn(entry, "="));

	setenv(name, strchr(entry, '=') + 1, 1);
}

/* A clean environment: what the tools need, the host's proxies, and the files of job_tool_files. */
static void set_environment(const struct job *j, const char *const *more)
{
	char **proxies = hostconf_proxies(j->host_env);
	const char *ca = host_value(j, "SSL_CERT_FILE", NULL);

	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", host_value(j, "HOME", "/root"), 1);
	setenv("LC_ALL", "C.UTF-8", 1);
	if (ca)
		setenv("SSL_CERT_FILE", ca, 1);
	if (j->tmp) {
		auto_free char *storage = xasprintf("%s/storage.conf", j->tmp),
			       *registries = xasprintf("%s/registries.conf", j->tmp);
		auto_free char *containers = xasprintf("%s/containers.conf", j->tmp);
		setenv("TMPDIR", j->tmp, 1);
		setenv("CONTAINERS_STORAGE_CONF", storage, 1);
		setenv("CONTAINERS_REGISTRIES_CONF", registries, 1);
		setenv("CONTAINERS_CONF", containers, 1);
	}
	for (char **p = proxies; *p; p++)
		put(*p);
	for (; more && *more; more++)
		put(*more);
	strv_free(proxies);
}

/* -- the child -------------------------------------------------------------------------------------------------- */
static int drop_to(unsigned uid)
{
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

static void enter_network(const struct job_exec *x)
{
	if (x->netns_fd <= 0 || setns(x->netns_fd, CLONE_NEWNET) == 0)
		return;
	dprintf(STDERR_FILENO, "Error: enter the net namespace: %s\n", strerror(errno));
	_exit(126);
}

static NORETURN void child(const struct job *j, const struct job_exec *x, int out)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int in = x->stdin_fd > 0 ? x->stdin_fd : null;
	struct rlimit size = { x->file_max_bytes, x->file_max_bytes }, core = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if ((x->cwd_fd > 0 ? fchdir(x->cwd_fd) : chdir("/")) < 0)
		_exit(126);
	if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
		_exit(126);
	enter_network(x);
	umask(022);
	setrlimit(RLIMIT_CORE, &core);
	set_environment(j, x->env);
	if ((x->file_max_bytes && setrlimit(RLIMIT_FSIZE, &size) < 0) || (x->uid && drop_to(x->uid) < 0))
		_exit(126);
	execvp(x->argv[0], (char **)x->argv);
	dprintf(STDERR_FILENO, "%s: %s\n", x->argv[0], strerror(errno));
	_exit(127);
}

/* -- its output -------------------------------------------------------------------------------------------------- */
struct lines {
	const struct job_exec *x;
	char line[LINE_MAX_BYTES];
	size_t len;
	bool returned; /* the last byte was a carriage return */
};

static void flush_line(struct lines *l)
{
	l->line[l->len] = 0;
	if (l->len && l->x->line)
		l->x->line(l->x->arg, l->line);
	else if (l->len)
		job_say("%s", l->line);
	l->len = 0;
}

/* A line beyond the limit is cut. What a carriage return makes obsolete (progress bars) is dropped. */
static void take_bytes(struct lines *l, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n')
			flush_line(l);
		else if (l->returned)
			l->len = 0;
		l->returned = p[i] == '\r';
		if (p[i] != '\n' && p[i] != '\r' && p[i] && l->len < sizeof(l->line) - 1)
			l->line[l->len++] = p[i];
	}
}

/* Waits for output, and has the tick look meanwhile; a chatty tool must not keep it from that. */
static int wait_output(int fd, const struct job_exec *x, uint64_t *next_ms, struct err *err)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int r = 0;

	while (x->tick) {
		uint64_t now = time_now_ms();
		if (now >= *next_ms) {
			r = x->tick(x->tick_arg, err);
			*next_ms = time_now_ms() + TICK_MS;
		}
		if (r < 0 || poll(&p, 1, TICK_MS) > 0)
			break;
	}
	return r;
}

static int drain(int fd, const struct job_exec *x, struct err *err)
{
	struct lines l = { .x = x, .len = 0 };
	uint64_t next_ms = 0;
	char chunk[8192];

	for (;;) {
		int r = wait_output(fd, x, &next_ms, err);
		if (r < 0)
			return r;
		ssize_t n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		take_bytes(&l, chunk, (size_t)n);
	}
	flush_line(&l);
	return 0;
}

int job_exec(struct job *j, const struct job_exec *x, int *ret_status, struct err *err)
{
	int p[2], status;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	pid_t pid = fork();
	if (pid == 0)
		child(j, x, p[1]);
	fd_close(p[1]);
	if (pid < 0) {
		fd_close(p[0]);
		return err_sys(err, "fork");
	}
	int r = drain(p[0], x, err);
	if (r < 0)
		kill(pid, SIGKILL); /* what it started dies with the job's pid namespace */
	fd_close(p[0]);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, "wait for %s", x->argv[0]);
	*ret_status = status;
	return r;
}

/* -- tools and their last words ----------------------------------------------------------------------------------- */
static void unescape(char *s)
{
	char *to = s;

	for (; *s && *s != '"'; s++) {
		if (*s == '\\' && s[1])
			s++;
		*to++ = *s;
	}
	*to = 0;
}

char *job_tidy(char *s)
{
	char *msg = strstr(s, " msg=\"");

	if (str_starts(s, "time=") && msg) {
		memmove(s, msg + 6, strlen(msg + 6) + 1);
		unescape(s);
	}
	if (str_starts(s, "Error: "))
		memmove(s, s + 7, strlen(s + 7) + 1);
	for (char *p = s; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	if (strlen(s) > JOB_REASON_MAX) {
		size_t n = JOB_REASON_MAX - 3;
		while (n && ((unsigned char)s[n] & 0xc0) == 0x80)
			n--;
		memcpy(s + n, "...", 4);
	}
	return s;
}

static void keep_last(void *arg, const char *line)
{
	char **last = arg;

	free(*last);
	*last = job_tidy(xstrdup(line));
	job_say("%s", *last);
}

int job_tool(struct job *j, const char *const *argv, const char *what, struct err *err)
{
	return job_tool_env(j, argv, NULL, what, err);
}

int job_tool_env(struct job *j, const char *const *argv, const char *const *env, const char *what, struct err *err)
{
	auto_free char *last = NULL;
	struct job_exec x = { .argv = argv, .env = env, .line = keep_last, .arg = &last };
	int status;

	int r = job_exec(j, &x, &status, err);
	if (r < 0)
		return err_wrap(err, r, "%s", what);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, -ENOENT, "the program %s is not installed", argv[0]);
	if (status == 0)
		return 0;
	return err_set(err, -EIO, "%s%s%s", what, *what ? ": " : "", last ? last : "the tool gave no reason");
}
