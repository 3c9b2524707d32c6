/* The staged files of hostconf, one maker per client. Each reads what the host's client would read, in its order, and
 * keeps the settings that concern registries, proxies and trust. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"

/* A text that outgrows its buffer (4 MiB) is cut: nothing here is worth failing a build for. */
#define APPEND(out, ...) ((void)!buf_printf(out, __VA_ARGS__))

static void each_line_of(char *text, host_line_fn *fn, void *arg)
{
	for (char *p = text; *p;) {
		char *next = p + strcspn(p, "\n");
		bool end = !*next;
		*next = 0;
		fn(arg, p);
		p = end ? next : next + 1;
	}
}

void host_each_line(const char *path, host_line_fn *fn, void *arg)
{
	auto_buf struct buf text = { 0 };

	buf_init(&text, HOSTCONF_FILE_MAX);
	if (fd_read_file(path, &text, NULL) == 0)
		each_line_of(text.data, fn, arg);
}

static NORETURN void exec_into(int out, const char *const *argv, const char *const *env)
{
	const char *path = host_get(env, "PATH");

	if (path)
		setenv("PATH", path, 1);
	setenv("HOME", host_home(env), 1);
	setenv("LC_ALL", "C", 1);
	if (dup2(out, STDOUT_FILENO) < 0 || !freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stderr))
		_exit(127);
	execvp(argv[0], (char **)argv);
	_exit(127);
}

