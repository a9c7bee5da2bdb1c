/* Models with open dimensions: sizes from the shapes of the inputs, checked, and what follows from them. */
#include "tw_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tw_shaped {
    tw_descriptor now; /* the model's descriptor, with shapes and bytes as they are */
    int64_t *sizes;    /* one for each symbol */
    int64_t *plan;     /* one for each slot of the arena */
    int64_t *shapes;   /* the dimensions of all inputs, then of all outputs */
    tw_tensor_info *infos;
    bool planned;
};

static uint32_t count_dims(const tw_tensor_info *infos, uint32_t count)
{
    uint32_t dims = 0;
    for (uint32_t i = 0; i < count; i++) {
        dims += (uint32_t)infos[i].rank;
    }
    return dims;
}

tw_shaped *tw_shaped_create(const tw_descriptor *descriptor)
{
    const tw_sizing *sizing = descriptor->sizing;
    const uint32_t tensors = descriptor->input_count + descriptor->output_count;
    const uint32_t dims = count_dims(descriptor->inputs, descriptor->input_count) +
                          count_dims(descriptor->outputs, descriptor->output_count);
    const size_t numbers = (size_t)sizing->symbol_count + sizing->slot_count + dims;
    tw_shaped *shaped = calloc(1, sizeof *shaped + tensors * sizeof(tw_tensor_info) + numbers * sizeof(int64_t));
    if (!shaped) {
        return NULL;
    }
    shaped->now = *descriptor;
    shaped->infos = (tw_tensor_info *)(shaped + 1);
    shaped->sizes = (int64_t *)(shaped->infos + tensors);
    shaped->plan = shaped->sizes + sizing->symbol_count;
    shaped->shapes = shaped->plan + sizing->slot_count;
    int64_t *shape = shaped->shapes;
    for (uint32_t i = 0; i < tensors; i++) {
        shaped->infos[i] = i < descriptor->input_count ? descriptor->inputs[i]
                                                       : descriptor->outputs[i - descriptor->input_count];
        shaped->infos[i].shape = shape;
        shape += shaped->infos[i].rank;
    }
    shaped->now.inputs = shaped->infos;
    shaped->now.outputs = shaped->infos + descriptor->input_count;
    return shaped;
}

void tw_shaped_destroy(tw_shaped *shaped)
{
    free(shaped);
}

const tw_descriptor *tw_shaped_descriptor(const tw_shaped *shaped)
{
    return &shaped->now;
}

bool tw_shaped_is_planned(const tw_shaped *shaped)
{
    return shaped->planned;
}

void tw_shaped_forget(tw_shaped *shaped)
{
    shaped->planned = false;
}

void tw_shaped_run(const tw_shaped *shaped, void *runtime, char *arena, char *scratch, const char *constants,
                   void *const *inputs, void *const *outputs, int64_t tid, int64_t nt)
{
    shaped->now.sizing->main(runtime, arena, scratch, constants, inputs, outputs, tid, nt, shaped->sizes, shaped->plan);
}

/* Bytes of every tensor, from the shapes as they are. */
static void set_shapes(tw_shaped *shaped)
{
    shaped->now.sizing->shapes(shaped->sizes, shaped->shapes);
    const uint32_t tensors = shaped->now.input_count + shaped->now.output_count;
    for (uint32_t i = 0; i < tensors; i++) {
        uint64_t bytes = shaped->infos[i].element_bytes;
        for (int32_t axis = 0; axis < shaped->infos[i].rank; axis++) {
            bytes *= (uint64_t)shaped->infos[i].shape[axis];
        }
        shaped->infos[i].bytes = bytes;
    }
}

static int32_t wrong_size(const tw_symbol *symbol, const tw_tensor_info *info, uint32_t input, int32_t axis, int64_t size,
                          char *message, size_t room)
{
    char most[24] = "";
    if (symbol->high >= 0) {
        (void)snprintf(most, sizeof most, "%lld", (long long)symbol->high);
    }
    (void)snprintf(message, room, "input %u (%.100s): dimension %d (%.60s) must be %s%lld%s%s, got %lld", input, info->name,
                   (int)axis, symbol->name, most[0] ? "from " : "", (long long)symbol->low, most[0] ? " to " : " or more",
                   most, (long long)size);
    return TW_WRONG_SHAPE;
}

