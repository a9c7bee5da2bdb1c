"""Maps: one pure computation per element, of any rank, strides and index maps.

Vectors run along the axis that costs least: where the output and most operands are contiguous.  If output and operands
are contiguous along different axes, square tiles are transposed in registers.  Threads share the outer axes.
"""

from __future__ import annotations

from math import prod

from ...ir.expr import Var
from ...ir.kernel import For, Kernel, Store, coefficient
from ..machine import Machine
from ..math import legalize_math
from ..schedule import reorder, split, transpose_tile, unroll
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
    several_vectors,
    size_of,
    vector_cost,
    vector_loops,
    work,
)
from .words import schedule_words

NARROW_TILE = 16  # the smallest side of a tile that is only a part of a vector
FEW_ROWS = 16  # outer iterations below which threads share the vector axis instead


def schedule_map(kernel: Kernel, machine: Machine) -> Kernel:
    """The kernel of one map, scheduled.  kernel: a perfect nest of parallel loops around one store."""
    if is_empty(kernel):
        return kernel
    kernel = drop_unit_loops(legalize_math(kernel, machine))
    heavy = work(kernel.body) >= PARALLEL_WORK
    loops, _ = perfect_loops(kernel.body)
    if loops:
        kernel, _ = collapse(kernel, [f.var.name for f in loops])
        kernel = _schedule_nest(kernel, machine)
    return parallel_top(kernel) if heavy else kernel


def _schedule_nest(kernel: Kernel, machine: Machine) -> Kernel:
    words = schedule_words(kernel, machine.lanes("i32"))
    if words is not None:
        return words
    loops, body = perfect_loops(kernel.body)
    (store,) = body
    assert isinstance(store, Store)
    lanes = lanes_for([store], machine)
    found = memory_accesses(body)
    costs = {f.var: vector_cost(found, f.var, lanes) for f in reversed(loops)}
    vector = min(costs, key=lambda v: costs[v])
    sizes = _tile_sizes(lanes, machine)
    tile = next((t for size in sizes if (t := _transposed(store, loops, size, costs[vector])) is not None), None)
    names = [f.var.name for f in loops]
    if tile is not None:
        return _tiles(kernel, names, tile[0].name, tile[1].name, tile[2])
    outer = [n for n in names if n != vector.name]
    rows = prod(size_of(f.var.extent) for f in loops if f.var is not vector)
    several = several_vectors([store])
    if all(access_cost(a, vector, lanes) >= lanes for a in found):
        return fuse_outer(kernel, names)[0]  # nothing is contiguous anywhere: scalars
    if rows < FEW_ROWS and size_of(vector.extent) >= 2 * lanes * several and isinstance(vector.extent, int):
        return _long_rows(kernel, names, vector.name, vector.extent, lanes, several)
    kernel = reorder(kernel, names, [*outer, vector.name]) if names[-1] != vector.name else kernel
    if outer:
        kernel, outer = fuse_outer(kernel, outer)
        kernel = _several_rows(kernel, outer[-1], vector, lanes, several)
    return vector_loops(kernel, vector.name, lanes, several)


def _several_rows(kernel: Kernel, inner: str, vector: Var, lanes: int, several: int) -> Kernel:
    """Unroll the loop around the vectors where a row is only one or two vectors."""
    n = next(f.var.extent for f in perfect_loops(kernel.body)[0] if f.var.name == inner)
    rows = several * lanes // size_of(vector.extent)
    if rows > 1 and isinstance(n, int):
        rows = max(r for r in range(1, rows + 1) if n % r == 0)
        if 1 < rows < n:
            kernel = unroll(split(kernel, inner, rows, inner, f"{inner}_u"), f"{inner}_u")
    return kernel


