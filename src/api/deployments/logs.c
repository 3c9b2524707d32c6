#include "api/deployments/logs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "json/json.h"

/* -- reading files ------------------------------------------------------------------------------------------------- */

static int read_from(int fd, off_t from, off_t size, struct buf *text)
{
	char *p;

	while (from < size) {
		int r = buf_reserve(text, (size_t)(size - from), &p);
		if (r < 0)
			return r;
		ssize_t n = pread(fd, p, (size_t)(size - from), from);
		if (n <= 0)
			return 0; /* cut meanwhile: what is there is the answer */
		buf_commit(text, (size_t)n);
		from += n;
	}
	return 0;
}

/* Negative errno; a file that is not there is empty. */
static int read_tail(const char *path, size_t max, struct buf *text, struct stat *st)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	*st = (struct stat){ 0 };
	if (fd < 0 || fstat(fd, st) < 0)
		return errno == ENOENT ? 0 : -errno;
	off_t from = st->st_size > (off_t)max ? st->st_size - (off_t)max : 0;
	int r = read_from(fd, from, st->st_size, text);
	if (r == 0 && from && text->len) { /* begins inside a line */
		const char *end = memchr(text->data, '\n', text->len);
		buf_consume(text, end ? (size_t)(end + 1 - text->data) : text->len);
	}
	return r;
}

void log_sources_read(struct log_source *sources, size_t n, size_t max)
{
	struct stat st;

	for (struct log_source *s = sources; s < sources + n; s++) {
		buf_init(&s->text, max + 1);
		if (read_tail(s->path, max, &s->text, &st) < 0)
			buf_clear(&s->text);
		s->modified_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
		s->end = (uint64_t)st.st_size;
	}
}

void log_sources_free(struct log_source *sources, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(sources[i].path);
		buf_done(&sources[i].text);
	}
	free(sources);
}

/* -- merging ----------------------------------------------------------------------------------------------------------- */

/* One line: its place in the order is the time at which it was seen, or that of the stamped line before it. */
struct line {
	const struct log_source *source;
	const char *stamp; /* TIME_ISO_LEN - 1 bytes; NULL = before all others */
	const char *text;
	size_t len;
	size_t number; /* keeps the order of lines of one time */
};

struct line_list {
	struct line *list;
	size_t n, room;
};

static void add_line(struct line_list *l, const struct line *x)
{
	if (l->n == l->room) {
		l->room = l->room ? 2 * l->room : 256;
		l->list = xrealloc(l->list, l->room * sizeof(*l->list));
	}
	l->list[l->n] = *x;
	l->list[l->n].number = l->n;
	l->n++;
}

static void add_source(struct line_list *l, const struct log_source *s, const char *since)
{
	const char *p = s->text.data, *end = p + s->text.len, *stamp = NULL;

	while (p && p < end) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t len = newline ? (size_t)(newline - p) : (size_t)(end - p);
		size_t skip = logline_skip(p, len);
		stamp = skip ? p : stamp;
		/* A line without a text says nothing. */
		if (len > skip && (!*since || (stamp && strncmp(stamp, since, TIME_ISO_LEN - 1) >= 0)))
			add_line(l, &(struct line){ .source = s, .stamp = stamp, .text = p, .len = len });
		p += len + 1;
	}
}

static int by_time(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	int r = !x->stamp || !y->stamp ? !!x->stamp - !!y->stamp : strncmp(x->stamp, y->stamp, TIME_ISO_LEN - 1);

	return r ? r : x->number < y->number ? -1 : 1;
}

static void read_line(const struct line *l, struct logentry *e)
{
	logentry_read(e, l->text, l->len, l->source->modified_ms);
}

/* Where the last `limit` lines that are severe enough begin: lines are looked at from their end, and no more than needed. */
static size_t first_shown(const struct line_list *l, const struct log_query *q)
{
	size_t at = l->n;
	uint64_t found = 0;

	if (q->severity == LOG_SEVERITY_DEFAULT)
		return l->n > q->limit ? l->n - (size_t)q->limit : 0;
	while (at && found < q->limit) {
		struct logentry e;
		read_line(&l->list[--at], &e);
		found += e.severity >= q->severity;
		logentry_done(&e);
	}
	return at;
}

