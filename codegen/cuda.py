"""The CUDA C++ dialect, and the helper functions with machine instructions.

What a kernel may use beyond plain C++:

    Call warp_add, warp_mul, warp_max, warp_min      the reduction of a value over the 32 threads of a warp, in all of them;
         warp_add_16, _8, _4, _2 (and so on)         over groups of that many neighbours
         shuffle_xor(x, mask), shuffle_down(x, n),   the value that another thread of the warp has
         shuffle(x, lane)
    Store "async"                                    cp.async of 4, 8 or 16 bytes, zeros where the condition is false
    Do cp_async_commit(), cp_async_wait(n)           closes a group of copies; waits for all but the last n groups
    Do ldmatrix_x1/x2/x4[_trans](tile, address)      8 x 8 matrices of 16-bit elements from shared memory, a row per thread
    Do mma_m16n8k16_f16(d, a, b), _bf16              d[4] f32 += a[8] * b[4], the fragments as the PTX manual lays them out
    Do mma_m16n8k8_tf32(d, a, b)                     d[4] f32 += a[4] * b[2] of f32 rounded to tf32
    Do mma_m16n8k32_s8(d, a, b), _u8s8               d[4] i32 += a[16] * b[8] of bytes
    Do mma_sp_m16n8k32_f16(d, a, b, where), _bf16    d[4] f32 += a[8] * b[8]: a as for m16n8k16, the two of any four elements
         along k that are not zero; b of 32 k's; where: a u32, of 16 k's and rows g and g + 8 in threads 4 g and 4 g + 1
    Do wgmma_m64n64k16_f16(d, a, b), n128, n256, _bf16
                                                     four warps (sm_90a): d[n / 8][4] f32 += a[64, 16] * b[n, 16]^T, tiles by
         their addresses in shared memory; wgmma_fence() before, wgmma_commit(), wgmma_wait(n); fence_async_proxy()
    Do bulk_copy_2d, _3d(tile, map place, barrier)   cp.async.bulk.tensor (sm_90a): a box of what a tensor map describes, in
         rows of 128 bytes, permuted; zeros outside; its bytes are counted by the barrier
    Do bulk_share_2d, _3d(tile, map place, barrier, blocks)
                                                     the same to every block of the cluster that has a bit in `blocks`
    Do mbarrier_init(barrier, arrivals), fence_mbarrier_init(), mbarrier_arrive(barrier), mbarrier_wait(barrier, parity),
         mbarrier_expect(barrier, bytes)             barriers in shared memory (u64); expect arrives and adds bytes to wait for
    Do mbarrier_arrive_at(barrier, block), cluster_sync()
                                                     at another block's barrier; all threads of a cluster
    Barrier "block", "warp"                          __syncthreads, __syncwarp

Fragments are register arrays in the order of the registers: element e of thread (g = lane / 4, t = lane % 4) of a 16-bit
A operand is row g + 8 * (e / 2 % 2), column 2 * t + e % 2 + 8 * (e / 4); of B row 2 * t + e % 2 + 8 * (e / 2), column g; of
C and D row g + 8 * (e / 2), column 2 * t + e % 2.
"""

from __future__ import annotations

import textwrap

from .c_dialect import Dialect
from .c_snippets import ARITHMETIC, INTEGER_TYPES
from .machine_gpu import STATIC_SHARED

WARP_WIDTHS = (32, 16, 8, 4, 2)
_OPERATIONS = {"add": "x + y", "mul": "x * y", "max": "x < y ? y : x", "min": "y < x ? y : x"}


def _reduction(op: str) -> str:
    return f"""
// The {op} over groups of WIDTH neighbours, in all of them.
template <int WIDTH, class T> DEVICE T warp_{op}(T x)
{{
    for (int distance = WIDTH / 2; distance > 0; distance /= 2) {{
        const T y = __shfl_xor_sync(0xffffffffu, x, distance);
        x = {_OPERATIONS[op]};
    }}
    return x;
}}
"""


