"""bound_sizes: graphs with sizes that data tells mean the same when they are made of results of the largest size, as
graphs and as machine code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from codegen.native_program import compile_program, optimise
from passes.meaning import array, f32
from tilewright.codegen.lower import lower
from tilewright.compiler.passes.bound_sizes import bound_sizes
from tilewright.ir.errors import TargetError
from tilewright.ir.expr import Var
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.data_sized import NonMaxSuppression, NonZero, Unique
from tilewright.ir.ops.dim_tensor import DimTensor
from tilewright.ir.ops.elementwise import Binary, Cast, Unary
from tilewright.ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    Iota,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from tilewright.ir.ops.norm import LayerNorm, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.scatter import ScatterElements, ScatterND
from tilewright.ir.ops.sort import TopK
from tilewright.ir.types import TensorType
from tilewright.ir.verify import verify_graph
from tilewright.targets.cpu.host import host_machine

N = Var.of("n", None)
ROWS, WIDTH = 7, 3
FLAGS = {"some": [0, 1, 1, 0, 1, 0, 1], "one": [0, 0, 0, 0, 0, 0, 5], "all": [1] * 7}


def kept_rows(b: Builder, x: Value, flags: Value) -> Value:
    """The rows of x whose flag is not 0, f32[n, 3]."""
    places = b.add(Reshape((N,)), b.add(NonZero(N), flags))
    return b.add(Gather(0), x, places)


def number(b: Builder, *values: int) -> Value:
    return b.constant(np.array(values))


Use = Callable[[Builder, Value, Value], Value]
"""Builder, x: f32[7, 3], y: f32[n, 3] -> a result."""

USES: dict[str, Use] = {
    "itself": lambda b, x, y: y,
    "exp": lambda b, x, y: b.add(Binary("add"), b.add(Unary("exp"), y), b.add(Slice((0, 0), (1, 3), (1, 1)), x)),
    "flat": lambda b, x, y: b.add(Reshape((N * 3,)), y),
    "two-axes": lambda b, x, y: b.add(MatMul(), y, b.add(Transpose((1, 0)), y)),
    "transpose": lambda b, x, y: b.add(Transpose((1, 0)), y),
    "product": lambda b, x, y: b.add(MatMul(), b.add(Transpose((1, 0)), y), y),
    "sum": lambda b, x, y: b.add(Reduce("sum", (0,), False), y),
    "max": lambda b, x, y: b.add(Reduce("max", (0, 1), True), b.add(Unary("neg"), y)),
    "min": lambda b, x, y: b.add(Reduce("min", (0,), False), b.add(Cast("i32"), y)),
    "mean": lambda b, x, y: b.add(Reduce("mean", (0,), False), y),
    "argmin": lambda b, x, y: b.add(ArgReduce("min", 0, False, False), y),
    "cumsum": lambda b, x, y: b.add(CumSum(0, False, False), y),
    "cumsum-reverse": lambda b, x, y: b.add(CumSum(0, True, True), y),
    "softmax": lambda b, x, y: b.add(Softmax(0), y),
    "layer-norm": lambda b, x, y: b.add(LayerNorm(1, 1e-5), y, *(b.constant(array(3, seed=s)) for s in (1, 2))),
    "concat": lambda b, x, y: b.add(Concat(0), y, x, y),
    "concat-other-axis": lambda b, x, y: b.add(Concat(1), y, b.add(Unary("neg"), y)),
    "last-row": lambda b, x, y: b.add(Gather(0), y, number(b, -1, 0)),
    "elements": lambda b, x, y: b.add(GatherElements(0), y, b.constant(np.array([[-1, 0, -1]]))),
    "reversed": lambda b, x, y: b.add(Slice((N - 1, 0), (N, 2), (-1, 1)), y),
    "but-first": lambda b, x, y: b.add(Slice((1, 0), (N - 1, 3), (1, 1)), y),
    "last": lambda b, x, y: b.add(Slice((N - 1, 0), (1, 3), (1, 1)), y),
    "size": lambda b, x, y: b.add(DimTensor((N, N * 2 + 1), (2,))),
    "iota": lambda b, x, y: b.add(Iota(N + 1, "f32")),
    "broadcast": lambda b, x, y: b.add(Broadcast((2, N, 3)), y),
    "pad": lambda b, x, y: b.add(Pad((0, 1), (0, 2), "constant"), y, b.constant(np.float32(9))),
    "scatter": lambda b, x, y: b.add(ScatterElements(0, "none"), x, positions(b), b.add(Unary("neg"), y)),
    "scatter-add": lambda b, x, y: b.add(ScatterND("add"), x, b.add(Reshape((N, 1)), b.add(Iota(N, "i64"))), y),
    "again": lambda b, x, y: b.add(NonZero(Var.of("m", None)), b.add(Binary("gt"), y, b.constant(np.float32(0)))),
}


def positions(b: Builder) -> Value:
    return b.add(Broadcast((N, 3)), b.add(Reshape((N, 1)), b.add(Iota(N, "i64"))))


def graph_of(use: Use) -> Graph:
    b = Builder()
    x, flags = b.input("x", f32(ROWS, WIDTH)), b.input("flags", TensorType("i64", (ROWS,)))
    y = kept_rows(b, x, flags)
    made = use(b, x, y)
    return b.graph([made] if made is y else [made, y])


def check(graph: Graph, *inputs: np.ndarray, tolerance: float = 1e-5) -> None:
    bounded = bound_sizes(graph)
    verify_graph(bounded)
    assert [v.type for v in bounded.outputs] == [v.type for v in graph.outputs]
    native = compile_program(lower(optimise(graph), host_machine()))
    want = run_graph(graph, inputs)
    for made in (run_graph(bounded, inputs), native.run(inputs, 1), native.run(inputs, 2)):
        for a, e in zip(made, want, strict=True):
            assert a.dtype == e.dtype and a.shape == e.shape
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("use", USES)
def test_what_follows_a_size_of_data(use: str) -> None:
    graph = graph_of(USES[use])
    for flags in FLAGS.values():
        check(graph, array(ROWS, WIDTH), np.array(flags))


@pytest.mark.parametrize("use", ["itself", "exp", "transpose", "sum", "concat", "size", "scatter-add", "flat"])
def test_nothing_is_found(use: str) -> None:
    check(graph_of(USES[use]), array(ROWS, WIDTH), np.zeros(ROWS, np.int64))


REFUSED: dict[str, Use] = {
    "the best rows": lambda b, x, y: b.add_multi(TopK(0, 1, True), y)[0],
    "rows of rows": lambda b, x, y: b.add(Reshape((3 * N,)), b.add(Transpose((1, 0)), y)),
    "a norm": lambda b, x, y: b.add(LayerNorm(0, 1e-5), y, *(b.add(Broadcast((N, 3)), b.constant(array(3))),) * 2),
    "distinct": lambda b, x, y: b.add_multi(Unique(0, True, Var.of("m", None)), y)[0],
}


@pytest.mark.parametrize("use", REFUSED)
def test_what_would_mix_valid_and_other_elements_is_refused(use: str) -> None:
    with pytest.raises(TargetError, match="only known when it runs"):
        bound_sizes(graph_of(REFUSED[use]))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "bool", "u8"])
def test_unique(axis: int | None, in_order: bool, dtype: str) -> None:
    b = Builder()
    x = b.input("x", TensorType(dtype, (6, 3)))
    graph = b.graph(b.add_multi(Unique(axis, in_order, N), x))
    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 2, (6, 3))
        check(graph, values.astype({"f32": np.float32, "bool": np.bool_, "u8": np.uint8}[dtype]))


@pytest.mark.parametrize("center", [True, False])
def test_non_max_suppression(center: bool) -> None:
    rng = np.random.default_rng(2)
    b = Builder()
    boxes, scores = b.input("boxes", f32(2, 12, 4)), b.input("scores", f32(2, 3, 12))
    limits = [b.constant(np.array(5)), *(b.constant(np.float32(x)) for x in (0.3, 0.2))]
    graph = b.graph([b.add(NonMaxSuppression(center, N), boxes, scores, *limits)])
    assert bound_sizes(graph).outputs[0].type == TensorType("i64", (N, 3))
    check(graph, rng.uniform(0, 2, (2, 12, 4)).astype(np.float32), rng.uniform(0, 1, (2, 3, 12)).astype(np.float32))


def test_one_result_as_two_outputs() -> None:
    b = Builder()
    x, flags = b.input("x", f32(ROWS, WIDTH)), b.input("flags", TensorType("i64", (ROWS,)))
    y = kept_rows(b, x, flags)
    check(b.graph([y, flags, y], ["first", "flags", "second"]), array(ROWS, WIDTH), np.array(FLAGS["some"]))
