/* Inside the emulator: the state of one launch, shared by the scheduler, the checks of memory and the instructions. */
#ifndef EMULATOR_H
#define EMULATOR_H

#include "cuda_emulator.h"

#include <vector>

namespace emulator {

constexpr int WARP = 32;

/* A buffer in global memory that the launch was given. */
struct Region {
    unsigned char *start;
    uint64_t bytes;
    uint32_t element_bytes;
    uint32_t written; /* whether the kernel may write it */
    const char *name;
};

enum class State : unsigned char { NEW, READY, AT_BLOCK, AT_WARP, DONE };

/* A copy that cp.async has started. */
struct Copy {
    unsigned char *to;
    unsigned char data[16];
    int bytes;
    int group; /* how many groups of the thread were closed before it */
};

/* A product that the matrix unit of sm_90a has been given: it reads its operands as late as it may, when the thread waits
 * for it, and the thread's registers hold NaN meanwhile. */
struct Product {
    int kind, columns, line;
    float *registers;
    const unsigned char *left, *right;
    int group; /* how many groups of the thread were closed before */
};

/* Registers that belong to the matrix unit. */
struct Sums {
    float *registers;
    std::vector<float> values;
};

struct Thread {
    void *stack_pointer;
    int stack; /* number of its stack, -1: none */
    State state;
    unsigned mask; /* of the warp operation that it waits for */
    int line;      /* of the barrier or warp operation that it waits at */
    dim3 index;
    int groups; /* of asynchronous copies, closed */
    std::vector<Copy> copies;
    int product_groups; /* of the matrix unit, closed */
    std::vector<Product> products;
    std::vector<Sums> sums;
    uint32_t slot[16]; /* what it shows the other threads of its warp */
};

struct Launch {
    std::vector<Thread> threads;
    std::vector<Region> regions;
    std::vector<unsigned> warp_epochs; /* advanced when the threads of a warp have met */
    unsigned epoch;                    /* advanced when the threads of a block have met, and for each block */
    unsigned block_epoch;              /* the epoch in which the block began */
    int current;                       /* the thread that runs, -1: the scheduler */
    uint64_t block_number;
};

extern Launch launch;

/* Ends the launch with a message; does not return. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* memory_check.cpp */
void begin_launch(size_t dynamic_shared);
bool on_a_stack(const void *address);
bool in_shared(const void *address, size_t bytes);
void check_access(const void *address, size_t bytes, bool write);

/* emulator.cpp */
int lane();
Thread &neighbour(int lane);
void meet_warp(unsigned mask, int line);

} // namespace emulator

#endif
