#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "api/sandbox/spec.h"
#include "base/mem.h"
#include "base/str.h"

static const struct machine machine = { .cpu_milli = 8000, .memory_bytes = 16ull << 30 };
static const struct spec_defaults defaults = {
	.size = { .cpu_milli = 1000, .memory_bytes = 1ull << 30 }, .sidecar_size = { .cpu_milli = 250, .memory_bytes = 1ull << 28 },
	.sidecars_max = 3,
};

static struct err err;

static int size(const char *text, struct engine_size *ret)
{
	return spec_machine_size(text, &machine, ret, &err);
}

static bool is_platform(void *arg, const char *value)
{
	return str_eq(value, arg);
}

static int read_text(const char *text, const char *secrets, struct sandbox_spec *ret)
{
	auto_json body = NULL;

	cr_assert_eq(json_read_object(&body, text, strlen(text), &err), 0, "%s", err.msg);
	return spec_read(ret, body, secrets, &machine, &defaults, is_platform, (void *)(uintptr_t)"orw_key", &err);
}

/* The body is refused, and the message begins with the field. */
static void refused(const char *text, const char *field)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text(text, NULL, &s), -EINVAL, "%s", text);
	cr_assert(str_starts(err.msg, field), "%s: %s", text, err.msg);
	cr_assert_null(s.image);
}

Test(spec, sizes)
{
	struct engine_size s = { 0 };

	cr_assert_eq(size("0.5:0.5", &s), 0);
	cr_assert_eq(s.cpu_milli, 500);
	cr_assert_eq(s.memory_bytes, 512ull << 20);
	cr_assert_eq(size("8:16", &s), 0);
	cr_assert_eq(s.cpu_milli, 8000);
	cr_assert_eq(s.memory_bytes, 16ull << 30);
	cr_assert_eq(size("1.25:3", &s), 0);
	cr_assert_eq(s.cpu_milli, 1250);
}

Test(spec, sizes_that_are_none)
{
	static const char *const bad[] = {
		"", ":", "1", "1:", ":1", "a:b", "1:1:1", "-1:1", "1:-1", "0:1", "1:0", " 1:1", "1:1 ", "1e1:1", "0x1:1", "nan:1",
		"inf:1", "16:16", "8:17", "nvidia-l4", "99999999999999999999:1",
	};
	struct engine_size s = { .cpu_milli = 7 };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		cr_assert_eq(size(bad[i], &s), -EINVAL, "\"%s\"", bad[i]);
		cr_assert(str_starts(err.msg, "machine_size: \""), "%s", err.msg);
	}
	cr_assert_eq(s.cpu_milli, 7);
	cr_assert_eq(size("16:1", &s), -EINVAL);
	cr_assert_str_eq(err.msg, "machine_size: \"16:1\": this machine has 8 CPUs");
	cr_assert_eq(size("nvidia-l4", &s), -EINVAL);
	cr_assert(strstr(err.msg, "GPU"));
}

Test(spec, what_the_sdk_sends)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text("{\"environment\": \"someone/else\", \"image\": \"python:3.11-slim\", \"machine_size\": \"1:2\","
			       "\"env\": {\"A\": \"b c\", \"E\": \"\"}, \"block_network\": true, \"bucket_config\": null,"
			       "\"sidecars\": null, \"host_aliases\": [{\"ip\": \"127.0.0.1\", \"hostnames\": [\"a\", \"b.c\"]}],"
			       "\"network\": null, \"colour\": 7}", NULL, &s), 0, "%s", err.msg);
	cr_assert_str_eq(s.image, "python:3.11-slim");
	cr_assert_eq(s.size.memory_bytes, 2ull << 30);
	cr_assert(s.block_network);
	cr_assert_eq(s.n_env, 2);
	cr_assert_str_eq(s.env[0], "A=b c");
	cr_assert_str_eq(s.env[1], "E=");
	cr_assert_null(s.env[2]);
	cr_assert_str_eq(s.hosts, "127.0.0.1 a b.c\n");
	spec_done(&s);
}

Test(spec, an_image_is_enough)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text("{\"image\": \"x\"}", NULL, &s), 0);
	cr_assert_eq(s.size.cpu_milli, 1000);
	cr_assert_eq(s.n_env, 0);
	cr_assert_not_null(s.env);
	cr_assert_null(s.hosts);
	cr_assert_not(s.block_network);
	spec_done(&s);
}

