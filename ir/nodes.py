"""The nodes of expressions: immutable, hash-consed; `expr.py` builds them simplified.

Equal expressions are the same object, so equality is `is` and every cache is a plain dict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

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
        return _binary("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return _binary("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return _binary("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return _binary("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return _binary("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return _binary("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return _binary("div", self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return _binary("div", other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return _binary("div", self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return _binary("div", other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return _binary("mod", self, other)

    def __neg__(self) -> Expr:
        return _binary("sub", 0, self) if self.type == I64 else Un.of("neg", self, self.type)

    def __str__(self) -> str:
        from .text import show_expr

        return show_expr(self)

    __repr__ = __str__


def _binary(op: str, a: ExprLike, b: ExprLike) -> Expr:
    from .expr import binary  # the constructors simplify, and are made of nodes

    return binary(op, a, b)


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
