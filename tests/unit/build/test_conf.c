#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/conf.h"
#include "build/hostpriv.h"
#include "build/job.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-conf-XXXXXX";

static void begin(void)
{
	auto_free char *images = NULL;

	tmpdir_make(dir);
	images = xasprintf("%s/images", dir);
	cr_assert_eq(mkdir(images, 0755), 0);
	clearenv();
	setenv("HOME", dir, 1);
	setenv("PATH", "/usr/bin:/bin", 1);
}

static void end(void)
{
	tmpdir_remove(dir);
}

TestSuite(conf, .init = begin, .fini = end, .timeout = 20);

static void put(const char *rel, const char *text, mode_t mode)
{
	auto_free char *path = xasprintf("%s/%s", dir, rel);
	struct err err = ERR_INIT;

	cr_assert_eq(fd_write_file(path, text, strlen(text), mode, &err), 0, "%s", err.msg);
}

/* -- build.conf --------------------------------------------------------------------------------------------------- */
Test(conf, a_missing_file_gives_the_defaults)
{
	struct build_conf c;
	struct err err = ERR_INIT;

	cr_assert_eq(build_conf_read(&c, dir, &err), 0, "%s", err.msg);
	cr_assert(c.inherit_host);
	cr_assert_eq(c.memory_bytes, BUILD_CONF_MEMORY);
	cr_assert_null(c.host_env);
	build_conf_done(&c);
}

Test(conf, what_is_written_is_read)
{
	static const struct image_alias aliases[] = { { "a", "b" }, { "c:1", "d:2" }, { NULL, NULL } };
	struct build_conf c, d;
	struct err err = ERR_INIT;

	setenv("PIP_INDEX_URL", "https://pip.example/simple", 1);
	setenv("SECRET", "x", 1);
	build_conf_init(&c);
	build_conf_set(&c, false, (const char *const[]){ "A=b c", NULL }, (const char *const[]){ "/x:/y", "/z", NULL },
		       aliases);
	c.disk_bytes = 0;
	c.min_free_bytes = 12345;
	cr_assert_eq(build_conf_write(dir, &c, &err), 0, "%s", err.msg);
	cr_assert_eq(build_conf_read(&d, dir, &err), 0, "%s", err.msg);
	cr_assert_eq(d.disk_bytes, 0);
	cr_assert_eq(d.min_free_bytes, 12345);
	cr_assert_not(d.inherit_host);
	cr_assert_str_eq(d.env[0], "A=b c");
	cr_assert_str_eq(d.mounts[1], "/z");
	cr_assert_str_eq(d.aliases[2], "c:1");
	cr_assert_str_eq(d.aliases[3], "d:2");
	cr_assert_str_eq(host_get((const char *const *)d.host_env, "PIP_INDEX_URL"), "https://pip.example/simple");
	cr_assert_null(host_get((const char *const *)d.host_env, "SECRET"));
	build_conf_done(&c);
	build_conf_done(&d);
}

Test(conf, a_file_that_others_can_write_is_refused)
{
	struct build_conf c;
	struct err err = ERR_INIT;
	auto_free char *path = xasprintf("%s/images/build.conf", dir);

	put("images/build.conf", "{}", 0600);
	cr_assert_eq(chmod(path, 0666), 0);
	cr_assert_eq(build_conf_read(&c, dir, &err), -EPERM);
	cr_assert_eq(chmod(path, 0600), 0);
	cr_assert_eq(build_conf_read(&c, dir, &err), 0, "%s", err.msg);
	build_conf_done(&c);
}

Test(conf, wrong_values_are_named)
{
	static const char *const texts[][2] = {
		{ "{\"env\":[\"x\"]}", "builds.env" },      { "{\"mounts\":[\"x\"]}", "builds.mounts" },
		{ "{\"mounts\":[\"/x:y\"]}", "/x:y" },      { "{\"env\":[1]}", "env" },
		{ "{\"aliases\":{\"a\":1}}", "aliases" },   { "{\"memory_bytes\":-1}", "memory_bytes" },
		{ "{\"inherit_host\":1}", "inherit_host" }, { "[", "build.conf" },
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct build_conf c;
		struct err err = ERR_INIT;
		put("images/build.conf", texts[i][0], 0600);
		cr_assert_eq(build_conf_read(&c, dir, &err), -EINVAL, "%s", texts[i][0]);
		cr_assert(strstr(err.msg, texts[i][1]), "%s: %s", texts[i][0], err.msg);
	}
}

/* -- the host's clients ------------------------------------------------------------------------------------------- */
#define ENV(...) ((const char *const[]){ __VA_ARGS__, NULL })

static char *home_entry(void)
{
	return xasprintf("HOME=%s", dir);
}

Test(conf, pip_settings_are_merged_and_host_paths_left_out)
{
	auto_buf struct buf out;
	auto_free char *home = home_entry();

	buf_init(&out, 65536);
	auto_free char *folder = xasprintf("%s/.pip", dir);
	cr_assert_eq(mkdir(folder, 0755), 0);
	put(".pip/pip.conf",
	    "[global]\nindex-url = https://one/simple\nextra-index-url =\n    https://two/simple\n    "
	    "https://three/simple\n"
	    "find-links = /opt/wheels https://links/\ncert = /host/ca.pem\n[freeze]\ntimeout = "
	    "10\n[install]\ntrusted-host: one\n",
	    0644);
	host_pip_conf(
		ENV(home, "PIP_INDEX_URL=https://env/simple", "PIP_FIND_LINKS=/opt/wheels", "PIP_DEFAULT_TIMEOUT=180"),
		"/in/ca.crt", &out);
	cr_assert(str_starts(out.data, "[global]\n"));
	cr_assert(strstr(out.data, "index-url = https://env/simple\n"), "%s", out.data);
	cr_assert(strstr(out.data, "extra-index-url = https://two/simple\n    https://three/simple\n"), "%s", out.data);
	cr_assert(strstr(out.data, "trusted-host = one\n"), "%s", out.data);
	cr_assert(strstr(out.data, "timeout = 180\n"), "%s", out.data);
	cr_assert(strstr(out.data, "cert = /in/ca.crt\n"), "%s", out.data);
	cr_assert_null(strstr(out.data, "/opt/wheels"), "%s", out.data);
	cr_assert_null(strstr(out.data, "/host"), "%s", out.data);
}

