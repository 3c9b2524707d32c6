/* init/output.h: what a run writes to stdout and stderr: the first max_bytes are kept, the rest is read, counted and
 * forgotten, because a closed pipe would kill the writer (apt dies of SIGPIPE) and a full one would stop it.
 *
 * Small output stays in memory; what outgrows inline_max moves to a nameless file on the host's disk. When that disk
 * is full the kept part ends there and the rest counts as dropped: the kept bytes are always a prefix.
 *
 * FRAMED  stdout and stderr come by two pipes, and each piece that was read is stored behind a head (wire.h, WIRE_FRAME).
 *         Their order is that in which init found the pipes readable.
 * TAIL    the last max_bytes at least are kept (at most twice as many), older ones are given back to the disk. Offsets
 *         count from the beginning all the same, and `first` is always the beginning of a frame.
 *
 * A reader that wants the writer to wait for it sets flow_at: nothing is read beyond it, so the pipe fills and the writer
 * stops. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "init/logfile.h"
#include "init/loop.h"

enum output_flag { OUTPUT_FRAMED = 1, OUTPUT_TAIL = 2, OUTPUT_TERMINAL = 4 /* the pipe is a terminal's master */ };

struct output {
	struct watch pipe;     /* read end; -1 = all writers are gone, or the output goes elsewhere. A terminal's master */
	struct watch err_pipe; /* stderr's, when it is apart; else -1 */
	unsigned flags;        /* enum output_flag */
	uint64_t max_bytes;    /* UINT64_MAX = all */
	uint64_t kept;         /* bytes that are there to be read, heads of frames not counted */
	uint64_t dropped;      /* bytes */
	uint64_t stored;       /* offset behind the last byte in mem or spool, heads included */
	uint64_t first;        /* TAIL: offset of the oldest byte that is still there */
	uint64_t mark;         /* TAIL: what `first` becomes next */
	uint64_t mark_kept;    /* TAIL: bytes kept in front of mark */
	struct logfile *log;   /* owned: where bytes go instead of being kept; NULL = they are kept */
	uint64_t flow_at;      /* offset at which reading stops; UINT64_MAX = never */
	uint64_t need;         /* TAIL: what lies behind it stays, for a reader that is waited for; UINT64_MAX = nobody is */
	char *mem;             /* malloc'ed, the stored bytes while spool is -1 */
	size_t mem_cap;        /* bytes */
	size_t inline_max;     /* bytes in memory, at most */
	int spool;             /* file with the stored bytes, offset 0 always; -1 = in memory */
	int spool_dir;         /* where the spool is made; not owned */
	bool ended;            /* the result is fixed: what comes now is read and forgotten, uncounted */
	int lost;              /* errno: why less was kept than was to be, but for no_space; 0 = it was not */
	bool no_space;         /* the disk was full, or the quota */
	bool full;             /* no more room: everything further is dropped */
};

/* inline_max is WIRE_INLINE_MAX, flags none and flow_at never, until the caller says something else: before the first
 * byte. */
void output_init(struct output *o, uint64_t max_bytes, int spool_dir);
/* Frees memory and spool; the pipes are the owner's to close. */
void output_done(struct output *o);

/* Reads up to budget bytes from one of its pipes without blocking; nothing once flow_at is reached. Returns true when
 * every writer has closed. */
bool output_read(struct output *o, struct watch *pipe, size_t budget);

/* Whether readers have been overtaken: the pipes must not be watched. */
bool output_held(const struct output *o);

/* A read-only descriptor of the spool with an offset of its own (0), for one receiver; -1 when the output is in memory.
 * The caller's. */
MUST_CHECK int output_reopen(const struct output *o);

/* Takes what is in the pipes at this moment, and no more, so that a child that goes on writing cannot hold it up; then
 * the result is fixed. */
void output_end(struct output *o);
