/* The mapped file of records: what one process wrote the next one reads, whatever the end was. */
#include "base/slots.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

struct thing {
	uint32_t state, value;
	char text[24];
};

static char path[] = "/tmp/test-slots-XXXXXX";
static struct err err;

static void begin(void)
{
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	close(fd);
}

static void end(void)
{
	unlink(path);
}

TestSuite(slots, .init = begin, .fini = end);

static struct slots *open_with(const char *kind, const char *life, uint32_t bytes, uint32_t max, bool *ret_same)
{
	const struct slots_spec spec = { .path = path, .kind = kind, .life = life, .record_bytes = bytes, .max = max };
	struct slots *s = NULL;

	cr_assert_eq(slots_open(&s, &spec, ret_same, &err), 0, "%s", err.msg);
	return s;
}

static struct slots *open_it(const char *life, bool *ret_same)
{
	return open_with("thing", life, sizeof(struct thing), 2000, ret_same);
}

static uint32_t put(struct slots *s, uint32_t value)
{
	uint32_t slot = slots_take(s);
	struct thing *t = slots_at(s, slot);

	t->value = value;
	slots_publish(&t->state, 1);
	return slot;
}

Test(slots, a_killed_process_leaves_them)
{
	bool same = true;
	struct slots *s;
	pid_t pid = fork();

	if (pid == 0) {
		s = open_it("life", &same);
		for (uint32_t i = 0; i < 1000; i++) /* more than the file has at first */
			put(s, i);
		(void)slots_take(s); /* not published */
		kill(getpid(), SIGKILL);
	}
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	s = open_it("life", &same);
	cr_assert(same);
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert_eq(((struct thing *)slots_at(s, i))->value, i);
	cr_assert_eq(((struct thing *)slots_at(s, 1000))->state, 0);
	slots_close(s);
	s = open_it("another", &same);
	cr_assert_not(same);
	cr_assert_eq(((struct thing *)slots_at(s, 7))->value, 7);
	slots_close(s);
}

Test(slots, the_longest_free_one_is_next_and_is_zero)
{
	bool same;
	struct slots *s = open_it("life", &same);
	uint32_t first = put(s, 1), second = put(s, 2), next;

	slots_give(s, first);
	slots_give(s, second);
	next = put(s, 3);
	cr_assert(next != first && next != second, "others were free before");
	for (int i = 0; i < 5000; i++) /* round and round */
		slots_give(s, put(s, 3));
	next = slots_take(s);
	cr_assert_eq(((struct thing *)slots_at(s, next))->value, 0);
	slots_close(s);
}

Test(slots, no_more_than_the_maximum)
{
	bool same;
	struct slots *s = open_with("small", "life", 16, 3, &same);

	for (int i = 0; i < 3; i++) {
		uint32_t *state = slots_at(s, slots_take(s));

		*state = 1;
	}
	cr_assert_eq(slots_take(s), SLOTS_NONE);
	cr_assert_null(slots_at(s, SLOTS_NONE));
	cr_assert_null(slots_at(s, 3));
	slots_give(s, SLOTS_NONE);
	slots_give(s, 1);
	cr_assert_eq(slots_take(s), 1);
	slots_close(s);
}

Test(slots, what_is_sealed_stays_as_it_is)
{
	bool same;
	struct slots *s = open_it("life", &same);
	uint32_t slot = put(s, 9);

	slots_seal(s);
	cr_assert_null(slots_at(s, slot));
	slots_give(s, slot);
	cr_assert_eq(slots_take(s), SLOTS_NONE);
	slots_close(s);
	s = open_it("life", &same);
	cr_assert_eq(((struct thing *)slots_at(s, slot))->value, 9);
	slots_close(s);
}

Test(slots, another_kind_or_size_or_junk_begins_anew)
{
	bool same;
	struct slots *s = open_it("life", &same);

	put(s, 5);
	slots_close(s);
	s = open_with("thing", "life", sizeof(struct thing) + 8, 2000, &same);
	cr_assert_not(same);
	cr_assert_eq(*(uint32_t *)slots_at(s, 0), 0);
	slots_close(s);
	s = open_with("other", "life", sizeof(struct thing), 2000, &same);
	cr_assert_not(same);
	slots_close(s);
	cr_assert_eq(truncate(path, 100), 0);
	s = open_it("life", &same);
	cr_assert_not(same);
	cr_assert_neq(put(s, 1), SLOTS_NONE);
	slots_close(s);
}

Test(slots, nowhere_is_harmless)
{
	cr_assert_eq(slots_take(NULL), SLOTS_NONE);
	cr_assert_null(slots_at(NULL, 0));
	slots_give(NULL, 0);
	slots_seal(NULL);
	cr_assert_eq(slots_count(NULL), 0);
	cr_assert_null(slots_close(NULL));
}
