"""The register tile of a product: a small cost model of the inner loop.

A tile of `rows` x `vectors` accumulators does rows * vectors multiply-adds per step of the reduction, loads `vectors`
vectors of the right operand and broadcasts `rows` scalars of the left.  Two of each per cycle; a multiply-add has a
latency of four cycles, so at least eight accumulators are needed to keep both units busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..machine import Machine

STEP_OVERHEAD = 0.06  # cycles per step: loop control and prefetch, spread over the unrolled steps
LOAD_PRESSURE = 0.08  # cycles per load: what prefetches and late cache lines cost when the load units are busy
STREAM_PRESSURE = 0.1  # cycles per vector that comes from the second-level cache
TALL_PRESSURE = 0.15  # cycles per row beyond eight while a panel streams: tall tiles fell back 10 % on cold weights
TILE_OVERHEAD = 10.0  # cycles per tile: clearing and storing the accumulators, loop edges
PANEL_LOSS = 0.05  # of the time of a product, for weights that several programs share


@dataclass(frozen=True)
class Tile:
    rows: int
    vectors: int


def fits(rows: int, vectors: int, registers: int) -> bool:
    """Accumulators, one step of the right operand, a broadcast, and what LLVM keeps beside them without spilling."""
    return rows * vectors + vectors + (3 if registers >= 32 else 2) <= registers


@cache
def tile_cycles(rows: int, vectors: int, depth: int, registers: int, resident: bool) -> float:
    """Cycles of one tile over `depth` steps; infinite if the accumulators do not fit in the registers.  resident: the
    panel of the right operand stays in the first-level cache; otherwise its vectors come from the second level."""
    if not fits(rows, vectors, registers):
        return float("inf")
    multiply = rows * vectors / 2
    loads = (rows + vectors) / 2
    stream = 0.0 if resident else float(vectors)
    step = max(multiply, loads, 4.0, stream * 1.05) + STEP_OVERHEAD + LOAD_PRESSURE * loads + STREAM_PRESSURE * stream
    if not resident:
        step += TALL_PRESSURE * max(0, rows - 8)
    return step * depth + TILE_OVERHEAD + rows * vectors


def spread(total: int, most: int) -> list[tuple[int, int]]:
    """(size, count) of nearly equal parts of at most `most`."""
    count = -(-total // most)
    size, larger = divmod(total, count)
    return [(s, c) for s, c in ((size + 1, larger), (size, count - larger)) if c and s]


def choose_tile(
    rows: int, columns: int, depth: int, lanes: int, machine: Machine, element: int = 4, *, vectors: int = 0
) -> Tile:
    """The cheapest tile for a product of this many rows, columns and reduction steps.  lanes: elements per vector.
    vectors: the number that is wanted; the cheapest tile with it, if it costs at most PANEL_LOSS more than the best."""
    best: tuple[float, Tile] | None = None
    wanted: tuple[float, Tile] | None = None
    for cycles, tile in tile_costs(rows, columns, depth, lanes, machine, element):
        if best is None or cycles < best[0] * 0.998:
            best = cycles, tile
        if tile.vectors == vectors and (wanted is None or cycles < wanted[0] * 0.998):
            wanted = cycles, tile
    assert best is not None
    return wanted[1] if wanted is not None and wanted[0] <= best[0] * (1 + PANEL_LOSS) else best[1]


def tile_costs(
    rows: int, columns: int, depth: int, lanes: int, machine: Machine, element: int = 4
) -> Iterator[tuple[float, Tile]]:
    """Expected cycles of every tile that fits."""
    width = -(-columns // lanes)
    for vectors in range(1, min(width, 16) + 1):
        panel = vectors * lanes * depth * element
        for most in range(1, 29):
            if most > rows or not fits(most, vectors, machine.vector_registers):
                break
            resident = panel <= machine.l1 * 0.6
            panels = [(vectors, width // vectors)] + ([(width % vectors, 1)] if width % vectors else [])
            cycles = sum(
                count * n * tile_cycles(size, v, depth, machine.vector_registers, resident)
                for size, count in spread(rows, most)
                for v, n in panels
                if n
            )
            yield cycles, Tile(most, vectors)
