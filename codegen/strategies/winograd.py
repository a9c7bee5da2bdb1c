"""Winograd convolution: 3 x 3, stride 1, on tiles of m x m outputs, 2.25 or 4 times fewer multiplications.

    V[xi, t, c] = (B^T d B)[xi] of tile t;   M[xi] = V[xi] U[xi]   ((m + 2)^2 products);   y = A^T M A, finished

With many tiles, each thread takes blocks of tile rows through all three phases, with V and M in its scratch memory, where
they stay in the cache.  With few, the threads share each phase, and meet between them; V and M are temporaries in the arena.
The weights are transformed at compile time.  Tiles that reach over the end read the last row or column again: what they
compute there is not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ...ir.compute import Compute, acc_var
from ...ir.expr import Expr, Load, as_expr, binary, cast, load
from ...ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Store, axis
from ...ir.traverse import substitute
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, vectorize
from ..schedule.rewrite import accesses, has_loop, replace_accesses
from .choices import Choice
from .contract import schedule_product, size_of
from .product import find_dot, find_product, operands
from .scheduled import Group, Scheduled
from .winograd_transforms import WEIGHT_TRANSFORMS, input_transform, output_transform

LINE = 16  # elements of padding per plane: planes a power of two apart would share sets of the cache
SMALLEST_CHANNELS = 16
BLOCK_TILES = 64  # tiles of one block at most, and a quarter of it at least
Tile = Callable[[Expr, Expr, Expr, Expr], Block]
"""The statements for one tile: image, tile row, tile column, number of the tile in V and M."""


@dataclass(frozen=True)
class _Plan:
    """m: outputs per tile side.  out: rows and columns of the output; tiles: of tiles per image."""

    m: int
    images: int
    out: tuple[int, int]
    channels: int
    outputs: int
    block: int = BLOCK_TILES

    @property
    def n(self) -> int:
        return self.m + 2

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.out[0] // self.m), -(-self.out[1] // self.m)

    @property
    def count(self) -> int:
        return self.images * self.tiles[0] * self.tiles[1]

    @property
    def block_rows(self) -> int:
        """Tile rows of one block; 0 where the threads share the phases."""
        rows, columns = self.tiles
        if self.count < 2 * self.block:
            return 0
        fits = [r for r in range(1, rows + 1) if rows % r == 0 and r * columns <= self.block]
        return max(fits, default=1)


def winograd_tile(c: Compute, machine: Machine) -> int:
    """The tile side that is expected to be the fastest for this computation; 0 for direct convolution."""
    pair = operands(c)
    if pair is None or not is_transformable(c):
        return 0
    (n, y, x, o), (_, _, i) = c.axes, c.reduce
    left, right = pair
    if min(size_of(i), size_of(o)) < SMALLEST_CHANNELS:
        return 0
    plans = [_Plan(m, size_of(n), (size_of(y), size_of(x)), size_of(i), size_of(o)) for m in (4, 2)]
    pairs = find_dot(left.type.dtype, right.type.dtype, c.acc, machine) is not None
    rate = 2 * machine.lanes("f32") * (2 if pairs else 1) * 0.95
    direct = plans[0].images * size_of(y) * size_of(x) * 9.0 * size_of(i) * size_of(o) / rate
    best = min((_cycles(p, machine), p.m) for p in plans)
    return best[1] if best[0] < 0.9 * direct else 0


def winograd_cycles(c: Compute, machine: Machine) -> float:
    """Expected cycles of the best transformed convolution.  Requires `is_transformable`."""
    n, y, x, o = (size_of(v) for v in c.axes)
    return min(_cycles(_Plan(m, n, (y, x), size_of(c.reduce[2]), o), machine) for m in (4, 2))


def is_transformable(c: Compute) -> bool:
    """Whether this is a 3 x 3 convolution of stride 1 with f32 sums."""
    pair = operands(c)
    if pair is None or len(c.axes) != 4 or len(c.reduce) != 3 or c.acc != "f32":
        return False
    (n, y, x, o), (ky, kx, i) = c.axes, c.reduce
    left, right = pair
    return left.idx == (n, y + ky, x + kx, i) and right.idx == (ky, kx, i, o) and (ky.extent, kx.extent) == (3, 3)


def _cycles(p: _Plan, machine: Machine) -> float:
    """Expected cycles: products or the stream of their weights, and about one cycle per vector of a plane transformed."""
    lanes = machine.lanes("f32")
    planes = p.n * p.n
    multiply = planes * p.count * p.channels * p.outputs / (2 * lanes) / 0.9
    passes = 1 if not p.block_rows else p.count / (p.block_rows * p.tiles[1])
    weights = planes * p.channels * p.outputs * 4.0
    stream = passes * weights / (9.0 if weights > machine.l2 / 2 else 40.0)
    transforms = planes * p.count * (p.channels + p.outputs) / lanes * 2.2
    return max(multiply, stream) + transforms


def schedule_winograd(group: Group, c: Compute, m: int, machine: Machine) -> Scheduled:
    pair = operands(c)
    assert pair is not None
    plan = _Plan(m, size_of(c.axes[0]), (size_of(c.axes[1]), size_of(c.axes[2])), size_of(c.reduce[2]), size_of(c.axes[3]),
                 group.choice.block or BLOCK_TILES)
    blocked = plan.block_rows > 0
    tiles = plan.block_rows * plan.tiles[1] if blocked else plan.count
    space = "stack" if blocked else "global"
    planes = plan.n * plan.n
    v = Buffer("v", "f32", (planes, tiles * plan.channels + LINE), space)
    mm = Buffer("m", "f32", (planes, tiles * plan.outputs + LINE), space)
    product = _product(plan, tiles, pair[1].buf.name, machine, group.choice)
    gather = partial(_gather, plan, pair[0], v, machine.lanes("f32"))
    scatter = partial(_scatter, plan, c, mm, machine.lanes("f32"))
    inner = on_buffers(product.kernel.body, {"v": v, "m": mm})
    if blocked:
        body = _blocked(plan, gather, inner, scatter, v, mm)
        params: tuple[Buffer, ...] = group.params
    else:
        body = (_tile_loop(plan, gather, "t_in"), Barrier(), *inner, Barrier(), _tile_loop(plan, scatter, "t_out"))
        params = (*group.params, v, mm)
    packed = [p for p in product.kernel.buffers if p.name.startswith("w")]
    kernel = legalize_math(Kernel("winograd", (*params, *packed), body), machine)
    for lane in ("cl", "ct", "ol", "ot"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    kernel = fma_contract(kernel) if machine.fma else kernel
    temporaries = () if blocked else tuple((b.name, b.size * 4) for b in (v, mm))
    how = f"blocks of {plan.block_rows} tile rows" if blocked else "threads share each phase"
    note = f"Winograd F({m}x{m}, 3x3), {how}; {product.note}"
    return Scheduled(kernel, product.packs, note, temporaries)


def _product(plan: _Plan, tiles: int, weights: str, machine: Machine, choice: Choice) -> Scheduled:
    """M[xi, t, o] = sum over c of V[xi, t, c] * U[xi, c, o]; the packed weights come from the convolution's."""
    planes = plan.n * plan.n
    v = Buffer("v", "f32", (planes, tiles * plan.channels + LINE))
    out = Buffer("m", "f32", (planes, tiles * plan.outputs + LINE))
    u = Buffer("u", "f32", (planes, plan.channels, plan.outputs))
    b, t, o, k = axis("b", planes), axis("t", tiles), axis("o", plan.outputs), axis("k", plan.channels)
    c = Compute(
        out, (b, t, o), v[b, t * plan.channels + k] * u[b, k, o], (k,), "add", index=(b, t * plan.outputs + o)
    )
    p = find_product(c)
    assert p is not None
    made = schedule_product(Group("product", (c,), (out, v), constants=frozenset(["u"]), choice=choice), p, machine)
    packs = tuple(
        (name, replace(pack, source=weights, transform=WEIGHT_TRANSFORMS[plan.m])) for name, pack in made.packs
    )
    return replace(made, packs=packs)


