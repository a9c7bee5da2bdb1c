"""Functions of elements: one StableHLO operation where there is one, else a formula.

`unary` and `binary` have the meaning of `ir.ops.elementwise`; `conversion` that of Cast.  Integers wrap, `div` truncates
and `mod` has the sign of the divisor, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ir.errors import InternalError
from ...ir.types import DTYPES, is_float
from .text import type_text
from .writer import Ref, Writer

UNARY_OPS = {
    "abs": "abs", "neg": "negate", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "rint": "round_nearest_even",
    "exp": "exponential", "log": "log", "tanh": "tanh", "sigmoid": "logistic", "sin": "sine", "cos": "cosine",
    "tan": "tan", "sign": "sign", "not": "not", "bitnot": "not",
}
BINARY_OPS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power", "fmod": "remainder",
    "max": "maximum", "min": "minimum", "and": "and", "or": "or", "xor": "xor", "bitand": "and", "bitor": "or",
    "bitxor": "xor", "shl": "shift_left", "shr": "shift_right_logical",
}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Scalars:
    """Arithmetic with Python numbers on tensors of one shape: writes formulas as one reads them."""

    def __init__(self, w: Writer) -> None:
        self.w = w

    def num(self, value: float, like: Ref) -> Ref:
        return self.w.splat(value, like.dtype, like.shape)

    def _both(self, a: Ref | float, b: Ref | float) -> tuple[Ref, Ref]:
        like = a if isinstance(a, Ref) else b
        if not isinstance(like, Ref):
            raise InternalError("an operation on two numbers")
        return (a if isinstance(a, Ref) else self.num(a, like)), (b if isinstance(b, Ref) else self.num(b, like))

    def op(self, fn: str, a: Ref | float, b: Ref | float) -> Ref:
        return binary(self.w, fn, *self._both(a, b))

    def add(self, a: Ref | float, b: Ref | float) -> Ref:
        return self.op("add", a, b)

    def sub(self, a: Ref | float, b: Ref | float) -> Ref:
        return self.op("sub", a, b)

    def mul(self, a: Ref | float, b: Ref | float) -> Ref:
        return self.op("mul", a, b)

    def div(self, a: Ref | float, b: Ref | float) -> Ref:
        return self.op("div", a, b)

    def fn(self, fn: str, x: Ref) -> Ref:
        return unary(self.w, fn, x)

    def where(self, condition: Ref, a: Ref | float, b: Ref | float) -> Ref:
        return self.w.select(condition, *self._both(a, b))


def unary(w: Writer, fn: str, x: Ref) -> Ref:
    """One function of `ir.ops.elementwise.UNARY`.  Raises InternalError for one that is not known here."""
    kind = DTYPES[x.dtype].kind
    if kind == "u" and fn in _UNSIGNED:
        return _UNSIGNED[fn](Scalars(w), x)
    if fn in UNARY_OPS:
        return w.unary(UNARY_OPS[fn], x)
    if fn not in _FORMULAS:
        raise InternalError(f"StableHLO: no translation of the function {fn!r}")
    return _FORMULAS[fn](Scalars(w), x)


def binary(w: Writer, fn: str, a: Ref, b: Ref) -> Ref:
    """One function of `ir.ops.elementwise.BINARY` on operands of one type and shape."""
    if fn in COMPARISONS:
        return w.compare(fn, a, b)
    if fn == "mod":
        return _mod(Scalars(w), a, b)
    if fn not in BINARY_OPS:
        raise InternalError(f"StableHLO: no translation of the function {fn!r}")
    return w.binary(BINARY_OPS[fn], a, b)


def conversion(w: Writer, x: Ref, dtype: str) -> Ref:
    """Truncates floats; a float below zero wraps in an unsigned type, as its integer does."""
    narrow = is_float(x.dtype) and DTYPES[dtype].kind in "iu" and DTYPES[dtype].size < 4
    if narrow or (is_float(x.dtype) and dtype in ("u32", "u64")):  # XLA saturates, the model's runtimes wrap
        return w.convert(w.convert(x, "i64"), dtype)
    return w.convert(x, dtype)


def _mod(s: Scalars, a: Ref, b: Ref) -> Ref:
    rest = s.w.binary("remainder", a, b)
    if DTYPES[a.dtype].kind == "u":
        return rest
    differ = s.w.compare("ne", s.op("lt", rest, 0), s.op("lt", b, 0))
    return s.where(s.w.binary("and", s.op("ne", rest, 0), differ), s.add(rest, b), rest)


_UNSIGNED: dict[str, Callable[[Scalars, Ref], Ref]] = {
    "abs": lambda s, x: x,
    "sign": lambda s, x: s.op("min", x, 1),
}


def _erf(s: Scalars, x: Ref) -> Ref:
    """XLA has the function, StableHLO does not: this call is how one says it so that XLA finds it again."""
    if x.dtype in ("f16", "bf16"):
        return s.w.convert(_erf(s, s.w.convert(x, "f32")), x.dtype)
    attributes = "{mhlo.attributes = {}, mhlo.version = 1 : i64}"
    return s.w.emit(
        f"stablehlo.custom_call @mhlo.erf({x.name}) {attributes} : ({type_text(x.type)}) -> {type_text(x.type)}", x.type
    )


def _wide(formula: Callable[[Scalars, Ref], Ref]) -> Callable[[Scalars, Ref], Ref]:
    """The formula in f32 for half floats."""

    def apply(s: Scalars, x: Ref) -> Ref:
        if x.dtype not in ("f16", "bf16"):
            return formula(s, x)
        return s.w.convert(formula(s, s.w.convert(x, "f32")), x.dtype)

    return apply


def _atan2(s: Scalars, y: Ref, x: Ref | float) -> Ref:
    return s.w.binary("atan2", y, x if isinstance(x, Ref) else s.num(x, y))


def _leg(s: Scalars, x: Ref) -> Ref:
    """sqrt(1 - x^2)"""
    return s.fn("sqrt", s.mul(s.sub(1, x), s.add(1, x)))


def _sinh(s: Scalars, x: Ref) -> Ref:
    """From expm1 near zero, where the exponentials cancel; from exponentials elsewhere, where expm1 overflows first."""
    m = s.w.unary("exponential_minus_one", x)
    small = s.mul(0.5, s.add(m, s.div(m, s.add(m, 1))))
    shift = math.log(0.5)
    large = s.sub(s.fn("exp", s.add(x, shift)), s.fn("exp", s.sub(shift, x)))
    return s.where(s.op("lt", s.fn("abs", x), 1), small, large)


def _cosh(s: Scalars, x: Ref) -> Ref:
    shift = math.log(0.5)
    return s.add(s.fn("exp", s.add(x, shift)), s.fn("exp", s.sub(shift, x)))


def _asinh(s: Scalars, x: Ref) -> Ref:
    a = s.fn("abs", x)
    square = s.mul(a, a)
    near = s.w.unary("log_plus_one", s.add(a, s.div(square, s.add(1, s.fn("sqrt", s.add(square, 1))))))
    far = s.add(s.fn("log", a), math.log(2))
    return s.mul(s.fn("sign", x), s.where(s.op("lt", a, 1e9), near, far))


def _acosh(s: Scalars, x: Ref) -> Ref:
    root = s.fn("sqrt", s.mul(s.sub(x, 1), s.add(x, 1)))
    near = s.w.unary("log_plus_one", s.add(s.sub(x, 1), root))
    return s.where(s.op("lt", x, 1e9), near, s.add(s.fn("log", x), math.log(2)))


_FORMULAS: dict[str, Callable[[Scalars, Ref], Ref]] = {
    "reciprocal": lambda s, x: s.div(1, x),
    "isnan": lambda s, x: s.op("ne", x, x),
    "isinf": lambda s, x: s.op("eq", s.fn("abs", x), math.inf),
    "trunc": lambda s, x: s.where(s.op("lt", x, 0), s.fn("ceil", x), s.fn("floor", x)),
    "erf": _erf,
    "atan": lambda s, x: _atan2(s, x, 1),
    "asin": lambda s, x: _atan2(s, x, _leg(s, x)),
    "acos": lambda s, x: _atan2(s, _leg(s, x), x),
    "sinh": _wide(_sinh),
    "cosh": _wide(_cosh),
    "asinh": _wide(_asinh),
    "acosh": _wide(_acosh),
    "atanh": _wide(
        lambda s, x: s.mul(0.5, s.sub(s.w.unary("log_plus_one", x), s.w.unary("log_plus_one", s.fn("neg", x))))
    ),
}
