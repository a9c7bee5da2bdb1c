/* Running instances on a GPU.  Nothing is allocated but CUDA graphs, which are made when a run first sees its addresses of
 * inputs and outputs.
 */
#define _GNU_SOURCE
#include "tw_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAPTURE_THREAD_LOCAL = 1 };

/* Takes the instance and makes its context current. */
static int32_t enter(tw_cuda_model *model)
{
    if (!model) {
        return TW_NULL_POINTER;
    }
    if (atomic_exchange_explicit(&model->busy, 1, memory_order_acquire)) {
        return TW_BUSY;
    }
    int32_t status = TW_OK;
    if (model->owner != (int32_t)getpid()) {
        (void)snprintf(model->message, sizeof model->message, "%s", tw_cuda_status_text(TW_FORKED));
        status = TW_FORKED;
    } else {
        const CUresult error = model->driver.context_push(model->context);
        status = error ? tw_cuda_failed(model, "the GPU's context", error) : TW_OK;
    }
    if (status) {
        atomic_store_explicit(&model->busy, 0, memory_order_release);
    }
    return status;
}

static int32_t finish(tw_cuda_model *model, int32_t status)
{
    CUcontext popped;
    (void)model->driver.context_pop(&popped);
    atomic_store_explicit(&model->busy, 0, memory_order_release);
    return status;
}

/* The graph for the addresses of this run, made if there is none; *out is NULL after an error. */
static CUresult graph_for(tw_cuda_model *model, CUgraphExec *out)
{
    const tw_driver *driver = &model->driver;
    const size_t bytes = ((size_t)model->descriptor->base.input_count + model->descriptor->base.output_count)
        * sizeof *model->addresses;
    tw_graph *oldest = &model->graphs[0];
    *out = NULL;
    for (int i = 0; i < TW_GRAPHS; i++) {
        tw_graph *graph = &model->graphs[i];
        if (graph->exec && memcmp(graph->addresses, model->addresses, bytes) == 0) {
            graph->used = model->runs;
            *out = graph->exec;
            return 0;
        }
        oldest = graph->used < oldest->used ? graph : oldest;
    }
    CUgraph recorded = NULL;
    CUresult error = driver->capture_begin(model->stream, CAPTURE_THREAD_LOCAL);
    if (error) {
        return error;
    }
    error = tw_cuda_steps(model, model->stream, NULL);
    const CUresult ended = driver->capture_end(model->stream, &recorded);
    error = error ? error : ended;
    CUgraphExec made = NULL;
    error = error ? error : driver->graph_instantiate(&made, recorded, 0);
    if (recorded) {
        (void)driver->graph_destroy(recorded);
    }
    if (error) {
        return error;
    }
    if (oldest->exec) {
        (void)driver->graph_exec_destroy(oldest->exec);
    }
    oldest->exec = made;
    oldest->used = model->runs;
    memcpy(oldest->addresses, model->addresses, bytes);
    *out = made;
    return 0;
}

/* Starts one run on a stream.  The arena serves one run at a time: a run on another stream waits for the one before. */
static CUresult start(tw_cuda_model *model, CUstream stream)
{
    const tw_driver *driver = &model->driver;
    int capturing = 0;
    CUresult error = driver->stream_is_capturing(stream, &capturing);
    if (error) {
        return error;
    }
    if (capturing) { /* the caller records a graph of its own: the launches become part of it */
        return tw_cuda_steps(model, stream, NULL);
    }
    if (model->has_last && model->last_stream != stream) {
        error = driver->stream_wait(stream, model->done, 0);
    }
    model->runs++;
    if (!error && model->uses_graph) {
        CUgraphExec exec;
        error = graph_for(model, &exec);
        error = error ? error : driver->graph_launch(exec, stream);
    } else if (!error) {
        error = tw_cuda_steps(model, stream, NULL);
    }
    error = error ? error : driver->event_record(model->done, stream);
    model->has_last = !error;
    model->last_stream = stream;
    return error;
}

