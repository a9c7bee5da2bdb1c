/* Emitted CUDA C++ on a processor: what nvcc knows, for g++ and clang++.
 *
 * Blocks run one after another, each thread of a block is a fiber (emulator.cpp).  The kernels' text is compiled with
 * -fsanitize=thread,bounds: the calls that the compiler then makes at every access to memory arrive in our own run time
 * (memory_check.cpp), which knows the buffers of the launch and the shared memory.
 */
#ifndef CUDA_EMULATOR_H
#define CUDA_EMULATOR_H

/* The functions of C alone: what libstdc++ adds to them takes longer to read than most kernels. */
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "halves.h"
#undef _GLIBCXX_INCLUDE_NEXT_C_HEADERS

struct dim3 {
    unsigned x, y, z;
};

extern "C" {
extern dim3 emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;
void emulator_register(const char *name, int cluster, void (*call)(void **arguments));
void emulator_meet_block(int line);
void emulator_meet_cluster(int line);
void emulator_meet_warp(unsigned mask, int line);
/* Gives every thread of the mask `bytes` from the thread with number `source` in the warp. */
void emulator_exchange(unsigned mask, const void *mine, void *theirs, size_t bytes, int source, int line);
unsigned char *emulator_dynamic_shared(void);
int emulator_rank(void);
void emulator_copy_start(void *to, const void *from, int bytes, int condition);
void emulator_copy_commit(void);
void emulator_copy_wait(int groups);
void emulator_load_matrices(void *tile, const void *row, int count, int transposed, int line);
void emulator_multiply_sparse(int kind, float *d, const void *a, const void *b, const unsigned *where, int line);
void emulator_multiply(int kind, void *d, const void *a, const void *b, int line);
void emulator_warpgroup(int kind, int columns, float *d, const void *a, const void *b, int line);
void emulator_warpgroup_commit(void);
void emulator_warpgroup_wait(int groups);
void emulator_fence_async(void);
struct tensor_map; /* below */
void emulator_mbarrier_init(unsigned long long *barrier, int arrivals, int line);
void emulator_mbarrier_fence(void);
void emulator_mbarrier_arrive(unsigned long long *barrier, long long bytes, int line);
void emulator_mbarrier_arrive_at(unsigned long long *barrier, int rank, int line);
void emulator_mbarrier_wait(unsigned long long *barrier, int parity, int line);
void emulator_bulk_copy(int axes, void *tile, const struct tensor_map *map, const int *at, unsigned long long *barrier,
                        unsigned blocks, int line);
}

#define threadIdx emulator_thread
#define blockIdx emulator_block
#define blockDim emulator_block_size
#define gridDim emulator_grid_size
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((unused))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
/* Blocks do not overlap in time, so one instance is enough; all of them lie in a section that the run time can find. */
#define __shared__ static __attribute__((section("emulated_shared")))
#define DYNAMIC_SHARED(name) unsigned char *const name = emulator_dynamic_shared()

inline float power_of_two(float x) { return exp2f(x); }
#define INFINITY_F32 __builtin_inff()
#define NAN_F32 __builtin_nanf("")
#define INFINITY_F64 __builtin_inf()
#define NAN_F64 __builtin_nan("")

#define __syncthreads() emulator_meet_block(__LINE__)
#define __syncwarp() emulator_meet_warp(0xffffffffu, __LINE__)
#define __shfl_sync(mask, value, lane) emulator_shuffle(mask, value, (int)(lane) & 31, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulator_shuffle(mask, value, emulator_lane() ^ (int)(bits), __LINE__)
#define __shfl_down_sync(mask, value, distance) \
    emulator_shuffle(mask, value, emulator_lane() + (int)(distance) > 31 ? emulator_lane() : emulator_lane() + (int)(distance), __LINE__)

inline int emulator_lane()
{
    const dim3 t = threadIdx, size = blockDim;
    return (int)((t.z * size.y + t.y) * size.x + t.x) & 31;
}

template <class T> inline T emulator_shuffle(unsigned mask, T mine, int source, int line)
{
    T theirs;
    emulator_exchange(mask, &mine, &theirs, sizeof mine, source, line);
    return theirs;
}

typedef half_bits __half;
typedef bfloat_bits __nv_bfloat16;
inline float __half2float(__half x) { return half_to_float(x); }
/* Made in place: g++ does not report the store of a structure that a function returns. */
#define __float2half_rn(x) (__half{ float_to_half(x).bits })
#define __double2half(x) (__half{ double_to_half(x).bits })
inline float __bfloat162float(__nv_bfloat16 x) { return bfloat_to_float(x); }
#define __float2bfloat16_rn(x) (__nv_bfloat16{ float_to_bfloat(x).bits })

template <int BYTES> inline void cp_async(void *to, const void *from, bool condition = true)
{
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emulator_copy_start(to, from, BYTES, condition);
}
inline void cp_async_commit() { emulator_copy_commit(); }
template <int GROUPS> inline void cp_async_wait() { emulator_copy_wait(GROUPS); }