_WARP: dict[str, str] = {
    **{f"warp_{op}": _reduction(op) for op in _OPERATIONS},
}
_FUNCTIONS: dict[tuple[str, str], str] = {}
for _dtype in ("f32", "f64", "i32", "u32", "i64"):
    for _op in _OPERATIONS:
        _FUNCTIONS[f"warp_{_op}", _dtype] = f"warp_{_op}<32>({{0}})"
        for _width in WARP_WIDTHS:
            _FUNCTIONS[f"warp_{_op}_{_width}", _dtype] = f"warp_{_op}<{_width}>({{0}})"
    _FUNCTIONS["shuffle", _dtype] = "__shfl_sync(0xffffffffu, {0}, (int)({1}))"
    _FUNCTIONS["shuffle_xor", _dtype] = "__shfl_xor_sync(0xffffffffu, {0}, (int)({1}))"
    _FUNCTIONS["shuffle_down", _dtype] = "__shfl_down_sync(0xffffffffu, {0}, (unsigned)({1}))"

_FUNCTIONS["exp2", "f32"] = "power_of_two({0})"

_CONSTANTS: dict[str, str] = {
    "INFINITY_F32": "#define INFINITY_F32 __int_as_float(0x7f800000)",
    "NAN_F32": "#define NAN_F32 __int_as_float(0x7fffffff)",
    "INFINITY_F64": "#define INFINITY_F64 __longlong_as_double(0x7ff0000000000000ll)",
    "NAN_F64": "#define NAN_F64 __longlong_as_double(0x7fffffffffffffffll)",
}


def _matrices(count: int, transposed: bool) -> str:
    """One ldmatrix instruction."""
    outs = ", ".join(f"%{n}" for n in range(count))
    operands = ", ".join(f'"=r"(r[{n}])' for n in range(count))
    name = f"ldmatrix_x{count}{'_trans' if transposed else ''}"
    return f"""
DEVICE void {name}(void *tile, const void *row)
{{
    unsigned *r = (unsigned *)tile;
    asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 {{{outs}}}, [%{count}];"
                 : {operands}
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}}
"""


def _product(name: str, shape: str, types: str, acc: str, a: int, b: int) -> str:
    """One mma instruction with four accumulators, a and b 32-bit registers of operands."""
    d = "float" if acc == "f" else "int"
    names = [f"%{n}" for n in range(4 + a + b)]
    groups = ", ".join("{" + ", ".join(g) + "}" for g in (names[:4], names[4 : 4 + a], names[4 + a :], names[:4]))
    ins = ", ".join([f'"r"(x[{n}])' for n in range(a)] + [f'"r"(y[{n}])' for n in range(b)])
    outs = ", ".join(f'"+{acc}"(d[{n}])' for n in range(4))
    rounding = "".join(f"    unsigned {v}[{n}];\n    for (int i = 0; i < {n}; ++i) "
                       f'asm("cvt.rna.tf32.f32 %0, %1;" : "=r"({v}[i]) : "f"({p}[i]));\n'
                       for v, p, n in (("x", "a", a), ("y", "b", b)))
    plain = "    const unsigned *x = (const unsigned *)a, *y = (const unsigned *)b;\n"
    operand = "const float *" if "tf32" in name else "const void *"
    return f"""
DEVICE void {name}({d} *d, {operand}a, {operand}b)
{{
{rounding if "tf32" in name else plain}    asm volatile("mma.sync.aligned.{shape}.row.col.{types} "
                 "{groups};"
                 : {outs}
                 : {ins});
}}
"""


def _sparse_product(dtype: str) -> str:
    """An mma instruction whose first operand has two zeros in any four along k; `where` says which ones."""
    return f"""
DEVICE void mma_sp_m16n8k32_{dtype}(float *d, const void *a, const void *b, const unsigned *where)
{{
    const unsigned *x = (const unsigned *)a, *y = (const unsigned *)b;
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{dtype}.{dtype}.f32 "
                 "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9, %10, %11}}, {{%0, %1, %2, %3}}, %12, 0x0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]), "r"(y[2]), "r"(y[3]), "r"(*where));
}}
"""


WARPGROUP_COLUMNS = (64, 128, 256)


