#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "base/mem.h"
#include "base/unicode.h"

static void check(char *(*fn)(const char *s), const char *from, const char *expected)
{
	auto_free char *to = fn(from);

	cr_expect(expected ? to && strcmp(to, expected) == 0 : !to, "\"%s\" became \"%s\"", from, to);
}

Test(unicode, what_looks_alike_folds_to_the_same)
{
	static const char *const rows[][2] = {
		{ "", "" }, { "Hello-1", "hello-1" }, { "\xef\xbc\xa8\xef\xbd\x89", "hi" } /* fullwidth */, { "\xe2\x84\xaa", "k" } /* Kelvin */,
		{ "\xc5\xbf", "s" } /* long s */, { "\xef\xac\x81", "fi" } /* a ligature */, { "a\xe2\x80\x8b" "b\xc2\xad", "ab" } /* unseen */,
		{ "\xc3\x89", "\xc3\xa9" }, { "E\xcc\x81", "\xc3\xa9" }, { "\xd0\xb0", "\xd0\xb0" } /* Cyrillic */, { "\xc3\x9f", "ss" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		check(unicode_fold, rows[i][0], rows[i][1]);
}

Test(unicode, characters_and_their_marks)
{
	static const char *const rows[][2] = { /* composed, decomposed */
		{ "cafe", "cafe" }, { "caf\xc3\xa9", "cafe\xcc\x81" }, { "\xed\x95\x9c", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab" } /* Hangul */,
		{ "\xef\xbc\xa1", "\xef\xbc\xa1" } /* compatible, not the same */, { "\xc3\x85", "A\xcc\x8a" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		check(unicode_composed, rows[i][0], rows[i][0]);
		check(unicode_composed, rows[i][1], rows[i][0]);
		check(unicode_decomposed, rows[i][0], rows[i][1]);
		check(unicode_decomposed, rows[i][1], rows[i][1]);
	}
	check(unicode_composed, "\xe2\x84\xab", "\xc3\x85"); /* the sign of the angstrom */
}

Test(unicode, what_is_not_utf8_has_no_form)
{
	static const char *const bad[] = { NULL, "\xff", "a\xc3", "\xc1\xa1", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf7\xbf\xbf\xbf", "\x80" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		check(unicode_fold, bad[i], NULL);
		check(unicode_composed, bad[i], NULL);
		check(unicode_decomposed, bad[i], NULL);
	}
}

Test(unicode, ascii)
{
	cr_expect(unicode_is_ascii("") && unicode_is_ascii("a/b\x7f"));
	cr_expect(!unicode_is_ascii("a\xc3\xa9") && !unicode_is_ascii("\xff"));
}
