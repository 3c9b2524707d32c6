/* base/random.h: bytes from the kernel (getrandom(2)); aborts where the kernel gives none. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void random_bytes(void *p, size_t len); /* blocks only before the kernel's pool is seeded, early at boot */
uint64_t random_u64(void);

#define UUID_LEN 37
/* A version-4 UUID in lower case with dashes and NUL into ret[UUID_LEN]; returns ret. */
char *random_uuid(char *ret);
