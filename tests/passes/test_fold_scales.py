"""fold_scales: chains around contractions go into weights and biases; what must stay stays."""

import numpy as np
import pytest
from passes.meaning import array, counts, f32, number, preserved
from tilewright.compiler.passes.fold_scales import fold_scales
from tilewright.ir.graph import Builder, Value
from tilewright.ir.ops.contract import Conv, ConvTranspose, MatMul
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.norm import BatchNorm
from tilewright.ir.types import TensorType

CONTRACTIONS = {
    "conv": (Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), (3, 3, 4, 6)),
    "grouped conv": (Conv((2, 1), (0, 0, 0, 0), (1, 1), 2), (3, 3, 2, 6)),
    "depthwise conv": (Conv((1, 1), (1, 1, 1, 1), (1, 1), 4), (3, 3, 1, 8)),
    "conv transpose": (ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 1, (0, 0)), (2, 2, 6, 4)),
    "grouped conv transpose": (ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 2, (0, 0)), (2, 2, 3, 4)),
    "product": (MatMul(), (4, 6)),
}


def channels(v: Value) -> int:
    return int(v.type.shape[-1])  # type: ignore[arg-type]


def affine(b: Builder, x: Value) -> Value:
    """((x * s - t) / u) + w, per channel and with one number."""
    n = channels(x)
    y = b.add(Binary("mul"), x, b.constant(array(n, seed=1)))
    y = b.add(Binary("sub"), y, b.constant(array(1, 1, n, seed=2)))
    y = b.add(Binary("div"), y, number(b, 3.0))
    return b.add(Binary("add"), b.constant(array(n, seed=4)), y)


@pytest.mark.parametrize("name", list(CONTRACTIONS))
@pytest.mark.parametrize("bias", [False, True])
def test_a_chain_behind_a_contraction(name: str, bias: bool) -> None:
    op, shape = CONTRACTIONS[name]
    product = isinstance(op, MatMul)
    b = Builder()
    operands = [b.input("x", f32(2, 5, 5, 4)), b.constant(array(*shape))]
    y = b.add(op, *operands)
    if bias:
        vector = b.constant(array(channels(y), seed=9))
        y = b.add(Binary("add"), y, vector) if product else b.add(op, *operands, vector)
    after = preserved(b.graph([affine(b, y)]), fold_scales, 1e-6)
    assert counts(after) == {op.name: 1, **({"add": 1} if product else {})}
    assert str(fold_scales(after)) == str(after)


@pytest.mark.parametrize("name", list(CONTRACTIONS))
def test_a_scale_before_a_contraction(name: str) -> None:
    op, shape = CONTRACTIONS[name]
    b = Builder()
    x = b.add(Binary("mul"), b.input("x", f32(2, 5, 5, 4)), b.constant(array(4, seed=1)))
    after = preserved(b.graph([b.add(op, x, b.constant(array(*shape)))]), fold_scales, 1e-6)
    assert counts(after) == {op.name: 1}


@pytest.mark.parametrize(("name", "folds"), [
    ("conv", False), ("grouped conv", True), ("conv transpose", False), ("product", True),
])  # fmt: skip
def test_a_shift_before_a_contraction_needs_a_border_that_is_shifted_too(name: str, folds: bool) -> None:
    op, shape = CONTRACTIONS[name]
    b = Builder()
    y = b.add(op, affine(b, b.input("x", f32(2, 5, 5, 4))), b.constant(array(*shape)))
    after = preserved(b.graph([y]), fold_scales, 1e-6)
    assert ("sub" not in counts(after)) == folds


def batch_norm(b: Builder, x: Value, variance: Value | None = None) -> Value:
    n = channels(x)
    parameters = [b.constant(array(n, seed=i)) for i in range(3)]
    return b.add(BatchNorm(1e-3), x, *parameters, variance or b.constant(np.abs(array(n, seed=3)) + 0.5))


def test_batch_norms_go_into_convolutions_on_both_sides_and_around_them() -> None:
    op, shape = CONTRACTIONS["grouped conv"]
    b = Builder()
    y = batch_norm(b, b.add(op, batch_norm(b, b.input("x", f32(2, 5, 5, 4))), b.constant(array(*shape))))
    y = batch_norm(b, b.add(Unary("exp"), y))
    after = preserved(b.graph([y]), fold_scales, 1e-5)
    assert counts(after) == {"Conv": 1, "exp": 1, "mul": 1, "add": 1}


def test_a_batch_norm_with_computed_statistics_stays() -> None:
    b = Builder()
    y = batch_norm(b, b.input("x", f32(2, 4)), b.add(Unary("abs"), b.input("v", f32(4))))
    assert counts(preserved(b.graph([y]), fold_scales)) == {"BatchNorm": 1, "abs": 1}


def test_halves_are_folded_with_one_rounding() -> None:
    b = Builder()
    half = TensorType("f16", (8, 4))
    y = b.add(MatMul(), b.input("x", half), b.constant(array(4, 4).astype(np.float16)))
    y = b.add(Binary("mul"), y, b.constant(array(4, seed=2).astype(np.float16)))
    assert counts(preserved(b.graph([y]), fold_scales, 2e-3)) == {"MatMul": 1}


def test_what_others_read_is_not_folded() -> None:
    op, shape = CONTRACTIONS["conv"]
    for shared in ("result", "weights"):
        b = Builder()
        x, w = b.input("x", f32(2, 5, 5, 4)), b.constant(array(*shape))
        y = b.add(op, x, w)
        scaled = b.add(Binary("mul"), y, b.constant(array(6, seed=1)))
        other = y if shared == "result" else b.add(op, b.add(Unary("neg"), x), w)
        assert counts(preserved(b.graph([scaled, other]), fold_scales, 1e-6))["mul"] == 1


def test_factors_that_the_type_cannot_hold_are_not_folded() -> None:
    b = Builder()
    y = b.add(MatMul(), b.input("x", f32(2, 4)), b.constant(np.full((4, 3), 1e30, np.float32)))
    graph = b.graph([b.add(Binary("mul"), y, number(b, 1e20))])
    assert counts(fold_scales(graph)) == {"MatMul": 1, "mul": 1}


def test_a_bias_alone_stays_an_addition() -> None:
    b = Builder()
    y = b.add(MatMul(), b.input("x", f32(2, 4)), b.constant(array(4, 3)))
    graph = b.graph([b.add(Binary("add"), y, b.constant(array(3)))])
    assert str(fold_scales(graph)) == str(graph)
