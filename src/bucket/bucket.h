/* bucket/bucket.h: the buckets of this server: where they lie, and how full each is. One object per daemon, owned by it;
 * loop thread only. What touches files is in bucket/tree.h, for workers.
 *
 * How much a bucket holds, the parts of its resumable uploads with it, is counted once, when it is first asked for, and kept up
 * to date by what uploads and deletes say. Instances write to their bucket without telling: so it is counted anew when the last
 * count is older than BUCKET_RECOUNT_MS, and, before anything is refused, when it is older than BUCKET_RECHECK_MS. Two buckets
 * are counted at a time, others wait. Where one can't be, and there is a quota, nothing is uploaded to it. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#define BUCKET_RECOUNT_MS (10 * 60 * 1000)
#define BUCKET_RECHECK_MS (5 * 1000)

struct buckets;

/* Makes DATA/buckets/.aside and removes what broken uploads left there, now and every ten minutes. */
MUST_CHECK int buckets_new(struct buckets **ret, struct loop *l, const char *data_dir, struct err *err);
struct buckets *buckets_free(struct buckets *b); /* NULL is allowed; returns NULL */

int buckets_fd(const struct buckets *b);           /* of DATA/buckets, for bucket/tree.h; valid as long as b */
const char *buckets_path(const struct buckets *b); /* DATA/buckets */

/* Room for an upload of `bytes` beside what is there and what others have reserved, within quota (0 = no limit). done
 * comes from the loop, once: err NULL = reserved until buckets_settle(); -EDQUOT names the figures; -errno: it
 * can't be counted. */
typedef void bucket_reserve_fn(void *arg, const struct err *err);
void buckets_reserve(struct buckets *b, const char *env_id, uint64_t quota, uint64_t bytes, bucket_reserve_fn *done, void *arg);
/* Gives a reservation back (0 = there is none); the bucket holds `added` more, or less, bytes than before. */
void buckets_settle(struct buckets *b, const char *env_id, uint64_t reserved, int64_t added);

/* One writer for each part of a resumable upload, which has so many bytes now; what is added to it is in the writer's
 * reservation, until that is settled. False = it has one. */
bool buckets_claim(struct buckets *b, const char *part, uint64_t bytes);
void buckets_release(struct buckets *b, const char *part);
