/* Times of the steps of a profile build: each thread writes records of its own, on cache lines of its own. */
#include "tw_runtime.h"

#include <stdlib.h>
#include <string.h>

static size_t record_bytes(const tw_team *team)
{
    return (size_t)team->threads * team->step_stride * sizeof(tw_step_time);
}

int32_t tw_profile_start(tw_team *team, uint32_t steps)
{
    /* Eight records are five cache lines: no line holds records of two threads. */
    team->step_stride = ((size_t)steps + 7) / 8 * 8;
    team->step_times = aligned_alloc(TW_CACHE_LINE, record_bytes(team));
    if (!team->step_times) {
        return TW_NO_MEMORY;
    }
    tw_profile_reset(team);
    return TW_OK;
}

void tw_profile_stop(tw_team *team)
{
    free(team->step_times);
    team->step_times = NULL;
}

void tw_profile_reset(tw_team *team)
{
    memset(team->step_times, 0, record_bytes(team));
}

static tw_step_time *record(void *runtime, int64_t tid, int64_t step)
{
    const tw_team *team = runtime;
    return team->step_times + (size_t)tid * team->step_stride + (size_t)step;
}

void tw_profile_enter(void *runtime, int64_t tid, int64_t step)
{
    record(runtime, tid, step)->start_ns = (uint64_t)tw_now_ns();
}

void tw_profile_leave(void *runtime, int64_t tid, int64_t step)
{
    tw_step_time *time = record(runtime, tid, step);
    time->last_ns = (uint64_t)tw_now_ns() - time->start_ns;
    time->total_ns += time->last_ns;
    time->min_ns = time->count && time->min_ns < time->last_ns ? time->min_ns : time->last_ns;
    time->count++;
}
