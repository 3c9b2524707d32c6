/* env/log.c: what instances write: DATA/logs/<deployment>, lines of base/logline.h, appended to by the init of each. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/logline.h"
#include "base/mem.h"
#include "env/private.h"

struct deployment_log { /* at store_deployment.user, made when something is cut off, freed with the envs */
	uint64_t cut; /* bytes that went from its beginning since the start of the daemon */
};

char *env_log_path(const struct envs *e, const struct store_deployment *d)
{
	return xasprintf("%s/logs/%s", e->settings.data_dir, d->id);
}

int env_log_open(const struct envs *e, const struct store_deployment *d, struct err *err)
{
	auto_free char *path = env_log_path(e, d);
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

	return fd < 0 ? err_sys(err, "open the instance's log %s", path) : fd;
}

uint64_t env_log_cut(const struct store_deployment *d)
{
	const struct deployment_log *l = d->user;

	return l ? l->cut : 0;
}

static void count_cut(struct store_deployment *d, uint64_t bytes)
{
	struct deployment_log *l = d->user ? d->user : NEW(struct deployment_log);

	l->cut += bytes;
	d->user = l;
}

void env_logs_free(struct store_environment *record)
{
	list_foreach(&record->deployments, struct store_deployment, of_environment, d) {
		free(d->user);
		d->user = NULL;
	}
}

/* Where the file system cannot take a piece away: what is written meanwhile is lost. */
static bool copy_down(int fd, off_t size, size_t keep)
{
	auto_free char *p = xmalloc(keep);
	ssize_t n = pread(fd, p, keep, size - (off_t)keep);

	return n > 0 && ftruncate(fd, 0) == 0 && write(fd, p, (size_t)n) == n;
}

/* In place, because several inits hold the same open file, and append. */
void env_log_trim(const struct envs *e, struct store_deployment *d, int fd)
{
	uint64_t max = e->settings.instance_log_bytes;
	struct stat st;

	if (!max || fstat(fd, &st) < 0 || (uint64_t)st.st_size <= max)
		return;
	uint64_t cut = (uint64_t)st.st_size - max / 2, blocks = cut - cut % (uint64_t)MAX(st.st_blksize, (blksize_t)1);
	if (blocks && fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, (off_t)blocks) == 0)
		count_cut(d, blocks);
	else if (copy_down(fd, st.st_size, max / 2))
		count_cut(d, (uint64_t)st.st_size - max / 2);
}

/* Of the text up to *n, which is cut in front of the line. */
static const char *take_last(char *text, size_t *n)
{
	while (*n && strchr("\r\n ", text[*n - 1]))
		(*n)--;
	text[*n] = '\0';
	const char *newline = strrchr(text, '\n'), *line = newline ? newline + 1 : text;
	size_t skip = logline_skip(line, strlen(line));
	bool empty = strlen(line) + 1 == LOGLINE_HEAD_LEN && logline_is_stamped(line, strlen(line)); /* its last blank went above */

	*n = (size_t)(line - text);
	return empty ? "" : line + skip;
}

char *env_log_last_line(int fd)
{
	char tail[ENV_LOG_TAIL_BYTES + 1];
	const char *line = "";
	struct stat st;

	if (fstat(fd, &st) < 0)
		return xstrdup("");
	off_t from = st.st_size > ENV_LOG_TAIL_BYTES ? st.st_size - ENV_LOG_TAIL_BYTES : 0;
	ssize_t got = pread(fd, tail, ENV_LOG_TAIL_BYTES, from);
	for (size_t n = (size_t)MAX(got, (ssize_t)0); n && !*line;)
		line = take_last(tail, &n);
	return xstrndup(line, 400);
}
