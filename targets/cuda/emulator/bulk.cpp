/* Barriers in shared memory with phases (mbarrier), and the bulk tensor copies that they count (sm_90).
 *
 * A copy fills its destination with ones when it is started; its data arrive when a thread waits for the phase that counts
 * them and nothing else is missing: as late as possible.  What one thread may know of another is kept as vector clocks: an
 * arrival gives the barrier what the thread knows, a wait that succeeds takes it, an operation of a warp shares it out.
 */
#include "emulator.h"

#include <algorithm>
#include <cstdio>

namespace emulator {

namespace {

/* How a matrix lies in memory, as the kernel's parameter and the driver of the tests hold it; the contiguous axis first. */
struct Map {
    unsigned char *address;
    uint64_t sizes[3];
    uint64_t strides[3]; /* bytes */
    uint32_t box[3];
    uint32_t rank, element_bytes;
};
static_assert(sizeof(Map) <= sizeof(tensor_map), "a map is as large as the driver's");

void join(std::vector<unsigned> &into, const std::vector<unsigned> &from)
{
    for (size_t n = 0; n < from.size(); n++) {
        into[n] = std::max(into[n], from[n]);
    }
}

/* The clocks begin with the first barrier; what lies before it is ordered by barriers of the block alone. */
void start_clocks()
{
    for (Thread &thread : launch.threads) {
        thread.clock = 0;
        thread.known.assign(launch.threads.size() + MAX_BARRIERS, 0);
    }
}

int number_of(const void *address, int line)
{
    for (size_t n = 0; n < launch.barriers.size(); n++) {
        if (launch.barriers[n].address == address) {
            return (int)n;
        }
    }
    fail("line %d: a barrier in shared memory that was not initialised", line);
}

/* The barrier at an address of a block of the cluster, which the thread must have seen initialised. */
Mbarrier &barrier_at(void *address, int line, int rank)
{
    Mbarrier &barrier = launch.barriers[(size_t)number_of(address, line)];
    check_shared_of(rank, address, 8, false);
    return barrier;
}

void land(Mbarrier &barrier, int engine)
{
    for (const BulkCopy &copy : barrier.copies) {
        for (const BulkPiece &piece : copy.pieces) {
            memset(piece.to, 0, 16);
            memcpy(piece.to, piece.from, piece.bytes);
        }
    }
    barrier.copies.clear();
    barrier.known[launch.threads.size() + (size_t)engine] = barrier.phase + 1;
}

/* Completes the phase if nothing is missing. */
void try_complete(Mbarrier &barrier, int number)
{
    if (barrier.pending || barrier.expected != barrier.started) {
        return;
    }
    land(barrier, number);
    barrier.phase++;
    barrier.pending = barrier.count;
    barrier.expected = barrier.started = 0;
}

void arrive(Mbarrier &barrier, int line)
{
    Thread &thread = launch.threads[launch.current];
    if (!barrier.pending) {
        fail("line %d: more than %u arrivals in one phase of a barrier", line, barrier.count);
    }
    barrier.pending--;
    thread.known[(size_t)launch.current] = ++thread.clock;
    join(barrier.known, thread.known);
}

/* A box to the shared memory of one block of the cluster. */
void copy_box(const Map &map, int axes, const int *at, void *tile, void *address, int rank, int line)
{
    Mbarrier &barrier = barrier_at(address, line, rank);
    if (!barrier.fenced) {
        fail("line %d: the barrier was not made visible to bulk copies after its initialisation", line);
    }
    const int number = number_of(address, line);
    const uint32_t per_piece = 16 / map.element_bytes, planes = axes == 3 ? map.box[2] : 1;
    BulkCopy copy;
    for (uint32_t row = 0; row < map.box[1] * planes; row++) {
        for (uint32_t piece = 0; piece < 8; piece++) {
            const long long x = (long long)at[0] + piece * per_piece, y = (long long)at[1] + row % map.box[1];
            const long long z = axes == 3 ? (long long)at[2] + row / map.box[1] : 0;
            uintptr_t to = (uintptr_t)tile + row * 128 + piece * 16;
            to ^= to >> 3 & 0x70;
            const bool inside = x >= 0 && y >= 0 && z >= 0 && (uint64_t)y < map.sizes[1]
                && (axes < 3 || (uint64_t)z < map.sizes[2]) && (uint64_t)x < map.sizes[0];
            const unsigned char *from = map.address;
            size_t bytes = 0; /* of the piece that lie in the matrix */
            if (inside) {
                from += (uint64_t)x * map.element_bytes + (uint64_t)y * map.strides[1] + (uint64_t)z * map.strides[2];
                bytes = std::min((size_t)(map.sizes[0] - (uint64_t)x), (size_t)per_piece) * map.element_bytes;
                for (size_t n = 0; n < bytes; n += map.element_bytes) {
                    check_access(from + n, map.element_bytes, false);
                }
            }
            if (!in_shared_of(rank, (void *)to, 16)) {
                fail("line %d: a bulk copy writes outside of shared memory", line);
            }
            check_unfenced((void *)to, 16, line);
            check_shared_of(rank, (void *)to, 16, true);
            memset((void *)to, 0xff, 16);
            give_to_copy((void *)to, 16, number, barrier.phase);
            copy.pieces.push_back({ (unsigned char *)to, from, bytes });
        }
    }
    barrier.started += (uint64_t)map.box[0] * map.box[1] * planes * map.element_bytes;
    barrier.copies.push_back(copy);
}

} // namespace

bool phase_is_complete(const Thread &thread)
{
    Mbarrier &barrier = launch.barriers[(size_t)thread.barrier];
    if ((int)(barrier.phase & 1u) == thread.parity) {
        try_complete(barrier, thread.barrier);
    }
    return (int)(barrier.phase & 1u) != thread.parity;
}

void describe_wait(const Thread &thread, char *text, size_t room)
{
    const Mbarrier &barrier = launch.barriers[(size_t)thread.barrier];
    snprintf(text, room, "deadlock: at line %d a thread waits for phase %u of a barrier that lacks %u of %u arrivals; it expects %llu "
             "bytes, copies of %llu were started", thread.line, barrier.phase, barrier.pending, barrier.count,
             (unsigned long long)barrier.expected, (unsigned long long)barrier.started);
}

void share_clocks(int first, unsigned mask)
{
    if (launch.barriers.empty()) {
        return;
    }
    std::vector<unsigned> all(launch.threads.size() + MAX_BARRIERS, 0);
    for (int k = 0; k < WARP; k++) {
        if (mask >> k & 1u) {
            Thread &thread = launch.threads[(size_t)(first + k)];
            thread.known[(size_t)(first + k)] = ++thread.clock;
            join(all, thread.known);
        }
    }
    for (int k = 0; k < WARP; k++) {
        if (mask >> k & 1u) {
            launch.threads[(size_t)(first + k)].known = all;
        }
    }
}

void check_nothing_under_way()
{
    for (const Mbarrier &barrier : launch.barriers) {
        if (!barrier.copies.empty()) {
            launch.current = 0;
            fail("the block ends while bulk copies are under way");
        }
    }
}

} // namespace emulator

