#include "api/logs.h"

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

struct reading { /* lives until the worker is done */
	struct http_req *req; /* NULL = the client is gone */
	char *path;
	const char *status;
	bool entries;
	uint64_t limit;       /* of entries */
	struct buf text;      /* the worker's until on_read */
	int64_t modified_ms;
	int error;            /* negative errno */
};

static void read_tail(struct reading *rd, int fd, off_t size)
{
	off_t from = size > LOGS_TEXT_MAX ? size - LOGS_TEXT_MAX : 0;
	char *p;

	while (from < size) {
		rd->error = buf_reserve(&rd->text, (size_t)(size - from), &p);
		if (rd->error)
			return;
		ssize_t n = pread(fd, p, (size_t)(size - from), from);
		if (n <= 0)
			return; /* cut meanwhile: what is there is the answer */
		buf_commit(&rd->text, (size_t)n);
		from += n;
	}
}

static void on_work(void *arg)
{
	struct reading *rd = arg;
	auto_fd fd = open(rd->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		rd->error = errno == ENOENT ? 0 : -errno;
		return;
	}
	rd->modified_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
	read_tail(rd, fd, st.st_size);
	if (st.st_size > LOGS_TEXT_MAX) /* begins inside a line */
		buf_consume(&rd->text, strcspn(rd->text.data, "\n"));
}

/* -- entries --------------------------------------------------------------------------------------------------- */

/* What loggers call the same thing; NULL = none of them is there. */
static const char *member(json_t *obj, const char *const *names)
{
	for (; *names; names++) {
		json_t *v = json_object_get(obj, *names);
		if (json_is_string(v))
			return json_string_value(v);
	}
	return NULL;
}

static const char *const message_names[] = { "message", "msg", "event", NULL };
static const char *const severity_names[] = { "severity", "level", NULL };
static const char *const time_names[] = { "timestamp", "time", NULL };

static void put_entry(struct json_writer *w, const char *timestamp, const char *severity, const char *message, size_t len)
{
	json_open_object(w);
	json_kv_str(w, "timestamp", timestamp);
	json_kv_str(w, "severity", severity);
	json_key(w, "message");
	json_str_len(w, message, len);
	json_close(w);
}

static bool is_stamped(const char *line, size_t len)
{
	return len >= TIME_ISO_LEN && line[4] == '-' && line[10] == 'T' && line[TIME_ISO_LEN - 2] == 'Z' &&
	       line[TIME_ISO_LEN - 1] == ' ';
}

static void write_entry(struct json_writer *w, const char *line, size_t len, const char *file_time)
{
	auto_json obj = NULL;

	if (len && line[0] == '{' && json_read_object(&obj, line, len, NULL) == 0 && member(obj, message_names)) {
		const char *message = member(obj, message_names), *severity = member(obj, severity_names);
		const char *when = member(obj, time_names);
		put_entry(w, when ? when : file_time, severity ? severity : "INFO", message, strlen(message));
		return;
	}
	if (is_stamped(line, len)) {
		char stamp[TIME_ISO_LEN];
		snprintf(stamp, sizeof(stamp), "%.*s", TIME_ISO_LEN - 1, line);
		put_entry(w, stamp, "INFO", line + TIME_ISO_LEN, len - TIME_ISO_LEN);
		return;
	}
	put_entry(w, file_time, "INFO", line, len);
}

/* Where the last `limit` lines begin. */
static const char *last_lines(const struct buf *b, uint64_t limit)
{
	const char *p = b->data + b->len;

	if (p > b->data && p[-1] == '\n')
		p--;
	while (limit && p > b->data) {
		p--;
		if (*p == '\n' && --limit == 0)
			return p + 1;
	}
	return limit ? b->data : b->data + b->len;
}

static void write_entries(struct json_writer *w, const struct reading *rd)
{
	const char *end = rd->text.data + rd->text.len;
	char file_time[TIME_ISO_LEN];

	time_iso(rd->modified_ms, file_time);
	json_key(w, "entries");
	json_open_array(w);
	for (const char *p = last_lines(&rd->text, rd->limit); p < end;) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t len = newline ? (size_t)(newline - p) : (size_t)(end - p);
		if (len)
			write_entry(w, p, len, file_time);
		p += len + 1;
	}
	json_close(w);
}

/* -- the answer ------------------------------------------------------------------------------------------------ */

static void reply(struct reading *rd)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16u * LOGS_TEXT_MAX); /* escapes make text longer */
	json_write_begin(&w, &b);
	json_open_object(&w);
	if (rd->entries) {
		write_entries(&w, rd);
	} else {
		json_key(&w, "logs");
		json_str_len(&w, rd->text.data, rd->text.len);
	}
	json_kv_str(&w, "status", rd->status);
	json_close(&w);
	if (json_write_end(&w) == 0)
		http_reply_json(rd->req, 200, &b);
	else
		http_reply_error(rd->req, 500, "the log is too large");
}

static void on_read(void *arg)
{
	struct reading *rd = arg;

	if (rd->req) {
		http_req_on_close(rd->req, NULL, NULL);
		if (rd->error)
			http_reply_error(rd->req, 500, "the log cannot be read: %s", strerror(-rd->error));
		else
			reply(rd);
	}
	buf_done(&rd->text);
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

static struct reading *start(struct http_req *req, const char *path, const char *status)
{
	struct reading *rd = NEW(struct reading);

	rd->req = req;
	rd->path = xstrdup(path);
	rd->status = status;
	buf_init(&rd->text, LOGS_TEXT_MAX);
	http_req_on_close(req, on_gone, rd);
	return rd;
}

void logs_reply_text(struct http_req *req, const char *path, const char *status)
{
	loop_work(http_req_loop(req), LOOP_LANE_ANY, on_work, on_read, start(req, path, status));
}

void logs_reply_entries(struct http_req *req, const char *path, uint64_t limit, const char *status)
{
	struct reading *rd = start(req, path, status);

	rd->entries = true;
	rd->limit = limit;
	loop_work(http_req_loop(req), LOOP_LANE_ANY, on_work, on_read, rd);
}
