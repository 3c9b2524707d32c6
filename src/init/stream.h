/* init/stream.h: what a run's first process has as stdin, stdout and stderr, and the requests on them while it lives:
 * output read from an offset, input, a terminal's size and foreground. init holds one end of everything for as long as
 * the run is alive, so a daemon that dies neither ends a command's input nor hangs its terminal up. */
#pragma once

#include "base/err.h"
#include "init/command.h"
#include "init/run.h"

/* Owned descriptors of a run that is being made. What the child gets is closed with it here; the rest is handed to the
 * run. */
struct stream_ends {
	int read_end;                     /* of the output; a terminal's master */
	int read_err;                     /* of stderr, when it is apart */
	int input;                        /* write end of stdin */
	int slave;                        /* of the terminal */
	int child_in, child_out, child_err; /* of pipes */
};
#define STREAM_ENDS_INIT { -1, -1, -1, -1, -1, -1, -1 }

/* Opens what the flags of msg (a RUN) ask for and fills in c's descriptors. c->user says whom a terminal belongs to. */
MUST_CHECK int stream_ends_open(struct stream_ends *e, struct command *c, const struct wire_in *msg, struct err *err);
void stream_ends_done(struct stream_ends *e);

/* To the foreground process group of the run's terminal. */
MUST_CHECK int stream_signal(const struct run *run, int sig);

/* Request handlers (control.c calls them). A negative result becomes the FAILED answer. */
MUST_CHECK int stream_read(struct init *in, struct request *q, struct err *err);
MUST_CHECK int stream_input(struct init *in, struct request *q, struct err *err);
MUST_CHECK int stream_input_end(struct init *in, struct request *q, struct err *err);
MUST_CHECK int stream_resize(struct init *in, struct request *q, struct err *err);