def _warpgroup_product(columns: int, dtype: str) -> str:
    """One wgmma instruction: 64 rows, sums of 16 rows and all columns in each warp, operands by descriptors."""
    count = columns // 2
    sums = ", ".join(f"%{n}" for n in range(count))
    outs = ", ".join(f'"+f"(d[{n}])' for n in range(count))
    lines = "\n".join(textwrap.wrap(outs, 110, break_long_words=False, initial_indent=" " * 17, subsequent_indent=" " * 19))
    texts = "\n".join(f'                 "{t} "' for t in textwrap.wrap("{" + sums + "},", 100))
    return f"""
DEVICE void wgmma_m64n{columns}k16_{dtype}(float *d, const void *a, const void *b)
{{
    const unsigned long long x = wgmma_tile(a), y = wgmma_tile(b);
    asm volatile("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{dtype}.{dtype} "
{texts}
                 "%{count}, %{count + 1}, 1, 1, 1, 0, 0;"
                 :{lines[16:]}
                 : "l"(x), "l"(y) : "memory");
}}
"""


def _bulk_copy(rank: int, shared: bool) -> str:
    """One bulk tensor copy, to several blocks of the cluster if `shared`.  The coordinates come with the contiguous axis
    first."""
    names = [f"c{n}" for n in range(rank)]
    parameters, places = ", ".join(f"int {n}" for n in names), ", ".join(f"%{n + 2}" for n in range(rank))
    name, multicast, mask, blocks, given = f"bulk_copy_{rank}d", "", "", "", ""
    comment = ""
    if shared:
        name, multicast, mask = f"bulk_share_{rank}d", ".multicast::cluster", f", %{rank + 3}"
        blocks, given = ", int blocks", ', "h"((unsigned short)blocks)'
        comment = "\n// To the same place in every block of the cluster with a bit in `blocks`, counted by its own barrier."
    return f"""{comment}
DEVICE void {name}(void *tile, const tensor_map *map, {parameters}, unsigned long long *barrier{blocks})
{{
    const unsigned to = (unsigned)__cvta_generic_to_shared(tile), done = (unsigned)__cvta_generic_to_shared(barrier);
    asm volatile("cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes{multicast} "
                 "[%0], [%1, {{{places}}}], [%{rank + 2}]{mask};"
                 ::"r"(to), "l"(map), {", ".join(f'"r"({n})' for n in names)}, "r"(done){given} : "memory");
}}
"""


def _barrier_function(name: str, parameter: str, instruction: str) -> str:
    """A function of a barrier in shared memory and at most one number."""
    parameters, operand = (f", int {parameter}", f', "r"({parameter})') if parameter else ("", "")
    return f"""
DEVICE void {name}(unsigned long long *barrier{parameters})
{{
    asm volatile("{instruction};" ::"r"((unsigned)__cvta_generic_to_shared(barrier)){operand} : "memory");
}}
"""


