/* Convolutions by cuDNN, for models whose tuning file chose it: opened when an instance is made, with one plan per convolution.
 *
 * Each is a graph of operations: the convolution, then sums with bias and residual and the largest of that and zero, where the
 * model has them.  Of the ways that cuDNN names for it the first is taken that gives the same bits every time and sums what it
 * multiplies as it is.  The environment variable TILEWRIGHT_CUDNN names another file than the system finds.
 */
#define _GNU_SOURCE
#include "tw_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* Numbers of cudnn_graph.h, version 9. */
enum { POINTWISE = 0, CONVOLUTION = 1, ENGINE = 2, CONFIG = 3, HEURISTICS = 4, PLAN = 5, FORWARD = 10, POINTWISE_STEP = 13,
       GRAPH = 15, PACK = 16, TENSOR = 17 };
enum { T_HANDLE = 0, T_DATA_TYPE = 1, T_BOOLEAN = 2, T_INT64 = 3, T_FLOAT = 4, T_POINTER = 6, T_CONVOLUTION_MODE = 7,
       T_HEURISTIC_MODE = 8, T_NOTE = 11, T_POINTWISE_MODE = 14, T_DESCRIPTOR = 15 };
enum { POINTWISE_MODE = 0, POINTWISE_PRECISION = 1, CONVOLUTION_TYPE = 100, CONVOLUTION_MODE = 101, DILATIONS = 102,
       STRIDES = 103, BEHIND = 104, BEFORE = 105, SPATIAL = 106, HEURISTIC_MODE = 200, HEURISTIC_GRAPH = 201, RESULTS = 202,
       CONFIG_ENGINE = 300, PLAN_HANDLE = 400, PLAN_CONFIG = 401, PLAN_WORKSPACE = 402, FORWARD_ALPHA = 700, FORWARD_BETA = 701,
       FORWARD_CONVOLUTION = 702, FORWARD_W = 703, FORWARD_X = 704, FORWARD_Y = 705, STEP_POINTWISE = 750, STEP_X = 751,
       STEP_B = 752, STEP_Y = 753, GRAPH_HANDLE = 800, GRAPH_STEPS = 801, ALIGNMENT = 900, DATA_TYPE = 901, SIZES = 902,
       STEPS = 903, UNIQUE_ID = 906, IS_VIRTUAL = 907, PACK_IDS = 1000, PACK_POINTERS = 1001, PACK_WORKSPACE = 1003,
       ENGINE_NOTES = 1303 };
enum { ADD = 0, RELU = 100, CROSS_CORRELATION = 1, MODE_FALLBACK = 2, MODE_A = 3, DATA_FLOAT = 0 };
/* What engines say of themselves. */
enum { TENSOR_CORES = 0, CONVERTS_DOWN = 1, SUMS_NARROW = 2, FFT = 3, NOT_DETERMINISTIC = 4, WINOGRAD = 5, WINOGRAD_13 = 8 };
enum { MOST_WORKSPACE = 256 << 20, MOST_CONFIGS = 16, MOST_NOTES = 16, MOST_PARTS = 20 };

/* Name of the symbol, name here, parameters. */
#define CUDNN_FUNCTIONS(X)                                                                                                \
    X(cudnnCreate, create, (void **handle))                                                                               \
    X(cudnnDestroy, destroy, (void *handle))                                                                              \
    X(cudnnSetStream, set_stream, (void *handle, CUstream stream))                                                        \
    X(cudnnBackendCreateDescriptor, make, (int kind, void **made))                                                        \
    X(cudnnBackendDestroyDescriptor, drop, (void *made))                                                                  \
    X(cudnnBackendSetAttribute, set, (void *made, int attribute, int type, int64_t count, const void *values))            \
    X(cudnnBackendGetAttribute, get,                                                                                      \
      (void *made, int attribute, int type, int64_t room, int64_t *count, void *values))                                  \
    X(cudnnBackendFinalize, finish, (void *made))                                                                         \
    X(cudnnBackendExecute, execute, (void *handle, void *plan, void *pack))

typedef struct plan {
    void *parts[MOST_PARTS]; /* what the graph is made of, given back with the plan */
    uint32_t count;
    void *made;
    int64_t workspace;
} plan;

struct tw_cuda_cudnn {
    void *file, *handle;
#define MEMBER(symbol, name, parameters) int(*name) parameters;
    CUDNN_FUNCTIONS(MEMBER)
#undef MEMBER
    CUdeviceptr workspace;
    uint32_t count;
    plan plans[]; /* in the order of the descriptor's convolutions */
};

