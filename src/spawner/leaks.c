/* What nothing living owns: processes, cgroups, mounts and folders that carry our name or our ids. Looks at the machine,
 * not at our own lists; those only say what is owned. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "spawner/spawner.h"

struct report {
	struct spawner *sp;
	char *text;
	size_t cap, len;
};

static void PRINTF_LIKE(2, 3) add(struct report *r, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(r->text + r->len, r->cap - r->len, fmt, ap);
	va_end(ap);
	if (n > 0 && (size_t)n < r->cap - r->len)
		r->len += (size_t)n;
	else
		r->text[r->len] = 0; /* full: what is there says enough */
}

static bool owned(const struct spawner *sp, const char *name)
{
	return box_owns(sp, name) || job_exists(sp, name) || clean_will(sp, name);
}

static void look_at_cgroup(void *arg, const char *id)
{
	struct report *r = arg;

	if (!owned(r->sp, id))
		add(r, "cgroup %s/%s\n", r->sp->host.name, id);
}

static void look_at_folders(struct report *r)
{
	int fd = openat(r->sp->host.sandboxes_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && !owned(r->sp, e->d_name))
			add(r, "folder %s/sandboxes/%s\n", r->sp->host.data, e->d_name);
	if (d)
		closedir(d);
	else
		fd_close(fd);
}

/* -- processes --------------------------------------------------------------------------------------------------- */
static void read_proc(const char *pid, const char *file, char *ret, size_t cap)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, file);
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, ret, cap - 1);
	ret[n > 0 ? n : 0] = 0;
}

/* Below orw-<hash> of the v2 tree ("0::/..."), but of no living owner. */
static bool in_stray_cgroup(const struct report *r, char *text)
{
	char *at = strstr(text, "0::"), *name;
	size_t n = strlen(r->sp->host.name);

	name = at ? strstr(at, r->sp->host.name) : NULL;
	if (!name || name[n] != '/')
		return false;
	name += n + 1;
	name[strcspn(name, "/\n")] = 0;
	return !box_owns(r->sp, name) && !job_exists(r->sp, name);
}

static void look_at_process(struct report *r, const char *pid)
{
	char text[4096];
	const char *line;
	unsigned int uid = 0;
	bool stray;

	read_proc(pid, "status", text, sizeof(text));
	line = strstr(text, "\nUid:");
	if (!line || sscanf(line, "\nUid: %u", &uid) != 1 || strstr(text, "\nState:\tZ"))
		return;
	stray = ids_ours(&r->sp->ids, uid) && !ids_taken(&r->sp->ids, uid);
	read_proc(pid, "cgroup", text, sizeof(text));
	if (stray || in_stray_cgroup(r, text))
		add(r, "process %s (uid %u)\n", pid, uid);
}

static void look_at_processes(struct report *r)
{
	DIR *d = opendir("/proc");
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
			look_at_process(r, e->d_name);
	if (d)
		closedir(d);
}

/* -- mounts ------------------------------------------------------------------------------------------------------ */
/* Ours are the prepared /dev, what is put over hidden places, and cgroup trees, and those in our own namespace only. */
static bool is_prepared(const char *below)
{
	return str_starts(below, ".stage/dev") || str_starts(below, ".stage/no-") || str_starts(below, ".stage/cg-");
}

static void look_at_mounts(struct report *r, const char *file, bool own)
{
	char line[4096], target[1024], prefix[HOST_PATH_MAX + 16];
	FILE *f = fopen(file, "re");

	snprintf(prefix, sizeof(prefix), "%s/sandboxes/", r->sp->host.data);
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %*s %*s %*s %1023s", target) != 1 || !str_starts(target, prefix))
			continue;
		if (!own || !is_prepared(target + strlen(prefix)))
			add(r, "mount %s%s\n", target, own ? "" : " in the host's namespace");
	}
	if (f)
		fclose(f);
}

void leaks_find(struct spawner *sp, char *ret, size_t cap)
{
	struct report r = { .sp = sp, .text = ret, .cap = cap };

	ret[0] = 0;
	cgroups_each(&sp->host.cg, look_at_cgroup, &r);
	look_at_folders(&r);
	look_at_processes(&r);
	look_at_mounts(&r, "/proc/self/mountinfo", true);
	look_at_mounts(&r, "/proc/1/mountinfo", false);
}