static void host_each_output(const char *const *argv, const char *const *env, host_line_fn *fn, void *arg)
{
	auto_buf struct buf text = { 0 };
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return;
	pid_t pid = fork();
	if (pid == 0)
		exec_into(p[1], argv, env);
	fd_close(p[1]);
	buf_init(&text, HOSTCONF_FILE_MAX);
	if (pid > 0 && fd_read_to_end(p[0], &text) == 0)
		each_line_of(text.data, fn, arg);
	fd_close(p[0]);
	if (pid > 0)
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

/* -- pip -------------------------------------------------------------------------------------------------------- */
/* In [global] order of precedence: later files and then the environment win. */
static const char *const pip_keys[] = { "index-url", "extra-index-url", "trusted-host", "timeout",
					"retries",   "proxy",           "find-links" };
enum { PIP_TIMEOUT = 3, PIP_FIND_LINKS = 6 };

struct pip {
	char *values[ARRAY_LEN(pip_keys)];
	bool global; /* inside [global] or [install] */
	int current; /* key whose continuation lines follow; -1 = none */
};

static int pip_key(const char *key)
{
	for (size_t i = 0; i < ARRAY_LEN(pip_keys); i++)
		if (!strcasecmp(key, pip_keys[i]))
			return (int)i;
	return !strcasecmp(key, "default-timeout") ? PIP_TIMEOUT : -1;
}

/* Several values are separated by blanks; of find-links only addresses mean anything inside. */
static void pip_add(struct pip *p, int key, const char *value)
{
	for (const char *s = value; *(s += strspn(s, " \t"));) {
		size_t n = strcspn(s, " \t");
		auto_free char *old = p->values[key];
		auto_free char *one = xstrndup(s, n);
		if (key == PIP_FIND_LINKS && !str_starts(one, "http"))
			p->values[key] = STEAL(old);
		else
			p->values[key] = xasprintf("%s%s%s", old ? old : "", old ? "\n    " : "", one);
		s += n;
	}
}

static void pip_set(struct pip *p, int key, const char *value)
{
	free(p->values[key]);
	p->values[key] = NULL;
	pip_add(p, key, value);
}

static void pip_line(void *arg, char *line)
{
	struct pip *p = arg;
	bool indented = *line == ' ' || *line == '\t';
	char *s = host_trim(line), *eq = strpbrk(s, "=:");

	if (!*s || *s == '#' || *s == ';')
		return;
	if (*s == '[') {
		p->global = str_starts(s, "[global]") || str_starts(s, "[install]");
		p->current = -1;
	} else if (indented && p->current >= 0) {
		pip_add(p, p->current, s);
	} else if (p->global && eq) {
		*eq = 0;
		p->current = pip_key(host_trim(s));
		if (p->current >= 0)
			pip_set(p, p->current, host_trim(eq + 1));
	} else {
		p->current = -1;
	}
}

static void pip_file(struct pip *p, const char *path)
{
	p->global = false;
	p->current = -1;
	host_each_line(path, pip_line, p);
}

static void pip_env(struct pip *p, const char *const *env)
{
	for (const char *const *e = env; e && *e; e++) {
		if (!str_starts(*e, "PIP_"))
			continue;
		auto_free char *key = xstrndup(*e + 4, strcspn(*e + 4, "="));
		for (char *c = key; *c; c++)
			*c = *c == '_' ? '-' : *c;
		int k = pip_key(key);
		if (k >= 0)
			pip_set(p, k, strchr(*e, '=') + 1);
	}
}

void host_pip_conf(const char *const *env, const char *ca, struct buf *out)
{
	struct pip p = { 0 };
	const char *xdg = host_get(env, "XDG_CONFIG_HOME"), *own = host_get(env, "PIP_CONFIG_FILE");
	auto_free char *legacy = xasprintf("%s/.pip/pip.conf", host_home(env));
	auto_free char *user = str_empty(xdg) ? xasprintf("%s/.config/pip/pip.conf", host_home(env))
					      : xasprintf("%s/pip/pip.conf", xdg);

	pip_file(&p, "/etc/xdg/pip/pip.conf");
	pip_file(&p, "/etc/pip.conf");
	pip_file(&p, legacy);
	pip_file(&p, user);
	if (own)
		pip_file(&p, own);
	pip_env(&p, env);
	APPEND(out, "[global]\n");
	for (size_t i = 0; i < ARRAY_LEN(pip_keys); i++)
		if (p.values[i])
			APPEND(out, "%s = %s\n", pip_keys[i], p.values[i]);
	if (ca)
		APPEND(out, "cert = %s\n", ca);
	for (size_t i = 0; i < ARRAY_LEN(pip_keys); i++)
		free(p.values[i]);
}

/* -- npm -------------------------------------------------------------------------------------------------------- */
static bool npm_keeps(const char *key)
{
	static const char *const keys[] = { "registry",    "proxy",      "https-proxy",   "http-proxy",
					    "noproxy",     "strict-ssl", "fetch-timeout", "fetch-retries",
					    "always-auth", "_auth",      "_authToken" };

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcasecmp(key, keys[i]))
			return true;
	return *key == '/' || (*key == '@' && str_ends(key, ":registry"));
}

static void npm_line(void *arg, char *line)
{
	struct buf *out = arg;
	char *s = host_trim(line), *eq = strchr(s, '=');

	if (!eq || *s == '#' || *s == ';')
		return;
	auto_free char *key = xstrndup(s, (size_t)(eq - s));
	if (npm_keeps(host_trim(key)) && !strstr(s, "certfile") && !strstr(s, "keyfile"))
		APPEND(out, "%s\n", s);
}

static void npm_env(const char *const *env, struct buf *out)
{
	for (const char *const *e = env; e && *e; e++) {
		if (strncasecmp(*e, "npm_config_", 11))
			continue;
		auto_free char *line = xstrdup(*e + 11);
		for (char *c = line; *c && *c != '='; c++)
			*c = *c == '_' && c != line ? '-' : *c;
		npm_line(out, line);
	}
}

void host_npmrc(const char *const *env, const char *ca, struct buf *out)
{
	const char *own = host_get(env, "NPM_CONFIG_USERCONFIG");
	auto_free char *user = own ? xstrdup(own) : xasprintf("%s/.npmrc", host_home(env));

	host_each_line("/usr/etc/npmrc", npm_line, out);
	host_each_line("/etc/npmrc", npm_line, out);
	host_each_line(user, npm_line, out);
	npm_env(env, out);
	if (ca)
		APPEND(out, "cafile=%s\n", ca);
}

