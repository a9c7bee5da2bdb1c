"""Single reductions over any axes, with an epilogue.

Vectors run along a kept axis where operands are contiguous along one (leading and middle axes are reduced, or the average
over the pixels of channels-last images): their accumulators stay in registers.  Otherwise they run along a reduced axis,
with several partial results per lane that are combined at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...ir.expr import Var
from ...ir.kernel import Block, For, Kernel, walk_block
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, reorder, sink, split, unroll, vectorize
from ..schedule.rewrite import is_reduction
from .join import join_kernels
from .nests import (
    PARALLEL_WORK,
    access_cost,
    collapse,
    drop_unit_loops,
    fuse_outer,
    is_empty,
    lanes_for,
    memory_accesses,
    parallel_top,
    part,
    perfect_loops,
    reduce_loops,
    size_of,
    stores_of,
    work,
)

ACCUMULATORS = 8  # vectors of kept elements at once: enough to hide the latency of an addition
PARTIALS = 4  # vectors of partial results along a reduced axis


@dataclass
class _Reduction:
    """A reduction in a kernel: the loops over kept and reduced axes, outermost first."""

    kept: list[Var]
    reduced: list[Var]
    body: Block

    def names(self, kept: bool) -> list[str]:
        return [v.name for v in (self.kept if kept else self.reduced)]


def schedule_reduce(kernel: Kernel, machine: Machine) -> Kernel:
    """The kernel of one reduction, scheduled.  kernel: loops over kept axes around an accumulator, loops over reduced axes
    that update it, and a store of the result."""
    if is_empty(kernel):
        return kernel
    kernel = legalize_math(drop_unit_loops(kernel), machine)
    heavy = work(kernel.body) >= PARALLEL_WORK
    r = _find(kernel)
    kernel, _ = collapse(kernel, r.names(True))
    if r.reduced:
        kernel, _ = collapse(kernel, r.names(False))
        kernel = _schedule(kernel, _find(kernel), machine)
    if machine.fma:
        kernel = fma_contract(kernel)
    return parallel_top(kernel) if heavy and r.kept else kernel


def _find(kernel: Kernel) -> _Reduction:
    kept, body = perfect_loops(kernel.body)
    if kept and is_reduction(kept[-1]):
        kept, body = [], kernel.body
    reduced = [s.var for s in walk_block(body) if isinstance(s, For)]
    return _Reduction([f.var for f in kept], reduced, body)


def _schedule(kernel: Kernel, r: _Reduction, machine: Machine) -> Kernel:
    lanes = lanes_for(stores_of(r.body), machine)
    found = memory_accesses(r.body)
    depth = prod(size_of(v.extent) for v in r.reduced)
    costs: dict[Var, float] = {}
    for v in (*reversed(r.reduced), *reversed(r.kept)):
        n = size_of(v.extent)
        reads = sum(access_cost(a, v, lanes) for a in found if not a.writes)
        final = sum(access_cost(a, v, lanes) for a in found if a.writes) if v in r.kept else 2.0 * lanes.bit_length()
        costs[v] = reads * max(1.0, lanes / n) + final / (depth if v in r.kept else max(1.0, depth / lanes))
    vector = min(costs, key=lambda v: costs[v])
    if vector in r.reduced:
        return _along_reduced(kernel, r, vector, lanes)
    if isinstance(vector.extent, int):
        return _along_kept(kernel, r, vector.name, vector.extent, lanes)
    return fuse_outer(kernel, r.names(True))[0]


def _along_reduced(kernel: Kernel, r: _Reduction, vector: Var, lanes: int) -> Kernel:
    names = r.names(False)
    order = [*(n for n in names if n != vector.name), vector.name]
    if order != names:
        kernel = reorder(kernel, names, order, associative=True)
    if r.kept:
        kernel, _ = fuse_outer(kernel, r.names(True))
    around = order[0] if len(order) > 1 else ""
    return reduce_loops(kernel, vector.name, lanes, PARTIALS, around)


def _along_kept(kernel: Kernel, r: _Reduction, vector: str, n: int, lanes: int) -> Kernel:
    """Blocks of the axis with as many accumulators as hide latencies, then single vectors, then a short one."""
    vectors = n // lanes
    several = next((s for s in range(min(ACCUMULATORS, vectors), 3, -1) if vectors % s == 0), min(vectors, ACCUMULATORS))
    whole = vectors // several * several * lanes if vectors else 0
    parts = [(0, whole, several), (whole, vectors * lanes - whole, 1), (vectors * lanes, n - vectors * lanes, 0)]
    kernels = []
    for start, size, count in parts:
        if size:
            k = part(kernel, vector, start, size)
            kernels.append(_block(k, r.names(True), vector, lanes, count))
    return join_kernels(kernel.name, kernels)


def _block(kernel: Kernel, kept: list[str], vector: str, lanes: int, several: int) -> Kernel:
    """One nest whose vector axis is blocks of `several` vectors, or less than one vector (several = 0)."""
    outer = [n for n in kept if n != vector]
    if kept[-1] != vector:
        kernel = reorder(kernel, kept, [*outer, vector])
    if several == 0:
        kernel = sink(kernel, [vector])
        return vectorize(fuse_outer(kernel, outer)[0] if outer else kernel, vector)
    kernel = split(kernel, vector, lanes * several, "block", "inside")
    kernel = split(kernel, "inside", lanes, "each", "lane")
    kernel = sink(kernel, ["each", "lane"])
    kernel, _ = fuse_outer(kernel, [*outer, "block"])
    return vectorize(unroll(kernel, "each"), "lane")


