"""Types of the moving operators: symbolic sizes, refused operands; and the index maps that reshapes become."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.compute import lower_group
from tilewright.ir.dims import equal_runs, same_volume
from tilewright.ir.errors import ModelError
from tilewright.ir.expr import Bin, Expr, Load
from tilewright.ir.kernel import Buffer, Kernel, axis
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.grid_sample import GridSample
from tilewright.ir.ops.image import Resize
from tilewright.ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Trilu,
)
from tilewright.ir.ops.recurrent import Lstm
from tilewright.ir.ops.scatter import ScatterElements, ScatterND
from tilewright.ir.ops.sort import TopK
from tilewright.ir.traverse import walk
from tilewright.ir.types import Dim, TensorType

N, S = axis("N", None), axis("S", None)


def f(*shape: Dim) -> TensorType:
    return TensorType("f32", shape)


def i(*shape: Dim) -> TensorType:
    return TensorType("i64", shape)


@pytest.mark.parametrize(
    ("op", "operands", "expected"),
    [
        (Reshape((N, S, 12, 64)), [f(N, S, 768)], f(N, S, 12, 64)),
        (Reshape((N * S, 768)), [f(N, S, 768)], f(N * S, 768)),
        (Reshape((N * 2, 2)), [f(N, 4)], f(N * 2, 2)),
        (Transpose((1, 0)), [f(N, 4)], f(4, N)),
        (Slice((0, N - 1), (2, 1), (1, 1)), [f(2, N)], f(2, 1)),
        (Concat(0), [f(N), f(N), f(3)], f(N * 2 + 3)),
        (Concat(1), [f(N, 2), f(N, 3)], f(N, 5)),
        (Pad((0, 1), (0, 2), "edge"), [f(N, S)], f(N, S + 3)),
        (Broadcast((N, S, 4)), [f(S, 1)], f(N, S, 4)),
        (Gather(0), [f(50, 8), i(N, S)], f(N, S, 8)),
        (GatherND(1), [f(N, S, 8), i(N, 3, 1)], f(N, 3, 8)),
        (Trilu(True), [f(N, N), i()], f(N, N)),
        (Iota(N, "i64"), [], i(N)),
        (ScatterND("none"), [f(N, 8), i(S, 1), f(S, 8)], f(N, 8)),
        (Resize((1,), (8,), (2.0,), "linear"), [f(N, 4, 3)], f(N, 8, 3)),
    ],
)
def test_symbolic_sizes(op: Op, operands: list[TensorType], expected: TensorType) -> None:
    assert op.infer(*operands) == (expected,)


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        (Reshape((5,)), [f(2, 3)], r"Reshape: f32\[2, 3\] does not fit"),
        (Transpose((0, 0)), [f(2, 3)], "does not permute"),
        (Slice((1,), (3,), (1,)), [f(3)], "index 3 is outside"),
        (Slice((1,), (3,), (-1,)), [f(3)], "index -1 is outside"),
        (Slice((0,), (1,), (0,)), [f(3)], "step is 0"),
        (Concat(0), [f(2, 3), f(2, 4)], "differ elsewhere"),
        (Concat(2), [f(2, 3)], "axis 2 is outside"),
        (Pad((0,), (0,), "mirror"), [f(2)], "unknown mode 'mirror'"),
        (Pad((0,), (0,), "constant"), [f(2)], "expected 2 operands, got 1"),
        (Pad((-1,), (0,), "edge"), [f(2)], "must not be negative"),
        (Pad((1,), (0,), "edge"), [f(0)], "no elements to repeat"),
        (Broadcast((4, 3)), [f(2, 3)], "cannot be repeated"),
        (Gather(0), [f(2, 3), f(2)], "indices must be integers"),
        (Gather(0), [f(0, 3), i(2)], "empty axis"),
        (GatherElements(0), [f(2, 3), i(2, 4)], "larger than"),
        (GatherND(0), [f(2, 3), i(2, 3)], "more dimensions"),
        (Trilu(True), [f(2, 3), i(1)], "k must be a scalar"),
        (TopK(1, 4, True), [f(2, 3)], "k = 4 elements are not in axis 1"),
        (ScatterElements(0, "mean"), [f(3), i(1), f(1)], "unknown reduction 'mean'"),
        (ScatterND("add"), [f(3, 2), i(4, 1), f(4, 3)], r"expected updates f32\[4, 2\]"),
        (Resize((0,), (4,), (2.0,), "linear"), [f(N)], "must be known"),
        (GridSample("linear", "zeros", True), [f(1, 2, 3, 4), f(1, 5, 5, 3)], "expected 2 numbers"),
        (Lstm(), [f(5, 2, 16), f(4, 12), f(2, 4), f(2, 4)], "Lstm: expected"),
    ],
)
def test_operands_that_do_not_fit(op: Op, operands: list[TensorType], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        op.infer(*operands)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((N, 4), (4, N), True), ((N * 2, S), (S, 2, N), True), ((N * 2 + 2,), (2, N + 1), True), ((N, 4), (N, 5), False),
     ((N, 4), (S, 5), None), ((0, N), (S, 0), True)],
)
def test_same_volume(a: tuple[Dim, ...], b: tuple[Dim, ...], expected: bool | None) -> None:
    assert same_volume(a, b) is expected


def test_equal_runs() -> None:
    assert equal_runs((N, S, 768), (N, S, 12, 64)) == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert equal_runs((2, 6, 5), (4, 3, 5)) == [([0, 1], [0, 1]), ([2], [2])]


def divisions(op: Op, source: tuple[Dim, ...]) -> int:
    (t,) = op.infer(f(*source))
    body = op.compute(Buffer("out", "f32", t.shape), Buffer("x", "f32", source)).body
    assert isinstance(body, Load)
    return sum(isinstance(e, Bin) and e.op in ("div", "mod") for index in body.idx for e in walk(index))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [((2, 3, 4), (6, 4), 2), ((6, 4), (2, 3, 4), 0), ((N, S, 768), (N, S, 12, 64), 0), ((1, 8, 1), (8,), 0),
     ((4, 12), (4, 3, 4), 0)],
)
def test_reshapes_divide_only_where_dimensions_merge(
    source: tuple[Dim, ...], target: tuple[Dim, ...], expected: int
) -> None:
    assert divisions(Reshape(target), source) == expected


def test_a_kernel_of_symbolic_size() -> None:
    """[N, 4] reshaped to [2 * N, 2], N given when it runs."""
    rows: Expr = N * 2
    out, x = Buffer("out", "f32", (rows, 2)), Buffer("x", "f32", (N, 4))
    naive = lower_group("reshape", (out, x), (Reshape((rows, 2)).compute(out, x),))
    given, got = np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((6, 2), np.float32)
    run_kernel(Kernel(naive.name, (*naive.params, N), naive.body), {"out": got, "x": given}, {"N": 3})
    np.testing.assert_array_equal(got, given.reshape(6, 2))
