#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "sandbox/plan.h"

static _Alignas(8) char buf[WIRE_MAX];

static struct plan good(void)
{
	return (struct plan){
		.id = "0f0e0d0c-0b0a-8908-8706-050403020100",
		.layers = { "env/a/b/layer-1", "bases/python" },
		.n_layers = 2,
		.mounts = { { "/etc/ssl/certs", "/opt/certs", PLAN_MOUNT_RO } },
		.n_mounts = 1,
		.hostname = "box-1",
		.cpu_milli = 500,
		.memory_bytes = 1ull << 30,
		.pids_max = 4096,
		.lease_ms = 120000,
		.hard_ms = 86400000,
	};
}

static void refused(const struct plan *p, const char *word)
{
	struct err err = ERR_INIT;

	cr_assert_eq(plan_check(p, &err), -EINVAL, "expected a refusal that names %s", word);
	cr_assert_not_null(strstr(err.msg, word), "\"%s\" does not name %s", err.msg, word);
}

Test(plan, a_good_one_passes)
{
	struct plan p = good();
	struct err err = ERR_INIT;

	cr_assert_eq(plan_check(&p, &err), 0, "%s", err.msg);
	p.cpu_milli = p.memory_bytes = p.pids_max = p.lease_ms = p.hard_ms = 0;
	cr_assert_eq(plan_check(&p, &err), 0, "zeros are no limits: %s", err.msg);
}

Test(plan, survives_the_wire)
{
	struct plan p = good(), q;
	struct err err = ERR_INIT;
	struct wire_out o;
	struct wire_in in;
	size_t len = 0;

	p.kind = PLAN_INSTANCE;
	p.net = PLAN_NET_BUILD;
	p.no_new_privs = true;
	p.shm_bytes = 8192;
	p.disk_bytes = 1u << 30;
	p.memory_upper = true;
	p.hosts = "10.0.0.9 alias\n";
	p.workdir = "/work";
	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 1);
	plan_encode(&p, &o);
	cr_assert_eq(wire_end(&o, &len), 0);
	cr_assert_eq(wire_parse(&in, buf, len), 0);
	cr_assert_eq(plan_decode(&q, &in, &err), 0, "%s", err.msg);
	cr_assert_str_eq(q.id, p.id);
	cr_assert_eq(q.kind, PLAN_INSTANCE);
	cr_assert_eq(q.net, PLAN_NET_BUILD);
	cr_assert_eq(q.n_layers, 2);
	cr_assert_str_eq(q.layers[0], p.layers[0]);
	cr_assert_str_eq(q.layers[1], p.layers[1]);
	cr_assert_eq(q.n_mounts, 1);
	cr_assert_str_eq(q.mounts[0].source, p.mounts[0].source);
	cr_assert_str_eq(q.mounts[0].target, p.mounts[0].target);
	cr_assert_eq(q.mounts[0].flags, PLAN_MOUNT_RO);
	cr_assert_str_eq(q.hostname, p.hostname);
	cr_assert_eq(q.cpu_milli, p.cpu_milli);
	cr_assert_eq(q.memory_bytes, p.memory_bytes);
	cr_assert_eq(q.pids_max, p.pids_max);
	cr_assert_eq(q.shm_bytes, p.shm_bytes);
	cr_assert_eq(q.disk_bytes, p.disk_bytes);
	cr_assert(q.memory_upper);
	cr_assert_str_eq(q.hosts, p.hosts);
	cr_assert_str_eq(q.workdir, p.workdir);
	cr_assert_eq(q.lease_ms, p.lease_ms);
	cr_assert_eq(q.hard_ms, p.hard_ms);
	cr_assert(q.no_new_privs);
}

Test(plan, the_largest_fits_a_message)
{
	static char path[1025];
	struct plan p = good();
	struct wire_out o;
	size_t len;

	memset(path, 'a', 900);
	for (p.n_layers = 0; p.n_layers < PLAN_LAYERS_MAX; p.n_layers++)
		p.layers[p.n_layers] = path;
	cr_assert_eq(plan_check(&p, NULL), 0);
	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 1);
	plan_encode(&p, &o);
	cr_assert_eq(wire_end(&o, &len), 0);
}

Test(plan, ids_are_uuids)
{
	static const char *const bad[] = { "", "x", "0F0e0d0c-0b0a-8908-8706-050403020100", "../../../../../../../../../../../../etc",
					   "0f0e0d0c-0b0a-8908-8706-0504030201000", "0f0e0d0c-0b0a-8908-8706-05040302010",
					   "0f0e0d0c/0b0a-8908-8706-050403020100" };
	struct plan p = good();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		p.id = bad[i];
		refused(&p, "id");
	}
	p.id = NULL;
	refused(&p, "id");
}

Test(plan, layers_are_clean_relative_paths)
{
	static const char *const bad[] = { "", "/", "/etc", "..", "a/..", "../a", "a/../b", "./a", "a/.", "a//b", "a/", "a\nb",
					   "a\177" };
	struct plan p = good();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		p.layers[1] = bad[i];
		refused(&p, "layer");
	}
	p.layers[1] = NULL;
	refused(&p, "layer");
	p.n_layers = 0;
	refused(&p, "layers");
	p.n_layers = PLAN_LAYERS_MAX + 1;
	refused(&p, "layers");
}

Test(plan, dots_inside_names_are_fine)
{
	struct plan p = good();

	p.layers[0] = "a..b/...c/.d/e.";
	cr_assert_eq(plan_check(&p, NULL), 0);
}

