"""QONNX: quantization with any number of bits, from float to float.  Brevitas writes it, in the domain onnx.brevitas or
qonnx.custom_op.general.

    Quant(x, scale, zero, bits) = (clip(round(x / scale + zero)) - zero) * scale

With zero points of 0 and at most 16 bits that is Quantize and Dequantize.  The integers of BipolarQuant and Trunc are
dequantized too, so that targets which compute in integers see them; everything else stays in floats.
"""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.elementwise import Cast
from ....ir.ops.quantize import Dequantize, Quantize, integer_range
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op

DOMAINS = ("onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general")
MOST_BITS = 16


def _round(b: OnnxBuilder, x: Value, mode: str) -> Value:
    half_up = b.unary("floor", b.binary("add", b.unary("abs", x), 0.5))
    match mode.upper():
        case "ROUND" | "HALF_EVEN":
            return b.unary("rint", x)
        case "FLOOR":
            return b.unary("floor", x)
        case "CEIL":
            return b.unary("ceil", x)
        case "ROUND_TO_ZERO" | "DOWN":
            return b.binary("mul", b.unary("sign", x), b.unary("floor", b.unary("abs", x)))
        case "UP":
            return b.binary("mul", b.unary("sign", x), b.unary("ceil", b.unary("abs", x)))
        case "HALF_UP":
            return b.binary("mul", b.unary("sign", x), half_up)
    raise ModelError(f"attribute 'rounding_mode' {mode!r} is not one of ROUND, FLOOR, CEIL, ROUND_TO_ZERO, UP, HALF_UP")


def _bounds(b: OnnxBuilder, bits: Value, signed: int, narrow: int) -> tuple[float, float]:
    """The least and the greatest integer."""
    array = b.array(bits, "bitwidth")
    if array.size != 1:
        raise ModelError(f"the bit width must be one number, got {array.shape}")
    n = float(array.reshape(()))
    if n < 1 or (signed and n < 2 and narrow):
        raise ModelError(f"the bit width must be at least {2 if signed and narrow else 1}, got {n}")
    if signed:
        return -(2.0 ** (n - 1)) + bool(narrow), 2.0 ** (n - 1) - 1
    return 0.0, 2.0**n - 1 - bool(narrow)


def _as_pair(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value, low: float, high: float, to: str
) -> Value | None:
    """Quantize and Dequantize, or None where they do not say the same."""
    zeros, scales = b.constants.get(zero), b.constants.get(scale)
    least, most = integer_range(to)
    whole = zeros is not None and not np.any(zeros) and low.is_integer() and high.is_integer()
    if not whole or scales is None or x.type.dtype != "f32" or low < least or high > most:
        return None
    found = _axis(scales.shape, x.type.rank)
    if found is None:
        return None
    values = _parameter(b, scales)
    q = b.add(Quantize(to, int(low), int(high), found), x, values)
    return b.add(Dequantize(found), q, values)


def _parameter(b: OnnxBuilder, scales: np.ndarray) -> Value:
    return b.constant(np.ascontiguousarray(scales.reshape(-1) if scales.size > 1 else scales.reshape(())))


def _less_zero(b: OnnxBuilder, whole: Value, zero: Value, scale: Value) -> Value:
    """(whole - zero) * scale."""
    zeros = b.constants.get(zero)
    if zeros is not None and not np.any(zeros):
        return _dequantized(b, whole, scale, "i32")
    return b.binary("mul", b.binary("sub", whole, zero), scale)


def _dequantized(b: OnnxBuilder, whole: Value, scale: Value, dtype: str) -> Value:
    """Whole floats that fit an integer type, times the scale."""
    scales = b.constants.get(scale)
    found = None if scales is None or scale.type.dtype != "f32" else _axis(scales.shape, whole.type.rank)
    if scales is None or found is None or whole.type.dtype != "f32":
        return b.binary("mul", whole, scale)
    return b.add(Dequantize(found), b.add(Cast(dtype), whole), _parameter(b, scales))


def _axis(shape: tuple[int, ...], rank: int) -> int | None:
    """Along which axis a scale that broadcasts against x varies; 0 if it does not, None if along several."""
    varies = [d + rank - len(shape) for d, n in enumerate(shape) if n != 1]
    return None if len(varies) > 1 else varies[0] if varies else 0


def quant(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value, bits: Value, *, signed: int = 1, narrow: int = 0,
    rounding_mode: str = "ROUND",
) -> Outputs:  # fmt: skip
    low, high = _bounds(b, bits, signed, narrow)
    if rounding_mode.upper() in ("ROUND", "HALF_EVEN"):
        width = 8 if low >= -128 and high <= (127 if signed else 255) else MOST_BITS
        pair = _as_pair(b, x, scale, zero, low, high, f"{'i' if signed else 'u'}{width}")
        if pair is not None:
            return pair
    whole = b.binary("add", b.binary("div", x, scale), zero)
    whole = b.binary("min", b.binary("max", whole, low), high)
    return b.binary("mul", b.binary("sub", _round(b, whole, rounding_mode), zero), scale)


def bipolar_quant(b: OnnxBuilder, x: Value, scale: Value) -> Outputs:
    """scale where x >= 0, else -scale."""
    sign = b.select(b.binary("ge", x, 0.0), b.scalar(1.0, x.type.dtype), b.scalar(-1.0, x.type.dtype))
    return _dequantized(b, sign, scale, "i8")


def trunc(
    b: OnnxBuilder, x: Value, scale: Value, zero: Value, in_bits: Value, *rest: Value, signed: int = 1, narrow: int = 0,
    rounding_mode: str = "FLOOR",
) -> Outputs:  # fmt: skip
    """The low bits dropped: with (out_bits) the scale stays, with (out_scale, out_bits) the result is also clipped."""
    out_bits = float(b.array(rest[-1], "out_bitwidth").reshape(()))
    given = b.array(in_bits, "in_bitwidth")
    whole = b.unary("rint", b.binary("add", b.binary("div", x, scale), zero))
    if len(rest) == 1:
        step = 2.0 ** (float(given.reshape(())) - out_bits)
        whole = _round(b, b.binary("div", whole, step), rounding_mode)
        return _less_zero(b, whole, zero, scale)
    step = b.unary("rint", b.binary("div", rest[0], scale))
    whole = b.binary("div", whole, step)
    low, high = _bounds(b, rest[-1], signed, narrow)
    whole = _round(b, b.binary("min", b.binary("max", whole, low), high), rounding_mode)
    return _less_zero(b, whole, b.binary("div", zero, step), rest[0])


for _domain in DOMAINS:
    onnx_op("Quant", since=0, domain=_domain)(quant)
    onnx_op("IntQuant", since=0, domain=_domain)(quant)
    onnx_op("BipolarQuant", since=0, domain=_domain)(bipolar_quant)
    onnx_op("Trunc", since=0, domain=_domain)(trunc)
