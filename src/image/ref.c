#include "image/ref.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "image/image.h"

#define ENV_PREFIX "localhost/env/"

static bool is_lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* One path component: runs of [a-z0-9] joined by '.', '_', '__' or dashes. */
static bool is_component(const char *s, size_t len)
{
	if (!len || !is_lower_alnum(s[0]) || !is_lower_alnum(s[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (is_lower_alnum(s[i]) || s[i] == '-')
			continue;
		bool twin = s[i] == '_' && s[i - 1] == '_' && s[i - 2] != '_';
		if ((s[i] != '.' && s[i] != '_') || (!is_lower_alnum(s[i - 1]) && !twin))
			return false;
		if (!is_lower_alnum(s[i + 1]) && !(s[i] == '_' && s[i + 1] == '_'))
			return false;
	}
	return true;
}

static bool is_path(const char *s)
{
	for (;;) {
		size_t n = strcspn(s, "/");
		if (!is_component(s, n))
			return false;
		if (!s[n])
			return true;
		s += n + 1;
	}
}

static bool is_host(const char *s, size_t len)
{
	size_t colon = len;

	for (size_t i = 0; i < len; i++)
		if (s[i] == ':' && colon == len)
			colon = i;
		else if (colon < len ? !isdigit((unsigned char)s[i])
				     : !isalnum((unsigned char)s[i]) && !strchr(".-", s[i]))
			return false;
	return colon > 0 && isalnum((unsigned char)s[0]) && colon + 1 != len && !memmem(s, len, "..", 2);
}

static bool is_tag(const char *s)
{
	size_t n = strlen(s);

	if (!n || n > 128 || (!isalnum((unsigned char)s[0]) && s[0] != '_') || strstr(s, ".."))
		return false;
	return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static bool is_digest(const char *s)
{
	return str_starts(s, "sha256:") && strlen(s + 7) == 64 && strspn(s + 7, "0123456789abcdef") == 64;
}

/* The host part is there when the first component looks like one; else it is Docker Hub. */
static size_t host_len(const char *s)
{
	size_t n = strcspn(s, "/");

	if (!s[n])
		return 0;
	if (memchr(s, '.', n) || memchr(s, ':', n) || (n == 9 && !memcmp(s, "localhost", 9)))
		return n;
	return 0;
}

static int bad(struct err *err, const char *ref, const char *why)
{
	return err_set(err, -EINVAL, "image: \"%.300s\": %s: expected [HOST/]NAME[:TAG] or [HOST/]NAME@sha256:DIGEST",
		       ref, why);
}

/* Splits ref (writable) after its repository. A tag beside a digest says nothing more: the digest decides. */
static const char *split_suffix(char *ref, bool *ret_digest)
{
	char *digest = strchr(ref, '@'), *slash, *colon;

	*ret_digest = digest != NULL;
	if (digest)
		*digest++ = 0;
	slash = strrchr(ref, '/');
	colon = strchr(slash ? slash : ref, ':');
	if (colon)
		*colon++ = 0;
	if (digest)
		return digest;
	return colon ? colon : "latest";
}

int image_normalise(char **ret, const char *ref, struct err *err)
{
	auto_free char *work = xstrdup(ref);
	bool digest;

	if (str_empty(ref) || strlen(ref) > IMAGE_NAME_MAX)
		return bad(err, ref ? ref : "", str_empty(ref) ? "empty" : "longer than 230 bytes");
	const char *suffix = split_suffix(work, &digest);
	size_t h = host_len(work);
	const char *path = h ? work + h + 1 : work;
	bool hub = !h || (h == 9 && !memcmp(work, "docker.io", 9)) || (h == 15 && !memcmp(work, "index.docker.io", 15));
	if (h && !is_host(work, h))
		return bad(err, ref, "the host is not a name or address");
	if (!is_path(path))
		return bad(err, ref, "the name may hold lower-case letters, digits and single separators only");
	if (digest ? !is_digest(suffix) : !is_tag(suffix))
		return bad(err, ref, digest ? "not a sha256 digest" : "not a tag");
	auto_free char *host = hub ? xstrdup("docker.io") : xstrndup(work, h);
	auto_free char *out = xasprintf("%s/%s%s%c%s", host, hub && !strchr(path, '/') ? "library/" : "", path,
					digest ? '@' : ':', suffix);
	if (strlen(out) > IMAGE_NAME_MAX)
		return bad(err, ref, "longer than 230 bytes");
	*ret = STEAL(out);
	return 0;
}

static uint64_t hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a: it only keeps "A" and "a" apart */

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h;
}

static char *component_of(const char *name)
{
	if (is_component(name, strlen(name)))
		return xstrdup(name);
	auto_free char *low = xstrdup(name);
	for (char *p = low; *p; p++) {
		*p = (char)tolower((unsigned char)*p);
		if (!is_lower_alnum(*p))
			*p = '-';
	}
	return xasprintf("%s--%016llx", low, (unsigned long long)hash_text(name));
}

int image_env_dir(char **ret, const char *owner, const char *name, struct err *err)
{
	if (!str_is_name(owner, 64) || !str_is_name(name, 64))
		return err_set(err, -EINVAL,
			       "environment: \"%.80s/%.80s\": expected OWNER/NAME, each of 1 to 64 letters, digits, "
			       "'.', '_' and '-'",
			       owner ? owner : "", name ? name : "");
	auto_free char *o = component_of(owner), *n = component_of(name);
	*ret = xasprintf("env/%s/%s", o, n);
	return 0;
}

int image_of_build(char **ret, const char *owner, const char *name, const char *deployment, struct err *err)
{
	auto_free char *dir = NULL;

	int r = image_env_dir(&dir, owner, name, err);
	if (r < 0)
		return r;
	if (!str_is_name(deployment, 64) || strstr(deployment, ".."))
		return err_set(err, -EINVAL,
			       "deployment: \"%.80s\": expected an id of 1 to 64 letters, digits, '.', '_' and '-'",
			       deployment ? deployment : "");
	*ret = xasprintf("localhost/%s:%s", dir, deployment);
	return 0;
}

bool image_name_env_dir(const char *name, char **ret)
{
	if (!str_starts(name, ENV_PREFIX))
		return false;
	const char *dir = name + strlen("localhost/");
	*ret = xstrndup(dir, strcspn(dir, ":@"));
	return true;
}
