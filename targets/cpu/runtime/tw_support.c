/* Memory and messages of a run, for the operators that C functions run: strings, image files. */
#include "tw_support.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK_BYTES 65536

typedef struct block {
    struct block *next;
    size_t size;
    char bytes[];
} block;

struct tw_support {
    block *blocks;  /* all, in the order in which they are filled */
    block *current;
    size_t used;    /* of the current one */
    int32_t status;
    char message[TW_MESSAGE_BYTES];
};

static int32_t start(tw_team *team)
{
    team->support = calloc(1, sizeof(struct tw_support));
    return team->support ? TW_OK : TW_NO_MEMORY;
}

/* Frees all blocks; gives how many bytes they had. */
static size_t release(struct tw_support *support)
{
    size_t total = 0;
    for (block *b = support->blocks; b;) {
        block *next = b->next;
        total += b->size;
        free(b);
        b = next;
    }
    support->blocks = NULL;
    return total;
}

static block *make_block(size_t size)
{
    block *made = malloc(sizeof(block) + size);
    if (made) {
        made->next = NULL;
        made->size = size;
    }
    return made;
}

static void stop(tw_team *team)
{
    struct tw_support *support = team->support;
    if (support) {
        (void)release(support);
    }
    free(support);
    team->support = NULL;
}

/* Several blocks become one as large, so that runs that need more each time leave no small ones behind: what is kept is at most
 * twice what a run needed.  Without memory for it, blocks are made as needed again. */
static void begin(tw_team *team)
{
    struct tw_support *support = team->support;
    if (support->blocks && support->blocks->next) {
        support->blocks = make_block(release(support));
    }
    support->current = support->blocks;
    support->used = 0;
    support->status = TW_OK;
}

static int32_t end(tw_team *team, char *message, size_t room)
{
    const struct tw_support *support = team->support;
    if (support->status) {
        (void)snprintf(message, room, "%s", support->message);
    }
    return support->status;
}

const tw_support_functions tw_run_support = { start, stop, begin, end };

void tw_support_fail(void *runtime, int32_t status, const char *format, ...)
{
    struct tw_support *support = ((tw_team *)runtime)->support;
    if (!support->status) {
        va_list values;
        va_start(values, format);
        (void)vsnprintf(support->message, sizeof support->message, format, values);
        va_end(values);
        support->status = status;
    }
}

void *tw_support_room(void *runtime, size_t bytes)
{
    struct tw_support *support = ((tw_team *)runtime)->support;
    if (bytes > SIZE_MAX / 2) {
        tw_support_fail(runtime, TW_NO_MEMORY, "run: no memory");
        return NULL;
    }
    bytes = (bytes + 15) / 16 * 16;
    while (support->current && support->current->size - support->used < bytes) {
        if (!support->current->next) {
            break;
        }
        support->current = support->current->next;
        support->used = 0;
    }
    if (!support->current || support->current->size - support->used < bytes) {
        const size_t size = bytes < BLOCK_BYTES ? BLOCK_BYTES : bytes;
        block *made = make_block(size);
        if (!made) {
            tw_support_fail(runtime, TW_NO_MEMORY, "run: no memory for %llu bytes", (unsigned long long)bytes);
            return NULL;
        }
        if (support->current) {
            support->current->next = made;
        } else {
            support->blocks = made;
        }
        support->current = made;
        support->used = 0;
    }
    void *result = support->current->bytes + support->used;
    support->used += bytes;
    return result;
}

tw_support_mark tw_support_here(void *runtime)
{
    const struct tw_support *support = ((tw_team *)runtime)->support;
    return (tw_support_mark){ support->current, support->used };
}

void tw_support_back(void *runtime, tw_support_mark mark)
{
    struct tw_support *support = ((tw_team *)runtime)->support;
    support->current = mark.block ? mark.block : support->blocks;
    support->used = mark.used;
}
