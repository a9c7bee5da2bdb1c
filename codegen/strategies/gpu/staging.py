"""Tiles of operands in shared memory: how they lie there, and how the threads of a block fill them.

    for q unroll: tile[stage, row, k..] = async select(inside, x[row, k..], 0)     pieces of 4, 8 or 16 bytes, a piece a thread

A tile lies as the operand does in memory, rows of k (`k_major`) or rows of its own axis, so that pieces stay whole.  With
`swizzled`, pieces of 16 bytes are permuted within a row by exclusive-or with the row's number: the eight rows that a matrix
load takes together, and those that neighbouring threads read, lie in different banks, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.expr import Expr, Load, Type, Var, all_of, binary, cast, const, select
from ....ir.kernel import Block, Buffer, For, If, Store, axis, substitute_block
from ....ir.types import DTYPES
from .operand import ACCESS, Operand

MOST_COPIES = 16  # asynchronous copies of a thread in straight-line code
MOST_LOADS = 4  # loads into registers in flight at once


@dataclass(frozen=True)
class StagedTile:
    """buffer: [stages, rows, k], or [stages, k, rows] without k_major.  width: elements of one piece."""

    operand: Operand
    buffer: Buffer
    k_major: bool
    swizzled: bool
    width: int

    @property
    def own(self) -> int:
        return self.buffer.static_shape[1 if self.k_major else 2]

    @property
    def depth(self) -> int:
        return self.buffer.static_shape[2 if self.k_major else 1]

    def index(self, stage: Expr, own: Expr, k: Expr) -> tuple[Expr, Expr, Expr]:
        """Where an element lies; elements of one piece of 16 bytes follow each other."""
        outer, inner = (own, k) if self.k_major else (k, own)
        return stage, outer, self._permuted(outer, inner)

    def _permuted(self, outer: Expr, inner: Expr) -> Expr:
        per = ACCESS // DTYPES[self.buffer.dtype].size
        pieces = self.buffer.static_shape[2] // per
        if not self.swizzled or pieces < 2:
            return inner
        rows = max(1, 8 // pieces)  # that lie in one line of all banks
        return binary("xor", inner // per, outer // rows % min(pieces, 8)) * per + inner % per


def stage_operand(
    name: str, operand: Operand, own: int, depth: int, stages: int, dtype: str, *, k_major: bool, swizzled: bool
) -> StagedTile:
    """A tile of own x depth in that many stages.  dtype: of its elements."""
    shape = (stages, own, depth) if k_major else (stages, depth, own)
    own_width = operand.width_k if k_major else operand.width_own
    width = min(own_width, depth if k_major else own, ACCESS // DTYPES[dtype].size)  # whole pieces on both sides
    return StagedTile(operand, Buffer(name, dtype, shape, "shared"), k_major, swizzled, width)


def fill(
    tile: StagedTile, stage: Expr, batch: Expr, start: tuple[Expr, Expr], deepest: int, threads: int, thread: Expr,
    is_async: bool,
) -> Block:
    """All threads copy one stage; elements outside of the operand become zero.  start: first row and k; deepest: below it
    lie all k's that are ever asked for."""
    x = tile.operand
    _, outer, inner = tile.buffer.static_shape
    per_row = inner // tile.width
    count = outer * per_row
    q = axis(f"piece_{tile.buffer.name}", -(-count // threads))
    piece = q * threads + thread
    along, across = piece % per_row * tile.width, piece / per_row
    if tile.width == 1 and tile.k_major and x.width_own > 1:  # neighbouring threads read neighbours in memory
        along, across = piece / outer, piece % outer
    own, k = (across, along) if tile.k_major else (along, across)
    at = tile.index(stage, own, k)
    own, k = start[0] + own, start[1] + k
    conditions = []
    if x.own % tile.own:
        conditions.append(binary("lt", own, x.own))
    if deepest > x.depth:
        conditions.append(binary("lt", k, x.depth))
    if x.inside is not None:
        conditions.append(x.inside(batch, own, k))
    body = _copy(tile, at, x.at(batch, own, k), all_of(conditions) if conditions else None, is_async)
    if count % threads:
        body = (If(binary("lt", piece, count), body),)
    return in_parts(q, body, MOST_COPIES if is_async and _is_copied(tile) else MOST_LOADS)


def _is_copied(tile: StagedTile) -> bool:
    """Whether pieces go to shared memory by asynchronous copies, past the registers."""
    return DTYPES[tile.buffer.dtype].size * tile.width in (4, 8, 16) and tile.operand.dtype == tile.buffer.dtype


def in_parts(q: Var, body: Block, most: int) -> Block:
    """A loop, unrolled as a whole or by parts of `most`."""
    count = int(q.extent)  # type: ignore[arg-type]
    if count <= most:
        return (For(q, body, "unroll"),)
    if most == 1:
        return (For(q, body),)
    outer, inner = axis(q.name + "_outer", -(-count // most)), axis(q.name, most)
    inside = substitute_block(body, {q: outer * most + inner})
    if count % most:
        inside = (If(binary("lt", outer * most + inner, count), inside),)
    return (For(outer, (For(inner, inside, "unroll"),)),)


def _copy(tile: StagedTile, at: tuple[Expr, ...], source: Load, cond: Expr | None, is_async: bool) -> Block:
    type = Type(source.type.dtype, tile.width)
    value: Expr = Load.of(source.buf, source.idx, type)
    if is_async and _is_copied(tile):
        if cond is not None:
            value = select(cond, value, const(0, type))
        return (Store(tile.buffer, at, value, "async"),)
    value = cast(value, tile.buffer.dtype)
    if cond is None:
        return (Store(tile.buffer, at, value),)
    zero = const(0, Type(tile.buffer.dtype, tile.width))
    return (If(cond, (Store(tile.buffer, at, value),), (Store(tile.buffer, at, zero),)),)

