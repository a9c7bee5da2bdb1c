"""Which graphs are proven to treat their rows one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tilewright.codegen.row_axes import NotProvenError, Rows, row_axes
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.ops.movement import Broadcast, Concat, Gather, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import LayerNorm, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.sort import TopK
from tilewright.ir.types import TensorType

Make = Callable[[Builder, Value, int], Value]


def graph(make: Make, rows: int) -> Graph:
    b = Builder("rows")
    return b.graph([make(b, b.input("x", TensorType("f32", (rows, 6, 4))), rows)], ["y"])


def weight(b: Builder, *shape: int) -> Value:
    return b.constant(np.random.default_rng(0).standard_normal(shape, np.float32))


def merged_and_back(b: Builder, x: Value, rows: int) -> Value:
    """[rows, 6, 4] -> [rows * 6, 4] @ w -> [rows, 6, 3]"""
    return b.add(Reshape((rows, 6, 3)), b.add(MatMul(), b.add(Reshape((rows * 6, 4)), x), weight(b, 4, 3)))


def with_zeros(b: Builder, x: Value, rows: int) -> Value:
    return b.add(Concat(1), x, b.constant(np.zeros((rows, 1, 4), np.float32)))


INDEPENDENT: dict[str, tuple[Make, Rows]] = {
    "product": (lambda b, x, n: b.add(MatMul(), x, weight(b, 4, 3)), Rows(0)),
    "product of two": (lambda b, x, n: b.add(MatMul(), x, b.add(Transpose((0, 2, 1)), x)), Rows(0)),
    "transposed": (lambda b, x, n: b.add(Transpose((1, 2, 0)), x), Rows(2)),
    "softmax of a row": (lambda b, x, n: b.add(Softmax(2), x), Rows(0)),
    "norm": (lambda b, x, n: b.add(LayerNorm(2, 1e-5), x, weight(b, 4), weight(b, 4)), Rows(0)),
    "merged": (lambda b, x, n: b.add(Reshape((n * 6, 4)), x), Rows(0, 6)),
    "merged and back": (merged_and_back, Rows(0)),
    "convolution": (lambda b, x, n: b.add(Conv((1,), (1, 1), (1,), 1), x, weight(b, 3, 4, 5)), Rows(0)),
    "sum of a row": (lambda b, x, n: b.add(Reduce("sum", (1, 2), False), x), Rows(0)),
    "best of a row": (lambda b, x, n: b.add(ArgReduce("max", 2, False, False), x), Rows(0)),
    "largest of a row": (lambda b, x, n: b.add_multi(TopK(2, 2, True), x)[0], Rows(0)),
    "zeros beside": (with_zeros, Rows(0)),
    "part of a row": (lambda b, x, n: b.add(Slice((0, 1, 0), (n, 3, 4), (1, 1, 1)), x), Rows(0)),
}  # fmt: skip

DEPENDENT: dict[str, tuple[Make, str]] = {
    "mean of all": (lambda b, x, n: b.add(Reduce("mean", (0,), True), x), "several rows"),
    "softmax over rows": (lambda b, x, n: b.add(Softmax(0), x), "several rows"),
    "running sum": (lambda b, x, n: b.add(CumSum(0, False, False), x), "."),
    "mirrored": (lambda b, x, n: b.add(Slice((n - 1, 0, 0), (n, 6, 4), (-1, 1, 1)), x), "several rows"),
    "first rows": (lambda b, x, n: b.add(Slice((0, 0, 0), (3, 6, 4), (1, 1, 1)), x), "."),
    "first row": (lambda b, x, n: b.add(Slice((0, 0, 0), (1, 6, 4), (1, 1, 1)), x), "."),
    "number of rows": (lambda b, x, n: b.add(Binary("mul"), x, b.constant(np.float32(n))), "constant"),
    "number of the row": (
        lambda b, x, n: b.add(Binary("add"), x, b.constant(np.arange(n, dtype=np.float32).reshape(n, 1, 1))), "constant"
    ),
    "rows beside rows": (lambda b, x, n: b.add(Concat(0), x, x), "."),
    "rows among columns": (lambda b, x, n: b.add(Reshape((6, n, 4)), b.add(Transpose((0, 1, 2)), x)), "reshape"),
    "product over rows": (lambda b, x, n: b.add(MatMul(), *(b.add(Transpose(p), x) for p in ((1, 2, 0), (1, 0, 2)))), "."),
    "other rows": (
        lambda b, x, n: b.add(Gather(0), x, b.add(Broadcast((n,)), b.constant(np.zeros((1,), np.int64)))), "."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_that_are_independent(name: str) -> None:
    make, where = INDEPENDENT[name]
    inputs, outputs = row_axes(graph(make, 5), graph(make, 7), (5, 7))
    assert inputs == {0: Rows(0)}
    assert outputs == {0: where}


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_are_not(name: str) -> None:
    make, why = DEPENDENT[name]
    with pytest.raises(NotProvenError, match=why):
        row_axes(graph(make, 5), graph(make, 7), (5, 7))
