/* When each image was last used. See private.h. */
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "image/private.h"
#include "image/record.h"
#include "json/json.h"

#define FILE_MAX (16u << 20)
#define WRITE_AFTER_MS 30000 /* a burst of creates is one write */

struct uses {
	struct loop *loop;
	const char *data_dir;
	struct map *last; /* name -> int64_t *, ms since 1970 */
	struct loop_timer write;
};

struct writing { /* one write on its way through a worker */
	char *path, *text;
};

static char *path_of(const struct uses *u)
{
	return xasprintf("%s/image-uses.json", u->data_dir);
}

static void put(struct uses *u, const char *name, int64_t at_ms)
{
	int64_t *at = map_get(u->last, name);

	if (!at)
		map_put(u->last, name, at = NEW(int64_t));
	*at = at_ms;
}

/* What has no record any more is left out, so that the file does not grow for ever. */
static bool is_here(const struct uses *u, const char *name)
{
	auto_free char *path = image_record_path(u->data_dir, name);
	struct stat st;

	return strlen(name) <= 1024 && stat(path, &st) == 0;
}

static void load(struct uses *u)
{
	auto_buf struct buf text = { 0 };
	auto_free char *path = path_of(u);
	auto_json doc = NULL;
	const char *name;
	json_t *at;

	buf_init(&text, FILE_MAX);
	if (fd_read_file(path, &text, NULL) < 0 || json_read_object(&doc, text.data, text.len, NULL) < 0)
		return;
	json_object_foreach(doc, name, at) {
		if (json_integer_value(at) > 0 && is_here(u, name))
			put(u, name, json_integer_value(at));
	}
}

static char *text_of(const struct uses *u)
{
	auto_buf struct buf text = { 0 };
	struct map_iter it = { 0 };
	struct json_writer w;

	buf_init(&text, FILE_MAX);
	json_write_begin(&w, &text);
	json_open_object(&w);
	while (map_next(u->last, &it))
		json_kv_i64(&w, it.key, *(int64_t *)it.value);
	json_close(&w);
	return json_write_end(&w) < 0 ? NULL : buf_steal(&text, NULL);
}

static void write_file(void *arg)
{
	struct writing *x = arg;

	if (x->text)
		(void)!fd_write_file(x->path, x->text, strlen(x->text), 0600, NULL);
}

static void written(void *arg)
{
	struct writing *x = arg;

	free(x->path);
	free(x->text);
	free(x);
}

static struct writing *begin(const struct uses *u)
{
	struct writing *x = NEW(struct writing);

	*x = (struct writing){ .path = path_of(u), .text = text_of(u) };
	return x;
}

static void on_write(struct loop_timer *t UNUSED, void *arg)
{
	struct uses *u = arg;

	loop_work(u->loop, LOOP_LANE_ANY, write_file, written, begin(u));
}

struct uses *uses_open(struct loop *l, const char *data_dir)
{
	struct uses *u = NEW(struct uses);

	u->loop = l;
	u->data_dir = data_dir;
	u->last = map_new();
	loop_timer_init(&u->write, l, on_write, u);
	load(u);
	return u;
}

struct uses *uses_close(struct uses *u)
{
	struct map_iter it = { 0 };

	if (loop_timer_armed(&u->write)) {
		struct writing *x = begin(u);
		write_file(x);
		written(x);
	}
	loop_timer_stop(&u->write);
	while (map_next(u->last, &it))
		free(it.value);
	map_free(u->last);
	free(u);
	return NULL;
}

static void changed(struct uses *u)
{
	if (!loop_timer_armed(&u->write))
		loop_timer_start(&u->write, WRITE_AFTER_MS);
}

void uses_set(struct uses *u, const char *name, int64_t at_ms)
{
	put(u, name, at_ms);
	changed(u);
}

int64_t uses_get(const struct uses *u, const char *name)
{
	const int64_t *at = map_get(u->last, name);

	return at ? *at : 0;
}

void uses_forget(struct uses *u, const char *name)
{
	free(map_del(u->last, name));
	changed(u);
}