def on_buffers(body: Block, buffers: dict[str, Buffer]) -> Block:
    """The products on the buffers of this kernel."""
    found = {a.buf for a in accesses(body) if a.buf.name in buffers}
    for old in sorted(found, key=lambda b: b.name):
        body = replace_accesses(body, old, buffers[old.name], lambda *idx: idx)
    return body


def _blocked(plan: _Plan, gather: Tile, product: Block, scatter: Tile, v: Buffer, m: Buffer) -> Block:
    """Each iteration of the parallel loop takes one block of tile rows through the three phases."""
    rows, columns = plan.tiles
    blocks = rows // plan.block_rows
    share, r, x = axis("share", plan.images * blocks), axis("tr", plan.block_rows), axis("tx", columns)
    y = share % blocks * plan.block_rows + r
    t = r * columns + x
    phase = lambda body: For(r, (For(x, body),))  # noqa: E731
    serial = tuple(replace(s, kind="serial") if isinstance(s, For) else s for s in product)
    body = (Alloc(v), Alloc(m), phase(gather(share // blocks, y, x, t)), *serial, phase(scatter(share // blocks, y, x, t)))
    return (For(share, body, "parallel"),)


def _tile_loop(plan: _Plan, phase: Tile, name: str) -> For:
    rows, columns = plan.tiles
    t = axis(name, plan.count)
    return For(t, phase(t // (rows * columns), t // columns % rows, t % columns, t), "parallel")


def channel_loops(count: int, lanes: int, names: tuple[str, str, str], body: Callable[[Expr], Block]) -> Block:
    """Whole vectors of channels, then one shorter vector; the lane loops are vectorized later."""
    block, lane, tail = names
    whole = count // lanes * lanes
    loops: list[For] = []
    if whole:
        cb, cl = axis(block, count // lanes), axis(lane, lanes)
        loops.append(For(cb, (For(cl, body(cb * lanes + cl)),)))
    if whole < count:
        ct = axis(tail, count - whole)
        loops.append(For(ct, body(ct + whole)))
    return tuple(loops)


def _gather(plan: _Plan, x: Load, v: Buffer, lanes: int, image: Expr, ty: Expr, tx: Expr, t: Expr) -> Block:
    """V[:, t, :] = B^T d B of one tile."""
    n, m = plan.n, plan.m

    def at(tile: Expr, i: int, size: int) -> Expr:
        position = tile * m + i
        return position if size % m == 0 else binary("min", position, size + 1)

    def body(c: Expr) -> Block:
        rows, columns = ([at(t, i, size) for i in range(n)] for t, size in zip((ty, tx), plan.out, strict=True))
        d = [[cast(load(x.buf, image, row, column, c), "f32") for column in columns] for row in rows]
        columns = [input_transform(m, [d[i][j] for i in range(n)]) for j in range(n)]
        stores = []
        for i in range(n):
            for j, value in enumerate(input_transform(m, [columns[j][i] for j in range(n)])):
                stores.append(Store(v, (as_expr(i * n + j), t * plan.channels + c), value))
        return tuple(stores)

    return channel_loops(plan.channels, lanes, ("cb", "cl", "ct"), body)


def _scatter(plan: _Plan, c: Compute, mm: Buffer, lanes: int, image: Expr, ty: Expr, tx: Expr, t: Expr) -> Block:
    """The outputs of one tile; tiles at the end store only what lies inside."""
    n, m = plan.n, plan.m

    def part(rows: int, columns: int) -> Block:
        def body(o: Expr) -> Block:
            y = [[mm[i * n + j, t * plan.outputs + o] for j in range(n)] for i in range(n)]
            half = [output_transform(m, [y[i][j] for i in range(n)]) for j in range(n)]
            stores = []
            for i in range(rows):
                values = output_transform(m, [half[j][i] for j in range(n)])
                for j in range(columns):
                    stores.append(finished(c, values[j], (image, ty * m + i, tx * m + j, o)))
            return tuple(stores)

        return channel_loops(plan.outputs, lanes, ("ob", "ol", "ot"), body)

    def by_column(rows: int) -> Block:
        left = plan.out[1] % m
        if not left:
            return part(rows, m)
        return (If(binary("lt", tx, plan.out[1] // m), part(rows, m), part(rows, left)),)

    left = plan.out[0] % m
    if not left:
        return by_column(m)
    return (If(binary("lt", ty, plan.out[0] // m), by_column(m), by_column(left)),)


def finished(c: Compute, value: Expr, at: tuple[Expr, ...]) -> Store:
    """The store of a sum at these values of the axes."""
    mapping: dict[Expr, Expr] = dict(zip(c.axes, at, strict=True))
    if c.finish is not None:
        value = substitute(c.finish, {**mapping, acc_var("f32"): value})
    index = tuple(substitute(i, mapping) for i in c.out_index)
    return Store(c.out, index, cast(value, c.out.dtype))
