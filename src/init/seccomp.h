/* init/seccomp.h: the system-call filter of the sandbox, compiled when the program was built (tools/gen-seccomp.c has the
 * list and the reasons). init loads it once, before the first command, and every command inherits it.
 *
 * Two calls that the filter refuses to everybody are init's work. It lets them pass with a key of 128 random bits in
 * arguments that the kernel does not look at. Commands never see the key: a child is born as undumpable as init, and
 * forgets it before it becomes anybody else, or stays as undumpable until it executes (lend.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct clone_args;
struct sock_fprog;

/* Draws a key and puts the filter on this process and all that come from it. Needs CAP_SYS_ADMIN in the user namespace, or
 * no_new_privs. no_core: RLIMIT_CORE stays as it is, whatever commands do; they are told that it is set. */
MUST_CHECK int seccomp_load(bool no_core);

/* The calls that need the key; they work without a filter too. Results as of the system calls, errno set. */
MUST_CHECK long seccomp_clone3(const struct clone_args *args, size_t size);
/* clone3 with a stack of the child's own (args->stack), on which it calls fn(arg), which must not return. Its result, or a
 * negative errno, in the parent only. -ENOSYS on machines that this is not written for. */
MUST_CHECK long seccomp_clone3_call(const struct clone_args *args, size_t size, void (*fn)(const void *), const void *arg);
MUST_CHECK int seccomp_sethostname(const char *name, size_t len);

/* In a child: wipes the key. The calls above fail from then on. */
void seccomp_forget(void);

/* For tests: the program, with this key in place. */
const struct sock_fprog *seccomp_program(const uint64_t key[2], bool no_core);