static int32_t open_file(tw_cuda_model *model, tw_cuda_cudnn *l)
{
    const char *const named = secure_getenv("TILEWRIGHT_CUDNN");
    const char *const name = named ? named : "libcudnn.so.9";
    l->file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!l->file) {
        (void)snprintf(model->message, sizeof model->message, "cuDNN (%.200s) cannot be loaded; the tuning file chose it for "
                       "%u convolutions: install it (pip install nvidia-cudnn-cu13), or compile without that file", name,
                       model->descriptor->convolution_count);
        return TW_DEVICE;
    }
#define FIND(symbol, name, parameters)                                                                                    \
    *(void **)(void *)&l->name = dlsym(l->file, #symbol);                                                                 \
    if (!l->name) {                                                                                                       \
        (void)snprintf(model->message, sizeof model->message, "cuDNN has no %s; install version 9", #symbol);             \
        return TW_DEVICE;                                                                                                 \
    }
    CUDNN_FUNCTIONS(FIND)
#undef FIND
    return TW_OK;
}

/* --- graphs ------------------------------------------------------------------------------------------------------------ */

/* The state of making one: the first error stays. */
typedef struct maker {
    const tw_cuda_cudnn *l;
    plan *plan;
    int error;
} maker;

static void *part(maker *m, int kind)
{
    void *made = NULL;
    if (!m->error && m->plan->count == MOST_PARTS) {
        m->error = -1;
    }
    m->error = m->error ? m->error : m->l->make(kind, &made);
    if (!m->error) {
        m->plan->parts[m->plan->count++] = made;
    }
    return made;
}

static void put(maker *m, void *made, int attribute, int type, int64_t count, const void *values)
{
    m->error = m->error ? m->error : m->l->set(made, attribute, type, count, values);
}

static void finish(maker *m, void *made)
{
    m->error = m->error ? m->error : m->l->finish(made);
}

/* id: what the run names its memory by.  is_virtual: it exists between operations only, in f32. */
static void *make_tensor(maker *m, const tw_cuda_tensor *t, int64_t id, bool is_virtual)
{
    const int type = is_virtual ? DATA_FLOAT : t->type;
    const int64_t alignment = TW_DEVICE_ALIGNMENT;
    void *const made = part(m, TENSOR);
    put(m, made, DATA_TYPE, T_DATA_TYPE, 1, &type);
    put(m, made, SIZES, T_INT64, 4, t->sizes);
    put(m, made, STEPS, T_INT64, 4, t->steps);
    put(m, made, UNIQUE_ID, T_INT64, 1, &id);
    put(m, made, ALIGNMENT, T_INT64, 1, &alignment);
    put(m, made, IS_VIRTUAL, T_BOOLEAN, 1, &is_virtual);
    finish(m, made);
    return made;
}

static void *make_forward(maker *m, const tw_cuda_convolution *c, void *x, void *w, void *y)
{
    const int type = DATA_FLOAT, mode = CROSS_CORRELATION;
    const int64_t spatial = 2;
    const float one = 1, zero = 0;
    void *const how = part(m, CONVOLUTION);
    put(m, how, CONVOLUTION_TYPE, T_DATA_TYPE, 1, &type);
    put(m, how, CONVOLUTION_MODE, T_CONVOLUTION_MODE, 1, &mode);
    put(m, how, SPATIAL, T_INT64, 1, &spatial);
    put(m, how, STRIDES, T_INT64, 2, c->strides);
    put(m, how, DILATIONS, T_INT64, 2, c->dilations);
    put(m, how, BEFORE, T_INT64, 2, c->before);
    put(m, how, BEHIND, T_INT64, 2, c->behind);
    finish(m, how);
    void *const made = part(m, FORWARD);
    put(m, made, FORWARD_CONVOLUTION, T_DESCRIPTOR, 1, &how);
    put(m, made, FORWARD_X, T_DESCRIPTOR, 1, &x);
    put(m, made, FORWARD_W, T_DESCRIPTOR, 1, &w);
    put(m, made, FORWARD_Y, T_DESCRIPTOR, 1, &y);
    put(m, made, FORWARD_ALPHA, T_FLOAT, 1, &one);
    put(m, made, FORWARD_BETA, T_FLOAT, 1, &zero);
    finish(m, made);
    return made;
}

/* y = x + b, or the larger one of x and zero. */
static void *make_pointwise(maker *m, int mode, void *x, void *b, void *y)
{
    const int type = DATA_FLOAT;
    void *const how = part(m, POINTWISE);
    put(m, how, POINTWISE_MODE, T_POINTWISE_MODE, 1, &mode);
    put(m, how, POINTWISE_PRECISION, T_DATA_TYPE, 1, &type);
    finish(m, how);
    void *const made = part(m, POINTWISE_STEP);
    put(m, made, STEP_POINTWISE, T_DESCRIPTOR, 1, &how);
    put(m, made, STEP_X, T_DESCRIPTOR, 1, &x);
    if (b) {
        put(m, made, STEP_B, T_DESCRIPTOR, 1, &b);
    }
    put(m, made, STEP_Y, T_DESCRIPTOR, 1, &y);
    finish(m, made);
    return made;
}

/* Tensors 0 to 4 of the convolution have their numbers as names, what lies between operations the ones from 8 on. */
static void *make_graph(maker *m, const tw_cuda_convolution *c)
{
    void *steps[4], *tensors[5] = { NULL };
    const bool has[] = { true, c->tensors[3].type >= 0, c->tensors[4].type >= 0, c->has_relu != 0 };
    int64_t count = 0;
    int last = 0;
    for (int i = 0; i < 5; i++) {
        tensors[i] = c->tensors[i].type >= 0 ? make_tensor(m, &c->tensors[i], i, false) : NULL;
    }
    for (int i = 0; i < 4; i++) {
        last = has[i] ? i : last;
    }
    void *value = NULL;
    for (int i = 0; i < 4; i++) {
        if (!has[i]) {
            continue;
        }
        void *const y = i == last ? tensors[2] : make_tensor(m, &c->tensors[2], 8 + i, true);
        steps[count++] = i == 0 ? make_forward(m, c, tensors[0], tensors[1], y)
                                : make_pointwise(m, i == 3 ? RELU : ADD, value, i == 3 ? NULL : tensors[2 + i], y);
        value = y;
    }
    void *const graph = part(m, GRAPH);
    put(m, graph, GRAPH_HANDLE, T_HANDLE, 1, &m->l->handle);
    put(m, graph, GRAPH_STEPS, T_DESCRIPTOR, count, steps);
    finish(m, graph);
    return graph;
}

/* --- plans ------------------------------------------------------------------------------------------------------------- */

/* Whether an engine gives the same bits every time, of operands and sums as they are. */
static bool is_exact(const tw_cuda_cudnn *l, void *config, const tw_cuda_convolution *c)
{
    void *engine = NULL;
    int notes[MOST_NOTES];
    int64_t count = 0;
    bool exact = l->make(ENGINE, &engine) == 0;
    exact = exact && l->get(config, CONFIG_ENGINE, T_DESCRIPTOR, 1, &count, &engine) == 0;
    exact = exact && l->get(engine, ENGINE_NOTES, T_NOTE, MOST_NOTES, &count, notes) == 0 && count <= MOST_NOTES;
    const bool rounds = c->tensors[0].type != DATA_FLOAT || c->is_tf32;
    for (int64_t i = 0; exact && i < count; i++) {
        const int n = notes[i];
        exact = n != SUMS_NARROW && n != NOT_DETERMINISTIC && n != FFT && (n < WINOGRAD || n > WINOGRAD_13)
            && (rounds || (n != TENSOR_CORES && n != CONVERTS_DOWN));
    }
    if (engine) {
        (void)l->drop(engine);
    }
    return exact;
}

static bool try_config(const tw_cuda_cudnn *l, void *config, plan *p)
{
    int64_t count = 0;
    void *made = NULL;
    bool ok = l->make(PLAN, &made) == 0 && l->set(made, PLAN_HANDLE, T_HANDLE, 1, &l->handle) == 0;
    ok = ok && l->set(made, PLAN_CONFIG, T_DESCRIPTOR, 1, &config) == 0 && l->finish(made) == 0;
    ok = ok && l->get(made, PLAN_WORKSPACE, T_INT64, 1, &count, &p->workspace) == 0 && p->workspace <= MOST_WORKSPACE;
    if (ok) {
        p->made = made;
    } else if (made) {
        (void)l->drop(made);
    }
    return ok;
}

/* The first way that fits, of those that cuDNN puts first. */
static int choose(const tw_cuda_cudnn *l, const tw_cuda_convolution *c, void *graph, int mode, plan *p)
{
    void *heuristics = NULL, *configs[MOST_CONFIGS] = { NULL };
    int64_t count = 0;
    int error = l->make(HEURISTICS, &heuristics);
    error = error ? error : l->set(heuristics, HEURISTIC_GRAPH, T_DESCRIPTOR, 1, &graph);
    error = error ? error : l->set(heuristics, HEURISTIC_MODE, T_HEURISTIC_MODE, 1, &mode);
    error = error ? error : l->finish(heuristics);
    for (int i = 0; i < MOST_CONFIGS && !error; i++) {
        error = l->make(CONFIG, &configs[i]);
    }
    error = error ? error : l->get(heuristics, RESULTS, T_DESCRIPTOR, MOST_CONFIGS, &count, configs);
    for (int64_t i = 0; i < count && i < MOST_CONFIGS && !error && !p->made; i++) {
        (void)(is_exact(l, configs[i], c) && try_config(l, configs[i], p));
    }
    for (int i = 0; i < MOST_CONFIGS; i++) {
        if (configs[i]) {
            (void)l->drop(configs[i]);
        }
    }
    if (heuristics) {
        (void)l->drop(heuristics);
    }
    return error;
}

static int make_plan(const tw_cuda_cudnn *l, const tw_cuda_convolution *c, plan *p)
{
    maker m = { l, p, 0 };
    void *const graph = make_graph(&m, c);
    int error = m.error ? m.error : choose(l, c, graph, MODE_A, p);
    if (!error && !p->made) {
        error = choose(l, c, graph, MODE_FALLBACK, p);
    }
    return error ? error : p->made ? 0 : -1;
}

int32_t tw_cuda_cudnn_open(tw_cuda_model *model)
{
    const tw_cuda_descriptor *d = model->descriptor;
    int64_t workspace = 0;
    if (!d->convolution_count) {
        return TW_OK;
    }
    tw_cuda_cudnn *const l = calloc(1, sizeof *l + d->convolution_count * sizeof l->plans[0]);
    if (!l) {
        (void)snprintf(model->message, sizeof model->message, "no memory for the instance");
        return TW_NO_MEMORY;
    }
    model->cudnn = l;
    l->count = d->convolution_count;
    const int32_t status = open_file(model, l);
    if (status) {
        return status;
    }
    int error = l->create(&l->handle);
    for (uint32_t i = 0; i < l->count && !error; i++) {
        error = make_plan(l, &d->convolutions[i], &l->plans[i]);
        workspace = l->plans[i].workspace > workspace ? l->plans[i].workspace : workspace;
    }
    if (error) {
        (void)snprintf(model->message, sizeof model->message, "cuDNN has no way for a convolution (status %d); compile "
                       "without the tuning file, or tune again on this machine", error);
        return TW_DEVICE;
    }
    const CUresult failed = workspace ? model->driver.memory_alloc(&l->workspace, (size_t)workspace) : 0;
    return failed ? tw_cuda_failed(model, "workspace of cuDNN", failed) : TW_OK;
}

void tw_cuda_cudnn_close(tw_cuda_model *model)
{
    tw_cuda_cudnn *const l = model->cudnn;
    if (!l) {
        return;
    }
    for (uint32_t i = 0; i < l->count; i++) {
        plan *const p = &l->plans[i];
        if (p->made) {
            (void)l->drop(p->made);
        }
        while (p->count) {
            (void)l->drop(p->parts[--p->count]);
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
    model->cudnn = NULL;
}

CUresult tw_cuda_cudnn_convolve(tw_cuda_model *model, uint32_t convolution, const CUdeviceptr *operands, CUstream stream)
{
    enum { LAUNCH_FAILED = 719 };
    static const int order[] = { 2, 0, 1, 3, 4 }; /* of the tensors among the operands */
    const tw_cuda_cudnn *const l = model->cudnn;
    const tw_cuda_convolution *const c = &model->descriptor->convolutions[convolution];
    const plan *const p = &l->plans[convolution];
    void *pack = NULL, *pointers[TW_LIBRARY_OPERANDS], *workspace = (void *)(uintptr_t)l->workspace;
    int64_t ids[TW_LIBRARY_OPERANDS], count = 0;
    for (int i = 0; i < TW_LIBRARY_OPERANDS; i++) {
        if (c->tensors[order[i]].type >= 0) {
            ids[count] = order[i];
            pointers[count] = (void *)(uintptr_t)operands[count];
            count++;
        }
    }
    int status = l->make(PACK, &pack);
    status = status ? status : l->set(pack, PACK_IDS, T_INT64, count, ids);
    status = status ? status : l->set(pack, PACK_POINTERS, T_POINTER, count, (const void *)pointers);
    status = status ? status : l->set(pack, PACK_WORKSPACE, T_POINTER, 1, (const void *)&workspace);
    status = status ? status : l->finish(pack);
    status = status ? status : l->set_stream(l->handle, stream);
    status = status ? status : l->execute(l->handle, p->made, pack);
    if (pack) {
        (void)l->drop(pack);
    }
    return status ? LAUNCH_FAILED : 0;
}
