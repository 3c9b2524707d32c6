/* backup/check.c: reading a backup: its head first, then its parts, whose sums the manifest at the end has to confirm. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backup/private.h"
#include "base/mem.h"
#include "base/str.h"
#include "json/json.h"
#include "store/store.h"

#define TEXT_MAX (64u * 1024)

enum reading { NOTHING, HEAD, PARTS, MANIFEST, FAILED };

struct backup_check {
	const char *file;
	struct backup_sink sink; /* members may be NULL */
	bool begun;          /* it had a first byte */
	struct swell *swell; /* it is squeezed; NULL = it is not */
	struct tar_reader *tar;
	struct sums sums;
	enum reading state;
	int part;          /* of the member at hand; -1 = it is a text */
	struct buf text;   /* the head's, the manifest's or the failure's, as far as it has come */
	uint64_t text_len; /* bytes that it will have */
	struct backup_info info;
	bool refused;      /* err of an event is to be passed on as it is */
	int sums_code;     /* of sums_init */
};

static int refuse(struct backup_check *c, int code)
{
	c->refused = true;
	return code;
}

static int damaged(struct backup_check *c, struct err *err, const char *how)
{
	return refuse(c, err_set(err, -EINVAL, "%s is damaged: %s", c->file, how));
}

/* -- texts --------------------------------------------------------------------------------------------------------- */

static int check_versions(struct backup_check *c, int64_t format, struct err *err)
{
	const struct backup_info *i = &c->info;

	if (format > BACKUP_FORMAT)
		return refuse(c, err_set(err, -EPROTONOSUPPORT,
					 "%s was made by openreward %s in format %lld; this is openreward %s, which reads"
							 " format %d: use that program or a newer one", c->file, i->program,
					 (long long)format, OPENREWARD_VERSION, BACKUP_FORMAT));
	if (i->schema > store_schema_version())
		return refuse(c, err_set(err, -EPROTONOSUPPORT,
					 "%s was made by openreward %s, its database has version %lld; this is openreward"
							 " %s, which knows versions up to %d: use that program or a newer one",
					 c->file, i->program, (long long)i->schema, OPENREWARD_VERSION, store_schema_version()));
	return 0;
}

/* What head and manifest both have. */
static int read_fields(struct backup_check *c, json_t *o, struct backup_info *ret, int64_t *ret_format, struct err *err)
{
	const char *program = NULL, *created = NULL;
	int64_t schema = 0;
	int r = json_get_i64(o, "format", 1, INT64_MAX, ret_format, err);

	r = r < 0 ? r : json_get_i64(o, "schema", 1, INT64_MAX, &schema, err);
	r = r < 0 ? r : json_need_str(o, "program", &program, err);
	r = r < 0 ? r : json_need_str(o, "created", &created, err);
	if (r < 0 || !*ret_format || !schema)
		return damaged(c, err, "its head or manifest makes no sense");
	ret->schema = schema;
	snprintf(ret->program, sizeof(ret->program), "%s", program);
	snprintf(ret->created, sizeof(ret->created), "%s", created);
	return 0;
}

static int on_head(struct backup_check *c, struct err *err)
{
	auto_json o = NULL;
	int64_t format = 0;

	if (json_read_object(&o, c->text.data, c->text.len, NULL) < 0)
		return damaged(c, err, "its head is no JSON");
	int r = read_fields(c, o, &c->info, &format, err);
	c->state = PARTS;
	return r < 0 ? r : check_versions(c, format, err);
}

static int part_by_name(const char *name)
{
	for (size_t i = 0; i < BACKUP_N_PARTS; i++)
		if (str_eq(backup_part_name((enum backup_part)i), name))
			return (int)i;
	return -1;
}

