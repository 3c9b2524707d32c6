/* Runs a fuzz target on files and folders of files, for builds without libFuzzer: the corpus is part of the tests. */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
/* Of targets that can say so: whether the inputs since the start came to what it is there for. NULL = yes. */
__attribute__((weak)) const char *fuzz_missed(void);

static int n_inputs;

static int replay_file(const char *path)
{
	auto_buf struct buf b;
	struct err err = ERR_INIT;
	auto_free void *exact = NULL;

	buf_init(&b, (size_t)64 << 20);
	if (fd_read_file(path, &b, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	/* In memory of just this size, so that a sanitizer sees a read beyond it. */
	exact = xmemdup(b.data, b.len);
	LLVMFuzzerTestOneInput(exact, b.len);
	n_inputs++;
	return 0;
}

static int replay_folder(const char *path, DIR *dir)
{
	int failed = 0;

	for (struct dirent *e; (e = readdir(dir));) {
		auto_free char *file = xasprintf("%s/%s", path, e->d_name);

		if (e->d_name[0] != '.')
			failed |= replay_file(file);
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = LLVMFuzzerInitialize ? LLVMFuzzerInitialize(&argc, &argv) : 0;

	for (int i = 1; i < argc; i++) {
		DIR *dir = opendir(argv[i]);

		failed |= dir ? replay_folder(argv[i], dir) : replay_file(argv[i]);
	}
	printf("replayed %d inputs\n", n_inputs);
	if (fuzz_missed && fuzz_missed()) {
		fprintf(stderr, "none of them: %s\n", fuzz_missed());
		failed = 1;
	}
	return failed;
}
