/* Blocks, threads, barriers and warps on one processor thread.
 *
 * Each CUDA thread is a fiber.  The scheduler runs one warp, drawn at random, as far as it can go before it runs any other:
 * the largest skew that the barriers allow, so that a missing barrier shows.  A barrier opens when all threads of the block
 * wait at the same line; a warp operation when all threads of its mask do.  Everything else is an error with a message.
 */
#include "emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

dim3 emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;

namespace emulator {

Launch launch;

namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr int MAX_THREADS = 1024;

struct Kernel {
    void (*call)(void **);
    int cluster; /* blocks that run together, with consecutive numbers along x */
};

std::map<std::string, Kernel> &kernels()
{
    static std::map<std::string, Kernel> table;
    return table;
}

unsigned char *stacks; /* MAX_THREADS stacks, one after the other; pages appear when they are used */
std::vector<int> free_stacks;
void *scheduler_pointer;
void (*running_kernel)(void **);
void **running_arguments;
bool failed;
char *message;
size_t message_room;
std::mt19937 random_bits;

#if defined(__x86_64__)
extern "C" void emulator_switch(void **save, void *to);
asm(R"(
    .pushsection .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, .-emulator_switch
    .popsection
)");

void *new_fiber(unsigned char *top, void (*entry)())
{
    void **p = (void **)(((uintptr_t)top & ~(uintptr_t)15) - 8);
    *--p = (void *)entry;
    for (int saved = 0; saved < 6; saved++) {
        *--p = nullptr;
    }
    return p;
}
#else
struct Context {
    ucontext_t context;
};
std::vector<Context> contexts(MAX_THREADS + 1);

void emulator_switch(void **save, void *to)
{
    /* The pointers are places of contexts; each fiber's is at the number of its stack, the scheduler's is the last. */
    Context *const from = launch.current < 0 ? &contexts[MAX_THREADS] : &contexts[launch.threads[launch.current].stack];
    Context *const own = save == &scheduler_pointer ? &contexts[MAX_THREADS] : from;
    *save = own;
    swapcontext(&own->context, &((Context *)to)->context);
}

void *new_fiber(unsigned char *top, void (*entry)())
{
    const int number = (int)((top - stacks) / STACK_BYTES) - 1;
    Context *const made = &contexts[number];
    getcontext(&made->context);
    made->context.uc_stack.ss_sp = top - STACK_BYTES;
    made->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&made->context, entry, 0);
    return made;
}
#endif

void leave(Thread &thread)
{
    emulator_switch(&thread.stack_pointer, scheduler_pointer);
}

void fiber_main()
{
    running_kernel(running_arguments);
    Thread &thread = launch.threads[launch.current];
    thread.state = State::DONE;
    leave(thread);
}

void resume(int number)
{
    Thread &thread = launch.threads[number];
    if (thread.state == State::NEW) {
        thread.stack = free_stacks.back();
        free_stacks.pop_back();
        thread.stack_pointer = new_fiber(stacks + (size_t)(thread.stack + 1) * STACK_BYTES, fiber_main);
    }
    thread.state = State::READY;
    launch.current = number;
    emulator_thread = thread.index;
    emulator_block = thread.block;
    emulator_switch(&scheduler_pointer, thread.stack_pointer);
    if (thread.state == State::DONE) {
        free_stacks.push_back(thread.stack);
    }
    launch.current = -1;
}

void wait(State state, unsigned mask, int line)
{
    Thread &thread = launch.threads[launch.current];
    thread.state = state;
    thread.mask = mask;
    thread.line = line;
    leave(thread);
}

bool is_runnable(const Thread &thread)
{
    return thread.state == State::NEW || thread.state == State::READY
        || (thread.state == State::AT_PHASE && phase_is_complete(thread));
}

