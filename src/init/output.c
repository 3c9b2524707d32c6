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

#define OUTPUT_CHUNK (64 * 1024)  /* a pipe's size */
#define TERMINAL_MAX (128 * 1024) /* more than a terminal holds at one moment */

static char chunk[WIRE_FRAME_HEAD + OUTPUT_CHUNK]; /* a frame; the payload behind room for its head */

void output_init(struct output *o, uint64_t max_bytes, int spool_dir)
{
	*o = (struct output){
		.pipe = WATCH_INIT, .err_pipe = WATCH_INIT, .max_bytes = max_bytes, .flow_at = UINT64_MAX, .need = UINT64_MAX,
		.inline_max = WIRE_INLINE_MAX, .spool = -1, .spool_dir = spool_dir,
	};
}

void output_done(struct output *o)
{
	o->log = logfile_free(o->log);
	free(o->mem);
	o->mem = NULL;
	o->mem_cap = 0;
	o->spool = fd_close(o->spool);
	o->kept = o->stored = 0;
}

/* -- storing --------------------------------------------------------------------------------------------------- */

/* Less is kept than was to be. Whose disk is full is told by that, anything else is no doing of the command's. */
static void note_lost(struct output *o, int code)
{
	if (code == ENOSPC || code == EDQUOT)
		o->no_space = true;
	else
		o->lost = code;
}

/* Returns how many of len bytes went into the file. */
static size_t spool_write(struct output *o, int fd, uint64_t at, const char *p, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, p + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			note_lost(o, n < 0 ? errno : EIO);
			break;
		}
		done += (size_t)n;
	}
	return done;
}

/* Moves the memory and a piece that it has no room for to a file. Returns how many bytes of the piece found room; 0 = the memory
 * stays as it is, since the file takes no more. */
static size_t spool_open(struct output *o, const char *p, size_t len)
{
	auto_fd fd = openat(o->spool_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	size_t got;

	if (fd < 0)
		note_lost(o, errno);
	if (fd < 0 || spool_write(o, fd, 0, o->mem, o->stored) != o->stored)
		return 0;
	got = spool_write(o, fd, o->stored, p, len);
	if (!got || o->stored + got <= o->inline_max)
		return 0;
	o->spool = fd_steal(&fd);
	free(o->mem);
	o->mem = NULL;
	o->mem_cap = 0;
	return got;
}

static bool memory_room(struct output *o, size_t need)
{
	size_t cap = o->mem_cap ? o->mem_cap : 1024;
	char *p;

	if (need <= o->mem_cap)
		return true;
	while (cap < need)
		cap *= 2;
	p = realloc(o->mem, MIN(cap, o->inline_max));
	if (!p)
		return false;
	o->mem = p;
	o->mem_cap = MIN(cap, o->inline_max);
	return true;
}

/* Returns how many bytes found room. */
static size_t keep(struct output *o, const char *p, size_t len)
{
	size_t room = len, got = 0;

	if (o->spool >= 0)
		return spool_write(o, o->spool, o->stored, p, len);
	if (o->stored + len > o->inline_max) {
		got = spool_open(o, p, len);
		room = o->inline_max - o->stored;
	}
	if (got)
		return got;
	if (!memory_room(o, o->stored + room)) {
		note_lost(o, ENOMEM);
		return 0;
	}
	memcpy(o->mem + o->stored, p, room);
	return room;
}

static void frame_head(char *p, int stream, size_t len)
{
	const uint32_t n = (uint32_t)len;
	const char head[WIRE_FRAME_HEAD] = {
		(char)stream, 0, 0, 0, (char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n,
	};

	memcpy(p, head, sizeof(head));
}

/* frame: WIRE_FRAME_HEAD bytes of room, then len bytes of payload. Returns how much of the payload found room. */
static size_t keep_frame(struct output *o, int stream, char *frame, size_t len)
{
	size_t got;

	frame_head(frame, stream, len);
	got = keep(o, frame, WIRE_FRAME_HEAD + len);
	if (got == WIRE_FRAME_HEAD + len) {
		o->stored += got;
		return len;
	}
	if (got <= WIRE_FRAME_HEAD)
		return 0; /* not even a byte of it: what was written is behind the end, and nothing follows */
	frame_head(frame, stream, got - WIRE_FRAME_HEAD);
	if (o->spool < 0)
		memcpy(o->mem + o->stored, frame, WIRE_FRAME_HEAD);
	else if (spool_write(o, o->spool, o->stored, frame, WIRE_FRAME_HEAD) != WIRE_FRAME_HEAD)
		return 0;
	o->stored += got;
	return got - WIRE_FRAME_HEAD;
}

/* TAIL: what lies in front of the mark goes, when there is enough behind it. */
static void forget_old(struct output *o)
{
	if (o->stored - o->mark < o->max_bytes || o->spool < 0 || o->mark > o->need)
		return;
	if (o->mark > o->first) {
		if (fallocate(o->spool, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)o->first,
			      (off_t)(o->mark - o->first)) < 0)
			o->full = true; /* a file system without holes: it is the first bytes that are kept then */
		o->dropped += o->mark_kept;
		o->kept -= o->mark_kept;
		o->first = o->mark;
	}
	o->mark = o->stored;
	o->mark_kept = o->kept;
}

static void add(struct output *o, int stream, char *frame, size_t len)
{
	bool tail = o->flags & OUTPUT_TAIL;
	uint64_t room = tail ? UINT64_MAX : o->max_bytes - o->kept;
	size_t want, got = 0;

	if (o->ended)
		return;
	if (o->log) {
		logfile_add(o->log, frame + WIRE_FRAME_HEAD, len);
		return;
	}
	want = len < room ? len : (size_t)room;
	if (!o->full && want && (o->flags & OUTPUT_FRAMED)) {
		got = keep_frame(o, stream, frame, want);
	} else if (!o->full && want) {
		got = keep(o, frame + WIRE_FRAME_HEAD, want);
		o->stored += got;
	}
	if (got < want && !tail)
		o->full = true;
	o->kept += got;
	o->dropped += len - got;
	if (tail)
		forget_old(o);
}

/* -- reading --------------------------------------------------------------------------------------------------- */

bool output_held(const struct output *o)
{
	return o->stored >= o->flow_at && !o->ended;
}

bool output_read(struct output *o, struct watch *pipe, size_t budget)
{
	const int stream = pipe == &o->err_pipe ? WIRE_STREAM_ERR : WIRE_STREAM_OUT;

	while (budget > 0 && !output_held(o)) {
		ssize_t n = read(pipe->fd, chunk + WIRE_FRAME_HEAD, MIN(budget, (size_t)OUTPUT_CHUNK));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno != EAGAIN;
		if (n == 0)
			return true;
		add(o, stream, chunk, (size_t)n);
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

static void drain(struct output *o, struct watch *pipe)
{
	int waiting = 0;

	if (pipe->fd < 0)
		return;
	/* What is on its way through a terminal shows when it is read, not before. */
	if (o->flags & OUTPUT_TERMINAL)
		waiting = TERMINAL_MAX;
	else if (ioctl(pipe->fd, FIONREAD, &waiting) < 0)
		return;
	if (waiting > 0)
		(void)output_read(o, pipe, (size_t)waiting);
}

void output_end(struct output *o)
{
	o->flow_at = UINT64_MAX;
	drain(o, &o->pipe);
	drain(o, &o->err_pipe);
	o->log = logfile_free(o->log);
	o->ended = true;
}
