/* Instances: memory, threads and messages of one model.  Nothing is allocated between create and destroy, but for larger
 * sizes than before of a model with open dimensions. */
#include "tw_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tw_model {
    tw_team team; /* first: generated code gets its address as `runtime` */
    const tw_descriptor *descriptor; /* with open dimensions: that of `shaped` */
    tw_shaped *shaped;               /* NULL where all dimensions are fixed */
    const void *const *inputs;
    void *const *outputs;
    const void **input_slots; /* pointers of a checked run */
    void **output_slots;      /* with those of `sizes` behind them */
    int64_t *sizes;           /* shapes that the run found, in the order of descriptor->sized */
    const int64_t **shape_slots; /* shapes of the inputs of a checked run, with open dimensions */
    const unsigned char *constants;
    unsigned char *workspace;
    uint64_t workspace_room; /* bytes at `workspace` */
    uint64_t scratch_stride;
    uint64_t owned_workspace_bytes; /* 0: the caller's */
    uint64_t mapped_bytes;          /* of the weights file; 0: the weights are in the library */
    atomic_int busy;
    char message[TW_MESSAGE_BYTES];
};

static const char *const status_texts[] = {
    [TW_OK] = "success",
    [TW_NULL_POINTER] = "a pointer is NULL",
    [TW_WRONG_COUNT] = "wrong number of inputs or outputs",
    [TW_WRONG_TYPE] = "wrong element type",
    [TW_WRONG_SHAPE] = "wrong shape",
    [TW_WRONG_SIZE] = "a buffer is too small",
    [TW_MISALIGNED] = "an address is not aligned",
    [TW_OVERLAP] = "an output overlaps another buffer",
    [TW_WRONG_VERSION] = "the caller was built for another interface version",
    [TW_WRONG_CPU] = "this processor lacks an instruction set that the code uses",
    [TW_NO_MEMORY] = "out of memory",
    [TW_NO_THREADS] = "threads could not be started",
    [TW_BUSY] = "another thread is running this instance; create one instance per thread",
    [TW_IO] = "the weights file cannot be read",
    [TW_WRONG_WEIGHTS] = "the weights file belongs to another library",
    [TW_BAD_OPTION] = "an option is out of its range",
    [TW_WRONG_VALUE] = "an element of an input has no meaning for the model",
    [TW_NO_PROFILE] = "the library was compiled without the option profile",
    [TW_OUT_OF_BOUNDS] = "generated code left a buffer",
    [TW_FORKED] = "the instance belongs to the parent process; create one after fork",
    [TW_NO_SHAPES] = "the shapes of the inputs are not set",
};

const char *tw_status_text(int32_t status)
{
    const size_t count = sizeof status_texts / sizeof status_texts[0];
    return status >= 0 && (size_t)status < count ? status_texts[status] : "unknown status";
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + TW_CACHE_LINE - 1) / TW_CACHE_LINE * TW_CACHE_LINE;
}

/* What `asked` threads mean where this many processors are usable; 0 asks for the default. */
static int32_t thread_count(const tw_descriptor *descriptor, int32_t asked, int32_t cpus)
{
    const int32_t best = descriptor->best_threads;
    return asked > 0 ? asked : best && best < cpus ? best : cpus;
}

uint64_t tw_workspace_bytes(const tw_descriptor *descriptor, int32_t threads)
{
    const int32_t count = thread_count(descriptor, threads, threads > 0 ? 0 : tw_usable_cpus());
    return round_up(descriptor->arena_bytes) + (uint64_t)count * round_up(descriptor->scratch_bytes);
}

/* Dimensions of all outputs that are known after a run. */
static size_t size_count(const tw_descriptor *descriptor)
{
    size_t count = 0;
    for (uint32_t i = 0; i < descriptor->sized_count; i++) {
        count += descriptor->sized[i].rank;
    }
    return count;
}

/* Slots for the pointers of a run, and for what it says about sizes. */
static bool make_slots(tw_model *model, const tw_descriptor *descriptor)
{
    const size_t slots = 2 * (size_t)descriptor->input_count + descriptor->output_count + descriptor->sized_count;
    const size_t sizes = size_count(descriptor);
    model->input_slots = calloc(slots ? slots : 1, sizeof(void *));
    model->sizes = calloc(sizes ? sizes : 1, sizeof(int64_t));
    if (!model->input_slots || !model->sizes) {
        return false;
    }
    model->output_slots = (void **)(model->input_slots + descriptor->input_count);
    model->shape_slots = (const int64_t **)(model->output_slots + descriptor->output_count + descriptor->sized_count);
    int64_t *place = model->sizes;
    for (uint32_t i = 0; i < descriptor->sized_count; i++) {
        model->output_slots[descriptor->output_count + i] = place;
        place += descriptor->sized[i].rank;
    }
    return true;
}

