#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

Test(err, message_and_code)
{
	struct err err = ERR_INIT;

	cr_assert_eq(err_set(&err, -ENOENT, "no image \"%s\"", "x"), -ENOENT);
	cr_assert_eq(err.code, -ENOENT);
	cr_assert_str_eq(err.msg, "no image \"x\"");
	cr_assert_eq(err_wrap(&err, -ENOENT, "deploy %s", "a/b"), -ENOENT);
	cr_assert_str_eq(err.msg, "deploy a/b: no image \"x\"");
}

Test(err, sys_adds_the_reason)
{
	struct err err = ERR_INIT;

	errno = EACCES;
	cr_assert_eq(err_sys(&err, "open %s", "/x"), -EACCES);
	cr_assert_str_eq(err.msg, "open /x: Permission denied");
	errno = 0;
	cr_assert_eq(err_sys(&err, "x"), -EIO, "success is never reported as an error of 0");
	cr_assert_eq(err_sys_code(&err, -ENOSPC, "write"), -ENOSPC);
	cr_assert_str_eq(err.msg, "write: No space left on device");
}

Test(err, wrap_makes_a_message_where_there_is_none)
{
	struct err err = ERR_INIT;

	cr_assert_eq(err_wrap(&err, -EPIPE, "send"), -EPIPE);
	cr_assert_str_eq(err.msg, "send: Broken pipe");
	/* What an earlier failure left says nothing about this one. */
	cr_assert_eq(err_wrap(&err, -ENOENT, "open"), -ENOENT);
	cr_assert_str_eq(err.msg, "open: No such file or directory");
}

Test(err, null_is_accepted)
{
	struct err err = ERR_INIT;

	errno = EPERM;
	cr_assert_eq(err_set(NULL, -EINVAL, "x"), -EINVAL);
	cr_assert_eq(err_sys(NULL, "x"), -EPERM);
	cr_assert_eq(err_wrap(NULL, -EINVAL, "x"), -EINVAL);
	err_copy(NULL, &err);
	err_copy(&err, NULL);
}

Test(err, long_messages_are_cut_and_say_so)
{
	auto_free char *longer = xmalloc(4001);
	struct err err = ERR_INIT;

	/* Two bytes a character: a cut in the middle of one would not be UTF-8. */
	for (int odd = 0; odd < 2; odd++) {
		for (int i = 0; i < 4000; i += 2)
			memcpy(longer + i, "\xc3\xa9", 2);
		longer[4000] = '\0';
		err_set(&err, -EINVAL, "%s%s", odd ? "x" : "", longer);
		cr_assert(str_ends(err.msg, "..."));
		cr_assert(str_is_utf8(err.msg, strlen(err.msg)));
		cr_assert_gt(strlen(err.msg), ERR_MSG_MAX - 8);
		err_wrap(&err, -EINVAL, "context");
		cr_assert(str_starts(err.msg, "context: "));
		cr_assert(str_ends(err.msg, "..."));
	}
}

Test(err, copy)
{
	struct err from = ERR_INIT, to = ERR_INIT;

	err_set(&from, -EBUSY, "taken");
	err_copy(&to, &from);
	cr_assert_eq(to.code, -EBUSY);
	cr_assert_str_eq(to.msg, "taken");
}
