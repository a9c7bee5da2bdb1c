"""`schedule_reduce` over every choice of axes, types and odd sizes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from codegen.strategy_check import check
from tilewright.codegen.strategies.reduce import schedule_reduce
from tilewright.ir.compute import Compute, acc_var, lower_group
from tilewright.ir.expr import HReduce, binary, call, cast, const
from tilewright.ir.kernel import Buffer, Kernel, Store, axis, walk_block
from tilewright.ir.traverse import walk
from tilewright.ir.types import DTYPES


def reduction(shape: tuple[int, ...], over: tuple[int, ...], op: str = "add", dtype: str = "f32", strides=None) -> Kernel:
    x = Buffer("x", dtype, shape, strides=strides)
    out = Buffer("out", dtype, tuple(n for d, n in enumerate(shape) if d not in over))
    every = [axis(f"{'r' if d in over else 'd'}{d}", n) for d, n in enumerate(shape)]
    kept = tuple(v for d, v in enumerate(every) if d not in over)
    return lower_group("reduce", (x, out), (Compute(out, kept, x[tuple(every)], tuple(every[d] for d in over), op),))


def horizontal(kernel: Kernel) -> int:
    return sum(isinstance(e, HReduce) for s in walk_block(kernel.body) if isinstance(s, Store) for e in walk(s.value))


SHAPE = (3, 5, 37)
CHOICES = [c for n in (1, 2, 3) for c in combinations(range(3), n)]


@pytest.mark.parametrize("over", CHOICES)
def test_axes(over: tuple[int, ...]) -> None:
    k = check(reduction(SHAPE, over), ("out",), schedule_reduce, rtol=1e-6)
    assert bool(horizontal(k)) == (2 in over), "vectors run along the contiguous axis"


@pytest.mark.parametrize("over", [(0,), (1,), (0, 2)])
@pytest.mark.parametrize("dtype, op", [("f32", "max"), ("f64", "add"), ("i32", "add"), ("i64", "min"), ("u8", "max"),
                                       ("i8", "add"), ("f32", "mul"), ("i64", "add")])
def test_types(over: tuple[int, ...], dtype: str, op: str) -> None:
    data = (np.arange(5 * 2 * 50).reshape(5, 2, 50) % 11 - (0 if dtype[0] == "u" else 4)).astype(DTYPES[dtype].numpy)
    inputs = {"x": data if op != "mul" else 1 + data / 64}
    check(reduction((5, 2, 50), over, op, dtype), ("out",), schedule_reduce,
          {"x": inputs["x"].astype(DTYPES[dtype].numpy)}, rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 7, 15, 16, 17, 31, 64, 100, 200])
def test_row_lengths(columns: int) -> None:
    check(reduction((3, columns), (1,)), ("out",), schedule_reduce)
    check(reduction((columns, 3), (0,)), ("out",), schedule_reduce)


@pytest.mark.parametrize("channels", [8, 16, 40, 150, 320])
def test_average_over_pixels(channels: int) -> None:
    """Channels-last global average: vectors over the channels, no horizontal operation."""
    x, out = Buffer("x", "f32", (2, 4, 5, channels)), Buffer("out", "f32", (2, 1, 1, channels))
    n, c, h, w = axis("n", 2), axis("c", channels), axis("h", 4), axis("w", 5)
    mean = acc_var("f32") * const(1 / 20, "f32")
    zero = const(0)
    c1 = Compute(out, (n, c), x[n, h, w, c], (h, w), "add", mean, index=(n, zero, zero, c))
    k = check(lower_group("average", (x, out), (c1,)), ("out",), schedule_reduce)
    assert not horizontal(k)


def test_max_skips_nan() -> None:
    data = np.random.default_rng(0).standard_normal((4, 40)).astype(np.float32)
    data[0, 0] = data[1, 17] = data[2, 39] = np.nan
    data[3] = np.nan
    for over in ((1,), (0,)):
        check(reduction((4, 40), over, "max"), ("out",), schedule_reduce, {"x": data})
    check(reduction((4, 9), (1,), "max"), ("out",), schedule_reduce, {"x": np.ascontiguousarray(data[:, :9])})


def test_epilogue_and_prologue() -> None:
    x, s, out = Buffer("x", "f32", (6, 50)), Buffer("s", "f32", (6,)), Buffer("out", "f32", (6,))
    i, j = axis("i", 6), axis("j", 50)
    finish = call("exp", binary("min", acc_var("f32") * s[i], const(2.0, "f32")))
    c = Compute(out, (i,), x[i, j] * x[i, j] + 1.0, (j,), "add", finish)
    check(lower_group("norm", (x, s, out), (c,)), ("out",), schedule_reduce, rtol=1e-5)


def test_half_precision_sums() -> None:
    x, out = Buffer("x", "f16", (5, 33)), Buffer("out", "f16", (5,))
    i, j = axis("i", 5), axis("j", 33)
    kernel = lower_group("half", (x, out), (Compute(out, (i,), cast(x[i, j], "f32"), (j,), "add"),))
    check(kernel, ("out",), schedule_reduce)


def test_strides_and_unit_axes() -> None:
    check(reduction((4, 20), (1,), strides=(1, 4)), ("out",), schedule_reduce)
    check(reduction((4, 20), (1,), strides=(64, 2)), ("out",), schedule_reduce)
    check(reduction((1, 20, 1), (0, 2)), ("out",), schedule_reduce)
    check(reduction((1, 20, 1), (1,)), ("out",), schedule_reduce)
    check(reduction((3, 1, 1), (1, 2)), ("out",), schedule_reduce)


def test_products_of_two_operands() -> None:
    a, b, out = Buffer("a", "f32", (7, 45)), Buffer("b", "f32", (45,)), Buffer("out", "f32", (7,))
    i, j = axis("i", 7), axis("j", 45)
    check(lower_group("dot", (a, b, out), (Compute(out, (i,), a[i, j] * b[j], (j,), "add"),)), ("out",), schedule_reduce)


def test_no_elements() -> None:
    check(reduction((3, 0), (1,)), ("out",), schedule_reduce)


def test_run_time_rows() -> None:
    n = axis("N", None)
    x, out = Buffer("x", "f32", (n, 37)), Buffer("out", "f32", (n,))
    i, j = axis("i", n), axis("j", 37)
    body = lower_group("m", (x, out), (Compute(out, (i,), x[i, j], (j,), "add"),)).body
    check(Kernel("dynamic", (x, out, n), body), ("out",), schedule_reduce, sizes={"N": 5})
    y, total = Buffer("y", "f32", (3, n)), Buffer("out", "f32", (3,))
    i, j = axis("i", 3), axis("j", n)
    body = lower_group("m", (y, total), (Compute(total, (i,), y[i, j], (j,), "add"),)).body
    for size in (5, 16, 37):
        check(Kernel("dynamic", (y, total, n), body), ("out",), schedule_reduce, sizes={"N": size})
