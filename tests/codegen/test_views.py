"""Memory layouts: which movement nodes become views, and that the layouts describe the values that the graph means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from codegen.random_graphs import random_movement_graph
from tilewright.codegen.lower import Lowering
from tilewright.codegen.views import Layout, Views, backward_layout, dense_strides, is_dense, is_view, reshape_strides
from tilewright.ir.errors import InternalError
from tilewright.ir.graph import Builder, Graph, Node, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Unary
from tilewright.ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from tilewright.ir.types import TensorType


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def views_of(graph: Graph) -> Views:
    return Views(graph, Lowering.is_free)


def ones(b: Builder, *shape: int) -> Value:
    """A value that a kernel computes, so that it may be placed anywhere."""
    return b.add(Unary("exp"), b.input("x", f32(*shape)))


# ---- strides


def factorisations(n: int, rank: int) -> list[tuple[int, ...]]:
    if rank == 0:
        return [()] if n == 1 else []
    return [(d, *rest) for d in range(1, n + 1) if n % d == 0 for rest in factorisations(n // d, rank - 1)]


def numpy_reshape_strides(view: np.ndarray, new: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides that NumPy finds for a reshape without a copy."""
    try:
        view.shape = new
    except AttributeError:
        return None
    return tuple(s // view.itemsize for s in view.strides)


def strided_layouts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Strides of slices, steps, permutations and repetitions of a dense array of this shape."""
    dense = dense_strides(shape)
    gaps = dense_strides([n + (d % 2) for d, n in enumerate(shape)])
    found = [dense, gaps, tuple(2 * s for s in dense)]
    for perm in itertools.permutations(range(len(shape))):
        inner = dense_strides([shape[p] for p in perm])
        found.append(tuple(inner[perm.index(d)] for d in range(len(shape))))
    for repeated in range(len(shape)):
        found.append(tuple(0 if d <= repeated else s for d, s in enumerate(dense)))
    return found


@pytest.mark.parametrize("shape", [(12,), (2, 6), (3, 4), (2, 1, 6), (2, 3, 2), (4, 3), (1, 1), (2, 2, 3)])
def test_reshape_strides_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    """Where NumPy finds a view this finds one, and its strides reach the same elements."""
    count = int(np.prod(shape))
    memory = np.arange(200, dtype=np.float32)
    for strides in strided_layouts(shape):
        for new in [f for rank in range(5) for f in factorisations(count, rank)]:
            view = np.lib.stride_tricks.as_strided(memory, shape, tuple(4 * s for s in strides))
            got, wanted = reshape_strides(shape, strides, new), numpy_reshape_strides(view[...], new)
            if wanted is None and 0 not in strides:
                assert got is None, (shape, strides, new)
            if got is not None:
                seen = np.lib.stride_tricks.as_strided(memory, new, tuple(4 * s for s in got))
                np.testing.assert_array_equal(seen, view.reshape(new), f"{shape} {strides} {new}")
            else:
                assert wanted is None, (shape, strides, new)


def test_an_empty_reshape_has_dense_strides() -> None:
    assert reshape_strides((0, 3), (7, 2), (3, 0)) == dense_strides((3, 0))


@pytest.mark.parametrize("shape, strides, dense", [
    ((2, 3), (3, 1), True), ((2, 3), (4, 1), False), ((1, 3), (99, 1), True), ((2, 1), (1, 5), True),
    ((2, 3), (1, 2), False), ((), (), True), ((2, 3), (0, 1), False),
])  # fmt: skip
def test_is_dense(shape: tuple[int, ...], strides: tuple[int, ...], dense: bool) -> None:
    assert is_dense(shape, strides) is dense


# ---- forward: the output is read in the memory of the input


def test_a_chain_of_views_is_one_layout_of_the_input() -> None:
    b = Builder()
    x = b.input("x", f32(2, 6, 8))
    part = b.add(Slice((0, 1, 0), (2, 4, 8), (1, 1, 1)), x)
    heads = b.add(Reshape((2, 4, 2, 4)), part)
    turned = b.add(Transpose((0, 2, 1, 3)), heads)
    wide = b.add(Broadcast((3, 2, 2, 4, 4)), turned)
    graph = b.graph([b.add(Unary("exp"), wide)])
    views = views_of(graph)
    assert views.layout(wide) == Layout(x, 8, (0, 48, 4, 8, 1))
    assert not views.copied


def test_steps_multiply_strides() -> None:
    b = Builder()
    x = b.input("x", f32(9, 8))
    part = b.add(Slice((1, 2), (3, 2), (3, 1)), x)
    views = views_of(b.graph([b.add(Unary("exp"), part)]))
    assert views.layout(part) == Layout(x, 10, (24, 1))


def test_a_reshape_of_a_slice_that_is_no_run_is_copied() -> None:
    b = Builder()
    part = b.add(Slice((0, 1), (4, 3), (1, 1)), b.input("x", f32(4, 6)))
    flat = b.add(Reshape((12,)), part)
    graph = b.graph([b.add(Unary("exp"), flat)])
    views = views_of(graph)
    assert views.copied == {graph.producers[flat]: (0,)}
    assert views.layout(flat) == Layout(flat, 0, (1,))


def test_an_output_is_never_a_view_of_an_input() -> None:
    b = Builder()
    x = b.input("x", f32(4, 6))
    y = b.add(Reshape((24,)), x)
    graph = b.graph([y])
    assert views_of(graph).copied == {graph.producers[y]: (0,)}


# ---- backward: the input is computed in the memory of the output


def test_parts_of_a_concat_are_computed_in_it() -> None:
    b = Builder()
    x, y = b.add(Unary("exp"), b.input("x", f32(2, 3, 4))), b.add(Unary("exp"), b.input("y", f32(2, 5, 4)))
    joined = b.add(Concat(1), x, y)
    graph = b.graph([joined])
    views = views_of(graph)
    assert views.copied == {graph.producers[joined]: ()}
    assert views.layout(x) == Layout(joined, 0, (32, 4, 1))
    assert views.layout(y) == Layout(joined, 12, (32, 4, 1))


def test_the_inside_of_a_pad_is_computed_in_it() -> None:
    b = Builder()
    x = ones(b, 1, 4, 4, 3)
    padded = b.add(Pad((0, 1, 2, 0), (0, 1, 0, 0), "constant"), x, b.constant(np.float32(0)))
    graph = b.graph([b.add(Unary("exp"), padded)])
    views = views_of(graph)
    assert views.copied == {graph.producers[padded]: ()}
    assert views.layout(x) == Layout(padded, 18 + 6, (108, 18, 3, 1))


def test_a_transpose_and_reshape_after_a_product_turn_round() -> None:
    """The heads of attention are merged by writing the product where the merged rows want it."""
    b = Builder()
    p = b.add(MatMul(), b.input("w", f32(1, 2, 5, 6)), b.input("v", f32(1, 2, 6, 4)))
    turned = b.add(Transpose((0, 2, 1, 3)), p)
    merged = b.add(Reshape((1, 5, 8)), turned)
    graph = b.graph([b.add(Unary("exp"), merged)])
    views = views_of(graph)
    assert not views.copied
    assert views.layout(p) == Layout(merged, 0, (40, 4, 8, 1))


def test_a_reshape_into_an_output_is_written_there() -> None:
    b = Builder()
    x = ones(b, 4, 6)
    y = b.add(Reshape((24,)), x)
    views = views_of(b.graph([y]))
    assert not views.copied
    assert views.layout(x) == Layout(y, 0, (6, 1))


def test_other_views_follow_a_value_that_moves_into_a_concat() -> None:
    b = Builder()
    x = ones(b, 2, 6)
    turned = b.add(Transpose((1, 0)), x)
    joined = b.add(Concat(1), x, x)
    graph = b.graph([b.add(Unary("exp"), turned), joined])
    views = views_of(graph)
    assert views.layout(turned) == Layout(joined, 0, (1, 12))
    assert views.copied[graph.producers[joined]] == (1,)


# ---- refusals


def test_inputs_outputs_and_constants_are_copied_into_a_concat() -> None:
    b = Builder()
    x, y = b.input("x", f32(2, 3)), ones(b, 2, 3)
    c = b.constant(np.ones((2, 3), np.float32))
    joined = b.add(Concat(0), x, y, c)
    graph = b.graph([joined, y])
    assert views_of(graph).copied == {graph.producers[joined]: (0, 1, 2)}


def test_a_value_is_computed_in_one_concat_only() -> None:
    b = Builder()
    x, y = ones(b, 2, 3), ones(b, 2, 3)
    first, second = b.add(Concat(0), x, y), b.add(Concat(1), y, x)
    graph = b.graph([first, second])
    assert views_of(graph).copied == {graph.producers[first]: (), graph.producers[second]: (0, 1)}


def test_a_second_pad_of_a_value_copies_it() -> None:
    b = Builder()
    x, zero = ones(b, 4), b.constant(np.float32(0))
    first, second = b.add(Pad((1,), (1,), "constant"), x, zero), b.add(Pad((2,), (0,), "constant"), x, zero)
    graph = b.graph([b.add(Unary("exp"), first), b.add(Unary("exp"), second)])
    assert views_of(graph).copied == {graph.producers[first]: (), graph.producers[second]: (0,)}


def test_a_claim_that_breaks_another_view_is_refused() -> None:
    """x as one run of 12 is no longer a view once x has gaps between its rows."""
    b = Builder()
    x = ones(b, 4, 3)
    flat = b.add(Reshape((12,)), x)
    joined = b.add(Concat(1), x, ones(b, 4, 2))
    graph = b.graph([b.add(Unary("exp"), flat), joined])
    views = views_of(graph)
    assert views.copied == {graph.producers[joined]: (0,)}
    assert views.layout(flat) == Layout(x, 0, (1,))


def test_a_slice_is_not_turned_round() -> None:
    b = Builder()
    x = ones(b, 4, 3)
    part = b.add(Slice((1, 0), (2, 3), (1, 1)), x)
    joined = b.add(Concat(0), part, ones(b, 1, 3))
    graph = b.graph([joined])
    assert views_of(graph).copied == {graph.producers[joined]: (0,)}


def test_a_node_without_a_layout_for_its_operand_is_an_error() -> None:
    b = Builder()
    part = b.add(Slice((0,), (2,), (1,)), b.input("x", f32(4)))
    with pytest.raises(InternalError, match="Slice has no layout for operand 0"):
        backward_layout(b.producers[part], 0, Layout(part, 0, (1,)))


# ---- which nodes are left to the layout


def is_free_view(op: Reshape | Slice | Transpose, *shape: int, then: str = "exp") -> bool:
    b = Builder()
    made = b.add(op, b.input("x", f32(*shape)))
    if then == "matmul":
        wide = b.input("w", f32(*made.type.shape[:-2], made.type.shape[-1], 5))
        out = b.add(MatMul(), made, wide)
    else:
        out = b.add(Unary(then), made)
    graph = b.graph([out])
    users = graph.users()
    return is_view(graph, graph.producers[made], lambda v: users.get(v, []))


@pytest.mark.parametrize("op, shape, then, free", [
    (Reshape((6,)), (2, 3), "exp", True),
    (Slice((0, 1), (2, 2), (1, 1)), (2, 3), "exp", True),
    (Slice((0, 0), (2, 2), (1, 2)), (2, 3), "exp", False),
    (Slice((1, 0), (2, 3), (-1, 1)), (2, 3), "exp", False),
    (Slice((0, 2), (2, 1), (1, 2)), (2, 3), "exp", True),
    (Transpose((1, 0, 2)), (2, 3, 4), "exp", True),
    (Transpose((0, 2, 1)), (2, 3, 4), "exp", False),
    (Transpose((0, 2, 1)), (2, 3, 1), "exp", True),
    (Transpose((0, 2, 1)), (2, 3, 4), "matmul", True),
])  # fmt: skip
def test_which_movement_nodes_are_views(op: Reshape, shape: tuple[int, ...], then: str, free: bool) -> None:
    assert is_free_view(op, *shape, then=then) is free


# ---- property


class Memory:
    """Flat memory for every root, in which values are seen through their layouts."""

    def __init__(self, graph: Graph, given: dict[Value, np.ndarray]) -> None:
        self.graph, self.views = graph, views_of(graph)
        self.roots = {v: a.reshape(-1).copy() for v, a in given.items()}

    def part(self, at: Layout, shape: tuple[int, ...]) -> np.ndarray:
        if at.root not in self.roots:
            self.roots[at.root] = np.full(max(at.root.type.size, 1), np.nan, np.float32)
        strides = tuple(4 * s for s in at.strides)
        return np.lib.stride_tricks.as_strided(self.roots[at.root][at.offset :], shape, strides)

    def of(self, v: Value) -> np.ndarray:
        return self.part(self.views.layout(v), v.type.static_shape)

    def run(self, node: Node) -> None:
        """What is left to kernels: computed values, and the copies that the layouts could not avoid."""
        out = node.outputs[0]
        if not isinstance(node.op, (Concat, Pad)):
            if node in self.views.copied or not Lowering.is_free(node):
                self.of(out)[...] = node.op.evaluate(*map(self.of, node.inputs))[0]
            return
        for n in self.views.copied[node]:
            inside = backward_layout(node, n, self.views.layout(out))
            self.part(inside, node.inputs[n].type.static_shape)[...] = self.of(node.inputs[n])
        if isinstance(node.op, Pad):
            nothing = np.zeros(node.inputs[0].type.static_shape, np.float32)
            border = node.op.evaluate(nothing, np.float32(1))[0] == 1
            self.of(out)[border] = self.of(node.inputs[1])


@pytest.mark.parametrize("seed", range(80))
def test_layouts_mean_what_the_graph_means(seed: int) -> None:
    graph, inputs = random_movement_graph(seed)
    values: dict[Value, np.ndarray] = dict(zip(graph.inputs, inputs, strict=True))
    values.update(graph.constants)
    memory = Memory(graph, values)
    run_graph(graph, inputs, lambda node, results: values.update(zip(node.outputs, results, strict=True)))
    for node in graph.nodes:
        memory.run(node)
        np.testing.assert_array_equal(memory.of(node.outputs[0]), values[node.outputs[0]], f"{node.op}")
    for v in graph.outputs:  # nothing that came later was written over them
        np.testing.assert_array_equal(memory.of(v), values[v])
