#include "image/cstore.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/record.h"
#include "json/json.h"

#define STORE_FILE_MAX (64u << 20) /* bytes of images.json, layers.json, a config */

static int read_json(json_t **ret, const char *path, struct err *err)
{
	auto_buf struct buf text = { 0 };

	buf_init(&text, STORE_FILE_MAX);
	int r = fd_read_file(path, &text, err);
	if (r < 0)
		return r;
	r = json_read(ret, text.data, text.len, err);
	return r < 0 ? err_wrap(err, r, "%s", path) : 0;
}

static const char *text_of(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

/* -- finding the image --------------------------------------------------------------------------------------------- */
static bool has_name(json_t *image, const char *name)
{
	json_t *n;
	size_t k;

	json_array_foreach(json_object_get(image, "names"), k, n) {
		if (str_eq(json_string_value(n), name))
			return true;
	}
	return false;
}

static json_t *find_by_name(json_t *list, const char *name)
{
	json_t *image;
	size_t k;

	json_array_foreach(list, k, image) {
		if (has_name(image, name))
			return image;
	}
	return NULL;
}

static json_t *find_by_id(json_t *list, const char *id)
{
	json_t *item;
	size_t k;

	json_array_foreach(list, k, item) {
		if (str_eq(text_of(item, "id"), id))
			return item;
	}
	return NULL;
}

/* -- layers ------------------------------------------------------------------------------------------------------ */
struct chain {
	const char *images_dir;
	const char *store[2]; /* relative; the second is the store of bases */
	json_t *layers[2];
};

static int chain_open(struct chain *c, struct err *err)
{
	for (size_t s = 0; s < 2; s++) {
		auto_free char *path = xasprintf("%s/%s/overlay-layers/layers.json", c->images_dir, c->store[s]);
		int r = read_json(&c->layers[s], path, err);
		if (r == -ENOENT)
			c->layers[s] = json_array();
		else if (r < 0)
			return r;
	}
	return 0;
}

static void chain_done(struct chain *c)
{
	json_decref(c->layers[0]);
	json_decref(c->layers[1]);
}

static json_t *chain_find(const struct chain *c, const char *id, const char **ret_store)
{
	for (size_t s = 0; s < 2; s++) {
		json_t *l = find_by_id(c->layers[s], id);
		*ret_store = c->store[s];
		if (l)
			return l;
	}
	return NULL;
}

static int add_layer(struct image *i, const char *store, const char *id, json_t *layer, struct err *err)
{
	json_int_t size = json_integer_value(json_object_get(layer, "diff-size"));
	uint64_t bytes = size > 0 ? (uint64_t)size : 0;

	if (i->n_layers == IMAGE_LAYERS_MAX)
		return err_set(err, -EINVAL, "image %s has more than %d layers: merge some of its steps", i->name,
			       IMAGE_LAYERS_MAX);
	i->layers = xrealloc(i->layers, (i->n_layers + 1) * sizeof(*i->layers));
	i->layer_bytes = xrealloc(i->layer_bytes, (i->n_layers + 1) * sizeof(*i->layer_bytes));
	i->layer_bytes[i->n_layers] = bytes;
	i->layers[i->n_layers++] = xasprintf("%s/overlay/%s/diff", store, id);
	i->size_bytes += bytes;
	return 0;
}

static int walk_layers(const struct chain *c, const char *top, struct image *i, struct err *err)
{
	const char *store = NULL;

	for (const char *id = top; *id;) {
		json_t *layer = chain_find(c, id, &store);
		if (!layer)
			return err_set(err, -EIO, "image %s: layer %.20s is in no store", i->name, id);
		int r = add_layer(i, store, id, layer, err);
		if (r < 0)
			return r;
		id = text_of(layer, "parent");
	}
	return i->n_layers ? 0 : err_set(err, -EINVAL, "image %s has no layers", i->name);
}

/* -- config ------------------------------------------------------------------------------------------------------ */
static char **strv_of(json_t *array)
{
	char **out = xcalloc(json_array_size(array) + 1, sizeof(*out));
	json_t *item;
	size_t k, n = 0;

	json_array_foreach(array, k, item) {
		if (json_is_string(item))
			out[n++] = xstrdup(json_string_value(item));
	}
	return out;
}

static int64_t parse_time(const char *s)
{
	struct tm tm = { 0 };

	if (!strptime(s, "%Y-%m-%dT%H:%M:%S", &tm))
		return 0;
	int64_t t = (int64_t)timegm(&tm);
	return t > 0 ? t * 1000 : 0;
}

static void take_config(struct image *i, json_t *doc)
{
	json_t *c = json_object_get(doc, "config");
	const char *dir = text_of(c, "WorkingDir");

	i->env = strv_of(json_object_get(c, "Env"));
	i->entrypoint = strv_of(json_object_get(c, "Entrypoint"));
	i->cmd = strv_of(json_object_get(c, "Cmd"));
	i->workdir = xstrdup(*dir ? dir : "/");
	i->user = xstrdup(text_of(c, "User"));
	i->created_ms = parse_time(text_of(doc, "created"));
}

/* The store names a blob by base64 of its key where the key holds characters beyond its plain set. */
static int read_config(struct image *i, const char *store_dir, const char *id, struct err *err)
{
	auto_buf struct buf b64;
	auto_json doc = NULL;

	buf_init(&b64, 1024);
	i->digest = xasprintf("sha256:%s", id);
	int r = str_base64_append(&b64, i->digest, strlen(i->digest));
	if (r < 0)
		return err_sys_code(err, r, "image id \"%.100s\"", id);
	auto_free char *path = xasprintf("%s/overlay-images/%s/=%s", store_dir, id, b64.data);
	r = read_json(&doc, path, err);
	if (r < 0)
		return r;
	take_config(i, doc);
	return 0;
}

static int read_chain(struct image *i, const char *images_dir, const char *store, json_t *entry, struct err *err)
{
	struct chain c = { .images_dir = images_dir, .store = { store, CSTORE_BASES } };

	int r = chain_open(&c, err);
	if (r == 0)
		r = walk_layers(&c, text_of(entry, "layer"), i, err);
	chain_done(&c);
	return r;
}

static int read_list(json_t **ret, const char *images_dir, const char *store, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s/overlay-images/images.json", images_dir, store);

	return read_json(ret, path, err);
}

static int read_entry(struct image **ret, const char *images_dir, const char *store, json_t *entry, const char *name,
		      struct err *err)
{
	auto_free char *dir = xasprintf("%s/%s", images_dir, store);
	AUTO(image_freep) struct image *i = image_new();

	i->name = xstrdup(name);
	int r = read_config(i, dir, text_of(entry, "id"), err);
	if (r == 0)
		r = read_chain(i, images_dir, store, entry, err);
	if (r < 0)
		return r;
	*ret = STEAL(i);
	return 0;
}

int cstore_read(struct image **ret, const char *images_dir, const char *store, const char *name, struct err *err)
{
	auto_json list = NULL;

	int r = read_list(&list, images_dir, store, err);
	if (r < 0)
		return r;
	json_t *entry = find_by_name(list, name);
	if (!entry)
		return err_set(err, -ENOENT, "image %s is not in the store %s", name, store);
	return read_entry(ret, images_dir, store, entry, name, err);
}

int cstore_nameless(struct image ***ret, size_t *ret_n, const char *images_dir, const char *store, struct err *err)
{
	auto_json list = NULL;
	json_t *entry;
	size_t k, n = 0;

	int r = read_list(&list, images_dir, store, err);
	if (r < 0)
		return r;
	struct image **found = xcalloc(json_array_size(list) + 1, sizeof(*found));
	json_array_foreach(list, k, entry) {
		if (json_array_size(json_object_get(entry, "names")) == 0 &&
		    read_entry(&found[n], images_dir, store, entry, "", NULL) == 0)
			n++;
	}
	*ret = found;
	*ret_n = n;
	return 0;
}
