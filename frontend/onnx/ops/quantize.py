"""Quantization: every spelling becomes Dequantize - float operator - Quantize, and products of integers stay products of
integers.  `lower_quantization` then decides what is computed in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import TensorProto

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.quantize import Dequantize, Quantize, integer_range
from ....ir.ops.reduce import Reduce
from ....ir.types import is_float, is_integer
from ..builder import OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op
from ..tensors import DTYPE_OF_ONNX, dtype_name
from .contract import matmul
from .conv import conv

_RANGES: dict[int, tuple[int, int]] = {TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15)}
"""Types that are stored in a wider one."""


def dequantize(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value | None, axis: int = 0, block: int = 0
) -> Value:
    """(x - zero) * scale.  A zero point of zeros is left out."""
    along, block = _along(x, scale, axis, block)
    if zero is not None and zero in b.constants and not b.constants[zero].any():
        zero = None
    return b.add(Dequantize(along, block), x, scale, *(() if zero is None else (zero,)))


def quantize(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value | None, axis: int = 0, block: int = 0, output: int = 0
) -> Value:
    """x / scale + zero, of the zero point's type.  output: the ONNX type where there is no zero point, u8 if 0."""
    along, block = _along(x, scale, axis, block)
    to = zero.type.dtype if zero is not None else dtype_name(output or TensorProto.UINT8, "the quantized type")
    if not is_integer(to):
        raise ModelError(f"quantization to {to} is not supported; supported are integers of 4, 8 and 16 bits")
    low, high = _RANGES.get(output, integer_range(to))
    x = x if is_float(x.type.dtype) else b.cast(x, "f32")
    return b.add(Quantize(to, low, high, along, block), x, scale, *(() if zero is None else (zero,)))


def _along(x: Value, scale: Value, axis: int, block: int) -> tuple[int, int]:
    """The axis and block as the operators have them: 0 where one pair serves the whole tensor."""
    if scale.type.rank == 0 or scale.type.shape == (1,):
        return 0, 0
    if block < 0:
        raise ModelError(f"attribute 'block_size' must not be negative, got {block}")
    return normal_axis(axis, x.type.rank), block


@onnx_op("QuantizeLinear", since=10)
def quantize_linear(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0, saturate: int = 1,
) -> Outputs:  # fmt: skip
    if precision and DTYPE_OF_ONNX.get(precision) != x.type.dtype and DTYPE_OF_ONNX.get(precision) != "f32":
        raise ModelError(f"attribute 'precision' of {precision} is not supported for {x.type}")
    return quantize(b, x, scale, zero, axis, block_size, output_dtype)


@onnx_op("DequantizeLinear", since=10)
def dequantize_linear(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0,
) -> Outputs:  # fmt: skip
    y = dequantize(b, x, scale, zero, axis, block_size)
    return b.cast(y, dtype_name(output_dtype, "attribute 'output_dtype'")) if output_dtype else y


# ---- operators on quantized operands ---------------------------------------------------------------------------------


@onnx_op("QLinearConv", since=10)
def qlinear_conv(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value, w: Value, w_scale: Value, w_zero: Value, y_scale: Value,
    y_zero: Value, bias: Value | None = None, **attributes: Any,
) -> Outputs:  # fmt: skip
    """The bias is in i32, with the scale x_scale * w_scale."""
    operands = [dequantize(b, x, x_scale, x_zero), dequantize(b, w, w_scale, w_zero)]
    if bias is not None:
        operands.append(dequantize(b, bias, b.binary("mul", w_scale, x_scale), None))
    y = conv(b, *operands, **attributes)
    assert isinstance(y, Value)
    return quantize(b, y, y_scale, y_zero)


@onnx_op("QLinearMatMul", since=10)
def qlinear_matmul(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value, y: Value, y_scale: Value, y_zero: Value, z_scale: Value,
    z_zero: Value,
) -> Outputs:  # fmt: skip
    """One pair of parameters per row of x or per column of y."""
    z = matmul(b, dequantize(b, x, x_scale, x_zero, -2), dequantize(b, y, y_scale, y_zero, -1))
    assert isinstance(z, Value)
    return quantize(b, z, z_scale, z_zero, -1)


def centred(b: OnnxBuilder, x: Value, zero: Value | None, axis: int) -> Value:
    """x - zero as i32; a zero point of one dimension runs along an axis."""
    wide = b.cast(x, "i32")
    if zero is None or (zero in b.constants and not b.constants[zero].any()):
        return wide
    if zero.type.rank == 1 and zero.type.shape != (1,):
        zero = b.reshape(zero, (zero.type.shape[0], *(1,) * (x.type.rank - 1 - normal_axis(axis, x.type.rank))))
    elif zero.type.rank == 1:
        zero = b.reshape(zero, ())
    return b.binary("sub", wide, b.cast(zero, "i32"))


@onnx_op("MatMulInteger", since=10)
def matmul_integer(
    b: OnnxBuilder, x: Value, y: Value, x_zero: Value | None = None, y_zero: Value | None = None
) -> Outputs:
    left = centred(b, x, x_zero, -2 if x.type.rank > 1 else 0)
    return matmul(b, left, centred(b, y, y_zero, -1))


@onnx_op("ConvInteger", since=10)
def conv_integer(
    b: OnnxBuilder, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None, **attributes: Any
) -> Outputs:
    """Padding stands for the zero point of x: for zeros of x - x_zero."""
    return conv(b, centred(b, x, x_zero, 0), centred(b, w, w_zero, 0), **attributes)


def dynamic_parameters(b: OnnxBuilder, x: Value) -> tuple[Value, Value]:
    """Scale (f32) and zero point (u8) for all of x, zero included, as DynamicQuantizeLinear defines them."""
    axes = tuple(range(x.type.rank))
    low = b.binary("min", b.add(Reduce("min", axes, False), x), 0.0)
    high = b.binary("max", b.add(Reduce("max", axes, False), x), 0.0)
    scale = b.binary("div", b.binary("sub", high, low), 255.0)
    scale = b.select(b.binary("eq", scale, 0.0), b.scalar(1.0, "f32"), scale)
    zero = b.add(Quantize("u8", 0, 255), b.unary("neg", low), scale)
    return scale, zero


@onnx_op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(b: OnnxBuilder, x: Value) -> Outputs:
    scale, zero = dynamic_parameters(b, x)
    return quantize(b, x, scale, zero), scale, zero


def through_floats(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None,
    function: Callable[..., Outputs], **attributes: Any,
) -> Value:  # fmt: skip
    """One quantized operand, an operator on floats, one quantized result."""
    y = function(b, dequantize(b, x, x_scale, x_zero), **attributes)
    assert isinstance(y, Value)
    return quantize(b, y, y_scale, y_zero)
