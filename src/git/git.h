/* git/git.h: repositories of environments, and the programs of git that work on them. Loop thread only.
 *
 * git runs as a child of the daemon, as the daemon's user, in a process group of its own, with an environment that is made
 * here: no configuration but ours (GIT_CONFIG_NOSYSTEM, HOME=/nonexistent), no prompts, no hooks but ours. What pushers send
 * is data: nothing of it is executed by git, and builds run elsewhere.
 *
 *   DATA/git/<namespace>/<name>.git   bare; what is pushed and fetched
 *   DATA/git/.github/<id>.git         bare; what is fetched from a linked repository, for the environment with this id; no
 *                                     name begins with a dot, so no request reaches it
 *   DATA/git/.renamed/<id>            which names the repository of this environment had and got, since the last start
 *   DATA/git/.making/<n>              what git init has not finished; it is renamed into its place
 *   DATA/git/.hooks/post-receive      the only hook: see git_serve() */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "http/server.h"
#include "loop/loop.h"
#include "store/store.h"

struct git;

struct git_settings {
	const char *data_dir;
	uint64_t push_max_bytes; /* of one push, packed */
	uint64_t time_limit_ms;  /* of one push, fetch or export; a push's waiting for its deployment is not counted */
	unsigned max_processes;  /* pushes and fetches at once; beyond it 429 */
};

/* Makes DATA/git/.hooks and an empty .making. */
MUST_CHECK int git_new(struct git **ret, struct loop *l, const struct git_settings *s, struct err *err);
/* Ends every child, and waits for that. NULL is allowed; returns NULL. */
struct git *git_free(struct git *g);

/* -- names ------------------------------------------------------------------------------------------------------- */
/* Paths are malloc'ed. name without ".git". */
char *git_repository(const struct git *g, const char *namespace, const char *name);
char *git_github_repository(const struct git *g, const char *environment_id);
bool git_is_branch(const char *s);       /* the rules of git-check-ref-format for one branch, ASCII letters only */
bool git_is_subdirectory(const char *s); /* relative, no empty, "." or ".." part, no backslash or control character */

/* -- one command -------------------------------------------------------------------------------------------------- */
struct git_command {
	const char *const *argv; /* after "git"; ends with NULL */
	const char *repository;  /* GIT_DIR; NULL = none */
	const char *const *env;  /* more variables, "K=V"; NULL = none. Of what nobody may see in a list of processes */
	int stdout_fd;           /* borrowed; -1 = into out, up to 64 KiB */
};

/* status: the exit status; 128 + n for a signal. out and said (the last line of its standard error) live for the call.
 * err: it took too long, or could not be started. */
typedef void git_done_fn(void *arg, int status, const char *out, const char *said, const struct err *err);
/* Strings are copied. done runs once, from the loop, unless git_free() comes before. */
void git_start(struct git *g, const struct git_command *c, git_done_fn *done, void *arg);

/* -- smart HTTP --------------------------------------------------------------------------------------------------- */
/* A push, as the hook tells it. Lines go to the pusher as "remote: ..." until git_push_end(). gone runs instead, once, when
 * the client or its child ended before that, or when nothing was changed. Either way, p is dead afterwards. A client that
 * goes between its last byte and the change of the refs has pushed all the same: changed still comes. */
struct git_push;
struct git_ref_change {
	const char *ref, *old_id, *new_id; /* "refs/heads/main"; 40 hex digits, all 0 = none */
};
struct git_push_events {
	/* The refs are changed already. The receiver says its lines and calls git_push_end(), now or later. */
	void (*changed)(void *arg, struct git_push *p, const struct git_ref_change *changes, size_t n);
	void (*gone)(void *arg, struct git_push *p);
};
void git_push_say(struct git_push *p, const char *line); /* control characters are replaced; a reader too slow loses lines */
void git_push_end(struct git_push *p);

/* Serves one request of git's protocol ("/info/refs", "/git-upload-pack", "/git-receive-pack") with git http-backend.
 * The caller has checked everything: remote_user is who it is, namespace and name are str_is_name, the repository is there.
 * ev is for a push, NULL else; arg must live until git_push_end() or gone. Uses the request's on_close. */
void git_serve(struct git *g, struct http_req *req, const char *namespace, const char *name, const char *service_path,
	       const char *remote_user, const struct git_push_events *ev, void *arg);

/* -- repositories -------------------------------------------------------------------------------------------------- */
/* Makes a bare repository whose HEAD is branch, unless it is there. err NULL = it is there. */
typedef void git_made_fn(void *arg, const struct err *err);
void git_make(struct git *g, const char *path, const char *branch, git_made_fn *done, void *arg);
/* -EBUSY while somebody pushes to or fetches from it. Nothing to do where there is none. The environment's record follows; a note
 * is on the disk before, for git_settle_renames(). */
MUST_CHECK int git_rename(struct git *g, const char *environment_id, const char *namespace, const char *old_name,
			  const char *new_name, struct err *err);
/* At the start, before anybody is served: a repository that got a new name, or was to, whose environment's record says
 * otherwise, gets the name that this has. */
void git_settle_renames(struct git *g, struct store *s);

/* -- a commit as a tar ---------------------------------------------------------------------------------------------- */
/* notes: what the pusher should know ("submodules are not fetched: ..."), lines; "" = nothing. Live for the call. */
typedef void git_exported_fn(void *arg, const char *notes, const struct err *err);
/* Writes commit (its subdirectory, "" = all) of a repository to path, which must not exist; a part is never left.
 * -ESTALE: branch has moved on from commit since; -EINVAL: no such subdirectory. */
void git_export(struct git *g, const char *repository, const char *branch, const char *commit, const char *subdirectory,
		const char *path, git_exported_fn *done, void *arg);
