/* init/output.h: what a run writes to stdout and stderr: the first max_bytes are kept, the rest is read, counted and
 * forgotten, because a closed pipe would kill the writer (apt dies of SIGPIPE) and a full one would stop it.
 *
 * Small output stays in memory; what outgrows WIRE_INLINE_MAX moves to a nameless file on the host's disk. When that disk
 * is full the kept part ends there and the rest counts as dropped: the kept bytes are always a prefix. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "init/loop.h"

struct output {
	struct watch pipe;  /* read end; -1 = all writers are gone, or the output goes elsewhere */
	uint64_t max_bytes; /* UINT64_MAX = all */
	uint64_t kept;      /* bytes */
	uint64_t dropped;   /* bytes */
	char *mem;          /* malloc'ed, the kept bytes while spool is -1 */
	size_t mem_cap;     /* bytes */
	int spool;          /* file with the kept bytes, offset 0 always; -1 = in memory */
	int spool_dir;      /* where the spool is made; not owned */
	bool ended;         /* the result is fixed: what comes now is read and forgotten, uncounted */
	bool full;          /* no more room: everything further is dropped */
};

void output_init(struct output *o, uint64_t max_bytes, int spool_dir);
/* Frees memory and spool; the pipe is the owner's to close. */
void output_done(struct output *o);

/* Adds bytes as if they had been read. Never fails: what finds no room is counted as dropped. */
void output_add(struct output *o, const void *p, size_t len);

/* Reads up to budget bytes without blocking. Returns true when every writer has closed. */
bool output_read(struct output *o, size_t budget);

/* A read-only descriptor of the spool with an offset of its own (0), for one receiver; -1 when the output is in memory.
 * The caller's. */
MUST_CHECK int output_reopen(const struct output *o);

/* Takes what is in the pipe at this moment, and no more, so that a child that goes on writing cannot hold it up; then the
 * result is fixed. */
void output_end(struct output *o);
