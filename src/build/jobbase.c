/* Root jobs on the store of bases: pull, import, remove, prune. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "build/jobpriv.h"
#include "image/cstore.h"
#include "image/record.h"
#include "image/ref.h"

static char *job_storage_name(const struct job *j, const char *name)
{
	return xasprintf("containers-storage:[overlay@%s/bases/store+%s/bases/run]%s", j->images, j->images, name);
}

static int make_bases(struct job *j, struct err *err)
{
	auto_free char *dir = xasprintf("%s/bases", j->images);

	return fd_mkdirs(dir, 0700, err);
}

static int lock_bases(struct job *j, int *ret_fd, struct err *err)
{
	auto_free char *path = xasprintf("%s/bases/lock", j->images);

	int r = make_bases(j, err);
	return r < 0 ? r : job_lock(ret_fd, path, false, err);
}

int job_use_bases(struct job *j, int *ret_fd, struct err *err)
{
	auto_free char *path = xasprintf("%s/bases/used", j->images);

	int r = make_bases(j, err);
	return r < 0 ? r : job_lock(ret_fd, path, true, err);
}

/* No build begins to use them until *ret_fd is closed; -EBUSY: one does. */
static int stop_builds(struct job *j, const char *name, int *ret_fd, struct err *err)
{
	auto_free char *path = xasprintf("%s/bases/used", j->images);

	int r = make_bases(j, err);
	if (r < 0)
		return r;
	auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, "open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? err_set(err, -EBUSY, "a build runs, which may need image %s", name)
					    : err_sys(err, "lock %s", path);
	*ret_fd = fd_steal(&fd);
	return 0;
}

static int record(struct job *j, const char *store, const char *name, struct err *err)
{
	AUTO(image_freep) struct image *i = NULL;

	int r = cstore_read(&i, j->images, store, name, err);
	return r < 0 ? r : image_record_write(j->data, i, err);
}

static int copy(struct job *j, const char *policy, const char *option, const char *source, const char *target, struct err *err)
{
	const char *argv[] = { "skopeo", policy, "copy", "--quiet", option, source, target, NULL };

	return job_tool(j, argv, "", err);
}

static char *host_policy(const struct job *j)
{
	return xasprintf("--policy=%s/policy.json", j->tmp);
}

static int put_in(struct job *j, const char *policy, const char *source, const char *name, struct err *err)
{
	auto_free char *target = job_storage_name(j, name);
	auto_fd lock = -1;

	int r = lock_bases(j, &lock, err);
	if (r == 0)
		r = copy(j, policy, "--multi-arch=system", source, target, err);
	return r < 0 ? r : record(j, CSTORE_BASES, name, err);
}

int job_copy_in(struct job *j, const char *source, const char *name, struct err *err)
{
	auto_free char *policy = host_policy(j);

	return put_in(j, policy, source, name, err);
}

/* -- from a registry ---------------------------------------------------------------------------------------------- */
static int move(const char *from, const char *to, struct err *err)
{
	return rename(from, to) < 0 ? err_sys(err, "move %s to %s", from, to) : 0;
}

static int fetch(struct job *j, const char *name, const char *option, const char *folder, struct err *err)
{
	auto_free char *policy = host_policy(j), *source = xasprintf("docker://%s", name);
	auto_free char *target = xasprintf("dir:%s/%s", j->tmp, folder);

	return copy(j, policy, option, source, target, err);
}

/* A digest in the name may be that of a list of images for several machines, and the store takes one of them under such a
 * name only together with the list: the fetched one goes below it, as skopeo has it in folders. */
static int fetch_list(struct job *j, const char *name, const char *digest, struct err *err)
{
	auto_free char *list = xasprintf("%s/list/manifest.json", j->tmp), *top = xasprintf("%s/fetched/manifest.json", j->tmp);
	auto_free char *below = xasprintf("%s/fetched/%s.manifest.json", j->tmp, digest + strlen("sha256:"));

	int r = fetch(j, name, "--multi-arch=index-only", "list", err);
	if (r == 0)
		r = move(top, below, err);
	return r < 0 ? r : move(list, top, err);
}

static int fetch_all(struct job *j, const char *name, struct err *err)
{
	auto_free char *file = xasprintf("%s/digest", j->tmp), *option = xasprintf("--digestfile=%s", file);
	auto_buf struct buf digest = { 0 };
	const char *asked = strchr(name, '@');

	int r = fetch(j, name, option, "fetched", err);
	if (r < 0 || !asked)
		return r;
	buf_init(&digest, 256);
	r = fd_read_file(file, &digest, err);
	if (r < 0 || str_eq(digest.data, asked + 1) || !str_starts(digest.data, "sha256:"))
		return r;
	return fetch_list(j, name, digest.data, err);
}

