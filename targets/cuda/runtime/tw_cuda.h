/* Inside a CUDA library: what the compiler generates, the CUDA driver, instances.
 *
 * The driver is the only thing needed from the machine; it is opened when an instance is made.  Nothing here is global and
 * mutable.
 */
#ifndef TW_CUDA_H
#define TW_CUDA_H

#include "tw_runtime.h"

#include "tw_cuda_abi.h"

/* --- the CUDA driver, as far as it is used here (no header of CUDA is needed to build) -------------------------------- */

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

/* CUtensorMap: how a matrix lies in device memory, for the copies of sm_90. */
typedef struct tw_tensor_map {
    _Alignas(64) uint64_t words[16];
} tw_tensor_map;

/* Name of the symbol, name here, parameters. */
#define TW_DRIVER_FUNCTIONS(X)                                                                                           \
    X(cuInit, init, (unsigned flags))                                                                                    \
    X(cuGetErrorName, error_name, (CUresult error, const char **text))                                                   \
    X(cuGetErrorString, error_string, (CUresult error, const char **text))                                               \
    X(cuDeviceGetCount, device_count, (int *count))                                                                      \
    X(cuDeviceGet, device_get, (CUdevice * device, int ordinal))                                                         \
    X(cuDeviceGetName, device_name, (char *name, int room, CUdevice device))                                             \
    X(cuDeviceGetAttribute, device_attribute, (int *value, int attribute, CUdevice device))                              \
    X(cuDevicePrimaryCtxRetain, context_retain, (CUcontext * context, CUdevice device))                                  \
    X(cuDevicePrimaryCtxRelease_v2, context_release, (CUdevice device))                                                  \
    X(cuCtxPushCurrent_v2, context_push, (CUcontext context))                                                            \
    X(cuCtxPopCurrent_v2, context_pop, (CUcontext * context))                                                            \
    X(cuModuleLoadData, module_load, (CUmodule * module, const void *image))                                             \
    X(cuModuleUnload, module_unload, (CUmodule module))                                                                  \
    X(cuModuleGetFunction, module_function, (CUfunction * function, CUmodule module, const char *name))                  \
    X(cuFuncSetAttribute, function_attribute, (CUfunction function, int attribute, int value))                           \
    X(cuMemAlloc_v2, memory_alloc, (CUdeviceptr * address, size_t bytes))                                                \
    X(cuMemFree_v2, memory_free, (CUdeviceptr address))                                                                  \
    X(cuMemcpyHtoD_v2, copy_to_device, (CUdeviceptr to, const void *from, size_t bytes))                                 \
    X(cuMemcpyHtoDAsync_v2, copy_to_device_async, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))     \
    X(cuMemcpyDtoHAsync_v2, copy_to_host_async, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))             \
    X(cuStreamCreate, stream_create, (CUstream * stream, unsigned flags))                                                \
    X(cuStreamDestroy_v2, stream_destroy, (CUstream stream))                                                             \
    X(cuStreamSynchronize, stream_synchronize, (CUstream stream))                                                        \
    X(cuStreamWaitEvent, stream_wait, (CUstream stream, CUevent event, unsigned flags))                                  \
    X(cuStreamIsCapturing, stream_is_capturing, (CUstream stream, int *status))                                          \
    X(cuStreamBeginCapture_v2, capture_begin, (CUstream stream, int mode))                                               \
    X(cuStreamEndCapture, capture_end, (CUstream stream, CUgraph * graph))                                               \
    X(cuEventCreate, event_create, (CUevent * event, unsigned flags))                                                    \
    X(cuEventDestroy_v2, event_destroy, (CUevent event))                                                                 \
    X(cuEventRecord, event_record, (CUevent event, CUstream stream))                                                     \
    X(cuEventSynchronize, event_synchronize, (CUevent event))                                                            \
    X(cuEventElapsedTime, event_elapsed, (float *milliseconds, CUevent start, CUevent end))                              \
    X(cuGraphInstantiateWithFlags, graph_instantiate, (CUgraphExec * exec, CUgraph graph, unsigned long long flags))     \
    X(cuGraphDestroy, graph_destroy, (CUgraph graph))                                                                    \
    X(cuGraphExecDestroy, graph_exec_destroy, (CUgraphExec exec))                                                        \
    X(cuGraphLaunch, graph_launch, (CUgraphExec exec, CUstream stream))                                                  \
    X(cuTensorMapEncodeTiled, encode_map,                                                                                \
      (tw_tensor_map * map, int type, uint32_t rank, void *address, const uint64_t *sizes, const uint64_t *strides,      \
       const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill))                \
    X(cuLaunchKernel, launch, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
                               unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,               \
                               void **parameters, void **extra))

