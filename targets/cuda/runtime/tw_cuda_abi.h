/* What a CUDA library offers beyond the interface that all Tilewright libraries share. */
#ifndef TILEWRIGHT_CUDA_ABI_H
#define TILEWRIGHT_CUDA_ABI_H

/* Options of PREFIX_create_on.  Start from TW_CUDA_OPTIONS_INIT. */
typedef struct tw_cuda_options {
    uint32_t size;  /* sizeof(tw_cuda_options) */
    int32_t device; /* number of the GPU, as the CUDA driver counts */
    uint32_t flags; /* TW_CUDA_NO_GRAPH: launch every kernel by itself, without a CUDA graph */
    uint32_t reserved;
} tw_cuda_options;

#define TW_CUDA_NO_GRAPH 1u
#define TW_CUDA_OPTIONS_INIT { (uint32_t)sizeof(tw_cuda_options), 0, 0u, 0u }

#endif