/* Whoever else wants the store does not wait for a registry, which may take hours: all of it comes into the job's own folder
 * first, byte for byte, so that the image stays the same one. The host's policy was asked there, for what came from where; of
 * folders it may say anything. */
int job_fetch(struct job *j, const char *name, struct err *err)
{
	auto_free char *dir = xasprintf("%s/fetched", j->tmp), *source = xasprintf("dir:%s", dir);

	int r = fetch_all(j, name, err);
	if (r == 0)
		r = put_in(j, "--insecure-policy", source, name, err);
	/* A build that brings several, or goes on for an hour, must not hold them twice. */
	int gone = job_rmtree(dir, r < 0 ? NULL : err);
	return r < 0 ? r : gone;
}

/* A normalised name and the tools' files: what every kind here begins with. */
static int begin(struct job *j, const char *ref, char **ret_name, struct err *err)
{
	int r = image_normalise(ret_name, ref, err);
	if (r == 0)
		r = job_tmp(j, err);
	return r < 0 ? r : job_tool_files(j, err);
}

int job_pull(struct job *j, const char *ref, struct err *err)
{
	auto_free char *name = NULL;

	int r = begin(j, ref, &name, err);
	if (r < 0)
		return r;
	job_say("pulling %s", name);
	r = job_fetch(j, name, err);
	if (r == 0)
		job_say("pulled %s", name);
	return r;
}

/* -- import -------------------------------------------------------------------------------------------------------- */
struct found {
	bool manifest, layout;
};

static void see_member(void *arg, const char *line)
{
	struct found *f = arg;
	const char *s = str_starts(line, "./") ? line + 2 : line;

	f->manifest |= str_eq(s, "manifest.json");
	f->layout |= str_eq(s, "oci-layout") || str_eq(s, "index.json");
}

/* docker save writes manifest.json (newer ones both); oci archives have index.json alone. */
static int detect(struct job *j, const char *path, const char **ret, struct err *err)
{
	const char *argv[] = { "tar", "-tf", path, NULL };
	struct found f = { 0 };
	struct job_exec x = { .argv = argv, .line = see_member, .arg = &f };
	struct stat st;
	int status = 0;

	if (stat(path, &st) < 0)
		return err_sys(err, "import %s", path);
	if (S_ISDIR(st.st_mode)) {
		auto_free char *layout = xasprintf("%s/oci-layout", path);
		*ret = "oci";
		return access(layout, R_OK) == 0 ? 0
						 : err_set(err, -EINVAL,
							   "import %s: expected an archive of docker save, an OCI "
							   "archive, or an OCI folder (with a file oci-layout)",
							   path);
	}
	int r = job_exec(j, &x, &status, err);
	if (r < 0)
		return r;
	*ret = f.manifest ? "docker-archive" : "oci-archive";
	if (status || (!f.manifest && !f.layout))
		return err_set(err, -EINVAL, "import %s: expected an archive of docker save or an OCI archive", path);
	return 0;
}

int job_import(struct job *j, const char *path, const char *ref, struct err *err)
{
	auto_free char *name = NULL;
	const char *transport = NULL;

	if (*path != '/')
		return err_set(err, -EINVAL, "import: \"%s\": expected an absolute path", path);
	int r = begin(j, ref, &name, err);
	if (r == 0)
		r = detect(j, path, &transport, err);
	if (r < 0)
		return r;
	auto_free char *source = xasprintf("%s:%s", transport, path);
	job_say("importing %s (%s) as %s", path, transport, name);
	return job_copy_in(j, source, name, err);
}

/* -- remove ----------------------------------------------------------------------------------------------------- */
/* Another base that has the same top layer, the same image under a second name or one of other settings: the tool itself keeps
 * the layers for it. Not for an image of an environment, whose store the tool does not look into. */
static bool is_beside(const struct image *o, const struct image *gone)
{
	auto_free char *dir = NULL;

	return !image_name_env_dir(o->name, &dir) && str_eq(o->layers[0], gone->layers[0]);
}

/* Layers below another image may not go. */
static int refuse_shared(struct job *j, const struct image *gone, struct err *err)
{
	struct image **list = NULL;
	size_t n = 0;

	int r = image_record_list(j->data, &list, &n, err);
	for (size_t k = 0; r == 0 && k < n; k++) {
		const struct image *o = list[k];
		if (str_eq(o->name, gone->name) || is_beside(o, gone))
			continue;
		for (size_t l = 0; r == 0 && l < o->n_layers; l++)
			if (str_eq(o->layers[l], gone->layers[0]))
				r = err_set(err, -EBUSY, "image %s is the base of image %s: remove that one first",
					    gone->name, o->name);
	}
	image_list_free(list, n);
	return r;
}

