/* The descriptor of one model and the functions it exports. */
#include "@PREFIX@.h"
#include "tw_support.h"

#define EXPORT __attribute__((visibility("default")))

/* A Program's entry points, from the generated objects. */
@ENTRIES@
/* From the generated assembly. */
extern const char tw_manifest[] __attribute__((visibility("hidden")));
extern const unsigned char tw_constants[] __attribute__((visibility("hidden")));

@TABLES@
static const tw_descriptor descriptor = {
    .name = @NAME@,
    .main = @MAIN@,
    .arena_bytes = @ARENA_BYTES@u,
    .scratch_bytes = @SCRATCH_BYTES@u,
    .constant_bytes = @CONSTANT_BYTES@u,
    .constants = @CONSTANTS@,
    .weights_name = @WEIGHTS_NAME@,
    .weights_id = @WEIGHTS_ID@,
    .inputs = inputs,
    .outputs = outputs,
    .input_count = @INPUT_COUNT@u,
    .output_count = @OUTPUT_COUNT@u,
    .features = features,
    .feature_count = @FEATURE_COUNT@u,
    .best_threads = @BEST_THREADS@,
    .step_count = @STEP_COUNT@u,
    .prepares = @PREPARES@u,
    .sized = sized,
    .sized_count = @SIZED_COUNT@u,
    .support = @SUPPORT@,
    .site_count = @SITE_COUNT@u,
    .sites = @SITES@,
    .sizing = @SIZING@,
};

EXPORT uint32_t @PREFIX@_abi_version(void)
{
    return TW_ABI_VERSION;
}

EXPORT int32_t @PREFIX@_create(const tw_options *options, @PREFIX@_model **out)
{
    return tw_model_create(&descriptor, options, (tw_model **)out);
}

EXPORT int32_t @PREFIX@_run(@PREFIX@_model *model, const void *const *in, void *const *out)
{
    return tw_model_run((tw_model *)model, in, out);
}

EXPORT int32_t @PREFIX@_run_tensors(@PREFIX@_model *model, const tw_tensor *in, size_t input_count, const tw_tensor *out,
                                    size_t output_count)
{
    return tw_model_run_tensors((tw_model *)model, in, input_count, out, output_count);
}

EXPORT int32_t @PREFIX@_destroy(@PREFIX@_model *model)
{
    return tw_model_destroy((tw_model *)model);
}

EXPORT uint64_t @PREFIX@_workspace_bytes(int32_t threads)
{
    return tw_workspace_bytes(&descriptor, threads);
}

EXPORT int32_t @PREFIX@_thread_count(const @PREFIX@_model *model)
{
    return tw_model_thread_count((const tw_model *)model);
}

EXPORT size_t @PREFIX@_step_count(void)
{
    return descriptor.step_count;
}

EXPORT int32_t @PREFIX@_profile(@PREFIX@_model *model, int32_t thread, tw_step_time *out, size_t count)
{
    return tw_model_profile((tw_model *)model, thread, out, count);
}

EXPORT int32_t @PREFIX@_reset_profile(@PREFIX@_model *model)
{
    return tw_model_reset_profile((tw_model *)model);
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
    return index < descriptor.input_count ? &inputs[index] : NULL;
}

EXPORT const tw_tensor_info *@PREFIX@_output_info(size_t index)
{
    return index < descriptor.output_count ? &outputs[index] : NULL;
}

EXPORT int32_t @PREFIX@_output_shape(@PREFIX@_model *model, size_t index, int64_t *shape, size_t rank)
{
    return tw_model_output_shape((tw_model *)model, index, shape, rank);
}

EXPORT const char *@PREFIX@_error_message(const @PREFIX@_model *model)
{
    return tw_model_message((const tw_model *)model);
}

EXPORT const char *@PREFIX@_status_text(int32_t status)
{
    return tw_status_text(status);
}

EXPORT const char *@PREFIX@_manifest(void)
{
    return tw_manifest;
}
@MORE@