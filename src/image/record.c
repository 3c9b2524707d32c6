#include "image/record.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "image/ref.h"
#include "json/json.h"

struct image *image_new(void)
{
	struct image *i = NEW(struct image);

	i->refs = 1;
	return i;
}

struct image *image_ref(struct image *i)
{
	i->refs++;
	return i;
}

struct image *image_unref(struct image *i)
{
	if (!i || --i->refs)
		return NULL;
	for (size_t k = 0; k < i->n_layers; k++)
		free(i->layers[k]);
	free(i->layers);
	free(i->layer_bytes);
	strv_free(i->env);
	strv_free(i->entrypoint);
	strv_free(i->cmd);
	free(i->name);
	free(i->digest);
	free(i->workdir);
	free(i->user);
	free(i);
	return NULL;
}

char *image_record_path(const char *data_dir, const char *name)
{
	auto_free char *file = xstrdup(name);

	for (char *p = file; *p; p++)
		*p = *p == '/' ? '+' : *p == ':' ? '=' : *p;
	return xasprintf("%s/images/records/%s.json", data_dir, file);
}

/* -- reading ------------------------------------------------------------------------------------------------- */
/* Empty where it is absent. */
static int read_list(json_t *obj, const char *key, char ***ret, struct err *err)
{
	int r = json_get_strv(obj, key, ret, err);

	if (r == 0 && !*ret)
		*ret = strv_dup(NULL);
	return r;
}

static int read_text(json_t *obj, const char *key, const char *fallback, char **ret, struct err *err)
{
	const char *s = fallback;

	int r = fallback ? json_get_str(obj, key, &s, err) : json_need_str(obj, key, &s, err);
	if (r < 0)
		return r;
	*ret = xstrdup(s);
	return 0;
}

/* A layer is opened by root beneath DATA/images: nothing but a plain relative path may come from here. */
static bool is_layer_path(const char *s)
{
	return *s && *s != '/' && !strstr(s, "..") && !strpbrk(s, ":,\\\n");
}

static int read_layers(json_t *obj, struct image *i, struct err *err)
{
	int r = read_list(obj, "layers", &i->layers, err);
	if (r < 0)
		return r;
	while (i->layers[i->n_layers])
		i->n_layers++;
	if (!i->n_layers || i->n_layers > IMAGE_LAYERS_MAX)
		return err_set(err, -EINVAL, "layers: %zu: expected 1 to %d", i->n_layers, IMAGE_LAYERS_MAX);
	for (size_t k = 0; k < i->n_layers; k++)
		if (!is_layer_path(i->layers[k]))
			return err_set(err, -EINVAL, "layers: \"%.100s\": expected a path below DATA/images",
				       i->layers[k]);
	return 0;
}

/* A record of before has none. */
static int read_layer_bytes(json_t *obj, struct image *i, struct err *err)
{
	json_t *array = NULL, *item;
	size_t k;

	int r = json_get_array(obj, "layer_bytes", &array, err);
	if (r < 0 || !array)
		return r;
	if (json_array_size(array) != i->n_layers)
		return err_set(err, -EINVAL, "layer_bytes: %zu of them: expected one for each of %zu layers",
			       json_array_size(array), i->n_layers);
	i->layer_bytes = xcalloc(i->n_layers, sizeof(*i->layer_bytes));
	json_array_foreach(array, k, item) {
		if (!json_is_integer(item) || json_integer_value(item) < 0)
			return err_set(err, -EINVAL, "layer_bytes: item %zu: expected a number of bytes", k);
		i->layer_bytes[k] = (uint64_t)json_integer_value(item);
	}
	return 0;
}

static int read_fields(json_t *obj, struct image *i, struct err *err)
{
	int64_t size = 0;
	int r;

	if ((r = read_text(obj, "name", NULL, &i->name, err)) < 0 ||
	    (r = read_text(obj, "digest", NULL, &i->digest, err)) < 0 || (r = read_layers(obj, i, err)) < 0 ||
	    (r = read_layer_bytes(obj, i, err)) < 0 ||
	    (r = read_list(obj, "env", &i->env, err)) < 0 ||
	    (r = read_list(obj, "entrypoint", &i->entrypoint, err)) < 0 ||
	    (r = read_list(obj, "cmd", &i->cmd, err)) < 0 ||
	    (r = read_text(obj, "workdir", "/", &i->workdir, err)) < 0 ||
	    (r = read_text(obj, "user", "", &i->user, err)) < 0 ||
	    (r = json_get_i64(obj, "size_bytes", 0, INT64_MAX, &size, err)) < 0 ||
	    (r = json_get_i64(obj, "created_ms", 0, INT64_MAX, &i->created_ms, err)) < 0)
		return r;
	i->size_bytes = (uint64_t)size;
	return 0;
}

