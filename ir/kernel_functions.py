"""The NumPy meaning of the expressions that Python's operators do not have: calls, fma, min and max, casts, division.

Every function takes NumPy scalars or arrays of lanes of one element type and gives the same element type; i64 scalars
are Python ints.  Floating-point functions are computed in f64 and rounded once, so they are the reference for the
approximations that targets use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .types import DTYPES

Lanes = Any  # a NumPy scalar, a Python int (i64) or an array of lanes

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Lanes) -> Lanes:
    return 1.0 / (1.0 + np.exp(-x))


def _scalef(a: Lanes, b: Lanes) -> Lanes:
    """a * 2**floor(b), the AVX-512 instruction."""
    power = np.nan_to_num(np.floor(b), nan=0.0, posinf=4096.0, neginf=-4096.0)
    return np.where(np.isnan(b), b, np.ldexp(a, np.clip(power, -4096, 4096).astype(np.int32)))


_FLOAT: dict[str, Callable[..., Lanes]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "erf": _erf, "tanh": np.tanh, "sigmoid": _sigmoid, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "atan2": np.arctan2, "pow": np.power, "fmod": np.fmod, "sqrt": np.sqrt,
    "copysign": np.copysign, "scalef": _scalef,
}


def _power(a: Lanes, b: Lanes) -> Lanes:
    """Integer power with wrap-around; a negative exponent gives the truncated quotient, 0 unless a is 1 or -1."""
    a, b = np.asarray(a), np.asarray(b)
    negative = np.where(np.abs(a) == 1, np.where(b % 2 == 0, np.ones_like(a), a), np.zeros_like(a))
    return np.where(b < 0, negative, np.power(a, np.where(b < 0, np.zeros_like(b), b)))


_INTEGER: dict[str, Callable[..., Lanes]] = {"pow": _power}

# Products of short numbers packed in i32 lanes: their types in a and b, the type of the sum, whether there is a first
# operand that the sum is added to.
_PACKED: dict[str, tuple[str, str, str, bool]] = {
    "vpdpbusd": ("u8", "i8", "i32", True), "usdot": ("u8", "i8", "i32", True), "sdot": ("i8", "i8", "i32", True),
    "udot": ("u8", "u8", "i32", True), "pmaddwd": ("i16", "i16", "i32", False), "vdpbf16ps": ("bf16", "bf16", "f32", True),
}


def _packed(fn: str, result: str, lanes: int) -> Callable[..., Lanes]:
    left, right, total, accumulates = _PACKED[fn]
    sums = DTYPES[total].numpy

    def run(*args: Lanes) -> Lanes:
        *acc, a, b = (np.atleast_1d(np.ascontiguousarray(x)) for x in args)
        x = a.view(DTYPES[left].numpy).reshape(len(a), -1).astype(sums)
        y = b.view(DTYPES[right].numpy).reshape(len(b), -1).astype(sums)
        value = (x * y).sum(1, dtype=sums)
        value = (acc[0].view(sums) + value if accumulates else value).view(DTYPES[result].numpy)
        return value if lanes > 1 else value[0]

    return run


def _bitcast(result: str, lanes: int) -> Callable[..., Lanes]:
    numpy_type = DTYPES[result].numpy

    def run(a: Lanes) -> Lanes:
        value = np.atleast_1d(np.ascontiguousarray(a)).view(numpy_type)
        return value if lanes > 1 else int(value[0]) if result == "i64" else value[0]

    return run


def function(fn: str, operand: str, result: str, lanes: int) -> Callable[..., Lanes] | None:
    """The pure function `fn` on `operand` elements giving `result` elements; None if there is none of that name."""
    made = DTYPES[result].numpy.type
    if fn in _PACKED:
        return _packed(fn, result, lanes)
    if fn == "bitcast":
        return _bitcast(result, lanes)
    if DTYPES[operand].kind == "f":
        known = _FLOAT.get(fn)
        if known is None:
            return None
        if lanes == 1:
            return lambda *args: made(known(*(np.float64(x) for x in args)))
        return lambda *args: known(*(x.astype(np.float64) for x in args)).astype(made)
    known = _INTEGER.get(fn)
    if known is None:
        return None
    if lanes > 1:
        return lambda *args: known(*args).astype(made)
    numpy_type = DTYPES[operand].numpy.type
    to_scalar = int if result == "i64" else made
    return lambda *args: to_scalar(known(*(numpy_type(x) for x in args)))


# ---- fused multiply-add ------------------------------------------------------------------------------------------


def _odd_sum(p: np.ndarray, c: np.ndarray) -> np.ndarray:
    """p + c in f64 rounded to odd, so that rounding it again to a shorter type is correct."""
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)
    bits = s.view(np.int64)
    inexact = np.isfinite(s) & (error != 0) & (bits & 1 == 0)
    grows = (error > 0) == (s > 0)
    return np.where(inexact, bits + np.where(grows, 1, -1), bits).view(np.float64)


def _exact_fma(a: float, b: float, c: float) -> float:
    """One rounding for f64, by rational arithmetic."""
    from fractions import Fraction

    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return a * b + c if exact == 0 else float(exact)


_fma64 = np.vectorize(_exact_fma, otypes=[np.float64])


def fma(dtype: str, lanes: int) -> Callable[[Lanes, Lanes, Lanes], Lanes]:
    """a * b + c with one rounding."""
    made = DTYPES[dtype].numpy.type
    if dtype == "f64":
        return (lambda a, b, c: made(_exact_fma(a, b, c))) if lanes == 1 else _fma64
    if lanes > 1:
        return lambda a, b, c: _odd_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)).astype(made)

    def scalar(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
        p, z = float(a) * float(b), float(c)  # the product of two short floats is exact in f64
        s = p + z
        t = s - p
        if (p - (s - t)) + (z - t) == 0.0:
            return made(s)
        return made(_odd_sum(np.array(p), np.array(z))[()])

    return scalar


# ---- integers, min and max ---------------------------------------------------------------------------------------


def least(a: Lanes, b: Lanes) -> Lanes:
    return b if b < a else a


def greatest(a: Lanes, b: Lanes) -> Lanes:
    return b if a < b else a


def wrap64(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def div64(a: int, b: int) -> int:
    return wrap64(a // b) if b else 0


def mod64(a: int, b: int) -> int:
    return a % b if b else 0


def tdiv(a: Lanes, b: Lanes) -> Lanes:
    """Integer quotient rounded towards zero; 0 for a zero divisor."""
    if isinstance(a, int):
        return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    quotient = a // b
    too_low = (b != 0) & (a % b != 0) & ((a < 0) != (b < 0))
    return np.where(too_low, quotient + quotient.dtype.type(1), quotient).astype(quotient.dtype)[()]


def tmod(a: Lanes, b: Lanes) -> Lanes:
    """The remainder with the sign of the dividend."""
    if isinstance(a, int):
        return math.fmod(a, b) if isinstance(b, float) else a - b * tdiv(a, b) if b else 0
    return np.fmod(a, b)


def shl64(a: int, b: int) -> int:
    return wrap64(a << b) if 0 <= b < 64 else 0


def to_i64(x: Lanes) -> int:
    return int(np.asarray(x).astype(np.int64))


HORIZONTAL: dict[str, Callable[..., Lanes]] = {
    "add": np.add.reduce, "mul": np.multiply.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce,
}
