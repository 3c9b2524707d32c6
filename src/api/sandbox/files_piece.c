/* api/sandbox/files_piece.c: what a worker does with one piece of an upload: bytes into the staged file, and into its digest. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/sandbox/files.h"

#define DIRECT_FROM_BYTES (32u << 20) /* what lies behind this in a file is written past the page cache */
#define DIRECT_ALIGN 4096u            /* of offset, length and memory */
#define DIRECT_STEP_BYTES (1u << 20)

static int write_all(int fd, const char *p, size_t len, uint64_t offset, struct err *err)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "write the file");
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int set_direct(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -errno : fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* Returns how many bytes went past the cache; fewer than could, where the file system does not take them. What remains is
 * written as usual, which also finds the words for what went wrong. */
static size_t write_direct(int fd, const char *p, size_t len, uint64_t offset)
{
	auto_free char *block = NULL;
	size_t done = 0;

	if (offset < DIRECT_FROM_BYTES || offset % DIRECT_ALIGN || len < DIRECT_ALIGN || set_direct(fd, true) < 0)
		return 0;
	block = aligned_alloc(DIRECT_ALIGN, DIRECT_STEP_BYTES);
	while (block && len - done >= DIRECT_ALIGN) {
		size_t n = MIN(len - done, (size_t)DIRECT_STEP_BYTES) & ~(size_t)(DIRECT_ALIGN - 1);

		memcpy(block, p + done, n);
		if (pwrite(fd, block, n, (off_t)(offset + done)) != (ssize_t)n)
			break;
		done += n;
	}
	return set_direct(fd, false) < 0 ? 0 : done;
}

int file_piece_write(int fd, const char *p, size_t len, uint64_t offset, struct err *err)
{
	size_t done = write_direct(fd, p, len, offset);

	return write_all(fd, p + done, len - done, offset + done, err);
}
