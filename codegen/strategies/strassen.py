"""Large products with seven products of half the size for eight: one level of Strassen's scheme in Winograd's form.

    V[s] = the seven combinations of the quarters of the left operand
    P[s] = V[s] U[s], U: those of the constant right operand, made at compile time (1.75 times its size)
    y    = sums of the P, finished

The rows of a quarter are those of one half of the matrix; with an odd number of rows the last one is read twice, and what
it gives the second time is not stored.  P is scratch memory of a few panels of columns, small enough for the cache: the
panels of one combination follow each other, and read its V from the cache.  With many rows each thread takes blocks of them
through everything; with few, the threads share the columns, and each has a V of its own: one that all write and read
costs two cores on different dies more than making it twice.
Source: S. Winograd, "On multiplication of 2 x 2 matrices", 1971.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...ir.compute import Compute
from ...ir.expr import Expr, as_expr, binary, load
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Store, axis, coefficient
from ...ir.traverse import substitute
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, vectorize
from ..schedule.rewrite import has_loop, replace_accesses
from .axes import size_of
from .contract import schedule_product
from .product import Product, find_product
from .scheduled import Group, Pack, Scheduled
from .tiles import Tile, tile_costs
from .winograd import LINE, channel_loops, finished, on_buffers

PRODUCTS = 7
SMALLEST = 128  # of rows, columns and reduction: below, the additions cost more than an eighth of the product
BLOCK_ROWS = (32, 112)  # rows of a block of one half, so that P and V stay in the second-level cache
GATHER, COMBINE = 20.0, 20.0  # cycles per vector of a quarter, measured: four loads and seven stores; seven loads, four stores
GROUPS = (1, 2, 3, 4)  # panels of one group
STREAM = 9.0  # bytes per cycle of weights from beyond the second-level cache
GAIN = 0.945  # of the direct product's cycles, at most


def left_combinations(a11: Expr, a12: Expr, a21: Expr, a22: Expr) -> tuple[Expr, ...]:
    s1 = a21 + a22
    s2 = s1 - a11
    return a11, a12, a12 - s2, a22, s1, s2, a11 - a21


def right_combinations(b11: Expr, b12: Expr, b21: Expr, b22: Expr) -> tuple[Expr, ...]:
    t1 = b12 - b11
    t2 = b22 - t1
    return b11, b21, b22, t2 - b21, t1, t2, b22 - b12


def quarters(p1: Expr, p2: Expr, p3: Expr, p4: Expr, p5: Expr, p6: Expr, p7: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """The quarters of the output: upper left, upper right, lower left, lower right."""
    u2 = p1 + p6
    u3 = u2 + p7
    return p1 + p2, u2 + p5 + p3, u3 - p4, u3 + p5


@dataclass(frozen=True)
class HalvedWeights:
    """The seven combinations of a constant.  matrix: where its [reduction, columns] lie in the source."""

    matrix: Pack

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """[7, reduction / 2, columns / 2] in f32; computed in f64, rounded once."""
        w = self.matrix.apply(array).astype(np.float64)
        k, n = w.shape[0] // 2, w.shape[1] // 2
        made = right_combinations(w[:k, :n], w[:k, n:], w[k:, :n], w[k:, n:])  # type: ignore[arg-type]  # arrays add, too
        return np.stack([np.asarray(m) for m in made]).astype(np.float32)

    def at(self, k: Expr, n: Expr) -> tuple[Expr, ...]:
        """The index of an element of the matrix in the source."""
        down, right = self.matrix.steps
        return tuple(o + k * i + n * j for o, i, j in zip(self.matrix.origin, down, right, strict=True))


@dataclass(frozen=True)
class _Plan:
    """rows, depth, columns: of a quarter, rows rounded up.  total: rows of the output.  block: rows of a quarter that are
    handled together.  tile: of the seven products.  group: panels of columns that are handled together."""

    rows: int
    depth: int
    columns: int
    total: int
    block: int
    tile: Tile
    group: int
    lanes: int

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
    """The product, if its form allows this scheme: f32, a constant on the right, one axis each of rows and reduction."""
    p = find_product(c)
    if p is None or p.batch or len(p.rows) != 1 or len(p.reduce) != 1 or p.right.buf.name not in group.constants:
        return None
    if {p.left.type.dtype, p.right.type.dtype, p.compute.acc} != {"f32"} or not isinstance(p.rows[0].extent, int):
        return None
    k, n, lanes = p.reduce[0], p.columns, machine.lanes("f32")
    sizes = (size_of(p.rows[0]), size_of(k), size_of(n))
    if min(sizes) < 2 or sizes[1] % 2 or sizes[2] % (2 * lanes):
        return None
    steps = (coefficient(p.left.buf, p.left.idx, k), coefficient(p.compute.out, p.compute.out_index, n))
    return p if steps == (1, 1) else None


def is_worth_halving(p: Product, machine: Machine) -> bool:
    """Whether the cost model expects a gain."""
    sizes = (size_of(p.rows[0]), size_of(p.reduce[0]), size_of(p.columns))
    if min(sizes[1:]) < SMALLEST or sizes[0] < SMALLEST // 4:
        return False
    direct = min(cycles for cycles, _ in tile_costs(min(sizes[0], 4096), sizes[2], sizes[1], machine.lanes("f32"), machine))
    direct *= max(1.0, sizes[0] / 4096)
    plan, multiply = _plan(p, machine)
    blocks = plan.rows // plan.block
    vectors = plan.rows * (plan.depth * GATHER + plan.columns * COMBINE) / plan.lanes
    weights = PRODUCTS * plan.depth * plan.columns * 4
    stream = blocks * weights / STREAM if weights > machine.l2 / 2 else 0.0
    return max(multiply, 1.8 * stream) + vectors < GAIN * direct


def _plan(p: Product, machine: Machine, tile: Tile | None = None) -> tuple[_Plan, float]:
    """(the plan, cycles of the seven products)"""
    lanes, total = machine.lanes("f32"), size_of(p.rows[0])
    rows, depth, columns = -(-total // 2), size_of(p.reduce[0]) // 2, size_of(p.columns) // 2
    low, high = BLOCK_ROWS
    blocks = [n for n in range(low, high + 1) if rows % n == 0] if rows >= 2 * low and rows > high else []
    block = max(blocks, default=rows)
    costs = [
        (cycles, t) for cycles, t in tile_costs(block, columns, depth, lanes, machine) if columns % (t.vectors * lanes) == 0
    ]
    cycles, best = min(costs, key=lambda cost: cost[0])
    if tile is not None and columns % (tile.vectors * lanes) == 0:
        best = tile
    panels, shared = columns // (best.vectors * lanes), block == rows
    size = PRODUCTS * block * best.vectors * lanes * 4  # of P for one panel
    fits = [g for g in GROUPS if panels % g == 0 and g * size <= machine.l2 // 2]
    even = [g for g in fits if panels // g >= 8 or panels // g % 4 == 0] if shared else fits
    plan = _Plan(rows, depth, columns, total, block, best, max(even, default=1), lanes)
    return plan, PRODUCTS * cycles * (rows // block)


def schedule_halved(group: Group, p: Product, machine: Machine) -> Scheduled:
    """p: of `halved_product`."""
    plan, _ = _plan(p, machine, group.choice.tile(machine))
    blocked = plan.block < plan.rows
    v = Buffer("v", "f32", (PRODUCTS, plan.block * plan.depth + LINE), "stack")
    sums = Buffer("sums", "f32", (PRODUCTS, plan.block * plan.span + LINE), "stack")
    weights = Buffer("w0", "f32", (plan.groups, PRODUCTS, plan.group, plan.depth, plan.width))
    product = _products(group, plan, machine)
    gather, combine = axis("t_in", plan.block), axis("t_out", plan.block)

    def columns(first: Expr, no: Expr) -> Block:
        body = on_buffers(product.kernel.body, {"v": v, "sums": sums})
        packed = product.kernel.param("w0")
        body = replace_accesses(body, packed, weights, lambda b, p, k, n: (no, b, p, k, n))
        return (*_serial(body), For(combine, _combine(plan, p, sums, first, combine, no)))

    if blocked:
        share, no = axis("share", plan.rows // plan.block), axis("no", plan.groups)
        first = share * plan.block
        inner = (For(gather, _gather(plan, p, v, first, gather)), For(no, columns(first, no)))
        body: Block = (For(share, (Alloc(v), Alloc(sums), *inner), "parallel"),)
    else:
        share = axis("share", plan.groups)
        zero = as_expr(0)
        body = (Alloc(v), For(gather, _gather(plan, p, v, zero, gather)),
                For(share, (Alloc(sums), *columns(zero, share)), "parallel"))
    kernel = legalize_math(Kernel("halved", (*group.params, weights), body), machine)
    for lane in ("cl", "ct", "ol"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    kernel = fma_contract(kernel) if machine.fma else kernel
    how = f"blocks of {plan.block} row pairs" if blocked else "threads share columns"
    note = f"seven products of half the size, {how}, {plan.group} panels at a time; {product.note}"
    return Scheduled(kernel, (("w0", _weights(plan, p)),), note)


def _products(group: Group, plan: _Plan, machine: Machine) -> Scheduled:
    """P[s, t, n] = sum over k of V[s, t, k] U[s, k, n] for one group of columns."""
    v = Buffer("v", "f32", (PRODUCTS, plan.block * plan.depth + LINE))
    out = Buffer("sums", "f32", (PRODUCTS, plan.block * plan.span + LINE))
    u = Buffer("u", "f32", (PRODUCTS, plan.depth, plan.span))
    b, t, n, k = axis("b", PRODUCTS), axis("t", plan.block), axis("n", plan.span), axis("k", plan.depth)
    c = Compute(out, (b, t, n), v[b, t * plan.depth + k] * u[b, k, n], (k,), "add", index=(b, t * plan.span + n))
    p = find_product(c)
    assert p is not None
    choice = replace(group.choice, rows=plan.tile.rows, vectors=plan.tile.vectors, chunks=1, winograd=None, block=None)
    return schedule_product(Group("product", (c,), (out, v), constants=frozenset(["u"]), choice=choice), p, machine)


def _serial(body: Block) -> Block:
    return tuple(replace(s, kind="serial") if isinstance(s, For) else s for s in body)


def _weights(plan: _Plan, p: Product) -> Pack:
    """[group][product][panel][reduction][columns of the panel] of the combinations."""

    def at(values: dict[Expr, int]) -> tuple[int, ...]:
        mapping: dict[Expr, Expr] = {x: as_expr(values.get(x, 0)) for x in (*p.compute.axes, *p.compute.reduce)}
        return tuple(substitute(i, mapping).value for i in p.right.idx)  # type: ignore[attr-defined]

    origin = at({})
    steps = tuple(
        tuple(b - a for a, b in zip(origin, at({x: 1}), strict=True)) for x in (p.reduce[0], p.columns)
    )
    matrix = Pack(p.right.buf.name, (2 * plan.depth, 2 * plan.columns), origin, steps)
    shape = (plan.groups, PRODUCTS, plan.group, plan.depth, plan.width)
    packed = ((0, 0, plan.span), (1, 0, 0), (0, 0, plan.width), (0, 1, 0), (0, 0, 1))
    return Pack(p.right.buf.name, shape, (0, 0, 0), packed, HalvedWeights(matrix))


def _gather(plan: _Plan, p: Product, v: Buffer, first: Expr, t: Expr) -> Block:
    """V[:, t, :] of one row and its partner in the other half."""
    upper = first + t
    lower = upper + plan.rows
    if plan.total % 2:
        lower = binary("min", lower, plan.total - 1)

    def read(row: Expr, k: Expr) -> Expr:
        mapping: dict[Expr, Expr] = {p.rows[0]: row, p.reduce[0]: k}
        return load(p.left.buf, *(substitute(i, mapping) for i in p.left.idx))

    def body(k: Expr) -> Block:
        parts = [read(row, at) for row in (upper, lower) for at in (k, k + plan.depth)]
        made = left_combinations(*parts)
        return tuple(Store(v, (as_expr(s), t * plan.depth + k), value) for s, value in enumerate(made))

    return channel_loops(plan.depth, plan.lanes, ("cb", "cl", "ct"), body)


def _combine(plan: _Plan, p: Product, sums: Buffer, first: Expr, t: Expr, no: Expr) -> Block:
    """The outputs of one row and its partner, in two groups of columns."""
    upper = first + t
    lower = upper + plan.rows

    def part(rows: tuple[Expr, ...], names: tuple[str, str, str]) -> Block:
        def body(n: Expr) -> Block:
            made = quarters(*(sums[s, t * plan.span + n] for s in range(PRODUCTS)))
            column = no * plan.span + n
            at = [(row, col) for row in (upper, lower) for col in (column, column + plan.columns)]
            return tuple(finished(p.compute, y, i) for y, i in zip(made, at, strict=True) if i[0] in rows)

        return channel_loops(plan.span, plan.lanes, names, body)

    both = part((upper, lower), ("ob", "ol", "ot"))
    if plan.total % 2 == 0:
        return both
    return (If(binary("lt", lower, plan.total), both, part((upper,), ("ob", "ol", "ot"))),)