int image_record_read(struct image **ret, const char *path, struct err *err)
{
	AUTO(image_freep) struct image *i = image_new();
	auto_buf struct buf text = { 0 };
	auto_json obj = NULL;

	buf_init(&text, IMAGE_RECORD_MAX);
	int r = fd_read_file(path, &text, err);
	if (r < 0)
		return r;
	r = json_read_object(&obj, text.data, text.len, err);
	if (r == 0)
		r = read_fields(obj, i, err);
	if (r < 0)
		return err_wrap(err, r, "image record %s", path);
	*ret = STEAL(i);
	return 0;
}

/* -- writing ------------------------------------------------------------------------------------------------- */
static int write_text(const struct image *i, struct buf *out)
{
	struct json_writer w;

	json_write_begin(&w, out);
	json_open_object(&w);
	json_kv_i64(&w, "version", 1);
	json_kv_str(&w, "name", i->name);
	json_kv_str(&w, "digest", i->digest);
	json_key(&w, "layers");
	json_open_array(&w);
	for (size_t k = 0; k < i->n_layers; k++)
		json_str(&w, i->layers[k]);
	json_close(&w);
	if (i->layer_bytes)
		json_kv_u64s(&w, "layer_bytes", i->layer_bytes, i->n_layers);
	json_kv_strv(&w, "env", i->env);
	json_kv_strv(&w, "entrypoint", i->entrypoint);
	json_kv_strv(&w, "cmd", i->cmd);
	json_kv_str(&w, "workdir", i->workdir);
	json_kv_str(&w, "user", i->user);
	json_kv_i64(&w, "size_bytes", (int64_t)i->size_bytes);
	json_kv_i64(&w, "created_ms", i->created_ms);
	json_close(&w);
	return json_write_end(&w);
}

int image_record_write(const char *data_dir, const struct image *i, struct err *err)
{
	auto_free char *path = image_record_path(data_dir, i->name), *dir = xasprintf("%s/images/records", data_dir);
	auto_buf struct buf text = { 0 };

	if (i->n_layers > IMAGE_LAYERS_MAX)
		return err_set(err, -EINVAL, "image %s has %zu layers: expected at most %d", i->name, i->n_layers,
			       IMAGE_LAYERS_MAX);
	buf_init(&text, IMAGE_RECORD_MAX);
	int r = write_text(i, &text);
	if (r < 0)
		return err_sys_code(err, r, "write the record of image %s", i->name);
	r = fd_mkdirs(dir, 0755, err);
	if (r < 0)
		return r;
	return fd_write_file(path, text.data, text.len, 0644, err);
}

/* -- listing ------------------------------------------------------------------------------------------------- */
struct image **image_list_free(struct image **list, size_t n)
{
	for (size_t k = 0; k < n; k++)
		image_unref(list[k]);
	free(list);
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	struct image *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

int image_record_list(const char *data_dir, struct image ***ret, size_t *ret_n, struct err *err)
{
	auto_free char *dir = xasprintf("%s/images/records", data_dir);
	AUTO(closedirp) DIR *d = opendir(dir);
	struct image **list = NULL;
	size_t n = 0;

	if (!d && errno != ENOENT)
		return err_sys(err, "open %s", dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		auto_free char *path = xasprintf("%s/%s", dir, e->d_name);
		struct image *i;
		if (!str_ends(e->d_name, ".json") || image_record_read(&i, path, NULL) < 0)
			continue;
		list = xrealloc(list, (n + 1) * sizeof(*list));
		list[n++] = i;
	}
	if (n)
		qsort(list, n, sizeof(*list), by_name);
	*ret = list;
	*ret_n = n;
	return 0;
}
