/* Products by cuBLASLt, for models whose tuning file chose it: opened when an instance is made, with one plan per product.
 *
 * cuBLASLt sees columns where we have rows: it computes result^T = right^T * left^T.  The environment variable
 * TILEWRIGHT_CUBLASLT names another file than the system finds.
 */
#define _GNU_SOURCE
#include "tw_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* Of library_types.h, cublas_api.h and cublasLt.h. */
enum { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77, R_32F = 0 };
enum { DESC_TRANSPOSE_A = 3, DESC_TRANSPOSE_B = 4, LAYOUT_BATCHES = 5, LAYOUT_BATCH_STRIDE = 6, PREFERENCE_WORKSPACE = 1 };
enum { MOST_WORKSPACE = 32 << 20 };

typedef struct algorithm {
    uint64_t data[8];
} algorithm;
typedef struct heuristic {
    algorithm chosen;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} heuristic;

/* Name of the symbol, name here, parameters. */
#define LIBRARY_FUNCTIONS(X)                                                                                              \
    X(cublasLtCreate, create, (void **handle))                                                                            \
    X(cublasLtDestroy, destroy, (void *handle))                                                                           \
    X(cublasLtMatmulDescCreate, desc_create, (void **desc, int compute, int scale))                                       \
    X(cublasLtMatmulDescDestroy, desc_destroy, (void *desc))                                                              \
    X(cublasLtMatmulDescSetAttribute, desc_set, (void *desc, int attribute, const void *value, size_t bytes))             \
    X(cublasLtMatrixLayoutCreate, layout_create, (void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld))  \
    X(cublasLtMatrixLayoutDestroy, layout_destroy, (void *layout))                                                        \
    X(cublasLtMatrixLayoutSetAttribute, layout_set, (void *layout, int attribute, const void *value, size_t bytes))       \
    X(cublasLtMatmulPreferenceCreate, preference_create, (void **preference))                                             \
    X(cublasLtMatmulPreferenceDestroy, preference_destroy, (void *preference))                                            \
    X(cublasLtMatmulPreferenceSetAttribute, preference_set,                                                               \
      (void *preference, int attribute, const void *value, size_t bytes))                                                 \
    X(cublasLtMatmulAlgoGetHeuristic, choose,                                                                             \
      (void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted, heuristic *results,    \
       int *found))                                                                                                       \
    X(cublasLtMatmul, multiply,                                                                                           \
      (void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,         \
       const void *beta, const void *c, void *c_layout, void *d, void *d_layout, const algorithm *chosen, void *workspace, \
       size_t workspace_bytes, CUstream stream))

typedef struct plan {
    void *desc, *layouts[3]; /* right, left, result */
    heuristic chosen;
} plan;

struct tw_cuda_library {
    void *file, *handle;
#define MEMBER(symbol, name, parameters) int(*name) parameters;
    LIBRARY_FUNCTIONS(MEMBER)
#undef MEMBER
    CUdeviceptr workspace;
    uint32_t count;
    plan plans[]; /* in the order of the descriptor's products */
};

static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };

