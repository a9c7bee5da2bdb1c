"""Which nodes become one kernel, that groups can be ordered, and that the graph means the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from codegen.random_graphs import random_graph
from tilewright.codegen.lower import lower
from tilewright.compiler.passes.expand_composites import expand_composites
from tilewright.compiler.passes.fuse import MAX_NODES, MAX_ROW_ELEMENTS, fuse
from tilewright.ir.graph import Builder, Graph, Node, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.control import Fused
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.movement import Concat, Gather, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import Attention, Gelu, LayerNorm, Softmax
from tilewright.ir.ops.quantize import Saturate
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import TensorType
from tilewright.ir.verify import verify_graph
from tilewright.targets.cpu.host import host_machine


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def scalar(b: Builder, value: float) -> Value:
    return b.constant(np.float32(value))


def fused(b: Builder, *outputs: Value) -> Graph:
    """The fused graph, valid and in order."""
    after = fuse(expand_composites(b.graph(outputs)))
    verify_graph(after, after="fuse")
    return after


def groups(graph: Graph) -> list[tuple[str, list[str]]]:
    """(kind, operators) of every group, in order."""
    return [(n.op.kind, [m.op.name for m in n.op.body.nodes]) for n in graph.nodes if isinstance(n.op, Fused)]


def kinds(graph: Graph) -> Counter[str]:
    return Counter(kind for kind, _ in groups(graph))


def group_of(graph: Graph, op: str) -> Node:
    (found,) = [n for n in graph.nodes if isinstance(n.op, Fused) and any(m.op.name == op for m in n.op.body.nodes)]
    return found


def conv(b: Builder, x: Value, outputs: int = 8, kernel: int = 1) -> Value:
    shape = (kernel, kernel, int(x.type.shape[-1]), outputs)  # type: ignore[arg-type]
    w = b.constant(np.ones(shape, np.float32) * np.float32(len(b.constants) + 1))
    return b.add(Conv((1, 1), (0,) * 4, (1, 1), 1), x, w)


# ---- epilogues


def test_bias_and_activation_join_a_product() -> None:
    b = Builder()
    y = b.add(MatMul(), b.input("x", f32(5, 6)), b.constant(np.ones((6, 8), np.float32)))
    y = b.add(Binary("max"), b.add(Binary("add"), y, b.constant(np.ones(8, np.float32))), scalar(b, 0))
    assert groups(fused(b, y)) == [("contract", ["MatMul", "Binary", "Binary"])]


def test_a_residual_joins_the_later_of_two_convolutions() -> None:
    b = Builder()
    x = b.input("x", f32(1, 4, 4, 8))
    first, second = conv(b, x), conv(b, x)
    y = b.add(Binary("max"), b.add(Binary("add"), first, second), scalar(b, 0))
    assert sorted(len(ops) for _, ops in groups(fused(b, y))) == [1, 3]


def test_an_activation_that_reads_the_sum_twice_joins() -> None:
    b = Builder()
    x = conv(b, b.input("x", f32(1, 4, 4, 8)))
    y = b.add(Binary("mul"), x, b.add(Unary("sigmoid"), x))
    assert groups(fused(b, y)) == [("contract", ["Conv", "Unary", "Binary"])]
    b = Builder()
    gelu = b.add(Gelu("tanh"), conv(b, b.input("x", f32(1, 4, 4, 8))))
    assert kinds(fused(b, gelu)) == {"contract": 1}


def test_a_sum_that_is_an_output_keeps_its_own_kernel() -> None:
    """A kernel with an epilogue has one result."""
    b = Builder()
    x = conv(b, b.input("x", f32(1, 4, 4, 8)))
    y = b.add(Unary("sigmoid"), x)
    assert groups(fused(b, x, y)) == [("contract", ["Conv"]), ("map", ["Unary"])]


def test_an_epilogue_ends_where_the_shape_changes() -> None:
    b = Builder()
    x = b.add(Unary("neg"), conv(b, b.input("x", f32(1, 1, 4, 8))))
    wide = b.add(Binary("add"), x, b.constant(np.ones((1, 3, 4, 8), np.float32)))
    assert groups(fused(b, wide)) == [("contract", ["Conv", "Unary"]), ("map", ["Binary"])]


def test_an_epilogue_never_waits_for_its_own_result() -> None:
    """exp(reduce(y)) needs all of y: adding it back cannot be part of y's kernel."""
    b = Builder()
    y = b.add(MatMul(), b.input("x", f32(5, 6)), b.constant(np.ones((6, 8), np.float32)))
    total = b.add(Reduce("sum", (0, 1), True), y)
    z = b.add(Binary("add"), y, b.add(Unary("exp"), total))
    graph = fused(b, z)
    assert [m.op.name for m in group_of(graph, "MatMul").op.body.nodes] == ["MatMul"]  # type: ignore[attr-defined]


def test_a_pool_takes_its_activation() -> None:
    b = Builder()
    y = b.add(Pool("max", (2, 2), (2, 2), (0,) * 4, (1, 1), False), b.input("x", f32(1, 4, 4, 8)))
    assert groups(fused(b, b.add(Unary("tanh"), y))) == [("window", ["Pool", "Unary"])]


