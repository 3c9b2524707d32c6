/* Which parts there are, and their sums. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backup/private.h"
#include "base/mem.h"
#include "base/str.h"

static const char *const part_names[] = {
#define X(id, text) [BACKUP_##id] = text,
	BACKUP_PARTS(X)
#undef X
};

const char *backup_part_name(enum backup_part p)
{
	return part_names[p];
}

int sums_init(struct sums *s, struct err *err)
{
	*s = (struct sums){ 0 };
	for (size_t i = 0; i < BACKUP_N_PARTS; i++) {
		s->part[i].sha256 = EVP_MD_CTX_new();
		if (!s->part[i].sha256 || !EVP_DigestInit_ex2(s->part[i].sha256, EVP_sha256(), NULL))
			return err_set(err, -ENOTSUP, "OpenSSL has no SHA-256");
	}
	return 0;
}

void sums_done(struct sums *s)
{
	for (size_t i = 0; i < BACKUP_N_PARTS; i++)
		EVP_MD_CTX_free(s->part[i].sha256);
}

void sums_content(struct sums *s, enum backup_part part, const void *p, size_t len)
{
	if (!EVP_DigestUpdate(s->part[part].sha256, p, len))
		abort(); /* SHA-256 cannot fail on memory */
}

void sums_member(struct sums *s, enum backup_part part, const struct tar_member *m)
{
	auto_free char *line = xasprintf("%c %o %llu %lld %s\n", m->type, (unsigned)m->mode & 07777, (unsigned long long)m->size,
					 (long long)MAX(m->mtime_s, (int64_t)0), m->name);

	sums_content(s, part, line, strlen(line));
	s->part[part].files += m->type == TAR_FILE;
	s->part[part].bytes += m->size;
}

void sums_hex(struct sums *s, enum backup_part part, char ret[65])
{
	unsigned char hash[32];
	unsigned len = sizeof(hash);

	if (!EVP_DigestFinal_ex(s->part[part].sha256, hash, &len))
		abort();
	str_hex(hash, sizeof(hash), ret);
}

static bool is_clean(const char *name)
{
	auto_free char *copy = xstrdup(name);
	size_t len = strlen(copy);
	char *rest = copy;

	if (len && copy[len - 1] == '/')
		copy[len - 1] = '\0';
	for (char *part; (part = strsep(&rest, "/"));)
		if (!*part || str_eq(part, ".") || str_eq(part, ".."))
			return false;
	return true;
}

int part_of(const char *name)
{
	if (!is_clean(name))
		return -1;
	if (str_eq(name, BACKUP_DATABASE_FILE))
		return BACKUP_DATABASE;
	if (str_eq(name, "admin.key") || str_eq(name, "secrets.key"))
		return BACKUP_KEYS;
	if (str_starts(name, "git/"))
		return BACKUP_GIT;
	if (str_starts(name, "builds/"))
		return BACKUP_SOURCES;
	return str_starts(name, "buckets/") ? BACKUP_BUCKETS : -1;
}