Test(plan, mounts_cover_nothing_of_the_spawners)
{
	static const char *const bad[] = { "/proc", "/proc/sys", "/sys", "/sys/x", "/dev", "/dev/null", "/", "rel", "/a/../proc",
					   "/a/", "//proc", "/./proc" };
	struct plan p = good();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		p.mounts[0].target = bad[i];
		refused(&p, "target");
	}
	p.mounts[0].target = "/process"; /* begins alike, is another */
	cr_assert_eq(plan_check(&p, NULL), 0);
	p.mounts[0].source = "etc";
	refused(&p, "source");
	p.mounts[0].source = "/etc";
	p.mounts[0].flags = 2;
	refused(&p, "flags");
}

Test(plan, hostnames)
{
	static const char *const bad[] = { "", "-a", "a-", "A", "a.b", "a_b", "a b",
					   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
	struct plan p = good();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		p.hostname = bad[i];
		refused(&p, "hostname");
	}
}

Test(plan, numbers_have_ranges)
{
	struct plan p = good();

	p.cpu_milli = 9;
	refused(&p, "cpu_milli");
	p = good();
	p.memory_bytes = UINT64_MAX;
	refused(&p, "memory_bytes");
	p = good();
	p.pids_max = 1;
	refused(&p, "pids_max");
	p = good();
	p.lease_ms = UINT64_MAX;
	refused(&p, "lease_ms");
	p = good();
	p.net = (enum plan_net)3;
	refused(&p, "net");
	p = good();
	p.kind = (enum plan_kind)2;
	refused(&p, "kind");
}

static int decode_with(enum wire_tag tag, const void *v, size_t len, struct err *err)
{
	struct plan p = good(), q;
	struct wire_out o;
	struct wire_in in;
	size_t n = 0;

	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 1);
	wire_put(&o, tag, v, len); /* before the plan's own: the first counts */
	plan_encode(&p, &o);
	cr_assert_eq(wire_end(&o, &n), 0);
	cr_assert_eq(wire_parse(&in, buf, n), 0);
	return plan_decode(&q, &in, err);
}

Test(plan, large_enumerations_do_not_wrap)
{
	const uint64_t wraps = 1ull << 32;
	struct err err = ERR_INIT;

	cr_assert_eq(decode_with(WIRE_T_NET, &wraps, sizeof(wraps), &err), -EINVAL);
	cr_assert_eq(decode_with(WIRE_T_KIND, &wraps, sizeof(wraps), &err), -EINVAL);
}

Test(plan, incomplete_mounts_are_refused)
{
	struct err err = ERR_INIT;

	cr_assert_eq(decode_with(WIRE_T_MOUNT_SOURCE, "/a", 3, &err), -EINVAL);
	cr_assert_not_null(strstr(err.msg, "mount"));
	cr_assert_eq(decode_with(WIRE_T_MOUNT_FLAGS, "x", 1, &err), -EINVAL);
	cr_assert_eq(decode_with(WIRE_T_ID, "no nul", 6, &err), -EINVAL);
}

static const char env_id[] = "11111111-2222-4333-8444-555555555555";

Test(plan, a_bucket_survives_the_wire)
{
	struct plan p = good(), q;
	struct err err = ERR_INIT;
	struct wire_out o;
	struct wire_in in;
	size_t len = 0;

	p.bucket = (struct plan_bucket){ env_id, "tasks/1", "/tmp/x", "app:staff", PLAN_MOUNT_RO };
	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 1);
	plan_encode(&p, &o);
	cr_assert_eq(wire_end(&o, &len), 0);
	cr_assert_eq(wire_parse(&in, buf, len), 0);
	cr_assert_eq(plan_decode(&q, &in, &err), 0, "%s", err.msg);
	cr_assert_str_eq(q.bucket.id, env_id);
	cr_assert_str_eq(q.bucket.dir, "tasks/1");
	cr_assert_str_eq(q.bucket.target, "/tmp/x");
	cr_assert_str_eq(q.bucket.user, "app:staff");
	cr_assert_eq(q.bucket.flags, PLAN_MOUNT_RO);
}

Test(plan, refuses_bad_buckets)
{
	static const char *const targets[] = {
		NULL, "", "/", "data", "/data/", "/a/../b", "/a//b", "/proc", "/proc/x", "/sys", "/dev", "/dev/shm/x", "/etc",
	};
	static const char *const dirs[] = { "/abs", "..", "a/..", "../a", "a//b", "a/", "./a", "a\nb" };
	struct plan p = good();

	p.bucket = (struct plan_bucket){ .id = "../../etc", .target = "/data" };
	refused(&p, "bucket \"../../etc\"");
	for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
		p.bucket = (struct plan_bucket){ .id = env_id, .target = targets[i] };
		refused(&p, "target of the bucket");
	}
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		p.bucket = (struct plan_bucket){ .id = env_id, .target = "/data", .dir = dirs[i] };
		refused(&p, "folder");
	}
	p.bucket = (struct plan_bucket){ .id = env_id, .target = "/data", .flags = 2 };
	refused(&p, "flags");
}

Test(plan, takes_good_targets)
{
	static const char *const good_ones[] = { "/orwd_data", "/tmp/x", "/etc/data", "/devices", "/home/ubuntu/a b" };
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_LEN(good_ones); i++)
		cr_assert_eq(plan_check_target(good_ones[i], &err), 0, "%s: %s", good_ones[i], err.msg);
}
