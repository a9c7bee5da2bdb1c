"""recognise: norms, softmax and attention as exporters spell them, and near misses."""

import math

import numpy as np
import pytest
from passes.meaning import array, counts, f32, number, preserved
from tilewright.compiler.passes.channels_last import channels_last
from tilewright.compiler.passes.fold_constants import fold_constants
from tilewright.compiler.passes.recognise import recognise
from tilewright.compiler.passes.simplify import simplify
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Binary, Select, Unary
from tilewright.ir.ops.movement import Broadcast, Reshape, Transpose
from tilewright.ir.ops.norm import Attention, LayerNorm, Softmax
from tilewright.ir.ops.reduce import Reduce


def prepared(graph: Graph) -> Graph:
    return recognise(channels_last(simplify(fold_constants(graph))))


def mean_square(b: Builder, x: Value, axes: tuple[int, ...], power: bool) -> Value:
    square = b.add(Binary("pow"), x, number(b, 2.0)) if power else b.add(Binary("mul"), x, x)
    return b.add(Reduce("mean", axes, True), square)


def normalised(b: Builder, x: Value, axes: tuple[int, ...], by_division: bool) -> Value:
    root = b.add(Unary("sqrt"), b.add(Binary("add"), mean_square(b, x, axes, by_division), number(b, 1e-3)))
    if by_division:
        return b.add(Binary("div"), x, root)
    return b.add(Binary("mul"), x, b.add(Unary("reciprocal"), root))


# ---- norms and softmax -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_division", [False, True])
@pytest.mark.parametrize("axes", [(2,), (1, 2)])
@pytest.mark.parametrize("scaled", [False, True])
def test_layer_norm(by_division: bool, axes: tuple[int, ...], scaled: bool) -> None:
    b = Builder()
    x = b.input("x", f32(2, 3, 8))
    y = normalised(b, b.add(Binary("sub"), x, b.add(Reduce("mean", axes, True), x)), axes, by_division)
    if scaled:
        y = b.add(Binary("mul"), b.constant(array(8)), y)
        y = b.add(Binary("add"), y, b.constant(array(8, seed=2)))
    after = preserved(b.graph([y]), prepared, 1e-6)
    assert counts(after) == {"LayerNorm": 1}
    assert after.nodes[0].op == LayerNorm(axes[0], float(np.float32(1e-3)))


@pytest.mark.parametrize("by_division", [False, True])
def test_rms_norm(by_division: bool) -> None:
    b = Builder()
    y = normalised(b, b.input("x", f32(2, 3, 8)), (2,), by_division)
    y = b.add(Binary("mul"), y, b.constant(array(8)))
    assert counts(preserved(b.graph([y]), prepared, 1e-6)) == {"RmsNorm": 1}


def test_a_norm_over_other_axes_is_not_a_layer_norm() -> None:
    b = Builder()
    y = normalised(b, b.input("x", f32(2, 3, 8)), (0,), True)
    assert "RmsNorm" not in counts(preserved(b.graph([y]), recognise))


def test_a_norm_that_others_read_keeps_its_scale_apart() -> None:
    b = Builder()
    y = normalised(b, b.input("x", f32(2, 8)), (1,), True)
    graph = b.graph([y, b.add(Binary("mul"), y, b.constant(array(8)))])
    assert counts(preserved(graph, prepared, 1e-6)) == {"RmsNorm": 1, "mul": 1}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("axis", [1, 2])
def test_softmax(centred: bool, axis: int) -> None:
    b = Builder()
    x = b.input("x", f32(2, 3, 8))
    e = b.add(Unary("exp"), b.add(Binary("sub"), x, b.add(Reduce("max", (axis,), True), x)) if centred else x)
    y = b.add(Binary("div"), e, b.add(Reduce("sum", (axis,), True), e))
    after = preserved(b.graph([y]), prepared, 1e-6)
    assert [n.op for n in after.nodes] == [Softmax(axis)]


# ---- attention ---------------------------------------------------------------------------------------------------

B, H, M, S, D, E = 2, 4, 5, 6, 8, 3


def split_heads(b: Builder, name: str, rows: int, depth: int, heads: int = H) -> Value:
    x = b.add(Reshape((B, rows, heads, depth)), b.input(name, f32(B, rows, heads * depth)))
    return b.add(Transpose((0, 2, 1, 3)), x)


def transposed(b: Builder, x: Value) -> Value:
    """As the exporter of PyTorch does it: over three dimensions."""
    b_, h, s, d = x.type.static_shape
    flat = b.add(Transpose((0, 2, 1)), b.add(Reshape((b_ * h, s, d)), x))
    return b.add(Reshape((b_, h, d, s)), flat)


def attend(b: Builder, scores: Value, v: Value, mask: Value | None = None, guard: bool = False) -> Graph:
    if mask is not None:
        scores = b.add(Binary("add"), scores, mask)
    p = b.add(Softmax(scores.type.rank - 1), scores)
    if guard:
        p = b.add(Select(), b.add(Unary("isnan"), p), number(b, 0.0), p)
    return b.graph([b.add(MatMul(), p, v)])


