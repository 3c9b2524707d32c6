#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message cut at the maximum says so; whole UTF-8 sequences only, as messages end up in JSON. */
static void mark_cut(char *msg)
{
	size_t n = ERR_MSG_MAX - 4;

	while (n > 0 && ((unsigned char)msg[n] & 0xc0) == 0x80)
		n--;
	memcpy(msg + n, "...", 4);
}

static void PRINTF_LIKE(2, 0) set_message(char *msg, const char *fmt, va_list ap)
{
	int n = vsnprintf(msg, ERR_MSG_MAX, fmt, ap);

	if (n >= ERR_MSG_MAX)
		mark_cut(msg);
}

static void append_message(char *msg, const char *sep, const char *tail)
{
	size_t len = strlen(msg);
	int n = snprintf(msg + len, ERR_MSG_MAX - len, "%s%s", sep, tail);

	if (n >= 0 && (size_t)n >= ERR_MSG_MAX - len)
		mark_cut(msg);
}

/* strerror_r has two incompatible forms (GNU and POSIX, musl has the latter only), so the return value decides. */
static const char *errno_text(int code, char *scratch, size_t size)
{
#ifdef __GLIBC__
	return strerror_r(-code, scratch, size);
#else
	return strerror_r(-code, scratch, size) == 0 ? scratch : "unknown error";
#endif
}

/* Names in parentheses: no macro of the header applies. */
int (err_set)(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return code;
	va_start(ap, fmt);
	set_message(err->msg, fmt, ap);
	va_end(ap);
	err->code = code;
	return code;
}

static int PRINTF_LIKE(3, 0) set_sys(struct err *err, int code, const char *fmt, va_list ap)
{
	char text[128];

	if (!err)
		return code;
	set_message(err->msg, fmt, ap);
	append_message(err->msg, ": ", errno_text(code, text, sizeof(text)));
	err->code = code;
	return code;
}

int (err_sys)(struct err *err, const char *fmt, ...)
{
	int code = errno > 0 ? -errno : -EIO;
	va_list ap;

	va_start(ap, fmt);
	set_sys(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int (err_sys_code)(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_sys(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int (err_wrap)(struct err *err, int code, const char *fmt, ...)
{
	char inner[ERR_MSG_MAX], text[128];
	va_list ap;

	if (!err)
		return code;
	/* A message that belongs to another failure would mislead: only one made for this code is kept. */
	if (err->code == code && err->msg[0])
		memcpy(inner, err->msg, sizeof(inner));
	else
		snprintf(inner, sizeof(inner), "%s", errno_text(code, text, sizeof(text)));
	va_start(ap, fmt);
	set_message(err->msg, fmt, ap);
	va_end(ap);
	append_message(err->msg, ": ", inner);
	err->code = code;
	return code;
}

void err_copy(struct err *to, const struct err *from)
{
	if (to && from)
		*to = *from;
}
