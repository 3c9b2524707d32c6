#include "sandbox/plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PATH_MAX_BYTES 1024
/* Far beyond any machine, and low enough that no sum or product of the spawner's can overflow. */
#define CPU_MILLI_MAX 1000000ull
#define MEMORY_MIN (1ull << 20)
#define MEMORY_MAX (1ull << 50)
#define PIDS_LIMIT (4ull << 20) /* the kernel's own PID_MAX_LIMIT */
#define TIME_MAX_MS (366ull * 24 * 3600 * 1000)
#define HOSTS_OWN "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t%s\n%s"
#define RESOLV "nameserver 198.18.0.53\noptions timeout:5 attempts:2\n" /* STEER_NAMESERVER of init/boot.h */

static bool is_uuid(const char *s)
{
	size_t i;

	for (i = 0; i < PLAN_ID_LEN - 1; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? s[i] != '-' : !s[i] || !strchr("0123456789abcdef", s[i]))
			return false;
	}
	return s[i] == 0;
}

static bool is_hostname(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return n > 0 && n <= 63 && s[n] == 0 && s[0] != '-' && s[n - 1] != '-';
}

/* Every component named, none "." or "..", no control byte. s starts at its first component. */
static bool is_clean_path(const char *s)
{
	size_t len = strlen(s);

	if (len == 0 || len > PATH_MAX_BYTES || s[len - 1] == '/')
		return false;
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	for (const char *p = s; p; p = strchr(p, '/')) {
		size_t n;

		p += *p == '/' && p != s;
		n = strcspn(p, "/");
		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
	}
	return true;
}

static bool is_absolute(const char *s)
{
	return s[0] == '/' && is_clean_path(s + 1);
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}

static int check_range(const char *field, uint64_t v, uint64_t min, uint64_t max, struct err *err)
{
	if (v == 0 || (v >= min && v <= max))
		return 0;
	return err_set(err, -EINVAL, "plan: %s is %" PRIu64 ", expected 0 or %" PRIu64 "..%" PRIu64, field, v, min, max);
}

static int check_layers(const struct plan *p, struct err *err)
{
	if (p->n_layers < 1 || p->n_layers > PLAN_LAYERS_MAX)
		return err_set(err, -EINVAL, "plan: %zu layers, expected 1..%d", p->n_layers, PLAN_LAYERS_MAX);
	for (size_t i = 0; i < p->n_layers; i++)
		if (!p->layers[i] || p->layers[i][0] == '/' || !is_clean_path(p->layers[i]))
			return err_set(err, -EINVAL, "plan: layer \"%s\", expected a relative path without . and ..",
				       p->layers[i] ? p->layers[i] : "");
	return 0;
}

/* The spawner puts its own things there, and masks parts of them: nothing may cover those. */
static const char *const own[] = { "/proc", "/sys", "/dev" };

static int check_mount(const struct plan_mount *m, struct err *err)
{
	if (!m->source || !is_absolute(m->source))
		return err_set(err, -EINVAL, "plan: mount source \"%s\", expected an absolute path without . and ..",
			       m->source ? m->source : "");
	if (!m->target || !is_absolute(m->target))
		return err_set(err, -EINVAL, "plan: mount target \"%s\", expected an absolute path without . and ..",
			       m->target ? m->target : "");
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		if (is_below(m->target, own[i]))
			return err_set(err, -EINVAL, "plan: mount target \"%s\" lies below %s", m->target, own[i]);
	if (m->flags & ~(uint64_t)PLAN_MOUNT_RO)
		return err_set(err, -EINVAL, "plan: mount flags %#" PRIx64 " of \"%s\" are not known", m->flags, m->target);
	return 0;
}