/* What every thread of the team runs. */
static void run_thread(void *argument, int32_t index)
{
    tw_model *model = argument;
    const tw_descriptor *descriptor = model->descriptor;
    char *arena = (char *)model->workspace;
    char *scratch = arena + round_up(descriptor->arena_bytes) + (uint64_t)index * model->scratch_stride;
    const uint64_t environment = tw_float_enter();
    if (model->shaped) {
        tw_shaped_run(model->shaped, &model->team, arena, scratch, (const char *)model->constants,
                      (void *const *)model->inputs, model->outputs, index, model->team.threads);
    } else {
        descriptor->main(&model->team, arena, scratch, (const char *)model->constants, (void *const *)model->inputs,
                         model->outputs, index, model->team.threads);
    }
    tw_float_leave(environment);
}

/* Runs the team; a debug-bounds build then says what it found. */
static int32_t run_checked(tw_model *model)
{
    tw_bounds_reset(&model->team);
    const int32_t status = tw_team_run(&model->team);
    return status ? status : tw_bounds_status(&model->team, model->descriptor, model->message, sizeof model->message);
}

static int32_t take_workspace(tw_model *model, const tw_options *options, int32_t threads)
{
    const uint64_t needed = tw_workspace_bytes(model->descriptor, threads);
    if (options->workspace) {
        if ((uintptr_t)options->workspace % TW_CACHE_LINE) {
            (void)snprintf(model->message, sizeof model->message, "workspace: the address must be a multiple of %d",
                           TW_CACHE_LINE);
            return TW_MISALIGNED;
        }
        model->workspace_room = options->workspace_bytes;
        if (options->workspace_bytes < needed) {
            (void)snprintf(model->message, sizeof model->message,
                           "workspace: expected %llu bytes for %d threads, got %llu", (unsigned long long)needed,
                           (int)threads, (unsigned long long)options->workspace_bytes);
            return TW_WRONG_SIZE;
        }
        model->workspace = options->workspace;
    } else if (needed) {
        model->workspace = tw_map_workspace(needed);
        if (!model->workspace) {
            (void)snprintf(model->message, sizeof model->message, "workspace: no memory for %llu bytes",
                           (unsigned long long)needed);
            return TW_NO_MEMORY;
        }
        model->owned_workspace_bytes = needed;
    }
    return TW_OK;
}

/* Fills a zeroed instance.  On failure its message is set and what it holds is still to be released. */
static int32_t set_up(tw_model *model, const tw_descriptor *descriptor, const tw_options *options)
{
    char *const message = model->message;
    const size_t room = sizeof model->message;
    const tw_feature *missing = tw_missing_feature(descriptor->features, descriptor->feature_count);
    if (missing) {
        (void)snprintf(message, room, "this processor lacks %s, which the code of %.100s was compiled for; compile for "
                       "this machine", missing->name, descriptor->name);
        return TW_WRONG_CPU;
    }
    if (descriptor->sizing) {
        model->shaped = tw_shaped_create(descriptor);
        if (!model->shaped) {
            (void)snprintf(message, room, "no memory for the instance");
            return TW_NO_MEMORY;
        }
        descriptor = tw_shaped_descriptor(model->shaped);
    }
    model->descriptor = descriptor;
    model->constants = descriptor->constants;
    model->scratch_stride = round_up(descriptor->scratch_bytes);
    const int32_t cpus = tw_usable_cpus();
    const int32_t threads = thread_count(descriptor, options->threads, cpus);
    if (!make_slots(model, descriptor)) {
        (void)snprintf(message, room, "no memory for the instance");
        return TW_NO_MEMORY;
    }
    int32_t status = take_workspace(model, options, threads);
    if (!status && !descriptor->constants && descriptor->constant_bytes) {
        status = tw_map_weights(descriptor, options->weights_path, &model->constants, &model->mapped_bytes, message, room);
    }
    if (!status && descriptor->constant_bytes) {
        tw_will_need(model->constants, descriptor->constant_bytes);
    }
    if (!status) {
        status = tw_team_start(&model->team, threads, cpus, &options->pool, run_thread, model);
        if (!status && descriptor->support) {
            status = descriptor->support->start(&model->team);
        }
        if (!status && descriptor->step_count) {
            status = tw_profile_start(&model->team, descriptor->step_count);
        }
        if (!status && descriptor->prepares) {
            status = run_checked(model); /* inputs are NULL still */
        }
        if (status && status != TW_OUT_OF_BOUNDS) {
            (void)snprintf(message, room, status == TW_NO_MEMORY ? "no memory for an instance on %d threads"
                                                                 : "could not start %d threads", (int)threads);
        }
    }
    return status;
}

