#include "init/seccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/seccomp_filter.h"

static struct sock_filter code[ARRAY_LEN(seccomp_filter)];
static const struct sock_fprog program = { .len = ARRAY_LEN(code), .filter = code };
static uint64_t init_key[2];

const struct sock_fprog *seccomp_program(const uint64_t key[2], bool no_core)
{
	uint32_t parts[ARRAY_LEN(seccomp_keys[0])];

	memcpy(parts, key, sizeof(parts));
	memcpy(code, seccomp_filter, sizeof(code));
	for (size_t i = 0; i < ARRAY_LEN(seccomp_keys); i++)
		for (size_t j = 0; j < ARRAY_LEN(parts); j++)
			code[seccomp_keys[i][j]].k = parts[j];
	for (size_t i = 0; i < ARRAY_LEN(seccomp_cores) && !no_core; i++)
		code[seccomp_cores[i]].k = UINT32_MAX; /* no such limit */
	return &program;
}

int seccomp_load(bool no_core)
{
	if (getrandom(init_key, sizeof(init_key), 0) != (ssize_t)sizeof(init_key))
		return -EIO;
	/* Without SPEC_ALLOW kernels before 5.16 slow every filtered process down against speculative store bypass;
	 * container runtimes pass it too. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		    seccomp_program(init_key, no_core)) < 0)
		return -errno;
	explicit_bzero(code, sizeof(code)); /* the kernel has its own */
	return 0;
}

/* Changing the user makes a process dumpable where fs.suid_dumpable is 1. The pad covers where the stack was when
 * seccomp_clone3 had the key there. */
__attribute__((noinline)) void seccomp_forget(void)
{
	char pad[1024];

	explicit_bzero(pad, sizeof(pad));
	explicit_bzero(init_key, sizeof(init_key));
}

long seccomp_clone3(const struct clone_args *args, size_t size)
{
	return syscall(SYS_clone3, args, size, init_key[0], init_key[1]);
}

/* In assembly, since the child must not return into frames of its parent. What is not the kernel's to change stays as it was:
 * where to go, and with what. */
long seccomp_clone3_call(const struct clone_args *args, size_t size, void (*fn)(const void *), const void *arg)
{
#if defined(__x86_64__)
	register uint64_t second __asm__("r10") = init_key[1];
	register void (*to)(const void *) __asm__("r8") = fn;
	register const void *with __asm__("r9") = arg;
	long ret;

	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r9, %%rdi\n\tcall *%%r8\n\thlt\n1:"
			 : "=a"(ret)
			 : "0"((long)SYS_clone3), "D"(args), "S"(size), "d"(init_key[0]), "r"(second), "r"(to), "r"(with)
			 : "rcx", "r11", "cc", "memory");
	return ret;
#elif defined(__aarch64__)
	register long ret __asm__("x0") = (long)(uintptr_t)args;
	register size_t length __asm__("x1") = size;
	register uint64_t first __asm__("x2") = init_key[0], second __asm__("x3") = init_key[1];
	register void (*to)(const void *) __asm__("x4") = fn;
	register const void *with __asm__("x5") = arg;
	register long number __asm__("x8") = SYS_clone3;

	__asm__ volatile("svc #0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x5\n\tblr x4\n\tbrk #1\n1:"
			 : "+r"(ret)
			 : "r"(length), "r"(first), "r"(second), "r"(to), "r"(with), "r"(number)
			 : "cc", "memory");
	return ret;
#else
	(void)args, (void)size, (void)fn, (void)arg;
	return -ENOSYS;
#endif
}

int seccomp_sethostname(const char *name, size_t len)
{
	return (int)syscall(SYS_sethostname, name, len, init_key[0], init_key[1]);
}
