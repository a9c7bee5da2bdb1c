"""Loops as machine code: carried values, scanned ones, conditions, loops in loops; on one thread and on two."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import compile_program, lower_graph
from tilewright.ir.errors import TargetError
from tilewright.ir.expr import Var
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.control import Loop, Scan
from tilewright.ir.ops.elementwise import Binary, Cast, Unary
from tilewright.ir.ops.movement import Reshape, Transpose
from tilewright.ir.types import TensorType

I64, BOOL = TensorType("i64", ()), TensorType("bool", ())


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def exact(*shape: int) -> np.ndarray:
    """Multiples of 1/8 of few bits: sums and products are exact, in any order."""
    return (np.random.default_rng(1).integers(-16, 17, shape) / 8).astype(np.float32)


def body(*types: TensorType) -> tuple[Builder, list[Value]]:
    b = Builder("body")
    return b, [b.input(f"p{n}", t) for n, t in enumerate((I64, BOOL, *types))]


def run(graph: Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    native, expected = compile_program(lower_graph(graph)), run_graph(graph, inputs)
    for threads in (1, 2):
        for _ in range(2):  # the second run starts from what the first one left
            for a, e in zip(native.run(list(inputs), threads), expected, strict=True):
                np.testing.assert_array_equal(a, e)
    return expected


@pytest.mark.parametrize("trips", [0, 1, 5])
@pytest.mark.parametrize("size", [(3,), (40, 50)])
def test_carried_and_scanned_values(trips: int, size: tuple[int, ...]) -> None:
    """The scanned value is the old carried one; the number of the iteration is read as data."""
    b, (i, go, value, step) = body(f32(*size), f32(*size))
    count = b.add(Cast("f32"), i)
    inner = b.graph([go, b.add(Binary("add"), value, step), value, b.add(Binary("mul"), step, count)])
    outer = Builder()
    x, step = outer.input("x", f32(*size)), outer.input("step", f32(*size))
    first = outer.add(Unary("neg"), x)
    n, go = outer.constant(np.array(trips)), outer.constant(np.array(True))
    made = outer.add_multi(Loop(inner, 1, 2, trips), n, go, first, step)
    run(outer.graph([*made, outer.add(Binary("add"), made[0], first)]), exact(*size), exact(*size))


def test_carried_values_that_change_places() -> None:
    b, (_, go, first, second, third) = body(f32(6), f32(6), f32(6))
    inner = b.graph([go, second, b.add(Unary("neg"), first), third])
    outer = Builder()
    x, n, go = outer.input("x", f32(6)), outer.input("n", I64), outer.input("go", BOOL)
    made = outer.add_multi(Loop(inner, 3, 0), n, go, x, outer.add(Unary("abs"), x), x)
    graph = outer.graph(list(made))
    for trips in (0, 1, 2, 5):
        run(graph, exact(6), np.array(trips), np.array(True))
    run(graph, exact(6), np.array(3), np.array(False))


def test_a_condition_computed_from_data_ends_the_loop() -> None:
    b, (_, _, value, limit) = body(f32(), f32())
    doubled = b.add(Binary("add"), value, value)
    inner = b.graph([b.add(Binary("lt"), doubled, limit), doubled])
    outer = Builder()
    start, limit, n = outer.input("start", f32()), outer.input("limit", f32()), outer.constant(np.array(2**63 - 1))
    graph = outer.graph([outer.add(Loop(inner, 1, 0), n, outer.constant(np.array(True)), start, limit)])
    assert run(graph, np.float32(1), np.float32(100)) == [128]
    assert run(graph, np.float32(200), np.float32(100)) == [400]


def test_a_length_that_only_the_run_tells_is_refused() -> None:
    b, (_, go, value) = body(f32(2))
    outer = Builder()
    x, n = outer.input("x", f32(2)), outer.input("n", I64)
    loop = Loop(b.graph([go, value, b.add(Unary("neg"), value)]), 1, 1, Var.of("length", None))
    last, _ = outer.add_multi(loop, n, outer.constant(np.array(True)), x)
    with pytest.raises(TargetError, match=r"length.*would be unknown when the model runs"):
        lower_graph(outer.graph([last]))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(axis: int, reverse: bool) -> None:
    """A recurrence over columns or rows, with weights that it captures."""
    b = Builder("step")
    state, x, w = b.input("state", f32(4)), b.input("x", f32(4)), b.input("w", f32(4, 4))
    mixed = b.add(Reshape((4,)), b.add(MatMul(), b.add(Reshape((1, 4)), state), w))
    new = b.add(Unary("sign"), b.add(Binary("add"), mixed, x))
    inner = b.graph([new, b.add(Binary("sub"), new, x)])
    outer = Builder()
    x = outer.input("x", f32(6, 4) if axis == 0 else f32(4, 6))
    weights = outer.constant(exact(4, 4))
    made = outer.add_multi(Scan(inner, 1, (axis,), (reverse,), (axis,), (reverse,)), outer.constant(exact(4)), x, weights)
    run(outer.graph(list(made)), exact(*x.type.static_shape))


def test_a_loop_in_a_loop() -> None:
    """The inner loop captures what the outer one carries, and a view of what the outer one captures."""
    b, (i, go, total, row, _) = body(f32(3), f32(3), f32(3, 3))
    inner = b.graph([go, b.add(Binary("add"), total, row), b.add(Binary("mul"), row, b.add(Cast("f32"), i))])
    b, (i, go, total, matrix) = body(f32(3), f32(3, 3))
    row = b.add(Reshape((3,)), b.add(MatMul(), b.add(Reshape((1, 3)), total), b.add(Transpose((1, 0)), matrix)))
    sums, rows = b.add_multi(Loop(inner, 1, 1, 2), b.constant(np.array(2)), go, total, row, b.add(Transpose((1, 0)), matrix))
    outer_graph = b.graph([go, b.add(Unary("sign"), sums), rows])
    outer = Builder()
    x, m = outer.input("x", f32(3)), outer.input("m", f32(3, 3))
    made = outer.add_multi(Loop(outer_graph, 1, 1, 4), outer.constant(np.array(4)), outer.constant(np.array(True)), x, m)
    run(outer.graph(list(made)), exact(3), exact(3, 3))