Test(spec, errors_name_the_field)
{
	refused("{}", "image: ");
	refused("{\"image\": \"\"}", "image: ");
	refused("{\"image\": 3}", "image: ");
	refused("{\"image\": \"x\", \"machine_size\": 2}", "machine_size: ");
	refused("{\"image\": \"x\", \"env\": []}", "env: ");
	refused("{\"image\": \"x\", \"env\": {\"A\": 1}}", "env.A: ");
	refused("{\"image\": \"x\", \"env\": {\"A=B\": \"1\"}}", "env: ");
	refused("{\"image\": \"x\", \"env\": {\"\": \"1\"}}", "env: ");
	refused("{\"image\": \"x\", \"block_network\": \"yes\"}", "block_network: ");
	refused("{\"image\": \"x\", \"environment\": 1}", "environment: ");
}

Test(spec, what_is_not_supported_is_never_ignored)
{
	struct sandbox_spec s;

	refused("{\"image\": \"x\", \"network\": {}}", "network: ");
	cr_assert_eq(read_text("{\"image\": \"x\", \"network\": null}", NULL, &s), 0);
	spec_done(&s);
}

/* -- sidecars ---------------------------------------------------------------------------------------------------------------- */

#define WITH(list) "{\"image\": \"x\", \"sidecars\": [" list "]}"

Test(spec, a_sidecar)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text(WITH("{\"name\": \"db\", \"image\": \"redis:7\", \"command\": [\"a\", \"b\"], \"args\": [\"\"],"
				    "\"env\": {\"K\": \"v\"}, \"ports\": [6379, 1], \"machine_size\": \"0.5:1\"},"
				    "{\"name\": \"0-9\", \"image\": \"y\", \"command\": null, \"env\": null}"), NULL, &s), 0, "%s", err.msg);
	cr_assert_eq(s.n_sidecars, 2);
	cr_assert_str_eq(s.sidecars[0].name, "db");
	cr_assert_str_eq(s.sidecars[0].image, "redis:7");
	cr_assert_str_eq(s.sidecars[0].command[1], "b");
	cr_assert_null(s.sidecars[0].command[2]);
	cr_assert_str_eq(s.sidecars[0].args[0], "");
	cr_assert_str_eq(s.sidecars[0].env[0], "K=v");
	cr_assert_eq(s.sidecars[0].size.cpu_milli, 500);
	cr_assert_eq(s.sidecars[0].n_ports, 2);
	cr_assert_eq(s.sidecars[0].ports[0], 6379);
	cr_assert_null(s.sidecars[1].command);
	cr_assert_null(s.sidecars[1].args);
	cr_assert_eq(s.sidecars[1].size.cpu_milli, 250);
	cr_assert_not_null(s.sidecars[1].env);
	cr_assert_not_null(s.sidecars_json);
	spec_done(&s);
	cr_assert_eq(read_text("{\"image\": \"x\", \"sidecars\": []}", NULL, &s), 0);
	cr_assert_null(s.sidecars_json);
	spec_done(&s);
}

Test(spec, errors_name_the_sidecar_and_the_field)
{
	refused("{\"image\": \"x\", \"sidecars\": {}}", "sidecars: ");
	refused(WITH("7"), "sidecars[0]: ");
	refused(WITH("{\"name\": \"a\"}"), "sidecars[0]: image: ");
	refused(WITH("{\"image\": \"a\"}"), "sidecars[0]: name: ");
	refused(WITH("{\"name\": \"a\", \"image\": \"\"}"), "sidecars[0]: image: ");
	refused(WITH("{\"name\": \"main\", \"image\": \"a\"}"), "sidecars[0]: name: \"main\"");
	refused(WITH("{\"name\": \"A\", \"image\": \"a\"}"), "sidecars[0]: name: \"A\"");
	refused(WITH("{\"name\": \"-a\", \"image\": \"a\"}"), "sidecars[0]: name: ");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\"}, {\"name\": \"a\", \"image\": \"a\"}"), "sidecars[1]: name: \"a\"");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\", \"command\": \"sh\"}"), "sidecars[0]: command: ");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\", \"args\": [1]}"), "sidecars[0]: args: item 0");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\", \"env\": {\"A\": 1}}"), "sidecars[0]: env.A: ");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\", \"ports\": [0]}"), "sidecars[0]: ports: ");
	refused(WITH("{\"name\": \"a\", \"image\": \"a\", \"machine_size\": \"99:1\"}"), "sidecars[0]: machine_size: ");
	refused(WITH("{}, {}, {}, {}"), "sidecars: 4, expected at most 3");
}

Test(spec, sidecars_fit_a_note)
{
	char *text = xasprintf(WITH("{\"name\": \"a\", \"image\": \"a\", \"args\": [\"%0*d\"]}"), (int)SPEC_SIDECARS_BYTES, 0);

	refused(text, "sidecars: ");
	free(text);
}