static int check_part(struct backup_check *c, json_t *o, struct err *err)
{
	const char *name = NULL, *sha256 = NULL;
	int64_t files = -1, bytes = -1;
	char hex[65];

	if (json_need_str(o, "name", &name, NULL) < 0 || json_need_str(o, "sha256", &sha256, NULL) < 0 ||
	    json_get_i64(o, "files", 0, INT64_MAX, &files, NULL) < 0 || json_get_i64(o, "bytes", 0, INT64_MAX, &bytes, NULL) < 0 ||
	    part_by_name(name) < 0)
		return damaged(c, err, "its manifest makes no sense");
	enum backup_part part = (enum backup_part)part_by_name(name);
	uint64_t have_files = c->sums.part[part].files, have_bytes = c->sums.part[part].bytes;
	sums_hex(&c->sums, part, hex);
	if ((uint64_t)files != have_files || (uint64_t)bytes != have_bytes || !str_eq(hex, sha256))
		return refuse(c, err_set(err, -EINVAL, "%s is damaged: its part \"%s\" was written with %lld files, %lld bytes, sha256 %.16s..."
						 " and has %llu files, %llu bytes, sha256 %.16s...", c->file, name,
						 (long long)files,
					 (long long)bytes, sha256, (unsigned long long)have_files, (unsigned long long)have_bytes,
					 hex));
	c->info.parts[part].files = have_files;
	c->info.parts[part].bytes = have_bytes;
	return 0;
}

static int check_parts(struct backup_check *c, json_t *o, struct err *err)
{
	json_t *parts = NULL, *part;
	size_t i;

	if (json_get_array(o, "parts", &parts, NULL) < 0 || json_array_size(parts) != BACKUP_N_PARTS)
		return damaged(c, err, "its manifest does not list its parts");
	json_array_foreach(parts, i, part) {
		const char *name = NULL;
		/* In their order, so that none is there twice. */
		if (json_need_str(part, "name", &name, NULL) < 0 || part_by_name(name) != (int)i)
			return damaged(c, err, "its manifest does not list its parts");
		int r = check_part(c, part, err);
		if (r < 0)
			return r;
	}
	return c->info.parts[BACKUP_DATABASE].files == 1 ? 0 : damaged(c, err, "it holds no database");
}

static int on_manifest(struct backup_check *c, struct err *err)
{
	struct backup_info again = { 0 };
	int64_t format = 0, changed = 0, unreadable = 0;
	auto_json o = NULL;

	if (json_read_object(&o, c->text.data, c->text.len, NULL) < 0)
		return damaged(c, err, "its manifest is no JSON");
	int r = read_fields(c, o, &again, &format, err);
	if (r == 0 && (again.schema != c->info.schema || !str_eq(again.created, c->info.created)))
		r = damaged(c, err, "its head and its manifest are of two backups");
	r = r < 0 ? r : check_parts(c, o, err);
	if (r == 0 && (json_get_i64(o, "changed", 0, INT64_MAX, &changed, NULL) < 0 ||
		       json_get_i64(o, "unreadable", 0, INT64_MAX, &unreadable, NULL) < 0))
		r = damaged(c, err, "its manifest makes no sense");
	c->info.changed = (uint64_t)changed;
	c->info.unreadable = (uint64_t)unreadable;
	return r;
}

static int on_failure(struct backup_check *c, struct err *err)
{
	return refuse(c, err_set(err, -EIO, "%s is not whole, the server gave up: %.*s", c->file, (int)strcspn(c->text.data, "\n"),
				 c->text.data));
}

static int on_text(struct backup_check *c, struct err *err)
{
	if (c->state == HEAD)
		return on_head(c, err);
	return c->state == MANIFEST ? on_manifest(c, err) : on_failure(c, err);
}

/* -- members ------------------------------------------------------------------------------------------------------- */

static int begin_text(struct backup_check *c, enum reading state, const struct tar_member *m, struct err *err)
{
	if (m->type != TAR_FILE || !m->size || m->size > TEXT_MAX)
		return damaged(c, err, "its head or manifest is of a senseless size");
	c->state = state;
	c->part = -1;
	c->text_len = m->size;
	buf_clear(&c->text);
	return 0;
}

static int foreign(struct backup_check *c, struct err *err)
{
	return refuse(c, err_set(err, -EINVAL, "%s is no backup: expected a file that `openreward backup` made", c->file));
}

