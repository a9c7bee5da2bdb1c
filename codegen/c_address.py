"""Indices as C text: how wide they are, and which numbers stand between the brackets.

    an array of the kernel's own    left[stage][row][column], with the lengths of its lines where it has padding
    a parameter                     x[(row * 56 + column) * 64 + channel], by the sizes that its comment shows
    the same with strides           x[head * 64 + row * 2304 + column]

Coordinates that are parts of one number are put together again: x[pixel * 64 + channel] where the row is pixel / 56 and the
column pixel % 56.  Where even that takes more divisions than the canonical sum of the whole address, the sum is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from ..ir.expr import Bin, Cast, Const, Expr, Select, Var, bounds
from ..ir.kernel import Buffer, flat_index
from ..ir.traverse import children, walk

INT_MIN, INT_MAX = -(2**31), 2**31 - 1

def is_narrow(e: Expr, memo: dict[Expr, bool]) -> bool:
    """Whether an i64 scalar is computed as `int`: its value and all it is made of fit."""
    found = memo.get(e)
    if found is None:
        found = memo[e] = _is_narrow(e, memo)
    return found


def _is_narrow(e: Expr, memo: dict[Expr, bool]) -> bool:
    low, high = bounds(e)
    fits = low is not None and high is not None and low >= INT_MIN and high <= INT_MAX
    match e:
        case Const() | Var():
            return fits
        case Bin():
            return fits and is_narrow(e.a, memo) and is_narrow(e.b, memo)
        case Select():
            return is_narrow(e.a, memo) and is_narrow(e.b, memo)
        case Cast():
            return e.a.type.dtype in ("i32", "i16", "i8", "u16", "u8", "bool")
    return False


@dataclass(frozen=True)
class FlatAddress:
    """One number: the sum of coordinates times steps, or (nested) ((a * size + b) * size + c).  parts: (coordinate, step), or
    (coordinate, size of its axis); the first size counts for nothing."""

    parts: tuple[tuple[Expr, int], ...]
    nested: bool


def is_flat(buf: Buffer) -> bool:
    """Parameters, and arrays with strides that are no padding, are addressed by one number."""
    return buf.space in ("global", "stream") or (buf.strides is not None and padded_shape(buf) is None)


def padded_shape(buf: Buffer) -> tuple[int, ...] | None:
    """The shape that an array of the kernel's own is declared with: lines as long as its strides say, None where no lengths
    of lines give these strides."""
    if buf.strides is None:
        return buf.static_shape
    steps = [s for s in buf.strides if isinstance(s, int)]
    if not steps or len(steps) < len(buf.strides) or steps[-1] != 1 or not all(isinstance(n, int) for n in buf.shape):
        return None
    lengths = [outer // inner if outer % inner == 0 else 0 for outer, inner in pairwise(steps) if inner]
    if len(lengths) < len(steps) - 1 or any(n > line for n, line in zip(buf.static_shape[1:], lengths, strict=True)):
        return None
    return (buf.static_shape[0], *lengths)


def elements_held(buf: Buffer) -> int:
    """Elements that the declaration of an array takes."""
    dims = padded_shape(buf)
    if dims is not None:
        return prod(dims)
    assert buf.strides is not None
    return 1 + sum((int(n) - 1) * s for n, s in zip(buf.shape, buf.strides, strict=True))  # type: ignore[arg-type]


def place_roots(buf: Buffer, idx: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The expressions that the text of a place is made of."""
    return tuple(e for e, _ in flat_address(buf, idx).parts) if is_flat(buf) else idx


def flat_address(buf: Buffer, idx: tuple[Expr, ...]) -> FlatAddress:
    """The number of an element, as it is printed."""
    whole = flat_index(buf, idx)
    flat = FlatAddress(((whole, 1),), True)
    if not all(isinstance(n, int) for n in (*buf.shape, *(buf.strides or ()))) or any(i.type.lanes > 1 for i in idx):
        return flat
    if buf.strides is None:
        made = FlatAddress(_joined(buf.static_shape, idx), True)
    else:
        steps = ((i, int(s)) for i, s in zip(idx, buf.strides, strict=True) if not _is_zero(i))  # type: ignore[arg-type]
        made = FlatAddress(tuple(sorted(steps, key=lambda p: -p[1])), False)
    parts = [e for e, _ in made.parts]
    memo: dict[Expr, bool] = {}
    narrow = all(is_narrow(e, memo) for e in (whole, *parts))
    return made if parts and narrow and _divisions(*parts) <= _divisions(whole) else flat


def added(text: str, more: str) -> str:
    """The text of a sum."""
    return f"{text} - {more[1:]}" if text and more.startswith("-") else f"{text} + {more}" if text else more


def _joined(shape: tuple[int, ...], idx: tuple[Expr, ...]) -> tuple[tuple[Expr, int], ...]:
    """The coordinates, neighbours that are parts of one number as that number, without leading zeros."""
    made: list[tuple[Expr, int]] = []
    for coordinate, size in reversed(list(zip(idx, shape, strict=True))):
        if made:
            inner, inner_size = made[-1]
            together = coordinate * inner_size + inner
            if not _is_zero(coordinate) and _operations(together) < _operations(coordinate) + _operations(inner):
                made[-1] = together, size * inner_size
                continue
        made.append((coordinate, size))
    while len(made) > 1 and _is_zero(made[-1][0]):
        made.pop()
    return tuple(reversed(made))


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0


def _operations(e: Expr) -> int:
    """Operations of the text of an expression."""
    return isinstance(e, Bin) + sum(_operations(c) for c in children(e))


def _divisions(*roots: Expr) -> int:
    return len({n for e in roots for n in walk(e) if isinstance(n, Bin) and n.op in ("div", "mod")})