/* The store of an image, relative to DATA/images: its top layer lies in it, or for an unchanged base, its name does. */
static char *store_of(const char *name)
{
	char *dir = NULL;

	if (!image_name_env_dir(name, &dir))
		return xstrdup(CSTORE_BASES);
	auto_free char *env = dir;
	return xasprintf("%s/store", env);
}

static char *parent_of(const char *images, const char *store)
{
	return xasprintf("%s/%.*s", images, (int)(strlen(store) - strlen("/store")), store);
}

static int lock_store(struct job *j, const char *store, int *ret_fd, struct err *err)
{
	auto_free char *dir = parent_of(j->images, store), *path = xasprintf("%s/lock", dir);

	return job_lock(ret_fd, path, false, err);
}

/* With the lock of the store held. */
static int rmi(struct job *j, const char *store, const char *const *names, struct err *err)
{
	auto_free char *dir = parent_of(j->images, store);
	auto_free char *root = xasprintf("%s/store", dir), *run = xasprintf("%s/run", dir);
	auto_free char *bases = xasprintf("overlay.imagestore=%s/%s", j->images, CSTORE_BASES);
	bool own_bases = str_eq(store, CSTORE_BASES);
	const char *argv[24] = { "buildah", "--root", root, "--runroot", run, "--storage-driver", "overlay" };
	size_t n = 7;

	if (!own_bases) {
		argv[n++] = "--storage-opt";
		argv[n++] = bases;
	}
	argv[n++] = "rmi";
	while (*names && n < ARRAY_LEN(argv) - 1)
		argv[n++] = *names++;
	return job_tool(j, argv, "remove from the store", err);
}

static int prune_images(struct job *j, const char *store, struct err *err)
{
	auto_fd lock = -1;

	int r = lock_store(j, store, &lock, err);
	return r < 0 ? r : rmi(j, store, (const char *const[]){ "--prune", NULL }, err);
}

static int remove_record(struct job *j, const char *name, struct err *err)
{
	auto_free char *path = image_record_path(j->data, name);

	return unlink(path) < 0 && errno != ENOENT ? err_sys(err, "remove %s", path) : 0;
}

/* A removal that was killed, or failed, has left it in the store without a record. */
static int find(struct job *j, const char *store, const char *name, struct image **ret, struct err *err)
{
	auto_free char *path = image_record_path(j->data, name);

	int r = image_record_read(ret, path, err);
	if (r == -ENOENT)
		r = cstore_read(ret, j->images, store, name, err);
	return r == -ENOENT ? err_set(err, r, "image %s is not here", name) : r;
}

/* The tool fails where it can't take a base along that has no name any more, after it removed the image. */
static int remove_name(struct job *j, const char *store, const char *name, struct err *err)
{
	AUTO(image_freep) struct image *left = NULL;

	int r = rmi(j, store, (const char *const[]){ name, NULL }, err);
	return r < 0 && cstore_read(&left, j->images, store, name, NULL) == -ENOENT ? 0 : r;
}

/* With the locks held, so that neither a pull of the same name nor a build comes in between. */
static int remove_locked(struct job *j, const char *store, const char *name, struct err *err)
{
	AUTO(image_freep) struct image *i = NULL;

	int r = find(j, store, name, &i, err);
	/* In an environment's own store the tool itself keeps what other images need, under no name. */
	if (r == 0 && str_eq(store, CSTORE_BASES))
		r = refuse_shared(j, i, err);
	if (r == 0)
		r = remove_record(j, name, err);
	if (r == 0)
		r = remove_name(j, store, name, err);
	/* A record without its image would be a lie; an image without its record can be removed once more. */
	return r;
}

int job_remove(struct job *j, const char *ref, struct err *err)
{
	AUTO(image_freep) struct image *here = NULL;
	auto_free char *name = NULL;
	auto_fd used = -1, lock = -1;

	int r = begin(j, ref, &name, err);
	if (r < 0)
		return r;
	auto_free char *store = store_of(name);
	r = find(j, store, name, &here, err);
	if (r < 0)
		return r;
	/* In this order: whoever waits for the store's lock while builds are stopped stops them for as long. */
	r = lock_store(j, store, &lock, err);
	if (r == 0 && str_eq(store, CSTORE_BASES))
		r = stop_builds(j, name, &used, err);
	return r < 0 ? r : remove_locked(j, store, name, err);
}

/* -- sweep ----------------------------------------------------------------------------------------------------------- */
static bool shares_layer(const struct image *a, const struct image *b)
{
	for (size_t k = 0; k < a->n_layers; k++)
		for (size_t l = 0; l < b->n_layers; l++)
			if (str_eq(a->layers[k], b->layers[l]))
				return true;
	return false;
}

