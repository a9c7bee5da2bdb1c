/* What the C functions that run operators share: memory of a run, and how it fails.
 *
 * The memory belongs to the instance; it grows as needed and is used again by the next run: of all steps only these
 * allocate after create.  One thread of a team makes all calls.
 */
#ifndef TW_SUPPORT_H
#define TW_SUPPORT_H

#include "tw_runtime.h"

/* start: TW_OK or TW_NO_MEMORY; begin, before a run: the memory of the last one is gone; end, after a run: what went wrong
 * in it, with a message. */
extern const tw_support_functions tw_run_support;

/* Memory of this run, aligned to 8 bytes, not zeroed; NULL, and the run fails, when there is none. */
void *tw_support_room(void *runtime, size_t bytes);
/* Where the memory of this run ends, and back to there: what was given out since is gone. */
typedef struct tw_support_mark {
    void *block;
    size_t used;
} tw_support_mark;
tw_support_mark tw_support_here(void *runtime);
void tw_support_back(void *runtime, tw_support_mark mark);
/* Makes the run fail with this status and message, unless it has failed before. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void tw_support_fail(void *runtime, int32_t status, const char *format, ...);

#endif
