"""channels_last: what cancels, what stays, and that nothing gets worse."""

import numpy as np
import pytest
from passes.meaning import array, counts, f32, number, preserved
from passes.random_models import random_model
from tilewright.compiler.passes.channels_last import channels_last, moved_elements, transposes
from tilewright.compiler.passes.fold_permutations import fold_permutations
from tilewright.compiler.passes.layout import compose, inverse, moves, permuted
from tilewright.compiler.passes.reshape_layout import plan_reshape
from tilewright.compiler.passes.simplify import simplify
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.ops.base import Op
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.image import Resize
from tilewright.ir.ops.movement import Broadcast, Concat, Gather, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import LayerNorm, LogSoftmax, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.refine import Refine

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # to channels last, to channels first


def conv(b: Builder, x: Value, channels: int, kernel: int = 1) -> Value:
    """A convolution of x[N, C, H, W] as the importer writes it."""
    w = b.constant(array(kernel, kernel, int(x.type.shape[1]), channels))
    y = b.add(Conv((1, 1), (kernel // 2,) * 4, (1, 1), 1), b.add(Transpose(LAST), x), w)
    return b.add(Transpose(FIRST), y)


def start() -> tuple[Builder, Value]:
    b = Builder()
    return b, conv(b, b.input("x", f32(2, 3, 4, 6)), 5)


def left(graph: Graph, tolerance: float = 1e-5) -> list[tuple[int, ...]]:
    """The permutations that are left after the pass, which must not change the results."""
    after = preserved(graph, channels_last, tolerance)
    return [after.producers[v].op.perm for v in transposes(after)]  # type: ignore[attr-defined]


def test_a_residual_block_keeps_one_transpose_per_edge() -> None:
    b, x = start()
    y = b.add(Binary("max"), b.add(Binary("add"), x, b.constant(array(5, 1, 1))), number(b, 0.0))
    y = b.add(Binary("add"), conv(b, y, 5, 3), y)
    after = preserved(b.graph([conv(b, y, 4)]), channels_last, 1e-5)
    assert counts(after) == {"Transpose": 2, "Conv": 3, "add": 2, "max": 1}
    assert isinstance(after.nodes[0].op, Transpose) and isinstance(after.nodes[-1].op, Transpose)
    biases = [c for c in after.constants.values() if c.size == 5]
    assert [c.shape for c in biases] == [(5,)]


# operators over y[2, 5, 4, 6] that a transpose passes, followed by a convolution if the rank is still 4
PASSED: list[tuple[str, tuple[Op, ...]]] = [
    ("unary", (Unary("exp"),)),
    ("softmax", (Softmax(1),)),
    ("log softmax", (LogSoftmax(3),)),
    ("cumsum", (CumSum(1, False, True),)),
    ("reduce", (Reduce("mean", (2, 3), True),)),
    ("reduce without axes", (Reduce("mean", (2, 3), False),)),
    ("arg reduce", (ArgReduce("max", 1, True, False),)),
    ("slice", (Slice((0, 1, 3, 0), (2, 3, 2, 6), (1, 1, -1, 1)),)),
    ("edge pad", (Pad((0, 0, 1, 2), (0, 0, 0, 1), "edge"),)),
    ("broadcast", (Reduce("sum", (2, 3), True), Broadcast((2, 5, 3, 2)))),
    ("resize", (Resize((2, 3), (8, 12), (2.0, 2.0), "linear"),)),
    ("merge and split space", (Reshape((2, 5, 24)), Unary("neg"), Reshape((2, 5, 6, 4)))),
    ("tokens", (Reshape((2, 5, 24)), Transpose((0, 2, 1)), LayerNorm(2, 1e-3))),
    ("refine", (Refine((2, 5, 4, 6)),)),
    ("split channels", (Reshape((2, 5, 1, 24)), Softmax(3), Reshape((2, 5, 4, 6)))),
]


@pytest.mark.parametrize("ops", [row[1] for row in PASSED], ids=[row[0] for row in PASSED])
def test_passed(ops: tuple[Op, ...]) -> None:
    b, y = start()
    for op in ops:
        parameters = (b.constant(array(5)), b.constant(array(5, seed=3))) if isinstance(op, LayerNorm) else ()
        y = b.add(op, y, *parameters)
    if y.type.rank == 4 and y.type.dtype == "f32":
        y = b.add(Reduce("sum", (1,), False), conv(b, y, 3))
    perms = left(b.graph([y]))
    assert perms == [LAST] or (isinstance(ops[-1], ArgReduce) and len(perms) == 1)


def test_operators_with_several_operands() -> None:
    b, y = start()
    z = b.add(Concat(1), y, b.add(Gather(1), conv(b, y, 5), b.constant(np.array([3, 0]))))
    scale = b.add(Unary("sigmoid"), conv(b, b.add(Reduce("mean", (2, 3), True), z), 7))
    z = conv(b, b.add(Binary("mul"), z, scale), 2)
    assert left(b.graph([b.add(Reduce("max", (2, 3), False), z)])) == [LAST]


def test_a_pixel_shuffle_moves_once() -> None:
    b, y = start()
    y = conv(b, y, 8)
    y = b.add(Transpose((0, 1, 4, 2, 5, 3)), b.add(Reshape((2, 2, 2, 2, 4, 6)), y))
    y = conv(b, b.add(Reshape((2, 2, 8, 12)), y), 3)
    assert left(b.graph([b.add(Reduce("sum", (2, 3), False), y)])) == [LAST, (0, 1, 4, 2, 5, 3)]


def test_heads_are_split_without_a_move_before_the_product() -> None:
    """One transpose per operand is needed, and stays one."""
    b = Builder()
    x = b.input("x", f32(2, 6, 8))
    heads = b.add(Transpose((0, 2, 1, 3)), b.add(Reshape((2, 6, 2, 4)), x))
    y = b.add(MatMul(), b.add(Binary("mul"), heads, number(b, 0.5)), b.add(Transpose((0, 1, 3, 2)), heads))
    joined = b.add(Reshape((2, 6, 12)), b.add(Transpose((0, 2, 1, 3)), y))
    assert len(left(b.graph([joined]))) == 3


def test_a_value_needed_as_it_is_keeps_its_layout() -> None:
    b = Builder()
    x = b.input("x", f32(2, 3, 4))
    t = b.add(Transpose((0, 2, 1)), x)
    y = b.add(Binary("add"), t, b.add(Unary("exp"), t))
    graph = b.graph([t, y])
    assert moved_elements(channels_last(graph)) <= moved_elements(graph)
    preserved(graph, channels_last)


def test_a_flattened_image_permutes_the_weights_of_the_head() -> None:
    b, y = start()
    y = b.add(MatMul(), b.add(Reshape((2, 120)), y), b.constant(array(120, 7)))
    graph = channels_last(b.graph([y]))
    assert len(transposes(graph)) == 2
    after = preserved(graph, fold_permutations, 1e-5)
    assert len(transposes(after)) == 1 and counts(after)["Reshape"] == 1


def test_weights_stored_by_columns_stay_so() -> None:
    b, y = start()
    weights = array(7, 120).T
    y = b.add(MatMul(), b.add(Reshape((2, 120)), y), b.constant(weights))
    after = preserved(channels_last(b.graph([y])), fold_permutations, 1e-5)
    assert any(c.shape == (120, 7) and c.T.flags.c_contiguous for c in after.constants.values())


@pytest.mark.parametrize("seed", range(150))
def test_random_graphs_keep_their_meaning_and_do_not_move_more(seed: int) -> None:
    graph = random_model(seed)
    after = preserved(graph, channels_last, 1e-4, seed)
    assert moved_elements(after) <= moved_elements(simplify(graph))


@pytest.mark.parametrize("seed", range(150))
def test_random_graphs_are_simplified_without_a_change(seed: int) -> None:
    graph = random_model(1000 + seed)
    after = preserved(graph, simplify, 1e-4, seed)
    assert _without_views(after) <= _without_views(graph)


def _without_views(graph: Graph) -> int:
    return sum(not isinstance(node.op, (Reshape, Broadcast)) for node in graph.nodes)


def test_permutations() -> None:
    x = array(2, 3, 4)
    p, q = (2, 0, 1), (1, 0, 2)
    assert np.array_equal(x.transpose(p).transpose(q), x.transpose(compose(p, q)))
    assert compose(p, inverse(p)) == (0, 1, 2) and permuted(x.shape, p) == x.transpose(p).shape
    assert moves((2, 3, 1), (1, 0, 2)) and not moves((2, 1, 3), (1, 0, 2))


@pytest.mark.parametrize(
    ("stored", "perm", "target"),
    [
        ((2, 4, 6, 8), FIRST, (2, 8, 24)), ((2, 4, 6, 8), FIRST, (2, 2, 4, 24)), ((2, 4, 6, 8), FIRST, (2, 192)),
        ((1, 4, 6, 8), FIRST, (8, 24)), ((2, 6, 3, 4), (0, 2, 1, 3), (2, 3, 24)), ((4, 1, 6), (2, 1, 0), (1, 3, 2, 4)),
        ((6, 4), (1, 0), (24,)), ((1, 1), (1, 0), ()),
    ],
)  # fmt: skip
def test_a_reshape_of_a_transpose_is_a_transpose_of_a_reshape(
    stored: tuple[int, ...], perm: tuple[int, ...], target: tuple[int, ...]
) -> None:
    x = array(*stored)
    expected = x.transpose(perm)
    plan = plan_reshape(expected.shape, perm, target)
    assert plan is not None
    made = x.transpose(plan.order).reshape(plan.shape).transpose(plan.perm)  # type: ignore[arg-type]
    assert np.array_equal(made, expected.reshape(target))
