/* A persistent pool for one instance: threads spin briefly for the next run, then sleep; a barrier meets in a counter.
 *
 * Handing over between spinning threads takes about 0.1 us, waking a sleeping one 40 us, so waiting spins for a bounded
 * time first; soon it offers its processor to others between looks, which costs nothing when nobody wants it and keeps
 * many instances on few processors going.  All waiting goes through one primitive, tw_event.
 */
#define _GNU_SOURCE
#include "tw_runtime.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define IDLE_SPIN_NS 100000     /* for the next run */
#define MEETING_SPIN_NS 1000000 /* inside a run */
#define YIELD_AFTER_NS 10000
#define POLLS_PER_CLOCK_READ 32
#define WORKER_STACK_BYTES (1u << 20)

struct tw_worker {
    tw_team *team;
    pthread_t thread;
    int32_t index;
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

int64_t tw_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static unsigned event_value(tw_event *event)
{
    return atomic_load_explicit(&event->value, memory_order_acquire);
}

/* Sleepers announce themselves before they look at the value again and the value advances before anyone looks for
 * sleepers; both in one total order, so no wake-up is lost. */
static void event_advance(tw_event *event)
{
    atomic_fetch_add(&event->value, 1u);
    if (atomic_load(&event->sleepers) != 0u) {
        (void)syscall(SYS_futex, &event->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}

static void event_wait(tw_event *event, unsigned old, int64_t spin_ns)
{
    for (int64_t start = 0; spin_ns > 0;) {
        for (int i = 0; i < POLLS_PER_CLOCK_READ; i++) {
            if (event_value(event) != old) {
                return;
            }
            pause_cpu();
        }
        const int64_t now = tw_now_ns();
        start = start ? start : now;
        if (now - start >= spin_ns) {
            break;
        }
        if (now - start >= YIELD_AFTER_NS) {
            (void)sched_yield();
        }
    }
    atomic_fetch_add(&event->sleepers, 1u);
    while (atomic_load(&event->value) == old) {
        (void)syscall(SYS_futex, &event->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    }
    atomic_fetch_sub(&event->sleepers, 1u);
}

void tw_barrier(void *runtime)
{
    tw_team *team = runtime;
    const unsigned round = event_value(&team->barrier);
    if (atomic_fetch_add_explicit(&team->arrived, 1u, memory_order_acq_rel) + 1u == (unsigned)team->threads) {
        atomic_store_explicit(&team->arrived, 0u, memory_order_relaxed);
        event_advance(&team->barrier);
    } else {
        event_wait(&team->barrier, round, team->spins ? MEETING_SPIN_NS : 0);
    }
}

static void *work(void *argument)
{
    tw_worker *worker = argument;
    tw_team *team = worker->team;
    for (unsigned seen = 0;; seen++) {
        event_wait(&team->start, seen, team->spins ? IDLE_SPIN_NS : 0);
        if (team->stop) {
            return NULL;
        }
        team->body(team->argument, worker->index);
        if (atomic_fetch_sub_explicit(&team->working, 1u, memory_order_acq_rel) == 1u) {
            event_advance(&team->done);
        }
    }
}

/* Workers take no signals: those belong to the program's own threads. */
static int start_worker(tw_worker *worker)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int failed = pthread_attr_init(&attributes);
    if (failed) {
        return failed;
    }
    (void)pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&worker->thread, &attributes, work, worker);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return failed;
}

int32_t tw_team_start(tw_team *team, int32_t threads, int32_t cpus, const tw_thread_pool *pool,
                      void (*body)(void *argument, int32_t index), void *argument)
{
    team->threads = threads;
    team->pool = *pool;
    team->body = body;
    team->argument = argument;
    team->spins = threads <= cpus;
    if (threads == 1 || pool->run) {
        return TW_OK;
    }
    team->workers = calloc((size_t)threads, sizeof(tw_worker));
    void *page = mmap(NULL, sizeof(atomic_uint), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    team->alive = page == MAP_FAILED ? NULL : page;
    if (!team->workers || !team->alive) {
        tw_team_stop(team);
        return TW_NO_MEMORY;
    }
#ifdef MADV_WIPEONFORK
    (void)madvise(page, sizeof(atomic_uint), MADV_WIPEONFORK);
#endif
    atomic_store(team->alive, 1u);
    for (int32_t i = 1; i < threads; i++) {
        tw_worker *worker = &team->workers[i];
        worker->team = team;
        worker->index = i;
        if (start_worker(worker)) {
            tw_team_stop(team);
            return TW_NO_THREADS;
        }
        team->started++;
    }
    return TW_OK;
}

int32_t tw_team_run(tw_team *team)
{
    if (team->threads == 1) {
        team->body(team->argument, 0);
        return TW_OK;
    }
    if (team->pool.run) {
        return team->pool.run(team->pool.context, team->threads, team->body, team->argument) ? TW_NO_THREADS : TW_OK;
    }
    if (atomic_load_explicit(team->alive, memory_order_relaxed) == 0u) {
        return TW_FORKED;
    }
    const unsigned round = event_value(&team->done);
    atomic_store_explicit(&team->working, (unsigned)team->started, memory_order_relaxed);
    event_advance(&team->start);
    team->body(team->argument, 0);
    event_wait(&team->done, round, team->spins ? MEETING_SPIN_NS : 0);
    return TW_OK;
}

void tw_team_stop(tw_team *team)
{
    /* In a forked child the threads do not exist: there is nothing to stop, and joining them would never end. */
    if (team->started && atomic_load(team->alive)) {
        team->stop = true;
        event_advance(&team->start);
        for (int32_t i = 1; i <= team->started; i++) {
            (void)pthread_join(team->workers[i].thread, NULL);
        }
    }
    team->started = 0;
    if (team->alive) {
        (void)munmap((void *)team->alive, sizeof(atomic_uint));
        team->alive = NULL;
    }
    free(team->workers);
    team->workers = NULL;
}
