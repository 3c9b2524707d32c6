/* build/job.h: root jobs: everything about images that needs root. Run by the spawner as `openreward job KIND ...` in
 * a pid and mount namespace and a cgroup of its own; killing its process 1 ends all of it at any moment.
 *
 * Output: lines of progress on stdout, and what the tools print on both; on failure the last line is the reason, whole,
 * for people, and the exit status is 1, JOB_TO_CLEAN when `clean` is to follow, IMAGE_JOB_BUSY when what it was to remove is
 * needed, or IMAGE_JOB_GONE when that is not here. A job is one process, single-threaded, and aborts on out-of-memory.
 *
 *   bootstrap NAME                                 a base image from Debian packages
 *   pull NAME                                      from its registry, into the store of bases
 *   import PATH NAME                               docker-archive, oci-archive or an OCI folder
 *   remove NAME                                    the record, if any, then what only it used of its store
 *   sweep [DIGEST...]                              the bases that were replaced, but for those, which are used
 *   forget OWNER/NAME                              the store of an environment, unless an image of it has a record
 *   prune                                          what no record uses; only while no sandbox runs
 *   build DEPLOYMENT OWNER/NAME [FILE [SUBDIR]]    FILE relative to SUBDIR, "." = the top; source in DATA/builds/DEPLOYMENT;
 *                                                  arguments and secrets on standard input (jobinput.c)
 *   clean OWNER/NAME                               what a killed build left: containers, temporary files, cgroups
 *   host-names                                     one per line: what builds may reach although it is private
 *   host-conf DIR TARGET                           stages hostconf into DIR; prints the environment for TARGET
 *   runtime-wrapper CONF ARGS...                   between buildah and runc; not for people
 *
 * Folders below DATA/images, all root's: bases/{store,run,lock}, env/OWNER/NAME/{store,run,runc,tmp,lock},
 * records/, tmp/. A store is used by one job at a time (flock on lock), the store of bases by many readers. Builds hold
 * bases/used shared; who removes takes it whole, after bases/lock and without waiting. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"
#include "base/macros.h"
#include "build/conf.h"

#define JOB_TO_CLEAN 3     /* exit status: a tool was killed in the middle */
#define JOB_STEERED_FD 3   /* where the spawner leaves the net namespace of a build */
#define JOB_REASON_MAX 700 /* bytes of a tool's error that are passed on */

struct job {
	const char *data; /* DATA, absolute */
	char *images;     /* DATA/images */
	char *self;       /* the path of this program */
	char *tmp;        /* private folder of this job, removed at its end; NULL until job_tmp */
	int tmp_lock;     /* held while tmp is in use */
	int netns;        /* JOB_STEERED_FD if it is a net namespace, else -1 */
	struct build_conf conf;
	const char *const *host_env; /* "K=V" of the host's clients */
};

/* `openreward job ...` with argv[0] = "job"; returns the exit status. */
int job_main(int argc, char **argv);

/* -- what the kinds share (job.c) -------------------------------------------------------------------------------- */
void job_say(const char *fmt, ...) PRINTF_LIKE(1, 2); /* one line of progress */
/* Makes job->tmp below DATA/images/tmp and clears what killed jobs left there. */
MUST_CHECK int job_tmp(struct job *j, struct err *err);
/* An exclusive lock on the file path (made), waited for; released by closing *ret_fd. */
MUST_CHECK int job_lock(int *ret_fd, const char *path, bool shared, struct err *err);
/* Removes a tree without leaving its file system or following links; missing is success. */
MUST_CHECK int job_rmtree(const char *path, struct err *err);
/* Writes the storage, registries and policy files of the container tools into job->tmp. */
MUST_CHECK int job_tool_files(struct job *j, struct err *err);

/* -- child processes (jobexec.c) ---------------------------------------------------------------------------------- */
typedef void job_line_fn(void *arg, const char *line);

struct job_exec {
	const char *const *argv;
	const char *const *env; /* "K=V" over the job's own environment for tools; may be NULL */
	job_line_fn *line;      /* every line of stdout and stderr, at most 4 KiB of each; NULL = passed on to stdout */
	void *arg;
	int stdin_fd; /* 0 or less = /dev/null */
	int cwd_fd;   /* 0 or less = "/" */
	int netns_fd; /* 0 or less = stay in the job's; else the net namespace to run in */
	unsigned uid; /* 0 = stay root; else drop to it, without groups, privileges and new privileges */
	unsigned long long file_max_bytes; /* RLIMIT_FSIZE; 0 = none */
	int (*tick)(void *tick_arg, struct err *err); /* several times a second; when it fails the tool is killed */
	void *tick_arg;
};

/* Runs to the end. Returns 0 with *ret_status as waitpid gives it; negative = it could not be started, or its tick failed. */
MUST_CHECK int job_exec(struct job *j, const struct job_exec *x, int *ret_status, struct err *err);
/* The same, where anything but exit 0 is a failure: -EIO with "WHAT: " (if any) and the tool's own last words, tidied.
 */
MUST_CHECK int job_tool(struct job *j, const char *const *argv, const char *what, struct err *err);
MUST_CHECK int job_tool_env(struct job *j, const char *const *argv, const char *const *env, const char *what,
			    struct err *err);
/* Tidies a tool's error line in place: logrus' time= level= msg="..." is opened, the length capped. Returns s. */
char *job_tidy(char *s);

/* -- kinds -------------------------------------------------------------------------------------------------------- */
MUST_CHECK int job_bootstrap(struct job *j, const char *name, struct err *err);
MUST_CHECK int job_pull(struct job *j, const char *name, struct err *err);
MUST_CHECK int job_import(struct job *j, const char *path, const char *name, struct err *err);
MUST_CHECK int job_remove(struct job *j, const char *name, struct err *err);
MUST_CHECK int job_sweep(struct job *j, char *const *used, struct err *err);
MUST_CHECK int job_prune(struct job *j, struct err *err);
MUST_CHECK int job_forget(struct job *j, const char *env, struct err *err);
MUST_CHECK int job_build(struct job *j, const char *deployment, const char *env, const char *file, const char *subdir,
			 struct err *err);
MUST_CHECK int job_clean(struct job *j, const char *env, struct err *err);
int job_wrapper(int argc, char **argv); /* runtime-wrapper: returns only on failure */

/* -- the store of bases (jobbase.c) ------------------------------------------------------------------------------- */
/* Copies SOURCE (a skopeo transport:name) into the store of bases as name and writes its record.
 * SOURCE is on this machine: the store is locked meanwhile. */
MUST_CHECK int job_copy_in(struct job *j, const char *source, const char *name, struct err *err);
/* The same from the registry of name; the store is locked only when all of it is on this machine. */
MUST_CHECK int job_fetch(struct job *j, const char *name, struct err *err);
