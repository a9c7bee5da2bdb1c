"""Scalar and vector expressions: pure, immutable, hash-consed.

One class of expression serves symbolic dimensions, index maps and the bodies of computations.  Its nodes are in
`nodes.py`; the constructors here simplify.  Integer scalars of type i64 are kept as canonical linear forms (`linear.py`);
`div` and `mod` by a constant are simplified by the rules named in `_divide`, all of which follow from the ranges of the
variables.  Integer `div` and `mod` round towards minus infinity, as in Python; `tdiv` and `tmod` truncate, as in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .errors import InternalError
from .linear import bounds, combine, from_linear, linear, scale
from .nodes import (
    BOOL,
    F32,
    I64,
    Bin,
    Call,
    Cast,
    Const,
    Expr,
    ExprLike,
    Fma,
    HReduce,
    Load,
    Ramp,
    Select,
    Shuffle,
    Splat,
    Type,
    Un,
    Var,
    as_expr,
    const,
    is_const,
)
from .types import DTYPES

if TYPE_CHECKING:
    from .kernel import Buffer

__all__ = [
    "BOOL", "F32", "I64", "Bin", "Call", "Cast", "Const", "Expr", "ExprLike", "Fma", "HReduce", "Load", "Ramp", "Select",
    "Shuffle", "Splat", "Type", "Un", "Var", "all_of", "as_expr", "binary", "bounds", "call", "cast", "const", "fma",
    "from_linear", "is_const", "linear", "load", "select", "splat", "unary",
]


def _within(e: Expr, n: int) -> bool:
    lo, hi = bounds(e)
    return lo is not None and hi is not None and lo >= 0 and hi < n


def _divide(op: str, a: Expr, n: int) -> Expr:
    """a / n and a % n for a constant n > 0.  Rules:
    (n*x + b)/n -> x and %n -> b, if 0 <= b < n;
    (g*y + z)/n -> y/(n/g) and %n -> g*(y % (n/g)) + z, if 0 <= z < g and g divides n;
    (x/m)/n -> x/(m*n)."""
    c, terms = linear(a)
    whole = from_linear(c // n, {k: v // n for k, v in terms.items() if v % n == 0})
    rest_terms = {k: v for k, v in terms.items() if v % n}
    c %= n
    rest = from_linear(c, rest_terms)
    if _within(rest, n):
        return whole if op == "div" else rest
    for g in sorted({math.gcd(n, v) for v in rest_terms.values()} - {1}, reverse=True):
        y = from_linear(c // g, {k: v // g for k, v in rest_terms.items() if v % g == 0})
        z = from_linear(c % g, {k: v for k, v in rest_terms.items() if v % g})
        if _within(z, g):
            return whole + binary("div", y, n // g) if op == "div" else binary("mod", y, n // g) * g + z
    if op == "div":
        if isinstance(rest, Bin) and rest.op == "div" and isinstance(rest.b, Const) and rest.b.value > 0:
            return whole + binary("div", rest.a, rest.b.value * n)
        return whole + Bin.of("div", rest, const(n), I64)
    return Bin.of("mod", rest, const(n), I64)


# ---- constructors ------------------------------------------------------------------------------------------------

_COMPARE = {"lt", "le", "eq", "ne"}
_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b, "min": min, "max": max, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "xor": lambda a, b: a ^ b,
}


def splat(a: Expr, lanes: int) -> Expr:
    if a.type.lanes == lanes:
        return a
    if a.type.lanes != 1:
        raise InternalError(f"cannot widen {a.type.lanes} lanes to {lanes}: {a}")
    return Splat.of(a, Type(a.type.dtype, lanes))


def _align(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    lanes = max(a.type.lanes, b.type.lanes)
    return splat(a, lanes), splat(b, lanes)


def binary(op: str, a: ExprLike, b: ExprLike) -> Expr:
    """A binary operation; Python numbers take the other operand's element type, scalars are widened to its lanes."""
    if not isinstance(a, Expr):
        a = as_expr(a, b.type if isinstance(b, Expr) else I64)
    b = as_expr(b, a.type)
    if a.type.dtype != b.type.dtype:
        raise InternalError(f"operands of {op} differ in type: {a.type.dtype} and {b.type.dtype} in {a} and {b}")
    a, b = _align(a, b)
    out = Type("bool" if op in _COMPARE else a.type.dtype, a.type.lanes)
    if a.type != I64:
        if op in _COMPARE and isinstance(a, Const) and isinstance(b, Const):
            return const(_FOLD[op](a.value, b.value), out)
        return Bin.of(op, a, b, out)
    if isinstance(a, Const) and isinstance(b, Const) and op in _FOLD and not (op in ("div", "mod") and b.value == 0):
        return const(_FOLD[op](a.value, b.value), out)
    if op in ("add", "sub"):
        return from_linear(*combine(linear(a), linear(b), 1 if op == "add" else -1))
    if op == "mul":
        if isinstance(a, Const):
            a, b = b, a
        if isinstance(b, Const):
            return from_linear(*scale(linear(a), b.value))
    if op in ("div", "mod") and isinstance(b, Const) and b.value > 0:
        return _divide(op, a, b.value)
    if op in ("div", "mod") and a is b:
        return const(1 if op == "div" else 0)
    if (op in ("min", "max") and a is b) or (op == "xor" and is_const(b, 0)):
        return a
    return Bin.of(op, a, b, out)


def unary(op: str, a: Expr) -> Expr:
    return Un.of(op, a, a.type)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c with one rounding."""
    lanes = max(x.type.lanes for x in (a, b, c))
    return Fma.of(splat(a, lanes), splat(b, lanes), splat(c, lanes), Type(c.type.dtype, lanes))


def select(cond: Expr, a: ExprLike, b: ExprLike) -> Expr:
    if not isinstance(a, Expr):
        a = as_expr(a, b.type if isinstance(b, Expr) else I64)
    b = as_expr(b, a.type)
    if is_const(cond):
        return a if cond.value else b  # type: ignore[attr-defined]
    lanes = max(x.type.lanes for x in (cond, a, b))
    return Select.of(splat(cond, lanes), splat(a, lanes), splat(b, lanes), Type(a.type.dtype, lanes))


def cast(a: Expr, dtype: str) -> Expr:
    if a.type.dtype == dtype:
        return a
    if isinstance(a, Const) and a.type.lanes == 1:
        return const(DTYPES[dtype].numpy.type(DTYPES[a.type.dtype].numpy.type(a.value)), Type(dtype))
    return Cast.of(a, Type(dtype, a.type.lanes))


def call(fn: str, *args: Expr, dtype: str | None = None) -> Expr:
    """A pure function; all arguments are widened to the same lanes.  The result has the first argument's element type."""
    lanes = max(x.type.lanes for x in args)
    return Call.of(fn, tuple(splat(x, lanes) for x in args), Type(dtype or args[0].type.dtype, lanes))


def load(buf: Buffer, *idx: ExprLike) -> Expr:
    index = tuple(as_expr(i) for i in idx)
    if len(index) != len(buf.shape):
        raise InternalError(f"{buf.name} has {len(buf.shape)} dimensions, indexed with {len(index)}")
    lanes = max([i.type.lanes for i in index], default=1)
    return Load.of(buf, index, Type(buf.dtype, lanes))


def all_of(conditions: Iterable[Expr]) -> Expr:
    """Conjunction; an empty one is true."""
    result: Expr | None = None
    for c in conditions:
        result = c if result is None else binary("and", result, c)
    return const(True, BOOL) if result is None else result