static int32_t run_on_host(tw_cuda_model *model, const void *const *inputs, void *const *outputs)
{
    const tw_driver *driver = &model->driver;
    const tw_descriptor *d = &model->descriptor->base;
    CUresult error = 0;
    memcpy(model->addresses, model->staging, ((size_t)d->input_count + d->output_count) * sizeof *model->addresses);
    if (model->has_last && model->last_stream != model->stream) {
        error = driver->stream_wait(model->stream, model->done, 0);
    }
    for (uint32_t i = 0; i < d->input_count && !error; i++) {
        if (d->inputs[i].bytes) {
            error = driver->copy_to_device_async(model->staging[i], inputs[i], d->inputs[i].bytes, model->stream);
        }
    }
    error = error ? error : start(model, model->stream);
    for (uint32_t i = 0; i < d->output_count && !error; i++) {
        if (d->outputs[i].bytes) {
            error = driver->copy_to_host_async(outputs[i], model->staging[d->input_count + i], d->outputs[i].bytes,
                                               model->stream);
        }
    }
    const CUresult waited = driver->stream_synchronize(model->stream);
    error = error ? error : waited;
    return error ? tw_cuda_failed(model, "run", error) : TW_OK;
}

int32_t tw_cuda_run(tw_cuda_model *model, const void *const *inputs, void *const *outputs)
{
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    status = tw_check_pointers(&model->descriptor->base, inputs, outputs, model->message, sizeof model->message);
    return finish(model, status ? status : run_on_host(model, inputs, outputs));
}

int32_t tw_cuda_run_tensors(tw_cuda_model *model, const tw_tensor *inputs, size_t input_count, const tw_tensor *outputs,
                            size_t output_count)
{
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    const tw_descriptor *d = &model->descriptor->base;
    const size_t io = (size_t)d->input_count + d->output_count;
    status = tw_check_tensors(d, inputs, input_count, outputs, output_count, model->message, sizeof model->message);
    void **pointers = status ? NULL : calloc(io ? io : 1, sizeof *pointers);
    if (!status && !pointers) {
        (void)snprintf(model->message, sizeof model->message, "no memory for a run");
        status = TW_NO_MEMORY;
    }
    if (!status) {
        for (size_t i = 0; i < io; i++) {
            pointers[i] = i < input_count ? inputs[i].data : outputs[i - input_count].data;
        }
        status = run_on_host(model, (const void *const *)pointers, pointers + input_count);
    }
    free(pointers);
    return finish(model, status);
}

/* Checks device addresses and keeps them for the run. */
static int32_t take_addresses(tw_cuda_model *model, const void *const *inputs, void *const *outputs)
{
    const tw_descriptor *d = &model->descriptor->base;
    int32_t status = tw_check_pointers(d, inputs, outputs, model->message, sizeof model->message);
    for (uint32_t i = 0; i < d->input_count + d->output_count && !status; i++) {
        const bool is_input = i < d->input_count;
        const uint32_t number = is_input ? i : i - d->input_count;
        const void *const pointer = is_input ? inputs[number] : outputs[number];
        if ((uintptr_t)pointer % TW_DEVICE_ALIGNMENT) {
            (void)snprintf(model->message, sizeof model->message, "%s %u (%.100s): the device address must be a multiple of %u",
                           is_input ? "input" : "output", number, (is_input ? d->inputs : d->outputs)[number].name,
                           TW_DEVICE_ALIGNMENT);
            status = TW_MISALIGNED;
        }
        model->addresses[i] = (CUdeviceptr)(uintptr_t)pointer;
    }
    return status;
}

int32_t tw_cuda_run_device(tw_cuda_model *model, const void *const *inputs, void *const *outputs, void *stream)
{
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    status = take_addresses(model, inputs, outputs);
    if (!status) {
        const CUresult error = start(model, (CUstream)stream);
        status = error ? tw_cuda_failed(model, "run", error) : TW_OK;
    }
    return finish(model, status);
}

