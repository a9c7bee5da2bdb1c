"""Which products are halved, in blocks of how many rows, and what that is expected to cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...ir.compute import Compute
from ...ir.dims import multiply_dims, symbols
from ...ir.expr import as_expr, binary
from ...ir.kernel import coefficient
from ...ir.types import Dim
from ..machine import Machine
from ..sizing import Symbol, evaluate
from .axes import extents, size_of
from .choices import BY_MODEL, Choice
from .open_axes import typical
from .product import Product, find_product
from .scheduled import Group
from .strassen_weights import PRODUCTS
from .tiles import Tile, tile_costs

SMALLEST = 128  # of rows, columns and reduction: below, the additions cost more than an eighth of the product
BLOCK_ROWS = (32, 112)  # rows of a block of one half, so that P and V stay in the second-level cache
GATHER, COMBINE = 20.0, 20.0  # cycles per vector of a quarter, measured: four loads and seven stores; seven loads, four stores
PARTS = (2, 3)  # blocks of the rows of a product whose columns threads share, too; two are best for two threads
GROUPS = (1, 2, 3, 4)  # panels of one group
STREAM = 9.0  # bytes per cycle of weights from beyond the second-level cache
GAIN, SMALL_GAIN = 0.945, 0.93  # of the direct product's cycles, at most
SMALL = 40e6  # multiply-adds of a product in which two threads lose more by sharing the sums than one gains
ROWS_GAIN = 1.0  # where threads have rows of their own, which stay in their caches from layer to layer
ROWS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024, 2048, 4096)
"""Where the cost model is asked from how many rows on halving pays."""


@dataclass(frozen=True)
class Plan:
    """rows, depth, columns: of a quarter, rows rounded up.  total: rows of the output.  block: rows of a quarter that are
    handled together.  tile: of the seven products.  group: panels of columns that are handled together.  most: rows of a
    block at most.  parts: of the weights, see `HalvedWeights`.  shared: threads share the columns of a block."""

    rows: Dim
    depth: int
    columns: int
    total: Dim
    block: Dim
    most: int
    tile: Tile
    group: int
    lanes: int
    parts: int
    shared: bool = True

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.tile.vectors * self.lanes

    @property
    def span(self) -> int:
        """Columns of a group."""
        return self.group * self.width

    @property
    def groups(self) -> int:
        return self.columns // self.span


def halved_product(group: Group, c: Compute, machine: Machine) -> Product | None:
    """The product, if its form allows this scheme: f32, a constant on the right, one axis of reduction.  How many rows there
    are may be open."""
    p = find_product(c)
    if p is None or p.batch or len(p.reduce) != 1 or p.right.buf.name not in group.constants:
        return None
    if {p.left.type.dtype, p.right.type.dtype, p.compute.acc} != {"f32"}:
        return None
    k, n, lanes = p.reduce[0], p.columns, machine.lanes("f32")
    if not isinstance(k.extent, int) or not isinstance(n.extent, int):
        return None
    if k.extent < 2 or k.extent % 2 or n.extent % (2 * lanes):
        return None
    steps = (coefficient(p.left.buf, p.left.idx, k), coefficient(p.compute.out, p.compute.out_index, n))
    return p if steps == (1, 1) else None


def rows_of(p: Product) -> Dim:
    """How many rows a product has, over all axes of rows."""
    return multiply_dims(extents(p.rows))


def is_worth_halving(p: Product, machine: Machine, rows: int | None = None, choice: Choice = BY_MODEL) -> bool:
    """Whether the cost model expects a gain, with so many rows.  Requires `halved_product`."""
    total = rows_of(p) if rows is None else rows
    assert isinstance(total, int)
    depth, columns = size_of(p.reduce[0]), size_of(p.columns)
    if min(depth, columns) < SMALLEST or total < SMALLEST // 4:
        return False
    direct = min(cycles for cycles, _ in tile_costs(min(total, 4096), columns, depth, machine.lanes("f32"), machine))
    direct *= max(1.0, total / 4096)
    plan, multiply = _plan(p, total, machine, choice)
    assert isinstance(plan.rows, int) and isinstance(plan.block, int)
    blocks = -(-plan.rows // plan.block)
    vectors = plan.rows * (plan.depth * GATHER + plan.columns * COMBINE) / plan.lanes
    weights = PRODUCTS * plan.depth * plan.columns * 4
    stream = blocks * weights / STREAM if weights > machine.l2 / 2 else 0.0
    gain = ROWS_GAIN if plan.shared and blocks > 1 else SMALL_GAIN if total * depth * columns < SMALL else GAIN
    return max(multiply, 1.8 * stream) + vectors < gain * direct


def rows_worth_halving(p: Product, machine: Machine, choice: Choice = BY_MODEL) -> int | None:
    """The least number of rows from which on the cost model expects a gain; None if it never does."""
    worth = [is_worth_halving(p, machine, n, choice) for n in ROWS]
    if not worth[-1]:
        return None
    return ROWS[next((n + 1 for n in reversed(range(len(ROWS))) if not worth[n]), 0)]


def row_range(p: Product, found: tuple[Symbol, ...]) -> tuple[int, int | None, int]:
    """The least, the largest (None: unbounded) and a typical number of rows of a product with open rows."""
    rows = rows_of(p)
    by_var = {s.var: s for s in found}
    used = [by_var.get(v, Symbol(v)) for v in symbols([rows])]
    low = evaluate(rows, {s.var: s.low for s in used})
    highs = {s.var: s.high for s in used if s.high is not None}
    return low, evaluate(rows, highs) if len(highs) == len(used) else None, typical(rows, found)


def plan_halves(p: Product, machine: Machine, choice: Choice, parts: int) -> Plan:
    """Of a product whose rows are known."""
    total = rows_of(p)
    assert isinstance(total, int)
    return replace(_plan(p, total, machine, choice)[0], parts=parts)


def plan_open_halves(p: Product, machine: Machine, choice: Choice, parts: int) -> Plan:
    """Of a product with open rows: blocks of nearly equal size, at most the largest of `BLOCK_ROWS`, which threads share."""
    most = BLOCK_ROWS[1]
    plan, _ = _plan(p, 2 * most, machine, choice)
    total = as_expr(rows_of(p))
    half = (total + 1) / 2
    block = (half + (blocks_of(half, most) - 1)) / blocks_of(half, most)
    return replace(plan, rows=half, total=total, block=block, most=most, parts=parts)


def blocks_of(half: Dim, most: int) -> Dim:
    """Blocks of at most so many rows, at least one."""
    return binary("max", (half + (most - 1)) / most, 1)  # type: ignore[operator]


def _plan(p: Product, total: int, machine: Machine, choice: Choice) -> tuple[Plan, float]:
    """(the plan, cycles of the seven products)"""
    lanes = machine.lanes("f32")
    rows, depth, columns = -(-total // 2), size_of(p.reduce[0]) // 2, size_of(p.columns) // 2
    low, high = BLOCK_ROWS
    blocks = [n for n in range(low, high + 1) if rows % n == 0] if rows >= 2 * low and rows > high else []
    block = max(blocks, default=-(-rows // _parts(total, PRODUCTS * depth * columns * 4, machine)))
    costs = list(tiles_of_columns(block, columns, depth, lanes, machine))
    fixed = (choice.panel or 0) // lanes
    costs = [(cycles, t) for cycles, t in costs if t.vectors == fixed] or costs
    cycles, best = min(costs, key=lambda cost: cost[0])
    tile = choice.tile(machine)
    if tile is not None and columns % (tile.vectors * lanes) == 0:
        best = tile
    panels, shared, count = columns // (best.vectors * lanes), not blocks, -(-rows // block)
    size = PRODUCTS * block * best.vectors * lanes * 4  # of P for one panel
    fits = [g for g in GROUPS if panels % g == 0 and g * size <= machine.l2 // 2]
    if shared:  # parts of the rows that take turns with one group's weights, which stay in the cache best if they are few
        fits = [g for g in fits if panels // g >= 8 or panels // g % 4 == 0] if count == 1 else []
    plan = Plan(rows, depth, columns, total, block, block, best, max(fits, default=1), lanes, PRODUCTS, shared)
    return plan, PRODUCTS * cycles * count


def _parts(total: int, weights: int, machine: Machine) -> int:
    """How many blocks rows become that threads share with the columns.  Rows that are computed for nothing cost more than
    lines that change owner where weights come from beyond the second-level cache."""
    parts = [n for n in PARTS if total >= 2 * n * BLOCK_ROWS[0] - 1]
    if weights <= 2 * machine.l2:
        parts = parts[:1]
    return min(parts, key=lambda n: n * -(-total // (2 * n)), default=1)


def tiles_of_columns(rows: int, columns: int, depth: int, lanes: int, machine: Machine) -> Iterator[tuple[float, Tile]]:
    """Expected cycles of tiles whose panels divide the columns."""
    for cycles, tile in tile_costs(rows, columns, depth, lanes, machine):
        if columns % (tile.vectors * lanes) == 0:
            yield cycles, tile