/* Lets the threads of a warp go on whose operation is complete.  Returns whether there were any. */
bool release_warp(int first, int count)
{
    bool released = false;
    for (int l = 0; l < count && !failed; l++) {
        const Thread &thread = launch.threads[first + l];
        if (thread.state != State::AT_WARP) {
            continue;
        }
        bool complete = true;
        for (int k = 0; k < WARP && !failed; k++) {
            if (!(thread.mask >> k & 1u)) {
                continue;
            }
            launch.current = first + l;
            if (k >= count) {
                failed = true;
                snprintf(message, message_room, "line %d: a warp operation of 32 threads in a warp of %d", thread.line, count);
                break;
            }
            const Thread &other = launch.threads[first + k];
            if (other.state == State::DONE) {
                failed = true;
                snprintf(message, message_room, "line %d: a warp operation waits for thread %d, which has returned",
                         thread.line, first + k);
                break;
            }
            complete &= other.state == State::AT_WARP && other.mask == thread.mask && other.line == thread.line;
        }
        launch.current = -1;
        if (complete && !failed) {
            const unsigned mask = thread.mask;
            launch.warp_epochs[first / WARP]++;
            share_clocks(first, mask);
            for (int k = 0; k < count; k++) {
                if (mask >> k & 1u) {
                    launch.threads[first + k].state = State::READY;
                }
            }
            released = true;
        }
    }
    return released;
}

/* One warp until none of its threads can go on.  Returns whether any did. */
bool run_warp(int first, int count)
{
    bool ran = false;
    for (bool again = true; again && !failed;) {
        again = false;
        const int start = (int)(random_bits() % (unsigned)count);
        for (int n = 0; n < count && !failed; n++) {
            const int number = first + (n + start) % count;
            if (is_runnable(launch.threads[number])) {
                resume(number);
                again = ran = true;
            }
        }
        again |= !failed && release_warp(first, count);
        ran |= again;
    }
    return ran;
}

/* Opens the barrier of the block, or of the cluster, if all wait at it.  False if nothing can go on: the message says why. */
bool release_block()
{
    int waiting = 0, line = 0, alive = 0;
    for (const Thread &thread : launch.threads) {
        alive += thread.state != State::DONE;
        if (thread.state == State::AT_PHASE) {
            failed = true;
            describe_wait(thread, message, message_room);
            return false;
        }
        if (thread.state == State::AT_BLOCK) {
            if (waiting++ && thread.line != line) {
                failed = true;
                snprintf(message, message_room, "divergent barrier: threads of a block wait at the lines %d and %d", line,
                         thread.line);
                return false;
            }
            line = thread.line;
        }
    }
    if (waiting == (int)launch.threads.size()) {
        launch.epoch++;
        for (Thread &thread : launch.threads) {
            thread.state = State::READY;
        }
        return true;
    }
    failed = true;
    if (waiting == alive) {
        snprintf(message, message_room, "divergent barrier: %d threads wait at line %d, %d have returned", waiting, line,
                 (int)launch.threads.size() - alive);
    } else {
        snprintf(message, message_room, "divergent barrier: %d threads wait at line %d, %d at an operation of their warp",
                 waiting, line, alive - waiting);
    }
    return false;
}

void run_block()
{
    const int count = (int)launch.threads.size(), warps = (count + WARP - 1) / WARP;
    launch.block_epoch = ++launch.epoch;
    for (Thread &thread : launch.threads) {
        thread.state = State::NEW;
        thread.groups = 0;
        thread.copies.clear();
        thread.product_groups = 0;
        thread.products.clear();
        thread.sums.clear();
        thread.fences = thread.clock = 0;
    }
    launch.barriers.clear();
    std::vector<int> order(warps);
    for (int w = 0; w < warps; w++) {
        order[w] = w;
    }
    while (!failed) {
        std::shuffle(order.begin(), order.end(), random_bits);
        for (bool again = true; again && !failed;) { /* a warp may have waited for a phase that another one completed */
            again = false;
            for (const int w : order) {
                again |= run_warp(w * WARP, std::min(WARP, count - w * WARP));
            }
        }
        const bool done = std::all_of(launch.threads.begin(), launch.threads.end(),
                                      [](const Thread &thread) { return thread.state == State::DONE; });
        if (!failed && done) {
            check_nothing_under_way();
        }
        if (failed || done || !release_block()) {
            return;
        }
    }
}

void prepare(const unsigned block[3], int cluster, unsigned seed)
{
    const int own = (int)(block[0] * block[1] * block[2]), count = own * cluster;
    if (!stacks) {
        stacks = (unsigned char *)mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) {
            stacks = nullptr;
            failed = true;
            snprintf(message, message_room, "no address space for the stacks of %d threads", (int)MAX_THREADS);
            return;
        }
    }
    free_stacks.clear();
    for (int n = MAX_THREADS - 1; n >= 0; n--) {
        free_stacks.push_back(n);
    }
    launch.threads.assign((size_t)count, Thread());
    launch.warp_epochs.assign((size_t)(count + WARP - 1) / WARP, 0);
    launch.current = -1;
    launch.block_number = 0;
    launch.block_threads = own;
    launch.cluster = cluster;
    for (int i = 0; i < count; i++) {
        const unsigned n = (unsigned)(i % own);
        launch.threads[i].index = dim3{ n % block[0], n / block[0] % block[1], n / (block[0] * block[1]) };
    }
    random_bits.seed(seed);
    failed = false;
}

} // namespace

