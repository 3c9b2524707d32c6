/* Secrets at rest: what is sealed opens with the same key, for the same owner, and in no other way. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "store/seal.h"

static char dir[64], database[96], key[96];
static struct seal s;

static void set_up(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test-seal-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(database, sizeof(database), "%s/x.db", dir);
	snprintf(key, sizeof(key), "%s/secrets.key", dir);
	seal_init(&s, database);
}

static void tear_down(void)
{
	seal_done(&s);
	unlink(key);
	rmdir(dir);
}

TestSuite(seal, .init = set_up, .fini = tear_down, .timeout = 20);

static char *sealed(const char *text)
{
	struct err err = ERR_INIT;
	char *ret = NULL;

	cr_assert_eq(seal_text(&s, "owner", text, &ret, &err), 0, "%s", err.msg);
	return ret;
}

Test(seal, opens_again_with_the_key_of_the_file)
{
	static const char *const texts[] = { "", "x", "{\"A\": \"0123456789012345678901234567890123456789\"}" };
	struct err err = ERR_INIT;
	struct stat st;

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		auto_free char *one = sealed(texts[i]), *two = sealed(texts[i]);
		auto_free char *text = NULL;
		cr_assert(strcmp(one, two) != 0, "the same text twice looks the same");
		cr_assert(strlen(texts[i]) < 20 || !strstr(one, texts[i]));
		seal_done(&s);
		seal_init(&s, database);
		cr_assert_eq(seal_open(&s, "owner", one, &text, &err), 0, "%s", err.msg);
		cr_assert_str_eq(text, texts[i]);
	}
	cr_assert_eq(stat(key, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	cr_assert_eq(st.st_size, 32);
}

Test(seal, of_another_owner_or_changed_is_refused)
{
	auto_free char *one = sealed("secret");
	struct err err = ERR_INIT;
	char *text = NULL;

	cr_assert_eq(seal_open(&s, "other", one, &text, &err), -EINVAL);
	one[strlen(one) - 5] = one[strlen(one) - 5] == 'A' ? 'B' : 'A';
	cr_assert_eq(seal_open(&s, "owner", one, &text, &err), -EINVAL);
	static const char *const junk[] = { "", "secret", "sealed1:", "sealed1:AAAA", "sealed1:!!!" };
	for (size_t i = 0; i < ARRAY_LEN(junk); i++)
		cr_assert_eq(seal_open(&s, "owner", junk[i], &text, &err), -EINVAL, "%s", junk[i]);
	cr_assert_null(text);
}

Test(seal, a_lost_key_is_named)
{
	auto_free char *one = sealed("secret");
	struct err err = ERR_INIT;
	char *text = NULL;

	seal_done(&s);
	unlink(key);
	seal_init(&s, database);
	cr_assert_eq(seal_open(&s, "owner", one, &text, &err), -ENOENT);
	cr_assert(strstr(err.msg, "secrets.key"), "%s", err.msg);
	cr_assert_eq(fd_write_file(key, "short", 5, 0600, &err), 0);
	cr_assert_eq(seal_open(&s, "owner", one, &text, &err), -EINVAL);
	auto_free char *other = NULL;
	unlink(key);
	cr_assert_eq(seal_text(&s, "owner", "secret", &other, &err), 0, "%s", err.msg);
	cr_assert_eq(seal_open(&s, "owner", one, &text, &err), -EINVAL, "another key");
}
