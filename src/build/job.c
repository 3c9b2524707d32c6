#include "build/job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"
#include "image/image.h"

void job_say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* -- files ------------------------------------------------------------------------------------------------------ */
int job_lock(int *ret_fd, const char *path, bool shared, struct err *err)
{
	auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(err, "open %s", path);
	while (flock(fd, shared ? LOCK_SH : LOCK_EX) < 0)
		if (errno != EINTR)
			return err_sys(err, "lock %s", path);
	*ret_fd = fd_steal(&fd);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)st;
	(void)flag;
	(void)at;
	/* Busy: a store's own mount of itself, left by a tool that was killed in this namespace. */
	if (remove(path) == 0 || errno == ENOENT)
		return 0;
	return errno == EBUSY && umount2(path, MNT_DETACH) == 0 && remove(path) == 0 ? 0 : -1;
}

int job_rmtree(const char *path, struct err *err)
{
	if (nftw(path, remove_one, 64, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		return err_sys(err, "remove %s", path);
	/* FTW_MOUNT skips a mount point: what was mounted over itself is seen only after it is gone. */
	return access(path, F_OK) == 0 && remove(path) < 0 ? err_sys(err, "remove %s", path) : 0;
}

/* A folder that nobody holds locked belongs to a job that was killed. */
static void clear_stale(const char *dir)
{
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));) {
		if (*e->d_name == '.')
			continue;
		auto_free char *path = xasprintf("%s/%s", dir, e->d_name);
		auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			(void)!job_rmtree(path, NULL);
	}
	if (d)
		closedir(d);
}

int job_tmp(struct job *j, struct err *err)
{
	auto_free char *dir = xasprintf("%s/tmp", j->images);
	auto_free char *path = xasprintf("%s/%016llx", dir, (unsigned long long)random_u64());

	int r = fd_mkdirs(dir, 0700, err);
	if (r < 0)
		return r;
	clear_stale(dir);
	if (mkdir(path, 0700) < 0)
		return err_sys(err, "make %s", path);
	j->tmp_lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->tmp_lock < 0 || flock(j->tmp_lock, LOCK_EX) < 0)
		return err_sys(err, "lock %s", path);
	j->tmp = STEAL(path);
	return 0;
}

/* -- files of the container tools --------------------------------------------------------------------------------- */
static int write_tmp(const struct job *j, const char *file, const char *text, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", j->tmp, file);

	return fd_write_file(path, text, strlen(text), 0600, err);
}

struct registries {
	struct buf *out;
	bool inside; /* a [[registry]] block */
};

static void registries_line(void *arg, char *line)
{
	struct registries *x = arg;

	if (*line == '[')
		x->inside = str_starts(line, "[[registry");
	if (x->inside && *line != '#')
		(void)!buf_printf(x->out, "%s\n", line);
}

int job_tool_files(struct job *j, struct err *err)
{
	static const char policy[] = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}\n";
	auto_buf struct buf registries = { 0 };
	auto_buf struct buf host_policy = { 0 };

	buf_init(&registries, 1u << 20);
	buf_init(&host_policy, 1u << 20);
	(void)!buf_puts(&registries,
			"unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"disabled\"\n");
	/* The host's registries and mirrors go along. */
	host_each_line("/etc/containers/registries.conf", registries_line, &(struct registries){ .out = &registries });
	if (fd_read_file("/etc/containers/policy.json", &host_policy, NULL) < 0)
		(void)!buf_puts(&host_policy, policy);
	int r = write_tmp(j, "registries.conf", registries.data, err);
	if (r == 0)
		r = write_tmp(j, "policy.json", host_policy.data, err);
	if (r == 0)
		r = write_tmp(j, "storage.conf", "[storage]\ndriver = \"overlay\"\n", err);
	if (r == 0)
		r = write_tmp(j, "containers.conf", "[engine]\n", err);
	return r;
}

/* -- start and end ------------------------------------------------------------------------------------------------ */
static int find_netns(void)
{
	if (ioctl(JOB_STEERED_FD, NS_GET_NSTYPE) != CLONE_NEWNET)
		return -1;
	(void)!fd_set_cloexec(JOB_STEERED_FD, true);
	return JOB_STEERED_FD;
}

/* Nothing that is mounted here may be seen outside, and /proc must be that of our pid namespace. */
static int own_mounts(struct err *err)
{
	char self[32];

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, "make a mount namespace (root jobs need root)");
	ssize_t n = readlink("/proc/self", self, sizeof(self));
	auto_free char *pid = xasprintf("%d", (int)getpid());
	if (n == (ssize_t)strlen(pid) && !memcmp(self, pid, (size_t)n))
		return 0;
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return err_sys(err, "mount /proc");
	return 0;
}

static int job_open(struct job *j, const char *data, struct err *err)
{
	char self[4096];

	j->data = data;
	j->tmp_lock = -1;
	j->netns = find_netns();
	build_conf_init(&j->conf);
	if (!data || *data != '/')
		return err_set(err, -EINVAL, "--data: \"%s\": expected an absolute path", data ? data : "");
	j->images = xasprintf("%s/images", data);
	/* Before the mount namespace of our own: in a chroot the kernel then knows no path to the old one's files. */
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return err_sys(err, "readlink /proc/self/exe");
	j->self = xstrndup(self, (size_t)n);
	int r = own_mounts(err);
	if (r < 0)
		return r;
	r = fd_mkdirs(j->images, 0711, err);
	if (r == 0)
		r = build_conf_read(&j->conf, data, err);
	if (r < 0)
		return r;
	if (!j->conf.host_env)
		j->conf.host_env = hostconf_snapshot();
	j->host_env = (const char *const *)j->conf.host_env;
	return 0;
}

