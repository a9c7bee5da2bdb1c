"""QuantizeLinear and DequantizeLinear with types of 8 bits and less; with other types they are those of `quantize`."""

from __future__ import annotations

from typing import Union

from onnx import TensorProto

from ....ir.errors import ModelError
from ....ir.graph import Value
from ..builder import NarrowTensor, OnnxBuilder, normal_axis
from ..table import Outputs, onnx_op, takes_narrow
from ..tensors import NARROW, dtype_name
from .narrow import BITS, narrowed, widened
from .quantize import dequantize_linear, quantize, quantize_linear

Tensor = Union[Value, NarrowTensor]


@onnx_op("QuantizeLinear", since=19)
@takes_narrow
def quantize_linear_narrow(
    b: OnnxBuilder, x: Value, scale: Value, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0, saturate: int = 1,
) -> Outputs:  # fmt: skip
    if isinstance(x, NarrowTensor) or isinstance(scale, NarrowTensor):
        raise ModelError("x and y_scale must be floats, or integers of 32 bits")
    code = zero.code if isinstance(zero, NarrowTensor) else output_dtype
    if code not in NARROW:
        return quantize_linear(b, x, scale, zero, axis=axis, block_size=block_size, output_dtype=output_dtype,  # pyright: ignore
                               precision=precision, saturate=saturate)  # fmt: skip
    if code not in BITS:
        _require_zero(b, zero)
        return narrowed(b, b.binary("div", x, _spread(x, scale, axis, block_size, b)), code, bool(saturate))
    stored = NARROW[code][0]
    offset = zero.value if isinstance(zero, NarrowTensor) else b.scalar(0, stored)
    y = quantize(b, x, scale, offset if offset.type.rank else b.broadcast(offset, scale.type.shape), axis, block_size)
    low, high = (-(2 ** (BITS[code] - 1)), 2 ** (BITS[code] - 1) - 1) if stored == "i8" else (0, 2 ** BITS[code] - 1)
    return NarrowTensor(b.binary("max", b.binary("min", y, high), low), code)


@onnx_op("DequantizeLinear", since=19)
@takes_narrow
def dequantize_linear_narrow(
    b: OnnxBuilder, x: Tensor, scale: Value, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0,
) -> Outputs:  # fmt: skip
    if isinstance(scale, NarrowTensor):
        raise ModelError(f"scales of {TensorProto.DataType.Name(scale.code)} are not supported")
    if not isinstance(x, NarrowTensor) or x.code in BITS:
        plain = [v.value if isinstance(v, NarrowTensor) else v for v in (x, zero)]
        return dequantize_linear(b, plain[0], scale, plain[1], axis=axis, block_size=block_size, output_dtype=output_dtype)  # type: ignore[arg-type]
    _require_zero(b, zero)
    numbers = b.cast(widened(b, x), scale.type.dtype)
    y = b.binary("mul", numbers, _spread(numbers, scale, axis, block_size, b))
    return b.cast(y, dtype_name(output_dtype, "attribute 'output_dtype'")) if output_dtype else y


def _require_zero(b: OnnxBuilder, zero: Tensor | None) -> None:
    """The zero point of floats can only be 0."""
    value = zero.value if isinstance(zero, NarrowTensor) else zero
    if value is not None and b.array(value, "zero_point").any():
        raise ModelError("the zero point of a quantization to floats must be 0")


def _spread(x: Value, scale: Value, axis: int, block: int, b: OnnxBuilder) -> Value:
    """The scale of every element, to be broadcast."""
    if scale.type.rank == 0 or scale.type.shape == (1,):
        return b.reshape(scale, ())
    if block or scale.type.rank != 1:
        raise ModelError("blocks of scales are not supported for floats of 8 bits and less")
    at = normal_axis(axis, x.type.rank)
    return b.reshape(scale, [scale.type.shape[0] if d == at else 1 for d in range(x.type.rank)])
