/* spawner/together.h: closing many descriptors. */
#pragma once

#include <stddef.h>

/* The last ones of what the kernel waits for as it takes it down: a mount namespace with its file systems takes two grace periods
 * of RCU, which those that wait at the same time share. Closes all, several at a time, and returns when what hung on them is gone.
 * By helpers in this process's memory and with its descriptors; it may have no other children. A child's work, as it takes long. */
void close_together(const int *fds, size_t n);

/* All but 0 to 2 and these, which are sorted on the way; -1 is harmless. */
void close_others(int *keep, size_t n);
