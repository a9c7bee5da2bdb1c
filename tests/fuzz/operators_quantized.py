"""Quantized operators and regions: QDQ around float operators, QOperator, integer products, narrow types."""

from __future__ import annotations

import numpy as np

from fuzz.draw import F32, I8, I32, U8, Draw, Refused, Tensor
from fuzz.operators_contract import image, weights, window

_SCALES = (0.25, 0.125, 0.5)


def scale(d: Draw) -> Tensor:
    """A power of two: what is exact stays so."""
    return d.const(d.pick(_SCALES), F32)


def zero(d: Draw, dtype: np.dtype) -> Tensor:
    return d.const(d.int(-3, 3) if dtype == I8 else d.int(100, 140), dtype)


def quantized(d: Draw, x: Tensor, dtype: np.dtype, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x as integers, with scale and zero point."""
    if not x.exact:
        raise Refused("rounding decides")
    s, z = scale(d), zero(d, dtype)
    (q,) = d.node("QuantizeLinear", x, s, z, exact=True, keep=keep)
    return q, s, z


def quantize(d: Draw, op: str) -> None:
    quantized(d, d.value((F32,), exact=True), d.pick((U8, I8)), keep=True)


def dequantize(d: Draw, op: str) -> None:
    q = d.value((U8, I8, I32), lambda t: t.rank > 0)
    if q.dtype != I32 and d.chance(0.3) and d.opset >= 13:
        axis = d.int(0, q.rank - 1)
        n = q.shape[axis]
        d.node(op, q, d.const(d.rng.choice(_SCALES, n), F32), d.const(d.array((n,), q.dtype, 0, 9)), axis=axis, exact=True)
    else:
        d.node(op, q, scale(d), *(() if q.dtype == I32 else (zero(d, q.dtype),)), exact=True)


def there_and_back(d: Draw, x: Tensor, keep: bool = True) -> Tensor:
    """QuantizeLinear - DequantizeLinear."""
    dtype = d.pick((U8, I8))
    q, s, z = quantized(d, x, dtype)
    return d.node("DequantizeLinear", q, s, z, exact=True, keep=keep)[0]


def quantized_weights(d: Draw, *shape: int) -> Tensor:
    """A constant behind DequantizeLinear, per tensor or per channel of axis 0."""
    w = d.const(d.rng.integers(-60, 61, shape).astype(np.int8))
    if d.chance(0.5) and d.opset >= 13:
        s = d.const(d.rng.choice((1 / 32, 1 / 16), shape[0]), F32)
        return d.node("DequantizeLinear", w, s, d.const(np.zeros(shape[0]), I8), axis=0, exact=True, keep=False)[0]
    return d.node("DequantizeLinear", w, d.const(1 / 32, F32), d.const(0, I8), exact=True, keep=False)[0]


def qdq_convolution(d: Draw, op: str) -> None:
    x = there_and_back(d, image(d), keep=False)
    groups = d.pick((1, x.shape[1]))
    extra = window(d, x.shape[2:], False)
    outputs = groups * d.int(1, 4)
    w = quantized_weights(d, outputs, x.shape[1] // groups, *extra["kernel_shape"])  # type: ignore[misc]
    (y,) = d.node("Conv", x, w, group=groups, exact=True, keep=d.chance(0.3), **extra)
    if d.chance(0.5):
        (y,) = d.node("Relu", y, exact=True, keep=False)
    finish(d, y)


def qdq_matmul(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank == 2 and t.value.size > 0, exact=True)
    x = there_and_back(d, x, keep=False)
    w = quantized_weights(d, x.shape[1], d.pick((1, 4, 8, 17)))
    (y,) = d.node("MatMul", x, w, exact=True, keep=d.chance(0.3))
    if d.chance(0.4):
        (y,) = d.node("Add", y, weights(d, y.shape[-1]), exact=True, keep=False)
    finish(d, y)


def qdq_elementwise(d: Draw, op: str) -> None:
    x = there_and_back(d, d.value((F32,), lambda t: t.value.size > 0, exact=True), keep=False)
    z = there_and_back(d, d.input(d.array(x.shape, F32)), keep=False)
    (y,) = d.node(d.pick(("Add", "Mul", "Sub", "Max")), x, z, exact=True, keep=False)
    finish(d, y)


def qdq_movement(d: Draw, op: str) -> None:
    x = there_and_back(d, image(d), keep=False)
    kind = d.int(0, 3)
    if kind == 0:
        (y,) = d.node("MaxPool", x, kernel_shape=[1] * (x.rank - 2), exact=True, keep=False)
    elif kind == 1:
        (y,) = d.node("Transpose", x, perm=[int(p) for p in d.rng.permutation(x.rank)], exact=True, keep=False)
    elif kind == 2:
        other = there_and_back(d, d.input(d.array(x.shape, F32)), keep=False)
        (y,) = d.node("Concat", x, other, axis=1, exact=True, keep=False)
    else:
        (y,) = d.node("Reshape", x, d.ints([x.shape[0], -1]), exact=True, keep=False)
    finish(d, y)


def finish(d: Draw, y: Tensor) -> None:
    """Quantized again if that is exact, which makes a region of integers; otherwise left in floats."""
    if y.exact:
        there_and_back(d, y)
    else:
        d.values.append(y)


def dynamic(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.value.size > 0, exact=True)
    d.node(op, x, outputs=3, steady=True)


def linear_matmul(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 2 and t.value.size > 0, exact=True)
    q, s, z = quantized(d, x, d.pick((U8, I8)))
    dtype = I8 if q.dtype == I8 or d.chance(0.6) else U8
    w = d.const(d.rng.integers(0 if dtype == U8 else -40, 41, (x.shape[-1], d.int(1, 9))).astype(dtype))
    d.node(op, q, s, z, w, d.const(1 / 32, F32), zero(d, dtype), d.const(0.5, F32), zero(d, q.dtype), exact=True)


def linear_convolution(d: Draw, op: str) -> None:
    x = image(d)
    q, s, z = quantized(d, x, d.pick((U8, I8)))
    extra = window(d, x.shape[2:], False)
    w = d.const(d.rng.integers(-40, 41, (d.int(1, 5), x.shape[1], *extra["kernel_shape"])).astype(np.int8))  # type: ignore[misc]
    bias = (d.const(d.rng.integers(-200, 200, w.shape[0]).astype(np.int32)),) if d.chance(0.5) else ()
    zeros = d.const(0, I8)
    d.node(op, q, s, z, w, d.const(1 / 32, F32), zeros, d.const(0.5, F32), zero(d, q.dtype), *bias, exact=True, **extra)


def integer_product(d: Draw, op: str) -> None:
    if op == "MatMulInteger":
        x = d.value((U8, I8), lambda t: t.rank >= 2 and t.value.size > 0)
        w = d.operand(d.array((x.shape[-1], d.int(1, 9)), d.pick((U8, I8)), -40, 40))
        extra: dict[str, object] = {}
    else:
        x = image(d, (U8,))
        extra = window(d, x.shape[2:], False)
        w = d.operand(d.array((d.int(1, 5), x.shape[1], *extra["kernel_shape"]), U8, 0, 40))  # type: ignore[misc]
    d.node(op, x, w, *((zero(d, x.dtype),) if d.chance(0.5) else ()), exact=True, **extra)


def shared(d: Draw, op: str) -> None:
    """A small multi-layer region: several products between one Quantize and one Dequantize."""
    for step in (qdq_convolution, qdq_elementwise, qdq_matmul):
        step(d, op)


ROWS = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamic,
    "QLinearMatMul": linear_matmul,
    "QLinearConv": linear_convolution, "MatMulInteger": integer_product, "ConvInteger": integer_product,
}  # fmt: skip
PATTERNS = {
    "QDQ Conv": qdq_convolution, "QDQ MatMul": qdq_matmul, "QDQ elementwise": qdq_elementwise, "QDQ movement": qdq_movement,
    "QDQ network": shared,
}  # fmt: skip