static void release(tw_model *model)
{
    tw_team_stop(&model->team);
    if (model->team.support) {
        model->descriptor->support->stop(&model->team);
    }
    tw_profile_stop(&model->team);
    if (model->mapped_bytes) {
        tw_unmap(model->constants, model->mapped_bytes);
    }
    if (model->owned_workspace_bytes) {
        tw_unmap(model->workspace, model->owned_workspace_bytes);
    }
    free(model->input_slots);
    free(model->sizes);
    tw_shaped_destroy(model->shaped);
    free(model);
}

int32_t tw_model_create(const tw_descriptor *descriptor, const tw_options *options, tw_model **out)
{
    tw_options checked;
    char message[TW_MESSAGE_BYTES] = "";
    if (!out) {
        return TW_NULL_POINTER;
    }
    *out = NULL;
    int32_t status = tw_check_options(options, &checked, message, sizeof message);
    if (status) {
        /* The place of the message is only known to be valid for our own interface version. */
        return status == TW_WRONG_VERSION ? status : tw_tell(&checked, message, status);
    }
    tw_model *model = aligned_alloc(_Alignof(tw_model), sizeof(tw_model));
    if (!model) {
        return tw_tell(&checked, "no memory for the instance", TW_NO_MEMORY);
    }
    memset(model, 0, sizeof *model);
    status = set_up(model, descriptor, &checked);
    if (status) {
        (void)tw_tell(&checked, model->message, status);
        release(model);
        return status;
    }
    *out = model;
    return tw_tell(&checked, "", TW_OK);
}

/* Runs the model on what its pointers point to. */
static int32_t run_team(tw_model *model)
{
    const tw_support_functions *support = model->descriptor->support;
    if (support) {
        support->begin(&model->team);
    }
    const int32_t status = run_checked(model);
    return status || !support ? status : support->end(&model->team, model->message, sizeof model->message);
}

static bool acquire(tw_model *model)
{
    return atomic_exchange_explicit(&model->busy, 1, memory_order_acquire) == 0;
}

static int32_t finish(tw_model *model, int32_t status)
{
    if (status == TW_NO_THREADS || status == TW_FORKED || status == TW_NO_PROFILE) {
        (void)snprintf(model->message, sizeof model->message, "run: %s", tw_status_text(status));
    }
    atomic_store_explicit(&model->busy, 0, memory_order_release);
    return status;
}

/* Memory for the sizes as they are now: the caller's workspace, or one of ours that only grows. */
static int32_t fit_workspace(tw_model *model)
{
    const tw_descriptor *descriptor = model->descriptor;
    model->scratch_stride = round_up(descriptor->scratch_bytes);
    const uint64_t needed = tw_workspace_bytes(descriptor, model->team.threads);
    if (needed <= model->workspace_room) {
        return TW_OK;
    }
    if (model->workspace && !model->owned_workspace_bytes) {
        (void)snprintf(model->message, sizeof model->message, "workspace: these shapes need %llu bytes, the caller gave %llu",
                       (unsigned long long)needed, (unsigned long long)model->workspace_room);
        return TW_WRONG_SIZE;
    }
    void *larger = tw_grow_workspace(model->workspace, model->owned_workspace_bytes, needed);
    if (!larger) {
        (void)snprintf(model->message, sizeof model->message, "workspace: no memory for %llu bytes",
                       (unsigned long long)needed);
        return TW_NO_MEMORY;
    }
    model->workspace = larger;
    model->owned_workspace_bytes = model->workspace_room = needed;
    return TW_OK;
}

/* Until a run finds their sizes, outputs have the largest that they can have. */
static void expect_largest(tw_model *model)
{
    const tw_descriptor *descriptor = model->descriptor;
    int64_t *place = model->sizes;
    for (uint32_t i = 0; i < descriptor->sized_count; i++) {
        const uint32_t rank = descriptor->sized[i].rank;
        if (rank) {
            memcpy(place, descriptor->outputs[descriptor->sized[i].output].shape, rank * sizeof *place);
        }
        place += rank;
    }
}

/* The shapes of the inputs of a model with open dimensions. */
static int32_t set_shapes(tw_model *model, const int64_t *const *input_shapes)
{
    int32_t status = tw_shaped_bind(model->shaped, input_shapes, model->message, sizeof model->message);
    if (!status) {
        expect_largest(model);
        status = fit_workspace(model);
        if (status) {
            tw_shaped_forget(model->shaped);
        }
    }
    return status;
}

int32_t tw_model_resize(tw_model *model, const int64_t *const *input_shapes)
{
    if (!model || !input_shapes) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    return finish(model, set_shapes(model, input_shapes));
}

