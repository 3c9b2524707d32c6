/* Where the binds of a RUN step come from. buildah brings what a step asks for (--mount) to a place of its own in the bundle, so
 * the path in the bundle tells nothing: what is mounted there does. A Dockerfile may name things for which some versions of
 * buildah leave the folder that they are meant for (CVE-2024-9675: a cache's id with "..", CVE-2024-1753: a link in an image). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/str.h"
#include "build/jobpriv.h"

#define LINE_MAX_BYTES 16384

struct place { /* of a file: whatever is mounted where, this is what it is */
	unsigned major, minor;
	char type[32];
	char path[2 * PATH_MAX]; /* in its file system */
};

/* "\040" -> " ", as mountinfo has it; in place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++)
		if (*s == '\\' && s[1] && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	*to = 0;
}

struct mount {
	int id;
	unsigned major, minor;
	char root[LINE_MAX_BYTES], target[LINE_MAX_BYTES], type[32];
};

/* The next of /proc/self/mountinfo (proc(5)); false at the end. */
static bool next_mount(FILE *f, struct mount *m)
{
	static char line[LINE_MAX_BYTES];
	const char *tail;

	while (f && fgets(line, sizeof(line), f)) {
		tail = strstr(line, " - ");
		if (!tail || sscanf(line, "%d %*s %u:%u %s %s", &m->id, &m->major, &m->minor, m->root, m->target) != 5 ||
		    sscanf(tail, " - %31s", m->type) != 1)
			continue;
		unescape(m->root);
		unescape(m->target);
		return true;
	}
	return false;
}

/* Of the first mount for which is() holds. */
static bool find_mount(struct mount *m, bool (*is)(const struct mount *m, const void *arg), const void *arg)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	bool found = false;

	while (!found && next_mount(f, m))
		found = is(m, arg);
	if (f)
		fclose(f);
	return found;
}

static bool has_id(const struct mount *m, const void *id)
{
	return (uint64_t)m->id == *(const uint64_t *)id;
}

static int place_of(const char *path, struct place *ret, struct err *err)
{
	static struct mount m;
	char real[PATH_MAX];
	struct statx st;
	uint64_t id;

	if (!realpath(path, real) || statx(AT_FDCWD, real, 0, STATX_MNT_ID, &st) < 0)
		return err_sys(err, "look at %s", path);
	id = st.stx_mnt_id;
	if (!(st.stx_mask & STATX_MNT_ID) || !find_mount(&m, has_id, &id) || !str_starts(real, m.target))
		return err_set(err, -EPERM, "cannot tell what %s is", path);
	const char *rest = real + (str_eq(m.target, "/") ? 0 : strlen(m.target));
	*ret = (struct place){ .major = m.major, .minor = m.minor };
	snprintf(ret->type, sizeof(ret->type), "%s", m.type);
	int n = snprintf(ret->path, sizeof(ret->path), "%s%s", str_eq(m.root, "/") ? "" : m.root, str_eq(rest, "/") ? "" : rest);
	return (size_t)n < sizeof(ret->path) ? 0 : err_set(err, -ENAMETOOLONG, "%s", path);
}

struct image_place {
	const struct place *it;
	const char *store;
};

static bool is_mounted_in(const struct mount *m, const void *arg)
{
	const struct image_place *p = arg;

	return m->major == p->it->major && m->minor == p->it->minor && str_starts(m->target, p->store) &&
	       m->target[strlen(p->store)] == '/';
}

/* buildah mounts images in its store, the build's own, and nobody else mounts anything there. */
static bool is_in_image(const struct place *it, const char *store)
{
	static struct mount m;

	return str_eq(it->type, "overlay") && find_mount(&m, is_mounted_in, &(struct image_place){ it, store });
}

/* What follows dir, with its slash; NULL = it is not beneath. */
static const char *below(const struct place *it, const struct place *dir)
{
	size_t len = strlen(dir->path);

	return it->major == dir->major && it->minor == dir->minor && str_starts(it->path, dir->path) && it->path[len] == '/' ?
	       it->path + len : NULL;
}

/* Of a container: secrets and volumes. "/overlay-containers/ID/userdata/..." */
static bool is_userdata(const char *path)
{
	static const char first[] = "/overlay-containers/", second[] = "/userdata/";

	if (!path || !str_starts(path, first))
		return false;
	path += strlen(first);
	return str_starts(path + strcspn(path, "/"), second);
}

int job_check_bind(const char *source, const char *bundle, struct err *err)
{
	auto_free char *tmp = xasprintf("%s/..", bundle), *store = xasprintf("%s/../../store", bundle);
	struct place it, in_tmp, in_store;
	char real[PATH_MAX];
	int r = place_of(source, &it, err);

	r = r < 0 ? r : place_of(tmp, &in_tmp, err);
	r = r < 0 ? r : place_of(store, &in_store, err);
	if (r < 0)
		return r;
	const char *rest = below(&it, &in_tmp);
	if (rest && (str_starts(rest, "/buildah") || str_eq(rest, "/source") || str_starts(rest, "/source/")))
		return 0;
	if (is_userdata(below(&it, &in_store)) || (realpath(store, real) && is_in_image(&it, real)))
		return 0;
	return err_set(err, -EPERM, "the step may not have %.200s: expected a file of the source, of an image or of a cache",
		       *it.path ? it.path : "/");
}
