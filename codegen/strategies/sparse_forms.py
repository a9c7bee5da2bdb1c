"""What can be multiplied by a sparse constant: plain products, and convolutions of stride 1 over padded images.

Both are one form: rows that are a vector's lanes, and for every step of the reduction the place in a copy of the left operand
where the rows of that step begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...ir.compute import Compute
from ...ir.expr import Expr, Load, Var, as_expr
from ...ir.traverse import substitute
from .axes import size_of
from .product import Product
from .scheduled import Pack

ROW, IMAGE = Var.of("row", None), Var.of("image", None)


@dataclass(frozen=True, eq=False)
class SparseProduct:
    """acc += left * W over rows, outputs and the reduction.

    compute, columns: the computation and its axis of outputs.  at: axis -> its value at row `ROW` of image `IMAGE`.
    images, rows: how many; rows of an image follow each other.  line, valid: of every `line` rows the first `valid` are
    results.  left, weights: names of the operands.
    copy: pack of the left operand, [image][..][row]; copy_offset: steps of the reduction (in the order of the weights'
    rows) -> where the row of that step begins in an image's copy; panels: how the copy is laid out in panels: None, or
    (pack of rows [start, start + count * width) as [count][step][width]).
    """

    compute: Compute
    columns: Var
    at: Mapping[Expr, Expr]
    images: int
    rows: int
    depth: int
    left: str
    weights: str
    copy: Pack | None
    copy_offset: Callable[[np.ndarray], np.ndarray] | None
    panels: Callable[[int, int, int], Pack] | None
    line: int = 0
    valid: int = 0


def matrix_product(c: Compute, p: Product) -> SparseProduct | None:
    """A plain product: rows that only the left operand walks, without a batch of weights."""
    if p.batch or p.group is not None or not p.reduce:
        return None
    origin, step = _steps(p.left, (*p.rows, *p.reduce), p.compute)
    depth = prod(size_of(v) for v in p.reduce)
    count = prod(size_of(v) for v in p.rows)
    at: dict[Expr, Expr] = {}
    rest: Expr = ROW
    for v in reversed(p.rows):
        at[v] = rest % size_of(v) if v is not p.rows[0] else rest
        rest = rest // size_of(v)
    inner = [size_of(v) for v in p.reduce], [step[v] for v in p.reduce]
    common: dict[str, Any] = {
        "compute": p.compute, "columns": p.columns, "at": at, "images": 1, "rows": count, "depth": depth,
        "left": p.left.buf.name, "weights": p.right.buf.name,
    }
    if len(p.rows) == 1:
        m = step[p.rows[0]]

        def panels(start: int, number: int, width: int) -> Pack:
            begin = tuple(o + start * s for o, s in zip(origin, m, strict=True))
            return Pack(p.left.buf.name, (number, *inner[0], width), begin, (tuple(width * s for s in m), *inner[1], m))

        return SparseProduct(**common, copy=None, copy_offset=None, panels=panels)
    rows = [size_of(v) for v in p.rows], [step[v] for v in p.rows]
    pack = Pack(p.left.buf.name, (*inner[0], *rows[0]), origin, (*inner[1], *rows[1]))
    return SparseProduct(**common, copy=pack, copy_offset=lambda k: k * count, panels=None)


def _steps(read: Load, axes: tuple[Var, ...], c: Compute) -> tuple[tuple[int, ...], dict[Var, tuple[int, ...]]]:
    """(index of a load where all axes are 0, how far it moves for each of them)"""
    everything = (*c.axes, *c.reduce)

    def index(v: Var | None) -> tuple[int, ...]:
        mapping: dict[Expr, Expr] = {x: as_expr(int(x is v)) for x in everything}
        return tuple(substitute(i, mapping).value for i in read.idx)  # type: ignore[attr-defined]

    origin = index(None)
    zero = (0,) * len(origin)
    return origin, {
        v: tuple(b - a for a, b in zip(origin, index(v), strict=True)) if size_of(v) > 1 else zero for v in axes
    }


def window_product(c: Compute, left: Load, right: Load) -> SparseProduct | None:
    """A convolution of stride 1 over a padded image: left[n, y + ky * d, x + kx * d, i] * right[ky, kx, i, o]."""
    if len(c.axes) != 4 or len(c.reduce) != 3:
        return None
    (n, y, x, o), (ky, kx, i) = c.axes, c.reduce
    if right.idx != (ky, kx, i, o) or len(left.idx) != 4 or left.idx[0] is not n or left.idx[3] is not i:
        return None
    _, step = _steps(left, (*c.axes, *c.reduce), c)
    dy, dx = step[ky][1], step[kx][2]
    if left.idx[1] is not y + ky * dy or left.idx[2] is not x + kx * dx:
        return None
    height, width, channels = size_of(y) + (size_of(ky) - 1) * dy, size_of(x) + (size_of(kx) - 1) * dx, size_of(i)
    pack = Pack(left.buf.name, (size_of(n), channels, height, width), (0, 0, 0, 0),
                ((1, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 0)))

    def offset(k: np.ndarray) -> np.ndarray:
        tap, channel = k // channels, k % channels
        return channel * (height * width) + tap // size_of(kx) * (dy * width) + tap % size_of(kx) * dx

    at: dict[Expr, Expr] = {n: IMAGE, y: ROW // width, x: ROW % width}
    return SparseProduct(
        c, o, at, size_of(n), (size_of(y) - 1) * width + size_of(x), size_of(ky) * size_of(kx) * channels, left.buf.name,
        right.buf.name, pack, offset, None, width, size_of(x),
    )


def weight_matrix(c: Compute, right: Load, columns: Var, array: np.ndarray) -> np.ndarray:
    """The constant operand as W[steps of the reduction, outputs]."""
    reduce = c.reduce
    origin, step = _steps(right, (*reduce, columns), c)
    shape = (*(size_of(v) for v in reduce), size_of(columns))
    flat = Pack(right.buf.name, shape, origin, (*(step[v] for v in reduce), step[columns])).apply(array)
    return flat.reshape(-1, size_of(columns))
