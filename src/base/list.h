/* base/list.h: intrusive doubly linked list with a head node. The list owns nothing. O(1) everything.
 *
 * An element embeds a struct list, initialised with list_init() so that removing it is always harmless; the head is a
 * struct list of its own (LIST_INIT or list_init). An element is in at most one list by one node. Emptying a list:
 *   struct job *j; while ((j = list_first(&jobs, struct job, link))) { list_remove(&j->link); job_free(j); } */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

/* A node or a head, told apart by use only. */
struct list {
	struct list *prev, *next; /* themselves, when the list is empty or the node in none */
};

/* The initialiser of a head that is a variable of its own: struct list jobs = LIST_INIT(jobs); */
#define LIST_INIT(l) { &(l), &(l) }

/* Makes l an empty head, or a node in no list. Not for a node that is in one: its neighbours would keep it. */
static inline void list_init(struct list *l)
{
	*l = (struct list)LIST_INIT(*l);
}

/* Of a head: whether it has no element. Of a node: whether it is in no list. */
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Private: between two neighbours. */
static inline void list_insert_(struct list *prev, struct list *next, struct list *n)
{
	n->prev = prev;
	n->next = next;
	prev->next = next->prev = n;
}

/* At the end and at the beginning. n must be in no list; it need not have been initialised. */
static inline void list_push_back(struct list *l, struct list *n) { list_insert_(l->prev, l, n); }
static inline void list_push_front(struct list *l, struct list *n) { list_insert_(l, l->next, n); }

/* Takes n out of its list; harmless on a node that is in none (after list_init). */
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

/* Moves all elements of l to ret, which need not have been initialised. */
static inline void list_take(struct list *ret, struct list *l)
{
	list_init(ret);
	if (list_empty(l))
		return;
	list_insert_(l->prev, l->next, ret);
	list_init(l);
}

/* The first element, as its own type; NULL when there is none. member is the struct list in it. Evaluates l twice. */
#define list_first(l, type, member) (list_empty(l) ? NULL : container_of((l)->next, type, member))

/* `it` is declared here, as a pointer to type. Safe against removal of the current element, but not of the one after it:
 * where the body may end other elements too, take them one by one as above. */
#define list_foreach(l, type, member, it)                                                                     \
	for (type *it = container_of((l)->next, type, member),                                                \
		  *it##_next = container_of(it->member.next, type, member);                                   \
	     &it->member != (l); it = it##_next, it##_next = container_of(it->member.next, type, member))
