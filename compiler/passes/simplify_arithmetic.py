"""The rules of `simplify` for elementwise operators.

    x + 0, x * 1, x / 1, max(x, -inf), Select(true, x, y)  ->  x
    x / 4 -> x * 0.25 (only powers of two: exact)      pow(x, 2) -> x * x      pow(x, 0.5) -> sqrt(x)
    min(min(x, 8), 6) -> min(x, 6)                     Cast(f16)(Cast(f32)(x: f16)) -> x
    Broadcast(x) + y -> x + y                          exp(Broadcast(x)) -> Broadcast(exp(x))

Rules keep every result but for the sign of a zero and, for powers, the last bit.  A rule is given the builder, the
operator, its new operands and the type of the result; it returns the value that replaces the result, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.compute import identity
from ...ir.errors import ModelError
from ...ir.graph import Builder, Value
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import Broadcast, Reshape
from ...ir.ops.quantize import Lookup, Saturate
from ...ir.types import DTYPES, TensorType, is_float, is_integer
from .layout import broadcast, reshape
from .matching import COMMUTATIVE, function_of, kept_axes, leading_ones, made_by, scalar, uniform

Operands = Sequence[Value]

NEUTRAL: dict[str, Any] = {  # x fn c is x
    "add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1, "and": True, "or": False, "xor": False,
    "bitor": 0, "bitxor": 0, "shl": 0, "shr": 0,
}
ABSORBING: dict[str, Any] = {"and": False, "or": True}  # x fn c is c
INVOLUTIONS = frozenset({"neg", "not", "bitnot"})  # fn(fn(x)) is x
IDEMPOTENT = frozenset({"abs", "floor", "ceil", "rint", "sign"})  # fn(fn(x)) is fn(x)
COMPLEMENT = {"eq": "ne", "ne": "eq"}
NEGATED = {"add": "sub", "sub": "add"}
REGROUPED = frozenset({"max", "min", "and", "or", "xor", "bitand", "bitor", "bitxor"})  # exact for every type
INTEGER_REGROUPED = REGROUPED | {"add", "mul"}  # wrapping arithmetic
_MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
_WIDER = {"f16": ("f32", "f64"), "bf16": ("f32", "f64"), "f32": ("f64",), "f64": ()}
_SMALLEST_NORMAL = {"f64": 2.0**-1022, "f32": 2.0**-126, "bf16": 2.0**-126, "f16": 2.0**-14}


# ---- binary ------------------------------------------------------------------------------------------------------


def constant_right(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    """c fn x -> x fn c."""
    left, right = inputs
    swap = op.fn in COMMUTATIVE and left in b.constants and right not in b.constants
    return b.add(op, right, left) if swap else None


def neutral_operand(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    x, c = inputs
    number = uniform(b, c)
    if number is None:
        return None
    neutral = identity(op.fn, x.type.dtype) if op.fn in ("max", "min") else NEUTRAL.get(op.fn)
    if neutral is not None and number == neutral:
        return broadcast(b, x, out.shape)
    if op.fn in ABSORBING and number == ABSORBING[op.fn]:
        return broadcast(b, scalar(b, number, out.dtype), out.shape)
    return None


def regroup_constants(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    """(x fn c1) fn c2 -> x fn (c1 fn c2), where that is exact."""
    x, c2 = inputs
    exact = INTEGER_REGROUPED if is_integer(x.type.dtype) else REGROUPED
    inner = function_of(b, x, Binary, op.fn) if op.fn in exact and c2 in b.constants else None
    if inner is None or inner[1] not in b.constants:
        return None
    (c,) = op.evaluate(b.constants[inner[1]], b.constants[c2])
    return b.add(op, inner[0], b.constant(np.asarray(c)))


def divide_by_power_of_two(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    """x / c -> x * (1 / c) where 1 / c is exact and normal, so that both round the same number."""
    x, c = inputs
    array = b.constants.get(c)
    if op.fn != "div" or array is None or not is_float(x.type.dtype):
        return None
    wide = array.astype(np.float64)
    if not np.all(np.abs(np.frexp(wide)[0]) == 0.5):
        return None
    exact = 1.0 / wide
    reciprocal = exact.astype(array.dtype)
    normal = np.abs(exact) >= _SMALLEST_NORMAL[x.type.dtype]
    if not np.all(normal & (reciprocal.astype(np.float64) == exact)):
        return None
    return b.add(Binary("mul"), x, b.constant(reciprocal))


def power_to_products(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    """Powers 2, 3, 1/2 and -1.  The cube of a half-precision float would be rounded in between: it stays a power."""
    x, c = inputs
    number = uniform(b, c) if op.fn == "pow" and is_float(out.dtype) else None
    if number is None or x.type != out:
        return None
    mul = Binary("mul")
    if number == 2:
        return b.add(mul, x, x)
    if number == 3 and out.dtype not in ("f16", "bf16"):
        return b.add(mul, b.add(mul, x, x), x)
    if number in (0.5, -1):
        return b.add(Unary("sqrt" if number == 0.5 else "reciprocal"), x)
    return None


def negated_operand(b: Builder, op: Binary, inputs: Operands, out: TensorType) -> Value | None:
    """x + -y -> x - y;  x - -y -> x + y."""
    x, y = inputs
    negated = function_of(b, y, Unary, "neg") if op.fn in NEGATED else None
    return b.add(Binary(NEGATED[op.fn]), x, negated[0]) if negated else None


# ---- unary, Select, Cast -----------------------------------------------------------------------------------------


def function_of_function(b: Builder, op: Unary, inputs: Operands, out: TensorType) -> Value | None:
    (x,) = inputs
    if op.fn in INVOLUTIONS | IDEMPOTENT:
        inner = function_of(b, x, Unary, op.fn)
        if inner is not None:
            return inner[0] if op.fn in INVOLUTIONS else x
    compared = made_by(b, x, Binary) if op.fn == "not" else None
    if compared is not None and compared[0].fn in COMPLEMENT:
        return b.add(Binary(COMPLEMENT[compared[0].fn]), *compared[1])
    return None


def decided_select(b: Builder, op: Select, inputs: Operands, out: TensorType) -> Value | None:
    cond, x, y = inputs
    decided = uniform(b, cond)
    if decided is not None or x is y:
        return broadcast(b, y if decided is not None and not decided else x, out.shape)
    inverted = function_of(b, cond, Unary, "not")
    return b.add(op, inverted[0], y, x) if inverted else None


def holds(wide: str, narrow: str) -> bool:
    """Whether every value of the element type `narrow` is a value of `wide`."""
    if wide == narrow or narrow == "bool":
        return True
    n, w = DTYPES[narrow], DTYPES[wide]
    if n.kind == "f":
        return wide in _WIDER[narrow]
    bits = 8 * n.size - (n.kind == "i")
    if w.kind == "f":
        return bits <= _MANTISSA[wide]
    return w.kind in "iu" and bits <= 8 * w.size - (w.kind == "i") and (n.kind == "u" or w.kind == "i")


def cast_chain(b: Builder, op: Cast, inputs: Operands, out: TensorType) -> Value | None:
    """A cast to the same type, and a cast through a type that loses nothing.  Integers that go through floats into
    other integers are left alone: what lies outside of the last type would wrap instead of being undefined."""
    (x,) = inputs
    if x.type.dtype == op.to:
        return x
    inner = made_by(b, x, Cast)
    if inner is None:
        return None
    (origin,) = inner[1]
    narrow, middle = origin.type.dtype, x.type.dtype
    wraps = is_integer(narrow) and is_float(middle) and is_integer(op.to)
    if not holds(middle, narrow) or (wraps and not holds(op.to, narrow)):
        return None
    return origin if narrow == op.to else b.add(op, origin)


# ---- shapes ------------------------------------------------------------------------------------------------------


def small_constants(b: Builder, op: Op, inputs: Operands, out: TensorType) -> Value | None:
    """Where the other operands give the shape, a constant that repeats one number becomes a scalar, and others lose
    their leading axes of size 1."""
    small = list(inputs)
    for i, v in enumerate(inputs if len(inputs) > 1 else ()):
        array = b.constants.get(v)
        if array is None or array.ndim == 0:
            continue
        number = uniform(b, v)
        trimmed = array.shape[leading_ones(array.shape) :]
        candidate = b.constant(array.reshape(trimmed)) if number is None else scalar(b, number, v.type.dtype)
        if candidate.type != v.type and _gives(op, [*small[:i], candidate, *small[i + 1 :]], out):
            small[i] = candidate
    return b.add(op, *small) if small != list(inputs) else None


def _gives(op: Op, inputs: Operands, out: TensorType) -> bool:
    try:
        return op.infer(*(v.type for v in inputs)) == (out,)
    except ModelError:
        return False


def sink_broadcast(b: Builder, op: Op, inputs: Operands, out: TensorType) -> Value | None:
    """Compute before repeating: operands that are broadcast by the operator anyway are not broadcast before it."""
    sources = [made[1][0] if (made := made_by(b, v, Broadcast)) else v for v in inputs]
    if sources == list(inputs):
        return None
    return broadcast(b, b.add(op, *sources), out.shape)


def sink_reshape(b: Builder, op: Op, inputs: Operands, out: TensorType) -> Value | None:
    """f(Reshape(x), c) -> Reshape(f(x, c)), if c spans only trailing axes that the Reshape keeps."""
    sources = {v: made[1][0] for v in inputs if v.type.shape == out.shape and (made := made_by(b, v, Reshape))}
    shapes = {x.type.shape for x in sources.values()}
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    kept = kept_axes(shape, out.shape)
    operands: list[Value] = []
    for v in inputs:
        if v not in sources:
            trimmed = v.type.shape[leading_ones(v.type.shape) :]
            if len(trimmed) > kept:
                return None
            v = reshape(b, v, trimmed)
        operands.append(sources.get(v, v))
    return reshape(b, b.add(op, *operands), out.shape)


def sink_reshape_below_lookup(b: Builder, op: Lookup, inputs: Operands, out: TensorType) -> Value | None:
    made = made_by(b, inputs[0], Reshape)
    return None if made is None else reshape(b, b.add(op, made[1][0], inputs[1]), out.shape)


def keep_leading_ones(b: Builder, op: Op, inputs: Operands, out: TensorType) -> Value | None:
    """f(Reshape(x: [1, 4]): [4], y: [1, 4]) -> f(x, y): broadcasting would add the axes again."""
    whole = list(inputs)
    for i, v in enumerate(inputs):
        made = made_by(b, v, Reshape)
        if made is not None and v.type.rank < out.rank and made[1][0].type.shape == out.shape:
            whole[i] = made[1][0]
    return b.add(op, *whole) if whole != list(inputs) else None


_SHAPES = (small_constants, keep_leading_ones, sink_broadcast, sink_reshape)

ARITHMETIC_RULES = {
    Unary: (function_of_function, *_SHAPES),
    Binary: (
        constant_right, neutral_operand, regroup_constants, divide_by_power_of_two, power_to_products, negated_operand,
        *_SHAPES,
    ),
    Select: (decided_select, *_SHAPES),
    Cast: (cast_chain, *_SHAPES),
    Saturate: (sink_reshape,),
    Lookup: (sink_reshape_below_lookup,),
}
