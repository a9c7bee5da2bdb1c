"""What can be chosen for a group: the search space of tuning, near what the cost models find good.

Only numbers that change the speed and not the meaning; those that would share the work of a product less evenly among
threads are left out afterwards, by `imbalance` of the kernel they give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ...ir.compute import Compute
from ...ir.kernel import Block, For, If, Kernel
from ..machine import Machine
from .axes import size_of, without_empty_sum
from .choices import Choice
from .contract_threads import CHUNKS
from .product import Product, find_product, grouped, operands
from .scheduled import Group
from .select import SKINNY
from .sparse_choice import block_heights
from .strassen_plan import halved_product
from .tiles import fits, tile_costs
from .winograd_plan import SMALLEST_CHANNELS, is_transformable

NEAR, MOST_TILES = 1.35, 24  # tiles whose expected cost is at most so many times the best one, and how many of them
UNROLLS = (1, 2, 3, 4, 5, 6, 7, 8)
INNER_TILES = ((8, 3), (6, 4), (12, 2), (13, 2), (5, 4), (7, 3), (9, 2), (4, 5), (4, 3), (6, 2), (4, 2))
BLOCKS = (None, 32, 128, 256)
THREADS = (2, 3, 4, 8)  # numbers of threads for which the work must stay as evenly shared as it was
Suggest = Callable[[str, Sequence[Any]], Any]
"""(name, possible values) -> one of them."""


@dataclass(frozen=True)
class Space:
    """sides: of Winograd tiles; 0 is the direct product.  tiles ("ROWSxVECTORS"), chunks, unrolls: of the direct product;
    inner_tiles, inner_unrolls: of the product in Winograd's domain.  halved: whether large products may be seven of half the
    size.  sparse: of a constant with zeros, heights of its blocks and 0 for the dense kernel.  None in them: by the cost
    model."""

    sides: tuple[int, ...]
    tiles: tuple[str | None, ...]
    chunks: tuple[int | None, ...]
    unrolls: tuple[int | None, ...]
    inner_tiles: tuple[str | None, ...]
    inner_unrolls: tuple[int | None, ...]
    halved: tuple[int | None, ...] = (None,)
    sparse: tuple[int | None, ...] = (None,)

    def choose(self, suggest: Suggest) -> Choice:
        """One choice; the names that are asked for depend on the answers."""
        if len(self.sparse) > 1:
            height = suggest("sparse", self.sparse)
            return replace(self._dense(suggest), sparse=0) if height == 0 else Choice(sparse=height)
        return self._dense(suggest)

    def _dense(self, suggest: Suggest) -> Choice:
        winograd = suggest("winograd", self.sides) if len(self.sides) > 1 else None
        if winograd:
            rows, vectors = _sizes(suggest("inner tile", self.inner_tiles))
            unroll, block = suggest("inner unroll", self.inner_unrolls), suggest("block", BLOCKS)
            return Choice(rows, vectors, None, unroll, winograd, block)
        if len(self.halved) > 1 and suggest("halved", self.halved):
            rows, vectors = _sizes(suggest("inner tile", self.inner_tiles))
            return Choice(rows, vectors, None, suggest("inner unroll", self.inner_unrolls), winograd, None, 1)
        rows, vectors = _sizes(suggest("tile", self.tiles))
        return Choice(rows, vectors, suggest("chunks", self.chunks), suggest("unroll", self.unrolls), winograd,
                      halved=0 if len(self.halved) > 1 else None)


def _sizes(tile: str | None) -> tuple[int | None, int | None]:
    if tile is None:
        return None, None
    rows, _, vectors = tile.partition("x")
    return int(rows), int(vectors)


def space_of(group: Group, machine: Machine, accuracy: str) -> Space | None:
    """The choices of a group, or None where there are none."""
    if group.op is not None or group.kind == "border" or len(group.computes) != 1:
        return None
    c = without_empty_sum(group.computes[0])
    p = None if c.is_map else find_product(c)
    if p is None or not isinstance(p.columns.extent, int) or p.columns.extent < SKINNY:
        return None
    p = grouped(p, machine)
    sides = (0, 2, 4) if _may_transform(group, c, accuracy) else (0,)
    depth = size_of(p.reduce[-1]) if p.reduce else 1
    unrolls = (None, *(u for u in UNROLLS if depth % u == 0))
    halves = accuracy != "strict" and halved_product(group, c, machine) is not None
    inner_depth = size_of(c.reduce[-1]) if len(sides) > 1 else depth // 2 if halves else 0
    inner = (None, *(u for u in UNROLLS if inner_depth and inner_depth % u == 0))
    inner_tiles = (None, *(f"{r}x{v}" for r, v in INNER_TILES if inner_depth and fits(r, v, machine.vector_registers)))
    sparse = (None,) if group.sparse is None else (0, *block_heights(group.sparse, machine))
    return Space(sides, _tiles(p, machine), _chunks(p), unrolls, inner_tiles, inner, (0, 1) if halves else (None,), sparse)


def _may_transform(group: Group, c: Compute, accuracy: str) -> bool:
    pair = operands(c)
    if accuracy == "strict" or pair is None or pair[1].buf.name not in group.constants or not is_transformable(c):
        return False
    return min(size_of(c.reduce[2]), size_of(c.axes[3])) >= SMALLEST_CHANNELS


def _tiles(p: Product, machine: Machine) -> tuple[str | None, ...]:
    rows = size_of(p.rows[-1]) if p.rows else 1
    if len(p.rows) > 1:
        rows = max(rows, min(prod(size_of(v) for v in p.rows[-2:]), 14))
    depth = prod(size_of(v) for v in p.reduce)
    costs = list(tile_costs(min(rows, 4096), size_of(p.columns), depth, machine.lanes(p.compute.acc), machine))
    best = min(cost for cost, _ in costs)
    near = sorted((cost, t.rows, t.vectors) for cost, t in costs if cost <= NEAR * best)[:MOST_TILES]
    return (None, *(f"{r}x{v}" for _, r, v in near))


def _chunks(p: Product) -> tuple[int | None, ...]:
    if not p.rows:
        return (None,)
    count = size_of(p.rows[0])
    return (None, *sorted({1, *(n for n in (*CHUNKS, 12, 14, 16, 24, 28, 32) if count % n == 0)}))


def imbalance(kernel: Kernel) -> tuple[float, ...]:
    """For each number of `THREADS`: the longest thread's iterations over an equal share of them, 1 at the best."""
    loops = list(_parallel(kernel.body, 1))
    total = sum(work for _, work in loops) or 1
    return tuple(sum(-(-extent // n) * n / extent * work for extent, work in loops) / total for n in THREADS)


def _parallel(block: Block, times: int) -> list[tuple[int, int]]:
    """(extent, statements that are executed) of every parallel loop."""
    found: list[tuple[int, int]] = []
    for s in block:
        if isinstance(s, For) and s.kind == "parallel":
            found.append((size_of(s.var), times * _work((s,))))
        elif isinstance(s, For):
            found += _parallel(s.body, times * size_of(s.var))
    return [f for f in found if f[0]]


def _work(block: Block) -> int:
    total = 0
    for s in block:
        if isinstance(s, For):
            times = s.var.extent if isinstance(s.var.extent, int) else 1  # a sparse product's loop over blocks
            total += times * _work(s.body)
        elif isinstance(s, If):
            total += max(_work(s.then), _work(s.other))
        else:
            total += 1
    return total
