/* The C interface of the toy library from the outside: every error code, own memory, own threads, many instances.
 * Prints "ok" and returns 0, or prints the line that failed. */
#define _GNU_SOURCE
#include "toy.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            printf("line %d: %s\n", __LINE__, #condition);                       \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

#ifdef COUNT_ALLOCATIONS
#include <stdatomic.h>
#include <sys/syscall.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static atomic_long allocations;
void *malloc(size_t size) { allocations++; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { allocations++; return __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { allocations++; return __libc_realloc(old, size); }
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset)
{
    allocations++;
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
#endif

typedef struct buffers {
    float x[32], y[32];
    int64_t k, n;
} buffers;

static void fill(buffers *b, int seed)
{
    memset(b, 0, sizeof *b);
    for (int i = 0; i < 32; i++) {
        b->x[i] = (float)((i * 7 + seed) % 11 - 5);
    }
    b->k = seed;
}

static bool right(const buffers *b)
{
    int64_t sum = b->k;
    for (int i = 0; i < 32; i++) {
        sum += (int64_t)b->x[i];
        if (b->y[i] != 2.0f * b->x[(3 - i / 8) * 8 + i % 8] + (float)(i % 8)) {
            return false;
        }
    }
    return b->n == sum;
}

static int32_t run(toy_model *model, buffers *b)
{
    const void *inputs[] = { b->x, &b->k };
    void *outputs[] = { b->y, &b->n };
    return toy_run(model, inputs, outputs);
}

static void check_runs(toy_model *model, int count)
{
    for (int i = 0; i < count; i++) {
        buffers b;
        fill(&b, i);
        EXPECT(run(model, &b) == TW_OK);
        EXPECT(right(&b));
    }
}

static toy_model *create(int32_t threads)
{
    tw_options options = TW_OPTIONS_INIT;
    options.threads = threads;
    toy_model *model = NULL;
    EXPECT(toy_create(&options, &model) == TW_OK && model);
    EXPECT(toy_thread_count(model) == (threads ? threads : toy_thread_count(model)));
    return model;
}

static void test_queries(void)
{
    EXPECT(toy_abi_version() == TW_ABI_VERSION);
    EXPECT(toy_input_count() == 2 && toy_output_count() == 2 && TOY_INPUT_COUNT == 2 && TOY_INPUT_0_ELEMENTS == 32);
    const tw_tensor_info *x = toy_input_info(0), *n = toy_output_info(1);
    EXPECT(strcmp(x->name, "x") == 0 && x->dtype == TW_F32 && x->rank == 2 && x->shape[1] == 8 && x->bytes == 128);
    EXPECT(strcmp(n->name, "n") == 0 && n->dtype == TW_I64 && n->rank == 0 && n->bytes == 8);
    EXPECT(toy_input_info(2) == NULL && toy_output_info(2) == NULL);
    EXPECT(strstr(toy_manifest(), "\"format\":\"tilewright\""));
    EXPECT(strlen(toy_status_text(TW_WRONG_CPU)) > 10 && strcmp(toy_status_text(-1), "unknown status") == 0);
    EXPECT(toy_workspace_bytes(3) == 192 + 3 * 64);
}

static void test_options(void)
{
    char message[200] = "";
    toy_model *model = (toy_model *)message;
    tw_options options = TW_OPTIONS_INIT;
    options.message = message;
    options.message_bytes = sizeof message;
    EXPECT(toy_create(&options, NULL) == TW_NULL_POINTER);
    options.abi_version = TW_ABI_VERSION + 1;
    EXPECT(toy_create(&options, &model) == TW_WRONG_VERSION && model == NULL);
    options.abi_version = TW_ABI_VERSION;
    options.size -= 8;
    EXPECT(toy_create(&options, &model) == TW_WRONG_VERSION);
    options.size += 8;
    options.threads = -1;
    EXPECT(toy_create(&options, &model) == TW_BAD_OPTION && strstr(message, "threads"));
    options.threads = 1;
    struct { tw_options known; uint64_t added; } newer = { options, 0 };
    newer.known.size = sizeof newer;
    EXPECT(toy_create(&newer.known, &model) == TW_OK);
    EXPECT(toy_destroy(model) == TW_OK && toy_destroy(NULL) == TW_OK);
    newer.added = 1;
    EXPECT(toy_create(&newer.known, &model) == TW_WRONG_VERSION);
    EXPECT(toy_create(NULL, &model) == TW_OK);
    check_runs(model, 3);
    EXPECT(toy_destroy(model) == TW_OK);
    EXPECT(toy_run(NULL, NULL, NULL) == TW_NULL_POINTER && toy_error_message(NULL));
}

/* The workspace ends at a page that must not be touched. */
static void test_workspace(void)
{
    const uint64_t bytes = toy_workspace_bytes(2), page = 4096;
    char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(map != MAP_FAILED && mprotect(map + page, page, PROT_NONE) == 0);
    toy_model *model;
    tw_options options = TW_OPTIONS_INIT;
    options.threads = 2;
    options.workspace = map + page - bytes;
    options.workspace_bytes = bytes - 1;
    EXPECT(toy_create(&options, &model) == TW_WRONG_SIZE);
    options.workspace_bytes = bytes;
    options.workspace = map + page - bytes - 4;
    EXPECT(toy_create(&options, &model) == TW_MISALIGNED);
    options.workspace = map + page - bytes;
    EXPECT(toy_create(&options, &model) == TW_OK);
    check_runs(model, 20);
    EXPECT(toy_destroy(model) == TW_OK);
    EXPECT(munmap(map, 2 * page) == 0);
}

static int32_t run_tensors(toy_model *model, buffers *b, void (*change)(tw_tensor *in, tw_tensor *out), const char *says)
{
    static const int64_t shape[] = { 4, 8 };
    tw_tensor in[] = { { b->x, 128, TW_F32, 2, shape }, { &b->k, 8, TW_I64, 0, NULL } };
    tw_tensor out[] = { { b->y, 128, TW_F32, 2, shape }, { &b->n, 8, TW_I64, 0, NULL } };
    change(in, out);
    const int32_t status = toy_run_tensors(model, in, 2, out, 2);
    if (status != TW_OK && !strstr(toy_error_message(model), says)) {
        printf("message: %s\n", toy_error_message(model));
        exit(1);
    }
    return status;
}

static const int64_t wrong_shape[] = { 8, 4 };
static void nothing(tw_tensor *in, tw_tensor *out) { (void)in, (void)out; }
static void other_type(tw_tensor *in, tw_tensor *out) { (void)out, in[0].dtype = TW_I32; }
static void no_type(tw_tensor *in, tw_tensor *out) { (void)in, out[1].dtype = 99; }
static void other_rank(tw_tensor *in, tw_tensor *out) { (void)out, in[1].rank = 1; }
static void other_shape(tw_tensor *in, tw_tensor *out) { (void)in, out[0].shape = wrong_shape; }
static void no_shape(tw_tensor *in, tw_tensor *out) { (void)out, in[0].shape = NULL; }
static void small(tw_tensor *in, tw_tensor *out) { (void)out, in[0].bytes = 127; }
static void no_data(tw_tensor *in, tw_tensor *out) { (void)in, out[0].data = NULL; }
static void odd_address(tw_tensor *in, tw_tensor *out) { (void)out, in[0].data = (char *)in[0].data + 1; }
static void in_place(tw_tensor *in, tw_tensor *out) { out[0].data = in[0].data; }
static void twice(tw_tensor *in, tw_tensor *out) { (void)in, out[1].data = (char *)out[0].data + 120; }

static void test_checked_runs(void)
{
    toy_model *model = create(1);
    buffers b;
    fill(&b, 5);
    EXPECT(run_tensors(model, &b, nothing, "") == TW_OK && right(&b));
    EXPECT(run_tensors(model, &b, other_type, "input 0 (x): expected element type f32, got i32") == TW_WRONG_TYPE);
    EXPECT(run_tensors(model, &b, no_type, "got unknown (99)") == TW_WRONG_TYPE);
    EXPECT(run_tensors(model, &b, other_rank, "input 1 (k): expected rank 0 (scalar), got rank 1") == TW_WRONG_SHAPE);
    EXPECT(run_tensors(model, &b, other_shape, "output 0 (y): expected shape 4x8, got 8x4") == TW_WRONG_SHAPE);
    EXPECT(run_tensors(model, &b, no_shape, "shape is NULL") == TW_NULL_POINTER);
    EXPECT(run_tensors(model, &b, small, "128 bytes, got 127") == TW_WRONG_SIZE);
    EXPECT(run_tensors(model, &b, no_data, "output 0 (y): expected a buffer of 128 bytes, got NULL") == TW_NULL_POINTER);
    EXPECT(run_tensors(model, &b, odd_address, "multiple of 4") == TW_MISALIGNED);
    EXPECT(run_tensors(model, &b, in_place, "overlaps input 0 (x)") == TW_OVERLAP);
    EXPECT(run_tensors(model, &b, twice, "overlaps output 0 (y)") == TW_OVERLAP);
    EXPECT(toy_run_tensors(model, NULL, 1, NULL, 2) == TW_WRONG_COUNT);
    EXPECT(toy_run_tensors(model, NULL, 2, NULL, 2) == TW_NULL_POINTER);
    EXPECT(toy_run(model, NULL, NULL) == TW_NULL_POINTER && strstr(toy_error_message(model), "inputs is NULL"));
    const void *inputs[] = { NULL, &b.k };
    void *outputs[] = { b.y, (char *)&b.n + 4 };
    EXPECT(toy_run(model, inputs, outputs) == TW_NULL_POINTER);
    inputs[0] = b.x;
    EXPECT(toy_run(model, inputs, outputs) == TW_MISALIGNED && strstr(toy_error_message(model), "output 1 (n)"));
    EXPECT(run(model, &b) == TW_OK);
    EXPECT(toy_destroy(model) == TW_OK);
}

static void nap(long microseconds)
{
    const struct timespec time = { 0, microseconds * 1000 };
    (void)nanosleep(&time, NULL);
}

/* Spinning and sleeping threads both wake up. */
static void test_threads(void)
{
    for (int32_t threads = 1; threads <= 4; threads++) {
        toy_model *model = create(threads);
        check_runs(model, 200);
        for (int i = 0; i < 5; i++) {
            nap(1000);
            check_runs(model, 1);
        }
        EXPECT(toy_destroy(model) == TW_OK);
    }
    for (int i = 0; i < 50; i++) {
        EXPECT(toy_destroy(create(4)) == TW_OK);
    }
}

typedef struct rival {
    toy_model *model;
    int done, busy;
} rival;

static void *compete(void *argument)
{
    rival *self = argument;
    for (int i = 0; i < 300 || self->done == 0; i++) {
        buffers b;
        fill(&b, i);
        const int32_t status = run(self->model, &b);
        EXPECT(status == TW_BUSY || (status == TW_OK && right(&b)));
        self->done += status == TW_OK;
        self->busy += status == TW_BUSY;
        if (i >= 300) {
            nap(100); /* nobody may be kept out for ever by the others */
        }
    }
    return NULL;
}

static void test_busy(void)
{
    toy_model *model = create(2);
    rival rivals[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        rivals[i] = (rival){ model, 0, 0 };
        EXPECT(pthread_create(&threads[i], NULL, compete, &rivals[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
        EXPECT(rivals[i].done > 0);
    }
    EXPECT(toy_destroy(model) == TW_OK);
}

/* Inside a run of the caller's pool the instance is busy, for certain. */
typedef struct pool {
    toy_model *model;
    int runs;
    bool fail;
} pool;

typedef struct body {
    void (*run)(void *argument, int32_t index);
    void *argument;
    int32_t index;
} body;

static void *run_body(void *argument)
{
    const body *b = argument;
    b->run(b->argument, b->index);
    return NULL;
}

static int32_t run_in_pool(void *context, int32_t count, void (*function)(void *argument, int32_t index), void *argument)
{
    pool *self = context;
    pthread_t threads[8];
    body bodies[8];
    buffers b;
    fill(&b, 0);
    EXPECT(run(self->model, &b) == TW_BUSY && toy_destroy(self->model) == TW_BUSY);
    if (self->fail) {
        return 1;
    }
    self->runs++;
    for (int32_t i = 0; i < count; i++) {
        bodies[i] = (body){ function, argument, i };
        EXPECT(pthread_create(&threads[i], NULL, run_body, &bodies[i]) == 0);
    }
    for (int32_t i = 0; i < count; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}

static void test_own_pool(void)
{
    pool own = { NULL, 0, false };
    tw_options options = TW_OPTIONS_INIT;
    options.threads = 3;
    options.pool.context = &own;
    options.pool.run = run_in_pool;
    EXPECT(toy_create(&options, &own.model) == TW_OK);
    check_runs(own.model, 10);
    EXPECT(own.runs == 10);
    own.fail = true;
    buffers b;
    fill(&b, 1);
    EXPECT(run(own.model, &b) == TW_NO_THREADS && strlen(toy_error_message(own.model)) > 5);
    EXPECT(toy_destroy(own.model) == TW_OK);
}

static void *one_of_many(void *argument)
{
    (void)argument;
    toy_model *model = create(2);
    check_runs(model, 5);
    EXPECT(toy_destroy(model) == TW_OK);
    return NULL;
}

static void test_many_instances(void)
{
    pthread_t threads[64];
    for (int i = 0; i < 64; i++) {
        EXPECT(pthread_create(&threads[i], NULL, one_of_many, NULL) == 0);
    }
    for (int i = 0; i < 64; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
    }
}

#ifndef NO_FORK
static void test_fork(void)
{
    toy_model *model = create(2), *single = create(1);
    check_runs(model, 1);
    const pid_t child = fork();
    if (child == 0) {
        buffers b;
        fill(&b, 1);
        check_runs(single, 1); /* it has no threads that the child would lack */
        const bool refused = run(model, &b) == TW_FORKED && toy_destroy(model) == TW_OK;
        model = create(2);
        check_runs(model, 1);
        _exit(refused ? 0 : 1);
    }
    int status = 1;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    check_runs(model, 1);
    EXPECT(toy_destroy(model) == TW_OK && toy_destroy(single) == TW_OK);
}
#endif

/* A profile build has records of every thread; any other says that it has none. */
static void test_profile(void)
{
    toy_model *model = create(2);
    tw_step_time time[2] = { { 0 }, { 0 } };
    check_runs(model, 5);
#ifdef PROFILE
    EXPECT(toy_step_count() == 2);
    for (int thread = 0; thread < 2; thread++) {
        EXPECT(toy_profile(model, thread, time, 2) == TW_OK);
        EXPECT(time[0].count >= 5 && time[0].count % 5 == 0 && time[1].count == 0);
        EXPECT(time[0].min_ns <= time[0].last_ns && time[0].last_ns <= time[0].total_ns && time[0].start_ns > 0);
    }
    EXPECT(toy_profile(model, 2, time, 2) == TW_WRONG_COUNT && strstr(toy_error_message(model), "thread below 2"));
    EXPECT(toy_profile(model, -1, time, 2) == TW_WRONG_COUNT && toy_profile(model, 0, time, 1) == TW_WRONG_COUNT);
    EXPECT(toy_profile(model, 0, NULL, 2) == TW_NULL_POINTER);
    EXPECT(toy_reset_profile(model) == TW_OK);
    EXPECT(toy_profile(model, 1, time, 2) == TW_OK && time[0].count == 0 && time[0].total_ns == 0);
#else
    EXPECT(toy_step_count() == 0);
    EXPECT(toy_profile(model, 0, time, 0) == TW_NO_PROFILE && strstr(toy_error_message(model), "profile"));
    EXPECT(toy_reset_profile(model) == TW_NO_PROFILE);
#endif
    EXPECT(toy_profile(NULL, 0, time, 2) == TW_NULL_POINTER && toy_reset_profile(NULL) == TW_NULL_POINTER);
    check_runs(model, 2);
    EXPECT(toy_destroy(model) == TW_OK);
}

static void test_no_allocation(void)
{
#ifdef COUNT_ALLOCATIONS
    const long at_start = allocations;
    toy_model *model = create(3);
    buffers b;
    fill(&b, 3);
    const long before = allocations;
    EXPECT(before >= at_start + 3); /* those of the library are counted */
    for (int i = 0; i < 10; i++) {
        EXPECT(run(model, &b) == TW_OK && right(&b));
        EXPECT(run_tensors(model, &b, nothing, "") == TW_OK);
        EXPECT(run_tensors(model, &b, other_type, "f32") == TW_WRONG_TYPE);
        nap(500);
    }
    EXPECT(allocations == before);
    EXPECT(toy_destroy(model) == TW_OK);
#endif
}

int main(void)
{
    test_queries();
    test_options();
    test_workspace();
    test_checked_runs();
    test_threads();
    test_busy();
    test_own_pool();
    test_many_instances();
#ifndef NO_FORK
    test_fork();
#endif
    test_profile();
    test_no_allocation();
    puts("ok");
    return 0;
}
