"""What can be multiplied by a sparse constant: plain products, and convolutions of stride 1 over padded images.

Both are one form: rows that are a vector's lanes, and for every step of the reduction the place in a copy of the left operand
where the rows of that step begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ...ir.compute import Compute
from ...ir.expr import Expr, Load, Var, as_expr
from ...ir.traverse import substitute
from ...ir.types import Dim
from ..views import dense_strides
from .axes import size_of
from .product import Product
from .scheduled import Pack

ROW, IMAGE = Var.of("row", None), Var.of("image", None)


@dataclass(frozen=True, eq=False)
class SparseProduct:
    """acc += left * W over rows, outputs and the reduction.

    compute, columns: the computation and its axis of outputs.  at: axis -> its value at row `ROW` of image `IMAGE`.
    images, rows: how many (rows may be open); rows of an image follow each other.  line, valid: of every `line` rows the
    first `valid` are results.  left, weights: names of the operands.
    copy: pack of the left operand, [image][..][row]; copy_offset: steps of the reduction (in the order of the weights'
    rows) -> where the row of that step begins in an image's copy; panels: how the copy is laid out in panels: None, or
    (pack of rows [start, start + count * width) as [count][step][width]).
    word: neighbours of the reduction that are one step, as one element of the copy.
    """

    compute: Compute
    columns: Var
    at: Mapping[Expr, Expr]
    images: int
    rows: Dim
    depth: int
    left: str
    weights: str
    copy: Pack | None
    copy_offset: Callable[[np.ndarray], np.ndarray] | None
    panels: Callable[[Dim, Dim, int], Pack] | None
    line: int = 0
    valid: int = 0
    word: int = 1


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

        def panels(start: Dim, number: Dim, width: int) -> Pack:
            begin = tuple(o + start * s for o, s in zip(origin, m, strict=True))
            return Pack(p.left.buf.name, (number, *inner[0], width), begin, (tuple(width * s for s in m), *inner[1], m))

        return SparseProduct(**common, copy=None, copy_offset=None, panels=panels)
    rows = [size_of(v) for v in p.rows], [step[v] for v in p.rows]
    pack = Pack(p.left.buf.name, (*inner[0], *rows[0]), origin, (*inner[1], *rows[1]))
    return SparseProduct(**common, copy=pack, copy_offset=lambda k: k * count, panels=None)


def product_of_words(c: Compute, p: Product, word: int) -> SparseProduct | None:
    """`matrix_product` with steps of `word` neighbours, if these lie side by side in the left operand."""
    plain, left = matrix_product(c, p), p.left.buf
    if plain is None or len(p.reduce) != 1 or plain.depth % word:
        return None
    strides = left.strides if left.strides is not None else dense_strides(left.shape)
    origin, step = _steps(p.left, (*p.rows, *p.reduce), p.compute)

    def distance(index: tuple[int, ...]) -> int | None:
        """In elements; None where it is no multiple of a word."""
        flat = sum(i * s for i, s in zip(index, strides, strict=True) if i)
        return flat if isinstance(flat, int) and flat % word == 0 else None

    (k,) = p.reduce
    beside = sum(i * s for i, s in zip(step[k], strides, strict=True) if i) == 1
    if not beside or any(distance(i) is None for i in (origin, *(step[v] for v in p.rows))):
        return None
    depth, deeper = plain.depth // word, tuple(word * i for i in step[k])
    if plain.panels is None:
        rows = [size_of(v) for v in p.rows], [step[v] for v in p.rows]
        pack = Pack(left.name, (depth, *rows[0]), origin, (deeper, *rows[1]), word=word)
        return replace(plain, depth=depth, copy=pack, word=word)
    m = step[p.rows[0]]

    def panels(start: Dim, number: Dim, width: int) -> Pack:
        begin = tuple(o + start * s for o, s in zip(origin, m, strict=True))
        return Pack(left.name, (number, depth, width), begin, (tuple(width * s for s in m), deeper, m), word=word)

    return replace(plain, depth=depth, panels=panels, word=word)


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


def words_of(matrix: np.ndarray, word: int) -> np.ndarray:
    """W[depth, outputs] of bytes as [depth / word, outputs] in i32: neighbours along the depth, the first one lowest."""
    depth, columns = matrix.shape
    groups = np.ascontiguousarray(matrix.reshape(depth // word, word, columns).transpose(0, 2, 1))
    return groups.view(np.int32).reshape(depth // word, columns)


def weight_matrix(c: Compute, right: Load, columns: Var, array: np.ndarray) -> np.ndarray:
    """The constant operand as W[steps of the reduction, outputs]."""
    reduce = c.reduce
    origin, step = _steps(right, (*reduce, columns), c)
    shape = (*(size_of(v) for v in reduce), size_of(columns))
    flat = Pack(right.buf.name, shape, origin, (*(step[v] for v in reduce), step[columns])).apply(array)
    return flat.reshape(-1, size_of(columns))
