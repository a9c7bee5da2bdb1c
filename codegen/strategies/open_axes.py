"""Axes of a size that is only known at run time: estimates for choices, tiles of rows, and what threads share.

A tile keeps its constant size; how many there are is computed when the kernel runs (`split_ragged`).  Only axes that become
registers or vectors must be constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ir.dims import multiply_dims, symbols
from ...ir.expr import Expr, Var, as_expr, binary
from ...ir.kernel import Kernel, axis
from ...ir.types import Dim
from ..schedule import Tiles, split_evenly, split_ragged
from ..sizing import TYPICAL, Symbol, evaluate, typical_sizes
from .product import Product

SHARES = 8  # chunks of rows that threads share, where how many rows there are is open


def is_open(v: Var) -> bool:
    return not isinstance(v.extent, int)


def typical(extent: Dim | None, found: Sequence[Symbol] = ()) -> int:
    """The extent; an estimate of an open one, where a choice has to be made.  found: what is known of its symbols."""
    if isinstance(extent, int):
        return extent
    if extent is None:
        return TYPICAL
    sizes = {**dict.fromkeys(symbols([extent]), TYPICAL), **typical_sizes(found)}
    return max(1, evaluate(extent, sizes))


def fewest(extent: Dim, found: Sequence[Symbol]) -> int:
    """The extent; that of the least sizes, where it is open."""
    sizes = {**dict.fromkeys(symbols([extent]), 1), **{s.var: s.low for s in found}}
    return max(1, evaluate(extent, sizes))


def typical_size(axes: Sequence[Var], found: Sequence[Symbol] = ()) -> int:
    return prod(typical(v.extent, found) for v in axes)


def tiles_of(kernel: Kernel, v: Var, most: int, inner: str, even: bool = False) -> tuple[Kernel, list[Tiles]]:
    """The loops of an axis in tiles of at most `most` iterations.  How many there are
    of an open axis is not known: their count is 0.  even: see `split_ragged`."""
    if not is_open(v):
        return split_evenly(kernel, v.name, most, inner=inner)
    third = most // 3
    sizes = [most, *([third] if third > 1 else []), *([1] if most > 1 else [])]
    return split_ragged(kernel, v.name, sizes, inner=inner, even=even)


class Share:
    """How threads share a product with open rows: `lead` are the outermost axes, `mapping` gives axes of the product by
    them, `rows` are those left, `flat` counts the batches, `panel` is the number of the panel."""

    def __init__(self, p: Product, panels: int, rows_of_tile: int) -> None:
        self.p, self.panels, self.tile = p, panels, rows_of_tile
        self.batch = multiply_dims([v.extent for v in p.batch if v.extent is not None])
        self.mapping: dict[Expr, Expr] = {}
        self.rows = list(p.rows)
        columns = p.columns.extent
        assert isinstance(columns, int)
        constant = prod(v.extent for v in p.rows if isinstance(v.extent, int))
        units = typical_size(p.batch, p.symbols) * panels
        several = sum(map(is_open, p.rows)) > 1
        even = units >= 8 or units % 2 == 0
        if p.choice.chunks == 1 or (not several and even and 4 * columns >= constant):
            self._panels()
        elif len(p.rows) == 1:
            self._chunks_of_tiles()
        else:
            self._whole_rows()

    def _panels(self) -> None:
        share = axis("p", multiply_dims([self.batch, self.panels]))
        self.lead: tuple[Var, ...] = (share,)
        self.panel: Expr = share % self.panels
        self.flat = share // self.panels
        self.note = "panels"

    def _inner_panels(self, share: Var) -> None:
        no = axis("no", self.panels)
        self.lead, self.panel = (share, no), no

    def _chunks_of_tiles(self) -> None:
        """The one axis of rows in chunks of whole tiles, so that few rows are one tile of one thread."""
        (row,) = self.p.rows
        n = as_expr(row.extent or 0)
        tiles = (n + (self.tile - 1)) / self.tile
        share = axis("p", multiply_dims([self.batch, SHARES]))
        chunk = share % SHARES
        start = tiles * chunk / SHARES * self.tile
        end = binary("min", tiles * (chunk + 1) / SHARES * self.tile, n)
        part = axis("m0", end - start)
        self.mapping[row] = start + part
        self.rows = [part]
        self.flat = share // SHARES
        self._inner_panels(share)
        self.note = f"{SHARES} chunks of tiles"

    def _whole_rows(self) -> None:
        """The outer axes of rows, all but the innermost; of a last constant one before it, parts."""
        outer = self.rows[:-1]
        share = axis("p", multiply_dims([self.batch, *(v.extent for v in outer if v.extent is not None)]))
        flat: Expr = share
        for v in reversed(outer):
            n = as_expr(v.extent or 0)
            self.mapping[v] = flat % n
            flat = flat // n
        self.flat = flat
        self.rows = self.rows[-1:]
        self._inner_panels(share)
        self.note = "rows"
