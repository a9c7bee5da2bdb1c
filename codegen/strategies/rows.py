"""Groups of maps and reductions over shared rows: softmax, normalisations, any chain of them.

    nests that all begin with the same row loops  ->  for each row, in parallel: the nests on that row

The temporaries of a row are registers (reduced values, short rows), the output's own row, or a row of scratch memory.
Passes over the row are merged where their order allows.  Vectors run along the row; rows shorter than a vector are done
one per lane.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod

from ...ir.expr import Var
from ...ir.kernel import Alloc, Block, Buffer, For, Kernel, Stmt, axis, substitute_block, walk_block
from ..machine import Machine
from ..math import legalize_math
from ..schedule import (
    alias,
    fma_contract,
    fuse,
    invert_divisors,
    localize,
    loops,
    merge,
    sink,
    split,
    swap_axes,
    unroll,
    vectorize,
)
from ..schedule.memory import alias_obstacle
from ..schedule.rewrite import accesses, describe, is_reduction, replace_buffer, uses_any
from .join import join_kernels
from .nests import (
    PARALLEL_WORK,
    collapse,
    drop_unit_loops,
    fuse_outer,
    is_empty,
    lanes_for,
    parallel_top,
    part,
    reduce_loops,
    size_of,
    stores_of,
    vector_loops,
    work,
)

SHORT_ROW = 8  # vectors of a row that is kept in registers
SEVERAL = 4  # vectors of a longer row at once


def schedule_rows(kernel: Kernel, machine: Machine) -> Kernel:
    """The kernel of a group, scheduled.  kernel: the naive nests one after the other, temporaries declared first.

    Row loops are the leading loops over kept axes that all nests have with equal extents.
    """
    if is_empty(kernel):
        return kernel
    kernel = legalize_math(drop_unit_loops(kernel), machine)
    heavy = work(kernel.body) >= PARALLEL_WORK
    kernel, rows = _align(kernel)
    for r in rows:
        kernel = merge(kernel, r, 0)
    if any(len(loops(kernel, r)) != 1 for r in rows):
        return _in_order(kernel)
    kernel, inner = _merge_passes(kernel)
    for name in inner:
        kernel = invert_divisors(kernel, name)
    lanes = lanes_for(stores_of(kernel.body), machine)
    kernel = _place_temporaries(kernel, rows, inner, lanes, machine)
    row_size = prod(size_of(loops(kernel, n)[0].var.extent) for n in inner)
    static = all(isinstance(loops(kernel, r)[0].var.extent, int) for r in rows)
    if rows and static and row_size <= lanes // 2:
        kernel = _one_row_per_lane(kernel, rows, inner, lanes)
    else:
        kernel, rows = fuse_outer(_vectors_along_row(kernel, inner, lanes), rows)
    if machine.fma:
        kernel = fma_contract(kernel)
    return parallel_top(kernel) if heavy and rows else kernel


# ---- loops -------------------------------------------------------------------------------------------------------


def _chain(s: Stmt) -> list[For]:
    """The loops over kept axes of a nest, outermost first."""
    found: list[For] = []
    while isinstance(s, For) and not is_reduction(s):
        found.append(s)
        if len(s.body) != 1:
            break
        s = s.body[0]
    return found


def _align(kernel: Kernel) -> tuple[Kernel, list[str]]:
    """Name the loops of all nests by position: row0, row1, ... for the shared ones, then c0, c1, ...

    Gives the names of the row loops; there are none where a nest has no loops over kept axes.
    """
    nests = [s for s in kernel.body if not isinstance(s, Alloc)]
    chains = [[f.var.extent for f in _chain(s)] for s in nests]
    shared = 0
    while all(len(c) > shared for c in chains) and len({c[shared] for c in chains}) == 1:
        shared += 1
    extents: dict[int, object] = {}

    def rename(block: Block, depth: int) -> Block:
        out: list[Stmt] = []
        for s in block:
            if isinstance(s, For):
                n = s.var.extent
                same = extents.setdefault(depth, n) == n
                name = f"row{depth}" if depth < shared else f"c{depth - shared}" + ("" if same else f"_{n}")
                v = axis(name, n)  # type: ignore[arg-type]
                s = replace(s, var=v, body=rename(substitute_block(s.body, {s.var: v}), depth + 1))
            out.append(s)
        return tuple(out)

    return replace(kernel, body=rename(kernel.body, 0)), [f"row{d}" for d in range(shared)]


def _merge_passes(kernel: Kernel) -> tuple[Kernel, list[str]]:
    """Merge the loops along the row, then join its axes into as few as possible; gives their names."""
    names = sorted({s.var.name for s in walk_block(kernel.body) if isinstance(s, For) and s.var.name.startswith("c")})
    for name in names:
        kernel = merge(kernel, name, 0)
    nested = all(describe(s.body) == f"loop {b}" for a, b in pairwise(names) for s in loops(kernel, a))
    return collapse(kernel, names) if nested else (kernel, names)


# ---- temporaries -------------------------------------------------------------------------------------------------


def _place_temporaries(kernel: Kernel, rows: list[str], inner: list[str], lanes: int, machine: Machine) -> Kernel:
    """Reduced values go to registers; row-wide ones to registers, into the output, or to scratch memory."""
    changing = [s.var for s in walk_block(kernel.body) if isinstance(s, For) and s.var.name not in rows]
    budget = min(SHORT_ROW, machine.vector_registers // 4)  # vectors of rows in registers
    for buf in _temporaries(kernel):
        drop = _fixed_dimensions(kernel, buf, changing)
        vectors = -(-prod(size_of(d) for d in buf.shape[drop:]) // lanes)
        if drop == len(buf.shape):
            kernel = _in_row(kernel, buf, rows, "register", drop)
        elif len(inner) == 1 and vectors <= budget:
            kernel = _in_row(kernel, buf, rows, "register", drop)
            budget -= vectors
        else:
            home = next((p.name for p in kernel.buffers if not alias_obstacle(kernel, buf, p)), None)
            kernel = alias(kernel, buf.name, home) if home else _in_row(kernel, buf, rows, "stack", drop)
    return kernel


def _temporaries(kernel: Kernel) -> list[Buffer]:
    return [s.buf for s in kernel.body if isinstance(s, Alloc) and s.buf.space == "global"]


def _fixed_dimensions(kernel: Kernel, buf: Buffer, changing: list[Var]) -> int:
    """How many leading dimensions have one index for the whole row."""
    found = [a.idx for a in accesses(kernel.body) if a.buf == buf]
    count = 0
    for same in zip(*found, strict=True):
        if len(set(same)) > 1 or uses_any(same[:1], changing):
            break
        count += 1
    return count


def _in_row(kernel: Kernel, buf: Buffer, rows: list[str], space: str, drop: int) -> Kernel:
    """The temporary inside the innermost row loop, without its first dimensions."""
    if rows:
        return localize(kernel, buf.name, rows[-1], space, drop)
    return replace_buffer(kernel, buf, replace(buf, shape=buf.shape[drop:], space=space), lambda *idx: idx[drop:])


def _in_order(kernel: Kernel) -> Kernel:
    """Nests that cannot share rows: one after the other, by one thread."""
    for buf in _temporaries(kernel):
        kernel = replace_buffer(kernel, buf, replace(buf, space="stack"), lambda *idx: idx)
    return kernel


# ---- vectors -----------------------------------------------------------------------------------------------------


def _vectors_along_row(kernel: Kernel, inner: list[str], lanes: int) -> Kernel:
    """Vectors along the last axis of the row; a short row is unrolled completely."""
    if not inner:
        return kernel
    name = inner[-1]
    vectors = -(-size_of(loops(kernel, name)[0].var.extent) // lanes)
    several = vectors if vectors <= SHORT_ROW else SEVERAL
    if any(is_reduction(s) for s in loops(kernel, name)):
        return reduce_loops(kernel, name, lanes, several, inner[0] if len(inner) > 1 else "")
    return vector_loops(kernel, name, lanes, several)


def _one_row_per_lane(kernel: Kernel, rows: list[str], inner: list[str], lanes: int) -> Kernel:
    """Vectors across rows that are shorter than half a vector; every temporary gets a lane per row."""
    for n, r in enumerate(rows[1:]):
        kernel = fuse(kernel, rows[0] if n == 0 else "rows", r, "rows")
    row = "rows" if len(rows) > 1 else rows[0]
    count = size_of(loops(kernel, row)[0].var.extent)
    whole = count // lanes * lanes
    kernels = []
    for start, size, width in ((0, whole, lanes), (whole, count - whole, count - whole)):
        if size:
            k = split(part(kernel, row, start, size), row, width, row, "lane")
            k = unroll(sink(k, ["lane"]), *inner)
            for buf in [s.buf for s in walk_block(k.body) if isinstance(s, Alloc) and len(s.buf.shape) > 1]:
                k = swap_axes(k, buf.name, (*range(1, len(buf.shape)), 0))
            kernels.append(vectorize(k, "lane"))
    return join_kernels(kernel.name, kernels)
