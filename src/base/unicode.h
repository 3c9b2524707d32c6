/* base/unicode.h: one text in several forms: "é" is one character or two, "Ａ" is an A in other clothes. By utf8proc, whose
 * tables are of Unicode 14 or newer. Pure functions, no locale. A row of marks takes the square
 * of its length: callers bound what others send. They free what is returned, which is NULL where s is NULL or not UTF-8, and may
 * be longer than s. */
#pragma once

#include <stdbool.h>

bool unicode_is_ascii(const char *s); /* then each form of it is the text itself */

/* What looks alike, or differs by case, folds to the same: NFKC_Casefold, of fullwidth, mathematical and other letters, without
 * what is not seen (soft hyphens, joiners). Letters of other alphabets stay what they are: no Cyrillic "а" becomes an a. */
char *unicode_fold(const char *s);

/* With each character and its marks as one where there is such a one (NFC: what keyboards make), and taken apart (NFD: what
 * programs on macOS hand over as the name of a file). */
char *unicode_composed(const char *s);
char *unicode_decomposed(const char *s);
