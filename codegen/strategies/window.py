"""Windows: depthwise convolution and pooling, whose vectors run along the channels of input and output alike.

Several output pixels of a row are computed at once, so that the columns they share are loaded once, and with a stride of one
those of two rows; the window is unrolled, the channels are vectors.  Threads share rows of pixels, or blocks of channels
where there are few rows.  The mean of each row, where it is asked for, is taken right after the row.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.compute import Compute, lower_group
from ...ir.dims import as_dim, multiply_dims
from ...ir.expr import Expr, Var, as_expr
from ...ir.kernel import For, Kernel, axis, coefficient
from ...ir.traverse import substitute, uses
from ...ir.types import DTYPES
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, parallel, reorder, sink, split_evenly, unroll, vectorize
from .axes import drop_unit_axes, size_of, substitute_axes
from .image_shares import row_and_block
from .join import join_kernels
from .open_axes import is_open, tiles_of, typical
from .scheduled import Group, Scheduled

MAX_WINDOW = 128  # taps; larger windows are ordinary reductions
PIXELS = 7  # output pixels at once
ROWS, PAIRED_PIXELS = 2, 4  # rows at once that share rows of the window, and pixels of each
SHORT_ROW = 14  # pixels
SUMS = 4  # pixels of a row that are added at once for its mean: fewer additions wait for each other
UNROLLED = 64  # taps times pixels that are unrolled completely


def is_window(c: Compute) -> bool:
    """A reduction over a small window in which output and operands are contiguous along the last axis, or do not use it."""
    c = drop_unit_axes(c)
    if len(c.axes) < 2 or not c.reduce or any(map(is_open, (*c.reduce, c.axes[-1]))):
        return False
    if prod(size_of(v) for v in c.reduce) > MAX_WINDOW:
        return False
    last = c.axes[-1]
    steps = [coefficient(r.buf, r.idx, last) for r in c.reads()]
    return coefficient(c.out, c.out_index, last) == 1 and all(s in (0, 1) for s in steps) and 1 in steps


def schedule_window(
    group: Group, c: Compute, machine: Machine, means: Compute | None = None, *, by_channel: bool = False
) -> Scheduled:
    """means: a reduction of c's result along its rows of pixels.  by_channel: each block of channels of
    all rows, before the next one."""
    c = drop_unit_axes(c)
    lanes = machine.lanes(c.acc)
    channels = size_of(c.axes[-1])
    whole = channels // lanes * lanes
    parts = [(0, whole, lanes)] * (whole > 0) + [(whole, channels - whole, channels - whole)] * (whole < channels)
    taken = [_take(group, c, means, start, size, width, by_channel, machine) for start, size, width in parts]
    kernels = [_schedule_part(group, *part, machine) for part in taken]
    pixels = f"{ROWS} rows x {PAIRED_PIXELS}" if _shares_rows(c, machine) else f"up to {PIXELS}"
    note = f"{pixels} pixels x {min(lanes, channels)} channels at once" + ("; means of rows" if means else "")
    return Scheduled(join_kernels("window", kernels), note=note)


def _take(
    group: Group, c: Compute, means: Compute | None, start: int, size: int, width: int, by_channel: bool, machine: Machine
) -> tuple[Compute, Compute | None]:
    """Axes (p, [co,] x, ci) over a range of channels: p is shared by the threads, x are the pixels of a row."""
    *outer, x, channel = c.axes
    co, ci = axis("co", size // width), axis("ci", width)
    px = axis("x", as_dim(as_expr(x.extent or 0)))
    rows = multiply_dims(as_dim(as_expr(v.extent or 0)) for v in outer)
    blocks = size // width
    by_channel = by_channel or typical(x.extent, group.symbols) <= SHORT_ROW or (isinstance(rows, int) and rows < 8)
    together = ROWS if _shares_rows(c, machine) else 1
    yi = axis("yi", together)
    if together > 1:
        rows = size_of(outer[-1]) // together * prod(map(size_of, outer[:-1]))
    p = axis("p", multiply_dims([rows, blocks]) if by_channel else rows)
    block: Expr = p // as_expr(rows) if by_channel else co
    flat: Expr = p % as_expr(rows) if by_channel else p
    if by_channel and isinstance(rows, int):
        element = DTYPES[c.out.dtype].size
        flat, block = row_and_block(p, rows, blocks, width * element, size_of(channel) * element)
    mapping: dict[Expr, Expr] = {x: px, channel: block * width + ci + start}
    for v in reversed(outer):
        extent = as_expr(v.extent or 0) // (together if v is outer[-1] else 1)
        mapping[v] = flat % extent if v is not outer[0] else flat
        flat = flat // extent
    if together > 1:
        mapping[outer[-1]] = mapping[outer[-1]] * together + yi
    axes: tuple[Var, ...] = (p, px, *([yi] if together > 1 else []), *([] if by_channel else [co]), ci)
    taps = tuple(axis(f"k{n}", size_of(v)) for n, v in enumerate(c.reduce))
    mapping.update(zip(c.reduce, taps, strict=True))
    taken = substitute_axes(c, mapping, axes, taps)
    if means is None:
        return taken, None
    means = drop_unit_axes(means)
    (along,) = means.reduce
    each = SUMS if size_of(along) % SUMS == 0 else 1
    mco, mci, mx = axis("mco", size // width), axis("mci", width), axis("mx", size_of(along) // each)
    myi = axis("myi", together)
    same: dict[Expr, Expr] = {co: mco, ci: mci, yi: myi}
    at: dict[Expr, Expr] = {m: substitute(mapping[v], same) for m, v in zip(means.axes, (*outer, channel), strict=True)}
    pixels = [substitute(means.body, {along: mx * each + n}) for n in range(each)]
    means = replace(means, body=sum(pixels[1:], pixels[0]), reduce=(mx,))
    left = (p, *([myi] if together > 1 else []), *([] if by_channel else [mco]), mci)
    return taken, substitute_axes(means, at, left, (mx,))


def _shares_rows(c: Compute, machine: Machine) -> bool:
    """Whether several rows are computed at once, so that those of the window that they share are loaded once: in long rows,
    with a stride of one, where the registers hold all of it."""
    *outer, x, _ = c.axes
    if not outer or is_open(outer[-1]) or is_open(x) or len(c.reduce) != 2 or machine.vector_registers < 32:
        return False
    if any(map(is_open, outer)) or size_of(outer[-1]) % ROWS or size_of(x) <= SHORT_ROW or size_of(x) % PAIRED_PIXELS:
        return False
    reads = [r for r in c.reads() if any(uses(i, c.reduce[0]) for i in r.idx) and any(uses(i, x) for i in r.idx)]
    return bool(reads) and all(coefficient(r.buf, r.idx, outer[-1]) == coefficient(r.buf, r.idx, c.reduce[0]) for r in reads)


def _schedule_part(group: Group, c: Compute, means: Compute | None, machine: Machine) -> Kernel:
    k = lower_group("window", group.params, (c,) if means is None else (c, means))
    if means is not None:
        row, mean = (s for s in k.body if isinstance(s, For))  # of one p: what the second reads, the first has written
        k = sink(replace(k, body=(replace(row, body=row.body + mean.body),)), ["mci"])
    taps = prod(size_of(v) for v in c.reduce)
    pairs = ["yi"] if any(v.name == "yi" for v in c.axes) else []
    pixels = PAIRED_PIXELS if pairs else min(PIXELS, max(1, UNROLLED * 4 // taps))
    (x,) = (v for v in c.axes if v.name == "x")
    if is_open(x):
        k, inners = tiles_of(k, x, pixels, "xi")[0], ["xi"]
    else:
        k, tiles = split_evenly(k, "x", pixels)
        inners = [t.inner for t in tiles]
    for inner in inners:
        blocks = ["co"] if any(v.name == "co" for v in c.axes) else []
        if blocks or pairs:
            k = reorder(k, [inner, *pairs, *blocks, "ci"], [*blocks, *pairs, inner, "ci"])
        k = sink(k, [*pairs, inner, "ci"])
        k = unroll(k, *pairs, inner)
    unrolled = [v.name for v in c.reduce] if taps <= UNROLLED else [c.reduce[-1].name]
    k = legalize_math(parallel(unroll(k, *unrolled), "p"), machine)
    k = fma_contract(k) if machine.fma else k
    return vectorize(k if means is None else vectorize(k, "mci"), "ci")


