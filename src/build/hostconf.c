#include "build/hostconf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"

extern char **environ;

/* Variables whose value is a host path of a CA bundle; inside they point to the staged copy. */
static const char *const ca_vars[] = {
	"SSL_CERT_FILE",
	"PIP_CERT",
	"REQUESTS_CA_BUNDLE",
	"CURL_CA_BUNDLE",
	"NODE_EXTRA_CA_CERTS",
	"GIT_SSL_CAINFO",
	"CARGO_HTTP_CAINFO",
	"AWS_CA_BUNDLE",
	"HTTPLIB2_CA_CERTS",
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
	"DENO_CERT",
	"NIX_SSL_CERT_FILE",
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
};

/* Variables that mean the same inside: addresses and flags, no paths. A final '*' stands for any rest. */
static const char *const plain_vars[] = {
	"GOPROXY",
	"GONOPROXY",
	"GOSUMDB",
	"GONOSUMDB",
	"GOPRIVATE",
	"GOINSECURE",
	"CARGO_REGISTRY_DEFAULT",
	"CARGO_REGISTRIES_*",
	"CARGO_NET_*",
	"CARGO_HTTP_TIMEOUT",
	"UV_INDEX_URL",
	"UV_EXTRA_INDEX_URL",
	"UV_DEFAULT_INDEX",
	"UV_INDEX",
	"UV_INSECURE_HOST",
	"UV_HTTP_TIMEOUT",
	"UV_NATIVE_TLS",
	"YARN_NPM_REGISTRY_SERVER",
	"COREPACK_NPM_REGISTRY",
	"HF_ENDPOINT",
	"RUSTUP_DIST_SERVER",
	"RUSTUP_UPDATE_ROOT",
	"PIP_DISABLE_PIP_VERSION_CHECK",
};