typedef struct tw_driver {
    void *library;
#define TW_MEMBER(symbol, name, parameters) CUresult(*name) parameters;
    TW_DRIVER_FUNCTIONS(TW_MEMBER)
#undef TW_MEMBER
} tw_driver;

/* Opens the driver and starts it: TW_OK, or TW_NO_DRIVER with a message. */
int32_t tw_driver_open(tw_driver *driver, char *message, size_t room);
void tw_driver_close(tw_driver *driver);
/* "CUDA_ERROR_X (what it means)" */
const char *tw_driver_error(const tw_driver *driver, CUresult error, char *text, size_t room);

/* --- what the compiler generates --------------------------------------------------------------------------------------- */

#define TW_MAP_RANK 3
#define TW_MAX_MAPS 4 /* of one function */

/* Machine code of one module for one architecture (80 is sm_80), or, if `is_ptx`, text that the driver compiles for that
 * architecture and newer ones.  is_exact: for this architecture alone (sm_90a). */
typedef struct tw_cuda_image {
    uint32_t arch;
    uint32_t is_ptx, is_exact;
    const unsigned char *data;
} tw_cuda_image;

/* One function and how it is launched. */
typedef struct tw_cuda_function {
    const char *name;
    uint32_t module;
    uint32_t grid[3], block[3];
    uint32_t dynamic_shared;
    uint32_t parameter_count;
    uint32_t first_map, map_count; /* of the parameters that are tensor maps */
} tw_cuda_function;

/* A parameter that describes the memory at its address: type as the driver numbers it; the contiguous axis first, strides
 * in bytes from the second axis on. */
typedef struct tw_cuda_map {
    uint32_t parameter, type, rank;
    uint64_t sizes[TW_MAP_RANK], strides[TW_MAP_RANK - 1];
    uint32_t box[TW_MAP_RANK];
} tw_cuda_map;

/* A product that cuBLASLt makes of (result, left, right).  left, right: elements from one batch, row (column) and k to the
 * next; out: batch and row.  Types as CUDA numbers them. */
typedef struct tw_cuda_product {
    uint32_t batches, rows, columns, depth;
    int64_t left[3], right[3], out[2];
    int type, out_type;
    uint32_t is_tf32;
} tw_cuda_product;

/* A tensor of a convolution: n, channels, height, width (of the weights filter, channel, height, width) and elements from
 * one to the next.  type: as cuDNN numbers them, -1: there is none. */
typedef struct tw_cuda_tensor {
    int type;
    int64_t sizes[4], steps[4];
} tw_cuda_tensor;

/* A convolution that cuDNN makes of (result, image, weights, bias and residual where there are some).  tensors: image,
 * weights, result, bias, residual.  Pairs of height and width. */
typedef struct tw_cuda_convolution {
    tw_cuda_tensor tensors[5];
    int64_t strides[2], dilations[2], before[2], behind[2];
    uint32_t has_relu, is_tf32;
} tw_cuda_convolution;

/* The shape of an output that a run determines: int64s at a byte of the arena. */
typedef struct tw_cuda_sized {
    uint32_t output;
    uint64_t offset;
} tw_cuda_sized;

typedef struct tw_cuda_address {
    enum { TW_ARENA, TW_CONSTANTS, TW_INPUT, TW_OUTPUT, TW_NOWHERE } space;
    uint32_t index;
    uint64_t offset;
} tw_cuda_address;

/* LAUNCH: function with the arguments from number `first`.  MULTIPLY, CONVOLVE: product or convolution number
 * `function` of those.  BRANCH: goes on at step `target` unless the bool at address `first` is true.  JUMP: goes on at `target`.  ENTER: counter number
 * `function` becomes 0.  TEST: leaves to `target` unless the counter is below the i64 at address `first` and the bool at
 * first + 1 is true (TW_NOWHERE: no such condition); writes the counter to first + 2.  NEXT: adds 1 to the counter and goes
 * on at `target`. */
typedef struct tw_cuda_step {
    enum { TW_LAUNCH, TW_MULTIPLY, TW_CONVOLVE, TW_BRANCH, TW_JUMP, TW_ENTER, TW_TEST, TW_NEXT } kind;
    uint32_t function, first, target;
} tw_cuda_step;

typedef struct tw_cuda_descriptor {
    tw_descriptor base;
    const char *architectures; /* for messages: "sm_80, sm_90" */
    const tw_cuda_image *images; /* [module][image_count] */
    const tw_cuda_function *functions;
    const tw_cuda_map *maps;
    const tw_cuda_product *products;
    const tw_cuda_sized *sized;
    const tw_cuda_convolution *convolutions;
    const tw_cuda_address *addresses;
    const tw_cuda_step *steps;
    uint32_t module_count, image_count, function_count, step_count, counter_count, product_count, convolution_count,
        sized_count;
    uint32_t has_control; /* whether steps depend on data: then there is no CUDA graph */
    uint64_t static_shared_limit;
} tw_cuda_descriptor;

