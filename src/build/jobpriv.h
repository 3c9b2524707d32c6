/* build/jobpriv.h: what the files of the build job share: one build from its folder to its record. */
#pragma once

#include "build/job.h"

struct env_store {                 /* the folder of one environment below DATA/images; locked while this exists */
	char *rel;                 /* "env/OWNER/NAME" */
	char *dir;                 /* the same, absolute */
	char *store, *run, *bases; /* arguments of buildah: --root, --runroot, --storage-opt */
	char *cgroup; /* parent of the cgroups of RUN steps, as in /proc/self/cgroup; NULL before job_cgroup_open */
	int lock;
};

/* env: "OWNER/NAME". Makes the folder, waits for its lock, and clears what a killed build left. */
MUST_CHECK int env_store_open(struct env_store *ret, struct job *j, const char *env, struct err *err);
void env_store_close(struct env_store *s); /* accepts a zeroed one */
/* The first arguments of every buildah call on this store, ENV_STORE_ARGS of them; borrowed from *s. Returns how many.
 */
#define ENV_STORE_ARGS 9
size_t env_store_argv(const struct env_store *s, const char **argv);

/* Chooses a cgroup for RUN steps, apart from the job's own, and notes it in the store's folder for the job that may
 * have to clean up. */
MUST_CHECK int job_cgroup_open(struct job *j, struct env_store *s, struct err *err);

#define BUILD_POLICY "build-policy.json" /* in j->tmp: which images buildah may bring itself */
/* Stages settings, names, that policy and the runtime wrapper in j->tmp. From then on, where the job has a net namespace, it
 * resolves names as one that is in it. *ret_runtime is the --runtime argument; the caller frees it. */
MUST_CHECK int job_run_setup(struct job *j, const struct env_store *s, char **ret_runtime, struct err *err);

/* Until *ret_fd is closed, no image of the store of bases is removed; waits for a removal that runs. */
MUST_CHECK int job_use_bases(struct job *j, int *ret_fd, struct err *err);
/* The images that the Dockerfile at path names are in the store of bases afterwards, aliases applied.
 * *ret_args: "--build-context" arguments for the aliases; free with strv_free. */
MUST_CHECK int job_bring_bases(struct job *j, const char *path, char ***ret_args, struct err *err);

/* What stands on the job's standard input: jobinput.c. */
struct build_input {
	char **args, **secrets; /* NAME, VALUE, NAME, VALUE, ...; NULL = none */
	char **options;         /* of buildah, after build_input_stage() */
};
MUST_CHECK int build_input_read(struct build_input *ret, struct err *err);
void build_input_done(struct build_input *in);
/* Puts the secrets into a tmpfs below tmp and makes the options. */
MUST_CHECK int build_input_stage(struct build_input *in, const char *tmp, struct err *err);
/* A copy of the line in which no secret stands; the caller frees. */
char *build_input_mask(const struct build_input *in, const char *line);

/* What a build may write, and leave free: jobdisk.c. Borrows j and s. */
struct build_disk *build_disk_new(const struct job *j, const struct env_store *s);
void build_disk_free(struct build_disk *d);
/* A tick of job_exec. -EDQUOT: beyond a limit. */
MUST_CHECK int build_disk_check(void *disk, struct err *err);

/* -ENOENT: the one message for a base image that is nowhere. */
int job_no_base(const char *name, const char *why, struct err *err);

/* -- jobbinds.c ---------------------------------------------------------------------------------------------------- */
/* Whether a RUN step of this bundle may have that: it is of buildah's own (caches, and what a container has), of the source, or in
 * an image. -EPERM says what it is. */
MUST_CHECK int job_check_bind(const char *source, const char *bundle, struct err *err);