# ---- rows


def test_softmax_is_one_kernel() -> None:
    b = Builder()
    graph = fused(b, b.add(Softmax(2), b.input("x", f32(2, 5, 16))))
    assert kinds(graph) == {"rows": 1}


def test_layer_norm_with_a_residual_is_one_kernel_of_two_results() -> None:
    b = Builder()
    x, r = b.input("x", f32(5, 16)), b.input("r", f32(5, 16))
    total = b.add(Binary("add"), x, r)
    y = b.add(LayerNorm(1, 1e-5), total, b.input("scale", f32(16)), b.input("bias", f32(16)))
    graph = fused(b, total, y)
    assert kinds(graph) == {"rows": 1}
    assert len(graph.nodes[0].outputs) == 2


def test_masked_softmax_takes_the_mask_and_the_scale() -> None:
    b = Builder()
    x, mask = b.input("x", f32(2, 4, 16)), b.input("mask", f32(4, 16))
    scaled = b.add(Binary("mul"), x, scalar(b, 0.125))
    graph = fused(b, b.add(Softmax(2), b.add(Binary("add"), scaled, mask)))
    assert [kind for kind, _ in groups(graph)] == ["rows"]


def test_rows_that_do_not_fit_a_cache_are_several_kernels() -> None:
    b = Builder()
    graph = fused(b, b.add(Softmax(1), b.input("x", f32(2, MAX_ROW_ELEMENTS + 1))))
    assert "rows" not in kinds(graph)
    assert kinds(graph)["reduce"] == 2


def test_a_mean_over_leading_axes_is_a_reduction() -> None:
    b = Builder()
    y = b.add(Unary("sqrt"), b.add(Reduce("mean", (1, 2), False), b.add(Unary("abs"), b.input("x", f32(2, 4, 4, 8)))))
    assert groups(fused(b, y)) == [("reduce", ["Unary", "Reduce", "Unary"])]


def test_groups_of_several_results_never_need_each_other() -> None:
    """Rows of the last axis need a sum over the last two, which needs a result of those rows."""
    b = Builder()
    x, z = b.input("x", f32(2, 3, 8)), b.input("z", f32(2, 3, 8))
    small = b.add(Reduce("sum", (1, 2), True), z)
    most = b.add(Reduce("max", (2,), True), x)
    apart = b.add(Binary("sub"), x, most)
    both = b.add(Binary("add"), most, small)
    total = b.add(Reduce("sum", (1, 2), True), apart)
    end = b.add(Binary("mul"), small, total)
    graph = fused(b, both, end)
    inputs = [np.random.default_rng(n).standard_normal((2, 3, 8)).astype(np.float32) for n in range(2)]
    for a, e in zip(run_graph(graph, inputs), run_graph(b.graph([both, end]), inputs), strict=True):
        np.testing.assert_array_equal(a, e)


# ---- maps and movement


def test_chains_of_elementwise_nodes_are_one_kernel() -> None:
    b = Builder()
    x = b.input("x", f32(3, 4))
    y = b.add(Select(), b.add(Binary("lt"), x, scalar(b, 0)), b.add(Unary("exp"), x), b.add(Unary("neg"), x))
    assert groups(fused(b, y)) == [("map", ["Binary", "Unary", "Unary", "Select"])]


def test_views_stay_outside_and_transposes_are_computed_where_they_are_read() -> None:
    b = Builder()
    x = b.input("x", f32(4, 6))
    part = b.add(Slice((0, 1), (4, 3), (1, 1)), x)
    y = b.add(Binary("add"), b.add(Unary("neg"), part), b.add(Transpose((1, 0)), b.input("t", f32(3, 4))))
    graph = fused(b, b.add(Reshape((12,)), y))
    assert [n.op.name for n in graph.nodes] == ["Slice", "Fused", "Reshape"]
    assert kinds(graph) == {"map": 1}


def test_a_gather_is_computed_where_it_is_read() -> None:
    b = Builder()
    x, at = b.input("x", f32(10, 6)), b.input("at", TensorType("i64", (4,)))
    y = b.add(Binary("add"), b.add(Gather(0), x, at), b.constant(np.ones((4, 6), np.float32)))
    assert groups(fused(b, y)) == [("map", ["Gather", "Binary"])]


@pytest.mark.parametrize("joins", [False, True])
def test_readers_may_select_the_halves_of_a_rotation(joins: bool) -> None:
    """x * cos + Concat(-right half, left half) * sin: one group where launches are dear, else written in place."""
    b = Builder()
    x, cos, sin = b.input("x", f32(2, 3, 8)), b.input("cos", f32(3, 8)), b.input("sin", f32(3, 8))
    left, right = (b.add(Slice((0, 0, n), (2, 3, 4), (1, 1, 1)), x) for n in (0, 4))
    turned = b.add(Concat(2), b.add(Unary("neg"), right), left)
    y = b.add(Binary("add"), b.add(Binary("mul"), x, cos), b.add(Binary("mul"), turned, sin))
    before = b.graph([y])
    after = fuse(before, joins=joins)
    verify_graph(after, after="fuse")
    assert kinds(after) == {"map": 1 if joins else 2}
    values = [np.random.default_rng(n).standard_normal(v.type.static_shape).astype("f4") for n, v in enumerate(before.inputs)]
    np.testing.assert_array_equal(run_graph(after, values)[0], run_graph(before, values)[0])


