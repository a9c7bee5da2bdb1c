"""Loops that an operator writes itself: one thread per iteration of its parallel loops, everything else serial in a thread.

    parallel for i: body   ->   for b < ceil(I / 256) block.x: for t < 256 thread.x: if b*256 + t < I: body
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ....ir.dims import split_index
from ....ir.expr import Expr, as_expr, binary
from ....ir.kernel import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Stmt,
    axis,
    map_block,
    substitute_block,
    walk_block,
)
from ....ir.types import DTYPES
from ...schedule.rewrite import is_reduction, replace_accesses, without_alloc
from ..scheduled import Scheduled
from .legalize import legalize

THREADS = 256
# Bytes of an array that one thread keeps for itself; a larger one lies in memory that is allocated for the iterations.
_PRIVATE_BYTES = 1024


def schedule_loops(kernel: Kernel) -> Scheduled:
    """The loops of an operator's own kernel: its parallel loops by threads, everything else by one thread, in order."""
    private = [s.buf for s in walk_block(kernel.body) if isinstance(s, Alloc) and _is_large(s.buf)]
    temporaries: list[Buffer] = []
    body: list[Stmt] = []
    parallel = any(isinstance(s, For) and s.kind == "parallel" for s in kernel.body)
    for s in kernel.body if parallel else ():
        if isinstance(s, Barrier):
            continue
        block: Block = (s,)
        for buf in private:
            block = _widen(s, block, buf, temporaries)
        body += [*([Barrier("pool")] if body else []), *_bind(block)]
    made = kernel.body if not parallel else tuple(body)
    params = dict.fromkeys((*kernel.params, *temporaries))  # one value may be several operands
    result = legalize(Kernel(kernel.name, tuple(params), made))
    sizes = tuple((b.name, b.size * DTYPES[b.dtype].size) for b in temporaries)
    return Scheduled(result, note="a thread per iteration", temporaries=sizes)


def _is_large(buf: Buffer) -> bool:
    return buf.space == "stack" and buf.size * DTYPES[buf.dtype].size > _PRIVATE_BYTES


def _widen(loop: Stmt, block: Block, buf: Buffer, temporaries: list[Buffer]) -> Block:
    """Give a thread's own array a first dimension for the iterations of the parallel loop around it."""
    inside = [s for s in walk_block(block) if isinstance(s, Alloc) and s.buf == buf]
    if not inside or not isinstance(loop, For) or not isinstance(loop.var.extent, int):
        return block
    wide = Buffer(buf.name, buf.dtype, (loop.var.extent, *buf.shape))
    if wide not in temporaries:
        temporaries.append(wide)
    return without_alloc(replace_accesses(block, buf, wide, lambda *idx: (loop.var, *idx)), buf)


# ---- binding -----------------------------------------------------------------------------------------------------


def _bind(block: Block) -> Block:
    """The independent loops at the top of a nest as one loop over blocks and threads; the rest as it is.

    A loop over nothing is left out, and so is what stands in it."""
    loops: list[For] = []
    while len(block) == 1 and isinstance(block[0], For) and not is_reduction(block[0]) and _is_outer(loops, block[0]):
        loops.append(block[0])
        block = block[0].body
    extents = [int(f.var.extent) for f in loops]  # type: ignore[arg-type]
    count = prod(extents)
    if count == 0:
        return ()
    threads = min(THREADS, -(-count // 32) * 32)
    b, t = axis("block", -(-count // threads)), axis("thread", threads)
    flat = b * threads + t
    index: dict[Expr, Expr] = dict(zip((f.var for f in loops), split_index(extents, flat), strict=True))
    body = substitute_block(_serial(block), index)
    if count % threads:
        body = (If(_below(flat, count), body),)
    return (For(b, (For(t, body, "thread.x"),), "block.x"),)


def _is_outer(loops: list[For], loop: For) -> bool:
    """Whether iterations of the loop are known to be independent: axes of a computation, or one parallel loop."""
    if not isinstance(loop.var.extent, int):
        return False
    if loop.kind == "parallel":
        return not loops
    return loop.kind == "serial" and all(f.kind == "serial" for f in loops)


def _below(flat: Expr, count: int) -> Expr:
    return binary("lt", flat, as_expr(count))


def _serial(block: Block) -> Block:
    return map_block(block, lambda s: replace(s, kind="serial") if isinstance(s, For) and s.kind == "parallel" else None)
