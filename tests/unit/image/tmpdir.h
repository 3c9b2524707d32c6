/* A folder of its own for a test, removed at its end. */
#pragma once

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

static inline int tmpdir_remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)st;
	(void)flag;
	(void)at;
	return remove(path);
}

/* template: "/tmp/orw-NAME-XXXXXX", changed in place. */
static inline void tmpdir_make(char *template)
{
	cr_assert_not_null(mkdtemp(template));
}

static inline void tmpdir_remove(const char *dir)
{
	cr_assert_eq(nftw(dir, tmpdir_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}