int32_t tw_model_run(tw_model *model, const void *const *inputs, void *const *outputs)
{
    if (!model) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    int32_t status = TW_OK;
    if (model->shaped && !tw_shaped_is_planned(model->shaped)) {
        status = TW_NO_SHAPES;
        (void)snprintf(model->message, sizeof model->message, "run: %s", tw_status_text(status));
    }
    if (!status) {
        status = tw_check_pointers(model->descriptor, inputs, outputs, model->message, sizeof model->message);
    }
    if (!status) {
        model->inputs = inputs;
        model->outputs = outputs;
        if (model->descriptor->sized_count) {
            memcpy(model->output_slots, outputs, model->descriptor->output_count * sizeof(void *));
            model->outputs = model->output_slots;
        }
        status = run_team(model);
    }
    return finish(model, status);
}

int32_t tw_model_run_tensors(tw_model *model, const tw_tensor *inputs, size_t input_count, const tw_tensor *outputs,
                             size_t output_count)
{
    if (!model) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    int32_t status = TW_OK;
    if (model->shaped && inputs && input_count == model->descriptor->input_count) {
        for (size_t i = 0; i < input_count && !status; i++) {
            status = tw_check_rank(model->descriptor, inputs, (uint32_t)i, model->message, sizeof model->message);
            model->shape_slots[i] = inputs[i].shape;
        }
        if (!status) {
            status = set_shapes(model, model->shape_slots);
        }
    }
    if (!status) {
        status = tw_check_tensors(model->descriptor, inputs, input_count, outputs, output_count, model->message,
                                  sizeof model->message);
    }
    if (!status) {
        for (size_t i = 0; i < input_count; i++) {
            model->input_slots[i] = inputs[i].data;
        }
        for (size_t i = 0; i < output_count; i++) {
            model->output_slots[i] = outputs[i].data;
        }
        model->inputs = model->input_slots;
        model->outputs = model->output_slots;
        status = run_team(model);
    }
    return finish(model, status);
}

int32_t tw_model_output_shape(tw_model *model, size_t index, int64_t *shape, size_t rank)
{
    if (!model || (!shape && rank)) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    const tw_descriptor *descriptor = model->descriptor;
    if (index >= descriptor->output_count || rank != (size_t)descriptor->outputs[index].rank) {
        (void)snprintf(model->message, sizeof model->message, "output_shape: there is no output %llu of rank %llu",
                       (unsigned long long)index, (unsigned long long)rank);
        return finish(model, TW_WRONG_COUNT);
    }
    if (model->shaped && !tw_shaped_is_planned(model->shaped)) {
        (void)snprintf(model->message, sizeof model->message, "output_shape: %s", tw_status_text(TW_NO_SHAPES));
        return finish(model, TW_NO_SHAPES);
    }
    const int64_t *found = descriptor->outputs[index].shape;
    const int64_t *place = model->sizes;
    for (uint32_t i = 0; i < descriptor->sized_count; i++) {
        if (descriptor->sized[i].output == index) {
            found = place;
        }
        place += descriptor->sized[i].rank;
    }
    if (rank) {
        memcpy(shape, found, rank * sizeof *shape);
    }
    return finish(model, TW_OK);
}

int32_t tw_model_destroy(tw_model *model)
{
    if (model) {
        if (!acquire(model)) {
            return TW_BUSY;
        }
        release(model);
    }
    return TW_OK;
}

int32_t tw_model_profile(tw_model *model, int32_t thread, tw_step_time *out, size_t count)
{
    if (!model || (!out && count)) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    const tw_team *team = &model->team;
    int32_t status = TW_OK;
    if (!model->descriptor->step_count) {
        status = TW_NO_PROFILE;
    } else if (thread < 0 || thread >= team->threads || count != model->descriptor->step_count) {
        status = TW_WRONG_COUNT;
        (void)snprintf(model->message, sizeof model->message, "profile: expected a thread below %d and room for %u steps, "
                       "got %d and %llu", (int)team->threads, model->descriptor->step_count, (int)thread,
                       (unsigned long long)count);
    } else {
        memcpy(out, team->step_times + (size_t)thread * team->step_stride, count * sizeof *out);
    }
    return finish(model, status);
}

int32_t tw_model_reset_profile(tw_model *model)
{
    if (!model) {
        return TW_NULL_POINTER;
    }
    if (!acquire(model)) {
        return TW_BUSY;
    }
    if (model->descriptor->step_count) {
        tw_profile_reset(&model->team);
    }
    return finish(model, model->descriptor->step_count ? TW_OK : TW_NO_PROFILE);
}

int32_t tw_model_thread_count(const tw_model *model)
{
    return model ? model->team.threads : 0;
}

const char *tw_model_message(const tw_model *model)
{
    return model ? model->message : tw_status_text(TW_NULL_POINTER);
}