static int check_mounts(const struct plan *p, struct err *err)
{
	if (p->n_mounts > PLAN_MOUNTS_MAX)
		return err_set(err, -EINVAL, "plan: %zu mounts, expected at most %d", p->n_mounts, PLAN_MOUNTS_MAX);
	for (size_t i = 0; i < p->n_mounts; i++) {
		int r = check_mount(&p->mounts[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* init writes files of the platform's to /etc: below it, a mount covers nothing of those. */
int plan_check_target(const char *path, struct err *err)
{
	if (!path || !is_absolute(path))
		return err_set(err, -EINVAL, "\"%s\": expected an absolute path, not / itself, without . and ..", path ? path : "");
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		if (is_below(path, own[i]))
			return err_set(err, -EINVAL, "\"%s\": nothing can be mounted at or below %s", path, own[i]);
	if (strcmp(path, "/etc") == 0)
		return err_set(err, -EINVAL, "\"%s\": the platform writes files there; choose a folder below it", path);
	return 0;
}

static int check_bucket(const struct plan_bucket *b, struct err *err)
{
	int r;

	if (!b->id)
		return 0;
	if (!is_uuid(b->id))
		return err_set(err, -EINVAL, "plan: bucket \"%s\", expected a UUID in lower case", b->id);
	if (b->dir && *b->dir && (b->dir[0] == '/' || !is_clean_path(b->dir)))
		return err_set(err, -EINVAL, "plan: folder \"%s\" of the bucket, expected a relative path without . and ..",
			       b->dir);
	r = plan_check_target(b->target, err);
	if (r < 0)
		return err_wrap(err, r, "plan: target of the bucket");
	if (b->flags & ~(uint64_t)PLAN_MOUNT_RO)
		return err_set(err, -EINVAL, "plan: flags %#" PRIx64 " of the bucket are not known", b->flags);
	return 0;
}

static int check_names(const struct plan *p, struct err *err)
{
	if (!p->id || !is_uuid(p->id))
		return err_set(err, -EINVAL, "plan: id \"%s\", expected a UUID in lower case", p->id ? p->id : "");
	if (p->kind != PLAN_SANDBOX && p->kind != PLAN_INSTANCE)
		return err_set(err, -EINVAL, "plan: kind %d, expected 0 (sandbox) or 1 (instance)", (int)p->kind);
	if (p->net != PLAN_NET_OPEN && p->net != PLAN_NET_BLOCKED && p->net != PLAN_NET_BUILD)
		return err_set(err, -EINVAL, "plan: net %d, expected 0 (open), 1 (blocked) or 2 (build)", (int)p->net);
	if (!p->hostname || !is_hostname(p->hostname))
		return err_set(err, -EINVAL, "plan: hostname \"%s\", expected 1..63 of a-z, 0-9 and inner dashes",
			       p->hostname ? p->hostname : "");
	return 0;
}

static int check_hosts(const struct plan *p, struct err *err)
{
	size_t len = p->hosts ? strlen(p->hosts) : 0;

	if (len <= PLAN_HOSTS_MAX)
		return 0;
	return err_set(err, -EINVAL, "plan: %zu bytes of hosts, expected at most %d", len, PLAN_HOSTS_MAX);
}

static int check_beside(const struct plan *p, struct err *err)
{
	if (!p->beside)
		return 0;
	if (!is_uuid(p->beside) || strcmp(p->beside, p->id) == 0)
		return err_set(err, -EINVAL, "plan: beside \"%s\", expected the UUID of another sandbox in lower case", p->beside);
	return 0;
}

int plan_check(const struct plan *p, struct err *err)
{
	const struct {
		const char *field;
		uint64_t value, min, max;
	} ranges[] = {
		{ "cpu_milli", p->cpu_milli, 10, CPU_MILLI_MAX },
		{ "memory_bytes", p->memory_bytes, MEMORY_MIN, MEMORY_MAX },
		{ "pids_max", p->pids_max, 8, PIDS_LIMIT }, /* fewer than 8 and not even a shell runs beside init */
		{ "shm_bytes", p->shm_bytes, 4096, MEMORY_MAX },
		{ "disk_bytes", p->disk_bytes, 1u << 20, UINT64_MAX / 2 },
		{ "disk_files", p->disk_files, 64, UINT64_MAX / 2 },
		{ "lease_ms", p->lease_ms, 1, TIME_MAX_MS },
		{ "hard_ms", p->hard_ms, 1, TIME_MAX_MS },
	};
	int r = check_names(p, err);

	if (r == 0)
		r = check_layers(p, err);
	if (r == 0)
		r = check_mounts(p, err);
	if (r == 0)
		r = check_bucket(&p->bucket, err);
	if (r == 0)
		r = check_hosts(p, err);
	if (r == 0)
		r = check_beside(p, err);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(ranges); i++)
		r = check_range(ranges[i].field, ranges[i].value, ranges[i].min, ranges[i].max, err);
	return r;
}

void plan_encode(const struct plan *p, struct wire_out *o)
{
	wire_put_str(o, WIRE_T_ID, p->id);
	wire_put_u64(o, WIRE_T_KIND, p->kind);
	wire_put_u64(o, WIRE_T_NET, p->net);
	for (size_t i = 0; i < p->n_layers; i++)
		wire_put_str(o, WIRE_T_LAYER, p->layers[i]);
	for (size_t i = 0; i < p->n_mounts; i++) {
		wire_put_str(o, WIRE_T_MOUNT_SOURCE, p->mounts[i].source);
		wire_put_str(o, WIRE_T_MOUNT_TARGET, p->mounts[i].target);
		wire_put_u64(o, WIRE_T_MOUNT_FLAGS, p->mounts[i].flags);
	}
	if (p->bucket.id) {
		wire_put_str(o, WIRE_T_BUCKET, p->bucket.id);
		wire_put_str(o, WIRE_T_BUCKET_DIR, p->bucket.dir);
		wire_put_str(o, WIRE_T_BUCKET_TARGET, p->bucket.target);
		wire_put_str(o, WIRE_T_USER, p->bucket.user);
		wire_put_u64(o, WIRE_T_BUCKET_FLAGS, p->bucket.flags);
	}
	wire_put_str(o, WIRE_T_HOSTNAME, p->hostname);
	wire_put_u64(o, WIRE_T_CPU_MILLI, p->cpu_milli);
	wire_put_u64(o, WIRE_T_MEMORY_BYTES, p->memory_bytes);
	wire_put_u64(o, WIRE_T_PIDS_MAX, p->pids_max);
	wire_put_u64(o, WIRE_T_SHM_BYTES, p->shm_bytes);
	wire_put_u64(o, WIRE_T_DISK_BYTES, p->disk_bytes);
	wire_put_u64(o, WIRE_T_DISK_FILES, p->disk_files);
	wire_put_u64(o, WIRE_T_MEMORY_UPPER, p->memory_upper);
	wire_put_u64(o, WIRE_T_LEASE_MS, p->lease_ms);
	wire_put_u64(o, WIRE_T_HARD_MS, p->hard_ms);
	wire_put_u64(o, WIRE_T_NO_NEW_PRIVS, p->no_new_privs);
	wire_put_str(o, WIRE_T_HOSTS, p->hosts);
	wire_put_str(o, WIRE_T_DIR, p->workdir);
	wire_put_str(o, WIRE_T_BESIDE, p->beside);
}

void plan_hostname(char ret[PLAN_HOSTNAME_LEN], enum plan_kind kind, const char *id)
{
	size_t len = strlen(id);

	/* The end of an id is random, its beginning counts up. */
	snprintf(ret, PLAN_HOSTNAME_LEN, "%s-%.12s", kind == PLAN_INSTANCE ? "env" : "box", id + (len > 12 ? len - 12 : 0));
}

void plan_put_config(const char *hostname, const char *hosts, const char *workdir, struct wire_out *o)
{
	static char text[PLAN_HOSTS_MAX + 256];

	snprintf(text, sizeof(text), HOSTS_OWN, hostname, hosts ? hosts : "");
	wire_put_str(o, WIRE_T_HOSTNAME, hostname);
	wire_put_str(o, WIRE_T_HOSTS, text);
	wire_put_str(o, WIRE_T_RESOLV, RESOLV);
	wire_put_str(o, WIRE_T_DIR, workdir);
}

static int decode_layers(struct plan *p, const struct wire_in *in, struct err *err)
{
	p->n_layers = wire_count(in, WIRE_T_LAYER);
	if (p->n_layers > PLAN_LAYERS_MAX)
		return err_set(err, -EINVAL, "plan: %zu layers, expected 1..%d", p->n_layers, PLAN_LAYERS_MAX);
	for (size_t i = 0; i < p->n_layers; i++)
		p->layers[i] = wire_get_str(in, WIRE_T_LAYER, i);
	return 0;
}

static int decode_mounts(struct plan *p, const struct wire_in *in, struct err *err)
{
	p->n_mounts = wire_count(in, WIRE_T_MOUNT_SOURCE);
	if (p->n_mounts > PLAN_MOUNTS_MAX)
		return err_set(err, -EINVAL, "plan: %zu mounts, expected at most %d", p->n_mounts, PLAN_MOUNTS_MAX);
	if (wire_count(in, WIRE_T_MOUNT_TARGET) != p->n_mounts || wire_count(in, WIRE_T_MOUNT_FLAGS) != p->n_mounts)
		return err_set(err, -EINVAL, "plan: a mount lacks its source, target or flags");
	for (size_t i = 0; i < p->n_mounts; i++) {
		size_t len;
		const void *flags = wire_get(in, WIRE_T_MOUNT_FLAGS, i, &len);

		if (len != sizeof(p->mounts[i].flags))
			return err_set(err, -EINVAL, "plan: flags of mount %zu have %zu bytes, expected 8", i, len);
		memcpy(&p->mounts[i].flags, flags, len);
		p->mounts[i].source = wire_get_str(in, WIRE_T_MOUNT_SOURCE, i);
		p->mounts[i].target = wire_get_str(in, WIRE_T_MOUNT_TARGET, i);
	}
	return 0;
}

/* Enumerations travel as u64; what does not fit an int must not become a valid value by truncation. */
static int get_small(const struct wire_in *in, enum wire_tag tag)
{
	return (int)MIN(wire_get_u64(in, tag, 0), 0xffffull);
}

int plan_decode(struct plan *ret, const struct wire_in *in, struct err *err)
{
	struct plan p = {
		.id = wire_get_str(in, WIRE_T_ID, 0),
		.kind = (enum plan_kind)get_small(in, WIRE_T_KIND),
		.net = (enum plan_net)get_small(in, WIRE_T_NET),
		.hostname = wire_get_str(in, WIRE_T_HOSTNAME, 0),
		.bucket = {
			.id = wire_get_str(in, WIRE_T_BUCKET, 0), .dir = wire_get_str(in, WIRE_T_BUCKET_DIR, 0),
			.target = wire_get_str(in, WIRE_T_BUCKET_TARGET, 0), .user = wire_get_str(in, WIRE_T_USER, 0),
			.flags = wire_get_u64(in, WIRE_T_BUCKET_FLAGS, 0),
		},
		.cpu_milli = wire_get_u64(in, WIRE_T_CPU_MILLI, 0),
		.memory_bytes = wire_get_u64(in, WIRE_T_MEMORY_BYTES, 0),
		.pids_max = wire_get_u64(in, WIRE_T_PIDS_MAX, 0),
		.shm_bytes = wire_get_u64(in, WIRE_T_SHM_BYTES, 0),
		.disk_bytes = wire_get_u64(in, WIRE_T_DISK_BYTES, 0),
		.disk_files = wire_get_u64(in, WIRE_T_DISK_FILES, 0),
		.memory_upper = wire_get_u64(in, WIRE_T_MEMORY_UPPER, 0) != 0,
		.lease_ms = wire_get_u64(in, WIRE_T_LEASE_MS, 0),
		.hard_ms = wire_get_u64(in, WIRE_T_HARD_MS, 0),
		.no_new_privs = wire_get_u64(in, WIRE_T_NO_NEW_PRIVS, 0) != 0,
		.hosts = wire_get_str(in, WIRE_T_HOSTS, 0),
		.workdir = wire_get_str(in, WIRE_T_DIR, 0),
		.beside = wire_get_str(in, WIRE_T_BESIDE, 0),
	};
	int r = decode_layers(&p, in, err);

	/* One of these that cannot be read must not look like one that is not there. */
	if (wire_count(in, WIRE_T_BUCKET) && !p.bucket.id)
		return err_set(err, -EINVAL, "plan: the bucket's id is no text");
	if (wire_count(in, WIRE_T_BESIDE) && !p.beside)
		return err_set(err, -EINVAL, "plan: the sandbox it is beside is no text");
	if (r == 0)
		r = decode_mounts(&p, in, err);
	if (r == 0)
		r = plan_check(&p, err);
	if (r == 0)
		*ret = p;
	return r;
}
