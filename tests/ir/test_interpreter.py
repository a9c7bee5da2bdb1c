"""The graph interpreter: inputs, symbolic sizes, observation, memory, control flow."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from tilewright.ir.bind import bind_graph
from tilewright.ir.errors import InternalError, OptionError
from tilewright.ir.expr import Expr
from tilewright.ir.graph import Builder, Graph, Node
from tilewright.ir.interpreter import run_graph
from tilewright.ir.kernel import axis
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.control import Fused, If, Loop, Scan
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.movement import Concat, Reshape, Transpose
from tilewright.ir.types import TensorType
from tilewright.ir.verify import verify_graph

N = axis("N", None)
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def f32(*shape: int | Expr) -> TensorType:
    return TensorType("f32", shape)


def symbolic_graph() -> Graph:
    """[N, 4] -> [2 * N, 2] -> [2, 2 * N] -> twice that along the last axis."""
    b = Builder("symbolic")
    x = b.input("x", f32(N, 4))
    y = b.add(Transpose((1, 0)), b.add(Reshape((N * 2, 2)), x))
    return b.graph([b.add(Concat(1), y, y)], ["out"])


def test_symbolic_sizes_come_from_the_inputs() -> None:
    graph = symbolic_graph()
    verify_graph(graph)
    for n in (1, 3):
        (out,) = run_graph(graph, [X[:n]])
        half = X[:n].reshape(-1, 2).T
        np.testing.assert_array_equal(out, np.concatenate([half, half], 1))


def test_binding_gives_a_static_graph() -> None:
    graph = bind_graph(symbolic_graph(), {N: 3})
    verify_graph(graph)
    assert all(v.type.is_static for node in graph.nodes for v in node.outputs)
    np.testing.assert_array_equal(run_graph(graph, [X])[0], run_graph(symbolic_graph(), [X])[0])


def add_graph(other: TensorType) -> Graph:
    b = Builder("sum")
    return b.graph([b.add(Binary("add"), b.input("a", f32(N, 4)), b.input("b", other))])


def test_inputs_by_name() -> None:
    graph = add_graph(f32(N, 4))
    np.testing.assert_array_equal(run_graph(graph, {"b": X, "a": X})[0], X + X)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([X], "sum has 2 inputs, got 1"),
        ({"a": X, "c": X}, "sum has the inputs a, b, got a, c"),
        ([X, X.astype(np.float64)], "input 'b' of sum: expected f32"),
        ([X, X[0]], "input 'b' of sum: expected f32"),
        ([X, X[:2]], "input 'b' of sum: expected f32"),
    ],
)
def test_wrong_inputs(inputs: list[np.ndarray] | dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run_graph(add_graph(f32(N, 4)), inputs)


@dataclass(frozen=True)
class Liar(Op):
    """Promises its operand's type and gives another."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0][:1],)


def test_a_result_of_another_type_names_the_node() -> None:
    b = Builder()
    graph = b.graph([b.add(Liar(), b.input("x", f32(3, 4)), name="y", where="model node 7")])
    with pytest.raises(InternalError, match=r"model node 7.*output 'y'"):
        run_graph(graph, [X])


def test_observation_and_release() -> None:
    """Every node is reported with its results; values that nobody reads any more are released."""
    b = Builder()
    y = b.input("x", f32(3, 4))
    for fn in ("neg", "exp", "sqrt"):
        y = b.add(Unary(fn), y)
    alive: list[weakref.ref[np.ndarray]] = []
    counts: list[int] = []
    names: list[str] = []

    def observe(node: Node, results: tuple[np.ndarray, ...]) -> None:
        alive.append(weakref.ref(results[0]))
        names.append(node.outputs[0].type.dtype)
        counts.append(sum(r() is not None for r in alive))

    run_graph(b.graph([y]), [X], observe)
    assert len(names) == 3 and max(counts) <= 2


def body(*types: TensorType) -> tuple[Builder, list]:
    b = Builder("body")
    return b, [b.input(f"b{n}", t) for n, t in enumerate(types)]


def branch(fn: str) -> Graph:
    b, (x, y) = body(f32(N, 4), f32(N, 4))
    return b.graph([b.add(Binary(fn), x, y)])


@pytest.mark.parametrize("taken", [True, False])
def test_if(taken: bool) -> None:
    b = Builder()
    cond, x = b.input("cond", TensorType("bool", ())), b.input("x", f32(N, 4))
    graph = b.graph([b.add(If(branch("add"), branch("mul")), cond, x, x)])
    verify_graph(graph)
    np.testing.assert_array_equal(run_graph(graph, [np.array(taken), X])[0], X + X if taken else X * X)


def loop_graph(length: int | Expr) -> Graph:
    """Doubles the carried value until its element reaches 8; scans the value before doubling."""
    i64, boolean = TensorType("i64", ()), TensorType("bool", ())
    b, (_, _, value, limit) = body(i64, boolean, f32(), f32())
    doubled = b.add(Binary("add"), value, value)
    inner = b.graph([b.add(Binary("lt"), doubled, limit), doubled, value], ["go", "value", "scan"])
    outer = Builder()
    trips = outer.input("trips", i64)
    go = outer.constant(np.array(True))
    start, limit = outer.constant(np.float32(1)), outer.constant(np.float32(8))
    return outer.graph(outer.add_multi(Loop(inner, 1, 1, length), trips, go, start, limit), ["last", "scan"])


@pytest.mark.parametrize(("trips", "scan"), [(0, []), (2, [1, 2]), (9, [1, 2, 4])])
def test_loop(trips: int, scan: list[float]) -> None:
    graph = loop_graph(axis("K", None))
    verify_graph(graph)
    last, scanned = run_graph(graph, [np.array(trips)])
    np.testing.assert_array_equal(scanned, np.array(scan, np.float32))
    assert last == 2.0 ** len(scan)


def test_loop_of_another_length_is_reported() -> None:
    with pytest.raises(InternalError, match="expected"):
        run_graph(loop_graph(5), [np.array(2)])


def test_scan_with_axes_and_directions() -> None:
    """A running sum of columns from the last to the first, written back to front."""
    b, (total, column, scale) = body(f32(3), f32(3), f32())
    new = b.add(Binary("add"), total, b.add(Binary("mul"), column, scale))
    inner = b.graph([new, new], ["total", "each"])
    outer = Builder()
    x = outer.input("x", f32(3, 4))
    zero, scale = outer.constant(np.zeros(3, np.float32)), outer.constant(np.float32(2))
    op = Scan(inner, 1, (1,), (True,), (1,), (True,))
    graph = outer.graph(outer.add_multi(op, zero, x, scale), ["total", "sums"])
    verify_graph(graph)
    total, sums = run_graph(graph, [X])
    np.testing.assert_array_equal(sums, np.cumsum(2 * X[:, ::-1], 1)[:, ::-1])
    np.testing.assert_array_equal(total, sums[:, 0])


def test_fused_with_symbolic_sizes_inside() -> None:
    """A field of an operator in a body may use a variable that none of the body's inputs has."""
    b, (x,) = body(f32(12))
    inner = b.graph([b.add(Reshape((N, 4)), x)])
    outer = Builder()
    like, flat = outer.input("like", f32(N)), outer.input("flat", f32(12))
    op = Fused(inner, "map")
    y = outer.add(op, flat)
    graph = outer.graph([y, outer.add(Unary("neg"), like)])
    verify_graph(graph)
    np.testing.assert_array_equal(run_graph(graph, [X[:, 0], X.ravel()])[0], X)
