"""Statements and memory accesses: machine code gives what the kernel interpreter gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from codegen.native import run_native
from tilewright.codegen.llvm import emit_kernel, scratch_bytes
from tilewright.codegen.machine import parse_machine
from tilewright.ir.expr import Expr, Load, Ramp, Type, Var, binary, cast, const, fma, select, splat
from tilewright.ir.kernel import Alloc, Barrier, Buffer, For, If, Kernel, Prefetch, Stmt, Store, axis, store
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.types import DTYPES

V3 = parse_machine("cpu:x86-64-v3")
I64X = Type("i64", 4)


def check(kernel: Kernel, arrays: dict[str, np.ndarray], sizes: Mapping[str, int] | None = None, threads: int = 1) -> None:
    expected = {k: v.copy() for k, v in arrays.items()}
    run_kernel(kernel, expected, sizes, threads)
    run_native(kernel, arrays, sizes, threads=threads)
    for name, got in arrays.items():
        np.testing.assert_allclose(got, expected[name], rtol=2e-6, err_msg=name)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def widened(buf: Buffer, lanes: int, *idx: Expr | int) -> Expr:
    scalar = buf[idx]
    assert isinstance(scalar, Load)
    return Load.of(buf, scalar.idx, Type(buf.dtype, lanes))


def matmul_kernel(m: int, n: int, k: int, rows: int, lanes: int) -> Kernel:
    """Register tile of rows x lanes, unrolled; loops over tiles shared among threads."""
    a, b, c = (Buffer("A", "f32", (m, k)), Buffer("B", "f32", (k, n)), Buffer("C", "f32", (m, n)))
    acc = Buffer("acc", "f32", (rows, lanes), "register")
    mo, no, ko, mi = axis("mo", m // rows), axis("no", n // lanes), axis("ko", k), axis("mi", rows)
    total = Load.of(acc, (mi, const(0)), Type("f32", lanes))
    product = fma(splat(a[mo * rows + mi, ko], lanes), widened(b, lanes, ko, no * lanes), total)
    body = (
        Alloc(acc),
        For(mi, (Store(acc, (mi, const(0)), splat(const(0.0, "f32"), lanes)),), "unroll"),
        For(ko, (For(mi, (Store(acc, (mi, const(0)), product),), "unroll"), Prefetch(b, (ko + 1, no * lanes)))),
        For(mi, (Store(c, (mo * rows + mi, no * lanes), total),), "unroll"),
    )
    return Kernel("matmul", (a, b, c), (For(mo, (For(no, body),), "parallel"),))


@pytest.mark.parametrize("threads", [1, 3])
def test_register_tile(threads: int) -> None:
    kernel = matmul_kernel(12, 20, 7, 3, 5)
    check(kernel, {"A": floats(12, 7), "B": floats(7, 20), "C": np.zeros((12, 20), np.float32)}, threads=threads)


def test_more_threads_than_iterations() -> None:
    kernel = matmul_kernel(4, 5, 3, 2, 5)
    check(kernel, {"A": floats(4, 3), "B": floats(3, 5), "C": np.zeros((4, 5), np.float32)}, threads=5)


def test_loop_invariant_code_is_outside() -> None:
    """Of the inner loop, only loads, fmas and its own counting remain."""
    text = emit_kernel(matmul_kernel(16, 16, 64, 2, 16), V3)
    inner = text.split("loop")[3:]
    body = max(inner, key=lambda part: part.count("llvm.fma"))
    assert body.count("llvm.fma") == 2 and body.count("mul nsw") == 2  # one for A, one for B


@pytest.mark.parametrize("size", [0, 1, 9])
def test_dynamic_extent_carries_cells(size: int) -> None:
    """A loop that may not run leaves the cell as it was."""
    n = Var.of("n", None, Type("i64"))
    x, y, acc = Buffer("X", "f32", (n,)), Buffer("Y", "f32", (1,)), Buffer("acc", "f32", (), "register")
    i = axis("i", n)
    body = (Alloc(acc), store(acc, (), 5.0), For(i, (store(acc, (), acc[()] + x[i]),)), store(y, (0,), acc[()]))
    check(Kernel("k", (x, y, n), body), {"X": floats(size), "Y": np.zeros(1, np.float32)}, {"n": size})


def test_dynamic_shape_and_extent_from_memory() -> None:
    """Ragged rows: the extent of the inner loop is loaded."""
    n = Var.of("n", None, Type("i64"))
    x, count, y = Buffer("X", "f32", (4, n)), Buffer("count", "i64", (4,)), Buffer("Y", "f32", (4,))
    acc = Buffer("acc", "f32", (), "register")
    i = axis("i", 4)
    j = axis("j", count[i])
    row = (Alloc(acc), store(acc, (), 0.0), For(j, (store(acc, (), acc[()] + x[i, j]),)), store(y, (i,), acc[()]))
    arrays = {"X": floats(4, 6), "count": np.array([0, 6, 3, 1]), "Y": np.zeros(4, np.float32)}
    check(Kernel("k", (x, count, y, n), (For(i, row, "parallel"),)), arrays, {"n": 6}, threads=2)


def test_branches_merge_cells() -> None:
    x, y = Buffer("X", "f32", (8,)), Buffer("Y", "f32", (8, 2))
    a, b = Buffer("a", "f32", (), "register"), Buffer("b", "f32", (), "register")
    i = axis("i", 8)
    branch = If(binary("lt", 0.0, x[i]), (store(a, (), x[i] * 2.0), store(b, (), 1.0)), (store(b, (), x[i]),))
    inner = If(binary("lt", i, 4), (branch,), (store(b, (), 7.0),))
    body = (Alloc(a), Alloc(b), store(a, (), -1.0), store(b, (), 0.0), inner, store(y, (i, 0), a[()]), store(y, (i, 1), b[()]))
    arrays = {"X": floats(8), "Y": np.zeros((8, 2), np.float32)}
    check(Kernel("k", (x, y), (For(i, body),)), arrays)
    check(Kernel("k", (x, y), (For(i, body, "unroll"),)), arrays)


def test_branch_guards_a_load() -> None:
    """A load under a condition does not move out of the branch."""
    x, y = Buffer("X", "f32", (8,)), Buffer("Y", "f32", (12,))
    i = axis("i", 12)
    body = If(binary("lt", i, 8), (store(y, (i,), x[i]),), (store(y, (i,), 0.0),))
    check(Kernel("k", (x, y), (For(i, (body,)),)), {"X": floats(8), "Y": np.ones(12, np.float32)})


def test_nested_loops_carry_through() -> None:
    """A cell written in an inner loop is carried by all loops around it."""
    x, y, acc = Buffer("X", "f32", (3, 4)), Buffer("Y", "f32", (1,)), Buffer("acc", "f32", (), "register")
    i, j = axis("i", 3), axis("j", 4)
    nest = For(i, (For(j, (store(acc, (), acc[()] * 0.5 + x[i, j]),)),))
    check(Kernel("k", (x, y), (Alloc(acc), store(acc, (), 0.0), nest, store(y, (0,), acc[()]))),
          {"X": floats(3, 4), "Y": np.zeros(1, np.float32)})


def test_stack_buffers_share_memory_of_finished_blocks() -> None:
    x, y = Buffer("X", "f32", (8,)), Buffer("Y", "f32", (8,))
    first, second, outer = (Buffer(n, "f32", (8,), "stack") for n in ("first", "second", "outer"))
    i, j, r = axis("i", 8), axis("j", 8), axis("r", 2)
    body: tuple[Stmt, ...] = (
        Alloc(outer),
        For(r, (Alloc(first), For(i, (store(first, (i,), x[i] + 1.0),)), For(j, (store(outer, (j,), first[7 - j]),)))),
        For(r, (Alloc(second), For(i, (store(second, (i,), outer[i] * 2.0),)), For(j, (store(y, (j,), second[j]),)))),
    )
    kernel = Kernel("k", (x, y), body)
    assert scratch_bytes(kernel) == 2 * 64 - 32
    check(kernel, {"X": floats(8), "Y": np.zeros(8, np.float32)})


def test_strided_parameters() -> None:
    """A slice of a larger array: offsets from the strides, alignment of what they allow."""
    x, y = Buffer("X", "f32", (4, 6), strides=(10, 1)), Buffer("Y", "f32", (6, 4), strides=(1, 6))
    i, j = axis("i", 4), axis("j", 6)
    kernel = Kernel("k", (x, y), (For(i, (For(j, (store(y, (j, i), x[i, j]),)),)),))
    check(kernel, {"X": floats(40), "Y": np.zeros(24, np.float32)})
    columns = Buffer("X", "f32", (4, 6), strides=(1, 4))
    value = Load.of(columns, (const(0), j), Type("f32", 4))
    kernel = Kernel("k", (columns, y), (For(j, (Store(y, (j, const(0)), value + 1.0),)),))
    check(kernel, {"X": floats(24), "Y": np.zeros(24, np.float32)})


@pytest.mark.parametrize("dtype", ["f32", "f64", "i8", "f16", "bool"])
def test_gather_and_scatter(dtype: str) -> None:
    info = DTYPES[dtype]
    x, p, y = Buffer("X", dtype, (9, 5)), Buffer("P", "i64", (8,)), Buffer("Y", dtype, (8, 5))
    i, j = axis("i", 2), axis("j", 5)
    rows = Load.of(p, (i * 4,), I64X)
    picked = Load.of(x, (rows, splat(j, 4)), Type(dtype, 4))
    places = splat(i * 4, 4) + Ramp.of(I64X)
    kernel = Kernel("k", (x, p, y), (For(i, (For(j, (Store(y, (places, splat(j, 4)), picked),)),)),))
    values = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 50, (9, 5)).astype(info.numpy)
    check(kernel, {"X": values, "P": np.array([8, 0, 3, 3, 1, 7, 2, 5]), "Y": np.zeros((8, 5), info.numpy)})


def test_scatter_keeps_the_last_of_equal_places() -> None:
    p, y = Buffer("P", "i64", (4,)), Buffer("Y", "f32", (3,))
    value = cast(Ramp.of(I64X), "f32")
    kernel = Kernel("k", (p, y), (Store(y, (Load.of(p, (const(0),), I64X),), value),))
    check(kernel, {"P": np.array([2, 0, 2, 2]), "Y": np.zeros(3, np.float32)})


def test_loads_of_another_type() -> None:
    """Four u8 as one i32, sixteen as four."""
    x, y = Buffer("X", "u8", (32,)), Buffer("Y", "i32", (5,))
    body = (Store(y, (const(0),), Load.of(x, (const(4),), Type("i32"))),
            Store(y, (const(1),), Load.of(x, (const(16),), Type("i32", 4))))
    arrays = {"X": np.arange(32, dtype=np.uint8), "Y": np.zeros(5, np.int32)}
    run_native(Kernel("k", (x, y), body), arrays)
    assert arrays["Y"].tolist() == arrays["X"].view(np.int32)[[1, 4, 5, 6, 7]].tolist()


def loads_in(text: str) -> int:
    return text.count(" = load ")


def test_loads_are_numbered_until_a_store() -> None:
    x, y, z = (Buffer(n, "f32", (4,)) for n in "XYZ")
    body = (store(y, (0,), x[0] + x[0]), store(y, (1,), x[0]), store(x, (1,), 1.0), store(z, (0,), x[0] + x[1] + y[0]))
    kernel = Kernel("k", (x, y, z), body)
    assert loads_in(emit_kernel(kernel, V3)) == 3  # x[0] before and after the store to x, y[0] after another store to y
    check(kernel, {n: floats(4, seed=k) for k, n in enumerate("XYZ")})


def test_buffers_that_may_alias_are_one() -> None:
    """Both parameters are the same memory."""
    x, y, z = (Buffer(n, "f32", (4,), attrs=("may_alias",)) for n in "XYZ")
    body = (store(y, (0,), x[0] + 1.0), store(z, (0,), x[0] + 1.0))
    text = emit_kernel(Kernel("k", (x, y, z), body), V3)
    assert loads_in(text) == 2 and "noalias %p" not in text


def test_barrier_separates_parallel_loops() -> None:
    x, t, y = Buffer("X", "f32", (16,)), Buffer("T", "f32", (16,)), Buffer("Y", "f32", (16,))
    i, r = axis("i", 16), axis("r", 3)
    step = (For(i, (store(t, (i,), x[i] * 2.0),), "parallel"), Barrier("pool"),
            For(i, (store(y, (i,), y[i] + t[15 - i]),), "parallel"), Barrier("pool"))
    arrays = {"X": floats(16), "T": np.zeros(16, np.float32), "Y": np.zeros(16, np.float32)}
    check(Kernel("k", (x, t, y), (For(r, step),)), arrays, threads=3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parts_take_turns_for_a_thread_alone(threads: int) -> None:
    """The order in which iterations run is seen in what each finds of those before it."""
    y, seen, i = Buffer("Y", "f32", (3, 4)), Buffer("seen", "f32", (1,), "stack"), axis("i", 12)
    body = (store(seen, (0,), seen[0] + 1.0), store(y, (i // 4, i % 4), seen[0]))
    kernel = Kernel("k", (y,), (
        Alloc(seen), store(seen, (0,), const(0.0, "f32")), For(i, body, "parallel", (("interleave", 3),)),
    ))
    verify_kernel(kernel, scheduled=True)
    arrays = {"Y": np.zeros((3, 4), np.float32)}
    check(kernel, arrays, threads=threads)
    if threads == 1:
        np.testing.assert_array_equal(arrays["Y"], [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]])


def test_what_threads_exchange_is_not_noalias() -> None:
    """LLVM must not keep a value of another thread's array across a barrier."""
    x, t = Buffer("X", "f32", (16,)), Buffer("T", "f32", (16,))
    i = axis("i", 16)
    body = (For(i, (store(t, (i,), x[i]),), "parallel"), Barrier("pool"), For(i, (store(t, (i,), t[i] * 2.0),), "parallel"))
    text = emit_kernel(Kernel("k", (x, t), body), V3)
    assert "ptr noalias %p0.X, ptr %p1.T" in text


