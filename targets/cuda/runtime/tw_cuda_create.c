/* Making and freeing instances on a GPU, and what their messages say. */
#define _GNU_SOURCE
#include "tw_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2, OUT_OF_MEMORY = 2 };

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
    [TW_FORKED] = "the instance belongs to the parent process; create one after fork",
    [TW_NO_PROFILE] = "the library was not compiled with the option profile",
    [TW_NO_DRIVER] = "there is no CUDA driver or no GPU",
    [TW_WRONG_GPU] = "the code was compiled for other GPUs",
    [TW_DEVICE] = "the CUDA driver reported an error",
};

const char *tw_cuda_status_text(int32_t status)
{
    const size_t count = sizeof status_texts / sizeof status_texts[0];
    return status >= 0 && (size_t)status < count ? status_texts[status] : "unknown status";
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 255u) / 256u * 256u;
}

uint64_t tw_cuda_workspace_bytes(const tw_cuda_descriptor *descriptor)
{
    uint64_t total = round_up(descriptor->base.arena_bytes);
    for (uint32_t i = 0; i < descriptor->base.input_count; i++) {
        total += round_up(descriptor->base.inputs[i].bytes);
    }
    for (uint32_t i = 0; i < descriptor->base.output_count; i++) {
        total += round_up(descriptor->base.outputs[i].bytes);
    }
    return total;
}

int32_t tw_cuda_failed(tw_cuda_model *model, const char *what, CUresult error)
{
    char text[256];
    (void)snprintf(model->message, sizeof model->message, "%s: %s", what,
                   tw_driver_error(&model->driver, error, text, sizeof text));
    return error == OUT_OF_MEMORY ? TW_NO_MEMORY : TW_DEVICE;
}

static int32_t take_memory(tw_cuda_model *model, const tw_options *options)
{
    const tw_descriptor *d = &model->descriptor->base;
    const uint64_t needed = tw_cuda_workspace_bytes(model->descriptor);
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)options->workspace;
    if (at && (at % 256u || options->workspace_bytes < needed)) {
        (void)snprintf(model->message, sizeof model->message, "workspace: expected %llu bytes of device memory at a multiple "
                       "of 256, got %llu", (unsigned long long)needed, (unsigned long long)options->workspace_bytes);
        return at % 256u ? TW_MISALIGNED : TW_WRONG_SIZE;
    }
    if (!at && needed) {
        const CUresult error = model->driver.memory_alloc(&model->memory, needed);
        if (error) {
            char what[80];
            (void)snprintf(what, sizeof what, "workspace of %llu bytes", (unsigned long long)needed);
            return tw_cuda_failed(model, what, error);
        }
        at = model->memory;
    }
    model->arena = at;
    at += round_up(d->arena_bytes);
    for (uint32_t i = 0; i < d->input_count + d->output_count; i++) {
        model->staging[i] = at;
        at += round_up(i < d->input_count ? d->inputs[i].bytes : d->outputs[i - d->input_count].bytes);
    }
    return TW_OK;
}

/* Brings the weights to the device; those in a file are mapped only meanwhile. */
static int32_t take_constants(tw_cuda_model *model, const tw_options *options)
{
    const tw_descriptor *d = &model->descriptor->base;
    const unsigned char *source = d->constants;
    uint64_t mapped = 0;
    if (!d->constant_bytes) {
        return TW_OK;
    }
    if (!source) {
        const int32_t status = tw_map_weights(d, options->weights_path, &source, &mapped, model->message,
                                              sizeof model->message);
        if (status) {
            return status;
        }
    }
    CUresult error = model->driver.memory_alloc(&model->constants, d->constant_bytes);
    error = error ? error : model->driver.copy_to_device(model->constants, source, d->constant_bytes);
    if (mapped) {
        tw_unmap(source, mapped);
    }
    return error ? tw_cuda_failed(model, "weights", error) : TW_OK;
}

static int32_t take_device(tw_cuda_model *model, const tw_cuda_options *cuda)
{
    int count = 0;
    CUresult error = model->driver.device_count(&count);
    if (error || count == 0) {
        (void)snprintf(model->message, sizeof model->message, "the CUDA driver finds no GPU");
        return TW_NO_DRIVER;
    }
    if (cuda->device < 0 || cuda->device >= count) {
        (void)snprintf(model->message, sizeof model->message, "device: expected 0 to %d, got %d", count - 1, cuda->device);
        return TW_BAD_OPTION;
    }
    error = model->driver.device_get(&model->device, cuda->device);
    error = error ? error : model->driver.context_retain(&model->context, model->device);
    return error ? tw_cuda_failed(model, "the GPU", error) : TW_OK;
}

