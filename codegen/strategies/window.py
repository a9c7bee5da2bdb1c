"""Windows: depthwise convolution and pooling, whose vectors run along the channels of input and output alike.

Several output pixels of a row are computed at once, so that the columns they share are loaded once; the window is
unrolled, the channels are vectors.  Threads share rows of pixels, or blocks of channels where there are few rows.  The mean
of each row, where it is asked for, is taken right after the row.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.compute import Compute, lower_group
from ...ir.dims import as_dim, multiply_dims
from ...ir.expr import Expr, Var, as_expr
from ...ir.kernel import For, Kernel, axis, coefficient
from ...ir.traverse import substitute
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
    taken = [_take(group, c, means, start, size, width, by_channel) for start, size, width in parts]
    kernels = [_schedule_part(group, *part, machine) for part in taken]
    note = f"up to {PIXELS} pixels x {min(lanes, channels)} channels at once" + ("; means of rows" if means else "")
    return Scheduled(join_kernels("window", kernels), note=note)


def _take(
    group: Group, c: Compute, means: Compute | None, start: int, size: int, width: int, by_channel: bool
) -> tuple[Compute, Compute | None]:
    """Axes (p, [co,] x, ci) over a range of channels: p is shared by the threads, x are the pixels of a row."""
    *outer, x, channel = c.axes
    co, ci = axis("co", size // width), axis("ci", width)
    px = axis("x", as_dim(as_expr(x.extent or 0)))
    rows = multiply_dims(as_dim(as_expr(v.extent or 0)) for v in outer)
    blocks = size // width
    by_channel = by_channel or typical(x.extent, group.symbols) <= 14 or (isinstance(rows, int) and rows < 8)
    p = axis("p", multiply_dims([rows, blocks]) if by_channel else rows)
    block: Expr = p // as_expr(rows) if by_channel else co
    flat: Expr = p % as_expr(rows) if by_channel else p
    if by_channel and isinstance(rows, int):
        element = DTYPES[c.out.dtype].size
        flat, block = row_and_block(p, rows, blocks, width * element, size_of(channel) * element)
    mapping: dict[Expr, Expr] = {x: px, channel: block * width + ci + start}
    for v in reversed(outer):
        mapping[v] = flat % as_expr(v.extent or 0) if v is not outer[0] else flat
        flat = flat // as_expr(v.extent or 0)
    axes: tuple[Var, ...] = (p, px, ci) if by_channel else (p, px, co, ci)
    taps = tuple(axis(f"k{n}", size_of(v)) for n, v in enumerate(c.reduce))
    mapping.update(zip(c.reduce, taps, strict=True))
    taken = substitute_axes(c, mapping, axes, taps)
    if means is None:
        return taken, None
    means = drop_unit_axes(means)
    (along,) = means.reduce
    each = SUMS if size_of(along) % SUMS == 0 else 1
    mco, mci, mx = axis("mco", size // width), axis("mci", width), axis("mx", size_of(along) // each)
    same: dict[Expr, Expr] = {co: mco, ci: mci}
    at: dict[Expr, Expr] = {m: substitute(mapping[v], same) for m, v in zip(means.axes, (*outer, channel), strict=True)}
    pixels = [substitute(means.body, {along: mx * each + n}) for n in range(each)]
    means = replace(means, body=sum(pixels[1:], pixels[0]), reduce=(mx,))
    return taken, substitute_axes(means, at, (p, mci) if by_channel else (p, mco, mci), (mx,))


def _schedule_part(group: Group, c: Compute, means: Compute | None, machine: Machine) -> Kernel:
    k = lower_group("window", group.params, (c,) if means is None else (c, means))
    if means is not None:
        row, mean = (s for s in k.body if isinstance(s, For))  # of one p: what the second reads, the first has written
        k = sink(replace(k, body=(replace(row, body=row.body + mean.body),)), ["mci"])
    taps = prod(size_of(v) for v in c.reduce)
    pixels = min(PIXELS, max(1, UNROLLED * 4 // taps))
    (x,) = (v for v in c.axes if v.name == "x")
    if is_open(x):
        k, inners = tiles_of(k, x, pixels, "xi")[0], ["xi"]
    else:
        k, tiles = split_evenly(k, "x", pixels)
        inners = [t.inner for t in tiles]
    for inner in inners:
        if len(c.axes) == 4:
            k = reorder(k, [inner, "co", "ci"], ["co", inner, "ci"])
        k = sink(k, [inner, "ci"])
        k = unroll(k, inner)
    unrolled = [v.name for v in c.reduce] if taps <= UNROLLED else [c.reduce[-1].name]
    k = legalize_math(parallel(unroll(k, *unrolled), "p"), machine)
    k = fma_contract(k) if machine.fma else k
    return vectorize(k if means is None else vectorize(k, "mci"), "ci")


