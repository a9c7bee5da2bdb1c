"""Windows: depthwise convolution and pooling, whose vectors run along the channels of input and output alike.

Several output pixels of a row are computed at once, so that the columns they share are loaded once; the window is
unrolled, the channels are vectors.  Threads share rows of pixels, or blocks of channels where there are few rows.
"""

from __future__ import annotations

from math import prod

from ...ir.compute import Compute, lower_group
from ...ir.expr import Expr, Var
from ...ir.kernel import Kernel, axis, coefficient
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, parallel, reorder, sink, split_evenly, unroll, vectorize
from .axes import drop_unit_axes, substitute_axes
from .contract import size_of
from .join import join_kernels
from .scheduled import Group, Scheduled

MAX_WINDOW = 128  # taps; larger windows are ordinary reductions
PIXELS = 7  # output pixels at once
UNROLLED = 64  # taps times pixels that are unrolled completely


def is_window(c: Compute) -> bool:
    """A reduction over a small window in which output and operands are contiguous along the last axis, or do not use it."""
    c = drop_unit_axes(c)
    if len(c.axes) < 2 or not c.reduce or prod(size_of(v) for v in c.reduce) > MAX_WINDOW:
        return False
    last = c.axes[-1]
    steps = [coefficient(r.buf, r.idx, last) for r in c.reads()]
    return coefficient(c.out, c.out_index, last) == 1 and all(s in (0, 1) for s in steps) and 1 in steps


def schedule_window(group: Group, c: Compute, machine: Machine) -> Scheduled:
    c = drop_unit_axes(c)
    lanes = machine.lanes(c.acc)
    channels = size_of(c.axes[-1])
    whole = channels // lanes * lanes
    parts = [(0, whole, lanes)] * (whole > 0) + [(whole, channels - whole, channels - whole)] * (whole < channels)
    kernels = [_schedule_part(group, _take(c, start, size, width), machine) for start, size, width in parts]
    note = f"up to {PIXELS} pixels x {min(lanes, channels)} channels at once"
    return Scheduled(join_kernels("window", kernels), note=note)


def _take(c: Compute, start: int, size: int, width: int) -> Compute:
    """Axes (p, [co,] x, ci) over a range of channels: p is shared by the threads, x are the pixels of a row."""
    *outer, x, channel = c.axes
    co, ci = axis("co", size // width), axis("ci", width)
    px = axis("x", size_of(x))
    rows = prod(size_of(v) for v in outer)
    blocks = size // width
    by_channel = size_of(x) <= 14 or rows < 8
    p = axis("p", rows * blocks if by_channel else rows)
    block: Expr = p // rows if by_channel else co
    flat: Expr = p % rows if by_channel else p
    mapping: dict[Expr, Expr] = {x: px, channel: block * width + ci + start}
    for v in reversed(outer):
        mapping[v] = flat % size_of(v) if v is not outer[0] else flat
        flat = flat // size_of(v)
    axes: tuple[Var, ...] = (p, px, ci) if by_channel else (p, px, co, ci)
    taps = tuple(axis(f"k{n}", size_of(v)) for n, v in enumerate(c.reduce))
    mapping.update(zip(c.reduce, taps, strict=True))
    return substitute_axes(c, mapping, axes, taps)


def _schedule_part(group: Group, c: Compute, machine: Machine) -> Kernel:
    k = lower_group("window", group.params, (c,))
    taps = prod(size_of(v) for v in c.reduce)
    pixels = min(PIXELS, max(1, UNROLLED * 4 // taps))
    k, tiles = split_evenly(k, "x", pixels)
    for t in tiles:
        if len(c.axes) == 4:
            k = reorder(k, [t.inner, "co", "ci"], ["co", t.inner, "ci"])
        k = sink(k, [t.inner, "ci"])
        k = unroll(k, t.inner)
    inner = [v.name for v in c.reduce] if taps <= UNROLLED else [c.reduce[-1].name]
    k = legalize_math(parallel(unroll(k, *inner), "p"), machine)
    return vectorize(fma_contract(k) if machine.fma else k, "ci")


