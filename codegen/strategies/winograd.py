"""Winograd convolution: 3 x 3, on tiles of m x m outputs, 2.25 or 4 times fewer multiplications; 1.44 or 1.78 for stride 2.

    V[xi, t, c] = (B^T d B)[xi] of tile t;   M[xi] = V[xi] U[xi]   (a product for each point xi);   y = A^T M A, finished

With stride 2 the channels of V are those of the even and odd rows and columns of the input, where the point has them.

With many tiles, each thread takes blocks of tile rows through all three phases, with V and M in its scratch memory, where
they stay in the cache.  With few, the threads share each phase, and meet between them; V and M are temporaries in the arena.
The weights are transformed at compile time.  Tiles that reach over the end read the last row or column again: what they
compute there is not stored.  Open numbers of rows and columns: `winograd_open.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...ir.compute import Compute, acc_var
from ...ir.dims import multiply_dims, normal_dim, volume
from ...ir.expr import Expr, Load, as_expr, binary, cast, load
from ...ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Store, axis
from ...ir.traverse import substitute
from ...ir.types import Dim
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, vectorize
from ..schedule.rewrite import accesses, has_loop, replace_accesses
from .choices import Choice
from .contract import schedule_product
from .product import find_product, operands
from .scheduled import Group, Scheduled
from .winograd_plan import BLOCK_TILES, Plan, plan_of
from .winograd_transforms import WinogradWeights

LINE = 16  # elements of padding per plane: planes a power of two apart would share sets of the cache
Tile = Callable[[Expr, Expr, Expr, Expr], Block]
"""The statements for one tile: image, tile row, tile column, number of the tile in V and M."""


def schedule_winograd(group: Group, c: Compute, m: int, machine: Machine) -> Scheduled:
    pair = operands(c)
    assert pair is not None
    plan = plan_of(c, m, group.choice.block or BLOCK_TILES, group.symbols)
    blocked = plan.block_rows > 0
    tiles: Dim = multiply_dims([plan.block_rows, plan.tiles[1]]) if blocked else plan.count
    space = "stack" if blocked else "global"
    groups = plan.form.groups
    vs = tuple(
        Buffer(f"v{i}", "f32", (len(g.places), plane_of(tiles, g.depth * plan.channels)), space) for i, g in enumerate(groups)
    )
    mm = Buffer("m", "f32", (plan.form.n**2, plane_of(tiles, plan.outputs)), space)
    made = products(plan, tiles, vs, mm, pair[1].buf.name, machine, group.choice)
    inner = tuple(s for p in made for s in p.kernel.body)
    gathered = partial(gather, plan, pair[0], vs, machine.lanes("f32"))
    scattered = partial(_scatter, plan, c, mm, machine.lanes("f32"))
    if blocked:
        return finish_kernel(
            group, plan, _blocked(plan, gathered, inner, scattered, (*vs, mm)), (), made,
            f"blocks of {plan.block_rows} tile rows", machine,
        )
    body = (tile_loop(plan, gathered, "t_in"), Barrier(), *inner, Barrier(), tile_loop(plan, scattered, "t_out"))
    return finish_kernel(group, plan, body, (*vs, mm), made, "threads share each phase", machine)


def finish_kernel(
    group: Group, plan: Plan, body: Block, shared: tuple[Buffer, ...], made: list[Scheduled], how: str, machine: Machine
) -> Scheduled:
    """The kernel of the phases.  shared: V and M that all threads see; made: the products; how: for the note."""
    packed = [p.kernel.param(name) for p in made for name, _ in p.packs]
    kernel = legalize_math(Kernel("winograd", (*group.params, *shared, *packed), body), machine)
    for lane in ("cl", "ct", "ol", "ot"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    kernel = fma_contract(kernel) if machine.fma else kernel
    temporaries = tuple((b.name, volume((*b.shape, 4))) for b in shared)
    stride = f", stride {plan.form.stride}" if plan.form.stride > 1 else ""
    note = f"Winograd F({plan.m}x{plan.m}, 3x3){stride}, {how}; {made[0].note}"
    return Scheduled(kernel, tuple(pack for p in made for pack in p.packs), note, temporaries)


def plane_of(tiles: Dim, channels: int) -> Dim:
    """Elements of one plane of V or M."""
    return normal_dim(multiply_dims([tiles, channels]) + LINE)


def products(
    plan: Plan, tiles: Dim, vs: tuple[Buffer, ...], mm: Buffer, weights: str, machine: Machine, choice: Choice
) -> list[Scheduled]:
    """The products of every group, each on its part of M, with packed weights of names of their own."""
    made: list[Scheduled] = []
    first = 0
    for number, (planes, v) in enumerate(zip(plan.form.groups, vs, strict=True)):
        product = _product(plan, tiles, number, weights, machine, choice)
        body = on_buffers(product.kernel.body, {"v": v})
        body = replace_accesses(body, product.kernel.param("m"), mm, lambda b, i, first=first: (first + b, i))
        renamed: dict[str, str] = {name: f"w{number}_{name}" for name, _ in product.packs}
        params: list[Buffer] = []
        for name, new in renamed.items():
            old = product.kernel.param(name)
            params.append(replace(old, name=new))
            body = replace_accesses(body, old, params[-1], lambda *idx: idx)
        packs = tuple((renamed[name], pack) for name, pack in product.packs)
        made.append(replace(product, kernel=Kernel("product", (v, mm, *params), body), packs=packs))
        first += len(planes.places)
    return made


def _product(plan: Plan, tiles: Dim, number: int, weights: str, machine: Machine, choice: Choice) -> Scheduled:
    """M[xi, t, o] = sum over c of V[xi, t, c] * U[xi, c, o]; the packed weights come from the convolution's."""
    group = plan.form.groups[number]
    planes, channels = len(group.places), group.depth * plan.channels
    v = Buffer("v", "f32", (planes, plane_of(tiles, channels)))
    out = Buffer("m", "f32", (planes, plane_of(tiles, plan.outputs)))
    u = Buffer("u", "f32", (planes, channels, plan.outputs))
    b, t, o, k = axis("b", planes), axis("t", tiles), axis("o", plan.outputs), axis("k", channels)
    c = Compute(out, (b, t, o), v[b, t * channels + k] * u[b, k, o], (k,), "add", index=(b, t * plan.outputs + o))
    p = find_product(c)
    assert p is not None
    made = schedule_product(Group("product", (c,), (out, v), constants=frozenset(["u"]), choice=choice), p, machine)
    transform = WinogradWeights(plan.form, number)
    return replace(made, packs=tuple((name, replace(pack, source=weights, transform=transform)) for name, pack in made.packs))


