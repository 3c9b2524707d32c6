/* git/private.h: what the files of git/ share. */
#pragma once

#include <sys/types.h>

#include "base/list.h"
#include "git/git.h"
#include "git/github.h"

#define GIT_KILL_AFTER_MS 3000 /* between SIGTERM, at which git removes its temporary files, and SIGKILL */
#define GIT_HOOK_FD 3
/* What a push was answered for is there after a power cut: git would leave loose objects and refs to the kernel. Before 2.36 it
 * does not know the name; what it knew then, core.fsyncObjectFiles, has the newer ones print a warning. */
#define GIT_FSYNC "objects,derived-metadata,reference"

struct git {
	struct loop *loop;
	struct git_settings settings;
	char *root;           /* DATA/git */
	struct list children; /* struct git_child */
	struct list serving;  /* struct serve: requests */
	unsigned n_serving;
	struct list fetches;  /* struct github_fetch, in order */
	unsigned long long n_made; /* repositories that were begun: their names while they are */
};

/* One process group. Owned by git until its exit; the callback runs once, or never after git_child_forget(). */
struct git_child;
typedef void git_exit_fn(void *arg, int status, bool timed_out);
struct git_spawn {
	const char *const *argv; /* argv[0] is looked for in /usr/bin and /bin */
	const char *const *env;  /* beside the fixed ones */
	int in, out, err, hook;  /* borrowed; -1 = /dev/null, none for hook */
	uint64_t time_limit_ms;  /* 0 = none */
};
MUST_CHECK int git_child_start(struct git_child **ret, struct git *g, const struct git_spawn *s, git_exit_fn *fn, void *arg,
			       struct err *err);
void git_child_unlimit(struct git_child *c); /* no time limit any more */
/* Ends its group and calls nobody; NULL is allowed. */
void git_child_forget(struct git_child *c);
void git_children_kill(struct git *g); /* all, at the end: waits */

/* serve.c: -EBUSY while somebody pushes to or fetches from either of them. */
MUST_CHECK int serve_check_rename(const struct git *g, const char *namespace, const char *old_name, const char *new_name,
				  struct err *err);

/* push.c: our side of the hook's descriptor. */
MUST_CHECK int push_new(struct git_push **ret, struct git *g, const struct git_push_events *ev, void *arg, int *ret_child_fd,
			struct err *err);
bool push_changed(const struct git_push *p); /* the hook has reported */
struct git_push *push_free(struct git_push *p); /* tells gone where the receiver still waits */
void push_on_changed(struct git_push *p, loop_fn *fn, void *arg); /* just before ev->changed */

/* github.c: base "https://github.com", token "" = none. See github_fetch(). */
void git_fetch_with(struct git *g, const char *base, const char *repo, const char *token, const char *branch,
		    const char *repository,
		    github_fetched_fn *fn, void *arg);
void github_fetches_free(struct git *g);