using namespace emulator;

extern "C" {

void emulator_mbarrier_init(unsigned long long *address, int arrivals, int line)
{
    if (!in_shared(address, 8) || arrivals < 1) {
        fail("line %d: a barrier of %d arrivals outside of shared memory", line, arrivals);
    }
    if (launch.barriers.empty()) {
        start_clocks();
    }
    if (launch.barriers.size() == MAX_BARRIERS) {
        fail("line %d: more than %d barriers in shared memory", line, (int)MAX_BARRIERS);
    }
    check_access(address, 8, true);
    Mbarrier made;
    made.address = address;
    made.count = made.pending = (unsigned)arrivals;
    made.maker = launch.current;
    made.known.assign(launch.threads.size() + MAX_BARRIERS, 0);
    launch.barriers.push_back(made);
}

void emulator_mbarrier_fence(void)
{
    for (Mbarrier &barrier : launch.barriers) {
        barrier.fenced |= barrier.maker == launch.current;
    }
}

void emulator_mbarrier_arrive(unsigned long long *address, long long bytes, int line)
{
    Mbarrier &barrier = barrier_at(address, line, own_rank());
    try_complete(barrier, number_of(address, line));
    arrive(barrier, line);
    barrier.expected += (uint64_t)bytes;
    if (!barrier.expected) {
        try_complete(barrier, number_of(address, line));
    }
}

/* An arrival at the barrier of another block of the cluster. */
void emulator_mbarrier_arrive_at(unsigned long long *own, int rank, int line)
{
    void *const address = in_block(own, rank, line);
    Mbarrier &barrier = barrier_at(address, line, rank);
    try_complete(barrier, number_of(address, line));
    arrive(barrier, line);
    if (!barrier.expected) {
        try_complete(barrier, number_of(address, line));
    }
}

void emulator_mbarrier_wait(unsigned long long *address, int parity, int line)
{
    Mbarrier &barrier = barrier_at(address, line, own_rank());
    Thread &thread = launch.threads[launch.current];
    thread.barrier = number_of(address, line);
    thread.parity = parity & 1;
    thread.line = line;
    while (!phase_is_complete(thread)) {
        wait_for_phase();
    }
    join(thread.known, barrier.known);
}

/* blocks: a bit for each block of the cluster that is given the box, at the same place, and counted by the same barrier. */
void emulator_bulk_copy(int axes, void *tile, const tensor_map *given, const int *at, unsigned long long *address, unsigned blocks,
                        int line)
{
    Map map;
    memcpy(&map, given, sizeof map);
    if ((int)map.rank != axes || (uintptr_t)tile % 128 || map.box[0] * map.element_bytes != 128) {
        fail("line %d: a bulk copy of %d axes with a map of %u, or a tile that is not made of rows of 128 aligned bytes", line,
             axes, map.rank);
    }
    if (!blocks || blocks >> launch.cluster) {
        fail("line %d: a bulk copy to the blocks 0x%x of a cluster of %d", line, blocks, launch.cluster);
    }
    for (int rank = 0; rank < launch.cluster; rank++) {
        if (blocks >> rank & 1u) {
            copy_box(map, axes, at, in_block(tile, rank, line), in_block(address, rank, line), rank, line);
        }
    }
}
}