def on_buffers(body: Block, buffers: dict[str, Buffer]) -> Block:
    """The products on the buffers of this kernel."""
    found = {a.buf for a in accesses(body) if a.buf.name in buffers}
    for old in sorted(found, key=lambda b: b.name):
        body = replace_accesses(body, old, buffers[old.name], lambda *idx: idx)
    return body


def _blocked(plan: Plan, gather: Tile, products: Block, scatter: Tile, buffers: tuple[Buffer, ...]) -> Block:
    """Each iteration of the parallel loop takes one block of tile rows through the three phases."""
    rows, columns = plan.tiles
    assert isinstance(rows, int)
    blocks = rows // plan.block_rows
    share, r, x = axis("share", multiply_dims([plan.images, blocks])), axis("tr", plan.block_rows), axis("tx", columns)
    y = share % blocks * plan.block_rows + r
    t = r * columns + x
    phase = lambda body: For(r, (For(x, body),))  # noqa: E731
    serial = tuple(replace(s, kind="serial") if isinstance(s, For) else s for s in products)
    body = (*map(Alloc, buffers), phase(gather(share // blocks, y, x, t)), *serial, phase(scatter(share // blocks, y, x, t)))
    return (For(share, body, "parallel"),)


def tile_loop(plan: Plan, phase: Tile, name: str) -> For:
    t = axis(name, plan.count)
    return For(t, phase(*place_of(plan, t), t), "parallel")


def place_of(plan: Plan, t: Expr) -> tuple[Expr, Expr, Expr]:
    """Image, tile row and tile column of the tile with this number."""
    rows, columns = map(as_expr, plan.tiles)
    return t // (rows * columns), t // columns % rows, t % columns


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


def gather(plan: Plan, x: Load, vs: tuple[Buffer, ...], lanes: int, image: Expr, ty: Expr, tx: Expr, t: Expr) -> Block:
    """V[:, t, :] = B^T d B of one tile.  Columns of one phase at a time, so that few values wait for others."""
    form = plan.form
    at_place = {
        (place, phases): (v, plane, slot * plan.channels, group.depth * plan.channels)
        for group, v in zip(form.groups, vs, strict=True)
        for plane, (place, slots) in enumerate(zip(group.places, group.slots, strict=True))
        for slot, phases in enumerate(slots)
    }

    def at(tile: Expr, i: int, size: Dim) -> Expr:
        position = tile * (form.stride * form.m) + i
        inside = isinstance(size, int) and size % form.m == 0
        return position if inside else binary("min", position, form.stride * (size - 1) + 2)

    def body(c: Expr) -> Block:
        rows, columns = ([at(t, i, size) for i in range(form.span)] for t, size in zip((ty, tx), plan.out, strict=True))
        done = [form.inputs([cast(load(x.buf, image, row, column, c), "f32") for row in rows]) for column in columns]
        stores = []
        for p, values in enumerate(done[0]):
            for i in range(len(values)):
                for q, across in enumerate(form.inputs([column[p][i] for column in done])):
                    for j, value in enumerate(across):
                        v, plane, start, depth = at_place[(i, j), (p, q)]
                        stores.append(Store(v, (as_expr(plane), t * depth + c + start), value))
        return tuple(stores)

    return channel_loops(plan.channels, lanes, ("cb", "cl", "ct"), body)


def _scatter(plan: Plan, c: Compute, mm: Buffer, lanes: int, image: Expr, ty: Expr, tx: Expr, t: Expr) -> Block:
    """The outputs of one tile; tiles at the end store only what lies inside."""
    height, width = plan.out
    assert isinstance(height, int) and isinstance(width, int)
    m = plan.m

    def part(rows: int, columns: int) -> Block:
        return store_tile(plan, c, mm, lanes, (image, ty, tx, t), rows, columns)

    def by_column(rows: int) -> Block:
        left = width % m
        if not left:
            return part(rows, m)
        return (If(binary("lt", tx, width // m), part(rows, m), part(rows, left)),)

    left = height % m
    if not left:
        return by_column(m)
    return (If(binary("lt", ty, height // m), by_column(m), by_column(left)),)


def store_tile(
    plan: Plan, c: Compute, mm: Buffer, lanes: int, tile: tuple[Expr, Expr, Expr, Expr], rows: int, columns: int
) -> Block:
    """The first rows and columns of a tile: image, tile row and column, number."""
    image, ty, tx, t = tile

    def body(o: Expr) -> Block:
        values = tile_outputs(plan, mm, t, o)
        return tuple(
            finished(c, values[i][j], (image, ty * plan.m + i, tx * plan.m + j, o)) for i in range(rows) for j in range(columns)
        )

    return channel_loops(plan.outputs, lanes, ("ob", "ol", "ot"), body)


def tile_outputs(plan: Plan, mm: Buffer, t: Expr, o: Expr) -> list[list[Expr]]:
    """A^T M A of a tile, one channel."""
    form, n = plan.form, plan.form.n
    plane = {place: at for at, place in enumerate(place for group in form.groups for place in group.places)}
    y = [[mm[plane[i, j], t * plan.outputs + o] for j in range(n)] for i in range(n)]
    half = [form.outputs([y[i][j] for i in range(n)]) for j in range(n)]
    return [form.outputs([half[j][i] for j in range(n)]) for i in range(plan.m)]


def finished(c: Compute, value: Expr, at: tuple[Expr, ...]) -> Store:
    """The store of a sum at these values of the axes."""
    mapping: dict[Expr, Expr] = dict(zip(c.axes, at, strict=True))
    if c.finish is not None:
        value = substitute(c.finish, {**mapping, acc_var("f32"): value})
    index = tuple(substitute(i, mapping) for i in c.out_index)
    return Store(c.out, index, cast(value, c.out.dtype))
