"""How threads share a product: panels of columns, chunks of rows, or halves of the rows and panels, whichever moves fewer bytes
and divides evenly."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.compute import Compute
from ...ir.dims import multiply_dims
from ...ir.expr import Expr, Load, Var, as_expr
from ...ir.kernel import Buffer, axis
from ...ir.traverse import rewrite
from ...ir.types import DTYPES
from ..machine import Machine
from .axes import extents, size_of, substitute_axes
from .choices import divides
from .open_axes import Share, is_open, typical_size
from .product import Product
from .tiles import Tile

CHUNKS = (8, 4, 6, 2, 7, 5, 3)  # into how many chunks rows are cut for the threads, the best first
SMALLEST_HALF = 28  # rows


def arrange(
    p: Product, packed: Buffer | None, panel: int, short: bool, tile: Tile, machine: Machine
) -> tuple[Compute, list[Var], str]:
    """The computation over (p, [panel], *rows, ni): p is what threads share.  -> (computation, rows, description)"""
    panels = size_of(p.columns) // panel
    ni, batch = axis("ni", panel), multiply_dims(extents(p.batch))
    ragged = any(map(is_open, p.rows))
    mapping: dict[Expr, Expr] = {}
    chunks, where = (1, 0) if ragged else _chunks(p, panels, typical_size(p.batch, p.symbols), short)
    note = f"{chunks} chunks of rows" if chunks > 1 else "panels"
    if ragged:
        made = Share(p, panels, tile.rows)
        lead, no, mapping, rows, flat, note = made.lead, made.panel, made.mapping, made.rows, made.flat, made.note
    elif chunks > 1:
        chunked = p.rows[where]
        part = axis(f"m{where}", size_of(chunked) // chunks)
        share = axis("p", multiply_dims([batch, chunks]))
        no = axis("no", panels)
        lead = (share, no)
        mapping = {chunked: share % chunks * size_of(part) + part}
        rows = [part if v is chunked else v for v in p.rows]
        flat = share // chunks
    else:
        halves = 2 if _by_halves(p, machine) else 1
        share = axis("p", multiply_dims([batch, halves * panels]))
        no = share % panels
        lead = (share,)
        rows, flat = list(p.rows), share // panels
        if halves > 1:
            part = axis("m0", size_of(p.rows[0]) // halves)
            mapping = {p.rows[0]: flat * size_of(part) + part}
            rows, flat, note = [part, *rows[1:]], as_expr(0), "halves of the rows, and panels"
    for v in reversed(p.batch):
        mapping[v] = flat % as_expr(v.extent or 0) if v is not p.batch[0] else flat
        flat = flat // as_expr(v.extent or 0)
    batch_index = [mapping[v] for v in p.batch]
    mapping[p.columns] = no * panel + ni
    c = p.compute
    if packed is not None:
        inner = [p.group] if p.group is not None else []
        read = Load.of(packed, (*batch_index, no, *p.reduce, ni, *inner), p.right.type)
        c = replace(c, body=rewrite(c.body, lambda e: read if e is p.right else None))
    c = substitute_axes(c, mapping, (*lead, *rows, ni), p.compute.reduce)
    return c, rows, f"threads share {note}"


def _chunks(p: Product, panels: int, batch: int, short: bool) -> tuple[int, int]:
    """(number of chunks, which row axis); (1, 0) to share the panels."""
    if p.choice.chunks is not None:
        return divides("chunks", p.choice.chunks, size_of(p.rows[0]) if p.rows else 1), 0
    units = batch * panels
    even = units >= 8 or units % 2 == 0
    if not p.rows or (even and 4 * size_of(p.columns) >= prod(size_of(v) for v in p.rows)):
        return 1, 0
    count = size_of(p.rows[0])
    smallest = 14 if len(p.rows) == 1 else 2 if short and len(p.rows) == 2 else 1
    return next((n for n in CHUNKS if count % n == 0 and count // n >= smallest), 1), 0


def _by_halves(p: Product, machine: Machine) -> bool:
    """Whether two threads take half of the rows each, though weights pass twice: rows that only one of them reads and writes
    stay in its cache, and writing a line that is in another's costs more than reading some of the weights again."""
    if p.choice.chunks is not None or not p.rows or any(map(is_open, (*p.rows, *p.reduce, *p.batch))):
        return False
    rows, depth, columns = prod(size_of(v) for v in p.rows), prod(size_of(v) for v in p.reduce), size_of(p.columns)
    few = len(p.rows) == 1 and rows < 2 * SMALLEST_HALF
    if few or size_of(p.rows[0]) % 2 or prod(size_of(v) for v in p.batch) > 1:
        return False
    weights = depth * columns
    return weights * DTYPES[p.right.buf.dtype].size <= machine.l2 // 2 and weights <= rows * (depth + columns)