/* --- instances --------------------------------------------------------------------------------------------------------- */

#define TW_DEVICE_ALIGNMENT 16u /* of inputs and outputs in device memory */
#define TW_GRAPHS 4 /* graphs kept, each for other addresses of inputs and outputs */
#define TW_MAX_ARGUMENTS 64
#define TW_LIBRARY_OPERANDS 5

typedef struct tw_graph {
    CUgraphExec exec;
    CUdeviceptr *addresses; /* of the inputs, then the outputs */
    uint64_t used;          /* number of the run that used it last */
} tw_graph;

typedef struct tw_cuda_library tw_cuda_library;
typedef struct tw_cuda_cudnn tw_cuda_cudnn;

typedef struct tw_cuda_model {
    const tw_cuda_descriptor *descriptor;
    tw_driver driver;
    CUdevice device;
    CUcontext context;
    CUmodule *modules;
    CUfunction *functions;
    tw_cuda_library *library; /* cuBLASLt; NULL where no product needs it */
    tw_cuda_cudnn *cudnn;     /* NULL where no convolution needs it */
    CUdeviceptr memory;    /* arena and the device copies of inputs and outputs; 0: the caller's */
    CUdeviceptr arena, constants;
    CUdeviceptr *staging;  /* device copies of inputs, then of outputs, for runs on host memory */
    CUdeviceptr *addresses; /* of the run */
    int64_t *counters;
    CUstream stream, last_stream;
    CUevent done;
    tw_graph graphs[TW_GRAPHS];
    uint64_t runs;
    bool uses_graph, has_last;
    int32_t owner; /* process that made it */
    atomic_int busy;
    char message[TW_MESSAGE_BYTES];
} tw_cuda_model;

int32_t tw_cuda_create(const tw_cuda_descriptor *descriptor, const tw_options *options, const tw_cuda_options *cuda,
                       tw_cuda_model **out);
int32_t tw_cuda_destroy(tw_cuda_model *model);
int32_t tw_cuda_run(tw_cuda_model *model, const void *const *inputs, void *const *outputs);
int32_t tw_cuda_run_tensors(tw_cuda_model *model, const tw_tensor *inputs, size_t input_count, const tw_tensor *outputs,
                            size_t output_count);
int32_t tw_cuda_run_device(tw_cuda_model *model, const void *const *inputs, void *const *outputs, void *stream);
/* Waits for the last run if the shape is one that it determines. */
int32_t tw_cuda_output_shape(tw_cuda_model *model, size_t index, int64_t *shape, size_t rank);
int32_t tw_cuda_time_launches(tw_cuda_model *model, const void *const *inputs, void *const *outputs, void *stream,
                              float *milliseconds, size_t count);
size_t tw_cuda_launch_count(const tw_cuda_descriptor *descriptor);
int32_t tw_cuda_device_alloc(tw_cuda_model *model, uint64_t bytes, void **out);
int32_t tw_cuda_device_free(tw_cuda_model *model, void *address);
uint64_t tw_cuda_workspace_bytes(const tw_cuda_descriptor *descriptor);
const char *tw_cuda_message(const tw_cuda_model *model);
const char *tw_cuda_status_text(int32_t status);
/* Writes the message "what: error" and gives its status. */
int32_t tw_cuda_failed(tw_cuda_model *model, const char *what, CUresult error);

/* Times of single launches: events around each one. */
typedef struct tw_launch_clock {
    CUevent before, after;
    float *milliseconds; /* of each launch of the table of steps, in its order; what is launched again is added */
    size_t count;
} tw_launch_clock;

/* tw_cuda_steps.c: all launches of one run, on a stream whose context is current.  clock: NULL, or what times each one; then
 * every launch is waited for. */
CUresult tw_cuda_steps(tw_cuda_model *model, CUstream stream, const tw_launch_clock *clock);
/* tw_cuda_library.c: opens cuBLASLt with a plan for every product, if there are any; multiplies by one of them. */
int32_t tw_cuda_library_open(tw_cuda_model *model);
void tw_cuda_library_close(tw_cuda_model *model);
CUresult tw_cuda_library_multiply(tw_cuda_model *model, uint32_t product, const CUdeviceptr *operands, CUstream stream);
/* tw_cuda_cudnn.c: the same for convolutions by cuDNN. */
int32_t tw_cuda_cudnn_open(tw_cuda_model *model);
void tw_cuda_cudnn_close(tw_cuda_model *model);
CUresult tw_cuda_cudnn_convolve(tw_cuda_model *model, uint32_t convolution, const CUdeviceptr *operands, CUstream stream);
/* tw_cuda_load.c: modules and functions for the device of the model. */
int32_t tw_cuda_load(tw_cuda_model *model);

#endif
