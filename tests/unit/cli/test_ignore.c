/* .dockerignore, by the examples of Docker's documentation and its corner cases. */
#include <criterion/criterion.h>
#include <string.h>

#include "cli/ignore.h"

TestSuite(ignore, .timeout = 10);

static bool ignored(const char *file, const char *path)
{
	struct ignore *g = ignore_new(file, strlen(file));
	bool r = ignore_matches(g, path);

	ignore_free(g);
	return r;
}

Test(ignore, patterns)
{
	static const struct {
		const char *file, *path;
		bool ignored;
	} cases[] = {
		{ "", "a", false }, { "# a\n", "a", false }, { "a\n", "a", true }, { "a", "a/b/c", true }, { "a", "b/a", false },
		{ "/a\n", "a", true }, { "./a\n", "a", true }, { "a/\n", "a/b", true }, { "  a \t\r\n", "a", true },
		{ "*.py\n", "x.py", true }, { "*.py\n", "d/x.py", false }, { "*/temp*\n", "somedir/temporary.txt", true },
		{ "*/*/temp*\n", "d/e/temp", true }, { "*/*/temp*\n", "d/temp", false }, { "temp?\n", "tempa", true },
		{ "temp?\n", "temp", false }, { "**/*.go\n", "x.go", true }, { "**/*.go\n", "a/b/x.go", true },
		{ "**\n", "anything/at/all", true }, { "a/**\n", "a/b", true }, { "a/**/z\n", "a/z", true },
		{ "a/**/z\n", "a/b/c/z", true }, { "a/**/z\n", "a/b/c/y", false }, { "**/.git\n", "x/.git/config", true },
		{ "*.md\n!README.md\n", "README.md", false }, { "*.md\n!README.md\n", "x.md", true },
		{ "*.md\n!README*.md\nREADME-secret.md\n", "README-secret.md", true },
		{ "*.md\nREADME-secret.md\n!README*.md\n", "README-secret.md", false }, { "d\n!d/keep\n", "d/keep", false },
		{ "d\n!d/keep\n", "d/other", true }, { "[a-c]x\n", "bx", true }, { "[a-c]x\n", "dx", false },
		{ "[^a-c]x\n", "dx", true }, { "[^a-c]x\n", "ax", false }, { "[]]x\n", "]x", true }, { "\\*x\n", "*x", true },
		{ "\\*x\n", "ax", false }, { "[\n", "[", false }, { "a*b*c\n", "aXbYbZc", true }, { "a*b*c\n", "aXbYbZ", false },
		{ "!\n", "a", false }, { ".\n", "a", false }, { "\xef\xbb\xbf" "a\n", "a", true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(ignored(cases[i].file, cases[i].path), cases[i].ignored, "%s: %s", cases[i].file, cases[i].path);
}

Test(ignore, folders_are_passed_over_only_without_exceptions)
{
	struct ignore *plain = ignore_new("d\n", 2), *exception = ignore_new("d\n!d/x\n", 8);

	cr_assert(ignore_prunes(plain, "d"));
	cr_assert_not(ignore_prunes(plain, "e"));
	cr_assert_not(ignore_prunes(exception, "d"));
	ignore_free(plain);
	ignore_free(exception);
}

/* Many stars against a long name: backtracking stays polynomial. */
Test(ignore, stars_do_not_explode)
{
	char pattern[202], name[4001];

	for (size_t i = 0; i < 100; i++)
		memcpy(pattern + 2 * i, "*a", 2);
	memcpy(pattern + 200, "b", 2);
	memset(name, 'a', 4000);
	name[4000] = '\0';
	cr_assert_not(ignored(pattern, name));
}
