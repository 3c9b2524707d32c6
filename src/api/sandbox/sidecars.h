/* api/sandbox/sidecars.h: containers beside a sandbox, in its network: started before it is READY, started again when they end, and
 * gone before it is. Private to this folder. Loop thread only.
 *
 *   IMAGE -> MAKING -> RUNNING -> WAITING -> MAKING | RUNNING ...
 *
 *   IMAGE    its image is brought. Once; not at a start after that.        sidecars_prepare()
 *   MAKING   the engine makes its box.                                     make()
 *   RUNNING  its command runs.                                             start()
 *   WAITING  the command ended, or its box did: it is started again after a pause that doubles, from SIDECAR_PAUSE_MS to
 *            SIDECAR_PAUSE_MAX_MS, and is short again once it ran for SIDECAR_STEADY_MS. The box stays, with its files, unless
 *            it was the box that ended.                                    again_later()
 *
 * Owned by its sandbox. When that goes, it waits in sandboxes.strays until nobody (engine, image) has a pointer to it any
 * more. A daemon that takes over finds the boxes by their notes, and what they are to be in the sandbox's own. */
#pragma once

#include "api/sandbox/runs.h"

#define SIDECAR_PAUSE_MS 500
#define SIDECAR_PAUSE_MAX_MS 60000
#define SIDECAR_STEADY_MS 60000
#define SIDECAR_PORTS_MS 30000 /* how long the first start waits for the ports that were named */

#define SIDECAR_STATES(X) X(IMAGE, "preparing") X(MAKING, "starting") X(RUNNING, "running") X(WAITING, "waiting")
enum sidecar_state {
#define X(name, text) SIDECAR_##name,
	SIDECAR_STATES(X)
#undef X
};

struct sidecar {
	struct list node;    /* in sandbox.sidecars or sandboxes.strays */
	struct sandboxes *s;
	struct sandbox *b;   /* NULL = a stray */
	char owner[SID_LEN]; /* of one that was taken over: its sandbox */
	struct spec_sidecar spec;
	enum sidecar_state state;
	struct image *image; /* NULL = not asked for yet */
	struct engine_box *box;
	bool asking, making, looking; /* whoever has a pointer: images, the engine, init */
	struct brun *run, *previous;
	uint64_t restarts, pause_ms, started_ms, due_ms; /* the last two on the loop's clock */
	struct loop_timer again, probe;
	size_t port;         /* the next of spec.ports to be seen */
	uint64_t ports_until_ms;
	bool begun;          /* its command was seen to begin, once */
	bool unknown;        /* counted in b->unknown: its box was a former daemon's, and has not told of its command yet */
	bool up;             /* it has been started, and its ports were seen or given up */
	char *error;         /* why there is no command, or no box; NULL = nothing is wrong */
};

#define SIDECAR_LABEL "sc1:"
struct sidecar_label {
	char magic[4]; /* no zero behind it */
	uint32_t restarts;
};

/* For a sandbox that is being made: takes what the specification has of sidecars. */
void sidecars_add(struct sandbox *b, struct sandbox_spec *spec);
/* Brings their images; then done, never from inside this call: err NULL = all are here. Neither
 * is called once the sandbox is gone. Without sidecars done comes from inside. */
void sidecars_prepare(struct sandbox *b, void (*progress)(struct sandbox *b, const char *line),
		      void (*done)(struct sandbox *b, const struct err *err));
/* What all of them may use. */
struct engine_size sidecars_size(const struct sandbox *b);
/* Once b->box is there: makes and starts all. done as above, when every command runs and every port answers, or time is up. */
void sidecars_start(struct sandbox *b, void (*done)(struct sandbox *b, const struct err *err));
/* The sandbox is gone, and so are their boxes, or about to be. */
void sidecars_free(struct sandbox *b);

/* A box whose note is of a sidecar; false = it is none. */
bool sidecars_adopt(struct sandboxes *s, struct engine_box *box, json_t *note);
/* Every box has been offered: those whose sandbox is here go to it, the others are ended, what is missing is made. */
void sidecars_taken_over(struct sandboxes *s);
void sidecars_forget_strays(struct sandboxes *s); /* with the table: nobody calls back any more */

/* The run whose output is a sidecar's: of its command now, or of the one before; or NULL with -ENOENT. */
struct brun *sidecar_run(struct sandbox *b, const char *name, bool previous, struct err *err);
/* The member "sidecars" of a sandbox that has any. */
void sidecars_put(struct json_writer *w, const struct sandbox *b);

/* -- sidecars.c, for sidecars_look.c ---------------------------------------------------------------------------------- */
struct sidecar *sidecar_new(struct sandboxes *s, struct list *where);
struct brun *sidecar_run_new(struct sidecar *c);
struct brun *sidecar_run_free(struct sidecar *c, struct brun *run); /* NULL is allowed; returns NULL */
void sidecar_ask_image(struct sidecar *c);
void sidecar_start_later(struct sidecar *c);
void sidecar_known(struct sidecar *c); /* its box has told, or is gone; harmless to repeat */
/* The engine's calls, with the sidecar as their arg. */
void sidecar_on_box_end(void *arg, struct engine_box *box, const char *reason);
void sidecar_on_done(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err);
void sidecar_on_more(void *arg);
