"""Operators of the domain com.microsoft that quantizers write."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.movement import Concat
from ....ir.ops.norm import Softmax
from ....ir.ops.quantize import Dequantize, RoundBlocks
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder, normal_axes, normal_axis
from ..table import Outputs, onnx_op
from .contract import gemm
from .pool import average_pool, global_average_pool
from .quantize import (
    dequantize,
    dequantize_linear,
    dynamic_quantize_linear,
    matmul_integer,
    qlinear_conv,
    quantize,
    quantize_linear,
    through_floats,
)

DOMAIN = "com.microsoft"
onnx_op("QuantizeLinear", since=0, domain=DOMAIN)(quantize_linear)
onnx_op("DequantizeLinear", since=0, domain=DOMAIN)(dequantize_linear)


def _elementwise(fn: str) -> Any:
    def function(
        b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y: Value, y_scale: Value, y_zero: Value | None,
        z_scale: Value, z_zero: Value | None = None,
    ) -> Outputs:  # fmt: skip
        z = b.binary(fn, dequantize(b, x, x_scale, x_zero), dequantize(b, y, y_scale, y_zero))
        return quantize(b, z, z_scale, z_zero)

    return function


onnx_op("QLinearAdd", since=0, domain=DOMAIN)(_elementwise("add"))
onnx_op("QLinearMul", since=0, domain=DOMAIN)(_elementwise("mul"))


@onnx_op("QLinearConv", since=0, domain=DOMAIN)
def qlinear_conv_layout(
    b: OnnxBuilder, *operands: Value, channels_last: int = 0, auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None, group: int = 1, kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    attributes = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "kernel_shape": kernel_shape,
                  "pads": pads, "strides": strides}
    x, *rest = operands
    if not channels_last:
        return qlinear_conv(b, x, *rest, **attributes)
    y = qlinear_conv(b, _channels_first(b, x), *rest, **attributes)
    assert isinstance(y, Value)
    return _channels_last(b, y)


def _channels_first(b: OnnxBuilder, x: Value) -> Value:
    return b.transpose(x, (0, x.type.rank - 1, *range(1, x.type.rank - 1)))


def _channels_last(b: OnnxBuilder, x: Value) -> Value:
    return b.transpose(x, (0, *range(2, x.type.rank), 1))


@onnx_op("QLinearSigmoid", since=0, domain=DOMAIN)
def qlinear_sigmoid(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None
) -> Outputs:
    return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, lambda b, v: b.unary("sigmoid", v))


@onnx_op("QLinearLeakyRelu", since=0, domain=DOMAIN)
def qlinear_leaky_relu(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None, *,
    alpha: float = 0.01,
) -> Outputs:  # fmt: skip
    def leaky(b: OnnxBuilder, v: Value) -> Value:
        return b.select(b.binary("lt", v, 0.0), b.binary("mul", v, alpha), v)

    return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, leaky)


@onnx_op("QLinearSoftmax", since=0, domain=DOMAIN)
def qlinear_softmax(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value, *, axis: int = -1,
    opset: int = 13,
) -> Outputs:  # fmt: skip
    """Before opset 13 the dimensions from the axis on are one."""
    along = normal_axis(axis, x.type.rank)
    if opset >= 13:
        return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, lambda b, v: b.add(Softmax(along), v))

    def flat(b: OnnxBuilder, v: Value) -> Value:
        return b.reshape(b.add(Softmax(1), b.flatten(v, along)), x.type.shape)

    return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, flat)


@onnx_op("QLinearGlobalAveragePool", since=0, domain=DOMAIN)
def qlinear_global_average_pool(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value, *, channels_last: int = 0
) -> Outputs:
    def pool(b: OnnxBuilder, v: Value) -> Outputs:
        if not channels_last:
            return global_average_pool(b, v)
        return b.add(Reduce("mean", tuple(range(1, v.type.rank - 1)), True), v)

    return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, pool)


@onnx_op("QLinearAveragePool", since=0, domain=DOMAIN)
def qlinear_average_pool(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None, *,
    kernel_shape: tuple[int, ...], auto_pad: str = "NOTSET", ceil_mode: int = 0, channels_last: int = 0,
    count_include_pad: int = 0, pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Outputs:  # fmt: skip
    first = _channels_first(b, x) if channels_last else x
    y = through_floats(
        b, first, x_scale, x_zero, y_scale, y_zero, average_pool, kernel_shape=kernel_shape, auto_pad=auto_pad,
        ceil_mode=ceil_mode, count_include_pad=count_include_pad, pads=pads, strides=strides,
    )
    return _channels_last(b, y) if channels_last else y


@onnx_op("QLinearReduceMean", since=0, domain=DOMAIN)
def qlinear_reduce_mean(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None, *,
    axes: tuple[int, ...], keepdims: int = 1,
) -> Outputs:  # fmt: skip
    over = normal_axes(axes, x.type.rank)
    mean = lambda b, v: b.add(Reduce("mean", over, bool(keepdims)), v)  # noqa: E731
    return through_floats(b, x, x_scale, x_zero, y_scale, y_zero, mean)


@onnx_op("QLinearConcat", since=0, domain=DOMAIN)
def qlinear_concat(b: OnnxBuilder, y_scale: Value, y_zero: Value, *parts: Value, axis: int) -> Outputs:
    if not parts or len(parts) % 3:
        raise ModelError(f"expected operands in threes (tensor, scale, zero point), got {len(parts)}")
    floats = [dequantize(b, *parts[i : i + 3]) for i in range(0, len(parts), 3)]  # pyright: ignore
    joined = b.add(Concat(normal_axis(axis, floats[0].type.rank)), *floats)
    return quantize(b, joined, y_scale, y_zero)


@onnx_op("QLinearWhere", since=0, domain=DOMAIN)
def qlinear_where(
    b: OnnxBuilder, condition: Value, x: Value, x_scale: Value, x_zero: Value, y: Value, y_scale: Value, y_zero: Value,
    z_scale: Value, z_zero: Value,
) -> Outputs:  # fmt: skip
    z = b.select(condition, dequantize(b, x, x_scale, x_zero), dequantize(b, y, y_scale, y_zero))
    return quantize(b, z, z_scale, z_zero)


@onnx_op("QGemm", since=0, domain=DOMAIN)
def qgemm(
    b: OnnxBuilder, x: Value, x_scale: Value, x_zero: Value, y: Value, y_scale: Value, y_zero: Value,
    bias: Value | None = None, z_scale: Value | None = None, z_zero: Value | None = None, *, alpha: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Outputs:  # fmt: skip
    """The bias is in i32 with the scale alpha * x_scale * y_scale; floats if there is no scale for the result."""
    left, right = dequantize(b, x, x_scale, x_zero), dequantize(b, y, y_scale, y_zero, 0 if transB else 1)
    z = gemm(b, left, right, alpha=alpha, transA=transA, transB=transB)
    assert isinstance(z, Value)
    if bias is not None:
        scale = b.binary("mul", b.binary("mul", y_scale, x_scale), alpha)
        z = b.binary("add", z, dequantize(b, bias, scale, None, -1))
    return z if z_scale is None else quantize(b, z, z_scale, z_zero)


@onnx_op("MatMulIntegerToFloat", since=0, domain=DOMAIN)
def matmul_integer_to_float(
    b: OnnxBuilder, x: Value, y: Value, x_scale: Value, y_scale: Value, x_zero: Value | None = None,
    y_zero: Value | None = None, bias: Value | None = None,
) -> Outputs:  # fmt: skip
    whole = matmul_integer(b, x, y, x_zero, y_zero)
    assert isinstance(whole, Value)
    z = b.binary("mul", b.cast(whole, x_scale.type.dtype), b.binary("mul", y_scale, x_scale))
    return z if bias is None else b.binary("add", z, bias)


@onnx_op("DynamicQuantizeMatMul", since=0, domain=DOMAIN)
def dynamic_quantize_matmul(
    b: OnnxBuilder, x: Value, y: Value, y_scale: Value, y_zero: Value | None = None, bias: Value | None = None
) -> Outputs:
    q, scale, zero = dynamic_quantize_linear(b, x)  # pyright: ignore
    return matmul_integer_to_float(b, q, y, scale, y_scale, zero, y_zero, bias)  # pyright: ignore


@onnx_op("MatMulNBits", since=0, domain=DOMAIN)
def matmul_n_bits(
    b: OnnxBuilder, x: Value, packed: Value, scales: Value, zeros: Value | None = None, groups: Value | None = None,
    bias: Value | None = None, *, K: int, N: int, bits: int = 4, block_size: int = 32, accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> Outputs:  # fmt: skip
    """Weights of 2, 4 or 8 bits in blocks along K, packed [N, blocks, block_size * bits / 8], the low bits first.
    groups[K]: the block whose scale a row has; the rows are put in the order of the blocks then."""
    if bits not in (2, 4, 8) or weight_prepacked or min(K, N, block_size) < 1:
        raise ModelError(f"weights of {bits} bits, {N} x {K} in blocks of {block_size}, prepacked: {weight_prepacked}; "
                         "supported are 2, 4 and 8 bits that are not prepacked")  # fmt: skip
    blocks = -(-K // block_size)
    weights = unpacked(b.array(packed, "B"), bits, (N, blocks * block_size))[:, :K]
    if groups is not None and (zeros is not None or bits == 2):
        raise ModelError("g_idx with zero_points or 2 bits: runtimes disagree about what it means")
    order = None if groups is None else _rows_by_block(b.array(groups, "g_idx"), K, block_size)
    if order is not None:
        weights, x = weights[:, order], b.gather(x, b.constant(order), x.type.rank - 1)
    w = b.constant(np.ascontiguousarray(weights.T))
    scale = b.transpose(b.reshape(scales, (N, blocks)), (1, 0))
    zero = np.full((blocks, N), 2 ** (bits - 1), np.uint8)
    if zeros is not None:
        array = b.array(zeros, "zero_points")
        per_row = -(-blocks * bits // 8) * (8 // bits)
        zero = np.ascontiguousarray(unpacked(array, bits, (N, per_row))[:, :blocks].T)
    floats = b.add(Dequantize(0, block_size), w, scale, b.constant(zero))
    if accuracy_level == 4 and x.type.dtype == "f32" and K % block_size == 0:
        x = b.add(RoundBlocks(block_size), x)  # the model allows products of bytes
    y = b.add(MatMul(), x, b.cast(floats, x.type.dtype))
    return y if bias is None else b.binary("add", y, bias)


def _rows_by_block(groups: np.ndarray, count: int, size: int) -> np.ndarray | None:
    """The order that puts the rows of a block beside each other; None if they are."""
    places = groups.reshape(-1)[:count]
    blocks = np.arange(count) // size
    order = np.argsort(places, kind="stable")
    if len(places) != count or not np.array_equal(places[order], blocks):
        raise ModelError(f"g_idx must name each of {blocks[-1] + 1} blocks {size} times")
    return None if np.array_equal(places, blocks) else order


def unpacked(array: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ModelError(f"weights and zero points are packed in u8, got {array.dtype}")
    data = np.ascontiguousarray(array).reshape(-1)
    if bits < 8:
        data = np.stack([data >> shift & 2**bits - 1 for shift in range(0, 8, bits)], -1).reshape(-1)
    if data.size != shape[0] * shape[1]:
        raise ModelError(f"packed weights hold {data.size} numbers, expected {shape[0]} x {shape[1]}")
    return data.reshape(shape)