static const char *const proxy_vars[] = { "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "FTP_PROXY" };

/* Read by the code below, but not passed on as they are. */
static const char *const read_vars[] = { "PIP_*",           "npm_config_*", "NPM_CONFIG_*", "HOME",
					 "XDG_CONFIG_HOME", "PATH",         "GOENV" };

static const char *const default_hosts[] = {
	"pypi.org",
	"files.pythonhosted.org",
	"registry.npmjs.org",
	"deb.debian.org",
	"security.debian.org",
	"snapshot.debian.org",
	"archive.ubuntu.com",
	"security.ubuntu.com",
	"ports.ubuntu.com",
	"crates.io",
	"index.crates.io",
	"static.crates.io",
	"static.rust-lang.org",
	"proxy.golang.org",
	"sum.golang.org",
	"github.com",
	"objects.githubusercontent.com",
	"codeload.github.com",
	"raw.githubusercontent.com",
};

/* -- lists of "K=V" ------------------------------------------------------------------------------------------------ */
const char *host_get(const char *const *env, const char *key)
{
	size_t n = strlen(key);

	for (; env && *env; env++)
		if (!strncmp(*env, key, n) && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

const char *host_home(const char *const *env)
{
	const char *home = host_get(env, "HOME");

	return home && *home == '/' ? home : "/root";
}

char *host_trim(char *s)
{
	s += strspn(s, " \t\r");
	size_t n = strlen(s);
	while (n && strchr(" \t\r\n", s[n - 1]))
		s[--n] = 0;
	return s;
}

static bool matches(const char *pattern, const char *entry, bool any_case)
{
	size_t n = strlen(pattern);
	bool star = pattern[n - 1] == '*';

	n -= star;
	return !(any_case ? strncasecmp(pattern, entry, n) : strncmp(pattern, entry, n)) &&
	       (star ? strchr(entry, '=') != NULL : entry[n] == '=');
}

static bool in_table(const char *const *table, size_t n, const char *entry, bool any_case)
{
	for (size_t i = 0; i < n; i++)
		if (matches(table[i], entry, any_case))
			return true;
	return false;
}
#define IN(table, entry, any_case) in_table(table, ARRAY_LEN(table), entry, any_case)

char **hostconf_snapshot(void)
{
	struct strv v = { 0 };

	for (char **e = environ; e && *e; e++)
		if (IN(ca_vars, *e, false) || IN(plain_vars, *e, false) || IN(read_vars, *e, false) ||
		    IN(proxy_vars, *e, true))
			strv_add(&v, xstrdup(*e));
	return strv_take(&v);
}

static void add_proxy(struct strv *v, const char *name, const char *value)
{
	auto_free char *low = xstrdup(name);

	for (char *p = low; *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
	strv_add(v, xasprintf("%s=%s", name, value));
	strv_add(v, xasprintf("%s=%s", low, value));
}

char **hostconf_proxies(const char *const *env)
{
	struct strv v = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(proxy_vars); i++)
		for (const char *const *e = env; e && *e; e++)
			if (matches(proxy_vars[i], *e, true) && strchr(*e, '=')[1]) {
				add_proxy(&v, proxy_vars[i], strchr(*e, '=') + 1);
				break;
			}
	return strv_take(&v);
}

/* -- staging ------------------------------------------------------------------------------------------------------ */
static bool is_readable(const char *path)
{
	struct stat st;

	return path && *path == '/' && stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 &&
	       access(path, R_OK) == 0;
}

/* What the host's own clients trust: the variables first, then where distributions keep the bundle. */
static const char *find_ca(const char *const *env)
{
	static const char *const places[] = { "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
					      "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem" };

	for (size_t i = 0; i < ARRAY_LEN(ca_vars); i++)
		if (is_readable(host_get(env, ca_vars[i])))
			return host_get(env, ca_vars[i]);
	for (size_t i = 0; i < ARRAY_LEN(places); i++)
		if (is_readable(places[i]))
			return places[i];
	return NULL;
}

static int stage_ca(const char *dir, const char *source, struct err *err)
{
	auto_free char *path = xasprintf("%s/ca.crt", dir);
	auto_buf struct buf text = { 0 };

	buf_init(&text, HOSTCONF_FILE_MAX);
	int r = fd_read_file(source, &text, err);
	return r < 0 ? r : fd_write_file(path, text.data, text.len, 0644, err);
}

/* One staged file and the variable that points to it. An empty text stages nothing. */
static int stage_text(struct strv *env, const char *dir, const char *target, const char *file, const char *var,
		      const struct buf *text, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", dir, file);

	if (!text->len)
		return 0;
	int r = fd_write_file(path, text->data, text->len, 0644, err);
	if (r < 0)
		return r;
	strv_add(env, xasprintf("%s=%s/%s", var, target, file));
	return 0;
}

typedef void host_text_fn(const char *const *env, const char *ca, struct buf *out);

static const struct staged {
	const char *file, *var;
	host_text_fn *make;
} staged[] = {
	{ "pip.conf", "PIP_CONFIG_FILE", host_pip_conf },
	{ "npmrc", "NPM_CONFIG_USERCONFIG", host_npmrc },
	{ "apt.conf", "APT_CONFIG", host_apt_conf },
	{ "gitconfig", "GIT_CONFIG_SYSTEM", host_gitconfig },
};

static int stage_files(struct strv *v, const char *dir, const char *target, const char *const *env, const char *ca,
		       struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(staged); i++) {
		auto_buf struct buf text = { 0 };
		buf_init(&text, HOSTCONF_FILE_MAX);
		staged[i].make(env, ca, &text);
		int r = stage_text(v, dir, target, staged[i].file, staged[i].var, &text, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int fill(struct strv *v, const char *dir, const char *target, const char *const *env, struct err *err)
{
	const char *source = find_ca(env);
	auto_free char *ca = source ? xasprintf("%s/ca.crt", target) : NULL;

	int r = fd_mkdirs(dir, 0755, err);
	if (r == 0 && source)
		r = stage_ca(dir, source, err);
	if (r < 0)
		return r;
	for (size_t i = 0; ca && i < ARRAY_LEN(ca_vars); i++)
		strv_add(v, xasprintf("%s=%s", ca_vars[i], ca));
	for (const char *const *e = env; e && *e; e++)
		if (IN(plain_vars, *e, false))
			strv_add(v, xstrdup(*e));
	return stage_files(v, dir, target, env, ca, err);
}

int hostconf_stage(const char *dir, const char *target, const char *const *env, char ***ret_env, struct err *err)
{
	struct strv v = { 0 };

	int r = fill(&v, dir, target, env, err);
	if (r < 0) {
		strv_free(v.list);
		return err_wrap(err, r, "copy the package client configuration of this machine");
	}
	*ret_env = strv_take(&v);
	return 0;
}

/* -- host names ------------------------------------------------------------------------------------------------- */
static void add_host(struct strv *v, const char *s, size_t len)
{
	char *name = xstrndup(s, len);

	for (char *p = name; *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
	for (size_t i = 0; i < v->n; i++)
		if (str_eq(v->list[i], name)) {
			free(name);
			return;
		}
	strv_add(v, name);
}

/* The host of "scheme://user:password@HOST:port/path"; v6 addresses lose their brackets. */
static void add_url_host(struct strv *v, const char *url)
{
	size_t n = strcspn(url, "/ \t\r\n,|\"';");
	const char *at = memrchr(url, '@', n);

	if (at) {
		n -= (size_t)(at + 1 - url);
		url = at + 1;
	}
	if (*url == '[') {
		url++;
		n = strcspn(url, "]");
	} else {
		n = strcspn(url, ":/ \t\r\n,|\"';") < n ? strcspn(url, ":/ \t\r\n,|\"';") : n;
	}
	if (n && n < 254)
		add_host(v, url, n);
}

/* Every URL in a text: whatever the syntax around it. */
static void add_text_hosts(struct strv *v, const char *text)
{
	for (const char *p = text; (p = strstr(p, "://")); p += 3)
		add_url_host(v, p + 3);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_env_hosts(struct strv *v, const char *const *env)
{
	for (const char *const *e = env; e && *e; e++)
		if (IN(plain_vars, *e, false) || IN(read_vars, *e, false))
			add_text_hosts(v, *e);
	char **proxies = hostconf_proxies(env);
	for (char **p = proxies; *p; p++)
		if (!str_starts(*p, "NO_PROXY") && !str_starts(*p, "no_proxy")) {
			const char *value = strchr(*p, '=') + 1, *host = strstr(value, "://");
			add_url_host(v, host ? host + 3 : value);
		}
	strv_free(proxies);
}

char **hostconf_hosts(const char *const *env)
{
	struct strv v = { 0 }, urls = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(default_hosts); i++)
		add_host(&v, default_hosts[i], strlen(default_hosts[i]));
	for (size_t i = 0; i < ARRAY_LEN(staged); i++) {
		auto_buf struct buf text = { 0 };
		buf_init(&text, HOSTCONF_FILE_MAX);
		staged[i].make(env, NULL, &text);
		add_text_hosts(&v, text.data);
	}
	host_apt_urls(&urls);
	for (size_t i = 0; i < urls.n; i++)
		add_text_hosts(&v, urls.list[i]);
	add_env_hosts(&v, env);
	strv_free(urls.list);
	qsort(v.list, v.n, sizeof(*v.list), by_text);
	return v.list;
}