/* Everything that needs the context, which is current meanwhile. */
static int32_t fill(tw_cuda_model *model, const tw_options *options)
{
    const tw_descriptor *d = &model->descriptor->base;
    const size_t io = (size_t)d->input_count + d->output_count;
    model->staging = calloc(io ? io : 1, sizeof *model->staging);
    model->addresses = calloc(io ? io : 1, sizeof *model->addresses);
    model->counters = calloc(model->descriptor->counter_count ? model->descriptor->counter_count : 1, sizeof *model->counters);
    if (!model->staging || !model->addresses || !model->counters) {
        (void)snprintf(model->message, sizeof model->message, "no memory for the instance");
        return TW_NO_MEMORY;
    }
    for (int i = 0; i < TW_GRAPHS; i++) {
        model->graphs[i].addresses = calloc(io ? io : 1, sizeof *model->addresses);
        if (!model->graphs[i].addresses) {
            (void)snprintf(model->message, sizeof model->message, "no memory for the instance");
            return TW_NO_MEMORY;
        }
    }
    int32_t status = tw_cuda_load(model);
    status = status ? status : tw_cuda_library_open(model);
    status = status ? status : tw_cuda_cudnn_open(model);
    status = status ? status : take_memory(model, options);
    status = status ? status : take_constants(model, options);
    if (!status) {
        CUresult error = model->driver.stream_create(&model->stream, STREAM_NON_BLOCKING);
        error = error ? error : model->driver.event_create(&model->done, EVENT_DISABLE_TIMING);
        status = error ? tw_cuda_failed(model, "stream", error) : TW_OK;
    }
    return status;
}

static void release(tw_cuda_model *model)
{
    const tw_driver *driver = &model->driver;
    if (model->context && driver->context_push(model->context) == 0) {
        CUcontext popped;
        if (model->stream) {
            (void)driver->stream_synchronize(model->stream);
            (void)driver->stream_destroy(model->stream);
        }
        for (int i = 0; i < TW_GRAPHS; i++) {
            if (model->graphs[i].exec) {
                (void)driver->graph_exec_destroy(model->graphs[i].exec);
            }
        }
        tw_cuda_library_close(model);
        tw_cuda_cudnn_close(model);
        if (model->done) {
            (void)driver->event_destroy(model->done);
        }
        if (model->memory) {
            (void)driver->memory_free(model->memory);
        }
        if (model->constants) {
            (void)driver->memory_free(model->constants);
        }
        for (uint32_t m = 0; model->modules && m < model->descriptor->module_count; m++) {
            if (model->modules[m]) {
                (void)driver->module_unload(model->modules[m]);
            }
        }
        (void)driver->context_pop(&popped);
    }
    if (model->context) {
        (void)driver->context_release(model->device);
    }
    for (int i = 0; i < TW_GRAPHS; i++) {
        free(model->graphs[i].addresses);
    }
    tw_driver_close(&model->driver);
    free(model->modules);
    free(model->functions);
    free(model->staging);
    free(model->addresses);
    free(model->counters);
    free(model);
}

int32_t tw_cuda_create(const tw_cuda_descriptor *descriptor, const tw_options *options, const tw_cuda_options *cuda,
                       tw_cuda_model **out)
{
    const tw_cuda_options defaults = TW_CUDA_OPTIONS_INIT;
    tw_options checked;
    char message[TW_MESSAGE_BYTES] = "";
    if (!out) {
        return TW_NULL_POINTER;
    }
    *out = NULL;
    cuda = cuda ? cuda : &defaults;
    int32_t status = tw_check_options(options, &checked, message, sizeof message);
    if (status) {
        return status == TW_WRONG_VERSION ? status : tw_tell(&checked, message, status);
    }
    if (cuda->size != sizeof *cuda || cuda->flags & ~TW_CUDA_NO_GRAPH) {
        return tw_tell(&checked, "CUDA options: the size or a flag is unknown to this library", TW_BAD_OPTION);
    }
    tw_cuda_model *model = calloc(1, sizeof *model);
    if (!model) {
        return tw_tell(&checked, "no memory for the instance", TW_NO_MEMORY);
    }
    model->descriptor = descriptor;
    model->owner = (int32_t)getpid();
    model->uses_graph = !descriptor->has_control && !(cuda->flags & TW_CUDA_NO_GRAPH);
    status = tw_driver_open(&model->driver, model->message, sizeof model->message);
    status = status ? status : take_device(model, cuda);
    if (!status) {
        CUcontext popped;
        const CUresult error = model->driver.context_push(model->context);
        status = error ? tw_cuda_failed(model, "the GPU's context", error) : fill(model, &checked);
        if (!error) {
            (void)model->driver.context_pop(&popped);
        }
    }
    if (status) {
        (void)tw_tell(&checked, model->message, status);
        release(model);
        return status;
    }
    *out = model;
    return tw_tell(&checked, "", TW_OK);
}

int32_t tw_cuda_destroy(tw_cuda_model *model)
{
    if (model) {
        if (atomic_exchange_explicit(&model->busy, 1, memory_order_acquire)) {
            return TW_BUSY;
        }
        release(model);
    }
    return TW_OK;
}

const char *tw_cuda_message(const tw_cuda_model *model)
{
    return model ? model->message : tw_cuda_status_text(TW_NULL_POINTER);
}
