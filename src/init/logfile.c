#include "init/logfile.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/macros.h"

/* Lines that go out together; the longest fits. One for all: between two calls there is nothing in it. */
static char batch[2 * LOGFILE_LINE_MAX];
static size_t batched;

struct logfile *logfile_new(int fd, const char *id, size_t id_len)
{
	struct logfile *l = calloc(1, sizeof(*l));

	if (l)
		l->line = malloc(LOGFILE_LINE_MAX);
	if (!l || !l->line) {
		free(l);
		fd_close(fd);
		return NULL;
	}
	l->fd = fd;
	size_t len = strnlen(id, id_len), n = MIN(len, (size_t)LOGLINE_TAG_LEN); /* a text may bring its NUL */
	memcpy(l->tag, id + len - n, n);
	return l;
}

static void flush(const struct logfile *l)
{
	/* A full disk loses lines; the server must not stop for that. */
	if (batched)
		(void)!fd_write_all(l->fd, batch, batched);
	batched = 0;
}

static void put_line(struct logfile *l, const char *head)
{
	if (batched + LOGLINE_HEAD_LEN + l->len + 1 > sizeof(batch))
		flush(l);
	memcpy(batch + batched, head, LOGLINE_HEAD_LEN);
	memcpy(batch + batched + LOGLINE_HEAD_LEN, l->line, l->len);
	batched += LOGLINE_HEAD_LEN + l->len;
	batch[batched++] = '\n';
	l->len = 0;
}

void logfile_add(struct logfile *l, const char *p, size_t len)
{
	char head[LOGLINE_HEAD_LEN + 1];

	logline_head(l->tag, head);
	while (len) {
		const char *end = memchr(p, '\n', len);
		size_t n = MIN(end ? (size_t)(end - p) : len, (size_t)LOGFILE_LINE_MAX - l->len);

		memcpy(l->line + l->len, p, n);
		l->len += n;
		p += n;
		len -= n;
		if (len && *p == '\n') {
			p++;
			len--;
			put_line(l, head);
		} else if (l->len == LOGFILE_LINE_MAX) {
			put_line(l, head);
		}
	}
	flush(l);
}

struct logfile *logfile_free(struct logfile *l)
{
	char head[LOGLINE_HEAD_LEN + 1];

	if (!l)
		return NULL;
	if (l->len)
		put_line(l, logline_head(l->tag, head));
	flush(l);
	fd_close(l->fd);
	free(l->line);
	free(l);
	return NULL;
}
