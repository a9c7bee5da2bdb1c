"""Scalar and vector expressions: pure, immutable, hash-consed.

One class of expression serves symbolic dimensions, index maps and the bodies of computations.  Equal expressions are the
same object, so equality is `is` and every cache is a plain dict.  Integer scalars of type i64 are kept as canonical
linear forms `constant + sum(coefficient * atom)`; `div` and `mod` by a constant are simplified by the rules named in
`_divide`, all of which follow from the ranges of the variables (a `Var` of extent n is in 0..n-1).  Integer `div` and
`mod` round towards minus infinity, as in Python; `tdiv` and `tmod` truncate, as in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

from .errors import InternalError
from .types import DTYPES

if TYPE_CHECKING:
    from .kernel import Buffer


class Type(NamedTuple):
    """Element type and number of vector lanes (1: a scalar)."""

    dtype: str
    lanes: int = 1

    def with_lanes(self, lanes: int) -> Type:
        return Type(self.dtype, lanes)


I64, F32, BOOL = Type("i64"), Type("f32"), Type("bool")
ExprLike = Union["Expr", int, float]
_interned: dict[tuple[Any, ...], Any] = {}


class Expr:
    """Base of all expressions.  Operators build simplified expressions; comparison with `==` is identity."""

    __slots__ = ()
    type: Type

    def __add__(self, other: ExprLike) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return binary("div", other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return binary("div", self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return binary("div", other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return binary("mod", self, other)

    def __neg__(self) -> Expr:
        return binary("sub", 0, self) if self.type == I64 else unary("neg", self)

    def __str__(self) -> str:
        from .text import show_expr

        return show_expr(self)

    __repr__ = __str__


_Class = TypeVar("_Class", bound=type)


def _node(cls: _Class) -> _Class:
    """A frozen dataclass with identity equality and an interning constructor `of`."""
    made: Any = dataclass(frozen=True, eq=False, repr=False, slots=True)(cls)

    def of(*fields: Any) -> Any:
        key = (made, *fields)
        found = _interned.get(key)
        if found is None:
            found = _interned.setdefault(key, made(*fields))
        return found

    made.of = staticmethod(of)
    return made


if TYPE_CHECKING:  # the decorator above, as the type checkers can follow it

    class _Interned(Expr):
        @classmethod
        def of(cls, *fields: Any) -> Any: ...
else:
    _Interned = Expr


@_node
class _Const(_Interned):
    key: str
    value: Any
    type: Type


@_node
class Var(_Interned):
    """A loop variable or symbolic dimension: 0 <= value < extent; extent None is unbounded."""

    name: str
    extent: int | Expr | None
    type: Type = I64


@_node
class Un(_Interned):
    """op: neg abs rint floor ceil trunc sqrt not (rint rounds half to even)."""

    op: str
    a: Expr
    type: Type


@_node
class Bin(_Interned):
    """op: add sub mul div mod tdiv tmod min max and or xor shl shr lt le eq ne.  min and max give a when b is NaN and
    NaN when a is NaN; comparisons give bool."""

    op: str
    a: Expr
    b: Expr
    type: Type


@_node
class Fma(_Interned):
    a: Expr
    b: Expr
    c: Expr
    type: Type


@_node
class Select(_Interned):
    cond: Expr
    a: Expr
    b: Expr
    type: Type


@_node
class Cast(_Interned):
    """Conversion as NumPy's astype: float to integer truncates, anything to bool compares with zero."""

    a: Expr
    type: Type


@_node
class Load(_Interned):
    """Scalar indices and lanes > 1: contiguous in memory from there on.  A vector among the indices: a gather.
    A type other than the buffer's reads the same bytes reinterpreted."""

    buf: Buffer
    idx: tuple[Expr, ...]
    type: Type


@_node
class Splat(_Interned):
    a: Expr
    type: Type


@_node
class Ramp(_Interned):
    """0, 1, 2, ..."""

    type: Type


@_node
class Shuffle(_Interned):
    """Lanes picked from the concatenation of a and b."""

    a: Expr
    b: Expr
    mask: tuple[int, ...]
    type: Type


@_node
class HReduce(_Interned):
    """Horizontal reduction of a vector: op is add, mul, max or min."""

    op: str
    a: Expr
    type: Type


@_node
class Call(_Interned):
    """A pure function by name: mathematics (exp log erf tanh sigmoid sin cos pow ...) or one machine instruction."""

    fn: str
    args: tuple[Expr, ...]
    type: Type


Const = _Const


def const(value: Any, type: Type | str = I64) -> Expr:
    """A constant of the given type.  -0.0 and 0.0, 1 and True are different constants."""
    t = Type(type) if isinstance(type, str) else type
    kind = DTYPES[t.dtype].kind
    v = float(value) if kind == "f" else bool(value) if kind == "b" else int(value)
    if v != v:
        v = math.nan  # one object, as NaN is not equal to itself
    return _Const.of(repr(v), v, t)


def as_expr(x: ExprLike, like: Type = I64) -> Expr:
    """Python numbers become constants of the type `like` (one lane)."""
    return x if isinstance(x, Expr) else const(x, Type(like.dtype))


def is_const(e: Any, value: Any = None) -> bool:
    return isinstance(e, _Const) and (value is None or e.value == value)


# ---- linear forms ------------------------------------------------------------------------------------------------

_linear_cache: dict[Expr, tuple[int, dict[Expr, int]]] = {}
_bounds_cache: dict[Expr, tuple[int | None, int | None]] = {}


