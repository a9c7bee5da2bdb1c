/* Checks of what a caller passes: each failure has a code and a message "where: expected and got". */
#include "tw_runtime.h"

#include <stdio.h>
#include <string.h>

static const struct { int32_t dtype; const char *name; } dtype_names[] = {
    { TW_F32, "f32" }, { TW_U8, "u8" },   { TW_I8, "i8" },     { TW_U16, "u16" }, { TW_I16, "i16" },
    { TW_I32, "i32" }, { TW_I64, "i64" }, { TW_BOOL, "bool" }, { TW_F16, "f16" }, { TW_F64, "f64" },
    { TW_U32, "u32" }, { TW_U64, "u64" }, { TW_BF16, "bf16" },
    { TW_STRING, "str" },
};

static const char *dtype_name(int32_t dtype)
{
    for (size_t i = 0; i < sizeof dtype_names / sizeof dtype_names[0]; i++) {
        if (dtype_names[i].dtype == dtype) {
            return dtype_names[i].name;
        }
    }
    return "unknown";
}

/* "2x3x4" into a buffer; "scalar" for rank 0. */
static const char *shape_text(const int64_t *shape, int32_t rank, char *text, size_t room)
{
    size_t used = 0;
    (void)snprintf(text, room, "scalar");
    for (int32_t i = 0; i < rank && used < room; i++) {
        const int wrote = snprintf(text + used, room - used, i ? "x%lld" : "%lld", (long long)shape[i]);
        used += wrote > 0 ? (size_t)wrote : room;
    }
    return text;
}

int32_t tw_tell(const tw_options *options, const char *message, int32_t status)
{
    if (options->message && options->message_bytes) {
        (void)snprintf(options->message, (size_t)options->message_bytes, "%s", message);
    }
    return status;
}

int32_t tw_check_options(const tw_options *given, tw_options *out, char *message, size_t room)
{
    const tw_options defaults = TW_OPTIONS_INIT;
    *out = defaults;
    if (!given) {
        return TW_OK;
    }
    const uint32_t known = (uint32_t)sizeof(tw_options);
    if (given->size < 2 * sizeof(uint32_t) || given->abi_version != TW_ABI_VERSION) {
        (void)snprintf(message, room, "options: the library has interface version %u, the caller was built for %u",
                       TW_ABI_VERSION, given->size < 2 * sizeof(uint32_t) ? 0u : given->abi_version);
        return TW_WRONG_VERSION;
    }
    /* A newer caller may pass more fields, if it leaves those that are unknown here at zero. */
    bool unknown_set = false;
    for (uint32_t i = known; i < given->size; i++) {
        unknown_set |= ((const unsigned char *)given)[i] != 0;
    }
    if (given->size < known || unknown_set) {
        (void)snprintf(message, room, "options: the library knows %u bytes of them, the caller passed %u; use the header "
                       "made with the library", known, given->size);
        return TW_WRONG_VERSION;
    }
    memcpy(out, given, known);
    if (out->threads < 0 || out->threads > TW_MAX_THREADS || out->flags != 0) {
        (void)snprintf(message, room, "options: expected threads from 0 to %d and flags 0, got %d and %u", TW_MAX_THREADS,
                       out->threads, out->flags);
        return TW_BAD_OPTION;
    }
    return TW_OK;
}

static int32_t check_pointer(const tw_tensor_info *info, const void *data, const char *kind, uint32_t index,
                             char *message, size_t room)
{
    if (!data && info->bytes != 0) {
        (void)snprintf(message, room, "%s %u (%.100s): expected a buffer of %llu bytes, got NULL", kind, index, info->name,
                       (unsigned long long)info->bytes);
        return TW_NULL_POINTER;
    }
    if ((uintptr_t)data % info->element_bytes != 0) {
        (void)snprintf(message, room, "%s %u (%.100s): the address must be a multiple of %u, the size of %s", kind, index,
                       info->name, info->element_bytes, dtype_name(info->dtype));
        return TW_MISALIGNED;
    }
    return TW_OK;
}

/* No string of an input is NULL. */
static int32_t check_strings(const tw_tensor_info *info, const void *data, uint32_t index, char *message, size_t room)
{
    const char *const *strings = data;
    for (uint64_t i = 0; info->dtype == TW_STRING && i < info->bytes / sizeof *strings; i++) {
        if (!strings[i]) {
            (void)snprintf(message, room, "input %u (%.100s): string %llu is NULL", index, info->name,
                           (unsigned long long)i);
            return TW_NULL_POINTER;
        }
    }
    return TW_OK;
}

int32_t tw_check_pointers(const tw_descriptor *descriptor, const void *const *inputs, void *const *outputs,
                          char *message, size_t room)
{
    if ((!inputs && descriptor->input_count) || (!outputs && descriptor->output_count)) {
        (void)snprintf(message, room, "run: the array of %s is NULL", inputs ? "outputs" : "inputs");
        return TW_NULL_POINTER;
    }
    int32_t status = TW_OK;
    for (uint32_t i = 0; i < descriptor->input_count && !status; i++) {
        status = check_pointer(&descriptor->inputs[i], inputs[i], "input", i, message, room);
        status = status ? status : check_strings(&descriptor->inputs[i], inputs[i], i, message, room);
    }
    for (uint32_t i = 0; i < descriptor->output_count && !status; i++) {
        status = check_pointer(&descriptor->outputs[i], outputs[i], "output", i, message, room);
    }
    return status;
}