def _long_rows(kernel: Kernel, names: list[str], vector: str, n: int, lanes: int, several: int) -> Kernel:
    """Blocks of vectors outermost, so that threads share them; the rest of the axis is a nest of its own."""
    outer = [m for m in names if m != vector]
    block = lanes * several
    main = part(kernel, vector, 0, n // block * block)
    main = split(reorder(main, names, [vector, *outer]), vector, block, "blocks", vector)
    if outer:
        main = reorder(main, ["blocks", vector, *outer], ["blocks", *outer, vector])
    kernels = [vector_loops(main, vector, lanes, several)]
    if n % block:
        rest = reorder(part(kernel, vector, n // block * block, n % block), names, [*outer, vector])
        kernels.append(vector_loops(rest, vector, lanes, several))
    return join_kernels(kernel.name, kernels)


# ---- transposition -----------------------------------------------------------------------------------------------


def _tile_sizes(lanes: int, machine: Machine) -> tuple[int, ...]:
    """Sides of tiles, the best first: a whole vector, or for narrow elements a part of one that the registers hold."""
    whole = 1 << (lanes.bit_length() - 1)
    most = min(whole, machine.vector_registers)
    return (most, *(n for n in (32, NARROW_TILE) if n < most)) if whole > NARROW_TILE else (whole,)


def _transposed(store: Store, loops: list[For], size: int, best: float) -> tuple[Var, Var, int] | None:
    """(axis contiguous in the output, axis contiguous in the operands, tile) if transposing in registers pays."""
    long = [f.var for f in loops if size_of(f.var.extent) >= size and isinstance(f.var.extent, int)]
    written = [v for v in long if coefficient(store.buf, store.idx, v) == 1]
    if not written or size < 4:
        return None
    reads = [a for a in memory_accesses((store,)) if not a.writes]
    found: tuple[float, Var] | None = None
    for v in long:
        contiguous = any(coefficient(a.buf, a.idx, v) == 1 for a in reads)
        if v is written[0] or not contiguous:
            continue
        cost = 1.0 + size.bit_length() + sum(access_cost(a, v, size) for a in reads)
        if found is None or cost < found[0]:
            found = cost, v
    if found is None or found[0] >= best:
        return None
    return written[0], found[1], size


def _tiles(kernel: Kernel, names: list[str], i: str, j: str, size: int) -> Kernel:
    """Square tiles of the axes i (contiguous in the output) and j (in the operands), then strips of what is left."""
    extents = {f.var.name: size_of(f.var.extent) for f in perfect_loops(kernel.body)[0]}
    whole_i, whole_j = extents[i] // size * size, extents[j] // size * size
    kernels = [_whole_tiles(part(part(kernel, i, 0, whole_i), j, 0, whole_j), names, i, j, size)]
    if whole_j < extents[j]:
        strip = part(part(kernel, i, 0, whole_i), j, whole_j, extents[j] - whole_j)
        kernels.append(_strip(strip, names, i, size))
    if whole_i < extents[i]:
        kernels.append(_strip(part(kernel, i, whole_i, extents[i] - whole_i), names, i, size))
    return join_kernels(kernel.name, kernels)


def _whole_tiles(kernel: Kernel, names: list[str], i: str, j: str, size: int) -> Kernel:
    outer = [n for n in names if n not in (i, j)]
    rows = prod(size_of(f.var.extent) for f in perfect_loops(kernel.body)[0] if f.var.name in outer)
    kernel = split(kernel, i, size, f"{i}b", f"{i}i")
    kernel = split(kernel, j, size, f"{j}b", f"{j}i")
    nest = [m for n in names for m in ([f"{n}b", f"{n}i"] if n in (i, j) else [n])]
    around = [f"{j}b", *outer] if rows < FEW_ROWS else [*outer, f"{j}b"]
    kernel = reorder(kernel, nest, [*around, f"{i}b", f"{i}i", f"{j}i"])  # along i rows are written one after the other
    return transpose_tile(kernel, f"{i}i", f"{j}i")


def _strip(kernel: Kernel, names: list[str], vector: str, lanes: int) -> Kernel:
    outer = [n for n in names if n != vector]
    return vector_loops(reorder(kernel, names, [*outer, vector]), vector, lanes, 1)
