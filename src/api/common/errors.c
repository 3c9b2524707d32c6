/* api/common/errors.c: see errors.h. */
#include "api/common/errors.h"

#include <errno.h>

#define RETRY_AFTER_S "2"

struct row {
	int code, status;
};

static int look_up(const struct row *rows, size_t n, int code)
{
	for (size_t i = 0; i < n; i++)
		if (rows[i].code == code)
			return rows[i].status;
	return 0;
}

int api_status_of(int code)
{
	static const struct row rows[] = {
		{ -EINVAL, 400 }, { -EKEYREJECTED, 401 }, { -EPERM, 403 }, { -ENOENT, 404 }, { -EEXIST, 409 }, { -EBUSY, 409 },
		{ -EALREADY, 409 },
		{ -EIDRM, 410 }, { -EMSGSIZE, 413 }, { -ERANGE, 416 }, { -EUSERS, 429 }, { -EAGAIN, 503 }, { -ENOSPC, 507 },
	};
	int status = look_up(rows, ARRAY_LEN(rows), code);

	return status ? status : 500;
}

int api_file_status_of(int code)
{
	static const struct row rows[] = {
		{ -ELOOP, 400 }, { -EISDIR, 400 }, { -ENOTDIR, 400 }, { -ENAMETOOLONG, 400 }, { -EXDEV, 400 }, { -ENXIO, 400 },
		{ -ETXTBSY, 409 }, { -EACCES, 403 }, { -EROFS, 403 }, { -ENOSPC, 413 }, { -EDQUOT, 413 }, { -EFBIG, 413 },
	};
	int status = look_up(rows, ARRAY_LEN(rows), code);

	return status ? status : api_status_of(code);
}

static void reply(struct http_req *req, int status, const struct err *err)
{
	if (status == 429 || status == 503)
		http_reply_header(req, "Retry-After", RETRY_AFTER_S);
	http_reply_error(req, status, "%s", err->msg);
}

void api_reply_err(struct http_req *req, const struct err *err)
{
	reply(req, api_status_of(err->code), err);
}

void api_reply_file_err(struct http_req *req, const struct err *err)
{
	reply(req, api_file_status_of(err->code), err);
}
