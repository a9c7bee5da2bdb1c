"""split, cut, fuse, reorder, kind, split_evenly: same results, and every precondition."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.small_kernels import affine, conv, matmul, row_sum
from codegen.stepwise import loop_names, run_steps
from tilewright.codegen.schedule import (
    cut,
    extent,
    fuse,
    kind,
    loops,
    parallel,
    reorder,
    sink,
    split,
    split_evenly,
    split_ragged,
    unroll,
)
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import Load, const
from tilewright.ir.kernel import Buffer, For, Kernel, Store, axis, coefficient, walk_block
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.traverse import walk


def roles(kernel: Kernel) -> dict[str, bool]:
    return {s.var.name: "reduce" in s.attrs for s in walk_block(kernel.body) if isinstance(s, For)}


def test_split() -> None:
    k = run_steps(affine(6, 8), ("Y",), lambda k: split(k, "i", 3), lambda k: split(k, "j", 2, "a", "b"))
    assert loop_names(k) == ["io", "ii", "a", "b"]
    assert [extent(k, n) for n in loop_names(k)] == [2, 3, 4, 2]
    with pytest.raises(ScheduleError, match="kernel affine: split i: 4 does not divide the extent 6; cut the loop first"):
        split(affine(6, 8), "i", 4)
    with pytest.raises(ScheduleError, match="loop z: there is none; the loops are i, j"):
        split(affine(6, 8), "z", 4)


def test_split_of_a_run_time_extent() -> None:
    n = axis("N", None)
    x, y = Buffer("X", "f32", (n,)), Buffer("Y", "f32", (n,))
    i = axis("i", n)
    kernel = Kernel("dynamic", (x, y, n), (For(i, (Store(y, (i,), x[i] * 2.0),)),))
    whole = n // 4 * 4
    for size in (3, 8, 13):
        k = run_steps(kernel, ("Y",), lambda k: cut(k, "i", whole), lambda k: split(k, "i0", 4), sizes={"N": size})
        assert loop_names(k) == ["i0o", "i0i"]
    with pytest.raises(ScheduleError, match="does not divide the extent"):
        split(kernel, "i", 4)


@pytest.mark.parametrize("even", [False, True])
def test_ragged_tiles_of_a_run_time_extent(even: bool) -> None:
    """Every iteration is reached, none outside of the extent; where two sizes can make it up, each runs once."""
    n = axis("N", None)
    x, y = Buffer("X", "i64", (n,)), Buffer("Y", "i64", (n,))
    i = axis("i", n)
    kernel = Kernel("ragged", (x, y, n), (For(i, (Store(y, (i,), y[i] + x[i]),)),))
    k, tiles = split_ragged(kernel, "i", [5, 2, 1], even=even)
    assert [t.size for t in tiles] == ([5, 4, 2, 1] if even else [5, 2, 1])
    for size in range(1, 48):
        times = np.zeros(size, np.int64)
        run_kernel(k, {"X": np.ones(size, np.int64), "Y": times}, {"N": size})
        assert times.min() == 1 and times.sum() - size < 5
        assert not (even and size >= 20) or times.max() == 1


def test_cut() -> None:
    k = run_steps(matmul(5, 4, 3), ("C",), lambda k: cut(k, "m", 2), lambda k: cut(k, "k", 1, "k_first", "k_rest"))
    assert [extent(k, n) for n in ("m0", "m1", "k_first", "k_rest")] == [2, 3, 1, 2]
    assert roles(k) == {"m0": False, "m1": False, "n": False, "k_first": True, "k_rest": True}
    for at in (0, 5, 6):
        with pytest.raises(ScheduleError, match=f"cut m: {at} does not lie inside the extent 5"):
            cut(matmul(5, 4, 3), "m", at)


def test_fuse() -> None:
    k = run_steps(conv(5, 6, 2, 3, 2, 1), ("C",), lambda k: fuse(k, "kw", "ic", "k"), lambda k: fuse(k, "oh", "ow", "p"))
    assert roles(k) == {"p": False, "n": False, "kh": True, "k": True}
    loads = [e for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value) if isinstance(e, Load)]
    run = loops(k, "k")[0].var
    steps = {e.buf.name: coefficient(e.buf, e.idx, run) for e in loads if e.buf.name in "AB"}
    assert steps == {"A": 1, "B": 3}, "the (kw, ic) run is contiguous: no division is left in addresses"
    with pytest.raises(ScheduleError, match="fuse m, n: expected only the loop n inside m, found Store"):
        x, y = Buffer("X", "f32", (3,)), Buffer("Y", "f32", (3, 3))
        m, n = axis("m", 3), axis("n", 3)
        fuse(Kernel("k", (x, y), (For(m, (Store(x, (m,), const(0.0, "f32")), For(n, ()))),)), "m", "n", "p")
    with pytest.raises(ScheduleError, match="before making a loop parallel"):
        fuse(parallel(affine(4, 4), "i"), "i", "j", "p")


def test_fuse_needs_independent_extents() -> None:
    y = Buffer("Y", "f32", (4, 4))
    i = axis("i", 4)
    j = axis("j", i + 1)
    triangle = Kernel("triangle", (y,), (For(i, (For(j, (Store(y, (i, j), const(1.0, "f32")),)),)),))
    with pytest.raises(ScheduleError, match=r"fuse i, j: .* depends on i"):
        fuse(triangle, "i", "j", "p")
    with pytest.raises(ScheduleError, match=r"reorder i, j: the extent .* of j depends on a loop of the nest"):
        reorder(triangle, ["i", "j"], ["j", "i"])
    with pytest.raises(ScheduleError, match="kind j: the extent"):
        kind(triangle, "j", "unroll")
    run_steps(triangle, ("Y",), lambda k: split(k, "i", 2))


def test_reorder() -> None:
    k = run_steps(conv(5, 5, 2, 3, 2, 1), ("C",), lambda k: reorder(k, ["oh", "ow", "n"], ["n", "oh", "ow"]),
                  lambda k: sink(k, ["ow"]), lambda k: reorder(k, ["ic", "ow"], ["ow", "ic"]))
    assert loop_names(k)[:2] == ["n", "oh"]
    with pytest.raises(ScheduleError, match="the order of the reduction loops kh, kw, ic changes"):
        reorder(conv(5, 5, 2, 3, 2, 1), ["kh", "kw", "ic"], ["ic", "kh", "kw"])
    run_steps(conv(5, 5, 2, 3, 2, 1), ("C",), lambda k: reorder(k, ["kh", "kw", "ic"], ["ic", "kh", "kw"], associative=True))
    with pytest.raises(ScheduleError, match="n, n is not a permutation"):
        reorder(affine(3, 3), ["i", "j"], ["n", "n"])
    with pytest.raises(ScheduleError, match="expected only the loop k inside n, found Alloc, Store, loop k, Store"):
        reorder(matmul(3, 3, 3), ["m", "n", "k"], ["k", "n", "m"])


def test_kinds() -> None:
    k = run_steps(matmul(5, 4, 3), ("C",), lambda k: unroll(k, "n", "k"), lambda k: parallel(k, "m"), threads=3)
    assert [s.kind for n in ("m", "n", "k") for s in loops(k, n)] == ["parallel", "unroll", "unroll"]
    with pytest.raises(ScheduleError, match="kind k: a reduction cannot be parallel"):
        kind(matmul(3, 3, 3), "k", "parallel")
    with pytest.raises(ScheduleError, match="parallel n: the loop does not stand at the top of the kernel"):
        parallel(matmul(3, 3, 3), "n")
    total = lower_group("total", (x := Buffer("X", "f32", (4,)), y := Buffer("Y", "f32", ())),
                        (Compute(y, (), x[axis("j", 4)], (axis("j", 4),), "add"),))
    with pytest.raises(ScheduleError, match="a reduction cannot be parallel"):
        parallel(total, "j")


@pytest.mark.parametrize("rows, most, sizes", [(12, 4, [4]), (10, 4, [4, 3]), (7, 8, [7]), (13, 6, [5, 4])])
def test_split_evenly(rows: int, most: int, sizes: list[int]) -> None:
    k, tiles = split_evenly(row_sum(rows, 3), "i", most)
    assert [t.size for t in tiles] == sizes
    assert sum(t.size * t.count for t in tiles) == rows
    assert [t.first for t in tiles] == [0, tiles[0].count][: len(tiles)]
    for t in tiles:
        assert (extent(k, t.outer), extent(k, t.inner)) == (t.count, t.size)
    run_steps(row_sum(rows, 3), ("Y",), lambda k: split_evenly(k, "i", most)[0])
