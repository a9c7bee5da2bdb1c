/* What surrounds a library in a program: memory that ends, small stacks, other floating-point environments, signals.
 *
 * The model is `net`: x f32[n, 64], s str[n] -> y f32[n, 48], t str[n].  The argument names the part; prints "ok", or the line
 * that failed. */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define EXPECT(condition)                                        \
    do {                                                         \
        if (!(condition)) {                                      \
            printf("line %d: %s\n", __LINE__, #condition);       \
            exit(1);                                             \
        }                                                        \
    } while (0)
#define MOST 3000
#define IN 64
#define OUT 48

/* --- memory and threads that fail on demand ---------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Thread_local bool counted;        /* only what this thread asks for while it is in the library */
static bool from_then_on;                 /* the calls that follow fail, too */
static long calls, failing, blocks, pages; /* failing: the number of the call that fails; 0: none */

static bool fails(void)
{
    const bool failed = counted && failing && (++calls == failing || (from_then_on && calls > failing));
    if (failed) {
        errno = ENOMEM;
    }
    return failed;
}

static void *kept(void *block)
{
    blocks += counted && block;
    return block;
}

void *malloc(size_t size) { return fails() ? NULL : kept(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : kept(__libc_calloc(count, size)); }
void *aligned_alloc(size_t align, size_t size) { return fails() ? NULL : kept(__libc_memalign(align, size)); }
void *realloc(void *old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void free(void *block)
{
    blocks -= counted && block;
    __libc_free(block);
}
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset)
{
    if (fails()) {
        return (void *)-1;
    }
    pages += counted ? (long)((size + 4095) / 4096) : 0;
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
void *mremap(void *at, size_t old, size_t size, int flags, ...)
{
    if (fails()) {
        return (void *)-1;
    }
    pages += counted ? (long)((size + 4095) / 4096 - (old + 4095) / 4096) : 0;
    return (void *)syscall(SYS_mremap, at, old, size, flags);
}
int munmap(void *at, size_t size)
{
    pages -= counted ? (long)((size + 4095) / 4096) : 0;
    return (int)syscall(SYS_munmap, at, size);
}

/* --- the model ---------------------------------------------------------------------------------------------------------- */

static float x[MOST * IN], y[MOST * OUT], wanted[MOST * OUT];
static const char *s[MOST], *t[MOST];

static net_model *created(int32_t threads)
{
    tw_options options = TW_OPTIONS_INIT;
    options.threads = threads;
    net_model *model = NULL;
    EXPECT(net_create(&options, &model) == TW_OK && model);
    return model;
}

static int32_t run(net_model *model, int64_t n)
{
    const int64_t wide[] = { n, IN }, narrow[] = { n, OUT }, texts[] = { n };
    const tw_tensor in[] = { { x, sizeof x, TW_F32, 2, wide }, { (void *)s, sizeof s, TW_STRING, 1, texts } };
    const tw_tensor out[] = { { y, sizeof y, TW_F32, 2, narrow }, { (void *)t, sizeof t, TW_STRING, 1, texts } };
    memset(y, 0xff, sizeof(float) * OUT * (size_t)n);
    return net_run_tensors(model, in, 2, out, 2);
}

static bool right(int64_t n)
{
    bool same = memcmp(y, wanted, sizeof(float) * OUT * (size_t)n) == 0;
    for (int64_t i = 0; i < n; i++) {
        same = same && strlen(t[i]) == 2 * strlen(s[i]) && strncmp(t[i], s[i], strlen(s[i])) == 0;
    }
    return same;
}

static void prepare(void)
{
    unsigned state = 1;
    for (int i = 0; i < MOST * IN; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * (i % 5 ? 1.0f : 1e-38f); /* products with subnormal numbers */
    }
    for (int i = 0; i < MOST; i++) {
        s[i] = i % 3 ? "some text" : "text that is a little longer than the other";
    }
    net_model *model = created(1);
    EXPECT(run(model, MOST) == TW_OK);
    memcpy(wanted, y, sizeof y);
    EXPECT(right(MOST) && net_destroy(model) == TW_OK);
    EXPECT(net_destroy(created(3)) == TW_OK); /* the C library keeps what the threads had for the next ones */
}

/* --- the parts ---------------------------------------------------------------------------------------------------------- */

/* The N-th request of create fails, for every N: an error with a message, and nothing is left behind. */
static void test_create(int32_t threads)
{
    tw_options options = TW_OPTIONS_INIT;
    char message[200];
    options.threads = threads;
    options.message = message;
    options.message_bytes = sizeof message;
    int refused = 0;
    for (failing = 1;; failing++) {
        net_model *model = (net_model *)1;
        message[0] = 0;
        const long before = blocks, mapped = pages;
        calls = 0;
        counted = true;
        const int32_t status = net_create(&options, &model);
        const bool reached = calls >= failing;
        if (status == TW_OK) {
            EXPECT(net_destroy(model) == TW_OK);
        }
        counted = false;
        EXPECT(blocks == before && pages == mapped);
        if (!reached) {
            EXPECT(status == TW_OK);
            break;
        }
        EXPECT(model == NULL);
        EXPECT(status == TW_NO_MEMORY ? strstr(message, "no memory") != NULL
                                      : status == TW_NO_THREADS && strstr(message, "could not start 3 threads"));
        refused++;
    }
    failing = 0;
    EXPECT(refused >= 4);
}

/* The same for runs, which need more memory for more rows and for strings; the instance stays of use.  One request that fails
 * may be made up for by another. */
static void test_runs(int32_t threads)
{
    int refused = 0;
    for (failing = 1;; failing++) {
        const long before = blocks, mapped = pages;
        counted = true;
        calls = -1000000;
        net_model *model = created(threads);
        EXPECT(run(model, 2) == TW_OK);
        calls = 0;
        const int32_t status = run(model, MOST);
        const bool reached = calls >= failing;
        EXPECT(status == TW_OK || (reached && status == TW_NO_MEMORY && strstr(net_error_message(model), "no memory")));
        EXPECT(status == TW_NO_MEMORY || !reached || !from_then_on);
        refused += status != TW_OK;
        calls = -1000000;
        EXPECT(run(model, 2) == TW_OK && right(2));
        EXPECT(run(model, MOST) == TW_OK && right(MOST));
        EXPECT(net_destroy(model) == TW_OK);
        counted = false;
        EXPECT(blocks == before && pages == mapped);
        if (!reached) {
            break;
        }
    }
    failing = 0;
    EXPECT(refused >= 2);
}

/* Address space that ends: the same errors from the system itself. */
static void test_limits(void)
{
    net_model *model = created(2);
    EXPECT(run(model, 2) == TW_OK);
    struct rlimit before, none;
    EXPECT(getrlimit(RLIMIT_AS, &before) == 0);
    none = before;
    none.rlim_cur = 1 << 20; /* less than there is: nothing more is given */
    EXPECT(setrlimit(RLIMIT_AS, &none) == 0);
    tw_options options = TW_OPTIONS_INIT;
    options.threads = 64;
    net_model *other = NULL;
    const int32_t status = net_create(&options, &other);
    EXPECT((status == TW_NO_MEMORY || status == TW_NO_THREADS) && other == NULL);
    EXPECT(run(model, MOST) == TW_NO_MEMORY && run(model, 2) == TW_OK && right(2));
    EXPECT(setrlimit(RLIMIT_AS, &before) == 0);
    EXPECT(run(model, MOST) == TW_OK && right(MOST) && net_destroy(model) == TW_OK);
}

static void *on_small_stack(void *argument)
{
    EXPECT(run(argument, 40) == TW_OK && right(40));
    net_model *model = created(2);
    EXPECT(run(model, 40) == TW_OK && right(40) && net_destroy(model) == TW_OK);
    return NULL;
}

static void test_stack(void)
{
    net_model *model = created(1);
    pthread_attr_t attributes;
    pthread_t thread;
    EXPECT(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
    EXPECT(pthread_create(&thread, &attributes, on_small_stack, model) == 0 && pthread_join(thread, NULL) == 0);
    EXPECT(net_destroy(model) == TW_OK);
}

/* Rounding, flushing and traps of the caller change no result, and are the caller's again afterwards. */
static void test_environment(int32_t threads)
{
    const int modes[] = { FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        EXPECT(fesetround(modes[i]) == 0);
        net_model *model = created(threads); /* its threads begin with the environment of this one */
        EXPECT(run(model, MOST) == TW_OK && right(MOST) && fegetround() == modes[i]);
        EXPECT(net_destroy(model) == TW_OK && fesetround(FE_TONEAREST) == 0);
    }
#if defined(__x86_64__)
    const unsigned ordinary = _mm_getcsr();
    for (unsigned bits = 0; bits < 4; bits++) {
        const unsigned set = (0x1f80u | (bits & 1 ? 0x8040u : 0)) & (bits & 2 ? ~0x1f80u : ~0u); /* FTZ and DAZ; all traps */
        net_model *model = created(threads);
        _mm_setcsr(set);
        const int32_t status = run(model, MOST);
        const unsigned after = _mm_getcsr();
        _mm_setcsr(ordinary);
        EXPECT(status == TW_OK && right(MOST) && (after & ~0x3fu) == (set & ~0x3fu));
        EXPECT(net_destroy(model) == TW_OK);
    }
#endif
}

static net_model *shared;
static atomic_int inside, between, busy;

static void handler(int number)
{
    (void)number;
    if (!inside) {
        return;
    }
    static float z[OUT];
    const int64_t wide[] = { 1, IN }, narrow[] = { 1, OUT }, texts[] = { 1 };
    static const char *text[1];
    const tw_tensor in[] = { { x, sizeof x, TW_F32, 2, wide }, { (void *)s, sizeof s, TW_STRING, 1, texts } };
    const tw_tensor out[] = { { z, sizeof z, TW_F32, 2, narrow }, { (void *)text, sizeof text, TW_STRING, 1, texts } };
    const int32_t status = net_run_tensors(shared, in, 2, out, 2);
    busy += status == TW_BUSY;
    between += status == TW_OK; /* just before or just after the run: its strings are those of this one */
}

/* Signals during runs: those are not disturbed, and refuse a run from a handler that interrupts them. */
static void test_signals(int32_t threads)
{
    shared = created(threads);
    struct sigaction action = { .sa_handler = handler };
    const struct itimerval often = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };
    EXPECT(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    busy = 0;
    for (int runs = 0; runs < 100000 && busy < 20; runs++) {
        const int before = between;
        inside = 1;
        const int32_t status = run(shared, 400);
        inside = 0;
        EXPECT(status == TW_OK && memcmp(y, wanted, sizeof(float) * OUT * 400) == 0 && (between > before || right(400)));
    }
    EXPECT(setitimer(ITIMER_REAL, &never, NULL) == 0);
    EXPECT(busy >= 20 && net_destroy(shared) == TW_OK);
}

int main(int count, char **words)
{
    const char *part = count > 1 ? words[1] : "";
    prepare();
    for (int32_t threads = 1; threads <= 3; threads += 2) {
        if (!strcmp(part, "memory")) {
            for (int rest = 0; rest < 2; rest++) {
                from_then_on = rest;
                test_create(threads);
                test_runs(threads);
            }
        } else if (!strcmp(part, "environment")) {
            test_environment(threads);
        } else if (!strcmp(part, "signals")) {
            test_signals(threads);
        }
    }
    if (!strcmp(part, "limits")) {
        test_limits();
    } else if (!strcmp(part, "stack")) {
        test_stack();
    }
    puts("ok");
    return 0;
}