_BULK: dict[str, str] = {
    "tensor_map": """
// How a matrix lies in memory, for bulk copies: the driver writes it at the launch.
struct __align__(64) tensor_map {
    unsigned long long words[16];
};
""",
    **{f"bulk_copy_{rank}d": _bulk_copy(rank, False) for rank in (2, 3)},
    **{f"bulk_share_{rank}d": _bulk_copy(rank, True) for rank in (2, 3)},
    "mbarrier_init": _barrier_function("mbarrier_init", "arrivals", "mbarrier.init.shared::cta.b64 [%0], %1"),
    "mbarrier_expect": _barrier_function("mbarrier_expect", "bytes", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1"),
    "mbarrier_arrive": _barrier_function("mbarrier_arrive", "", "mbarrier.arrive.shared::cta.b64 _, [%0]"),
    "mbarrier_arrive_at": """
// Arrives at the barrier that the block of this number in the cluster has at the same place.
DEVICE void mbarrier_arrive_at(unsigned long long *barrier, int block)
{
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there]; }"
                 ::"r"((unsigned)__cvta_generic_to_shared(barrier)), "r"(block) : "memory");
}
""",
    "cluster_sync": """
// All threads of all blocks of the cluster meet.
DEVICE void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}
""",
    "fence_mbarrier_init": """
// Makes barriers that this thread has initialised visible to bulk copies.
DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
""",
    "mbarrier_wait": """
// Waits until the phase of this parity is complete.
DEVICE void mbarrier_wait(unsigned long long *barrier, int parity)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(barrier);
    unsigned done = 0;
    while (!done) {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(at), "r"(parity) : "memory");
    }
}
""",
}

_WARPGROUP: dict[str, str] = {
    "wgmma_tile": """
// Describes a tile in shared memory to the matrix unit: rows of 128 bytes in its permutation, eight rows to 1024 bytes.
DEVICE unsigned long long wgmma_tile(const void *start)
{
    const unsigned long long address = (unsigned)__cvta_generic_to_shared(start);
    return (address & 0x3ffff) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}
""",
    "fence_async_proxy": """
// Makes what this thread has written to shared memory visible to the matrix unit.
DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
""",
    "wgmma_fence": """
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
""",
    "wgmma_commit": """
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
""",
    "wgmma_wait": """
template <int GROUPS> DEVICE void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
""",
    **_BULK,
    **{f"wgmma_m64n{n}k16_{t}": _warpgroup_product(n, t) for n in WARPGROUP_COLUMNS for t in ("f16", "bf16")},
}

INSTRUCTIONS: dict[str, str] = {
    "power_of_two": """
// 2 to the power of x, as exact as exp2f; results below the normal numbers are zero, which exp2f takes three instructions for.
DEVICE float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
""",
    "DYNAMIC_SHARED": """
// Shared memory of a size that the launch gives.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
""",
    "cp_async": """
// Starts a copy of BYTES from global to shared memory; zeros if the condition does not hold.
template <int BYTES> DEVICE void cp_async(void *to, const void *from, bool condition = true)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    const int size = condition ? BYTES : 0;
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(size) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     ::"r"(at), "l"(from), "n"(BYTES), "r"(size) : "memory");
    }
}
""",
    "cp_async_commit": """
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
""",
    "cp_async_wait": """
template <int GROUPS> DEVICE void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}
""",
    **{f"ldmatrix_x{n}{t}": _matrices(n, bool(t)) for n in (1, 2, 4) for t in ("", "_trans")},
    "mma_m16n8k16_f16": _product("mma_m16n8k16_f16", "m16n8k16", "f32.f16.f16.f32", "f", 4, 2),
    "mma_m16n8k16_bf16": _product("mma_m16n8k16_bf16", "m16n8k16", "f32.bf16.bf16.f32", "f", 4, 2),
    "mma_m16n8k8_tf32": _product("mma_m16n8k8_tf32", "m16n8k8", "f32.tf32.tf32.f32", "f", 4, 2),
    "mma_m16n8k32_s8": _product("mma_m16n8k32_s8", "m16n8k32", "s32.s8.s8.s32", "r", 4, 2),
    "mma_m16n8k32_u8s8": _product("mma_m16n8k32_u8s8", "m16n8k32", "s32.u8.s8.s32", "r", 4, 2),
    **{f"mma_sp_m16n8k32_{t}": _sparse_product(t) for t in ("f16", "bf16")},
    **_WARPGROUP,
}

CUDA = Dialect(
    name="CUDA",
    types={**INTEGER_TYPES, "f64": "double", "f32": "float", "f16": "__half", "bf16": "__nv_bfloat16"},
    functions=_FUNCTIONS,
    conversions={
        ("f16", "f32"): "__half2float({0})", ("f32", "f16"): "__float2half_rn({0})", ("f64", "f16"): "__double2half({0})",
        ("bf16", "f32"): "__bfloat162float({0})", ("f32", "bf16"): "__float2bfloat16_rn({0})",
    },
    spaces={"shared": "__shared__ __align__(16) ", "register": "", "stack": "",
            "tensor_map": "const __grid_constant__ tensor_map "},
    signature='extern "C" __global__ void {cluster}__launch_bounds__({threads})\n{name}({parameters})',
    device="static __device__ __forceinline__",
    bindings={f"{kind}.{d}": f"{index}.{d}" for kind, index in (("block", "blockIdx"), ("thread", "threadIdx")) for d in "xyz"},
    before={"unroll": "#pragma unroll"},
    barriers={"block": "__syncthreads();", "warp": "__syncwarp();"},
    instructions=frozenset(INSTRUCTIONS) - {"power_of_two", "cp_async", "DYNAMIC_SHARED", "wgmma_tile", "tensor_map"},
    shared_limit=STATIC_SHARED,
    snippets={**_CONSTANTS, **ARITHMETIC, **_WARP, **INSTRUCTIONS},
)
