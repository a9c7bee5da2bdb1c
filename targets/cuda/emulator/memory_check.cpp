/* Every access to memory of the kernels: inside a buffer, aligned, and ordered with what other threads did.
 *
 * The kernels are compiled with -fsanitize=thread,bounds, without the libraries of these options: the functions that the
 * compiler then calls are the ones at the end of this file.
 *
 * A shadow record per byte of the shared memory of a block (or of all blocks of a cluster), and per element of the buffers that the kernel writes, holds the last writer
 * and the last reader.  Two accesses of which one writes must be by the same thread, or have a barrier of the block between
 * them, or be in one warp with an operation of the warp between them; in global memory they must not be in different blocks.
 * Shared memory is filled with ones (NaN) when a block first touches it.
 */
#include "emulator.h"

#include <cstdio>

extern "C" {
extern unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern const unsigned char __ehdr_start[] __attribute__((visibility("hidden")));
extern const unsigned char _end[] __attribute__((visibility("hidden")));
}

namespace emulator {

namespace {

constexpr int NOBODY = -1, SEVERAL = -2;

struct When {
    unsigned epoch, warp_epoch;
    unsigned clock, fences; /* of the thread; for the copies of a barrier the phase */
};

/* One of several threads that have read, where phases of barriers order them. */
struct Reader {
    int thread;
    When when;
};

struct Shadow {
    uint64_t block = ~(uint64_t)0; /* in which block number the record was made */
    int writer = NOBODY, reader = NOBODY;
    int reader_warp = NOBODY;
    bool read_by_others = false; /* by another block than `block` */
    When written{}, read{};
    std::vector<Reader> readers; /* where there are barriers with phases: those that nothing has come after */
};

std::vector<unsigned char> dynamic; /* of all blocks of a cluster, each at a multiple of 1024 */
size_t shared_bytes;                /* that each of them has */
std::vector<Shadow> static_shadow, dynamic_shadow;
std::vector<std::vector<Shadow>> global_shadow; /* of the regions that are written */

unsigned char *shared_start(int rank)
{
    const uintptr_t first = ((uintptr_t)dynamic.data() + 1023) & ~(uintptr_t)1023;
    return (unsigned char *)(first + (size_t)rank * ((shared_bytes + 2047) & ~(size_t)1023));
}

bool same_block_ordered(int warp, When then)
{
    return then.epoch != launch.epoch
        || (warp == launch.current / WARP && then.warp_epoch != launch.warp_epochs[launch.current / WARP]);
}

[[noreturn]] void race(const char *what, const char *where, int other, bool same_block)
{
    if (same_block) {
        fail("race: %s %s that thread %d has used, without a barrier between", what, where, other);
    }
    fail("race: %s %s that another block has used", what, where);
}

/* Whether something in this block happened before what the thread does now, where there are barriers with phases.  Copies have
 * the number of their barrier behind those of the threads. */
bool is_before(int other, When then)
{
    const int me = launch.current;
    const bool together = other / WARP == me / WARP && other < (int)launch.threads.size();
    return other == me || then.epoch != launch.epoch || launch.threads[(size_t)me].known[(size_t)other] > then.clock
        || (together && then.warp_epoch != launch.warp_epochs[(size_t)(me / WARP)]);
}

void note_with_phases(Shadow &s, bool write, const char *where)
{
    const Thread &thread = launch.threads[(size_t)launch.current];
    const When now = { launch.epoch, launch.warp_epochs[(size_t)(launch.current / WARP)], thread.clock, thread.fences };
    if (s.writer >= 0 && !is_before(s.writer, s.written)) {
        race(write ? "a write of" : "a read of", where, s.writer, true);
    }
    std::vector<Reader> left;
    for (const Reader &r : s.readers) {
        if (!is_before(r.thread, r.when)) {
            left.push_back(r);
        }
    }
    if (write && !left.empty()) {
        race("a write of", where, left[0].thread, true);
    }
    if (write) {
        s.writer = launch.current;
        s.written = now;
    } else {
        left.push_back({ launch.current, now });
    }
    s.readers.swap(left);
}

void note(Shadow &s, bool write, const char *where)
{
    const int me = launch.current, warp = me / WARP;
    const bool here = s.block == launch.block_number;
    if (s.writer >= 0 && !(here && (s.writer == me || same_block_ordered(s.writer / WARP, s.written)))) {
        race(write ? "a write of" : "a read of", where, s.writer, here);
    }
    if (write && s.reader != NOBODY) {
        const bool mine = s.reader == me && s.reader_warp == warp;
        const bool ordered = here && !s.read_by_others && (s.read.epoch != launch.epoch || mine
            || (s.reader_warp == warp && s.read.warp_epoch != launch.warp_epochs[warp]));
        if (!ordered) {
            race("a write of", where, s.reader, here);
        }
    }
    const When now = { launch.epoch, launch.warp_epochs[warp], 0, launch.threads[(size_t)me].fences };
    if (write) {
        s.writer = me;
        s.written = now;
        s.reader = s.reader_warp = NOBODY;
        s.read_by_others = false;
    } else if (s.reader != NOBODY && here && s.read.epoch == launch.epoch) {
        s.reader_warp = s.reader_warp == warp ? warp : SEVERAL;
        const bool alone = s.reader == me || (s.reader_warp == warp && s.read.warp_epoch != now.warp_epoch);
        s.reader = alone ? me : SEVERAL;
        s.read = now;
    } else {
        s.read_by_others |= s.reader != NOBODY && !here;
        s.reader = me;
        s.reader_warp = warp;
        s.read = now;
    }
    if (write || s.writer == NOBODY) {
        s.block = launch.block_number;
    }
}

void check_shared(unsigned char *address, size_t bytes, bool write, Shadow *shadow)
{
    for (size_t n = 0; n < bytes; n++) {
        Shadow &s = shadow[n];
        if (s.block != launch.block_number) {
            s = Shadow();
            s.block = launch.block_number;
            address[n] = 0xff;
        }
        if (launch.barriers.empty()) {
            note(s, write, "shared memory");
        } else {
            note_with_phases(s, write, "shared memory");
        }
    }
}

/* The records of shared memory from an address on. */
Shadow *shadow_of(const void *address)
{
    const unsigned char *const a = (const unsigned char *)address;
    if (a >= __start_emulated_shared && a < __stop_emulated_shared) {
        return &static_shadow[(size_t)(a - __start_emulated_shared)];
    }
    for (int rank = 0; rank < launch.cluster; rank++) {
        if (a >= shared_start(rank) && a < shared_start(rank) + shared_bytes) {
            return &dynamic_shadow[(size_t)rank * shared_bytes + (size_t)(a - shared_start(rank))];
        }
    }
    fail("an address outside of shared memory");
}

/* Whether the access lies in one of the buffers of the launch, which is then checked. */
bool check_global(unsigned char *address, size_t bytes, bool write)
{
    const Region *inside = nullptr, *writable = nullptr;
    for (const Region &r : launch.regions) {
        if (address >= r.start && address + bytes <= r.start + r.bytes) {
            inside = &r;
            writable = r.written ? &r : writable;
        }
    }
    if (!inside) {
        return false;
    }
    if (write && !writable) {
        fail("a write to the parameter %s, which is only read", inside->name);
    }
    if (writable) {
        std::vector<Shadow> &shadow = global_shadow[(size_t)(writable - launch.regions.data())];
        const size_t first = (size_t)(address - writable->start) / writable->element_bytes;
        const size_t last = ((size_t)(address - writable->start) + bytes - 1) / writable->element_bytes;
        for (size_t n = first; n <= last; n++) {
            note(shadow[n], write, writable->name);
        }
    }
    return true;
}

/* The buffer that an address outside of all buffers is nearest to. */
[[noreturn]] void outside(const unsigned char *address, size_t bytes, bool write)
{
    const Region *nearest = nullptr;
    uint64_t least = ~(uint64_t)0;
    for (const Region &r : launch.regions) {
        const uint64_t before = address < r.start ? (uint64_t)(r.start - address) : 0;
        const uint64_t after = address + bytes > r.start + r.bytes ? (uint64_t)(address + bytes - r.start - r.bytes) : 0;
        if (before + after < least) {
            least = before + after;
            nearest = &r;
        }
    }
    const char *const what = write ? "write" : "read";
    if (!nearest) {
        fail("out of bounds: a %s of %zu bytes outside of all memory", what, bytes);
    }
    fail("out of bounds: a %s of %zu bytes at byte %lld of %s, which has %llu", what, bytes,
         (long long)(address - nearest->start), nearest->name, (unsigned long long)nearest->bytes);
}

} // namespace

void begin_launch(size_t dynamic_shared)
{
    /* More, so that the memory can start at a multiple of 1024, as kernels declare it, with a gap between blocks. */
    shared_bytes = dynamic_shared;
    dynamic.assign((dynamic_shared + 2048) * (size_t)launch.cluster + 1024, 0xff);
    dynamic_shadow.assign(dynamic_shared * (size_t)launch.cluster, Shadow());
    static_shadow.assign((size_t)(__stop_emulated_shared - __start_emulated_shared), Shadow());
    global_shadow.clear();
    for (const Region &r : launch.regions) {
        const bool kept = r.written && r.element_bytes;
        global_shadow.emplace_back(kept ? (r.bytes + r.element_bytes - 1) / r.element_bytes : 0, Shadow());
    }
}

bool in_shared(const void *address, size_t bytes)
{
    const unsigned char *const a = (const unsigned char *)address;
    const unsigned char *const d = emulator_dynamic_shared();
    return (a >= __start_emulated_shared && a + bytes <= __stop_emulated_shared)
        || (a >= d && a + bytes <= d + shared_bytes);
}

void *in_block(const void *address, int rank, int line)
{
    const unsigned char *const a = (const unsigned char *)address;
    if (!in_shared(a, 1) || (rank != own_rank() && a >= __start_emulated_shared && a < __stop_emulated_shared)) {
        fail("line %d: no place in the dynamic shared memory of the block", line);
    }
    if (rank < 0 || rank >= launch.cluster) {
        fail("line %d: block %d of a cluster of %d", line, rank, launch.cluster);
    }
    bool runs = false;
    for (int n = 0; n < launch.block_threads; n++) {
        runs |= launch.threads[(size_t)(rank * launch.block_threads + n)].state != State::DONE;
    }
    if (!runs) {
        fail("line %d: the shared memory of block %d of the cluster, all threads of which have returned", line, rank);
    }
    return rank == own_rank() ? (void *)a : (void *)(shared_start(rank) + (a - emulator_dynamic_shared()));
}

bool in_shared_of(int rank, const void *address, size_t bytes)
{
    const unsigned char *const a = (const unsigned char *)address, *const start = shared_start(rank);
    return rank == own_rank() ? in_shared(address, bytes) : a >= start && a + bytes <= start + shared_bytes;
}

void check_shared_of(int rank, void *address, size_t bytes, bool write)
{
    if (rank == own_rank()) {
        check_access(address, bytes, write);
    } else {
        check_shared((unsigned char *)address, bytes, write, shadow_of(address));
    }
}

void check_access(const void *address, size_t bytes, bool write)
{
    if (launch.current < 0 || on_a_stack(address)) {
        return;
    }
    unsigned char *const a = (unsigned char *)address;
    const size_t whole = bytes < 16 ? bytes : 16; // what one instruction of a GPU moves at most
    if ((bytes & (bytes - 1)) == 0 && (uintptr_t)a % whole) {
        fail("a misaligned %s of %zu bytes", write ? "write" : "read", bytes);
    }
    if (a >= __start_emulated_shared && a < __stop_emulated_shared) {
        check_shared(a, bytes, write, shadow_of(a));
        return;
    }
    if (check_global(a, bytes, write) || (a >= __ehdr_start && a < _end)) {
        return;
    }
    if (in_shared(a, bytes)) {
        check_shared(a, bytes, write, shadow_of(a));
        return;
    }
    outside(a, bytes, write);
}

void check_unfenced(const void *address, size_t bytes, int line)
{
    const Shadow *const s = shadow_of(address);
    for (size_t n = 0; n < bytes; n++) {
        const int writer = s[n].writer;
        const bool own = s[n].block == launch.block_number && writer >= 0 && writer < (int)launch.threads.size();
        if (own && launch.threads[(size_t)writer].fences <= s[n].written.fences) {
            fail("line %d: what thread %d has written to shared memory was not made visible to copies and the matrix unit; "
                 "fence_async_proxy() is missing", line, writer);
        }
    }
}

void give_to_copy(const void *address, size_t bytes, int barrier, unsigned phase)
{
    Shadow *const s = shadow_of(address);
    for (size_t n = 0; n < bytes; n++) {
        s[n].writer = (int)launch.threads.size() + barrier;
        s[n].written.clock = phase;
    }
}

} // namespace emulator