static int32_t open_file(tw_cuda_model *model, tw_cuda_library *l)
{
    const char *const named = secure_getenv("TILEWRIGHT_CUBLASLT");
    if (named) {
        l->file = dlopen(named, RTLD_NOW | RTLD_LOCAL);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !named && !l->file; i++) {
        l->file = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!l->file) {
        (void)snprintf(model->message, sizeof model->message, "cuBLASLt (%.200s) cannot be loaded; the tuning file chose "
                       "it for %u products: install it (pip install nvidia-cublas), or compile without that file",
                       named ? named : names[0], model->descriptor->product_count);
        return TW_DEVICE;
    }
#define FIND(symbol, name, parameters)                                                                                    \
    *(void **)(void *)&l->name = dlsym(l->file, #symbol);                                                                 \
    if (!l->name) {                                                                                                       \
        (void)snprintf(model->message, sizeof model->message, "cuBLASLt has no %s; install version 12 or later", #symbol); \
        return TW_DEVICE;                                                                                                 \
    }
    LIBRARY_FUNCTIONS(FIND)
#undef FIND
    return TW_OK;
}

/* A matrix whose lines of `inner` elements are `step` apart; rows of ours are columns there. */
static int make_layout(const tw_cuda_library *l, void **layout, int type, uint64_t inner, uint64_t lines, int64_t step,
                       uint32_t batches, int64_t batch_step)
{
    const int32_t count = (int32_t)batches;
    int status = l->layout_create(layout, type, inner, lines, lines > 1 ? step : (int64_t)inner);
    if (!status && batches > 1) {
        status = l->layout_set(*layout, LAYOUT_BATCHES, &count, sizeof count);
        status = status ? status : l->layout_set(*layout, LAYOUT_BATCH_STRIDE, &batch_step, sizeof batch_step);
    }
    return status;
}

/* An operand with elements `line` and `k` apart along its own axis and k: as it lies, with whether cuBLASLt transposes it. */
static int make_operand(const tw_cuda_library *l, void **layout, const tw_cuda_product *p, uint64_t lines, const int64_t *steps,
                        bool *k_first)
{
    *k_first = steps[2] == 1 || p->depth == 1;
    return *k_first ? make_layout(l, layout, p->type, p->depth, lines, steps[1], p->batches, steps[0])
                    : make_layout(l, layout, p->type, lines, p->depth, steps[2], p->batches, steps[0]);
}

static int make_plan(const tw_cuda_library *l, const tw_cuda_product *p, plan *made)
{
    void *preference = NULL;
    const size_t workspace = MOST_WORKSPACE;
    bool right_k_first = false, left_k_first = false;
    int found = 0;
    int status = l->desc_create(&made->desc, p->is_tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F, R_32F);
    status = status ? status : make_operand(l, &made->layouts[0], p, p->columns, p->right, &right_k_first);
    status = status ? status : make_operand(l, &made->layouts[1], p, p->rows, p->left, &left_k_first);
    status = status ? status : make_layout(l, &made->layouts[2], p->out_type, p->columns, p->rows, p->out[1], p->batches,
                                           p->out[0]);
    const int32_t transposes[] = { right_k_first, !left_k_first };
    status = status ? status : l->desc_set(made->desc, DESC_TRANSPOSE_A, &transposes[0], sizeof transposes[0]);
    status = status ? status : l->desc_set(made->desc, DESC_TRANSPOSE_B, &transposes[1], sizeof transposes[1]);
    status = status ? status : l->preference_create(&preference);
    status = status ? status : l->preference_set(preference, PREFERENCE_WORKSPACE, &workspace, sizeof workspace);
    status = status ? status : l->choose(l->handle, made->desc, made->layouts[0], made->layouts[1], made->layouts[2],
                                         made->layouts[2], preference, 1, &made->chosen, &found);
    if (preference) {
        (void)l->preference_destroy(preference);
    }
    return status ? status : found ? made->chosen.status : -1;
}

int32_t tw_cuda_library_open(tw_cuda_model *model)
{
    const tw_cuda_descriptor *d = model->descriptor;
    size_t workspace = 0;
    if (!d->product_count) {
        return TW_OK;
    }
    tw_cuda_library *const l = calloc(1, sizeof *l + d->product_count * sizeof l->plans[0]);
    if (!l) {
        (void)snprintf(model->message, sizeof model->message, "no memory for the instance");
        return TW_NO_MEMORY;
    }
    model->library = l;
    l->count = d->product_count;
    int32_t status = open_file(model, l);
    if (status) {
        return status;
    }
    int error = l->create(&l->handle);
    for (uint32_t i = 0; i < l->count && !error; i++) {
        error = make_plan(l, &d->products[i], &l->plans[i]);
        workspace = l->plans[i].chosen.workspace > workspace ? l->plans[i].chosen.workspace : workspace;
    }
    if (error) {
        (void)snprintf(model->message, sizeof model->message, "cuBLASLt has no way for a product (status %d); compile "
                       "without the tuning file, or tune again on this machine", error);
        return TW_DEVICE;
    }
    const CUresult failed = workspace ? model->driver.memory_alloc(&l->workspace, workspace) : 0;
    return failed ? tw_cuda_failed(model, "workspace of cuBLASLt", failed) : TW_OK;
}

void tw_cuda_library_close(tw_cuda_model *model)
{
    tw_cuda_library *const l = model->library;
    if (!l) {
        return;
    }
    for (uint32_t i = 0; i < l->count; i++) {
        for (int n = 0; n < 3; n++) {
            if (l->plans[i].layouts[n]) {
                (void)l->layout_destroy(l->plans[i].layouts[n]);
            }
        }
        if (l->plans[i].desc) {
            (void)l->desc_destroy(l->plans[i].desc);
        }
    }
    if (l->handle) {
        (void)l->destroy(l->handle);
    }
    if (l->workspace) {
        (void)model->driver.memory_free(l->workspace);
    }
    if (l->file) {
        (void)dlclose(l->file);
    }
    free(l);
    model->library = NULL;
}

CUresult tw_cuda_library_multiply(tw_cuda_model *model, uint32_t product, const CUdeviceptr *operands, CUstream stream)
{
    const tw_cuda_library *const l = model->library;
    const plan *const p = &l->plans[product];
    const float one = 1, zero = 0;
    void *out = (void *)(uintptr_t)operands[0];
    const int status = l->multiply(l->handle, p->desc, &one, (const void *)(uintptr_t)operands[2], p->layouts[0],
                                   (const void *)(uintptr_t)operands[1], p->layouts[1], &zero, out, p->layouts[2], out,
                                   p->layouts[2], &p->chosen.chosen, (void *)(uintptr_t)l->workspace, p->chosen.workspace,
                                   stream);
    enum { LAUNCH_FAILED = 719 };
    return status ? LAUNCH_FAILED : 0;
}
