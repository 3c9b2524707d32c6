/* The states of a deployment: which moves there are, and the record of those that were made. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "store/internal.h"

static const char *const state_names[] = {
#define X(name, text) [STORE_DEPLOYMENT_##name] = text,
	STORE_DEPLOYMENT_STATES(X)
#undef X
};
#define N_STATES ARRAY_LEN(state_names)

/* Why a move is made, by from and to; NULL = it is not. */
static const char *const moves[N_STATES][N_STATES] = {
#define X(from, to, why) [STORE_DEPLOYMENT_##from][STORE_DEPLOYMENT_##to] = why,
	STORE_DEPLOYMENT_MOVES(X)
#undef X
};

const char *store_deployment_state_name(enum store_deployment_state s)
{
	return state_names[s];
}

bool store_deployment_state_final(enum store_deployment_state s)
{
	return s == STORE_DEPLOYMENT_STOPPED || s == STORE_DEPLOYMENT_FAILED || s == STORE_DEPLOYMENT_SUPERSEDED;
}

bool store_deployment_may_move(enum store_deployment_state from, enum store_deployment_state to)
{
	return moves[from][to] != NULL;
}

int store_state_of(const char *name)
{
	for (size_t i = 0; i < N_STATES; i++)
		if (strcmp(name, state_names[i]) == 0)
			return (int)i;
	return -1;
}

struct store_transition *store_transition_attach(struct store_deployment *d, enum store_deployment_state from,
						 enum store_deployment_state to, const char *reason)
{
	struct store_transition *t = NEW(struct store_transition);

	t->from = from;
	t->to = to;
	t->reason = xstrdup(reason ? reason : "");
	list_push_back(&d->transitions, &t->of_deployment);
	return t;
}

void store_transitions_free(struct store_deployment *d)
{
	list_foreach(&d->transitions, struct store_transition, of_deployment, t) {
		free(t->reason);
		free(t);
	}
}

void store_transition_add(struct store *s, struct store_deployment *d, enum store_deployment_state from,
			  enum store_deployment_state to, const char *reason)
{
	struct store_transition *t = store_transition_attach(d, from, to, reason);

	t->at_ms = time_wall_ms();
	if (d->environment->removed)
		return;
	struct store_op *op = store_op_new(s, "INSERT INTO deployment_transitions (deployment_id, from_state, to_state, reason,"
					      " at_ms) VALUES (?, ?, ?, ?, ?)");

	store_op_text(op, d->id);
	store_op_text(op, from == to ? "" : state_names[from]);
	store_op_text(op, state_names[to]);
	store_op_text(op, t->reason);
	store_op_i64(op, t->at_ms);
}

int store_deployment_move(struct store *s, struct store_deployment *d, enum store_deployment_state to, const char *reason,
			  struct err *err)
{
	enum store_deployment_state from = d->state;

	if (!moves[from][to])
		return err_set(err, -EPROTO, "deployment %s: there is no way from %s to %s", d->id, state_names[from],
			       state_names[to]);
	d->state = to;
	store_transition_add(s, d, from, to, reason ? reason : moves[from][to]);
	store_deployment_save(s, d);
	return 0;
}
