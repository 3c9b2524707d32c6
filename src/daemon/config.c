/* The configuration as a whole: defaults, reading, printing. */
#include "daemon/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "daemon/config_table.h"
#include "http/origin.h"

#define CONFIG_FILE_MAX (1024 * 1024)

static bool is_str(enum config_type t)
{
	return t == CONFIG_STR || t == CONFIG_SECRET || t == CONFIG_PATH || t == CONFIG_MACHINE;
}

struct config *config_new(void)
{
	struct config *c = NEW(struct config);
	struct err err = ERR_INIT;

	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *k = &config_keys[i];
		if (config_is_list(k->type) || config_is_map(k->type))
			config_clear(c, k);
		if (k->value && config_put(c, k, k->value, &err) < 0) {
			fprintf(stderr, "openreward: a default is wrong: %s\n", err.msg);
			abort(); /* the table contradicts itself: no run of this program can be right */
		}
	}
	return c;
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *k = &config_keys[i];
		void **place = (void **)((char *)c + k->offset);
		if (config_is_list(k->type) || config_is_map(k->type))
			config_clear(c, k);
		if (config_is_list(k->type) || config_is_map(k->type) || is_str(k->type))
			free(*place);
	}
	free(c);
	return NULL;
}

/* -- YAML ------------------------------------------------------------------------------------------------------ */

struct reader {
	struct config *c;
	const char *name; /* of the file */
	yaml_document_t doc;
	struct err *err;
	bool *seen;       /* per key of the table: it occurred */
};

static size_t line_of(const yaml_node_t *n)
{
	return n->start_mark.line + 1;
}

static int at(struct reader *rd, const yaml_node_t *n, int r)
{
	return err_wrap(rd->err, r, "%s:%zu", rd->name, line_of(n));
}

static const char *scalar(const yaml_node_t *n)
{
	return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

static int want(struct reader *rd, const struct config_key *k, const yaml_node_t *n, const char *expected)
{
	static const char *const kinds[] = { "nothing", "a single value", "a list", "a mapping" };

	return at(rd, n, err_set(rd->err, -EINVAL, "%s: %s: expected %s", k->name, kinds[n->type & 3], expected));
}

static int read_list(struct reader *rd, const struct config_key *k, const yaml_node_t *n)
{
	config_clear(rd->c, k);
	for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
		yaml_node_t *item = yaml_document_get_node(&rd->doc, *i);
		if (!scalar(item))
			return want(rd, k, item, "a list of single values");
		int r = config_add(rd->c, k, NULL, scalar(item), rd->err);
		if (r < 0)
			return at(rd, item, r);
	}
	return 0;
}

static int read_map(struct reader *rd, const struct config_key *k, const yaml_node_t *n)
{
	config_clear(rd->c, k);
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
		yaml_node_t *name = yaml_document_get_node(&rd->doc, p->key);
		yaml_node_t *value = yaml_document_get_node(&rd->doc, p->value);
		if (!scalar(name) || !scalar(value))
			return want(rd, k, name, "a mapping of names to single values");
		int r = config_add(rd->c, k, scalar(name), scalar(value), rd->err);
		if (r < 0)
			return at(rd, name, r);
	}
	return 0;
}

static int read_value(struct reader *rd, const struct config_key *k, const yaml_node_t *n)
{
	bool is_null = scalar(n) && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		       (str_empty(scalar(n)) || str_eq(scalar(n), "~") || str_eq(scalar(n), "null"));

	if (is_null)
		return at(rd, n, err_set(rd->err, -EINVAL, "%s: no value; leave the key out for its default", k->name));
	if (config_is_list(k->type) && n->type == YAML_SEQUENCE_NODE)
		return read_list(rd, k, n);
	if (config_is_map(k->type))
		return n->type == YAML_MAPPING_NODE ? read_map(rd, k, n) : want(rd, k, n, "a mapping of names to values");
	if (!scalar(n))
		return want(rd, k, n, config_is_list(k->type) ? "a list" : "a single value");
	int r = config_put(rd->c, k, scalar(n), rd->err);
	return r < 0 ? at(rd, n, r) : 0;
}

static int unknown(struct reader *rd, const yaml_node_t *n, const char *name)
{
	return at(rd, n, err_set(rd->err, -EINVAL, "unknown key \"%.100s\"; the nearest known one is \"%s\"", name,
				 config_nearest_key(name)));
}

static int read_mapping(struct reader *rd, const yaml_node_t *map, const char *section);

