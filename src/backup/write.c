/* backup/write.c: the whole file, in its order. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "backup/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "json/json.h"
#include "store/store.h"

#define SIGN_OF_LIFE_MS 5000 /* clients give up on a minute's silence */

static int put_text(struct writer *w, const char *name, const struct buf *text)
{
	const struct tar_member m = { .name = name, .type = TAR_FILE, .mode = 0600, .size = text->len,
				      .mtime_s = time_wall_ms() / 1000 };
	int r = tar_header(&w->buf, &m);

	r = r < 0 ? r : buf_append(&w->buf, text->data, text->len);
	r = r < 0 ? r : tar_pad(&w->buf, text->len);
	return r < 0 ? r : writer_flush(w);
}

static void write_head(struct json_writer *j, const char *created)
{
	json_kv_i64(j, "format", BACKUP_FORMAT);
	json_kv_str(j, "program", OPENREWARD_VERSION);
	json_kv_i64(j, "schema", store_schema_version());
	json_kv_str(j, "created", created);
}

static void write_parts(struct json_writer *j, struct sums *s)
{
	char hex[65];

	json_key(j, "parts");
	json_open_array(j);
	for (size_t i = 0; i < BACKUP_N_PARTS; i++) {
		sums_hex(s, (enum backup_part)i, hex);
		json_open_object(j);
		json_kv_str(j, "name", backup_part_name((enum backup_part)i));
		json_kv_i64(j, "files", (int64_t)s->part[i].files);
		json_kv_i64(j, "bytes", (int64_t)s->part[i].bytes);
		json_kv_str(j, "sha256", hex);
		json_close(j);
	}
	json_close(j);
}

/* The head, or with sums the manifest. */
static int put_json(struct writer *w, const char *name, const char *created, bool sums)
{
	auto_buf struct buf b = { 0 };
	struct json_writer j;

	buf_init(&b, BUF_UNLIMITED);
	json_write_begin(&j, &b);
	json_open_object(&j);
	write_head(&j, created);
	if (sums) {
		write_parts(&j, &w->sums);
		json_kv_i64(&j, "changed", (int64_t)w->changed);
		json_kv_i64(&j, "unreadable", (int64_t)w->unreadable);
	}
	json_close(&j);
	int r = json_write_end(&j);
	r = r < 0 ? r : buf_puts(&b, "\n");
	return r < 0 ? r : put_text(w, name, &b);
}

/* -- the database -------------------------------------------------------------------------------------------------- */

struct snapshot {
	struct writer *w;
	const char *created;
	bool head;
};

/* A failure of the first seconds can still be told in place of a file. */
static int on_copying(void *arg, uint64_t done, uint64_t total, struct err *err)
{
	struct snapshot *s = arg;
	struct writer *w = s->w;
	char text[64];

	(void)err;
	if (time_now_ms() - w->wrote_ms < SIGN_OF_LIFE_MS)
		return 0;
	int r = s->head ? 0 : put_json(w, BACKUP_HEAD, s->created, false);
	s->head = true;
	snprintf(text, sizeof(text), "the database: %llu of %llu pages", (unsigned long long)done, (unsigned long long)total);
	r = r < 0 ? r : tar_comment(&w->buf, text);
	return r < 0 ? r : writer_flush(w);
}

