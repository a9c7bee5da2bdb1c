
/* --- CUDA --------------------------------------------------------------------------------------------------------------
 *
 * PREFIX_run and PREFIX_run_tensors take host memory, copy to and from the GPU and return when the outputs are there.
 * A `workspace` in the options is device memory.  thread_count is 1. */

/* PREFIX_create on another GPU than number 0, or without a CUDA graph.  cuda: NULL for defaults. */
int32_t @PREFIX@_create_on(const tw_options *options, const tw_cuda_options *cuda, @PREFIX@_model **out);

/* Starts a run on inputs and outputs in device memory, at addresses that are multiples of 16, and returns.  stream: a
 * CUstream or cudaStream_t, NULL for the default stream.  The buffers must stay until the run is done.  The launches are one
 * CUDA graph, made when these addresses are first seen (the last four sets are kept); on a stream that is being captured
 * they become part of the caller's graph.  Runs of one instance follow each other, whatever their streams. */
int32_t @PREFIX@_run_device(@PREFIX@_model *model, const void *const *inputs, void *const *outputs, void *stream);

/* One run as by run_device, without a CUDA graph, that times every launch by events and waits for it.  milliseconds: `count`
 * numbers, of the launches in the order of the manifest (kernels[].launches[]); a launch in a loop adds up. */
size_t @PREFIX@_launch_count(void);
int32_t @PREFIX@_time_launches(@PREFIX@_model *model, const void *const *inputs, void *const *outputs, void *stream,
                               float *milliseconds, size_t count);

/* Device memory on the instance's GPU, for callers that have no CUDA of their own. */
int32_t @PREFIX@_device_alloc(@PREFIX@_model *model, uint64_t bytes, void **out);
int32_t @PREFIX@_device_free(@PREFIX@_model *model, void *address);
