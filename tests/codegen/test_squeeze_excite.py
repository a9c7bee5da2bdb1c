"""Squeeze-and-excitation: means in the loop of the depthwise convolution, scales in the weights of the projection."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native_program import compile_program, optimise
from passes.meaning import array, counts, f32, preserved
from tilewright.codegen.lower import lower
from tilewright.codegen.program import all_calls
from tilewright.compiler.passes.fuse import fuse
from tilewright.compiler.passes.row_means import row_means
from tilewright.compiler.passes.scale_weights import scale_weights
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import Conv
from tilewright.ir.ops.control import Fused
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.reduce import Reduce
from tilewright.targets.cpu.host import host_machine

POINTWISE = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)
MEAN = Reduce("mean", (1, 2), True)


def depthwise(b: Builder, x: Value, taps: int = 3) -> Value:
    channels = x.type.static_shape[-1]
    op = Conv((1, 1), (0, 0, 0, 0), (1, 1), channels)
    y = b.add(op, x, b.constant(array(taps, taps, 1, channels, seed=1)), b.constant(array(channels, seed=2)))
    return b.add(Binary("mul"), y, b.add(Unary("sigmoid"), y))


def scaled(b: Builder, y: Value, scales: Value, width: int = 8, weights: np.ndarray | None = None) -> Value:
    w = array(1, 1, y.type.static_shape[-1], width, seed=5) if weights is None else weights
    return b.add(POINTWISE, b.add(Binary("mul"), y, scales), b.constant(w), b.constant(array(width, seed=6)))


def block(shape: tuple[int, ...], width: int = 8) -> Graph:
    b = Builder()
    y = depthwise(b, b.input("x", f32(*shape)))
    channels = shape[-1]
    s = b.add(POINTWISE, b.add(MEAN, y), b.constant(array(1, 1, channels, 4, seed=3)))
    s = b.add(Unary("sigmoid"), b.add(POINTWISE, s, b.constant(array(1, 1, 4, channels, seed=4))))
    return b.graph([scaled(b, y, s, width)])


def kinds(graph: Graph) -> list[str]:
    return [n.op.kind for n in graph.nodes if isinstance(n.op, Fused)]


@pytest.mark.parametrize("shape", [(1, 18, 18, 16), (1, 15, 22, 40), (1, 9, 9, 24), (1, 34, 30, 7)], ids=str)
def test_a_block(shape: tuple[int, ...]) -> None:
    """Rows that threads share, blocks of channels that they share, channels that do not fill vectors."""
    graph = block(shape)
    machine = host_machine()
    program = lower(optimise(graph, machine, ("scale_weights", "fuse", "row_means")), machine)
    schedules = [c.cost.schedule for c in all_calls(program.steps)]
    assert sum("means of rows" in s for s in schedules) == 1
    x = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    (want,) = run_graph(graph, [x])
    native = compile_program(program)
    results = [native.run([x], threads)[0] for threads in (1, 2, 3)]
    np.testing.assert_allclose(results[0], want, rtol=2e-5, atol=2e-5)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_a_mean_is_taken_where_the_image_is_made() -> None:
    after = preserved(fuse(block((1, 18, 18, 16))), row_means, 1e-6)
    assert kinds(after).count("means") == 1
    (group,) = [n for n in after.nodes if isinstance(n.op, Fused) and n.op.kind == "means"]
    assert [v.type.shape for v in group.outputs] == [(1, 16, 16, 16), (1, 16, 1, 16)]
    assert str(row_means(after)) == str(after)


def test_means_that_stay() -> None:
    """Of what no depthwise convolution makes, of an image with windows too large, of other axes, and of a few pixels."""

    def graph(make: str) -> Graph:
        b = Builder()
        x = b.input("x", f32(1, 12, 12, 8))
        if make == "product":
            y = b.add(POINTWISE, x, b.constant(array(1, 1, 8, 8)))
        else:
            y = depthwise(b, x, {"large": 9, "row": 12}.get(make, 3))
        reduce = Reduce("mean", (2,), True) if make == "axis" else Reduce("max", (1, 2), True) if make == "max" else MEAN
        return b.graph([b.add(reduce, y), y])

    for make in ("product", "large", "row", "axis", "max"):
        fused = fuse(graph(make))
        assert row_means(fused) is fused, make


def test_scales_go_into_weights_of_fewer_numbers() -> None:
    def graph(height: int, width: int = 8, batch: int = 1, weights: np.ndarray | None = None, left: bool = True) -> Graph:
        b = Builder()
        y, s = b.input("y", f32(batch, height, 8, 16)), b.input("s", f32(1, 1, 1, 16))
        w = array(1, 1, 16, width, seed=5) if weights is None else weights
        product = b.add(Binary("mul"), y, s) if left else b.add(Binary("mul"), s, y)
        return b.graph([b.add(POINTWISE, product, b.constant(w))])

    def is_scaled(g: Graph) -> bool:
        after = preserved(g, scale_weights, 2e-6)
        (conv,) = [n for n in after.nodes if isinstance(n.op, Conv)]
        return conv.inputs[1] not in after.constants

    assert is_scaled(graph(8)) and is_scaled(graph(8, left=False))
    assert counts(scale_weights(graph(8)))["mul"] == 1
    assert not is_scaled(graph(3))  # 24 pixels, 8 columns: the weights are as many
    assert not is_scaled(graph(8, batch=2))
    pruned = array(1, 1, 16, 8, seed=5)
    pruned[..., ::2] = 0
    assert not is_scaled(graph(8, weights=pruned))


def test_strict_accuracy_keeps_the_order_of_factors() -> None:
    g = block((1, 18, 18, 16))
    assert scale_weights(g, "strict") is g
    assert str(scale_weights(g)) != str(g)
