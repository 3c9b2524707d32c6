/* sandbox/link_private.h: what link.c and jobs.c share. */
#pragma once

#include "base/list.h"
#include "sandbox/link.h"

struct link {
	struct loop *loop;
	char *path;
	struct chan *chan;   /* NULL = the spawner is away */
	struct chan *egress; /* NULL = it died with the spawner */
	int listeners[LINK_LISTENERS_MAX];
	size_t n_listeners;
	struct {
		const struct link_events *ev; /* NULL = free */
		void *arg;
	} watchers[LINK_WATCHERS_MAX];
	struct link_platform platform;
	struct loop_timer retry;
	struct image_jobs jobs; /* container_of gives the link */
	struct list running;    /* struct job */
	uint64_t next_job;
	char boot[40];          /* of the last WELCOME */
	uint64_t flags;         /* likewise: enum wire_welcome_flag */
	bool ending;            /* a shutdown was asked for: a lost connection is its success */
	struct shutdown *shutdown;
};

/* jobs.c */
void jobs_init(struct link *k);
void jobs_done(struct link *k);                              /* forgets all: no callbacks */
void jobs_lost(struct link *k, const struct err *why);       /* all fail */
void jobs_event(struct link *k, const struct wire_in *in);   /* JOB_DONE */
