"""merge_products, explicit_padding and expand_composites."""

import numpy as np
import pytest
from passes.meaning import array, counts, f32, preserved
from tilewright.compiler.passes.expand_composites import expand_composites
from tilewright.compiler.passes.explicit_padding import explicit_padding
from tilewright.compiler.passes.merge_products import merge_products
from tilewright.ir.graph import Builder, Value
from tilewright.ir.ops.base import form_of
from tilewright.ir.ops.contract import Conv, ConvTranspose, MatMul
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.movement import Pad, Reshape
from tilewright.ir.ops.norm import Attention, LayerNorm, Softmax
from tilewright.ir.ops.window import Pool

# ---- merge_products ----------------------------------------------------------------------------------------------


def linear(b: Builder, x: Value, width: int, bias: bool, seed: int) -> Value:
    y = b.add(MatMul(), x, b.constant(array(8, width, seed=seed)))
    return b.add(Binary("add"), y, b.constant(array(width, seed=seed + 1))) if bias else y


@pytest.mark.parametrize("bias", [False, True])
def test_projections_become_one_product(bias: bool) -> None:
    b = Builder()
    x = b.input("x", f32(2, 5, 8))
    heads = [b.add(Reshape((2, 5, w // 2, 2)), linear(b, x, w, bias, w)) for w in (4, 6, 8)]
    after = preserved(b.graph(heads), merge_products, 1e-6)
    assert counts(after) == {"MatMul": 1, "Slice": 3, "Reshape": 3, **({"add": 1} if bias else {})}
    assert any(c.shape == (8, 18) for c in after.constants.values())


def test_products_with_and_without_a_bias_are_merged_apart() -> None:
    b = Builder()
    x = b.input("x", f32(5, 8))
    rows = [b.add(Reshape((5, 2, 2)), linear(b, x, 4, n < 2, 10 * n)) for n in range(4)]
    assert counts(preserved(b.graph(rows), merge_products, 1e-6))["MatMul"] == 2


def test_products_that_go_into_arithmetic_or_share_weights_stay() -> None:
    b = Builder()
    x = b.input("x", f32(5, 8))
    w = b.constant(array(8, 4))
    gate = b.add(Binary("mul"), linear(b, x, 4, True, 1), b.add(Unary("sigmoid"), linear(b, x, 4, True, 3)))
    tied = [b.add(Reshape((5, 2, 2)), b.add(MatMul(), y, w)) for y in (x, b.add(Unary("neg"), x))]
    graph = b.graph([gate, *tied])
    assert str(merge_products(graph)) == str(graph)


# ---- explicit_padding --------------------------------------------------------------------------------------------


def test_convolutions_of_one_value_share_a_pad() -> None:
    b = Builder()
    x = b.input("x", f32(1, 6, 5, 3))
    parts = [b.add(Conv((2, 1), (1, 0, 2, 1), (1, 1), 1), x, b.constant(array(3, 2, 3, n))) for n in (4, 5)]
    after = preserved(b.graph(parts), explicit_padding, 1e-6)
    assert counts(after) == {"Pad": 1, "Conv": 2}
    assert not any(any(n.op.pads) for n in after.nodes if isinstance(n.op, Conv))


def test_a_pad_in_front_grows() -> None:
    b = Builder()
    zero = b.constant(np.zeros((), np.float32))
    x = b.add(Pad((0, 1, 0, 0), (0, 0, 1, 0), "constant"), b.input("x", f32(1, 6, 5, 3)), zero)
    y = b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), x, b.constant(array(3, 3, 3, 2)))
    after = preserved(b.graph([y]), explicit_padding, 1e-6)
    assert [n.op for n in after.nodes if isinstance(n.op, Pad)] == [Pad((0, 2, 1, 0), (0, 1, 2, 0), "constant")]


@pytest.mark.parametrize(("fn", "count_pads", "padded"), [("max", False, 1), ("avg", True, 1), ("avg", False, 0)])
def test_pools(fn: str, count_pads: bool, padded: int) -> None:
    b = Builder()
    pool = Pool(fn, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), count_pads)
    after = preserved(b.graph([b.add(pool, b.input("x", f32(1, 7, 6, 3)))]), explicit_padding, 1e-6)
    assert counts(after)["Pad"] == padded


def test_windows_without_a_border_are_left_alone() -> None:
    b = Builder()
    y = b.add(Conv((1, 1), (0, 0, 0, 0), (1, 1), 1), b.input("x", f32(1, 6, 5, 3)), b.constant(array(3, 3, 3, 2)))
    graph = b.graph([y])
    assert str(explicit_padding(graph)) == str(graph)


# ---- expand_composites -------------------------------------------------------------------------------------------


def composites() -> tuple[Builder, list[Value]]:
    b = Builder()
    x = b.input("x", f32(1, 2, 6, 8))
    y = b.add(LayerNorm(3, 1e-5), x, b.constant(array(8)), b.constant(array(8, seed=2)))
    y = b.add(Attention(0.5, True), y, x, x)
    z = b.add(ConvTranspose((2, 1), (1, 0, 0, 1), (1, 1), 2, (0, 0)), x, b.constant(array(3, 3, 2, 8)))
    return b, [b.add(Softmax(2), y), z]


def test_everything_ends_as_operators_with_loops() -> None:
    b, outputs = composites()
    after = preserved(b.graph(outputs), expand_composites, 1e-5)
    assert all(form_of(node.op) in ("compute", "kernel") for node in after.nodes)


def test_native_composites_stay() -> None:
    b, outputs = composites()
    native = (Attention, ConvTranspose)
    after = expand_composites(b.graph(outputs), native=lambda op, types: isinstance(op, native))
    kinds = {type(node.op) for node in after.nodes}
    assert kinds >= set(native) and not kinds & {LayerNorm, Softmax}