void log_sources_merge(const struct log_source *sources, size_t n, const struct log_query *q, log_entry_fn *fn, void *arg)
{
	struct line_list l = { .list = NULL };

	for (size_t i = 0; i < n; i++)
		add_source(&l, &sources[i], q->since);
	if (l.n)
		qsort(l.list, l.n, sizeof(*l.list), by_time);
	for (size_t i = q->limit ? first_shown(&l, q) : l.n; i < l.n; i++) {
		struct logentry e;
		read_line(&l.list[i], &e);
		if (e.severity >= q->severity)
			fn(arg, l.list[i].source, &e);
		logentry_done(&e);
	}
	free(l.list);
}

/* -- answers ----------------------------------------------------------------------------------------------------------- */

struct reading { /* lives until the worker is done, which reads the files and writes the answer */
	struct http_req *req; /* NULL = the client is gone */
	char *path;           /* of a text; NULL = entries */
	struct buf text;
	int error;            /* negative errno */
	struct log_source *sources;
	size_t n;
	struct log_query query;
	struct buf answer;
};

struct writing {
	struct json_writer *w;
	bool labelled;
};

static void write_entry(void *arg, const struct log_source *s, const struct logentry *e)
{
	const struct writing *x = arg;

	logentry_write(x->w, e, x->labelled ? s->id : NULL);
}

static void write_answer(struct json_writer *w, struct reading *rd)
{
	json_open_object(w);
	if (rd->path) {
		json_key(w, "logs");
		json_str_len(w, rd->text.data ? rd->text.data : "", rd->text.len);
	} else {
		json_key(w, "entries");
		json_open_array(w);
		log_sources_merge(rd->sources, rd->n, &rd->query, write_entry,
				  &(struct writing){ .w = w, .labelled = rd->query.labelled });
		json_close(w);
	}
	if (rd->query.status)
		json_kv_str(w, "status", rd->query.status);
	json_close(w);
}

static void on_work(void *arg)
{
	struct reading *rd = arg;
	struct json_writer w;
	struct stat st;

	if (rd->path)
		rd->error = read_tail(rd->path, LOGS_TEXT_MAX, &rd->text, &st);
	else
		log_sources_read(rd->sources, rd->n, LOGS_TEXT_MAX);
	json_write_begin(&w, &rd->answer);
	write_answer(&w, rd);
	if (rd->error == 0)
		rd->error = json_write_end(&w);
}

static void on_read(void *arg)
{
	struct reading *rd = arg;

	if (rd->req) {
		http_req_on_close(rd->req, NULL, NULL);
		if (rd->error)
			http_reply_error(rd->req, 500, "the log cannot be read: %s", strerror(-rd->error));
		else
			http_reply_json(rd->req, 200, &rd->answer);
	}
	buf_done(&rd->text);
	buf_done(&rd->answer);
	log_sources_free(rd->sources, rd->n);
	free(rd->path);
	free(rd);
}

static void on_gone(struct http_req *req, bool complete, void *arg)
{
	struct reading *rd = arg;

	(void)req;
	(void)complete;
	rd->req = NULL;
}

static void start(struct http_req *req, const struct reading *as)
{
	struct reading *rd = NEW(struct reading);

	*rd = *as;
	rd->req = req;
	buf_init(&rd->text, LOGS_TEXT_MAX + 1);
	buf_init(&rd->answer, 16u * LOGS_TEXT_MAX); /* escapes make text longer */
	http_req_on_close(req, on_gone, rd);
	loop_work(http_req_loop(req), LOOP_LANE_ANY, on_work, on_read, rd);
}

void logs_reply_text(struct http_req *req, const char *path, const char *status)
{
	start(req, &(struct reading){ .path = xstrdup(path), .query = { .status = status } });
}

void logs_reply_entries(struct http_req *req, struct log_source *sources, size_t n, const struct log_query *q)
{
	start(req, &(struct reading){ .sources = sources, .n = n, .query = *q });
}
