/* @TITLE@, compiled by Tilewright @VERSION@ for @MACHINE@.
 *
 *     @PREFIX@_model *model;
 *     tw_options options = TW_OPTIONS_INIT;
 *     if (@PREFIX@_create(&options, &model) != TW_OK) ...
 *     const void *inputs[] = { ... };  void *outputs[] = { ... };
 *     if (@PREFIX@_run(model, inputs, outputs) != TW_OK) puts(@PREFIX@_error_message(model));
 *     @PREFIX@_destroy(model);
 *
 * Tensors are dense and row-major, in this order:
@TENSORS@
 */
#ifndef @GUARD@
#define @GUARD@

@ABI@
#if TW_ABI_VERSION != @ABI_VERSION@u
#error "this header and another Tilewright header of this program have different interface versions"
#endif

#ifdef __cplusplus
extern "C" {
#endif

@CONSTANTS@
/* One instance: its memory and threads.  Any number may exist; each is run by one thread at a time. */
typedef struct @PREFIX@_model @PREFIX@_model;

/* Interface version of the library; compare with TW_ABI_VERSION. */
uint32_t @PREFIX@_abi_version(void);

/* Makes an instance.  options: NULL for defaults.  The only call that allocates memory and starts threads. */
int32_t @PREFIX@_create(const tw_options *options, @PREFIX@_model **out);

/* Runs the model on arrays of pointers to the inputs and outputs, whose shapes and types are those above.  Checks for
 * NULL and for alignment to the element size; an output must not overlap another buffer.  TW_BUSY when another thread is
 * inside this instance. */
int32_t @PREFIX@_run(@PREFIX@_model *model, const void *const *inputs, void *const *outputs);

/* The same with everything checked: counts, element types, shapes, buffer sizes and overlaps. */
int32_t @PREFIX@_run_tensors(@PREFIX@_model *model, const tw_tensor *inputs, size_t input_count,
                             const tw_tensor *outputs, size_t output_count);

/* Stops the threads and frees the memory.  TW_BUSY, and nothing done, while a run is going on.  NULL is allowed. */
int32_t @PREFIX@_destroy(@PREFIX@_model *model);

/* Memory that an instance needs besides the weights, for this number of threads (0: the default number). */
uint64_t @PREFIX@_workspace_bytes(int32_t threads);

/* Threads that run this instance, with the caller's. */
int32_t @PREFIX@_thread_count(const @PREFIX@_model *model);

/* Steps of a library compiled with the option profile, in the order of "kernels" in the manifest, and then of those of each
 * version in "specialized" (without "any_size": of the versions alone); 0 for any other library. */
size_t @PREFIX@_step_count(void);
/* Copies what a thread of this instance spent in each step; count: PREFIX_step_count().  TW_NO_PROFILE for a library
 * compiled without the option profile, TW_BUSY during a run. */
int32_t @PREFIX@_profile(@PREFIX@_model *model, int32_t thread, tw_step_time *out, size_t count);
/* Starts again from zero, for example after runs to warm up. */
int32_t @PREFIX@_reset_profile(@PREFIX@_model *model);

size_t @PREFIX@_input_count(void);
size_t @PREFIX@_output_count(void);
/* Name, type and shape of an input or output; NULL beyond the last. */
const tw_tensor_info *@PREFIX@_input_info(size_t index);
const tw_tensor_info *@PREFIX@_output_info(size_t index);

/* The shape that an output had in the last run, rank dimensions: TW_WRONG_COUNT for another rank or no such output.  Where
 * the shape above is that of the largest result (run_time_axes in its info), the elements of the result are the first ones of
 * the buffer, dense and row-major in this shape. */
int32_t @PREFIX@_output_shape(@PREFIX@_model *model, size_t index, int64_t *shape, size_t rank);

/* What the last failed run of this instance said; to be read by the thread that ran it.  (After TW_BUSY the instance
 * belongs to another thread: use status_text.) */
const char *@PREFIX@_error_message(const @PREFIX@_model *model);
/* What a status code means. */
const char *@PREFIX@_status_text(int32_t status);

/* What the library was made from, as JSON. */
const char *@PREFIX@_manifest(void);
@MORE@
#ifdef __cplusplus
}
#endif

#endif
