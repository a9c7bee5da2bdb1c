"""Sparse products whose number of rows is only known when they run.

A panel has a constant width.  Rows that no whole panel holds are a narrower panel, or a whole one, that ends at the last row:
some rows are computed twice, as in dense products (`split_ragged`).  Parts of a kernel that a size does not need have no
iterations.  With fewer rows than `least` the dense product runs, in the same kernel.
"""

from __future__ import annotations

from math import prod

from ...ir.compute import Compute
from ...ir.dims import multiply_dims, normal_dim
from ...ir.expr import Expr, Load, Var, as_expr, binary, linear
from ...ir.kernel import For, Kernel, axis, flat_index
from ...ir.traverse import substitute
from ...ir.types import Dim
from ..views import dense_strides
from .axes import extents, size_of
from .open_axes import is_open
from .product import Product
from .scheduled import Pack, Scheduled
from .sparse_forms import ROW, SparseProduct

Part = tuple[Dim, Dim, int]
"""(first row, number of panels, rows of a panel)"""


def open_product(p: Product, word: int = 1) -> SparseProduct | None:
    """A product with an open number of rows, which are one run of memory with constant distances.  word: as in
    `product_of_words`."""
    if p.batch or p.group is not None or not p.reduce or not p.rows or any(map(is_open, (*p.rows[1:], *p.reduce, p.columns))):
        return None
    left = p.left.buf
    strides = left.strides if left.strides is not None else dense_strides(left.shape)
    flat = _flat_steps(p.left, (*p.rows, *p.reduce), p.compute)
    if strides[-1] != 1 or flat is None:
        return None
    origin, step = flat
    row = step[p.rows[-1]]
    inner = prod(size_of(v) for v in p.rows[1:])
    for n, v in enumerate(p.rows):
        if step[v] != row * prod(size_of(u) for u in p.rows[n + 1 :]):
            return None
    deep = [step[v] for v in p.reduce]
    if word > 1 and (len(deep) != 1 or deep[0] != 1 or size_of(p.reduce[0]) % word or origin % word or row % word):
        return None
    depth = [size_of(v) for v in p.reduce]
    if word > 1:
        depth, deep = [depth[0] // word], [word]

    def place(distance: Dim) -> tuple[Dim, ...]:
        """As an index of the left operand: its last axis is a run."""
        return (*((0,) * (len(strides) - 1)), distance)

    def panels(start: Dim, number: Dim, width: int) -> Pack:
        begin = normal_dim(as_expr(start) * row + origin)
        steps = (place(width * row), *map(place, deep), place(row))
        return Pack(left.name, (number, *depth, width), place(begin), steps, word=word)

    at: dict[Expr, Expr] = {}
    rest: Expr = ROW
    for v in reversed(p.rows):
        at[v] = rest if v is p.rows[0] else rest % size_of(v)
        rest = rest // size_of(v) if v is not p.rows[0] else rest
    rows = multiply_dims([*extents(p.rows[:1]), inner])
    return SparseProduct(
        compute=p.compute, columns=p.columns, at=at, images=1, rows=rows, depth=prod(depth), left=left.name,
        weights=p.right.buf.name, copy=None, copy_offset=None, panels=panels, word=word,
    )


def _flat_steps(read: Load, axes: tuple[Var, ...], c: Compute) -> tuple[int, dict[Var, int]] | None:
    """(address of a load where all axes are 0, how far it moves for each of them), in elements; None if they are not
    constant."""
    others: dict[Expr, Expr] = {v: as_expr(0) for v in (*c.axes, *c.reduce) if v not in axes}
    constant, terms = linear(flat_index(read.buf, tuple(substitute(i, others) for i in read.idx)))
    if not set(terms) <= set(axes):
        return None
    return constant, {v: terms.get(v, 0) for v in axes}


def open_parts(rows: Dim, width: int, lanes: int, least: int) -> list[Part]:
    """How panels cover rows, none of them where there are fewer than `least` (at least `width`)."""
    n = as_expr(rows)
    rest, enough = n % width, binary("min", n / least, 1)
    parts: list[Part] = [(0, normal_dim(n / width * enough), width)]
    widths = [*(w for w in (lanes, 2 * lanes) if w < width), width]
    for low, high in zip([0, *widths], widths, strict=False):
        over = binary("min", binary("max", rest - low, 0), 1)
        within = binary("min", binary("max", high + 1 - rest, 0), 1)
        parts.append((normal_dim(binary("max", n - high, 0)), normal_dim(over * within * enough), high))
    return parts


def with_few_rows(made: Scheduled, few: Scheduled, rows: Dim, least: int) -> Scheduled:
    """The kernel for `least` rows and more, followed by the one for fewer."""
    fewer = normal_dim(1 - binary("min", as_expr(rows) / least, 1))
    params = tuple(dict.fromkeys((*made.kernel.params, *few.kernel.params)))
    kernel = Kernel(made.kernel.name, params, (*made.kernel.body, For(axis("few", fewer), few.kernel.body)))
    return Scheduled(
        kernel, (*made.packs, *few.packs), f"{made.note}; below {least} rows {few.note}", (*made.temporaries, *few.temporaries),
        views=(*made.views, *few.views),
    )
