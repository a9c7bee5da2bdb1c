"""Products and convolutions: one register-tiled kernel over a packed right operand.

For each panel of columns (outer) and each tile of rows (inner), a tile of accumulators is held in registers; the right
operand is packed into panels [panel][reduction][columns of the panel], the left one is read by broadcast where it lies.
A convolution is the same kernel: its rows are output pixels, its reduction runs over the window and the contiguous run of
(last window axis, channels).  What the tile is multiplied into is finished (bias, activation, residual) on registers.

Threads share either the panels (each reads all rows) or chunks of rows (each reads all panels), whichever moves fewer
bytes and divides evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ...ir.compute import Compute, lower_compute
from ...ir.dims import normal_dim
from ...ir.expr import Call, Expr, Load, Var, as_expr, binary, load
from ...ir.kernel import Alloc, Block, Buffer, For, Kernel, Store, axis, coefficient, map_block
from ...ir.traverse import substitute, walk
from ...ir.types import DTYPES, Dim, TensorType
from ..machine import Machine
from ..math import legalize_math
from ..schedule import (
    Tiles,
    cut,
    dot,
    fma_contract,
    parallel,
    prefetch,
    reorder,
    sink,
    split,
    unroll,
    vectorize,
)
from ..schedule.memory import Index
from ..schedule.rewrite import Environment, extent, has_loop, on_loops
from .axes import extents, size_of, substitute_axes
from .choices import divides
from .contract_threads import arrange
from .join import join_kernels
from .open_axes import is_open, tiles_of, typical, typical_size
from .product import Product, find_product, grouped
from .scheduled import Group, Pack, Scheduled
from .tiles import Tile, choose_tile

SHORT_ROW = 14  # rows of pixels that are shorter than half of this share a tile with the next one
FEW_ROWS = 4
FINISH = "finish"  # the loop in which the sums of a tile are finished, where that is not done on registers
MOST_PREFETCHED = 8  # lines per iteration; with two tiles a panel that is six of 48 columns, which won 30 % on cold weights
OPEN_TILES = 4  # that prefetch a panel, where how many there are is open: with more, few rows would wait for the rest
UNROLL = (4, 3, 5, 7, 2)  # steps of the reduction per iteration, the best first


def schedule_product(group: Group, p: Product, machine: Machine) -> Scheduled:
    """The product; with two open axes of rows that are no run, both orders of them in one kernel: tiles are filled by the inner
    one, which may be short, such as a batch behind time steps.  Which order runs is chosen by the sizes."""
    made = _schedule_in_order(group, p, machine)
    other = _turned(p)
    if other is None:
        return made
    known = replace(p, choice=group.choice, symbols=group.symbols)
    tile = _choose(known, size_of(p.columns), machine.lanes(p.compute.acc), machine)
    choice = replace(group.choice, rows=tile.rows, vectors=tile.vectors, chunks=1)  # of the outer rows there may be one
    turned = _schedule_in_order(replace(group, choice=choice), other, machine)
    if turned.packs != made.packs:
        return made
    outer, inner = (as_expr(v.extent or 0) for v in p.rows)
    straight = binary("min", inner / binary("min", outer, tile.rows), 1)
    body = (
        For(axis("straight", straight), made.kernel.body), For(axis("turned", normal_dim(1 - straight)), turned.kernel.body)
    )
    return replace(made, kernel=replace(made.kernel, body=body), note=f"{made.note}; short rows in the other order")


def _turned(p: Product) -> Product | None:
    """With its two open axes of rows the other way round; None for any other product."""
    if len(p.rows) != 2 or not all(map(is_open, p.rows)) or len(p.reduce) != 1:
        return None
    c = p.compute
    made = find_product(replace(c, axes=(*p.batch, *p.rows[::-1], p.columns), index=c.out_index))
    return made if made is not None and len(made.rows) == 2 else None


def _schedule_in_order(group: Group, p: Product, machine: Machine) -> Scheduled:
    """Whole panels, and one narrower panel for the columns that remain."""
    lanes = machine.lanes(p.compute.acc)
    p = replace(p, choice=group.choice, symbols=group.symbols)
    p = grouped(p, machine)
    columns = size_of(p.columns)
    tile = _choose(p, columns, lanes, machine)
    width = min(tile.vectors * lanes, columns)
    main = columns // width * width
    parts = [(0, main, width)] + ([(main, columns - main, columns - main)] if main < columns else [])
    in_place = _reads_in_place(group, p)
    kernels, packs, notes = [], [], []
    for n, (start, size, panel) in enumerate(parts):
        part = _take_columns(p, start, size)
        packed = None
        if not in_place:
            pack = _pack(part, panel)
            packed = Buffer(f"w{n}", p.right.buf.dtype, pack.shape)
            packs.append((packed.name, pack))
        kernel, note = _schedule_part(group, part, packed, panel, tile, lanes, machine)
        kernels.append(kernel)
        notes.append(note)
    return Scheduled(join_kernels("product", kernels), tuple(packs), "; ".join(notes))


def _choose(p: Product, columns: int, lanes: int, machine: Machine) -> Tile:
    chosen = p.choice.tile(machine)
    if chosen is not None:
        return chosen
    rows = [typical(v.extent, p.symbols) for v in p.rows] or [1]
    depth = typical_size(p.reduce, p.symbols)
    last = rows[-1]
    if len(rows) > 1 and last * 2 <= SHORT_ROW:
        last *= min(rows[-2], SHORT_ROW // last)
    return choose_tile(min(last, 4096), columns, depth, lanes, machine, vectors=(p.choice.panel or 0) // lanes)


def _reads_in_place(group: Group, p: Product) -> bool:
    """Few rows of a product with an operand that is computed: packing it would cost more than it brings."""
    few = not any(map(is_open, p.rows)) and prod(size_of(v) for v in p.rows) <= FEW_ROWS and p.group is None
    return few and p.right.buf.name not in group.constants and coefficient(p.right.buf, p.right.idx, p.columns) == 1


# ---- the right operand ---------------------------------------------------------------------------------------------


def _at(p: Product, values: dict[Expr, int]) -> tuple[Dim, ...]:
    """The index of the right operand where the axes have these values, 0 unless given."""
    mapping: dict[Expr, Expr] = {x: as_expr(values.get(x, 0)) for x in (*p.compute.axes, *p.compute.reduce)}
    return tuple(normal_dim(substitute(i, mapping)) for i in p.right.idx)


def _take_columns(p: Product, start: int, size: int) -> Product:
    if size == p.columns.extent:
        return p
    n = axis("n", size)
    mapping: dict[Expr, Expr] = {p.columns: n + start}
    c = substitute_axes(p.compute, mapping, (*p.compute.axes[:-1], n), p.compute.reduce)
    right: Load = substitute(p.right, mapping)  # type: ignore[assignment]
    return replace(p, compute=c, right=right, columns=n)


def _pack(p: Product, panel: int) -> Pack:
    """[*batch][panel][*reduction][columns of the panel], and groups innermost."""
    origin = _at(p, {})

    def step(v: Var) -> tuple[Dim, ...]:
        if v.extent == 1:
            return (0,) * len(origin)
        return tuple(normal_dim(b - a) for a, b in zip(origin, _at(p, {v: 1}), strict=True))

    column = step(p.columns)
    shape: list[Dim] = [*extents(p.batch), size_of(p.columns) // panel, *extents(p.reduce), panel]
    steps = [step(v) for v in p.batch] + [tuple(panel * s for s in column)] + [step(v) for v in p.reduce] + [column]
    if p.group is not None:
        shape.append(size_of(p.group))
        steps.append(step(p.group))
    return Pack(p.right.buf.name, tuple(shape), origin, tuple(steps))


# ---- one part --------------------------------------------------------------------------------------------------------


def _schedule_part(
    group: Group, p: Product, packed: Buffer | None, panel: int, tile: Tile, lanes: int, machine: Machine
) -> tuple[Kernel, str]:
    """One range of columns; packed: the right operand, None if it is read where it lies."""
    short = len(p.rows) > 1 and not is_open(p.rows[-1]) and size_of(p.rows[-1]) * 2 <= tile.rows
    c, rows, shared = arrange(p, packed, panel, short, tile, machine)
    in_loop = _is_long(c)
    params = group.params if packed is None else (*group.params, packed)
    k = Kernel("product", params, _finish_in_loop(c) if in_loop else lower_compute(c))
    tiles: list[Tiles] = []
    inner: list[str] = []
    if short and len(rows) > 1:  # whole rows of pixels, as many as fill a tile
        k, tiles = tiles_of(k, rows[-2], max(tile.rows // size_of(p.rows[-1]), 1), "mi")  # pyright: ignore
        inner = ["mi", rows[-1].name]
    elif rows:
        k, tiles = tiles_of(k, rows[-1], tile.rows, "mi", even=True)
        inner = ["mi"]
    k = sink(k, [*inner, "ni"])
    if p.group is not None:
        k = reorder(k, ["group", *inner, "ni"], [*inner, "ni", "group"])
    k = _columns_to_vectors(k, panel, lanes)
    k, steps = _unroll_reduction(k, p, tile)
    if tiles and packed is not None and _panels(packed, len(p.batch)) > 1 and not any(map(is_open, p.reduce)):
        k = _prefetch_next_panel(k, p, packed, tiles, steps)
    k = unroll(k, *inner)
    if in_loop:
        k = on_loops(k, FINISH, lambda s: replace(s, body=_serial(s.body, set(inner))))
    if p.dot is not None:
        for v in ("nl", "nt"):
            k = dot(k, v, "group", p.dot.fn, p.dot.count, p.dot.total) if has_loop(k, v) else k
    k = legalize_math(parallel(k, "p"), machine)
    k = fma_contract(k) if machine.fma else k
    for v in ("nl", "nt"):
        k = vectorize(k, v) if has_loop(k, v) else k
    vectors = -(-panel // lanes)
    note = f"tile {tile.rows} x {vectors} vectors of {min(lanes, panel)}, panels of {panel}, {steps} steps unrolled, {shared}"
    return k, note


def sizes_of(shape: Sequence[Dim]) -> tuple[int, ...]:
    """A shape as numbers.  Raises InternalError where a dimension is open."""
    return TensorType("i64", tuple(shape)).static_shape


def _panels(packed: Buffer, leading: int) -> int:
    """Panels that follow each other, those of all batches; one, if how many there are is open."""
    shape = packed.shape[: leading + 1]
    return prod(sizes_of(shape)) if all(isinstance(n, int) for n in shape) else 1


def _is_long(c: Compute) -> bool:
    """The finish calls functions: unrolled over a whole tile it would be thousands of instructions."""
    return c.finish is not None and any(isinstance(e, Call) for e in walk(c.finish))


def _finish_in_loop(c: Compute) -> Block:
    """The naive loops with the sums stored into scratch memory, and finished in a loop of their own (of one iteration:
    it keeps the two stores apart when the tile is pushed inward)."""
    sums = Buffer("sums", c.acc, (), "stack")
    plain = replace(c, out=sums, index=(), finish=None)
    (loops,) = lower_compute(plain)
    once = For(axis(FINISH, 1), (Store(c.out, c.out_index, c.result(load(sums))),))

    def innermost(block: Block) -> Block:
        if len(block) == 1 and isinstance(block[0], For):
            return (replace(block[0], body=innermost(block[0].body)),)
        return (Alloc(sums), *block, once)

    return innermost((loops,))


def _serial(block: Block, names: set[str]) -> Block:
    return map_block(block, lambda s: replace(s, kind="serial") if isinstance(s, For) and s.var.name in names else None)


def _columns_to_vectors(k: Kernel, panel: int, lanes: int) -> Kernel:
    """The columns of a panel as unrolled whole vectors (nv, nl) and one shorter vector (nt)."""
    whole = panel // lanes * lanes
    if not whole:
        return unroll(split(k, "ni", panel, "nv", "nt"), "nv")
    if whole < panel:
        k = cut(k, "ni", whole, "ni", "nt")
    return unroll(split(k, "ni", lanes, "nv", "nl"), "nv")


def _unroll_reduction(k: Kernel, p: Product, tile: Tile) -> tuple[Kernel, int]:
    if not p.reduce:
        return k, 1
    last = p.reduce[-1].name
    if is_open(p.reduce[-1]):
        return k, 1
    n = extent(k, last)
    if n == 1:
        return k, 1
    steps = p.choice.unroll
    most = max(1, 16 // tile.vectors) if tile.rows == 1 else 4 if tile.rows * tile.vectors >= 12 else 8
    steps = divides("unroll", steps, n) if steps else next((u for u in UNROLL if n % u == 0 and u <= most), 1)
    if steps > 1:
        k = unroll(split(k, last, steps, last + "o", last + "i"), last + "i")
    return k, steps


def _prefetch_next_panel(k: Kernel, p: Product, packed: Buffer, tiles: list[Tiles], steps: int) -> Kernel:
    """Each tile of rows asks for its slice of the next panel, so that cold weights arrive in time.  Of an unknown number of
    tiles the first OPEN_TILES of the largest size do it; those that follow ask for the last slice again, which costs little."""
    loop = p.reduce[-1].name + ("o" if steps > 1 else "") if p.reduce else ""
    ragged = any(t.count == 0 for t in tiles)
    count = OPEN_TILES if ragged else sum(t.count for t in tiles)
    if not loop or not has_loop(k, loop) or count < 2:
        return k
    inner = [v.name for v in p.reduce[:-1]] + [loop]
    sizes = [size_of(v) for v in p.reduce[:-1]] + [size_of(p.reduce[-1]) // steps]
    iterations = prod(sizes)
    line = 64 // DTYPES[packed.dtype].size
    leading = len(p.batch)
    lines = -(-prod(sizes_of(packed.shape[leading + 1 :])) // line)
    each = -(-lines // (count * iterations))
    if each > MOST_PREFETCHED:
        return k
    count_of_panels = _panels(packed, leading)

    if ragged:
        tiles = [t for t in tiles if t.size * 2 > tiles[0].size]

    def index(env: Environment) -> list[Index]:
        tile: Expr | None = next((env[t.outer] + t.first for t in tiles if t.outer in env), None)
        if tile is None:
            return []
        tile = binary("min", tile, count - 1) if ragged else tile
        step: Expr = as_expr(0)
        for n, size in zip(inner, sizes, strict=True):
            step = step * size + env[n]
        at = (tile * iterations + step) * (each * line)
        panel = (env["no"] if "no" in env else env["p"] % count_of_panels) + 1
        zeros = (as_expr(0),) * (len(packed.shape) - leading - 2)
        return [(*(as_expr(0),) * leading, panel, *zeros, at + i * line) for i in range(each)]

    return prefetch(k, loop, packed.name, index)
