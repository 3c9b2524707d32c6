/* The configuration: the example is the defaults, what is read comes out again, and every mistake is named. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/macros.h"
#include "base/str.h"
#include "daemon/config.h"

TestSuite(config, .timeout = 10);

static struct config *parse(const char *text)
{
	struct config *c = config_new();
	struct err err = ERR_INIT;

	cr_assert_eq(config_parse(c, "x.yaml", text, strlen(text), &err), 0, "%s", err.msg);
	return c;
}

static struct err refuse(const char *text)
{
	struct config *c = config_new();
	struct err err = ERR_INIT;

	cr_assert_eq(config_parse(c, "x.yaml", text, strlen(text), &err), -EINVAL, "%s", text);
	config_free(c);
	return err;
}

Test(config, example_is_the_defaults)
{
	struct config *c = config_new();
	struct buf printed, file;
	struct err err;

	buf_init(&printed, 1 << 20);
	buf_init(&file, 1 << 20);
	cr_assert_eq(config_print(c, &printed), 0);
	cr_assert_eq(fd_read_file(TEST_SOURCE_ROOT "/docs/openreward.yaml.example", &file, &err), 0, "%s", err.msg);
	cr_assert_str_eq(file.data, printed.data,
			 "write it anew: openreward serve --print-config > docs/openreward.yaml.example");
	config_free(c);

	c = parse(file.data);
	buf_clear(&printed);
	cr_assert_eq(config_print(c, &printed), 0);
	cr_assert_str_eq(file.data, printed.data, "what is read is what was printed");
	cr_assert_eq(config_check(c, &err), 0, "%s", err.msg);
	config_free(c);
	buf_done(&printed);
	buf_done(&file);
}

Test(config, http_defaults_agree_with_the_server)
{
	struct config *c = config_new();
	struct http_limits l;

	http_limits_default(&l);
	cr_assert_eq(c->http.header_bytes, l.header_bytes);
	cr_assert_eq(c->http.header_count, l.header_count);
	cr_assert_eq(c->http.body_bytes, l.body_bytes);
	cr_assert_eq(c->http.high_water_bytes, l.high_water_bytes);
	cr_assert_eq(c->http.max_connections, l.max_connections);
	cr_assert_eq(c->http.header_deadline_ms, l.header_deadline_ms);
	cr_assert_eq(c->http.idle_ms, l.idle_ms);
	cr_assert_eq(c->http.body_stall_ms, l.body_stall_ms);
	cr_assert_eq(c->http.write_stall_ms, l.write_stall_ms);
	config_free(c);
}

Test(config, every_kind_of_value)
{
	struct config *c = parse("listen: [\"127.0.0.1:0\", \"[::1]:9\"]\n"
				 "data: /srv/x\n"
				 "log: {level: debug, format: json}\n"
				 "http:\n  idle: 90s\n  body: 128MiB\n"
				 "sandboxes:\n  no_new_privs: true\n  env:\n    A: b\n    EMPTY: \"\"\n  mounts: [\"/etc/x\", \"/a:/b\"]\n"
				 "images:\n  aliases:\n    python:3.12: python:3.11-slim\n"
				 "egress:\n  allow: [10.0.0.0/8, \"host:443\"]\n"
				 "builds:\n");

	cr_assert_str_eq(c->listen[0], "127.0.0.1:0");
	cr_assert_str_eq(c->listen[1], "[::1]:9");
	cr_assert_null(c->listen[2]);
	cr_assert_str_eq(c->data, "/srv/x");
	cr_assert_eq(c->log_level, LOG_DEBUG);
	cr_assert_eq(c->log_format, LOG_JSON);
	cr_assert_eq(c->http.idle_ms, 90000);
	cr_assert_eq(c->http.body_bytes, 128u << 20);
	cr_assert(c->sandbox_no_new_privs);
	cr_assert_str_eq(c->sandbox_env[0], "A=b");
	cr_assert_str_eq(c->sandbox_env[1], "EMPTY=");
	cr_assert_null(c->sandbox_env[2]);
	cr_assert_str_eq(c->sandbox_mounts[1], "/a:/b");
	cr_assert_str_eq(c->image_aliases[0].from, "python:3.12");
	cr_assert_str_eq(c->image_aliases[0].to, "python:3.11-slim");
	cr_assert_null(c->image_aliases[1].from);
	cr_assert_str_eq(c->egress_allow[1], "host:443");
	config_free(c);
}

/* What is wrong, and what the message must say: line, key, value or expectation. */
Test(config, mistakes_are_named)
{
	static const struct {
		const char *text, *says[3];
	} cases[] = {
		{ "listen: 127.0.0.1:1\nlisten: x:2\n", { "x.yaml:2", "listen", "twice" } },
		{ "\nsandboxs: {}\n", { "x.yaml:2", "\"sandboxs\"", "nearest" } },
		{ "http:\n  idel: 1s\n", { "x.yaml:2", "http.idel", "http.idle" } },
		{ "http.idle: 1s\n", { "x.yaml:1", "unknown", "http.idle" } },
		{ "http:\n  idle: 30\n", { "x.yaml:2", "http.idle", "duration" } },
		{ "http:\n  idle: -1s\n", { "http.idle", "-1s", "duration" } },
		{ "http:\n  idle: 1ms\n", { "http.idle", "1ms", "100 to" } },
		{ "http:\n  idle: 99999999999999999999h\n", { "http.idle", "duration", "999" } },
		{ "http:\n  body: 2GB\n", { "http.body", "2GB", "size" } },
		{ "http:\n  header_count: many\n", { "http.header_count", "many", "whole number" } },
		{ "http: [1]\n", { "x.yaml:1", "http", "mapping" } },
		{ "http: 5\n", { "x.yaml:1", "http", "mapping" } },
		{ "data: [a]\n", { "data", "a list", "single value" } },
		{ "data:\n", { "data", "no value", "default" } },
		{ "sandboxes: {no_new_privs: yes}\n", { "sandboxes.no_new_privs", "yes", "true or false" } },
		{ "sandboxes: {mounts: /etc/x}\n", { "sandboxes.mounts", "/etc/x", "a list" } },
		{ "sandboxes: {mounts: [etc/x]}\n", { "sandboxes.mounts", "etc/x", "absolute" } },
		{ "sandboxes: {env: [A=b]}\n", { "sandboxes.env", "a list", "mapping" } },
		{ "sandboxes: {env: {2A: b}}\n", { "sandboxes.env", "2A", "names of variables" } },
		{ "instances: {size: huge}\n", { "instances.size", "huge", "CPU:GIB" } },
		{ "listen: 8080\n", { "listen", "8080", "HOST:PORT" } },
		{ "listen: ::1:80\n", { "listen", "::1:80", "brackets" } },
		{ "listen: a:99999\n", { "listen", "99999", "HOST:PORT" } },
		{ "listen: ftp://a:1\n", { "listen", "ftp://a:1", "https://" } },
		{ "listen: https://::1:80\n", { "listen", "::1:80", "brackets" } },
		{ "tls: {handshakes: 0}\n", { "tls.handshakes", "0", "16 to" } },
		{ "log: {level: loud}\n", { "log.level", "loud", "warn" } },
		{ "a: b: c\n", { "x.yaml:1", "not YAML", "" } },
		{ "- a\n", { "x.yaml:1", "mapping", "" } },
		{ "? [a]\n: b\n", { "x.yaml:1", "key", "single" } },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = refuse(cases[i].text);
		for (size_t k = 0; k < 3; k++)
			cr_assert_not_null(strstr(err.msg, cases[i].says[k]), "%s\nsays: %s\nnot: %s", cases[i].text, err.msg,
					   cases[i].says[k]);
	}
}

