/* Inside the emulator: the state of one launch, shared by the scheduler, the checks of memory and the instructions. */
#ifndef EMULATOR_H
#define EMULATOR_H

#include "cuda_emulator.h"

#include <vector>

namespace emulator {

constexpr int WARP = 32;
constexpr int MAX_BARRIERS = 64; /* in the shared memory of a block */

/* A buffer in global memory that the launch was given. */
struct Region {
    unsigned char *start;
    uint64_t bytes;
    uint32_t element_bytes;
    uint32_t written; /* whether the kernel may write it */
    const char *name;
};

enum class State : unsigned char { NEW, READY, AT_BLOCK, AT_WARP, AT_PHASE, DONE };

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

/* 16 bytes that a bulk copy brings, as many of them as lie in the matrix; the rest are zeros. */
struct BulkPiece {
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
};
struct BulkCopy {
    std::vector<BulkPiece> pieces;
};

/* A barrier in shared memory.  pending: arrivals that its phase lacks.  expected: bytes that the phase waits for, started:
 * those of the copies that were given it.  known: what who waits for it learns (clocks of the threads, and for each barrier
 * how many phases of its copies are complete). */
struct Mbarrier {
    void *address = nullptr;
    unsigned count = 0, pending = 0, phase = 0;
    uint64_t expected = 0, started = 0;
    int maker = 0;
    bool fenced = false;
    std::vector<BulkCopy> copies;
    std::vector<unsigned> known;
};

struct Thread {
    void *stack_pointer;
    int stack; /* number of its stack, -1: none */
    State state;
    unsigned mask; /* of the warp operation that it waits for */
    int line;      /* of the barrier or warp operation that it waits at */
    dim3 index, block;
    int groups; /* of asynchronous copies, closed */
    std::vector<Copy> copies;
    int product_groups; /* of the matrix unit, closed */
    std::vector<Product> products;
    std::vector<Sums> sums;
    int barrier, parity; /* that it waits for */
    unsigned fences;     /* between its own accesses and those of copies and the matrix unit */
    unsigned clock;      /* advanced when it lets others know of what it did */
    std::vector<unsigned> known; /* the clocks of the others as far as it knows, see Mbarrier */
    uint32_t slot[16]; /* what it shows the other threads of its warp */
};

/* threads: of all blocks of the cluster that runs, one after the other; block_threads: of each. */
struct Launch {
    std::vector<Thread> threads;
    int block_threads, cluster;
    std::vector<Region> regions;
    std::vector<Mbarrier> barriers; /* of the cluster that runs */
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
int own_rank(); /* of the block in its cluster */
/* The place in the shared memory of another block of the cluster where the own block has this one; fails if that block has ended. */
void *in_block(const void *address, int rank, int line);
bool in_shared_of(int rank, const void *address, size_t bytes);
void check_shared_of(int rank, void *address, size_t bytes, bool write); /* of what lies there */
void check_access(const void *address, size_t bytes, bool write);

/* Fails unless what threads have written to these bytes of shared memory was made visible to copies and the matrix unit. */
void check_unfenced(const void *address, size_t bytes, int line);
/* From now on the bytes are written by the copies of a barrier's phase. */
void give_to_copy(const void *address, size_t bytes, int barrier, unsigned phase);

/* bulk.cpp */
bool phase_is_complete(const Thread &thread);
void describe_wait(const Thread &thread, char *text, size_t room);
void share_clocks(int first, unsigned mask); /* among the threads of a warp, the first of which is given */
void check_nothing_under_way();

/* emulator.cpp */
void wait_for_phase();
int lane();
Thread &neighbour(int lane);
void meet_warp(unsigned mask, int line);

} // namespace emulator

#endif