/* Reads the symbols off the shapes.  seen[n]: 1 + the input that gave symbol n, 0 for none yet. */
static int32_t read_symbols(const tw_descriptor *descriptor, const int64_t *const *given, int64_t *sizes, char *message,
                            size_t room)
{
    const tw_sizing *sizing = descriptor->sizing;
    const int32_t *symbol = sizing->input_symbols;
    for (uint32_t i = 0; i < descriptor->input_count; i++) {
        const tw_tensor_info *info = &descriptor->inputs[i];
        if (!given[i] && info->rank) {
            (void)snprintf(message, room, "input %u (%.100s): the shape is NULL", i, info->name);
            return TW_NULL_POINTER;
        }
        for (int32_t axis = 0; axis < info->rank; axis++, symbol++) {
            if (*symbol < 0) {
                continue; /* fixed, or a sum of others: compared when all symbols are known */
            }
            const tw_symbol *s = &sizing->symbols[*symbol];
            const int64_t size = given[i][axis];
            if (size < s->low || (s->high >= 0 && size > s->high)) {
                return wrong_size(s, info, i, axis, size, message, room);
            }
            if (sizes[*symbol] >= 0 && sizes[*symbol] != size) {
                (void)snprintf(message, room, "input %u (%.100s): dimension %d (%.60s) is %lld elsewhere, got %lld", i,
                               info->name, (int)axis, s->name, (long long)sizes[*symbol], (long long)size);
                return TW_WRONG_SHAPE;
            }
            sizes[*symbol] = size;
        }
    }
    return TW_OK;
}

/* Every dimension of the inputs against what the sizes make of it. */
static int32_t compare_shapes(const tw_shaped *shaped, const int64_t *const *given, char *message, size_t room)
{
    for (uint32_t i = 0; i < shaped->now.input_count; i++) {
        const tw_tensor_info *info = &shaped->infos[i];
        for (int32_t axis = 0; axis < info->rank; axis++) {
            if (info->shape[axis] != given[i][axis]) {
                (void)snprintf(message, room, "input %u (%.100s): dimension %d must be %lld with these sizes, got %lld", i,
                               info->name, (int)axis, (long long)info->shape[axis], (long long)given[i][axis]);
                return TW_WRONG_SHAPE;
            }
        }
    }
    return TW_OK;
}

static bool same_shapes(const tw_shaped *shaped, const int64_t *const *given)
{
    for (uint32_t i = 0; i < shaped->now.input_count; i++) {
        const tw_tensor_info *info = &shaped->infos[i];
        if (info->rank && (!given[i] || memcmp(info->shape, given[i], (size_t)info->rank * sizeof(int64_t)) != 0)) {
            return false;
        }
    }
    return true;
}

int32_t tw_shaped_bind(tw_shaped *shaped, const int64_t *const *given, char *message, size_t room)
{
    const tw_sizing *sizing = shaped->now.sizing;
    if (shaped->planned && same_shapes(shaped, given)) {
        return TW_OK;
    }
    shaped->planned = false;
    for (uint32_t n = 0; n < sizing->symbol_count; n++) {
        shaped->sizes[n] = -1;
    }
    int32_t status = read_symbols(&shaped->now, given, shaped->sizes, message, room);
    if (status) {
        return status;
    }
    int64_t needs[2] = { 0, 0 };
    const int64_t failed = sizing->plan(shaped->sizes, shaped->plan, needs);
    if (failed) {
        (void)snprintf(message, room, "shapes: %s", failed < 0 ? "these sizes are beyond any memory" : sizing->checks[failed - 1]);
        return TW_WRONG_SHAPE;
    }
    set_shapes(shaped);
    status = compare_shapes(shaped, given, message, room);
    if (!status) {
        shaped->now.arena_bytes = (uint64_t)needs[0];
        shaped->now.scratch_bytes = (uint64_t)needs[1];
        shaped->planned = true;
    }
    return status;
}
