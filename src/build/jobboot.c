/* Root job bootstrap: a base image from Debian packages, for machines that reach no container registry.
 *
 * mmdebstrap makes the tree from the host's own apt sources; its tar becomes the one layer of an OCI layout that is
 * written here; skopeo copies that into the store of bases. The same packages give the same image, bit for bit: times
 * are clamped to SOURCE_DATE_EPOCH, and logs, caches and what mmdebstrap copied from the host are dropped. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"
#include "build/job.h"
#include "image/cstore.h"
#include "image/record.h"
#include "json/json.h"

#define EPOCH "1735689600" /* 2025-01-01: newer files get this time, and so does the image */
#define EPOCH_TEXT "2025-01-01T00:00:00Z"
#define PATH_ENV "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

struct recipe {
	char suite[16];
	bool python, slim;
};

/* -- what can be made --------------------------------------------------------------------------------------------- */
static const struct release {
	const char *suite, *number, *python;
} releases[] = { { "bookworm", "12", "3.11" }, { "trixie", "13", "3.13" } };

/* "3.11-slim-bookworm" begins with version "3.11": the version, then the end, ".N" or "-". */
static bool is_version(const char *tag, const char *version)
{
	size_t n = strlen(version);

	return !strncmp(tag, version, n) && (!tag[n] || tag[n] == '-' || (tag[n] == '.' && tag[n + 1]));
}

static int find_recipe(const char *name, struct recipe *ret, struct err *err)
{
	const char *slash = strrchr(name, '/'), *tag = strrchr(name, ':');
	bool python = str_starts(slash, "/python:"), debian = str_starts(slash, "/debian:");

	for (size_t i = 0; tag && (python || debian) && i < ARRAY_LEN(releases); i++) {
		const struct release *r = &releases[i];
		bool other_suite = strstr(tag, "-alpine") || (python && strstr(tag, i ? "-bookworm" : "-trixie"));
		if (other_suite || (python ? !is_version(tag + 1, r->python)
					   : !is_version(tag + 1, r->suite) && !is_version(tag + 1, r->number)))
			continue;
		*ret = (struct recipe){ .python = python, .slim = debian || strstr(tag, "-slim") };
		memcpy(ret->suite, r->suite, strlen(r->suite) + 1);
		return 0;
	}
	return err_set(err, -EINVAL,
		       "bootstrap: \"%s\" cannot be made from Debian packages: expected python:3.11-slim, python:3.11, "
		       "python:3.13-slim, python:3.13, debian:bookworm-slim or debian:trixie-slim; import it, or map "
		       "its name to one of "
		       "these with images.aliases",
		       name);
}

static const char *packages_of(const struct recipe *r)
{
	if (!r->python)
		return "ca-certificates,netbase,tzdata";
	if (r->slim)
		return "ca-certificates,netbase,tzdata,python3,python3-pip,python3-venv";
	return "ca-certificates,netbase,tzdata,python3,python3-pip,python3-venv,python3-dev,build-essential,git,curl,"
	       "wget,"
	       "pkg-config,libffi-dev,libssl-dev,zlib1g-dev,unzip,xz-utils,procps";
}

/* -- apt sources -------------------------------------------------------------------------------------------------- */
struct source {
	const char *suite;
	bool suite_seen, debian_seen;
	char *mirror; /* the first URL that ends in /debian */
};

static void source_line(void *arg, char *line)
{
	struct source *s = arg;
	char *text = host_trim(line), *url = strstr(text, "://");

	if (*text == '#')
		return;
	s->suite_seen |= strstr(text, s->suite) != NULL;
	if (!url)
		return;
	while (url > text && url[-1] != ' ' && url[-1] != '\t')
		url--;
	auto_free char *one = xstrndup(url, strcspn(url, " \t"));
	size_t n = strlen(one);
	if (n && one[n - 1] == '/')
		one[n - 1] = 0;
	if (!str_ends(one, "/debian") && !str_ends(one, "/debian-security"))
		return;
	s->debian_seen = true;
	if (!s->mirror && str_ends(one, "/debian"))
		s->mirror = STEAL(one);
}

/* Adds path when it is a Debian source of this suite; mirror is kept from any Debian source. */
static void try_source(struct strv *v, struct source *s, const char *path)
{
	s->suite_seen = s->debian_seen = false;
	host_each_line(path, source_line, s);
	if (s->suite_seen && s->debian_seen)
		strv_add(v, xstrdup(path));
}

static void add_sources(struct strv *v, const char *suite)
{
	struct source s = { .suite = suite };
	DIR *d = opendir("/etc/apt/sources.list.d");
	size_t before = v->n;

	try_source(v, &s, "/etc/apt/sources.list");
	for (struct dirent *e; d && (e = readdir(d));) {
		auto_free char *path = xasprintf("/etc/apt/sources.list.d/%s", e->d_name);
		if (str_ends(path, ".list") || str_ends(path, ".sources"))
			try_source(v, &s, path);
	}
	if (d)
		closedir(d);
	if (v->n == before)
		strv_add(v, xasprintf("deb %s %s main", s.mirror ? s.mirror : "http://deb.debian.org/debian", suite));
	free(s.mirror);
}

