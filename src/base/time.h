/* base/time.h: clocks. Monotonic for intervals and deadlines, wall for records. */
#pragma once

#include <stdint.h>

uint64_t time_now_us(void);      /* CLOCK_MONOTONIC */
uint64_t time_now_ms(void);      /* CLOCK_MONOTONIC */
int64_t time_wall_ms(void);      /* since 1970, UTC */

#define TIME_ISO_LEN 25
/* "2026-01-02T03:04:05.678Z" into ret[TIME_ISO_LEN]; returns ret. */
char *time_iso(int64_t wall_ms, char *ret);
