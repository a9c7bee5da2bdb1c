"""Opset 6: operators whose broadcasting was an attribute, and what else changed with opset 7."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.graph import Value
from ..builder import OnnxBuilder, normal_axis
from ..table import OpFunction, Outputs, onnx_op
from .contract import gemm
from .elementwise import dropout, parametric_relu
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