/* -- apt -------------------------------------------------------------------------------------------------------- */
static void apt_line(void *arg, char *line)
{
	static const char *const prefixes[] = {
		"Acquire::http::Proxy",
		"Acquire::https::Proxy",
		"Acquire::ftp::Proxy",
		"Acquire::http::Timeout",
		"Acquire::https::Timeout",
		"Acquire::https::Verify-Peer",
		"Acquire::https::Verify-Host",
		"Acquire::Retries",
		"Acquire::ForceIPv4",
		"Acquire::ForceIPv6",
		"Acquire::Check-Valid-Until",
		"Acquire::Check-Date",
		"Acquire::http::Pipeline-Depth",
	};

	for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
		if (!strncasecmp(line, prefixes[i], strlen(prefixes[i])) && !strcasestr(line, "Auto-Detect")) {
			APPEND(arg, "%s\n", line);
			return;
		}
}

void host_apt_conf(const char *const *env, const char *ca, struct buf *out)
{
	host_each_output((const char *const[]){ "apt-config", "dump", NULL }, env, apt_line, out);
	if (ca)
		APPEND(out, "Acquire::https::CaInfo \"%s\";\n", ca);
}

static void apt_source_line(void *arg, char *line)
{
	char *s = host_trim(line);

	if (*s != '#' && strstr(s, "://"))
		strv_add(arg, xstrdup(s));
}

void host_apt_urls(struct strv *v)
{
	DIR *d = opendir("/etc/apt/sources.list.d");

	host_each_line("/etc/apt/sources.list", apt_source_line, v);
	for (struct dirent *e; d && (e = readdir(d));) {
		auto_free char *path = xasprintf("/etc/apt/sources.list.d/%s", e->d_name);
		if (str_ends(path, ".list") || str_ends(path, ".sources"))
			host_each_line(path, apt_source_line, v);
	}
	if (d)
		closedir(d);
}

/* -- git -------------------------------------------------------------------------------------------------------- */
/* "url.https://mirror/.insteadof=https://github.com/" -> [url "https://mirror/"] insteadOf = ... */
static void git_line(void *arg, char *line)
{
	char *eq = strchr(line, '='), *dot, *sub = strchr(line, '.');

	/* The name ends at the last dot before the value; an address in the middle may hold '=' but no name does. */
	if (!sub || !eq || strpbrk(line, "\"\\"))
		return;
	*eq = 0;
	dot = strrchr(line, '.');
	const char *name = dot + 1;
	bool url = str_starts(line, "url.") && (!strcasecmp(name, "insteadof") || !strcasecmp(name, "pushinsteadof"));
	bool http = str_starts(line, "http.") && (!strcasecmp(name, "proxy") || !strcasecmp(name, "sslverify"));
	if (!url && !http)
		return;
	*sub = *dot = 0;
	if (sub == dot)
		APPEND(arg, "[%s]\n\t%s = %s\n", line, name, eq + 1);
	else
		APPEND(arg, "[%s \"%s\"]\n\t%s = %s\n", line, sub + 1, name, eq + 1);
}

void host_gitconfig(const char *const *env, const char *ca, struct buf *out)
{
	auto_buf struct buf found = { 0 };

	buf_init(&found, HOSTCONF_FILE_MAX);
	host_each_output((const char *const[]){ "git", "config", "--system", "--list", NULL }, env, git_line, &found);
	host_each_output((const char *const[]){ "git", "config", "--global", "--list", NULL }, env, git_line, &found);
	if (!found.len && !ca)
		return;
	/* This takes the place of the image's own system file, which goes on to count. */
	APPEND(out, "[include]\n\tpath = /etc/gitconfig\n%s", found.data);
	if (ca)
		APPEND(out, "[http]\n\tsslCAInfo = %s\n", ca);
}
