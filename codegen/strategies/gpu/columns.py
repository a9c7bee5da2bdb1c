"""Reductions over other axes than the contiguous one (a mean over pixels, channels last): neighbouring threads take
neighbouring outputs, groups of threads take parts of the reduction.

    for c: s = sum_r X[r, c]  ->  for group thread.y: part[group, c] = sum over r = group, group + G, ..; barrier;
                                  the first group adds the parts in order

Every warp reads whole lines, and a reduction over much more than there are outputs still fills the machine.
"""

from __future__ import annotations

from math import prod

from ....ir.compute import Compute, identity
from ....ir.dims import split_index
from ....ir.expr import Expr, Type, all_of, as_expr, binary, const, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Store, axis, nest, store
from ...machine_gpu import WARP, GpuMachine
from ...schedule.vectors import vector_store
from ..axes import substitute_axes
from .legalize import accumulated
from .maps import RESIDENT_THREADS, contiguous_axis, extents, vector_width

GROUPS = (16, 8, 4)
LEAST = 32  # iterations of a reduction that is shared out
UNROLLED = 4


def is_column_reduction(c: Compute, machine: GpuMachine) -> bool:
    """Few outputs, each over much, contiguous along an output axis or not contiguous at all."""
    if c.is_map or not c.reduce or c.init is not None:
        return False
    outputs, size = prod(extents(c.axes)), prod(extents(c.reduce))
    return outputs > 0 and size >= LEAST and outputs < machine.processors * 2048


def column_nest(c: Compute, machine: GpuMachine, number: str) -> tuple[Block, str]:
    """The loops of one reduction, and the schedule in words."""
    v = contiguous_axis(c)
    width = vector_width(c, v)
    sizes = [n // width if a is v else n for a, n in zip(c.axes, extents(c.axes), strict=True)]
    total, size = prod(sizes), prod(extents(c.reduce))
    groups = next((g for g in GROUPS if size >= 2 * g), GROUPS[-1])
    block, group, lane = axis(f"block{number}", -(-total // WARP)), axis(f"group{number}", groups), axis(f"lane{number}", WARP)
    piece, vector = block * WARP + lane, axis("v", width)
    mapping: dict[Expr, Expr] = {}
    for a, e in zip(c.axes, split_index(sizes, piece), strict=True):
        mapping[a] = e * width + vector if a is v and width > 1 else e
    steps = -(-size // groups)
    outer, inner = axis("r", -(-steps // UNROLLED)), axis("ri", UNROLLED)
    at = (outer * UNROLLED + inner) * groups + group
    mapping.update(zip(c.reduce, split_index(extents(c.reduce), at), strict=True))
    c = substitute_axes(c, mapping, (), ())
    acc = Buffer(f"acc{number}", c.acc, (width,), "register")
    start = const(identity(c.combine, c.acc), Type(c.acc))
    step = vector_store(vector, store(acc, (vector,), accumulated(c.combine, load(acc, vector), c.body)))
    if size % (groups * UNROLLED):
        step = (If(binary("lt", at, size), step),)
    inside = None if total % WARP == 0 else binary("lt", piece, total)
    loop: Block = (For(outer, (For(inner, step, "unroll", ("reduce",)),), "serial", ("reduce",)),)
    parts = Buffer(f"parts{number}", c.acc, (groups, WARP, width), "shared")
    w = axis("w", groups - 1)
    total_value = load(acc, vector)
    more = store(acc, (vector,), binary(c.combine, total_value, load(parts, w + 1, lane, vector)))
    last = (
        *vector_store(vector, store(acc, (vector,), load(parts, 0, lane, vector))),
        For(w, vector_store(vector, more), "unroll"),
        *vector_store(vector, Store(c.out, c.out_index, c.result(total_value))),
    )
    conditions = [binary("eq", group, as_expr(0)), *([inside] if inside is not None else [])]
    body: Block = (
        Alloc(parts), Alloc(acc), *vector_store(vector, store(acc, (vector,), start)),
        *((If(inside, loop),) if inside is not None else loop),
        *vector_store(vector, Store(parts, (group, lane, vector), total_value)),
        Barrier("block"), If(all_of(conditions), last),
    )
    note = f"{total} columns of {size}: {width} a thread, each in {groups} parts"
    inside = nest((group,), nest((lane,), body, "thread.x"), "thread.y")
    return nest((block,), inside, "block.x", (("resident", RESIDENT_THREADS // (groups * WARP)),)), note