/* The copy has no name any more once it is open: nothing is left of it, whatever happens. */
static int copy_database(struct snapshot *s, const char *data, int *ret_fd)
{
	auto_free char *from = xasprintf("%s/" BACKUP_DATABASE_FILE, data);
	auto_free char *to = xasprintf("%s/run/backup.db", data);
	struct err *err = s->w->err;

	(void)unlink(to);
	int r = store_snapshot(from, to, on_copying, s, err);
	if (r == 0) {
		*ret_fd = open(to, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		r = *ret_fd < 0 ? err_sys(err, "opening %s", to) : 0;
	}
	(void)unlink(to);
	return r;
}

/* Nobody writes to it, and all of it is in the one file. */
static int open_database(struct writer *w, const char *data, int *ret_fd)
{
	auto_free char *path = xasprintf("%s/" BACKUP_DATABASE_FILE, data);
	int r = store_settle(path, w->err);

	if (r < 0)
		return r;
	*ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? err_sys(w->err, "opening %s", path) : 0;
}

static int put_database(struct writer *w, const struct backup_settings *settings, const char *created)
{
	struct snapshot s = { .w = w, .created = created };
	auto_fd fd = -1;
	int r = settings->offline ? open_database(w, settings->data_dir, &fd) : copy_database(&s, settings->data_dir, &fd);

	if (r == 0 && !s.head)
		r = put_json(w, BACKUP_HEAD, created, false);
	return r < 0 ? r : writer_file(w, fd, BACKUP_DATABASE_FILE);
}

/* -- the rest ------------------------------------------------------------------------------------------------------ */

/* After the database: a key is there before what was sealed with it. */
static int put_key(struct writer *w, const char *name, bool required)
{
	auto_fd fd = openat(w->data, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 && errno == ENOENT && !required)
		return 0;
	return fd < 0 ? err_sys(w->err, "opening %s", name) : writer_file(w, fd, name);
}

static int put_all(struct writer *w, const struct backup_settings *s)
{
	char created[TIME_ISO_LEN];

	time_iso(time_wall_ms(), created);
	int r = put_database(w, s, created);
	r = r < 0 ? r : put_key(w, "admin.key", true);
	r = r < 0 ? r : put_key(w, "secrets.key", false);
	r = r < 0 ? r : tree_git(w);
	r = r < 0 ? r : tree_sources(w);
	r = r < 0 || !s->buckets ? r : tree_buckets(w);
	r = r < 0 ? r : put_json(w, BACKUP_MANIFEST, created, true);
	r = r < 0 ? r : tar_end(&w->buf);
	return r < 0 ? r : writer_flush(w);
}

/* Between members, where every failure but that to write leaves the stream. */
static void tell(struct writer *w)
{
	auto_buf struct buf text = { 0 };
	struct err why;

	err_copy(&why, w->err);
	buf_init(&text, BUF_UNLIMITED);
	buf_clear(&w->buf);
	if (buf_printf(&text, "%s\n", why.msg) == 0 && put_text(w, BACKUP_FAILED, &text) == 0 && tar_end(&w->buf) == 0)
		(void)!writer_flush(w);
	err_copy(w->err, &why);
}

/* One at a time, because of the copy's name. */
static int take_turn(int data, int *ret_fd, struct err *err)
{
	auto_fd fd = openat(data, "run/backup.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(err, "opening run/backup.lock of the data directory");
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? err_set(err, -EBUSY, "another backup is being made") : err_sys(err, "locking run/backup.lock");
	*ret_fd = fd_steal(&fd);
	return 0;
}

static void writer_done(struct writer *w)
{
	sums_done(&w->sums);
	buf_done(&w->buf);
	free(w->copy);
}

int backup_write(int out_fd, const struct backup_settings *s, bool *ret_begun, struct err *err)
{
	auto_fd data = open(s->data_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_fd turn = -1;
	AUTO(writer_done) struct writer w = { .out = out_fd, .data = data, .copy = xmalloc(BACKUP_COPY_BYTES), .err = err,
					      .wrote_ms = time_now_ms() };

	*ret_begun = false;
	buf_init(&w.buf, BUF_UNLIMITED);
	if (data < 0)
		return err_sys(err, "opening %s", s->data_dir);
	int r = s->offline ? 0 : take_turn(data, &turn, err);
	r = r < 0 ? r : sums_init(&w.sums, err);
	r = r < 0 ? r : put_all(&w, s);
	if (r < 0 && w.begun && r != -EPIPE)
		tell(&w);
	*ret_begun = w.begun;
	return r;
}