Test(config, rules_between_keys)
{
	static const struct {
		const char *text, *says;
	} cases[] = { { "listen: []\n", "listen" }, { "user: root\n", "user" }, { "data: /\n", "data" },
		      { "sessions: {ping_interval: 8m}\n", "ping_interval" },
		      { "proxies: [10.0.0.0/8, proxy.test]\n", "proxy.test" },
		      { "proxies: [10.0.0.1/8]\n", "10.0.0.1/8" },
		      { "tls: {certificate: /c.pem}\n", "tls.key" },
		      { "tls: {key: /k.pem}\n", "tls.certificate" },
		      { "listen: https://127.0.0.1:0\n", "tls.certificate" },
		      { "listen: https://0.0.0.0:0\n", "tls.certificate" },
		      { "tls: {certificate: /c.pem, key: /k.pem}\nlisten: http://0.0.0.0:80\n", "0.0.0.0:80" } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config *c = parse(cases[i].text);
		struct err err = ERR_INIT;
		cr_assert_eq(config_check(c, &err), -EINVAL, "%s", cases[i].text);
		cr_assert_not_null(strstr(err.msg, cases[i].says), "%s", err.msg);
		config_free(c);
	}
}

/* Without TLS nobody else may hear; the refusal says which address and what to do. */
Test(config, plain_addresses_are_this_machines_own)
{
	static const char *const own[] = { "127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "localhost:80", "[::ffff:127.0.0.1]:80" };
	static const char *const open[] = { "0.0.0.0:80", ":80", "[::]:80", "192.168.0.5:80", "[fe80::1]:80", "build.test:80",
					    "128.0.0.1:80", "127.0.0.1.test:80" };

	for (size_t i = 0; i < ARRAY_LEN(own); i++) {
		struct config *c = config_new();
		struct err err = ERR_INIT;
		cr_assert_eq(config_set(c, "listen", own[i], &err), 0, "%s", err.msg);
		cr_expect_eq(config_check(c, &err), 0, "%s: %s", own[i], err.msg);
		config_free(c);
	}
	for (size_t i = 0; i < ARRAY_LEN(open); i++) {
		struct config *c = config_new();
		struct err err = ERR_INIT;
		cr_assert_eq(config_set(c, "listen", open[i], &err), 0, "%s", err.msg);
		cr_expect_eq(config_check(c, &err), -EINVAL, "%s", open[i]);
		cr_expect(strstr(err.msg, open[i]) && strstr(err.msg, "insecure: true") && strstr(err.msg, "TLS"), "%s", err.msg);
		cr_assert_eq(config_set(c, "insecure", "true", &err), 0);
		cr_expect_eq(config_check(c, &err), 0, "%s: %s", open[i], err.msg);
		config_free(c);
	}
}

Test(config, with_a_certificate_addresses_have_tls)
{
	struct config *c = parse("listen: [\"0.0.0.0:443\", \"http://127.0.0.1:80\", \"https://[::]:444\"]\n"
				 "tls: {certificate: /c.pem, key: /k.pem}\n");
	struct err err = ERR_INIT;

	cr_assert_eq(config_check(c, &err), 0, "%s", err.msg);
	cr_expect(config_listen_is_tls(c, c->listen[0]));
	cr_expect_not(config_listen_is_tls(c, c->listen[1]));
	cr_expect(config_listen_is_tls(c, c->listen[2]));
	cr_expect_str_eq(config_listen_address(c->listen[0]), "0.0.0.0:443");
	cr_expect_str_eq(config_listen_address(c->listen[1]), "127.0.0.1:80");
	cr_expect_str_eq(config_listen_address(c->listen[2]), "[::]:444");
	config_free(c);
}

Test(config, one_open_address_among_others_is_found)
{
	struct config *c = parse("listen: [\"127.0.0.1:0\", \"0.0.0.0:9\"]\n");
	struct err err = ERR_INIT;

	cr_assert_eq(config_check(c, &err), -EINVAL);
	cr_expect(strstr(err.msg, "0.0.0.0:9"), "%s", err.msg);
	config_free(c);
}

Test(config, flags)
{
	struct config *c = config_new();
	struct err err = ERR_INIT;

	cr_assert_eq(config_set(c, "listen", "127.0.0.1:0", &err), 0);
	cr_assert_str_eq(c->listen[0], "127.0.0.1:0");
	cr_assert_null(c->listen[1]);
	cr_assert_eq(config_set(c, "data", "relative", &err), 0);
	cr_assert_eq(c->data[0], '/', "made absolute");
	cr_assert_eq(config_set(c, "nothing", "x", &err), -EINVAL);
	cr_assert_eq(config_set(c, "data", "/srv/x///", &err), 0);
	cr_assert_eq(config_check(c, &err), 0);
	cr_assert_str_eq(c->data, "/srv/x");
	config_free(c);
}

Test(config, units)
{
	static const struct {
		const char *text;
		int r;
		uint64_t v;
	} durations[] = { { "250ms", 0, 250 }, { "30s", 0, 30000 }, { "15m", 0, 900000 }, { "24h", 0, 86400000 }, { "0", 0, 0 },
			  { "", -EINVAL, 0 },  { "s", -EINVAL, 0 }, { "1.5s", -EINVAL, 0 }, { "1 s", -EINVAL, 0 },
			  { "18446744073709551615h", -ERANGE, 0 } },
	  sizes[] = { { "0", 0, 0 }, { "50000", 0, 50000 }, { "64KiB", 0, 65536 }, { "2GiB", 0, 2ull << 30 }, { "2G", -EINVAL, 0 },
		      { "-1", -EINVAL, 0 }, { "17179869184TiB", -ERANGE, 0 } };
	uint64_t v;

	for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
		v = 0;
		cr_assert_eq(str_to_duration(durations[i].text, &v), durations[i].r, "%s", durations[i].text);
		cr_assert_eq(durations[i].r ? 0 : v, durations[i].v, "%s", durations[i].text);
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		v = 0;
		cr_assert_eq(str_to_bytes(sizes[i].text, &v), sizes[i].r, "%s", sizes[i].text);
		cr_assert_eq(sizes[i].r ? 0 : v, sizes[i].v, "%s", sizes[i].text);
	}
}
