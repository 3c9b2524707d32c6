/* Root job build: one environment's source becomes its image. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/jobpriv.h"
#include "build/unpack.h"
#include "image/cstore.h"
#include "image/record.h"
#include "image/ref.h"

#define DOCKERFILE_MAX (4u << 20)

struct work {
	struct job *j;
	struct env_store store;
	char *image;      /* the name of the result */
	char *context;    /* the folder that is built */
	char *dockerfile; /* our copy */
	char *ignore;     /* our copy of .dockerignore (empty where the source has none) */
	char **contexts;  /* arguments for aliases */
	struct build_input input;
	char *runtime;
	int bases; /* held while the build uses them: job_use_bases() */
	char *error; /* buildah's last "Error: ..." line */
};

static void work_done(struct work *w)
{
	env_store_close(&w->store);
	fd_close(w->bases);
	free(w->image);
	free(w->context);
	free(w->dockerfile);
	free(w->ignore);
	strv_free(w->contexts);
	build_input_done(&w->input);
	free(w->runtime);
	free(w->error);
}

/* -- the source --------------------------------------------------------------------------------------------------- */
/* Opens beneath the unpacked source: a link in it may lead to other files of it, never out. */
static int open_beneath(const char *dir, const char *rel, int flags)
{
	struct open_how how = { .flags = (unsigned)flags | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	auto_fd at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (at < 0)
		return -errno;
	int fd = (int)syscall(SYS_openat2, at, rel, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

/* The tools read these files as root and by name, links followed: so they get copies. */
static int copy_text(const char *dir, const char *rel, const char *to, struct err *err)
{
	auto_fd fd = open_beneath(dir, rel, O_RDONLY | O_NONBLOCK);
	auto_buf struct buf text = { 0 };
	struct stat st;

	if (fd < 0)
		return err_sys_code(err, fd, "%s", rel);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: expected a regular file", rel);
	buf_init(&text, DOCKERFILE_MAX);
	int r = fd_read_to_end(fd, &text);
	if (r < 0)
		return err_sys_code(err, r, "%s (at most 4 MiB)", rel);
	return fd_write_file(to, text.data, text.len, 0600, err);
}

static int find_context(struct work *w, const char *source, const char *subdir, struct err *err)
{
	bool all = str_empty(subdir) || str_eq(subdir, ".");

	if (!all) {
		auto_fd fd = open_beneath(source, subdir, O_PATH | O_DIRECTORY | O_NOFOLLOW);
		if (fd < 0)
			return err_sys_code(err, fd, "the source has no folder \"%s\"", subdir);
		char path[4096], *link = xasprintf("/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, path, sizeof(path) - 1);
		free(link);
		if (n < 0)
			return err_sys(err, "find the folder \"%s\"", subdir);
		w->context = xstrndup(path, (size_t)n);
		return 0;
	}
	w->context = xstrdup(source);
	return 0;
}

static int take_dockerfile(struct work *w, const char *file, const char *subdir, struct err *err)
{
	auto_free char *own_ignore = xasprintf("%s.dockerignore", file);
	bool all = str_empty(subdir) || str_eq(subdir, ".");

	w->dockerfile = xasprintf("%s/Dockerfile", w->j->tmp);
	w->ignore = xasprintf("%s/ignore", w->j->tmp);
	int r = copy_text(w->context, file, w->dockerfile, err);
	if (r == -ENOENT)
		return err_set(err, r, "the source has no %s%s%s: expected a Dockerfile there", all ? "" : subdir,
			       all ? "" : "/", file);
	if (r < 0)
		return r;
	r = copy_text(w->context, own_ignore, w->ignore, err);
	if (r == -ENOENT)
		r = copy_text(w->context, ".dockerignore", w->ignore, err);
	return r == -ENOENT ? fd_write_file(w->ignore, "", 0, 0600, err) : r;
}

static int take_source(struct work *w, const char *deployment, const char *file, const char *subdir, struct err *err)
{
	auto_free char *source = xasprintf("%s/source", w->j->tmp);

	int r = unpack_source(w->j, deployment, source, err);
	if (r == 0)
		r = find_context(w, source, subdir, err);
	return r < 0 ? r : take_dockerfile(w, file, subdir, err);
}

/* -- buildah ------------------------------------------------------------------------------------------------------ */
static void build_line(void *arg, const char *line)
{
	struct work *w = arg;
	auto_free char *shown = build_input_mask(&w->input, line);

	if (str_starts(line, "Error: ")) {
		free(w->error);
		w->error = STEAL(shown);
		return; /* comes last, as the reason */
	}
	job_say("%s", shown);
}

/* "...initializing source docker://NAME: WHY": a FROM whose name job_bring_bases could not expand. */
static int explain_base(char *s, struct err *err)
{
	char *name = strstr(s, "initializing source docker://");

	if (!name)
		return 0;
	name += strlen("initializing source docker://");
	char *why = strstr(name, ": ");
	if (!why)
		return 0;
	*why = 0;
	return job_no_base(name, why + 2, err);
}

/* building at STEP "RUN x": while running runtime: exit status 1 -> STEP "RUN x" failed: exit status 1 */
static int explain(struct work *w, int status, struct err *err)
{
	if (!w->error)
		return err_set(err, -EIO, "buildah ended without a reason (status %d)", status);
	char *s = job_tidy(w->error);
	int r = explain_base(s, err);
	if (r < 0)
		return r;
	if (!str_starts(s, "building at STEP \""))
		return err_set(err, -EIO, "the build failed: %s", s);
	char *step = s + strlen("building at "), *why = strstr(step, "\": ");
	if (!why)
		return err_set(err, -EINVAL, "%s", step);
	for (char *next; (next = strstr(why + 3, "\": "));)
		why = next;
	*why = 0;
	why += 3;
	if (str_starts(why, "while running runtime: "))
		why += strlen("while running runtime: ");
	return err_set(err, -EINVAL, "%s\" failed: %s", step, why);
}

struct args { /* of buildah; the strings are others' */
	const char **list;
	size_t n;
};

static void add_all(struct args *a, char *const *list)
{
	size_t more = 0;

	while (list && list[more])
		more++;
	a->list = xrealloc(a->list, (a->n + more + 1) * sizeof(*a->list));
	for (size_t i = 0; i < more; i++)
		a->list[a->n++] = list[i];
	a->list[a->n] = NULL;
}

/* Runs it under the build's limits, and all of it in the build's network: what ADD names is fetched by buildah itself. It is to
 * resolve names by itself too, through that network: the C library may ask a service of the host by a socket's path. */
static int exec_buildah(struct work *w, const char *const *argv, int *ret_status, struct err *err)
{
	struct build_disk *disk = build_disk_new(w->j, &w->store);
	const char *const env[] = { "GODEBUG=netdns=go", NULL };
	struct job_exec x = { .argv = argv, .env = env, .line = build_line, .arg = w, .netns_fd = w->j->netns,
			      .tick = build_disk_check, .tick_arg = disk };
	int r = job_exec(w->j, &x, ret_status, err);

	build_disk_free(disk);
	return r;
}

/* A limit of RUN steps is this process's own. Newer versions of buildah ask for 1048576 files and processes, which runc, without a
 * capability outside of the build's user namespace, cannot give where the host allows less. -1 = none, as buildah has it. */
static char *own_limit(const char *name, __rlimit_resource_t resource)
{
	struct rlimit own = { RLIM_INFINITY, RLIM_INFINITY };

	(void)getrlimit(resource, &own);
	return xasprintf("%s=%lld:%lld", name, own.rlim_cur == RLIM_INFINITY ? -1LL : (long long)own.rlim_cur,
			 own.rlim_max == RLIM_INFINITY ? -1LL : (long long)own.rlim_max);
}

static int run_buildah(struct work *w, struct err *err)
{
	auto_free char *runc = xasprintf("root=%s/runc", w->store.dir),
		       *policy = xasprintf("%s/" BUILD_POLICY, w->j->tmp);
	auto_free char *memory = xasprintf("%llub", (unsigned long long)w->j->conf.memory_bytes);
	auto_free char *files = own_limit("nofile", RLIMIT_NOFILE), *processes = own_limit("nproc", RLIMIT_NPROC);
	const char *first[ENV_STORE_ARGS + 1] = { NULL };
	struct args a = { .n = 0 };
	int status = 0;

	(void)env_store_argv(&w->store, first);
	add_all(&a, (char **)first);
	add_all(&a, (char *[]){ "build", "--pull=missing", "--isolation", "oci", "--force-rm", "--layers", "--format",
				"docker", NULL });
	/* Steps share buildah's own network, which is not the host's: exec_buildah(). */
	add_all(&a, (char *[]){ "--network", "host", "--runtime", w->runtime, "--runtime-flag", runc, NULL });
	add_all(&a, (char *[]){ "--cgroup-parent", w->store.cgroup, "--signature-policy", policy, NULL });
	add_all(&a, (char *[]){ "--ulimit", files, "--ulimit", processes, NULL });
	if (w->j->conf.memory_bytes)
		add_all(&a, (char *[]){ "--memory", memory, NULL });
	add_all(&a, w->contexts);
	add_all(&a, w->input.options);
	add_all(&a, (char *[]){ "--ignorefile", w->ignore, "-f", w->dockerfile, "-t", w->image, w->context, NULL });
	int r = exec_buildah(w, a.list, &status, err);
	free(a.list);
	if (r < 0)
		return r;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, -ENOENT, "the program buildah is not installed");
	return status ? explain(w, status, err) : 0;
}

static int finish(struct work *w, struct err *err)
{
	auto_free char *store = xasprintf("%s/store", w->store.rel);
	AUTO(image_freep) struct image *i = NULL;

	int r = cstore_read(&i, w->j->images, store, w->image, err);
	if (r == 0)
		r = image_record_write(w->j->data, i, err);
	if (r == 0)
		job_say("built %s", w->image);
	return r;
}

static int work_run(struct work *w, const char *deployment, const char *file, const char *subdir, struct err *err)
{
	int r = build_input_read(&w->input, err);
	if (r == 0)
		r = take_source(w, deployment, file, subdir, err);
	if (r == 0)
		r = build_input_stage(&w->input, w->j->tmp, err);
	if (r == 0)
		r = job_use_bases(w->j, &w->bases, err);
	if (r == 0)
		r = job_bring_bases(w->j, w->dockerfile, &w->contexts, err);
	if (r == 0)
		r = job_run_setup(w->j, &w->store, &w->runtime, err);
	if (r == 0)
		r = job_cgroup_open(w->j, &w->store, err);
	if (r == 0)
		r = run_buildah(w, err);
	return r < 0 ? r : finish(w, err);
}

int job_build(struct job *j, const char *deployment, const char *env, const char *file, const char *subdir,
	      struct err *err)
{
	struct work w = { .j = j, .bases = -1 };
	const char *slash = strchr(env, '/');
	auto_free char *owner = slash ? xstrndup(env, (size_t)(slash - env)) : xstrdup("");

	int r = image_of_build(&w.image, owner, slash ? slash + 1 : "", deployment, err);
	if (r == 0)
		r = env_store_open(&w.store, j, env, err);
	if (r == 0)
		r = work_run(&w, deployment, str_empty(file) ? "Dockerfile" : file, subdir, err);
	work_done(&w);
	return r;
}