using namespace emulator;

extern "C" {

unsigned char *emulator_dynamic_shared(void)
{
    return shared_start(launch.current < 0 ? 0 : own_rank());
}

#define ACCESS(bytes)                                                                           \
    void __tsan_read##bytes(void *address) { check_access(address, bytes, false); }             \
    void __tsan_write##bytes(void *address) { check_access(address, bytes, true); }             \
    void __tsan_unaligned_read##bytes(void *address) { check_access(address, bytes, false); }   \
    void __tsan_unaligned_write##bytes(void *address) { check_access(address, bytes, true); }   \
    void __tsan_volatile_read##bytes(void *address) { check_access(address, bytes, false); }    \
    void __tsan_volatile_write##bytes(void *address) { check_access(address, bytes, true); }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *address, unsigned long bytes) { check_access(address, bytes, false); }
void __tsan_write_range(void *address, unsigned long bytes) { check_access(address, bytes, true); }
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}

/* What -fsanitize=bounds calls: the place in the source, and the index. */
struct Place {
    const char *file;
    unsigned line, column;
};

void __ubsan_handle_out_of_bounds(const Place *place, unsigned long index)
{
    fail("out of bounds: index %ld of an array in line %u", (long)index, place->line);
}
void __ubsan_handle_out_of_bounds_abort(const Place *place, unsigned long index)
{
    __ubsan_handle_out_of_bounds(place, index);
}
}
