"""pow of f32 as 2^(y * log2 x) in f64: a relative error of 2^-35 in the logarithm is 1 unit in the last place of f32
even where the exponent is largest.

Exponents that are small whole constants become products.
"""

from __future__ import annotations

import math

from ..ir.expr import Const, Expr, Splat, binary, call, cast, const, fma, select, unary

_MANTISSA = 2**52 - 1
_ONE = 1023 << 52  # bits of 1.0
_SQRT_HALF = 0x3FE6A09E667F3BCD  # bits of sqrt(1/2)
_WHOLE = 0x4330000000000000  # bits of 2^52: its low bits hold a whole number
_MAGIC = 1.5 * 2.0**52
_FAR = 1e300
_LIMIT = 200.0  # 2^200 is infinite in f32, 2^-200 is 0
# log2((1 + s) / (1 - s)) / s in s^2, and 2^r, both as their Taylor series: 7e-12 at the ends of the range.
_LOG2 = tuple(2.0 / ((2 * n + 1) * math.log(2.0)) for n in range(8))
_EXP2 = tuple(math.log(2.0) ** n / math.factorial(n) for n in range(10))


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    value: Expr = const(coefficients[-1], "f64")
    for c in reversed(coefficients[:-1]):
        value = fma(value, x, const(c, "f64"))
    return value


def _bits(x: Expr) -> Expr:
    return call("bitcast", x, dtype="i64")


def _float(i: Expr) -> Expr:
    return call("bitcast", i, dtype="f64")


def _log2(x: Expr) -> Expr:
    """log2 of x >= 0 in f64, NaN of NaN; at 0 and infinity finite, so that its product with 0 is 0."""
    shifted = _bits(x) + (_ONE - _SQRT_HALF)
    exponent = _float(binary("or", binary("shr", shifted, 52), _WHOLE)) - (2.0**52 + 1023.0)
    m = _float(binary("and", shifted, _MANTISSA) + _SQRT_HALF)
    s = (m - 1.0) / (m + 1.0)
    value = fma(_horner(s * s, _LOG2), s, exponent)
    return select(binary("eq", x, 0.0), const(-_FAR, "f64"), select(binary("eq", x, math.inf), const(_FAR, "f64"), value))


def _exp2(t: Expr) -> Expr:
    """2^t for |t| <= 1000."""
    n = unary("rint", t)
    power = _float(binary("shl", _bits(n + _MAGIC) + 1023, 52))
    return _horner(t - n, _EXP2) * power


def power(x: Expr, y: Expr) -> Expr:
    """x^y with C's rules for zeros, infinities, NaN and negative bases."""
    exponent = y.a if isinstance(y, Splat) else y
    if isinstance(exponent, Const) and exponent.value in _PRODUCTS:
        return _PRODUCTS[exponent.value](x)
    t = cast(y, "f64") * _log2(cast(unary("abs", x), "f64"))
    t = binary("min", binary("max", t, -_LIMIT), _LIMIT)
    value = cast(_exp2(t), "f32")
    whole = binary("eq", unary("floor", y), y)
    half = y * 0.5
    odd = binary("and", whole, binary("ne", unary("floor", half), half))
    negative = binary("lt", call("bitcast", x, dtype="i32"), 0)
    value = select(binary("and", odd, negative), unary("neg", value), value)
    nan = const(math.nan, "f32")
    below = binary("and", binary("lt", x, 0.0), binary("lt", -math.inf, x))
    value = select(binary("and", below, binary("eq", whole, const(False, "bool"))), nan, value)
    ones = binary("and", binary("eq", unary("abs", x), 1.0), binary("eq", unary("abs", y), math.inf))
    ones = binary("or", ones, binary("or", binary("eq", x, 1.0), binary("eq", y, 0.0)))
    return select(ones, const(1.0, "f32"), value)


_PRODUCTS = {
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: (x * x) * (x * x),
    -1.0: lambda x: binary("div", 1.0, x),
}
