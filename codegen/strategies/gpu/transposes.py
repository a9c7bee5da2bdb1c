"""Maps that read along another axis than they write: a tile goes through shared memory, so that both are whole lines.

    for i: for j: Y[i, j] = f(X[j, i])
    ->  for each 32 x 32 tile: tile[j, i] = X[j, i], neighbouring threads along i; barrier; Y[i, j] = f(tile[j, i]), along j
"""

from __future__ import annotations

from math import prod

from ....ir.compute import Compute
from ....ir.dims import split_index
from ....ir.expr import Expr, Load, Var, all_of, binary, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Store, axis, coefficient, nest
from ....ir.traverse import rewrite, substitute
from .maps import contiguous_axis, extents

TILE, ROWS = 32, 8  # a warp takes a line of the tile, eight warps a block
LEAST = 8  # elements along both axes


def find_transposed(c: Compute) -> tuple[Load, Var, Var] | None:
    """The one read that runs along another axis than the output: (read, its axis, the output's)."""
    out = contiguous_axis(c)
    if not c.is_map or out is None:
        return None
    found = []
    for r in c.reads():
        own = next((v for v in reversed(c.axes) if coefficient(r.buf, r.idx, v) == 1), None)
        if own is None or own is out or coefficient(r.buf, r.idx, out) in (0, 1, None):
            continue
        found.append((r, own))
    if len(found) != 1 or min(int(found[0][1].extent), int(out.extent)) < LEAST:  # type: ignore[arg-type]
        return None
    (read, own), = found
    return (read, own, out) if read.type.dtype == read.buf.dtype and read.type.lanes == 1 else None


def transpose_nest(c: Compute, found: tuple[Load, Var, Var], number: str) -> Block:
    """The loops of one map with a transposed read."""
    read, own, out = found
    others = [v for v in c.axes if v is not own and v is not out]
    sizes = [*extents(tuple(others)), -(-int(own.extent) // TILE), -(-int(out.extent) // TILE)]  # type: ignore[arg-type]
    block = axis(f"block{number}", prod(sizes))
    warp, lane, q = axis(f"warp{number}", ROWS), axis(f"lane{number}", TILE), axis("q", TILE // ROWS)
    *outer, own_tile, out_tile = split_index(sizes, block)
    fixed: dict[Expr, Expr] = dict(zip(others, outer, strict=True))
    tile = Buffer(f"tile{number}", read.buf.dtype, (TILE, TILE), "shared", strides=(TILE + 1, 1))
    line = q * ROWS + warp

    def at(own_in: Expr, out_in: Expr) -> dict[Expr, Expr]:
        return {**fixed, own: own_tile * TILE + own_in, out: out_tile * TILE + out_in}

    def guarded(values: dict[Expr, Expr], made: Store) -> Block:
        conditions = [binary("lt", values[v], v.extent) for v in (own, out) if int(v.extent) % TILE]  # type: ignore[arg-type]
        return (If(all_of(conditions), (made,)),) if conditions else (made,)

    values = at(lane, line)
    source = Load.of(read.buf, tuple(substitute(i, values) for i in read.idx), read.type)
    fill = guarded(values, Store(tile, (line, lane), source))
    values = at(line, lane)
    cell = load(tile, lane, line)
    body = rewrite(c.result(c.body), lambda e: cell if e is read else None)
    drain = guarded(values, Store(c.out, tuple(substitute(i, values) for i in c.out_index), substitute(body, values)))
    inside = (Alloc(tile), For(q, fill, "unroll"), Barrier("block"), For(q, drain, "unroll"))
    return nest((block,), nest((warp,), nest((lane,), inside, "thread.x"), "thread.y"), "block.x")