def linear(e: Expr) -> tuple[int, dict[Expr, int]]:
    """An i64 scalar as (constant, {atom: coefficient}).  The result is shared: do not modify it."""
    found = _linear_cache.get(e)
    if found is None:
        found = _linear_cache[e] = _linear(e)
    return found


def _linear(e: Expr) -> tuple[int, dict[Expr, int]]:
    if isinstance(e, _Const):
        return e.value, {}
    if isinstance(e, Bin) and e.op in ("add", "sub"):
        return _combine(linear(e.a), linear(e.b), 1 if e.op == "add" else -1)
    if isinstance(e, Bin) and e.op == "mul" and isinstance(e.b, _Const):
        return _scale(linear(e.a), e.b.value)
    return 0, {e: 1}


def _combine(x: tuple[int, dict[Expr, int]], y: tuple[int, dict[Expr, int]], sign: int) -> tuple[int, dict[Expr, int]]:
    terms = dict(x[1])
    for atom, k in y[1].items():
        k = terms.get(atom, 0) + sign * k
        if k:
            terms[atom] = k
        else:
            terms.pop(atom, None)
    return x[0] + sign * y[0], terms


def _scale(x: tuple[int, dict[Expr, int]], k: int) -> tuple[int, dict[Expr, int]]:
    return (x[0] * k, {a: v * k for a, v in x[1].items()}) if k else (0, {})


def from_linear(c: int, terms: Mapping[Expr, int]) -> Expr:
    """The canonical expression of a linear form.  Rule: (x/n)*n*q + (x%n)*q -> x*q."""
    terms = dict(terms)
    for atom in list(terms):
        if isinstance(atom, Bin) and atom.op == "mod" and isinstance(atom.b, _Const) and atom in terms:
            quotient = Bin.of("div", atom.a, atom.b, I64)
            q = terms[atom]
            if terms.get(quotient) == q * atom.b.value:
                del terms[atom], terms[quotient]
                c, terms = _combine((c, terms), _scale(linear(atom.a), q), 1)
    result: Expr | None = None
    for atom, k in terms.items():
        term = atom if k == 1 else Bin.of("mul", atom, const(k), I64)
        result = term if result is None else Bin.of("add", result, term, I64)
    if result is None:
        return const(c)
    return Bin.of("add", result, const(c), I64) if c else result


def bounds(e: Expr) -> tuple[int | None, int | None]:
    """Lowest and highest value of an i64 scalar, None where unknown."""
    found = _bounds_cache.get(e)
    if found is None:
        found = _bounds_cache[e] = _bounds(e)
    return found


def _bounds(e: Expr) -> tuple[int | None, int | None]:
    if isinstance(e, _Const):
        return e.value, e.value
    if isinstance(e, Var):
        if isinstance(e.extent, int):
            return 0, e.extent - 1
        high = None if e.extent is None else bounds(e.extent)[1]
        return 0, None if high is None else high - 1
    if isinstance(e, Bin) and isinstance(e.b, _Const) and e.b.value > 0:
        n = e.b.value
        lo, hi = bounds(e.a)
        if e.op == "mod":
            return (lo, hi) if lo is not None and hi is not None and 0 <= lo and hi < n else (0, n - 1)
        if e.op == "div":
            return None if lo is None else lo // n, None if hi is None else hi // n
    if isinstance(e, Bin) and e.op in ("min", "max"):
        (al, ah), (bl, bh) = bounds(e.a), bounds(e.b)
        pick = min if e.op == "min" else max
        either = (lambda x, y: x if y is None else y if x is None else pick(x, y))
        both = (lambda x, y: None if x is None or y is None else pick(x, y))
        return (both(al, bl), either(ah, bh)) if e.op == "min" else (either(al, bl), both(ah, bh))
    c, terms = linear(e)
    if e in terms:
        return None, None
    lo, hi = c, c
    for atom, k in terms.items():
        a, b = bounds(atom) if k > 0 else bounds(atom)[::-1]
        lo = None if lo is None or a is None else lo + k * a
        hi = None if hi is None or b is None else hi + k * b
    return lo, hi


def _within(e: Expr, n: int) -> bool:
    lo, hi = bounds(e)
    return lo is not None and hi is not None and lo >= 0 and hi < n


def _divide(op: str, a: Expr, n: int) -> Expr:
    """a / n and a % n for a constant n > 0.  Rules:
    (n*x + b)/n -> x and %n -> b, if 0 <= b < n;
    (g*y + z)/n -> y/(n/g) and %n -> g*(y % (n/g)) + z, if 0 <= z < g and g divides n."""
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
        return whole + Bin.of("div", rest, const(n), I64)
    return Bin.of("mod", rest, const(n), I64)


# ---- constructors ------------------------------------------------------------------------------------------------

_COMPARE = {"lt", "le", "eq", "ne"}
_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b, "min": min, "max": max, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
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
        return Bin.of(op, a, b, out)
    if isinstance(a, _Const) and isinstance(b, _Const) and op in _FOLD and not (op in ("div", "mod") and b.value == 0):
        return const(_FOLD[op](a.value, b.value), out)
    if op in ("add", "sub"):
        return from_linear(*_combine(linear(a), linear(b), 1 if op == "add" else -1))
    if op == "mul":
        if isinstance(a, _Const):
            a, b = b, a
        if isinstance(b, _Const):
            return from_linear(*_scale(linear(a), b.value))
    if op in ("div", "mod") and isinstance(b, _Const) and b.value > 0:
        return _divide(op, a, b.value)
    if op in ("div", "mod") and a is b:
        return const(1 if op == "div" else 0)
    if op in ("min", "max") and a is b:
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
    if isinstance(a, _Const) and a.type.lanes == 1:
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