static int on_member(void *arg, const struct tar_member *m, struct err *err)
{
	struct backup_check *c = arg;

	if (c->state == NOTHING)
		return str_eq(m->name, BACKUP_HEAD) ? begin_text(c, HEAD, m, err) : foreign(c, err);
	if (c->state != PARTS)
		return damaged(c, err, "something follows its manifest");
	if (str_eq(m->name, BACKUP_MANIFEST))
		return begin_text(c, MANIFEST, m, err);
	if (str_eq(m->name, BACKUP_FAILED))
		return begin_text(c, FAILED, m, err);
	c->part = part_of(m->name);
	if (c->part < 0 || (m->type == TAR_FOLDER) != str_ends(m->name, "/"))
		return refuse(c, err_set(err, -EINVAL, "%s is damaged: \"%.200s\" is no name of a backup", c->file, m->name));
	sums_member(&c->sums, (enum backup_part)c->part, m);
	int r = c->sink.member ? c->sink.member(c->sink.arg, (enum backup_part)c->part, m, err) : 0;
	return r < 0 ? refuse(c, r) : 0;
}

static int on_content(void *arg, const char *p, size_t len, struct err *err)
{
	struct backup_check *c = arg;

	if (c->part >= 0) {
		sums_content(&c->sums, (enum backup_part)c->part, p, len);
		int r = c->sink.content ? c->sink.content(c->sink.arg, p, len, err) : 0;
		return r < 0 ? refuse(c, r) : 0;
	}
	if (buf_append(&c->text, p, len) < 0)
		return damaged(c, err, "its head or manifest is too long");
	return c->text.len == c->text_len ? on_text(c, err) : 0;
}

/* -- the whole ----------------------------------------------------------------------------------------------------- */

struct backup_check *check_new_with(const char *file, const struct backup_sink *sink)
{
	static const struct tar_events events = { on_member, on_content };
	struct backup_check *c = NEW(struct backup_check);

	c->file = file;
	if (sink)
		c->sink = *sink;
	c->tar = tar_reader_new(&events, c);
	c->part = -1;
	c->sums_code = sums_init(&c->sums, NULL);
	buf_init(&c->text, TEXT_MAX);
	return c;
}

struct backup_check *backup_check_new(const char *file)
{
	return check_new_with(file, NULL);
}

struct backup_check *backup_check_free(struct backup_check *c)
{
	if (!c)
		return NULL;
	tar_reader_free(c->tar);
	swell_free(c->swell);
	sums_done(&c->sums);
	buf_done(&c->text);
	free(c);
	return NULL;
}

static bool is_of_another(const char *p, size_t len)
{
	return len >= 4 && (!memcmp(p, "\x1f\x8b", 2) || !memcmp(p, "\xfd" "7zX", 4));
}

static int feed_tar(void *arg, const char *p, size_t len, struct err *err)
{
	struct backup_check *c = arg;
	struct err own = ERR_INIT;
	int r = tar_read(c->tar, p, len, &own);

	if (r == 0)
		return 0;
	if (c->refused)
		return err_set(err, r, "%s", own.msg);
	return c->state == NOTHING ? foreign(c, err) : damaged(c, err, own.msg);
}

int backup_check_feed(struct backup_check *c, const char *p, size_t len, struct err *err)
{
	struct err own = ERR_INIT;

	if (c->sums_code < 0)
		return err_set(err, c->sums_code, "OpenSSL has no SHA-256");
	if (!c->begun && is_of_another(p, len))
		return err_set(err, -EINVAL, "%s is compressed: unpack it first, with gzip -d or xz -d", c->file);
	if (!c->begun && len && (unsigned char)*p == ZSTD_FIRST_BYTE)
		c->swell = swell_new();
	c->begun |= len > 0;
	if (!c->swell)
		return feed_tar(c, p, len, err);
	int r = swell_feed(c->swell, p, len, feed_tar, c, &own);
	if (r == -EBADMSG && !c->refused)
		return c->state == NOTHING ? foreign(c, err) : damaged(c, err, own.msg);
	return r < 0 ? err_set(err, r, "%s", own.msg) : 0;
}

int backup_check_end(struct backup_check *c, struct backup_info *ret, struct err *err)
{
	bool cut = c->swell && !swell_ended(c->swell); /* perhaps before anything came of it: zstd gives whole blocks */

	if (c->state == NOTHING && !cut)
		return foreign(c, err);
	if (!tar_ended(c->tar) || c->state != MANIFEST || cut)
		return err_set(err, -EINVAL, "%s is damaged: it ends in the middle, after %llu bytes", c->file,
			       (unsigned long long)tar_position(c->tar));
	*ret = c->info;
	return 0;
}