static bool is_held(struct job *j, const struct image *i, char *const *used)
{
	for (char *const *u = used; *u; u++)
		if (str_eq(i->digest, *u))
			return true;
	return refuse_shared(j, i, NULL) < 0;
}

/* The tool takes what has no name away with the last that lies on it, so what only shares a layer with one that must stay does,
 * too. */
static bool is_needed(const struct image *i, struct image *const *list, const bool *held, size_t n)
{
	for (size_t k = 0; k < n; k++)
		if (held[k] && shares_layer(list[k], i))
			return true;
	return false;
}

/* With the locks held. What can't be removed may have gone with another; the next time tells. */
static int sweep_locked(struct job *j, char *const *used, struct err *err)
{
	struct image **list = NULL;
	size_t n = 0;

	int r = cstore_nameless(&list, &n, j->images, CSTORE_BASES, err);
	auto_free bool *held = xcalloc(n + 1, sizeof(*held));
	for (size_t k = 0; k < n; k++)
		held[k] = is_held(j, list[k], used);
	for (size_t k = 0; k < n; k++) {
		const char *id = list[k]->digest + strlen("sha256:");
		if (is_needed(list[k], list, held, n))
			continue;
		job_say("removing %s, which was replaced", list[k]->digest);
		(void)!rmi(j, CSTORE_BASES, (const char *const[]){ id, NULL }, NULL);
	}
	image_list_free(list, n);
	return r;
}

int job_sweep(struct job *j, char *const *used, struct err *err)
{
	auto_free char *bases = xasprintf("%s/%s/overlay-images/images.json", j->images, CSTORE_BASES);
	auto_fd stopped = -1, lock = -1;

	if (access(bases, F_OK) < 0)
		return 0;
	int r = job_tmp(j, err);
	if (r == 0)
		r = job_tool_files(j, err);
	if (r == 0)
		r = lock_store(j, CSTORE_BASES, &lock, err);
	if (r == 0)
		r = stop_builds(j, "that was replaced", &stopped, err);
	return r < 0 ? r : sweep_locked(j, used, err);
}

/* -- prune -------------------------------------------------------------------------------------------------------- */
static bool store_in_use(struct image *const *list, size_t n, const char *env_dir)
{
	for (size_t k = 0; k < n; k++) {
		char *dir = NULL;
		bool same = image_name_env_dir(list[k]->name, &dir) && str_eq(dir, env_dir);
		free(dir);
		if (same)
			return true;
	}
	return false;
}

static int prune_store(struct job *j, struct image *const *list, size_t n, const char *env_dir, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", j->images, env_dir), *store = xasprintf("%s/store", env_dir);

	if (!store_in_use(list, n, env_dir)) {
		job_say("removing %s", env_dir);
		return job_rmtree(path, err);
	}
	return prune_images(j, store, err);
}

typedef int dir_fn(struct job *j, struct image *const *list, size_t n, const char *rel, struct err *err);

static int each_dir(struct job *j, struct image *const *list, size_t n, const char *rel, dir_fn *fn, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", j->images, rel);
	DIR *d = opendir(path);
	int r = 0;

	for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
		auto_free char *below = xasprintf("%s/%s", rel, e->d_name);
		if (*e->d_name != '.' && e->d_type == DT_DIR)
			r = fn(j, list, n, below, err);
	}
	if (d)
		closedir(d);
	return r;
}

static int prune_owner(struct job *j, struct image *const *list, size_t n, const char *rel, struct err *err)
{
	return each_dir(j, list, n, rel, prune_store, err);
}

int job_prune(struct job *j, struct err *err)
{
	auto_free char *bases = xasprintf("%s/%s", j->images, CSTORE_BASES);
	struct image **list = NULL;
	size_t n = 0;

	int r = job_tmp(j, err);
	if (r == 0)
		r = job_tool_files(j, err);
	if (r == 0)
		r = image_record_list(j->data, &list, &n, err);
	if (r == 0)
		r = each_dir(j, list, n, "env", prune_owner, err);
	if (r == 0 && access(bases, F_OK) == 0)
		r = prune_images(j, CSTORE_BASES, err);
	image_list_free(list, n);
	return r;
}

/* What is left of it is what no record needs: cached steps, mostly. */
int job_forget(struct job *j, const char *env, struct err *err)
{
	struct image **list = NULL;
	size_t n = 0;
	struct env_store s;
	int r = env_store_open(&s, j, env, err);

	if (r < 0)
		return r;
	r = image_record_list(j->data, &list, &n, err);
	if (r == 0 && !store_in_use(list, n, s.rel))
		r = job_rmtree(s.dir, err);
	image_list_free(list, n);
	env_store_close(&s);
	return r;
}
