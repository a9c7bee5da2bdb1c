"""Small integer tensors whose elements are expressions of symbolic dimensions: what exporters compute shapes with.

Such a tensor is a NumPy object array of ints, bools and `Expr`s.  `propagate` gives the elements of an operator's result
where they follow from those of its operands.  Movement operators are evaluated on the positions of the elements, so that
their own NumPy meaning decides; arithmetic is a table.  A symbolic dimension stands for 1 or more: with that,
`min(1, n)` is 1 and a slice `[1:]` of n elements has n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, Union

import numpy as np

from ...ir.dims import as_dim, factors, multiply_dims, symbols
from ...ir.expr import Expr, as_expr, binary, bounds
from ...ir.ops.base import Op
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import (
    Broadcast,
    Concat,
    Gather,
    GatherElements,
    GatherND,
    Reshape,
    Slice,
    Transpose,
)
from ...ir.ops.reduce import Reduce
from ...ir.traverse import substitute
from ...ir.types import Dim, is_integer

Element = Union[int, bool, Expr]

MOST_ELEMENTS = 1024  # larger tensors are data, not shapes


def lowest(d: Dim) -> int | None:
    """The lowest value that a dimension can have, None where it is not known."""
    return d if isinstance(d, int) else _bounds(d)[0]


def at_least(d: Dim, n: int) -> bool:
    """Whether d >= n whatever the symbolic dimensions are."""
    low = lowest(d)
    return low is not None and low >= n


def _bounds(e: Expr) -> tuple[int | None, int | None]:
    one_more: dict[Expr, Expr] = {v: v + 1 for v in symbols([e])}  # variables start at 0, dimensions at 1
    return bounds(substitute(e, one_more))


def less(a: Dim, b: Dim) -> bool | None:
    """a < b, None where it depends on the dimensions."""
    low, high = _bounds(as_expr(b) - as_expr(a))
    if low is not None and low > 0:
        return True
    return False if high is not None and high <= 0 else None


def equal(a: Dim, b: Dim) -> bool | None:
    if as_expr(a) is as_expr(b):
        return True
    return False if less(a, b) or less(b, a) else None


def minimum(a: Dim, b: Dim) -> Dim:
    if less(a, b) is not None:
        return a if less(a, b) else b
    return a if less(b, a) is not None else as_dim(binary("min", a, b))


def maximum(a: Dim, b: Dim) -> Dim:
    if less(a, b) is not None:
        return b if less(a, b) else a
    return a if less(b, a) else b if less(b, a) is not None else as_dim(binary("max", a, b))


def product(dims: Iterable[Dim]) -> Dim:
    """The product, written in the same way for every order of the same dimensions."""
    count, atoms = factors(dims)
    return multiply_dims([*sorted(atoms, key=str), count])


def quotient(dividends: Sequence[Dim], divisors: Sequence[Dim]) -> Dim | None:
    """Product of the first divided by product of the second, if it is whole whatever the symbolic dimensions are."""
    (m, over), (n, under) = factors(dividends), factors(divisors)
    rest = list(over)
    for atom in under:
        if atom not in rest:
            return None
        rest.remove(atom)
    if n == 0 or m % n:
        return None
    return product([m // n, *rest])


def _truncated(a: Dim, b: Dim) -> Dim | None:
    """Integer division as ONNX has it; of non-negative numbers it is the floor."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else int(math.copysign(1, a) * math.copysign(1, b)) * (abs(a) // abs(b))
    return as_dim(binary("div", a, b)) if at_least(a, 0) and at_least(b, 1) else None


def _remainder(a: Dim, b: Dim) -> Dim | None:
    return as_dim(binary("mod", a, b)) if at_least(b, 1) else None


def _negated(x: bool | None) -> bool | None:
    return None if x is None else not x


_BINARY: dict[str, Callable[[Any, Any], Element | None]] = {
    "add": lambda a, b: as_dim(a + b), "sub": lambda a, b: as_dim(a - b), "mul": lambda a, b: product([a, b]),
    "div": _truncated, "mod": _remainder, "max": maximum, "min": minimum,
    "lt": less, "gt": lambda a, b: less(b, a), "le": lambda a, b: _negated(less(b, a)),
    "ge": lambda a, b: _negated(less(a, b)), "eq": equal, "ne": lambda a, b: _negated(equal(a, b)),
    "and": lambda a, b: a and b, "or": lambda a, b: a or b,
}  # fmt: skip

_UNARY: dict[str, Callable[[Any], Element | None]] = {
    "neg": lambda a: as_dim(0 - a), "not": lambda a: not a, "sign": lambda a: 1 if at_least(a, 1) else None,
    "abs": lambda a: a if at_least(a, 0) else None,
}
_REDUCE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
_MOVES_ALL = (Reshape, Transpose, Slice, Concat, Broadcast)  # every operand is moved
_MOVES_FIRST = (Gather, GatherElements, GatherND)  # the second operand says from where


def propagate(op: Op, operands: Sequence[np.ndarray]) -> np.ndarray | None:
    """The elements of the result (object array), or None if they do not follow from those of the operands."""
    if isinstance(op, _MOVES_ALL):
        return _moved(op, operands, ())
    if isinstance(op, _MOVES_FIRST):
        return _moved(op, operands[:1], operands[1:])
    if isinstance(op, Binary) and op.fn in _BINARY:
        return _each(_BINARY[op.fn], *operands)
    if isinstance(op, Unary) and op.fn in _UNARY:
        return _each(_UNARY[op.fn], *operands)
    if isinstance(op, Select):
        return _each(lambda c, a, b: a if c else b, *operands)
    if isinstance(op, Cast) and is_integer(op.to):
        return operands[0]
    if isinstance(op, Reduce) and op.fn in _REDUCE:
        return _reduced(op, operands[0])
    return None


def _moved(op: Op, operands: Sequence[np.ndarray], rest: Sequence[np.ndarray]) -> np.ndarray | None:
    if any(isinstance(i, Expr) for r in rest for i in r.flat):
        return None
    elements = np.empty(sum(x.size for x in operands), object)
    positions: list[np.ndarray] = []
    start = 0
    for x in operands:
        elements[start : start + x.size] = x.reshape(-1)
        positions.append(np.arange(start, start + x.size, dtype=np.int64).reshape(x.shape))
        start += x.size
    (where,) = op.evaluate(*positions, *(r.astype(np.int64) for r in rest))
    result = np.empty(where.shape, object)
    result[...] = elements[where] if where.ndim else elements[int(where)]
    return result


def _each(f: Callable[..., Element | None], *operands: np.ndarray) -> np.ndarray | None:
    arrays = np.broadcast_arrays(*operands)
    result = np.empty(arrays[0].shape, object)
    for at in np.ndindex(result.shape):
        value = f(*(a[at] for a in arrays))
        if value is None:
            return None
        result[at] = value
    return result


def _reduced(op: Reduce, x: np.ndarray) -> np.ndarray | None:
    if not all(0 <= a < x.ndim for a in op.axes) or x.size == 0:
        return None
    kept = [d for d in range(x.ndim) if d not in op.axes]
    rows = np.transpose(x, [*kept, *op.axes]).reshape([x.shape[d] for d in kept] + [-1])
    result = np.empty(rows.shape[:-1], object)
    for at in np.ndindex(result.shape):
        result[at] = reduce(_BINARY[_REDUCE[op.fn]], rows[at])  # type: ignore[arg-type]
    if op.keepdims:
        result = result.reshape([1 if d in op.axes else n for d, n in enumerate(x.shape)])
    return result
