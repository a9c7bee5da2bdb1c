"""Opset 6: operators whose broadcasting was an attribute, and what else changed with opset 7.  Operators that never became part
of the standard."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ..builder import OnnxBuilder, normal_axis
from ..table import OpFunction, Outputs, onnx_op
from .contract import gemm
from .elementwise import dropout, parametric_relu, softplus
from .norm import batch_normalization
from .random import dropped

BINARY = {"Add": "add", "And": "and", "Div": "div", "Mul": "mul", "Or": "or", "Pow": "pow", "Sub": "sub", "Xor": "xor"}


def _binary(fn: str) -> OpFunction:
    def apply(b: OnnxBuilder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Outputs:
        if not broadcast and x.type.shape != y.type.shape:
            raise ModelError(f"{x.type} and {y.type} differ, and attribute 'broadcast' is 0")
        if broadcast and axis is not None:
            behind = x.type.rank - normal_axis(axis, x.type.rank) - y.type.rank
            y = b.reshape(y, (*y.type.shape, *[1] * behind))
        return b.binary(fn, x, y)

    return apply


for _name, _fn in BINARY.items():
    onnx_op(_name, since=6)(_binary(_fn))


@onnx_op("Gemm", since=6)
def gemm_6(
    b: OnnxBuilder, x: Value, y: Value, c: Value, *, alpha: float = 1.0, beta: float = 1.0, broadcast: int = 0,
    transA: int = 0, transB: int = 0,
) -> Outputs:  # fmt: skip
    return gemm(b, x, y, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@onnx_op("PRelu", since=6)
def parametric_relu_6(b: OnnxBuilder, x: Value, slope: Value) -> Outputs:
    """One slope, or one for each channel."""
    if slope.type.rank == 1 and x.type.rank > 1:
        slope = b.reshape(slope, (*slope.type.shape, *[1] * (x.type.rank - 2)))
    return parametric_relu(b, x, slope)


@onnx_op("BatchNormalization", since=6)
def batch_normalization_6(
    b: OnnxBuilder, x: Value, scale: Value, bias: Value, mean: Value, var: Value, *, epsilon: float = 1e-5,
    is_test: int = 0, momentum: float = 0.9, spatial: int = 1,
) -> Outputs:  # fmt: skip
    """Without is_test the standard means the statistics of the batch; most exporters did not: that is refused."""
    if not is_test:
        raise ModelError("training mode is not supported in opset 6; set is_test to 1, or export the model with opset 7")
    return batch_normalization(b, x, scale, bias, mean, var, epsilon=epsilon, spatial=spatial)


@onnx_op("Dropout", since=6)
def dropout_6(b: OnnxBuilder, x: Value, *, is_test: int = 0, ratio: float = 0.5) -> Outputs:
    if is_test:
        return dropout(b, x)
    y, kept = dropped(b, x, b.scalar(ratio, "f32"), None)
    return y, b.cast(kept, x.type.dtype)


# ---- operators that the standard only tried out, and that converters wrote ----


@onnx_op("ImageScaler", since=1)
def image_scaler(b: OnnxBuilder, x: Value, *, bias: tuple[float, ...], scale: float = 1.0) -> Outputs:
    """x[N, C, H, W] times one number, plus one per channel."""
    if x.type.rank != 4 or x.type.shape[1] not in (len(bias), 1):
        raise ModelError(f"{len(bias)} biases do not fit {x.type}; expected x[N, C, H, W]")
    added = b.cast(b.constant(np.array(bias, np.float32).reshape(-1, 1, 1)), x.type.dtype)
    return b.binary("add", b.binary("mul", x, scale), added)


@onnx_op("Crop", since=1)
def crop(b: OnnxBuilder, x: Value, *, border: tuple[int, ...], scale: tuple[int, ...] = ()) -> Outputs:
    """border: left, top, right, bottom; scale: height and width of the result, instead of right and bottom."""
    if x.type.rank != 4 or len(border) != 4 or len(scale) not in (0, 2) or min(*border, *scale) < 0:
        raise ModelError(f"border {list(border)} and scale {list(scale)} do not fit {x.type}; expected x[N, C, H, W]")
    left, top, right, bottom = border
    height, width = x.type.shape[2:]
    sizes = scale or (height - top - bottom, width - left - right)
    fits = all(not isinstance(n, int) or not isinstance(s, int) or 0 < s <= n - at
               for n, s, at in zip((height, width), sizes, (top, left), strict=True))  # fmt: skip
    if not fits:
        raise ModelError(f"{sizes[0]} x {sizes[1]} elements from ({top}, {left}) on are not in {x.type}")
    return b.slice(b.slice(x, 2, top, sizes[0]), 3, left, sizes[1])


@onnx_op("Scale", since=1)
def scale_by(b: OnnxBuilder, x: Value, *, scale: float = 1.0) -> Outputs:
    return b.binary("mul", x, scale)


@onnx_op("Affine", since=1)
def affine(b: OnnxBuilder, x: Value, *, alpha: float = 1.0, beta: float = 0.0) -> Outputs:
    return b.binary("add", b.binary("mul", x, alpha), beta)


@onnx_op("ScaledTanh", since=1)
def scaled_tanh(b: OnnxBuilder, x: Value, *, alpha: float, beta: float) -> Outputs:
    return b.binary("mul", b.unary("tanh", b.binary("mul", x, beta)), alpha)


@onnx_op("ParametricSoftplus", since=1)
def parametric_softplus(b: OnnxBuilder, x: Value, *, alpha: float, beta: float) -> Outputs:
    """alpha * log(1 + exp(beta * x))"""
    y = softplus(b, b.binary("mul", x, beta))
    assert isinstance(y, Value)
    return b.binary("mul", y, alpha)