def scored(b: Builder, style: str) -> Value:
    q, k = split_heads(b, "q", M, D), split_heads(b, "k", S, D)
    root = number(b, math.sqrt(math.sqrt(1 / D)))
    if style == "both":
        q, k = b.add(Binary("mul"), q, root), b.add(Binary("mul"), transposed(b, k), root)
        return b.add(MatMul(), q, k)
    if style == "before":
        q = b.add(Binary("div"), q, number(b, math.sqrt(D)))
        return b.add(MatMul(), q, b.add(Transpose((0, 1, 3, 2)), k))
    scores = b.add(MatMul(), q, b.add(Transpose((0, 1, 3, 2)), k))
    return scores if style == "none" else b.add(Binary("mul"), scores, number(b, math.sqrt(1 / D)))


def causal_mask(blind_row: bool = False) -> np.ndarray:
    seen = np.tril(np.ones((M, S), bool), S - M)
    seen[0] &= not blind_row
    return np.where(seen, 0, -np.inf).astype(np.float32)[None, None]


@pytest.mark.parametrize("style", ["both", "before", "after", "none"])
def test_scales_in_every_place(style: str) -> None:
    b = Builder()
    scores = scored(b, style)
    after = preserved(attend(b, scores, split_heads(b, "v", S, E)), prepared, 1e-6)
    (op,) = [n.op for n in after.nodes if isinstance(n.op, Attention)]
    assert math.isclose(op.scale, 1 if style == "none" else math.sqrt(1 / D), rel_tol=1e-6)
    assert counts(after) == {"Attention": 1, "Reshape": 3, "Transpose": 3}


def test_a_constant_mask_is_an_operand_and_its_guard_goes() -> None:
    b = Builder()
    scores = scored(b, "both")
    graph = attend(b, scores, split_heads(b, "v", S, E), b.constant(causal_mask()), guard=True)
    after = preserved(graph, prepared, 1e-6)
    assert "Select" not in counts(after) and any(len(n.inputs) == 4 for n in after.nodes)


@pytest.mark.parametrize("computed", [False, True])
def test_rows_that_are_masked_whole_stay_zero(computed: bool) -> None:
    b = Builder()
    scores = scored(b, "both")
    mask = b.constant(causal_mask(blind_row=True))
    if computed:
        seen = b.input("seen", f32(B, 1, 1, S))
        mask = b.add(Select(), b.add(Binary("lt"), number(b, 0.0), seen), number(b, 0.0), number(b, -math.inf))
    graph = attend(b, scores, split_heads(b, "v", S, E), mask, guard=True)
    after = preserved(graph, prepared, 1e-6)
    assert counts(after)["Attention"] == 1 and "isnan" not in counts(after)
    inputs = {v.name: array(*v.type.static_shape) for v in graph.inputs}
    if computed:
        inputs["seen"] = np.concatenate([np.zeros((1, 1, 1, S)), np.ones((1, 1, 1, S))]).astype(np.float32)
    (want,), (have,) = run_graph(graph, inputs), run_graph(after, inputs)
    assert np.all(want[0] == 0 if computed else want[:, :, 0] == 0)
    np.testing.assert_allclose(have, want, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
def test_fewer_leading_dimensions(rank: int) -> None:
    b = Builder()
    lead = (B * H,) if rank == 3 else ()
    q, k, v = (b.input(n, f32(*lead, r, d)) for n, r, d in (("q", M, D), ("k", S, D), ("v", S, E)))
    swap = (0, 2, 1) if rank == 3 else (1, 0)
    mask = b.constant(array(M, S))
    graph = attend(b, b.add(MatMul(), q, b.add(Transpose(swap), k)), v, mask)
    assert counts(preserved(graph, prepared, 1e-6))["Attention"] == 1


def test_repeated_heads_are_taken_once() -> None:
    def repeated(x: Value) -> Value:
        groups, rows, depth = x.type.static_shape[1:]
        wide = b.add(Broadcast((B, groups, H // groups, rows, depth)), b.add(Reshape((B, groups, 1, rows, depth)), x))
        return b.add(Reshape((B, H, rows, depth)), wide)

    b = Builder()
    q = split_heads(b, "q", M, D)
    k, v = repeated(split_heads(b, "k", S, D, 2)), repeated(split_heads(b, "v", S, E, 2))
    graph = attend(b, b.add(MatMul(), q, b.add(Transpose((0, 1, 3, 2)), k)), v)
    after = preserved(graph, prepared, 1e-6)
    (node,) = [n for n in after.nodes if isinstance(n.op, Attention)]
    assert [v.type.shape[1] for v in node.inputs] == [H, 2, 2] and "Broadcast" not in counts(after)


def test_scores_that_others_read_are_not_attention() -> None:
    b = Builder()
    scores = scored(b, "after")
    y = b.add(MatMul(), b.add(Softmax(3), scores), split_heads(b, "v", S, E))
    assert "Attention" not in counts(preserved(b.graph([y, scores]), prepared, 1e-6))


def test_softmax_over_queries_is_not_attention() -> None:
    b = Builder()
    y = b.add(MatMul(), b.add(Softmax(2), scored(b, "after")), split_heads(b, "v", S, E))
    assert "Attention" not in counts(preserved(b.graph([y]), prepared, 1e-6))
