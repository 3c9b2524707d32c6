/* base/machine.h: what the machine has, and what of it is free just now. Every call reads /proc or asks the kernel: tens of
 * microseconds, so callers keep what they read for a while. Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

#define MACHINE_UNKNOWN UINT64_MAX

struct machine {
	uint64_t cpu_milli; /* thousandths of a CPU; online ones */
	uint64_t memory_bytes;
};
void machine_here(struct machine *ret);

/* What new work could take without swapping, as the kernel estimates it. MACHINE_UNKNOWN where it does not say. */
uint64_t machine_memory_free(void);
/* Of the file system of path, for others than root; 0 also where no inode is free. MACHINE_UNKNOWN where it can't be asked. */
uint64_t machine_disk_free(const char *path);
/* The share of the last ten seconds in which something waited for the resource ("cpu", "memory", "io"), in hundredths of a
 * percent: the kernel's pressure stall information. MACHINE_UNKNOWN without it. */
uint64_t machine_pressure(const char *resource);
/* The same from the text of such a file. */
uint64_t machine_pressure_of(const char *text);
/* Whether the file system of dir, a descriptor, holds projects to their limits. Project quota that only counts, as ext4's does that
 * was mounted without prjquota, also after a remount with it, is false. Needs root. */
bool machine_limits_projects(int dir);
/* Has the disk keep room for [from, to) of a file, which grows to `to`: 0, -EOPNOTSUPP where its file system keeps none, or another
 * negative errno. */
MUST_CHECK int machine_keep_room(int file, uint64_t from, uint64_t to);