void fail(const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const dim3 b = emulator_block, t = emulator_thread;
    snprintf(message, message_room, "block (%u, %u, %u) thread (%u, %u, %u): %s", b.x, b.y, b.z, t.x, t.y, t.z, text);
    failed = true;
    for (;;) {
        leave(launch.threads[launch.current]); /* never resumed */
    }
}

bool on_a_stack(const void *address)
{
    return stacks && (unsigned char *)address >= stacks && (unsigned char *)address < stacks + MAX_THREADS * STACK_BYTES;
}

void wait_for_phase()
{
    Thread &thread = launch.threads[launch.current];
    wait(State::AT_PHASE, thread.mask, thread.line);
}

int own_rank()
{
    return launch.current / launch.block_threads;
}

int lane()
{
    return launch.current % WARP;
}

Thread &neighbour(int lane)
{
    return launch.threads[launch.current / WARP * WARP + lane];
}

void meet_warp(unsigned mask, int line)
{
    if (!(mask >> lane() & 1u)) {
        fail("line %d: the thread is not in the mask of its own warp operation", line);
    }
    wait(State::AT_WARP, mask, line);
}

} // namespace emulator

using namespace emulator;

extern "C" {

void emulator_register(const char *name, int cluster, void (*call)(void **arguments))
{
    kernels()[name] = { call, cluster };
}

void emulator_meet_block(int line)
{
    if (launch.cluster > 1) {
        fail("line %d: a barrier of one block in a cluster, which the emulator does not have", line);
    }
    wait(State::AT_BLOCK, 0, line);
}

void emulator_meet_cluster(int line)
{
    wait(State::AT_BLOCK, 0, line);
}

void emulator_meet_warp(unsigned mask, int line)
{
    meet_warp(mask, line);
}

int emulator_rank(void)
{
    return own_rank();
}

void emulator_exchange(unsigned mask, const void *mine, void *theirs, size_t bytes, int source, int line)
{
    memcpy(launch.threads[launch.current].slot, mine, bytes);
    meet_warp(mask, line);
    memcpy(theirs, neighbour(source).slot, bytes);
    meet_warp(mask, -line); /* all have read before any may show something else */
}

/* Gives the stacks of all threads back.  Between launches; the next one takes new ones.  A process keeps every library that it
 * has loaded, and the stacks of each are 256 MiB of addresses. */
void emulator_release_stacks(void)
{
    if (stacks) {
        munmap(stacks, MAX_THREADS * STACK_BYTES);
        stacks = nullptr;
    }
}

/* Runs one launch.  0, or 1 with a message.  arguments: one per parameter; regions: what the kernel may touch. */
int emulator_launch(const char *name, const unsigned grid[3], const unsigned block[3], size_t dynamic_shared,
                    void **arguments, const Region *regions, int region_count, unsigned seed, char *text, size_t room)
{
    message = text;
    message_room = room;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        snprintf(text, room, "no kernel %s", name);
        return 1;
    }
    const int cluster = found->second.cluster;
    const unsigned threads = block[0] * block[1] * block[2];
    if (threads * (unsigned)cluster > MAX_THREADS || (cluster > 1 && (threads % WARP || grid[0] % (unsigned)cluster))) {
        snprintf(text, room, "%u blocks of %u threads in clusters of %d", grid[0], threads, cluster);
        return 1;
    }
    prepare(block, cluster, seed);
    launch.regions.assign(regions, regions + region_count);
    begin_launch(dynamic_shared);
    running_kernel = found->second.call;
    running_arguments = arguments;
    emulator_grid_size = dim3{ grid[0], grid[1], grid[2] };
    emulator_block_size = dim3{ block[0], block[1], block[2] };
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0] && !failed; x += (unsigned)cluster) {
                for (size_t n = 0; n < launch.threads.size(); n++) {
                    launch.threads[n].block = dim3{ x + (unsigned)n / threads, y, z };
                }
                run_block();
                launch.block_number++;
            }
        }
    }
    return failed;
}
}