static int read_pair(struct reader *rd, yaml_node_t *name, yaml_node_t *value, const char *section)
{
	if (!scalar(name))
		return at(rd, name, err_set(rd->err, -EINVAL, "a key must be a single value"));
	auto_free char *full = section ? xasprintf("%s.%s", section, scalar(name)) : xstrdup(scalar(name));
	const struct config_key *k = strchr(scalar(name), '.') ? NULL : config_find_key(full);

	if (!k && !section && config_section_comment(full)) {
		if (value->type == YAML_MAPPING_NODE)
			return read_mapping(rd, value, full);
		if (scalar(value) && str_empty(scalar(value)))
			return 0; /* a section whose keys are all commented out */
		return at(rd, value, err_set(rd->err, -EINVAL, "%s: expected a mapping of keys to values", full));
	}
	if (!k)
		return unknown(rd, name, full);
	if (rd->seen[k - config_keys])
		return at(rd, name, err_set(rd->err, -EINVAL, "%s: given twice", full));
	rd->seen[k - config_keys] = true;
	return read_value(rd, k, value);
}

static int read_mapping(struct reader *rd, const yaml_node_t *map, const char *section)
{
	int r = 0;

	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; r == 0 && p < map->data.mapping.pairs.top; p++)
		r = read_pair(rd, yaml_document_get_node(&rd->doc, p->key), yaml_document_get_node(&rd->doc, p->value), section);
	return r;
}

static int read_document(struct reader *rd)
{
	yaml_node_t *root = yaml_document_get_root_node(&rd->doc);

	if (!root || (scalar(root) && str_empty(scalar(root))))
		return 0; /* an empty file */
	if (root->type != YAML_MAPPING_NODE)
		return at(rd, root, err_set(rd->err, -EINVAL, "expected a mapping of keys to values"));
	return read_mapping(rd, root, NULL);
}

int config_parse(struct config *c, const char *name, const char *text, size_t len, struct err *err)
{
	auto_free bool *seen = xcalloc(config_n_keys, sizeof(bool));
	struct reader rd = { .c = c, .name = name, .err = err, .seen = seen };
	yaml_parser_t parser;
	int r;

	if (!yaml_parser_initialize(&parser))
		return err_set(err, -ENOMEM, "%s: out of memory", name);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (!yaml_parser_load(&parser, &rd.doc)) {
		r = err_set(err, -EINVAL, "%s:%zu: not YAML: %s", name, parser.problem_mark.line + 1,
			    parser.problem ? parser.problem : "it cannot be read");
	} else {
		r = read_document(&rd);
		yaml_document_delete(&rd.doc);
	}
	yaml_parser_delete(&parser);
	return r;
}

int config_load(struct config *c, const char *path, struct err *err)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, CONFIG_FILE_MAX);
	int r = fd_read_file(path, &b, err);
	return r < 0 ? err_wrap(err, r, "the configuration") : config_parse(c, path, b.data, b.len, err);
}

int config_set(struct config *c, const char *key, const char *value, struct err *err)
{
	const struct config_key *k = config_find_key(key);

	if (!k)
		return err_set(err, -EINVAL, "unknown key \"%s\"; the nearest known one is \"%s\"", key, config_nearest_key(key));
	return config_put(c, k, value, err);
}

static int check_addresses(const struct config *c, struct err *err)
{
	if (!c->listen[0])
		return err_set(err, -EINVAL, "listen: an empty list: expected at least one HOST:PORT");
	int r = config_check_tls(c, err);
	for (char *const *p = c->listen; r == 0 && *p; p++)
		r = config_listen_is_tls(c, *p) ? 0 : config_refuse_open(c, config_listen_address(*p), err);
	for (char *const *p = c->proxies; r == 0 && *p; p++) {
		struct http_range range;
		r = http_range_parse(&range, *p, err);
		if (r < 0)
			return err_wrap(err, r, "proxies");
	}
	return r;
}

int config_check(struct config *c, struct err *err)
{
	int r = check_addresses(c, err);

	if (r < 0)
		return r;
	if (str_empty(c->user) || str_eq(c->user, "root"))
		return err_set(err, -EINVAL, "user: \"%s\": expected an ordinary user's name", c->user);
	if (str_empty(c->data) || str_eq(c->data, "/"))
		return err_set(err, -EINVAL, "data: \"%s\": expected a directory of its own", c->data);
	size_t len = strlen(c->data);
	while (len > 1 && c->data[len - 1] == '/')
		c->data[--len] = '\0';
	if (c->session_ping_ms * 2 > 900000)
		return err_set(err, -EINVAL, "sessions.ping_interval: %llu ms: expected at most 450s, since an environment's"
					     " own server drops a session after 900 s without a ping",
			       (unsigned long long)c->session_ping_ms);
	return 0;
}