Test(spec, aliases_cannot_write_other_lines)
{
	refused("{\"image\": \"x\", \"host_aliases\": [{\"ip\": \"1.2.3.4\\n6.6.6.6 evil\", \"hostnames\": [\"a\"]}]}", "host_aliases: ");
	refused("{\"image\": \"x\", \"host_aliases\": [{\"ip\": \"1.2.3.4\", \"hostnames\": [\"a\\n6.6.6.6 evil\"]}]}", "host_aliases: ");
	refused("{\"image\": \"x\", \"host_aliases\": [{\"ip\": \"1.2.3.4\", \"hostnames\": [\"a b\"]}]}", "host_aliases: ");
	refused("{\"image\": \"x\", \"host_aliases\": [{\"ip\": \"1.2.3.4\", \"hostnames\": []}]}", "host_aliases: ");
	refused("{\"image\": \"x\", \"host_aliases\": [7]}", "host_aliases: ");
}

/* {"api_key": {"value": "orw_key"}, "TOKEN": {"value": "t"}, "A": {"value": "secret"}} */
#define SECRETS \
	"eyJhcGlfa2V5IjogeyJ2YWx1ZSI6ICJvcndfa2V5In0sICJUT0tFTiI6IHsidmFsdWUiOiAidCJ9LCAiQSI6IHsidmFsdWUiOiAic2VjcmV0In19"

Test(spec, secrets_become_variables_but_the_platform_key)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text("{\"image\": \"x\", \"env\": {\"A\": \"mine\"}}", SECRETS, &s), 0, "%s", err.msg);
	for (size_t i = 0; i < s.n_env; i++)
		cr_assert_null(strstr(s.env[i], "orw_key"));
	cr_assert_str_eq(s.env[0], "TOKEN=t");
	/* Of two with one name the engine takes the later one: the request's own. */
	cr_assert_str_eq(s.env[s.n_env - 1], "A=mine");
	spec_done(&s);
}

Test(spec, secrets_that_are_none)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text("{\"image\": \"x\"}", "%%%", &s), -EINVAL);
	cr_assert(str_starts(err.msg, "X-Secrets"), "%s", err.msg);
	cr_assert_eq(read_text("{\"image\": \"x\"}", "WzFd", &s), -EINVAL); /* [1] */
	cr_assert_eq(read_text("{\"image\": \"x\"}", "eyJBIjogMX0=", &s), -EINVAL); /* {"A": 1} */
}

Test(spec, a_bucket)
{
	struct sandbox_spec s;

	cr_assert_eq(read_text("{\"image\": \"x\", \"environment\": \"a/b\", \"bucket_config\": {\"mount_path\": \"/tmp/sandbox/\","
			       "\"read_only\": false, \"only_dir\": \"tasks/1/\", \"new\": 1}}", NULL, &s), 0, "%s", err.msg);
	cr_assert_str_eq(s.environment, "a/b");
	cr_assert_str_eq(s.bucket.target, "/tmp/sandbox");
	cr_assert_str_eq(s.bucket.dir, "tasks/1");
	cr_assert(s.bucket.make_dir);
	spec_done(&s);
	cr_assert_eq(read_text("{\"image\": \"x\", \"bucket_config\": {\"mount_path\": \"/b\", \"only_dir\": null,"
			       "\"implicit_dirs\": false}}", NULL, &s), 0, "%s", err.msg);
	cr_assert_str_eq(s.bucket.dir, "");
	cr_assert_not(s.bucket.make_dir);
	spec_done(&s);
}

Test(spec, buckets_that_are_none)
{
	static const char *const paths[] = { "", "/", "b", "/a/../b", "/proc", "/proc/x", "/sys/", "/dev/shm", "/etc/", "//", "/a\\nb" };
	static const char *const dirs[] = { "..", "a/../b", "/a", "a//b", "./a", "a\\nb" };
	char text[160];

	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		snprintf(text, sizeof(text), "{\"image\": \"x\", \"bucket_config\": {\"mount_path\": \"%s\"}}", paths[i]);
		refused(text, "bucket_config.mount_path: ");
	}
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		snprintf(text, sizeof(text), "{\"image\": \"x\", \"bucket_config\": {\"mount_path\": \"/b\", \"only_dir\": \"%s\"}}", dirs[i]);
		refused(text, "bucket_config.only_dir: ");
	}
	refused("{\"image\": \"x\", \"bucket_config\": {}}", "bucket_config: mount_path: ");
	refused("{\"image\": \"x\", \"bucket_config\": []}", "bucket_config: ");
	refused("{\"image\": \"x\", \"bucket_config\": {\"mount_path\": \"/b\", \"read_only\": 1}}", "bucket_config: read_only: ");
}