/* -- mmdebstrap --------------------------------------------------------------------------------------------------- */
/* $1 is the tree. What mmdebstrap copies from the host, what a container gets anew, and what makes two runs differ. */
static const char hook[] =
	"set -e; cd \"$1\"; for f in resolv.conf hosts hostname; do rm -f etc/$f; : > etc/$f; done; rm -f "
	"etc/apt/apt.conf.d/99mmdebstrap "
	"etc/dpkg/dpkg.cfg.d/99mmdebstrap usr/lib/python3*/EXTERNALLY-MANAGED; "
	"rm -rf var/lib/apt/lists/* var/cache/apt/*.bin var/cache/ldconfig var/cache/debconf/*-old var/lib/dpkg/*-old; "
	"find var/log -type f -delete; "
	"if [ -f etc/apt/sources.list.d/0000debian.sources ]; then "
	"mv etc/apt/sources.list.d/0000debian.sources etc/apt/sources.list.d/debian.sources; fi; "
	"if [ -e usr/bin/python3 ]; then ln -sf /usr/bin/python3 usr/local/bin/python3; ln -sf python3 "
	"usr/local/bin/python; "
	"ln -sf /usr/bin/pip3 usr/local/bin/pip3; ln -sf pip3 usr/local/bin/pip; fi";

static void add_apt_option(void *arg, char *line)
{
	strv_add(arg, xasprintf("--aptopt=%s", line));
}

/* The host's proxies and checks count while the tree is made; they do not stay (see hook). */
static void add_apt_options(struct strv *v, const struct job *j)
{
	auto_buf struct buf conf = { 0 };

	buf_init(&conf, HOSTCONF_FILE_MAX);
	host_apt_conf(j->host_env, NULL, &conf);
	for (char *p = conf.data; *p;) {
		size_t n = strcspn(p, "\n");
		bool end = !p[n];
		p[n] = 0;
		add_apt_option(v, p);
		p += n + !end;
	}
}

static int debootstrap(struct job *j, const struct recipe *r, const char *tar, struct err *err)
{
	const char *env[] = { "SOURCE_DATE_EPOCH=" EPOCH, NULL };
	struct strv v = { 0 };

	strv_add(&v, xstrdup("mmdebstrap"));
	strv_add(&v, xstrdup("--variant=minbase"));
	strv_add(&v, xasprintf("--include=%s", packages_of(r)));
	strv_add(&v, xstrdup("--dpkgopt=path-exclude=/usr/share/man/*"));
	strv_add(&v, xstrdup("--dpkgopt=path-exclude=/usr/share/doc/*"));
	strv_add(&v, xstrdup("--dpkgopt=path-include=/usr/share/doc/*/copyright"));
	strv_add(&v, xasprintf("--customize-hook=%s", hook));
	add_apt_options(&v, j);
	strv_add(&v, xstrdup(r->suite));
	strv_add(&v, xstrdup(tar));
	add_sources(&v, r->suite);
	int result = job_tool_env(j, (const char *const *)v.list, env, "mmdebstrap", err);
	strv_free(v.list);
	return result;
}

/* -- the OCI layout ----------------------------------------------------------------------------------------------- */
struct blob {
	char hex[65];
	int64_t size;
};

static void mdctx_freep(EVP_MD_CTX **c)
{
	EVP_MD_CTX_free(*c);
}

static int hash_fd(int fd, struct blob *ret, struct err *err)
{
	AUTO(mdctx_freep) EVP_MD_CTX *c = EVP_MD_CTX_new();
	unsigned char sum[EVP_MAX_MD_SIZE];
	static char chunk[1 << 20];
	ssize_t n;

	if (!c || EVP_DigestInit_ex(c, EVP_sha256(), NULL) != 1)
		return err_set(err, -EIO, "sha256 is not available");
	while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
		ret->size += n;
		if (EVP_DigestUpdate(c, chunk, (size_t)n) != 1)
			return err_set(err, -EIO, "sha256 failed");
	}
	if (n < 0)
		return err_sys(err, "read a layer");
	if (EVP_DigestFinal_ex(c, sum, NULL) != 1)
		return err_set(err, -EIO, "sha256 failed");
	str_hex(sum, 32, ret->hex);
	return 0;
}

/* Hashes the file at path and moves it among the blobs. */
static int add_blob(const char *layout, const char *path, struct blob *ret, struct err *err)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "open %s", path);
	*ret = (struct blob){ .size = 0 };
	int r = hash_fd(fd, ret, err);
	if (r < 0)
		return r;
	auto_free char *to = xasprintf("%s/blobs/sha256/%s", layout, ret->hex);
	return rename(path, to) < 0 ? err_sys(err, "rename %s", path) : 0;
}

