"""Winograd convolution where the number of rows and columns is only known when the model runs.

Both ways of `winograd.py` in one kernel: with two blocks of tiles or more, each thread takes blocks through the three phases;
with fewer, the threads share each phase.  They read the same weights.  A block is some tiles that follow each other, whatever
rows they are of.  Tiles at the end store under conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...ir.compute import Compute
from ...ir.dims import normal_dim
from ...ir.expr import Expr, Var, as_expr, binary
from ...ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Store, axis, map_block, substitute_block
from ..machine import Machine
from .product import operands
from .scheduled import Group, Scheduled
from .winograd import (
    finish_kernel,
    finished,
    gather,
    on_buffers,
    place_of,
    plane_of,
    products,
    store_tile,
    tile_loop,
    tile_outputs,
)
from .winograd_plan import BLOCK_TILES, Plan, plan_of

TILES = Var.of("tiles", None)  # of a product, until it is known of which


def schedule_open_winograd(group: Group, c: Compute, m: int, machine: Machine) -> Scheduled:
    pair = operands(c)
    assert pair is not None
    plan = plan_of(c, m, group.choice.block or BLOCK_TILES, group.symbols)
    few = normal_dim(binary("min", as_expr(plan.count), 2 * plan.block - 1))
    own, shared = _buffers(plan, as_expr(plan.block), "stack"), _buffers(plan, as_expr(few), "global")
    vs, mm = shared[:-1], shared[-1]
    made = products(plan, TILES, vs, mm, pair[1].buf.name, machine, group.choice)
    inner = tuple(s for p in made for s in p.kernel.body)
    lanes = machine.lanes("f32")

    def phases(buffers: tuple[Buffer, ...], tiles: Expr) -> tuple[Callable[..., Block], Block, Callable[..., Block]]:
        names = {b.name: replacement for b, replacement in zip(shared, buffers, strict=True)}
        body = substitute_block(on_buffers(inner, names), {TILES: tiles})
        return partial(gather, plan, pair[0], buffers[:-1], lanes), body, partial(_scatter, plan, c, buffers[-1], lanes)

    many = binary("min", as_expr(plan.count) / (2 * plan.block), 1)
    start, body, end = phases(shared, as_expr(plan.count))
    together = (tile_loop(plan, start, "t_in"), Barrier(), *body, Barrier(), tile_loop(plan, end, "t_out"))
    apart = _blocked(plan, many, partial(phases, own), own)
    return finish_kernel(
        group, plan, (apart, For(axis("few", normal_dim(1 - many)), together)), shared, made,
        f"blocks of {plan.block} tiles, or threads share each phase", machine,
    )


def _buffers(plan: Plan, tiles: Expr, space: str) -> tuple[Buffer, ...]:
    """V of each group, and M."""
    groups = plan.form.groups
    mark = "" if space == "global" else "_own"
    vs = [
        Buffer(f"v{i}{mark}", "f32", (len(g.places), plane_of(tiles, g.depth * plan.channels)), space)
        for i, g in enumerate(groups)
    ]
    return (*vs, Buffer(f"m{mark}", "f32", (plan.form.n**2, plane_of(tiles, plan.outputs)), space))


def _blocked(plan: Plan, many: Expr, phases: Callable[[Expr], tuple[Callable[..., Block], Block, Callable[..., Block]]],
             buffers: tuple[Buffer, ...]) -> For:
    """Each iteration of the parallel loop takes one block of tiles through the three phases.  many: 1, or 0 for no turn."""
    count = as_expr(plan.count)
    share = axis("share", normal_dim((count + (plan.block - 1)) / plan.block * many))
    first = share * plan.block
    here = normal_dim(binary("min", count - first, plan.block))
    start, body, end = phases(as_expr(here))

    def tiles(name: str, phase: Callable[..., Block]) -> For:
        t = axis(name, here)
        return For(t, phase(*place_of(plan, first + t), t))

    serial = map_block(body, lambda s: replace(s, kind="serial") if isinstance(s, For) and s.kind == "parallel" else None)
    return For(share, (*map(Alloc, buffers), tiles("t_in", start), *serial, tiles("t_out", end)), "parallel")


def _scatter(plan: Plan, c: Compute, mm: Buffer, lanes: int, image: Expr, ty: Expr, tx: Expr, t: Expr) -> Block:
    """The outputs of one tile; of one at the end, those that lie inside."""
    rows, columns = (as_expr(n) for n in plan.out)
    whole = binary("and", binary("lt", ty, rows // plan.m), binary("lt", tx, columns // plan.m))
    tile = image, ty, tx, t
    return (If(whole, store_tile(plan, c, mm, lanes, tile, plan.m, plan.m), _store_inside(plan, c, mm, lanes, tile)),)


def _store_inside(plan: Plan, c: Compute, mm: Buffer, lanes: int, tile: tuple[Expr, Expr, Expr, Expr]) -> Block:
    image, ty, tx, t = tile
    m, whole = plan.m, plan.outputs // lanes * lanes
    rows, columns = ([corner * m + i for i in range(m)] for corner in (ty, tx))
    ends = tuple(as_expr(n) for n in plan.out)

    def vector(lane: Var, first: Expr) -> Block:
        """All outputs in registers, then those inside to memory."""
        kept = Buffer(f"kept_{lane.name}", "f32", (m, m, lane.extent or 1), "register")
        values = tile_outputs(plan, mm, t, first + lane)
        body: list[Store | If] = [
            Store(kept, (as_expr(i), as_expr(j), lane), values[i][j]) for i in range(m) for j in range(m)
        ]
        for i, row in enumerate(rows):
            stores = tuple(
                If(binary("lt", column, ends[1]), (finished(c, kept[i, j, lane], (image, row, column, first + lane)),))
                for j, column in enumerate(columns)
            )
            body.append(If(binary("lt", row, ends[0]), stores))
        return Alloc(kept), For(lane, tuple(body))

    loops: list[Block] = []
    if whole:
        ob = axis("ob", plan.outputs // lanes)
        loops.append((For(ob, vector(axis("ol", lanes), ob * lanes)),))
    if whole < plan.outputs:
        loops.append(vector(axis("ot", plan.outputs - whole), as_expr(whole)))
    return tuple(s for block in loops for s in block)
