/* The types that every Tilewright library shares with its callers.
 *
 * Version 1 of the interface is append-only: fields and codes are added at the end and none changes its meaning.
 * Structures that a caller fills carry their size, so that an old caller works with a new library.
 */
#ifndef TILEWRIGHT_ABI_H
#define TILEWRIGHT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define TW_ABI_VERSION 1u

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns.  0 is success; a message with the details comes from PREFIX_error_message. */
enum tw_status {
    TW_OK = 0,
    TW_NULL_POINTER = 1,   /* a pointer that must be set is NULL */
    TW_WRONG_COUNT = 2,    /* not the number of inputs or outputs that the model has */
    TW_WRONG_TYPE = 3,     /* element type differs */
    TW_WRONG_SHAPE = 4,    /* rank or a dimension differs */
    TW_WRONG_SIZE = 5,     /* the buffer is smaller than the tensor, or the workspace too small */
    TW_MISALIGNED = 6,     /* an address is not a multiple of the element size (workspace: of 64) */
    TW_OVERLAP = 7,        /* an output buffer overlaps an input or another output */
    TW_WRONG_VERSION = 8,  /* the caller was built for another interface version */
    TW_WRONG_CPU = 9,      /* this processor lacks an instruction set that the code uses */
    TW_NO_MEMORY = 10,     /* the system gave no memory */
    TW_NO_THREADS = 11,    /* threads could not be started, or the caller's pool failed */
    TW_BUSY = 12,          /* another thread is running this instance */
    TW_IO = 13,            /* the weights file cannot be read */
    TW_WRONG_WEIGHTS = 14, /* the weights file belongs to another library */
    TW_BAD_OPTION = 15,    /* an option is out of its range */
    TW_FORKED = 16,        /* this process is a fork of the one that created the instance */
    TW_NO_PROFILE = 17,    /* the library was not compiled with the option profile */
    TW_NO_DRIVER = 18,     /* CUDA libraries: there is no driver or no GPU */
    TW_WRONG_GPU = 19,     /* CUDA libraries: the code was compiled for other GPUs */
    TW_DEVICE = 20,        /* CUDA libraries: the driver reported an error */
    TW_WRONG_VALUE = 21,   /* an element of an input has no meaning for the model, for example text that is no number */
    TW_OUT_OF_BOUNDS = 22, /* libraries compiled with debug-bounds: generated code left a buffer, the outputs are not valid */
    TW_NO_SHAPES = 23      /* a model with open dimensions is run before it was given the shapes of its inputs */
};

/* Element types; the numbers are those of ONNX. */
enum tw_dtype {
    TW_F32 = 1,
    TW_U8 = 2,
    TW_I8 = 3,
    TW_U16 = 4,
    TW_I16 = 5,
    TW_I32 = 6,
    TW_I64 = 7,
    TW_STRING = 8, /* const char *: UTF-8 text that ends with a zero byte.  What a run gives out is valid until the next
                      run of the instance, its end, or the end of the inputs, whichever is first. */
    TW_BOOL = 9,
    TW_F16 = 10,
    TW_F64 = 11,
    TW_U32 = 12,
    TW_U64 = 13,
    TW_BF16 = 16
};

/* A dense row-major tensor in the caller's memory. */
typedef struct tw_tensor {
    void *data;
    uint64_t bytes; /* size of the buffer at `data` */
    int32_t dtype;  /* enum tw_dtype */
    int32_t rank;
    const int64_t *shape; /* `rank` dimensions; may be NULL for rank 0 */
} tw_tensor;

/* What the model says about one of its inputs or outputs.  Open dimensions are -1, and bytes is then 0. */
typedef struct tw_tensor_info {
    const char *name; /* UTF-8, as in the model */
    uint64_t bytes;
    int32_t dtype;
    int32_t rank;
    const int64_t *shape;
    uint32_t element_bytes;
    uint32_t run_time_axes; /* bit i: dimension i of this output is known after a run only (PREFIX_output_shape), and
                               shape[i] is the largest that it can be */
} tw_tensor_info;

/* What one thread spent in one step of a library compiled with the option profile.  Times are in nanoseconds of the
 * monotonic clock; waiting for other threads between steps is in none of them. */
typedef struct tw_step_time {
    uint64_t count; /* executions since create or the last reset; 0: the other fields say nothing */
    uint64_t total_ns;
    uint64_t min_ns;
    uint64_t start_ns; /* when the last one began */
    uint64_t last_ns;  /* how long it took */
} tw_step_time;

/* The caller's own threads.  `run` must call body(arg, i) once for each i in [0, count), ALL AT THE SAME TIME (they wait
 * for each other), return when all have returned, and give 0, or another value if it could not start any of them. */
typedef struct tw_thread_pool {
    void *context;
    int32_t (*run)(void *context, int32_t count, void (*body)(void *arg, int32_t index), void *arg);
} tw_thread_pool;

/* Options of PREFIX_create.  Start from TW_OPTIONS_INIT; a zero field takes the default. */
typedef struct tw_options {
    uint32_t size;          /* sizeof(tw_options) */
    uint32_t abi_version;   /* TW_ABI_VERSION */
    int32_t threads;        /* the caller is one of them; 0: the processors that affinity mask and cgroup quota grant,
                               but no more than PREFIX_BEST_THREADS where the header says that number */
    uint32_t flags;         /* none yet: 0 */
    void *workspace;        /* 64-byte aligned memory of the caller, PREFIX_workspace_bytes(threads); NULL: allocated */
    uint64_t workspace_bytes;
    tw_thread_pool pool;      /* the caller's threads; run == NULL: own threads */
    const char *weights_path; /* weights file; NULL: the one beside the library */
    char *message;            /* receives the message when create fails; may be NULL */
    uint64_t message_bytes;
} tw_options;

#define TW_OPTIONS_INIT \
    { (uint32_t)sizeof(tw_options), TW_ABI_VERSION, 0, 0u, NULL, 0u, { NULL, NULL }, NULL, NULL, 0u }

#ifdef __cplusplus
}
#endif

#endif
