"""Recurrent cells on a graphics processor: a block of threads per sequence, its units and gate columns among the threads.

    parallel for sequence: for unit: ..; for step: { for column: gates[column] = ..; for unit: .. }
    ->  for sequence block.x: for t thread.x: each of these loops by threads, a barrier of the block after it

The loops are the operator's own (`ir/ops/recurrent.py`).  Scratch memory of a step lies in shared memory; neighbouring threads
read neighbouring columns of the recurrent weights, which stay in the second-level cache from step to step.
"""

from __future__ import annotations

from dataclasses import replace

from ....ir.errors import InternalError
from ....ir.expr import Var, binary
from ....ir.kernel import Alloc, Barrier, Block, For, If, Kernel, Stmt, Store, axis, substitute_block, walk_block
from ....ir.traverse import uses
from ....ir.types import DTYPES
from ...machine_gpu import MAX_THREADS, WARP, GpuMachine
from ...schedule.rewrite import is_reduction, replace_temporary
from ..scheduled import Scheduled
from .legalize import legalize

SHARED_AXES = ("unit", "column")
"""Loops of a cell whose iterations are independent: each writes what belongs to it."""


def schedule_recurrent(kernel: Kernel, machine: GpuMachine) -> Scheduled | None:
    """The kernel of a cell, or None where its scratch memory is larger than a block's shared memory."""
    (loop,) = kernel.body
    if not isinstance(loop, For) or loop.kind != "parallel":
        raise InternalError(f"kernel {kernel.name}: expected one parallel loop over sequences", str(kernel))
    scratch = [s.buf for s in walk_block(kernel.body) if isinstance(s, Alloc) and s.buf.space == "stack" and s.buf.shape]
    if sum(b.size * DTYPES[b.dtype].size for b in scratch) > machine.shared_bytes:
        return None
    widest = max(int(s.var.extent) for s in walk_block(loop.body) if _is_shared(s))  # type: ignore[union-attr, arg-type]
    thread = axis("thread", min(MAX_THREADS, -(-widest // WARP) * WARP))
    body = _cooperate(loop.body, thread)
    for buf in scratch:
        body = replace_temporary(body, buf, replace(buf, space="shared"), lambda *idx: idx)
    bound = For(loop.var, (For(thread, body, "thread.x"),), "block.x")
    note = f"{loop.var.extent} sequences, a block each: {thread.extent} threads share {widest} columns of every step"
    return Scheduled(legalize(Kernel(kernel.name, tuple(dict.fromkeys(kernel.params)), (bound,))), note=note)


def _is_shared(s: Stmt) -> bool:
    return isinstance(s, For) and s.var.name in SHARED_AXES and not is_reduction(s)


def _cooperate(block: Block, thread: Var) -> Block:
    """Loops over shared axes by threads; what is around them by all threads alike."""
    made: list[Stmt] = []
    for s in block:
        if isinstance(s, For) and _is_shared(s):
            made += [*_by_threads(s, thread), Barrier("block")]
        elif isinstance(s, For):
            made.append(replace(s, body=_cooperate(s.body, thread)))
        elif isinstance(s, If):
            made.append(replace(s, then=_cooperate(s.then, thread), other=_cooperate(s.other, thread)))
        elif isinstance(s, Alloc):
            made.append(s)
        else:
            raise InternalError(f"a cell has the statement {s} outside of the loops over its units")
    return tuple(made)


def _by_threads(loop: For, thread: Var) -> Block:
    """The iterations of an independent loop, neighbours to neighbouring threads."""
    own = {s.buf for s in walk_block(loop.body) if isinstance(s, Alloc)}
    for s in walk_block(loop.body):
        if isinstance(s, Store) and s.buf not in own and not any(uses(i, loop.var) for i in s.idx):
            raise InternalError(f"every iteration of {loop.var.name} would store to {s.buf.name} at the same place")
    count, threads = int(loop.var.extent), int(thread.extent)  # type: ignore[arg-type]
    steps = -(-count // threads)
    q = axis(f"{loop.var.name}_piece", steps)
    at = thread if steps == 1 else q * threads + thread
    body = substitute_block(loop.body, {loop.var: at})
    if count % threads:
        body = (If(binary("lt", at, count), body),)
    return (For(q, body, "unroll" if steps == 1 else "serial"),)
