/* A debug-bounds build: generated code compares every index with its buffer and reports here instead of leaving it. */
#include "tw_runtime.h"

#include <stdio.h>

void tw_out_of_bounds(void *runtime, int64_t site, int64_t low, int64_t high, int64_t size)
{
    tw_violation *first = &((tw_team *)runtime)->violation;
    if (atomic_exchange_explicit(&first->noted, 1, memory_order_acq_rel) == 0) {
        first->site = site;
        first->low = low;
        first->high = high;
        first->size = size;
    }
}

void tw_bounds_reset(tw_team *team)
{
    atomic_store_explicit(&team->violation.noted, 0, memory_order_relaxed);
}

int32_t tw_bounds_status(const tw_team *team, const tw_descriptor *descriptor, char *message, size_t room)
{
    const tw_violation *first = &team->violation;
    if (!descriptor->site_count || atomic_load_explicit(&first->noted, memory_order_relaxed) == 0) {
        return TW_OK;
    }
    const tw_site *site = &descriptor->sites[first->site];
    (void)snprintf(message, room,
                   "out of bounds: kernel %.200s, %s of buffer %.60s (%.60s): elements %lld to %lld, the buffer has %lld",
                   site->kernel, site->access, site->buffer, site->what, (long long)first->low, (long long)first->high,
                   (long long)first->size);
    return TW_OUT_OF_BOUNDS;
}
