"""Casts to and from types of 8 bits and less that no arithmetic is defined on.

Elements are carried one per byte: integers by their value, floats by their bits.  From a float: a table of all bit patterns.
To a float, with M mantissa bits and the least exponent e0, from |x| in f32:

    q = 2^(max(exponent(|x|), e0) - M)        the distance of neighbours at x
    r = rint(|x| / q) * q                     exact: the quotient has at most M + 2 bits
    code = bits(r) >> (23 - M), rebiased      or r / q where r is below 2^e0
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.elementwise import Bitcast
from ....ir.types import DTYPES, is_float
from ..builder import NarrowTensor, OnnxBuilder
from ..tensors import NARROW


@dataclass(frozen=True)
class Format:
    """mantissa: bits; bias: of the exponent; sign: position of the sign bit.  largest, beyond, nan: codes of the largest
    number, of what is larger without saturation, and of NaN (-0 where there is none).  no_minus: there is one zero, and
    the NaN has no sign."""

    mantissa: int
    bias: int
    sign: int
    largest: int
    beyond: int
    nan: int
    no_minus: bool = False


FORMATS: dict[int, Format] = {
    TensorProto.FLOAT8E4M3FN: Format(3, 7, 7, 0x7E, 0x7F, 0x7F),
    TensorProto.FLOAT8E4M3FNUZ: Format(3, 8, 7, 0x7F, 0x80, 0x80, True),
    TensorProto.FLOAT8E5M2: Format(2, 15, 7, 0x7B, 0x7C, 0x7E),
    TensorProto.FLOAT8E5M2FNUZ: Format(2, 16, 7, 0x7F, 0x80, 0x80, True),
    TensorProto.FLOAT4E2M1: Format(1, 1, 3, 0x7, 0x7, 0x8),
}
BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}


def widened(b: OnnxBuilder, x: NarrowTensor) -> Value:
    """The numbers: floats as f32, integers as they are stored."""
    if x.code in BITS:
        return x.value
    codes = np.arange(256, dtype=np.uint8)
    dtype = np.dtype(getattr(ml_dtypes, NARROW[x.code][1]))
    if x.code == TensorProto.FLOAT4E2M1:
        codes = codes & 15
    return b.gather(b.constant(codes.view(dtype).astype(np.float32)), x.value, 0)


def narrowed(b: OnnxBuilder, x: Value, code: int, saturate: bool, round_mode: str = "up") -> NarrowTensor:
    """Numbers in a narrow type; round_mode is for powers of two.  Raises ModelError for f64, which would be rounded twice."""
    if code in BITS:
        return NarrowTensor(_low_bits(b, x, code), code)
    if code not in FORMATS and code != TensorProto.FLOAT8E8M0:
        raise ModelError(f"a cast to {TensorProto.DataType.Name(code)} is not supported")
    if x.type.dtype == "f64":
        raise ModelError(f"a cast from f64 to {TensorProto.DataType.Name(code)} is not supported; cast to f32 first")
    if code == TensorProto.FLOAT8E8M0:
        return NarrowTensor(_power(b, b.cast(x, "f32"), saturate, round_mode), code)
    return NarrowTensor(_encoded(b, b.cast(x, "f32"), FORMATS[code], saturate), code)


def _power(b: OnnxBuilder, x: Value, saturate: bool, round_mode: str) -> Value:
    """The exponent of |x| with its bias of 127, rounded as asked; 255 for NaN, infinity, and without saturation for what is
    too large.  Numbers below 2**-126 are below 1 in it, of which there is 0 alone."""
    bits = b.binary("bitand", b.add(Bitcast("u32"), x), 0x7FFFFFFF)
    exponent, fraction = b.binary("shr", bits, 23), b.binary("bitand", bits, 0x7FFFFF)
    half = b.scalar(2**22, "u32")
    if round_mode == "up":
        more = b.binary("gt", fraction, 0)
    elif round_mode == "nearest":  # half of the way up, from 0 more than that
        even = b.binary("and", b.binary("eq", exponent, 0), b.binary("eq", fraction, half))
        more = b.binary("and", b.binary("ge", fraction, half), b.unary("not", even))
    elif round_mode == "down":
        more = b.scalar(False, "bool")
    else:
        raise ModelError(f"attribute 'round_mode' is {round_mode!r}, expected up, down or nearest")
    code = b.binary("min", b.binary("add", exponent, b.cast(more, "u32")), 254 if saturate else 255)
    return b.cast(b.select(b.binary("eq", exponent, 255), b.scalar(255, "u32"), code), "u8")


def _low_bits(b: OnnxBuilder, x: Value, code: int) -> Value:
    """Truncated, then the low bits, as casts to wider integers do."""
    stored, bits = NARROW[code][0], BITS[code]
    whole = b.cast(x, "i32" if is_float(x.type.dtype) or DTYPES[x.type.dtype].size < 4 else "i64")
    low = b.binary("bitand", whole, 2**bits - 1)
    if stored == "i8":
        low = b.select(b.binary("ge", low, 2 ** (bits - 1)), b.binary("sub", low, 2**bits), low)
    return b.cast(low, stored)


def _encoded(b: OnnxBuilder, x: Value, f: Format, saturate: bool) -> Value:
    bits = b.add(Bitcast("u32"), x)
    magnitude = b.binary("bitand", bits, 0x7FFFFFFF)
    size = b.add(Bitcast("f32"), magnitude)
    least = 128 - f.bias  # the exponent of the smallest normal number, as f32 has it
    exponent = b.binary("max", b.binary("shr", magnitude, 23), least)
    step = b.add(Bitcast("f32"), b.binary("shl", b.binary("sub", exponent, f.mantissa), 23))
    count = b.unary("rint", b.binary("div", size, step))
    rounded = b.binary("mul", count, step)
    normal = b.binary("shr", b.add(Bitcast("u32"), rounded), 23 - f.mantissa)
    normal = b.binary("sub", normal, (127 - f.bias) << f.mantissa)
    small = b.binary("lt", rounded, 2.0 ** (least - 127))
    below = b.cast(b.select(small, count, b.scalar(0, "f32")), "u32")
    code = b.select(small, below, normal)
    beyond = b.scalar(f.largest if saturate else f.beyond, "u32")
    code = b.select(b.binary("gt", rounded, _largest(f)), beyond, code)
    code = b.select(b.unary("isnan", x), b.scalar(f.nan, "u32"), code)
    minus = b.binary("shl", b.binary("shr", bits, 31), f.sign)
    if f.no_minus:
        minus = b.select(b.binary("eq", code, 0), b.scalar(0, "u32"), minus)
    return b.cast(b.binary("bitor", code, minus), "u8")


def _largest(f: Format) -> float:
    """The number that the code `largest` stands for."""
    mantissa, exponent = f.largest & (2**f.mantissa - 1), f.largest >> f.mantissa
    return (1 + mantissa / 2**f.mantissa) * 2.0 ** (exponent - f.bias)