static int32_t check_tensor(const tw_tensor_info *info, const tw_tensor *tensor, const char *kind, uint32_t index,
                            char *message, size_t room)
{
    if (tensor->dtype != info->dtype) {
        (void)snprintf(message, room, "%s %u (%.100s): expected element type %s, got %s (%d)", kind, index, info->name,
                       dtype_name(info->dtype), dtype_name(tensor->dtype), tensor->dtype);
        return TW_WRONG_TYPE;
    }
    char expected[128], got[128];
    (void)shape_text(info->shape, info->rank, expected, sizeof expected);
    if (tensor->rank != info->rank) {
        (void)snprintf(message, room, "%s %u (%.100s): expected rank %d (%s), got rank %d", kind, index, info->name,
                       info->rank, expected, tensor->rank);
        return TW_WRONG_SHAPE;
    }
    if (!tensor->shape && tensor->rank) {
        (void)snprintf(message, room, "%s %u (%.100s): the shape is NULL", kind, index, info->name);
        return TW_NULL_POINTER;
    }
    for (int32_t axis = 0; axis < info->rank; axis++) {
        if (tensor->shape[axis] != info->shape[axis]) {
            (void)snprintf(message, room, "%s %u (%.100s): expected shape %s, got %s", kind, index, info->name, expected,
                           shape_text(tensor->shape, tensor->rank, got, sizeof got));
            return TW_WRONG_SHAPE;
        }
    }
    if (tensor->bytes < info->bytes) {
        (void)snprintf(message, room, "%s %u (%.100s): expected a buffer of %llu bytes, got %llu", kind, index, info->name,
                       (unsigned long long)info->bytes, (unsigned long long)tensor->bytes);
        return TW_WRONG_SIZE;
    }
    return check_pointer(info, tensor->data, kind, index, message, room);
}

static bool overlap(const tw_tensor *a, const tw_tensor_info *a_info, const tw_tensor *b, const tw_tensor_info *b_info)
{
    const uintptr_t p = (uintptr_t)a->data, q = (uintptr_t)b->data;
    return a_info->bytes && b_info->bytes && p < q + b_info->bytes && q < p + a_info->bytes;
}

static int32_t check_overlaps(const tw_descriptor *descriptor, const tw_tensor *inputs, const tw_tensor *outputs,
                              char *message, size_t room)
{
    for (uint32_t i = 0; i < descriptor->output_count; i++) {
        const tw_tensor_info *info = &descriptor->outputs[i];
        for (uint32_t j = 0; j < descriptor->input_count; j++) {
            if (overlap(&outputs[i], info, &inputs[j], &descriptor->inputs[j])) {
                (void)snprintf(message, room, "output %u (%.100s): its buffer overlaps input %u (%.100s)", i, info->name, j,
                               descriptor->inputs[j].name);
                return TW_OVERLAP;
            }
        }
        for (uint32_t j = 0; j < i; j++) {
            if (overlap(&outputs[i], info, &outputs[j], &descriptor->outputs[j])) {
                (void)snprintf(message, room, "output %u (%.100s): its buffer overlaps output %u (%.100s)", i, info->name,
                               j, descriptor->outputs[j].name);
                return TW_OVERLAP;
            }
        }
    }
    return TW_OK;
}

int32_t tw_check_rank(const tw_descriptor *descriptor, const tw_tensor *inputs, uint32_t index, char *message, size_t room)
{
    const tw_tensor_info *info = &descriptor->inputs[index];
    if (inputs[index].rank != info->rank) {
        (void)snprintf(message, room, "input %u (%.100s): expected rank %d, got rank %d", index, info->name, info->rank,
                       inputs[index].rank);
        return TW_WRONG_SHAPE;
    }
    return TW_OK;
}

int32_t tw_check_tensors(const tw_descriptor *descriptor, const tw_tensor *inputs, size_t input_count,
                         const tw_tensor *outputs, size_t output_count, char *message, size_t room)
{
    if (input_count != descriptor->input_count || output_count != descriptor->output_count) {
        (void)snprintf(message, room, "run: expected %u inputs and %u outputs, got %llu and %llu", descriptor->input_count,
                       descriptor->output_count, (unsigned long long)input_count, (unsigned long long)output_count);
        return TW_WRONG_COUNT;
    }
    if ((!inputs && input_count) || (!outputs && output_count)) {
        (void)snprintf(message, room, "run: the array of %s is NULL", inputs ? "outputs" : "inputs");
        return TW_NULL_POINTER;
    }
    int32_t status = TW_OK;
    for (uint32_t i = 0; i < descriptor->input_count && !status; i++) {
        status = check_tensor(&descriptor->inputs[i], &inputs[i], "input", i, message, room);
        status = status ? status : check_strings(&descriptor->inputs[i], inputs[i].data, i, message, room);
    }
    for (uint32_t i = 0; i < descriptor->output_count && !status; i++) {
        status = check_tensor(&descriptor->outputs[i], &outputs[i], "output", i, message, room);
    }
    return status ? status : check_overlaps(descriptor, inputs, outputs, message, room);
}