static int add_text(const char *layout, const char *text, struct blob *ret, struct err *err)
{
	auto_free char *path = xasprintf("%s/blob", layout);

	int r = fd_write_file(path, text, strlen(text), 0644, err);
	return r < 0 ? r : add_blob(layout, path, ret, err);
}

static const char *oci_arch(void)
{
	struct utsname u;

	uname(&u);
	return str_eq(u.machine, "x86_64") ? "amd64" : str_eq(u.machine, "aarch64") ? "arm64" : "unknown";
}

static int add_config(const char *layout, const struct recipe *r, const struct blob *layer, struct blob *ret,
		      struct err *err)
{
	auto_free char *text =
		xasprintf("{\"created\":\"" EPOCH_TEXT
			  "\",\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{\"Env\":[\"" PATH_ENV
			  "\"%s],\"Cmd\":[\"%s\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\"]},"
			  "\"history\":[{\"created\":"
			  "\"" EPOCH_TEXT "\",\"created_by\":\"openreward image bootstrap\"}]}",
			  oci_arch(), r->python ? ",\"LANG=C.UTF-8\"" : "", r->python ? "python3" : "bash", layer->hex);

	return add_text(layout, text, ret, err);
}

static int add_manifest(const char *layout, const struct blob *config, const struct blob *layer, struct blob *ret,
			struct err *err)
{
	auto_free char *text = xasprintf(
		"{\"schemaVersion\":2,\"mediaType\":\"application/"
		"vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":"
		"\"application/"
		"vnd.oci.image.config.v1+json\",\"digest\":\"sha256:%s\",\"size\":%lld},\"layers\":[{\"mediaType\":"
		"\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:%s\",\"size\":%lld}]}",
		config->hex, (long long)config->size, layer->hex, (long long)layer->size);

	return add_text(layout, text, ret, err);
}

static int write_index(const char *layout, const struct blob *manifest, struct err *err)
{
	static const char version[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
	auto_free char *path = xasprintf("%s/oci-layout", layout), *index = xasprintf("%s/index.json", layout);
	auto_free char *text = xasprintf(
		"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/"
		"vnd.oci.image.manifest.v1+json\",\"digest\":"
		"\"sha256:%s\",\"size\":%lld,\"annotations\":{\"org.opencontainers.image.ref.name\":\"base\"}}]}",
		manifest->hex, (long long)manifest->size);

	int r = fd_write_file(path, version, strlen(version), 0644, err);
	return r < 0 ? r : fd_write_file(index, text, strlen(text), 0644, err);
}

static int write_layout(const char *layout, const struct recipe *recipe, const char *tar, struct err *err)
{
	auto_free char *blobs = xasprintf("%s/blobs/sha256", layout);
	struct blob layer = { 0 }, config = { 0 }, manifest = { 0 };

	int r = fd_mkdirs(blobs, 0755, err);
	if (r == 0)
		r = add_blob(layout, tar, &layer, err);
	if (r == 0)
		r = add_config(layout, recipe, &layer, &config, err);
	if (r == 0)
		r = add_manifest(layout, &config, &layer, &manifest, err);
	return r < 0 ? r : write_index(layout, &manifest, err);
}

/* -- the job ------------------------------------------------------------------------------------------------------ */
static bool is_here(struct job *j, const char *name)
{
	AUTO(image_freep) struct image *record = NULL, *stored = NULL;
	auto_free char *path = image_record_path(j->data, name);

	return image_record_read(&record, path, NULL) == 0 &&
	       cstore_read(&stored, j->images, CSTORE_BASES, name, NULL) == 0 && str_eq(record->digest, stored->digest);
}

static int make(struct job *j, const struct recipe *recipe, const char *name, struct err *err)
{
	auto_free char *tar = xasprintf("%s/base.tar", j->tmp), *layout = xasprintf("%s/layout", j->tmp);
	auto_free char *source = xasprintf("oci:%s:base", layout);

	job_say("making %s from Debian %s packages (about half a minute)", name, recipe->suite);
	int r = debootstrap(j, recipe, tar, err);
	if (r < 0)
		return r;
	job_say("importing %s", name);
	r = write_layout(layout, recipe, tar, err);
	return r < 0 ? r : job_copy_in(j, source, name, err);
}

int job_bootstrap(struct job *j, const char *ref, struct err *err)
{
	auto_free char *name = NULL, *lock_path = xasprintf("%s/bootstrap.lock", j->images);
	struct recipe recipe;
	auto_fd lock = -1;

	int r = image_normalise(&name, ref, err);
	if (r == 0)
		r = find_recipe(name, &recipe, err);
	if (r == 0)
		r = job_lock(&lock, lock_path, false, err);
	if (r == 0)
		r = job_tmp(j, err);
	if (r == 0)
		r = job_tool_files(j, err);
	if (r < 0)
		return r;
	if (is_here(j, name)) {
		job_say("%s is here already", name);
		return 0;
	}
	return make(j, &recipe, name, err);
}
