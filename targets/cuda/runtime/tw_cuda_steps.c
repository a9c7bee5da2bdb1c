/* The steps of one run: launches in order, branches and loops on values that the host reads back. */
#include "tw_cuda.h"

static CUdeviceptr address_of(const tw_cuda_model *model, const tw_cuda_address *a)
{
    switch (a->space) {
    case TW_ARENA:
        return model->arena + a->offset;
    case TW_CONSTANTS:
        return model->constants + a->offset;
    case TW_INPUT:
        return model->addresses[a->index] + a->offset;
    case TW_OUTPUT:
        return model->addresses[model->descriptor->base.input_count + a->index] + a->offset;
    case TW_NOWHERE:
        break;
    }
    return 0;
}

enum { NO_INTERLEAVE = 0, SWIZZLE_128_BYTES = 3, PROMOTE_TO_256_BYTES = 3, FILL_WITH_ZEROS = 0 };

/* The tensor maps of a launch, in the place of the addresses that they describe. */
static CUresult encode_maps(tw_cuda_model *model, const tw_cuda_function *f, const CUdeviceptr *values, tw_tensor_map *maps,
                            void **parameters)
{
    static const uint32_t steps[TW_MAP_RANK] = { 1, 1, 1 };
    CUresult error = 0;
    for (uint32_t i = 0; i < f->map_count && !error; i++) {
        const tw_cuda_map *m = &model->descriptor->maps[f->first_map + i];
        error = model->driver.encode_map(&maps[i], (int)m->type, m->rank, (void *)(uintptr_t)values[m->parameter], m->sizes,
                                         m->strides, m->box, steps, NO_INTERLEAVE, SWIZZLE_128_BYTES, PROMOTE_TO_256_BYTES,
                                         FILL_WITH_ZEROS);
        parameters[m->parameter] = &maps[i];
    }
    return error;
}

static bool is_library(const tw_cuda_step *step)
{
    return step->kind == TW_MULTIPLY || step->kind == TW_CONVOLVE;
}

/* What another library does. */
static CUresult call_library(tw_cuda_model *model, const tw_cuda_step *step, CUstream stream)
{
    CUdeviceptr operands[TW_LIBRARY_OPERANDS];
    uint32_t count = 3;
    if (step->kind == TW_CONVOLVE) {
        const tw_cuda_convolution *c = &model->descriptor->convolutions[step->function];
        count += (uint32_t)(c->tensors[3].type >= 0) + (uint32_t)(c->tensors[4].type >= 0);
    }
    for (uint32_t i = 0; i < count; i++) {
        operands[i] = address_of(model, &model->descriptor->addresses[step->first + i]);
    }
    return step->kind == TW_MULTIPLY ? tw_cuda_library_multiply(model, step->function, operands, stream)
                                     : tw_cuda_cudnn_convolve(model, step->function, operands, stream);
}

static CUresult launch(tw_cuda_model *model, const tw_cuda_step *step, CUstream stream)
{
    if (is_library(step)) {
        return call_library(model, step, stream);
    }
    const tw_cuda_function *f = &model->descriptor->functions[step->function];
    CUdeviceptr values[TW_MAX_ARGUMENTS];
    void *parameters[TW_MAX_ARGUMENTS];
    tw_tensor_map maps[TW_MAX_MAPS]; /* the driver copies them with the other parameters, into a graph too */
    for (uint32_t i = 0; i < f->parameter_count; i++) {
        values[i] = address_of(model, &model->descriptor->addresses[step->first + i]);
        parameters[i] = &values[i];
    }
    const CUresult error = encode_maps(model, f, values, maps, parameters);
    return error ? error
                 : model->driver.launch(model->functions[step->function], f->grid[0], f->grid[1], f->grid[2], f->block[0],
                                        f->block[1], f->block[2], f->dynamic_shared, stream, parameters, NULL);
}

/* A launch between two events. */
static CUresult launch_timed(tw_cuda_model *model, const tw_cuda_step *step, CUstream stream, const tw_launch_clock *clock)
{
    const tw_driver *driver = &model->driver;
    size_t number = 0;
    for (const tw_cuda_step *s = model->descriptor->steps; s < step; s++) {
        number += s->kind == TW_LAUNCH || is_library(s);
    }
    float elapsed = 0;
    CUresult error = driver->event_record(clock->before, stream);
    error = error ? error : launch(model, step, stream);
    error = error ? error : driver->event_record(clock->after, stream);
    error = error ? error : driver->event_synchronize(clock->after);
    error = error ? error : driver->event_elapsed(&elapsed, clock->before, clock->after);
    if (!error && number < clock->count) {
        clock->milliseconds[number] += elapsed;
    }
    return error;
}

/* Waits for the stream and brings a value to the host. */
static CUresult fetch(tw_cuda_model *model, uint32_t address, void *value, size_t bytes, CUstream stream)
{
    const CUdeviceptr from = address_of(model, &model->descriptor->addresses[address]);
    const CUresult error = model->driver.copy_to_host_async(value, from, bytes, stream);
    return error ? error : model->driver.stream_synchronize(stream);
}

/* Whether a loop goes on; the counter is then written for the kernels of its body. */
static CUresult test(tw_cuda_model *model, const tw_cuda_step *step, CUstream stream, bool *goes_on)
{
    const tw_cuda_address *a = &model->descriptor->addresses[step->first];
    const int64_t counter = model->counters[step->function];
    int64_t trips = INT64_MAX;
    unsigned char condition = 1;
    CUresult error = 0;
    if (a[0].space != TW_NOWHERE) {
        error = fetch(model, step->first, &trips, sizeof trips, stream);
    }
    if (!error && a[1].space != TW_NOWHERE) {
        error = fetch(model, step->first + 1, &condition, sizeof condition, stream);
    }
    *goes_on = counter < trips && condition;
    if (!error && *goes_on) {
        error = model->driver.copy_to_device_async(address_of(model, &a[2]), &counter, sizeof counter, stream);
        error = error ? error : model->driver.stream_synchronize(stream);
    }
    return error;
}

CUresult tw_cuda_steps(tw_cuda_model *model, CUstream stream, const tw_launch_clock *clock)
{
    const tw_cuda_descriptor *d = model->descriptor;
    CUresult error = 0;
    for (uint32_t i = 0; i < d->step_count && !error;) {
        const tw_cuda_step *step = &d->steps[i++];
        unsigned char condition = 0;
        bool goes_on = false;
        switch (step->kind) {
        case TW_LAUNCH:
        case TW_MULTIPLY:
        case TW_CONVOLVE:
            error = clock ? launch_timed(model, step, stream, clock) : launch(model, step, stream);
            break;
        case TW_BRANCH:
            error = fetch(model, step->first, &condition, sizeof condition, stream);
            i = condition ? i : step->target;
            break;
        case TW_JUMP:
            i = step->target;
            break;
        case TW_ENTER:
            model->counters[step->function] = 0;
            break;
        case TW_TEST:
            error = test(model, step, stream, &goes_on);
            i = goes_on ? i : step->target;
            break;
        case TW_NEXT:
            model->counters[step->function]++;
            i = step->target;
            break;
        }
    }
    return error;
}
