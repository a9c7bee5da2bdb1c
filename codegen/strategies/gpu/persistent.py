"""Products of blocks that stay (sm_90a): as many as the machine holds, each making one tile after the other.

    for block block.x: producer: for tile: for ko: copy a stage                       (see `bulk`)
                       consumers: for tile: acc = 0; for ko: acc += a stage; for some columns: sums[warp] = acc; finish them

The producer is ahead by the stages of shared memory, so that the copies of the next tile run while the sums of one are
finished; warps finish theirs through shared memory of their own and wait for no other one.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ....ir.expr import Expr, Var, all_of, as_expr, binary, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Store, axis, nest, noted
from ....ir.traverse import substitute
from ....ir.types import DTYPES
from ...schedule.vectors import vector_store
from .bulk import PRODUCERS, BulkPipeline
from .staging import in_parts
from .tiles import PADDING, resident_blocks, tile_numbers
from .warpgroup import WarpgroupCore

if TYPE_CHECKING:
    from .contract import ProductPlan

PIECES = (64, 32, 16)  # columns that a warp finishes at once


def staying_product(plan: ProductPlan, partial: Buffer | None) -> Block:
    """Blocks as many as the machine holds, each with one tile after the other (see `bulk`)."""
    tile, core, total = plan.tile, plan.core(), prod(plan.counts())
    assert isinstance(core, WarpgroupCore)
    size, acc_size = DTYPES[plan.types[0]].size, DTYPES[plan.p.compute.acc].size
    together = plan.machine.shared_per_processor // (tile.shared_bytes(size, acc_size) + 1024)
    resident = max(1, min(together, resident_blocks(tile, acc_size, plan.machine)))
    blocks = max(tile.cluster, min(total, plan.machine.processors * resident) // tile.cluster * tile.cluster)
    block, turn = axis("block", blocks), axis("turn", -(-total // blocks))
    number = turn * blocks + block
    batch, split, tile_row, tile_column = tile_numbers(number, plan.counts())
    consumers = tile.threads // 32
    lane, warp = axis("lane", 32), axis("warp", consumers + PRODUCERS)
    row, column, steps = tile_row * tile.rows, tile_column * tile.columns, tile.steps(plan.p.sizes[3])
    left, right = plan.views
    bulk = BulkPipeline(core, left, right, consumers, warp, lane, tile.cluster, block % tile.cluster)
    before, own_row = turn * steps, warp * tile.warp_tile[0]

    def over_tiles(body: Block, note: str) -> Block:
        return (For(turn, body if total % blocks == 0 else (If(binary("lt", number, total), body),), "serial", (noted(note),)),)

    produce = over_tiles(bulk.produce(before, batch, (row, column), split * (steps * tile.depth), steps),
                         "one thread brings the stages of all tiles, as far ahead as there is room")
    sums = Buffer("sums", plan.p.compute.acc, (consumers, tile.warp_tile[0], tile.piece), "shared",
                  strides=(tile.warp_tile[0] * (tile.piece + PADDING // acc_size), tile.piece + PADDING // acc_size, 1))
    finish = _finish_pieces(plan, core, sums, partial, (batch, split, row + own_row, column), warp, lane)
    consume = over_tiles((*core.start(), *bulk.consume(before, steps, (own_row, as_expr(0))), *finish),
                         "the others multiply them, and finish the sums of a tile while its successor is brought")
    body = (*bulk.allocate(), Alloc(sums), *bulk.start(), *bulk.run(produce, consume), *bulk.end())
    inside = nest((warp,), nest((lane,), body, "thread.x"), "thread.y")
    cluster = (("cluster", tile.cluster),) if tile.cluster > 1 else ()
    return nest((block,), inside, "block.x", (("resident", resident), *cluster))


def _finish_pieces(
    plan: ProductPlan, core: WarpgroupCore, sums: Buffer, partial: Buffer | None, place: tuple[Expr, Expr, Expr, Expr],
    warp: Var, lane: Var,
) -> Block:
    """The sums of a warp, some columns at a time through its own part of shared memory."""
    tile, p = plan.tile, plan.p
    _, rows, columns, _ = p.sizes
    batch, split, first_row, first_column = place
    width = min(plan.width(partial), tile.piece)
    per_row = tile.piece // width
    c, q, v = axis("c", tile.columns // tile.piece), axis("q", tile.warp_tile[0] * per_row // 32), axis("v", width)
    number = q * 32 + lane
    at_row, at_column = number / per_row, number % per_row * width + v
    row, column = first_row + at_row, first_column + c * tile.piece + at_column
    acc = load(sums, warp, at_row, at_column)
    made = (plan.finished(acc, batch, row, column) if partial is None
            else Store(partial, (split, batch, row, column), acc))
    body = vector_store(v, made)
    conditions = [binary("lt", e, n) for e, n, t in ((row, rows, tile.rows), (column, columns, tile.columns)) if n % t]
    if conditions:
        body = (If(all_of(substitute(e, {v: as_expr(0)}) for e in conditions), body),)
    return (For(c, (Barrier("warp"), *core.drain_piece(sums, warp, c, lane), Barrier("warp"),
                    *in_parts(q, body, plan.unrolled())), "unroll"),)
