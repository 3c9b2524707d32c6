#include <criterion/criterion.h>
#include <errno.h>

#include "api/common/errors.h"

Test(errors, the_codes_of_the_convention)
{
	static const struct {
		int code, status;
	} rows[] = {
		{ -EINVAL, 400 }, { -EKEYREJECTED, 401 }, { -EPERM, 403 }, { -ENOENT, 404 }, { -EEXIST, 409 }, { -EBUSY, 409 },
		{ -EIDRM, 410 }, { -EMSGSIZE, 413 }, { -ERANGE, 416 }, { -EUSERS, 429 }, { -EAGAIN, 503 }, { -EIO, 500 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		cr_assert_eq(api_status_of(rows[i].code), rows[i].status, "%d", rows[i].code);
}

Test(errors, what_no_repetition_mends_is_no_5xx_for_files)
{
	static const int permanent[] = { -ELOOP, -EISDIR, -ENOTDIR, -EINVAL, -EACCES, -EROFS, -ENOSPC, -EDQUOT, -ENAMETOOLONG };

	for (size_t i = 0; i < ARRAY_LEN(permanent); i++)
		cr_assert_lt(api_file_status_of(permanent[i]), 500, "%d", permanent[i]);
	cr_assert_eq(api_file_status_of(-ENOENT), 404);
	cr_assert_eq(api_file_status_of(-ETIMEDOUT), 500);
}
