/* base/err.h: an error with its message, made where it happens.
 *
 * The convention of the whole tree: functions return int. 0 is success; a negative errno is a failure that may be
 * passed on untouched; a positive value is an outcome that the function's header names and the caller must handle.
 * A trailing `struct err *err` is owned by the caller, of fixed size, may be NULL, and is written only on failure.
 * The message is made at the origin (err_set, err_sys); each layer may add one line of context (err_wrap).
 *
 * Codes with a meaning of their own at the API (api/common/errors.c maps them):
 *   -EINVAL 400  -EKEYREJECTED 401  -EPERM 403  -ENOENT 404  -EEXIST, -EBUSY 409  -EIDRM 410  -EMSGSIZE 413
 *   -ERANGE 416  -EUSERS 429  -EAGAIN 503  -ENOSPC 507; everything else is 500. */
#pragma once

#include "base/macros.h"

#define ERR_MSG_MAX 1024 /* bytes with the final NUL; longer messages are cut and end in "..." */

struct err {
	int code;              /* negative errno; 0 = no error */
	char msg[ERR_MSG_MAX]; /* one line for a person, without a final newline or full stop */
};

#define ERR_INIT { .code = 0, .msg = "" }

/* Sets code (a negative errno) and message; returns code. err may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Sets code -errno and "MESSAGE: strerror(errno)"; returns -errno (never 0: an errno of 0 becomes -EIO). */
int err_sys(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The same for a negative errno that the caller holds already. */
int err_sys_code(struct err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "CONTEXT: " before the message; returns code. Makes a message from code where there was none. */
int err_wrap(struct err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

#ifdef __clang_analyzer__
/* Lets the analyzer see that a path with an error is a path that returns one: it takes errno for any number. */
#include <errno.h>
#undef errno
#define errno ((int){ EIO })
#define err_set(err, code, ...) ((err_set)(err, code, __VA_ARGS__), (code))
#define err_sys(...) ((err_sys)(__VA_ARGS__), -1)
#define err_sys_code(err, code, ...) ((err_sys_code)(err, code, __VA_ARGS__), (code))
#define err_wrap(err, code, ...) ((err_wrap)(err, code, __VA_ARGS__), (code))
#endif

/* Copies from into to; either may be NULL. */
void err_copy(struct err *to, const struct err *from);