def test_kernel_without_parallel_loop_runs_once() -> None:
    y = Buffer("Y", "f32", (1,))
    check(Kernel("k", (y,), (store(y, (0,), y[0] + 1.0),)), {"Y": np.zeros(1, np.float32)}, threads=4)


def test_alignment_follows_from_the_index() -> None:
    x, y = Buffer("X", "f32", (8, 24)), Buffer("Y", "f32", (8, 24), align=16)
    i, j = axis("i", 8), axis("j", 3)
    text = emit_kernel(Kernel("k", (x, y), (For(i, (For(j, (Store(y, (i, j * 8), widened(x, 8, i, j * 8)),)),)),)), V3)
    assert "load <8 x float>, ptr %v" in text and "align 32" in text and text.count("align 16") == 1


def test_text_is_deterministic() -> None:
    assert emit_kernel(matmul_kernel(12, 20, 7, 3, 5), V3) == emit_kernel(matmul_kernel(12, 20, 7, 3, 5), V3)


def test_select_index_is_clamped_and_negative_division_floors() -> None:
    x, y = Buffer("X", "f32", (5,)), Buffer("Y", "f32", (12,))
    i = axis("i", 12)
    at = (i - 5) / 3 + 2
    clamped = binary("max", binary("min", at, 4), 0)
    value = select(binary("lt", at, 1), const(-1.0, "f32"), x[clamped])
    kernel = Kernel("k", (x, y), (For(i, (store(y, (i,), value),)),))
    arrays = {"X": floats(5), "Y": np.zeros(12, np.float32)}
    check(kernel, arrays)
    assert arrays["Y"][0] == -1.0
