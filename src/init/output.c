#include "init/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/wire.h"

#define OUTPUT_CHUNK (64 * 1024) /* a pipe's size */

static char chunk[OUTPUT_CHUNK];

void output_init(struct output *o, uint64_t max_bytes, int spool_dir)
{
	*o = (struct output){ .pipe = WATCH_INIT, .max_bytes = max_bytes, .spool = -1, .spool_dir = spool_dir };
}

void output_done(struct output *o)
{
	free(o->mem);
	o->mem = NULL;
	o->mem_cap = 0;
	o->spool = fd_close(o->spool);
	o->kept = 0;
}

/* Returns how many of len bytes went into the file. */
static size_t spool_write(int fd, uint64_t at, const char *p, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, p + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return done;
}

/* Moves the memory to a file. On failure the memory stays as it is. */
static bool spool_open(struct output *o)
{
	auto_fd fd = openat(o->spool_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || spool_write(fd, 0, o->mem, o->kept) != o->kept)
		return false;
	o->spool = fd_steal(&fd);
	free(o->mem);
	o->mem = NULL;
	o->mem_cap = 0;
	return true;
}

static bool memory_room(struct output *o, size_t need)
{
	size_t cap = o->mem_cap ? o->mem_cap : 1024;
	char *p;

	if (need <= o->mem_cap)
		return true;
	while (cap < need)
		cap *= 2;
	p = realloc(o->mem, MIN(cap, (size_t)WIRE_INLINE_MAX));
	if (!p)
		return false;
	o->mem = p;
	o->mem_cap = MIN(cap, (size_t)WIRE_INLINE_MAX);
	return true;
}

/* Returns how many bytes found room. */
static size_t keep(struct output *o, const char *p, size_t len)
{
	size_t room = len;

	if (o->spool < 0 && o->kept + len > WIRE_INLINE_MAX && !spool_open(o))
		room = WIRE_INLINE_MAX - o->kept;
	if (o->spool >= 0)
		return spool_write(o->spool, o->kept, p, len);
	if (!memory_room(o, o->kept + room))
		return 0;
	memcpy(o->mem + o->kept, p, room);
	return room;
}

void output_add(struct output *o, const void *p, size_t len)
{
	uint64_t room = o->max_bytes - o->kept;
	size_t want, got = 0;

	if (o->ended)
		return;
	want = len < room ? len : (size_t)room;
	if (!o->full && want)
		got = keep(o, p, want);
	if (got < want)
		o->full = true;
	o->kept += got;
	o->dropped += len - got;
}

bool output_read(struct output *o, size_t budget)
{
	while (budget > 0) {
		ssize_t n = read(o->pipe.fd, chunk, MIN(budget, sizeof(chunk)));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno != EAGAIN;
		if (n == 0)
			return true;
		output_add(o, chunk, (size_t)n);
		budget -= (size_t)n;
	}
	return false;
}

int output_reopen(const struct output *o)
{
	char path[64];

	if (o->spool < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", o->spool);
	return open(path, O_RDONLY | O_CLOEXEC);
}

void output_end(struct output *o)
{
	int waiting = 0;

	if (o->pipe.fd >= 0 && ioctl(o->pipe.fd, FIONREAD, &waiting) == 0 && waiting > 0)
		(void)output_read(o, (size_t)waiting);
	o->ended = true;
}