#define ldmatrix_x1(tile, row) emulator_load_matrices(tile, row, 1, 0, __LINE__)
#define ldmatrix_x2(tile, row) emulator_load_matrices(tile, row, 2, 0, __LINE__)
#define ldmatrix_x4(tile, row) emulator_load_matrices(tile, row, 4, 0, __LINE__)
#define ldmatrix_x1_trans(tile, row) emulator_load_matrices(tile, row, 1, 1, __LINE__)
#define ldmatrix_x2_trans(tile, row) emulator_load_matrices(tile, row, 2, 1, __LINE__)
#define ldmatrix_x4_trans(tile, row) emulator_load_matrices(tile, row, 4, 1, __LINE__)
#define mma_m16n8k16_f16(d, a, b) emulator_multiply(0, d, a, b, __LINE__)
#define mma_m16n8k16_bf16(d, a, b) emulator_multiply(1, d, a, b, __LINE__)
#define mma_m16n8k8_tf32(d, a, b) emulator_multiply(2, d, a, b, __LINE__)
#define mma_sp_m16n8k32_f16(d, a, b, where) emulator_multiply_sparse(0, d, a, b, where, __LINE__)
#define mma_sp_m16n8k32_bf16(d, a, b, where) emulator_multiply_sparse(1, d, a, b, where, __LINE__)
#define mma_m16n8k32_s8(d, a, b) emulator_multiply(3, d, a, b, __LINE__)
#define mma_m16n8k32_u8s8(d, a, b) emulator_multiply(4, d, a, b, __LINE__)

inline void fence_async_proxy() { emulator_fence_async(); }
inline void wgmma_fence() {}
inline void wgmma_commit() { emulator_warpgroup_commit(); }
template <int GROUPS> inline void wgmma_wait() { emulator_warpgroup_wait(GROUPS); }
#define wgmma_m64n64k16_f16(d, a, b) emulator_warpgroup(0, 64, d, a, b, __LINE__)
#define wgmma_m64n64k16_bf16(d, a, b) emulator_warpgroup(1, 64, d, a, b, __LINE__)
#define wgmma_m64n128k16_f16(d, a, b) emulator_warpgroup(0, 128, d, a, b, __LINE__)
#define wgmma_m64n128k16_bf16(d, a, b) emulator_warpgroup(1, 128, d, a, b, __LINE__)
#define wgmma_m64n256k16_f16(d, a, b) emulator_warpgroup(0, 256, d, a, b, __LINE__)
#define wgmma_m64n256k16_bf16(d, a, b) emulator_warpgroup(1, 256, d, a, b, __LINE__)

struct __align__(64) tensor_map {
    unsigned long long words[16];
};
#define mbarrier_init(barrier, arrivals) emulator_mbarrier_init(barrier, arrivals, __LINE__)
#define fence_mbarrier_init() emulator_mbarrier_fence()
#define mbarrier_expect(barrier, bytes) emulator_mbarrier_arrive(barrier, bytes, __LINE__)
#define mbarrier_arrive(barrier) emulator_mbarrier_arrive(barrier, 0, __LINE__)
#define mbarrier_wait(barrier, parity) emulator_mbarrier_wait(barrier, (int)(parity), __LINE__)
#define mbarrier_arrive_at(barrier, rank) emulator_mbarrier_arrive_at(barrier, (int)(rank), __LINE__)
#define cluster_sync() emulator_meet_cluster(__LINE__)
#define bulk_copy_2d(tile, map, x, y, barrier) emulator_copy_box(tile, map, barrier, 1u << emulator_rank(), __LINE__, x, y)
#define bulk_copy_3d(tile, map, x, y, z, barrier) emulator_copy_box(tile, map, barrier, 1u << emulator_rank(), __LINE__, x, y, z)
#define bulk_share_2d(tile, map, x, y, barrier, blocks) emulator_copy_box(tile, map, barrier, blocks, __LINE__, x, y)
#define bulk_share_3d(tile, map, x, y, z, barrier, blocks) emulator_copy_box(tile, map, barrier, blocks, __LINE__, x, y, z)
template <class... I>
__attribute__((no_sanitize("thread"))) inline void emulator_copy_box(
    void *tile, const tensor_map *map, unsigned long long *barrier, unsigned blocks, int line, I... at)
{
    const int places[] = { (int)at... };
    emulator_bulk_copy((int)sizeof...(at), tile, map, places, barrier, blocks, line);
}

/* An argument of a launch: an address, or a tensor map at one. */
template <class P> struct emulator_argument {
    static P of(void *given) { return (P)given; }
};
template <> struct emulator_argument<tensor_map> {
    static tensor_map of(void *given)
    {
        tensor_map made;
        memcpy(&made, given, sizeof made);
        return made;
    }
};

/* EMULATED_KERNEL(name, cluster) makes a kernel known to the run time. */
template <size_t... I> struct emulator_numbers {
};
template <size_t N, size_t... I> struct emulator_count : emulator_count<N - 1, N - 1, I...> {
};
template <size_t... I> struct emulator_count<0, I...> {
    typedef emulator_numbers<I...> type; /* 0 to N - 1 */
};
template <class... P, size_t... I>
__attribute__((no_sanitize("thread"))) inline void emulator_call(void (*kernel)(P...), void **arguments, emulator_numbers<I...>)
{
    kernel(emulator_argument<P>::of(arguments[I])...);
}
template <class... P> inline void emulator_apply(void (*kernel)(P...), void **arguments)
{
    emulator_call(kernel, arguments, typename emulator_count<sizeof...(P)>::type());
}
#define EMULATED_KERNEL(name, cluster)                                                      \
    static void emulated_##name(void **arguments) { emulator_apply(name, arguments); }      \
    __attribute__((constructor)) static void register_##name() { emulator_register(#name, cluster, emulated_##name); }

#endif