static void job_close(struct job *j)
{
	if (j->tmp)
		(void)!job_rmtree(j->tmp, NULL);
	fd_close(j->tmp_lock);
	build_conf_done(&j->conf);
	free(j->images);
	free(j->self);
	free(j->tmp);
}

/* -- kinds ------------------------------------------------------------------------------------------------------ */
static int run_bootstrap(struct job *j, char **a, struct err *err)
{
	return job_bootstrap(j, a[0], err);
}
static int run_pull(struct job *j, char **a, struct err *err)
{
	return job_pull(j, a[0], err);
}
static int run_import(struct job *j, char **a, struct err *err)
{
	return job_import(j, a[0], a[1], err);
}
static int run_remove(struct job *j, char **a, struct err *err)
{
	return job_remove(j, a[0], err);
}
static int run_clean(struct job *j, char **a, struct err *err)
{
	return job_clean(j, a[0], err);
}

static int run_forget(struct job *j, char **a, struct err *err)
{
	return job_forget(j, a[0], err);
}

static int run_sweep(struct job *j, char **a, struct err *err)
{
	return job_sweep(j, a, err);
}

static int run_prune(struct job *j, char **a, struct err *err)
{
	(void)a;
	return job_prune(j, err);
}

static int run_build(struct job *j, char **a, struct err *err)
{
	return job_build(j, a[0], a[1], a[2], a[2] ? a[3] : NULL, err);
}

static int run_host_names(struct job *j, char **a, struct err *err)
{
	char **names = hostconf_hosts(j->host_env);

	(void)a;
	(void)err;
	for (char **n = names; *n; n++)
		job_say("%s", *n);
	strv_free(names);
	return 0;
}

static int run_host_conf(struct job *j, char **a, struct err *err)
{
	char **env = NULL;

	int r = hostconf_stage(a[0], a[1], j->host_env, &env, err);
	for (char **e = env; e && *e; e++)
		job_say("%s", *e);
	strv_free(env);
	return r;
}

static const struct kind {
	const char *name;
	int min, max; /* arguments */
	int (*run)(struct job *j, char **args, struct err *err);
	const char *usage;
	unsigned space_mib; /* free space without which it is not begun: apt on a full disk tries for minutes */
} kinds[] = {
	{ "bootstrap", 1, 1, run_bootstrap, "NAME", 1024 },
	{ "pull", 1, 1, run_pull, "NAME", 256 },
	{ "import", 2, 2, run_import, "PATH NAME", 256 },
	{ "remove", 1, 1, run_remove, "NAME", 0 },
	{ "forget", 1, 1, run_forget, "OWNER/NAME", 0 },
	{ "sweep", 0, IMAGE_SWEEP_MAX, run_sweep, "[DIGEST...]", 0 },
	{ "prune", 0, 0, run_prune, "", 0 },
	{ "build", 2, 4, run_build, "DEPLOYMENT OWNER/NAME [FILE [SUBDIR]]", 256 },
	{ "clean", 1, 1, run_clean, "OWNER/NAME", 0 },
	{ "host-names", 0, 0, run_host_names, "", 0 },
	{ "host-conf", 2, 2, run_host_conf, "DIR TARGET", 0 },
};

static int need_space(const struct job *j, const struct kind *k, struct err *err)
{
	struct statvfs fs;

	if (!k->space_mib || statvfs(j->images, &fs) < 0)
		return 0;
	uint64_t free_mib = (uint64_t)fs.f_bavail * fs.f_frsize >> 20;
	if (free_mib >= k->space_mib)
		return 0;
	return err_set(err, -ENOSPC, "%s has %llu MiB free: expected at least %u MiB to %s an image", j->images,
		       (unsigned long long)free_mib, k->space_mib, k->name);
}

static const struct kind *find_kind(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (str_eq(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

/* Takes "--data DIR" out of the arguments, wherever it stands; OPENREWARD_DATA otherwise. */
static const char *take_data(int *argc, char **argv)
{
	for (int i = 1; i + 1 < *argc; i++)
		if (str_eq(argv[i], "--data")) {
			const char *data = argv[i + 1];
			memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 1) * sizeof(*argv));
			*argc -= 2;
			return data;
		}
	return getenv("OPENREWARD_DATA");
}

static int run(const struct kind *k, const char *data, char **args, struct err *err)
{
	struct job j = { 0 };

	int r = job_open(&j, data, err);
	r = r < 0 ? r : need_space(&j, k, err);
	if (r == 0)
		r = k->run(&j, args, err);
	job_close(&j);
	return r;
}

static int status_of(const struct kind *k, int code)
{
	if (code == -EDQUOT)
		return JOB_TO_CLEAN;
	if (code == -EBUSY)
		return IMAGE_JOB_BUSY;
	return code == -ENOENT && str_eq(k->name, "remove") ? IMAGE_JOB_GONE : 1;
}

int job_main(int argc, char **argv)
{
	struct err err = ERR_INIT;

	if (argc > 2 && str_eq(argv[1], "runtime-wrapper"))
		return job_wrapper(argc - 2, argv + 2);
	const char *data = take_data(&argc, argv);
	const struct kind *k = argc > 1 ? find_kind(argv[1]) : NULL;
	if (!k || argc - 2 < k->min || argc - 2 > k->max) {
		job_say("usage: openreward job %s --data DIR %s", k ? k->name : "KIND", k ? k->usage : "ARGS...");
		return 2;
	}
	umask(022);
	if (run(k, data, argv + 2, &err) == 0)
		return 0;
	job_say("%s", err.msg[0] ? err.msg : "failed without a reason");
	return status_of(k, err.code);
}