@pytest.mark.parametrize(("axis", "is_map"), [(1, True), (2, False)])
def test_parts_that_are_copied_are_one_map_along_whole_lines(axis: int, is_map: bool) -> None:
    """A token behind its cache; along the last axis the parts are not vectors of one kind."""
    b = Builder()
    parts = [b.input("past", f32(2, 3, 8)), b.input("new", f32(*((2, 1, 8) if axis == 1 else (2, 3, 1))))]
    graph = fuse(b.graph([b.add(Concat(axis), *parts)]), joins=True)
    assert kinds(graph) == ({"map": 1} if is_map else {})


def test_what_two_groups_read_is_computed_once() -> None:
    b = Builder()
    x = b.add(Unary("exp"), b.input("x", f32(4, 6)))
    graph = fused(b, b.add(Reduce("sum", (0,), True), x), b.add(Reduce("max", (0,), True), x))
    assert sum(ops.count("Unary") for _, ops in groups(graph)) == 1


def test_constants_of_one_element_are_inside_the_group() -> None:
    b = Builder()
    y = b.add(Binary("mul"), b.input("x", f32(4)), b.constant(np.full((1,), 2, np.float32)))
    (node,) = fused(b, y).nodes
    assert len(node.inputs) == 1


def test_joined_and_padded_parts_are_not_copied_by_a_group() -> None:
    b = Builder()
    x = b.input("x", f32(4, 6))
    joined = b.add(Concat(0), b.add(Unary("neg"), x), b.add(Unary("exp"), x))
    padded = b.add(Pad((0, 1), (0, 1), "constant"), joined, scalar(b, 0))
    assert groups(fused(b, padded)) == [("map", ["Unary"]), ("map", ["Unary"])]


def test_attention_stays_alone_where_it_is_native() -> None:
    b = Builder()
    q, k, v = (b.input(n, f32(1, 2, 8, 16)) for n in "qkv")
    graph = fuse(b.graph([b.add(Unary("neg"), b.add(Attention(0.25, False), q, k, v))]))
    assert groups(graph) == [("attention", ["Attention"]), ("map", ["Unary"])]


def test_rows_store_integers_and_their_readers_make_floats_of_them() -> None:
    """x - max(x) is rounded to bytes for a product, and these bytes are added to its result."""
    b = Builder()
    x = b.input("x", f32(8, 16))
    q = b.add(Saturate("u8", 0, 255), b.add(Binary("sub"), x, b.add(Reduce("max", (1,), True), x)))
    again = b.add(Binary("mul"), b.add(Cast("f32"), q), scalar(b, 0.5))
    product = b.add(Cast("f32"), b.add(MatMul("i32"), q, b.constant(np.ones((16, 16), np.int8))))
    graph = fuse(b.graph([b.add(Binary("add"), again, product)]))
    rows = group_of(graph, "Reduce")
    assert [m.op.name for m in rows.op.body.nodes] == ["Reduce", "Binary", "Saturate"]  # type: ignore[attr-defined]
    assert [v.type.dtype for v in rows.outputs] == ["u8"]


@pytest.mark.parametrize("rows", [False, True])
def test_groups_have_a_bounded_size(rows: bool) -> None:
    """A long chain of elementwise nodes is several kernels, and the compiler does not recurse over all of it."""
    b = Builder()
    x = b.input("x", f32(3, 8))
    if rows:
        x = b.add(Binary("sub"), x, b.add(Reduce("max", (1,), True), x))
    for n in range(700):
        x = b.add(Binary("add" if n % 2 else "mul"), x, scalar(b, 1 + n / 1000))
    graph = fused(b, x)
    assert all(len(ops) <= MAX_NODES for _, ops in groups(graph))
    assert len(graph.nodes) < 15
    assert lower(graph, host_machine()).kernels


# ---- meaning


def body_is_convex(graph: Graph, node: Node) -> bool:
    """Nothing that the node reads depends on it."""
    made = set(node.outputs)
    for n in graph.nodes:
        if n is not node and made & set(n.inputs):
            made |= set(n.outputs)
    return not made & set(node.inputs)


@pytest.mark.parametrize("seed", range(150))
def test_fusing_keeps_the_meaning(seed: int) -> None:
    graph, inputs = random_graph(seed)
    before = expand_composites(graph)
    after = fuse(before)
    verify_graph(after, after="fuse")
    for node in after.nodes:
        assert body_is_convex(after, node)
    count = sum(len(n.op.body.nodes) if isinstance(n.op, Fused) else 1 for n in after.nodes)
    assert count == len(before.nodes)
    assert after.output_names == before.output_names
    for a, b in zip(run_graph(after, inputs), run_graph(before, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fusing_is_deterministic() -> None:
    for seed in range(10):
        graph, _ = random_graph(seed)
        before = expand_composites(graph)
        assert str(fuse(before)) == str(fuse(before))
