/* The descriptor of one CUDA model and the functions it exports. */
#include "@PREFIX@.h"
#include "tw_cuda.h"

#define EXPORT __attribute__((visibility("default")))

/* From the generated assembly. */
extern const char tw_manifest[] __attribute__((visibility("hidden")));
extern const unsigned char tw_constants[] __attribute__((visibility("hidden")));
@IMAGE_DECLARATIONS@
@TABLES@
static const tw_cuda_descriptor descriptor = {
    .base = {
        .name = @NAME@,
        .arena_bytes = @ARENA_BYTES@u,
        .constant_bytes = @CONSTANT_BYTES@u,
        .constants = @CONSTANTS@,
        .weights_name = @WEIGHTS_NAME@,
        .weights_id = @WEIGHTS_ID@,
        .inputs = inputs,
        .outputs = outputs,
        .input_count = @INPUT_COUNT@u,
        .output_count = @OUTPUT_COUNT@u,
    },
    .architectures = @ARCHITECTURES@,
    .images = images,
    .functions = functions,
    .maps = maps,
    .products = products,
    .sized = sized,
    .convolutions = convolutions,
    .addresses = addresses,
    .steps = steps,
    .module_count = @MODULE_COUNT@u,
    .image_count = @IMAGE_COUNT@u,
    .function_count = @FUNCTION_COUNT@u,
    .step_count = @STEP_COUNT@u,
    .counter_count = @COUNTER_COUNT@u,
    .product_count = @PRODUCT_COUNT@u,
    .sized_count = @SIZED_COUNT@u,
    .convolution_count = @CONVOLUTION_COUNT@u,
    .has_control = @HAS_CONTROL@u,
    .static_shared_limit = @STATIC_SHARED@u,
};

EXPORT uint32_t @PREFIX@_abi_version(void)
{
    return TW_ABI_VERSION;
}

EXPORT int32_t @PREFIX@_create(const tw_options *options, @PREFIX@_model **out)
{
    return tw_cuda_create(&descriptor, options, NULL, (tw_cuda_model **)out);
}

EXPORT int32_t @PREFIX@_create_on(const tw_options *options, const tw_cuda_options *cuda, @PREFIX@_model **out)
{
    return tw_cuda_create(&descriptor, options, cuda, (tw_cuda_model **)out);
}

EXPORT int32_t @PREFIX@_run(@PREFIX@_model *model, const void *const *in, void *const *out)
{
    return tw_cuda_run((tw_cuda_model *)model, in, out);
}

EXPORT int32_t @PREFIX@_run_tensors(@PREFIX@_model *model, const tw_tensor *in, size_t input_count, const tw_tensor *out,
                                    size_t output_count)
{
    return tw_cuda_run_tensors((tw_cuda_model *)model, in, input_count, out, output_count);
}

EXPORT int32_t @PREFIX@_run_device(@PREFIX@_model *model, const void *const *in, void *const *out, void *stream)
{
    return tw_cuda_run_device((tw_cuda_model *)model, in, out, stream);
}

EXPORT size_t @PREFIX@_launch_count(void)
{
    return tw_cuda_launch_count(&descriptor);
}

EXPORT int32_t @PREFIX@_time_launches(@PREFIX@_model *model, const void *const *in, void *const *out, void *stream,
                                      float *milliseconds, size_t count)
{
    return tw_cuda_time_launches((tw_cuda_model *)model, in, out, stream, milliseconds, count);
}

EXPORT int32_t @PREFIX@_device_alloc(@PREFIX@_model *model, uint64_t bytes, void **out)
{
    return tw_cuda_device_alloc((tw_cuda_model *)model, bytes, out);
}

EXPORT int32_t @PREFIX@_device_free(@PREFIX@_model *model, void *address)
{
    return tw_cuda_device_free((tw_cuda_model *)model, address);
}

EXPORT int32_t @PREFIX@_destroy(@PREFIX@_model *model)
{
    return tw_cuda_destroy((tw_cuda_model *)model);
}

EXPORT uint64_t @PREFIX@_workspace_bytes(int32_t threads)
{
    (void)threads;
    return tw_cuda_workspace_bytes(&descriptor);
}

EXPORT int32_t @PREFIX@_thread_count(const @PREFIX@_model *model)
{
    return model ? 1 : 0;
}

EXPORT size_t @PREFIX@_step_count(void)
{
    return 0;
}

EXPORT int32_t @PREFIX@_profile(@PREFIX@_model *model, int32_t thread, tw_step_time *out, size_t count)
{
    (void)thread, (void)out, (void)count;
    return model ? TW_NO_PROFILE : TW_NULL_POINTER;
}

EXPORT int32_t @PREFIX@_reset_profile(@PREFIX@_model *model)
{
    return model ? TW_NO_PROFILE : TW_NULL_POINTER;
}

EXPORT size_t @PREFIX@_input_count(void)
{
    return @INPUT_COUNT@u;
}

EXPORT size_t @PREFIX@_output_count(void)
{
    return @OUTPUT_COUNT@u;
}

EXPORT const tw_tensor_info *@PREFIX@_input_info(size_t index)
{
    return index < descriptor.base.input_count ? &inputs[index] : NULL;
}

EXPORT const tw_tensor_info *@PREFIX@_output_info(size_t index)
{
    return index < descriptor.base.output_count ? &outputs[index] : NULL;
}

EXPORT int32_t @PREFIX@_output_shape(@PREFIX@_model *model, size_t index, int64_t *shape, size_t rank)
{
    return tw_cuda_output_shape((tw_cuda_model *)model, index, shape, rank);
}

EXPORT const char *@PREFIX@_error_message(const @PREFIX@_model *model)
{
    return tw_cuda_message((const tw_cuda_model *)model);
}

EXPORT const char *@PREFIX@_status_text(int32_t status)
{
    return tw_cuda_status_text(status);
}

EXPORT const char *@PREFIX@_manifest(void)
{
    return tw_manifest;
}