/* What the last run has written of a shape. */
static CUresult fetch_shape(tw_cuda_model *model, uint64_t offset, int64_t *shape, size_t rank)
{
    const tw_driver *driver = &model->driver;
    CUresult error = model->has_last ? driver->stream_wait(model->stream, model->done, 0) : 0;
    error = error ? error : driver->copy_to_host_async(shape, model->arena + offset, rank * sizeof *shape, model->stream);
    const CUresult waited = driver->stream_synchronize(model->stream);
    return error ? error : waited;
}

int32_t tw_cuda_output_shape(tw_cuda_model *model, size_t index, int64_t *shape, size_t rank)
{
    if (!shape && rank) {
        return TW_NULL_POINTER;
    }
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    const tw_cuda_descriptor *d = model->descriptor;
    if (index >= d->base.output_count || rank != (size_t)d->base.outputs[index].rank) {
        (void)snprintf(model->message, sizeof model->message, "output_shape: there is no output %llu of rank %llu",
                       (unsigned long long)index, (unsigned long long)rank);
        return finish(model, TW_WRONG_COUNT);
    }
    if (rank) {
        memcpy(shape, d->base.outputs[index].shape, rank * sizeof *shape);
    }
    for (uint32_t i = 0; i < d->sized_count && rank; i++) {
        if (d->sized[i].output == index && !model->has_last) {
            (void)snprintf(model->message, sizeof model->message, "output_shape: output %llu has the shape that a run gives it, "
                           "and there was none", (unsigned long long)index);
            status = TW_NO_SHAPES;
        } else if (d->sized[i].output == index) {
            const CUresult error = fetch_shape(model, d->sized[i].offset, shape, rank);
            status = error ? tw_cuda_failed(model, "output_shape", error) : TW_OK;
        }
    }
    return finish(model, status);
}

size_t tw_cuda_launch_count(const tw_cuda_descriptor *descriptor)
{
    size_t count = 0;
    for (uint32_t i = 0; i < descriptor->step_count; i++) {
        const int kind = (int)descriptor->steps[i].kind;
        count += kind == TW_LAUNCH || kind == TW_MULTIPLY || kind == TW_CONVOLVE;
    }
    return count;
}

int32_t tw_cuda_time_launches(tw_cuda_model *model, const void *const *inputs, void *const *outputs, void *stream,
                              float *milliseconds, size_t count)
{
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    const tw_driver *driver = &model->driver;
    tw_launch_clock clock = { NULL, NULL, milliseconds, count };
    CUresult error = 0;
    status = take_addresses(model, inputs, outputs);
    if (!status && count) {
        memset(milliseconds, 0, count * sizeof *milliseconds);
    }
    if (!status && model->has_last && model->last_stream != (CUstream)stream) {
        error = driver->stream_wait((CUstream)stream, model->done, 0);
    }
    if (!status && !error) {
        error = driver->event_create(&clock.before, 0);
        error = error ? error : driver->event_create(&clock.after, 0);
        error = error ? error : tw_cuda_steps(model, (CUstream)stream, &clock);
    }
    if (clock.before) {
        (void)driver->event_destroy(clock.before);
    }
    if (clock.after) {
        (void)driver->event_destroy(clock.after);
    }
    if (!status && error) {
        status = tw_cuda_failed(model, "time launches", error);
    }
    return finish(model, status);
}

int32_t tw_cuda_device_alloc(tw_cuda_model *model, uint64_t bytes, void **out)
{
    CUdeviceptr address = 0;
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    const CUresult error = model->driver.memory_alloc(&address, bytes ? bytes : 1);
    *out = (void *)(uintptr_t)address;
    return finish(model, error ? tw_cuda_failed(model, "device memory", error) : TW_OK);
}

int32_t tw_cuda_device_free(tw_cuda_model *model, void *address)
{
    int32_t status = enter(model);
    if (status) {
        return status;
    }
    const CUresult error = model->driver.memory_free((CUdeviceptr)(uintptr_t)address);
    return finish(model, error ? tw_cuda_failed(model, "device memory", error) : TW_OK);
}
