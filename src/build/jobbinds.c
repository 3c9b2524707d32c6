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
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
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

static int mount_id(int fd)
{
	auto_free char *path = xasprintf("/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	char line[128];
	int id = -1;

	while (f && id < 0 && fgets(line, sizeof(line), f))
		(void)!sscanf(line, "mnt_id: %d", &id);
	if (f)
		fclose(f);
	return id;
}

/* A line of mountinfo; false when it is another mount's. */
static bool read_mount(char *line, int id, const char *real, struct place *ret)
{
	static char root[LINE_MAX_BYTES], target[LINE_MAX_BYTES];
	const char *tail = strstr(line, " - ");
	int n;

	if (!tail || sscanf(line, "%d %*s %u:%u %s %s", &n, &ret->major, &ret->minor, root, target) != 5 || n != id ||
	    sscanf(tail, " - %31s", ret->type) != 1)
		return false;
	unescape(root);
	unescape(target);
	size_t len = strlen(target);
	if (strncmp(real, target, len) != 0)
		return false;
	const char *rest = real + (len > 1 ? len : 0);
	n = snprintf(ret->path, sizeof(ret->path), "%s%s", str_eq(root, "/") ? "" : root, str_eq(rest, "/") ? "" : rest);
	return (size_t)n < sizeof(ret->path);
}

static int place_of(const char *path, struct place *ret, struct err *err)
{
	char line[LINE_MAX_BYTES], real[PATH_MAX];
	bool found = false;

	if (!realpath(path, real))
		return err_sys(err, "look at %s", path);
	auto_fd fd = open(real, O_PATH | O_CLOEXEC);
	int id = fd < 0 ? -1 : mount_id(fd);
	FILE *f = fopen("/proc/self/mountinfo", "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = read_mount(line, id, real, ret);
	if (f)
		fclose(f);
	return found ? 0 : err_set(err, -EPERM, "cannot tell what %s is", path);
}

/* buildah mounts images in its store, the build's own, and nobody else mounts anything there. */
static bool is_in_image(const struct place *it, const char *store)
{
	FILE *f = str_eq(it->type, "overlay") ? fopen("/proc/self/mountinfo", "re") : NULL;
	static char line[LINE_MAX_BYTES], target[LINE_MAX_BYTES];
	unsigned major, minor;
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %*s %u:%u %*s %s", &major, &minor, target) != 3)
			continue;
		unescape(target);
		found = major == it->major && minor == it->minor && str_starts(target, store) && target[strlen(store)] == '/';
	}
	if (f)
		fclose(f);
	return found;
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
