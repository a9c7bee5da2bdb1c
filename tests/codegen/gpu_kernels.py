"""Kernels for graphics processors written by hand in the loop IR, with mistakes to plant: what tests of the interpreter, the
printer, the emulator and nvcc share.

    transpose   a tile in shared memory, rows padded, one barrier
    softmax     a warp per row: values in registers, reductions by shuffles
    product     f16 on tensor cores: tiles filled by cp.async in two stages, ldmatrix, mma, bias on the fragments
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tilewright.ir.expr import Load, Type, as_expr, binary, call, const, load, select
from tilewright.ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Store, axis, nest, store

TILE = 16


@dataclass(frozen=True)
class Case:
    """kernel: by the name of the mistake, "" for none.  arrays: inputs by name.  outputs: of the NumPy meaning."""

    kernel: Callable[[str], Kernel]
    arrays: Callable[[], dict[str, np.ndarray]]
    expected: Callable[[dict[str, np.ndarray]], np.ndarray]
    tolerance: float


def transpose(bug: str = "", n: int = 40, m: int = 24) -> Kernel:
    """y[j, i] = x[i, j], a 16 x 16 tile per block."""
    x, y = Buffer("x", "f32", (n, m)), Buffer("y", "f32", (m, n))
    size = TILE - 1 if bug == "shared bounds" else TILE
    tile = Buffer("tile", "f32", (size, size), "shared", strides=None if size < TILE else (TILE + 1, 1))
    bi, bj = axis("bi", -(-n // TILE)), axis("bj", -(-m // TILE))
    ti, tj = axis("ti", TILE), axis("tj", TILE)
    i, j = bi * TILE + ti, bj * TILE + tj
    inside = binary("and", binary("lt", i, n), binary("lt", j, m))
    if bug == "global bounds":
        inside = binary("lt", i, n)
    fill: Block = (If(inside, (store(tile, (ti, tj), load(x, i, j)),)),)
    i, j = bi * TILE + tj, bj * TILE + ti
    inside = binary("and", binary("lt", i, n), binary("lt", j, m))
    drain: Block = (If(inside, (store(y, (j, i), load(tile, tj, ti)),)),)
    barrier: Block = () if bug == "no barrier" else (Barrier("block"),)
    if bug == "divergent barrier":
        barrier = (If(binary("lt", ti, TILE // 2), (Barrier("block"),), (Barrier("block"),)),)
    if bug == "same element":
        drain = (store(y, (as_expr(0), as_expr(0)), load(tile, ti, tj)),)
    body = (Alloc(tile), *fill, *barrier, *drain)
    loops = nest((bi,), nest((bj,), nest((ti,), nest((tj,), body, "thread.x"), "thread.y"), "block.x"), "block.y")
    return Kernel("transpose", (y, x), loops)


def softmax(bug: str = "", rows: int = 6, columns: int = 96) -> Kernel:
    """A warp per row, two rows per block."""
    x, y = Buffer("x", "f32", (rows, columns)), Buffer("y", "f32", (rows, columns))
    per = columns // 32
    e = Buffer("e", "f32", (per,), "register")
    most, total = Buffer("most", "f32", (), "register"), Buffer("total", "f32", (), "register")
    b, w, t = axis("b", rows // 2), axis("w", 2), axis("t", 32)
    row = b * 2 + w
    steps = [axis(f"k{n}", per) for n in range(3)]
    at = [k * 32 + t for k in steps]
    first: Block = (
        store(e, (steps[0],), load(x, row, at[0])),
        store(most, (), binary("max", load(most), load(e, steps[0]))),
    )
    second: Block = (
        store(e, (steps[1],), call("exp", load(e, steps[1]) - load(most))),
        store(total, (), load(total) + load(e, steps[1])),
    )
    third: Block = (store(y, (row, at[2]), load(e, steps[2]) / load(total)),)
    width = "warp_add_16" if bug == "half a warp" else "warp_add"
    reduce: Block = (store(total, (), call(width, load(total))),)
    if bug == "part of a warp":
        reduce = (If(binary("lt", t, 20), reduce),)
    body = (
        Alloc(e), Alloc(most), Alloc(total), store(most, (), const(float("-inf"), "f32")), store(total, (), const(0, "f32")),
        For(steps[0], first, "unroll"), store(most, (), call("warp_max", load(most))), For(steps[1], second, "unroll"), *reduce,
        For(steps[2], third, "unroll"),
    )
    return Kernel("softmax", (y, x), nest((b,), nest((w,), nest((t,), body, "thread.x"), "thread.y"), "block.x"))


def product(bug: str = "", m: int = 64, n: int = 32, k: int = 64) -> Kernel:
    """y[m, n] = a[m, k] @ b[k, n] + bias[n]: a block of two warps makes 32 x 16, 32 of k at a time in two stages."""
    a, b = Buffer("a", "f16", (m, k)), Buffer("b", "f16", (k, n))
    y, bias = Buffer("y", "f32", (m, n)), Buffer("bias", "f32", (n,))
    bm, bn, bk, pad = 32, 16, 32, 8
    ta = Buffer("ta", "f16", (2, bm, bk), "shared", strides=(bm * (bk + pad), bk + pad, 1))
    tb = Buffer("tb", "f16", (2, bk, bn), "shared", strides=(bk * (bn + pad), bn + pad, 1))
    acc = Buffer("acc", "f32", (2, 4), "register")
    fa, fb = Buffer("fa", "f16", (8,), "register"), Buffer("fb", "f16", (2, 4), "register")
    i0, j0, w, t = axis("mb", m // bm), axis("nb", n // bn), axis("w", 2), axis("t", 32)
    thread = w * 32 + t
    stages = k // bk

    def fill(step, stage, guard=None):  # type: ignore[no-untyped-def]
        """64 threads copy 32 x 32 of a in two 16-byte pieces each and 32 x 16 of b in one."""
        q = axis("q", 2)
        ra, ca = (thread + q * 64) // 4, (thread + q * 64) % 4 * 8
        rb, cb = thread // 2, thread % 2 * 8
        from_a = Load.of(a, (i0 * bm + ra, step * bk + ca), Type("f16", 8))
        from_b = Load.of(b, (step * bk + rb, j0 * bn + cb), Type("f16", 8))
        if guard is not None:
            zero = const(0, Type("f16", 8))
            from_a, from_b = select(guard, from_a, zero), select(guard, from_b, zero)
        return (
            For(q, (Store(ta, (stage, ra, ca), from_a, "async"),), "unroll"),
            Store(tb, (stage, rb, cb), from_b, "async"), Do("cp_async_commit"),
        )

    ko, kf, f, e = axis("ko", stages), axis("kf", bk // 16), axis("f", 2), axis("e", 4)
    stage = ko % 2
    row = Load.of(ta, (stage, w * 16 + t % 16, kf * 16 + t // 16 * 8), Type("f16"))
    column = Load.of(tb, (stage, kf * 16 + t % 16, f * 8), Type("f16"))
    use: Block = (
        Do("ldmatrix_x4", (Load.of(fa, (), Type("f16")), row)),
        For(f, (Do("ldmatrix_x2_trans", (Load.of(fb, (f,), Type("f16")), column)),), "unroll"),
        For(axis("g", 2), (Do("mma_m16n8k16_f16", (Load.of(acc, (axis("g", 2),), Type("f32")), Load.of(fa, (), Type("f16")),
                                                 Load.of(fb, (axis("g", 2),), Type("f16")))),), "unroll"),
    )
    last = binary("min", ko + 1, stages - 1)  # the copy of a stage behind the end brings zeros, from an address that exists
    wait = 1 if bug != "no wait" else 2
    loop: Block = (
        *fill(last, (ko + 1) % 2, binary("lt", ko + 1, stages)), Do("cp_async_wait", (as_expr(wait),)),
        *(() if bug == "no barrier" else (Barrier("block"),)), For(kf, use, "unroll"),
        *(() if bug == "no second barrier" else (Barrier("block"),)),
    )
    out_row, out_column = i0 * bm + w * 16 + t // 4 + e // 2 * 8, j0 * bn + f * 8 + t % 4 * 2 + e % 2
    drain: Block = (store(y, (out_row, out_column), load(acc, f, e) + load(bias, out_column)),)
    body = (
        Alloc(ta), Alloc(tb), Alloc(acc), Alloc(fa), Alloc(fb),
        *nest((f, e), (store(acc, (f, e), const(0, "f32")),), "unroll"), *fill(as_expr(0), as_expr(0)),
        For(ko, loop, "serial", ("reduce",)), *nest((f, e), drain, "unroll"),
    )
    loops = nest((i0,), nest((j0,), nest((w,), nest((t,), body, "thread.x"), "thread.y"), "block.x"), "block.y")
    return Kernel("product", (y, a, b, bias), loops)


def scaled(bug: str = "", size: int = 1000) -> Kernel:
    """y = 2 * x + 1 by vectors of four, the rest one by one: two nests of different sizes in one launch."""
    x, y = Buffer("x", "f32", (size,)), Buffer("y", "f32", (size,))
    whole = size // 4
    b, t = axis("b", -(-whole // 64)), axis("t", 64)
    at = (b * 64 + t) * 4 + (1 if bug == "misaligned" else 0)
    four = Type("f32", 4)
    value = Load.of(x, (at,), four) * 2.0 + 1.0
    vectors = If(binary("lt", b * 64 + t, whole - (bug == "misaligned")), (Store(y, (at,), value),))
    c, r = axis("c", 1), axis("r", max(size % 4, 1))
    i = as_expr(whole * 4) + r
    rest = For(c, (For(r, (store(y, (i,), load(x, i) * 2.0 + 1.0),), "thread.x"),), "block.x")
    body = (For(b, (For(t, (vectors,), "thread.x"),), "block.x"), *((rest,) if size % 4 else ()))
    return Kernel("scaled", (y, x), body)


def _floats(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(len(shape) + shape[-1]).integers(-8, 9, shape).astype(dtype) / np.dtype(dtype).type(8)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


CASES: dict[str, Case] = {
    "transpose": Case(transpose, lambda: {"x": _floats(40, 24)}, lambda a: a["x"].T, 0),
    "softmax": Case(softmax, lambda: {"x": _floats(6, 96)}, lambda a: _softmax(a["x"]), 1e-6),
    "product": Case(
        product, lambda: {"a": _floats(64, 64, dtype="f2"), "b": _floats(64, 32, dtype="f2"), "bias": _floats(32)},
        lambda a: a["a"].astype("f4") @ a["b"].astype("f4") + a["bias"], 1e-6,
    ),
    "scaled": Case(scaled, lambda: {"x": _floats(1000)}, lambda a: a["x"] * 2 + 1, 0),
    "scaled with a rest": Case(lambda bug: scaled(bug, 1003), lambda: {"x": _floats(1003)}, lambda a: a["x"] * 2 + 1, 0),
}

# (case, mistake, what the emulator says)
MISTAKES = (
    ("transpose", "no barrier", "race"),
    ("transpose", "divergent barrier", "divergent barrier"),
    ("transpose", "shared bounds", "out of bounds"),
    ("transpose", "global bounds", "out of bounds"),
    ("transpose", "same element", "race"),
    ("softmax", "part of a warp", "divergent|returned|different"),
    ("product", "no barrier", "race"),
    ("product", "no second barrier", "race"),
    ("scaled", "misaligned", "misaligned"),
)
# Mistakes that show in the numbers.
WRONG_NUMBERS = (("softmax", "half a warp"), ("product", "no wait"))


def arrays_of(case: Case) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All parameters, the output filled with NaN; and what it must become."""
    arrays = case.arrays()
    expected = np.ascontiguousarray(case.expected(arrays))
    arrays["y"] = np.full(expected.shape, np.nan, expected.dtype)
    return arrays, expected