Test(conf, npm_keeps_registries_and_their_keys)
{
	auto_buf struct buf out;
	auto_free char *home = home_entry();

	buf_init(&out, 65536);
	put(".npmrc",
	    "registry=https://npm.example/\n@me:registry=https://me.example/\n//npm.example/:_authToken=abc\ncafile=/"
	    "host/ca\n"
	    "prefix=/host/prefix\n; registry=https://no\n//npm.example/:certfile=/host/cert\n",
	    0600);
	host_npmrc(ENV(home, "npm_config_strict_ssl=false"), NULL, &out);
	cr_assert(strstr(out.data, "registry=https://npm.example/\n"), "%s", out.data);
	cr_assert(strstr(out.data, "@me:registry=https://me.example/\n"), "%s", out.data);
	cr_assert(strstr(out.data, "//npm.example/:_authToken=abc\n"), "%s", out.data);
	cr_assert(strstr(out.data, "strict-ssl=false\n"), "%s", out.data);
	cr_assert_null(strstr(out.data, "/host"), "%s", out.data);
	cr_assert_null(strstr(out.data, "https://no"), "%s", out.data);
}

Test(conf, staged_variables_point_into_the_target)
{
	struct err err = ERR_INIT;
	auto_free char *home = home_entry(), *staged = xasprintf("%s/staged", dir),
		       *ca = xasprintf("SSL_CERT_FILE=%s/my.pem", dir);
	char **env = NULL;

	put("my.pem", "-----BEGIN", 0600);
	cr_assert_eq(hostconf_stage(staged, "/dev/x",
				    ENV(home, ca, "GOPROXY=https://go.example", "HTTP_PROXY=http://p:1"), &env, &err),
		     0, "%s", err.msg);
	cr_assert_str_eq(host_get((const char *const *)env, "SSL_CERT_FILE"), "/dev/x/ca.crt");
	cr_assert_str_eq(host_get((const char *const *)env, "PIP_CONFIG_FILE"), "/dev/x/pip.conf");
	cr_assert_str_eq(host_get((const char *const *)env, "GOPROXY"), "https://go.example");
	cr_assert_null(host_get((const char *const *)env, "HTTP_PROXY"));
	auto_free char *copy = xasprintf("%s/ca.crt", staged);
	struct stat st;
	cr_assert_eq(stat(copy, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0644, "users other than root must read it");
	for (char **e = env; *e; e++)
		cr_assert_null(strstr(*e, dir), "a path of the host: %s", *e);
	strv_free(env);
}

Test(conf, proxies_come_in_both_cases)
{
	char **p = hostconf_proxies(ENV("https_proxy=http://u:p@proxy:3128", "HTTP_PROXY=", "NO_PROXY=x"));

	cr_assert_str_eq(host_get((const char *const *)p, "HTTPS_PROXY"), "http://u:p@proxy:3128");
	cr_assert_str_eq(host_get((const char *const *)p, "https_proxy"), "http://u:p@proxy:3128");
	cr_assert_str_eq(host_get((const char *const *)p, "no_proxy"), "x");
	cr_assert_null(host_get((const char *const *)p, "http_proxy"));
	strv_free(p);
}

static bool lists(char **list, const char *s)
{
	for (; *list; list++)
		if (str_eq(*list, s))
			return true;
	return false;
}

Test(conf, host_names_are_those_of_the_settings)
{
	auto_free char *home = home_entry();
	char **h = hostconf_hosts(ENV(home, "PIP_INDEX_URL=https://user:key@Pip.Example:8443/simple",
				      "HTTPS_PROXY=http://[fd00::1]:3128", "http_proxy=proxy.example:80",
				      "NO_PROXY=no.example", "GOPROXY=https://go.example,direct"));

	cr_assert(lists(h, "pypi.org"));
	cr_assert(lists(h, "pip.example"));
	cr_assert(lists(h, "fd00::1"));
	cr_assert(lists(h, "proxy.example"));
	cr_assert(lists(h, "go.example"));
	cr_assert_not(lists(h, "no.example"));
	for (char **n = h; n[0] && n[1]; n++)
		cr_assert_lt(strcmp(n[0], n[1]), 0, "sorted and without duplicates: %s %s", n[0], n[1]);
	strv_free(h);
}

Test(conf, tools_errors_are_tidied)
{
	char a[] = "time=\"2026-01-01T00:00:00Z\" level=fatal msg=\"Get \\\"https://x\\\": no such host\"";
	char b[] = "Error: building at STEP \"RUN x\": y";

	cr_assert_str_eq(job_tidy(a), "Get \"https://x\": no such host");
	cr_assert_str_eq(job_tidy(b), "building at STEP \"RUN x\": y");
	char *longer = xmalloc(5001);
	memset(longer, 'x', 5000);
	longer[5000] = 0;
	cr_assert_eq(strlen(job_tidy(longer)), JOB_REASON_MAX);
	free(longer);
}
