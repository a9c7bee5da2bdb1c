"""Depthwise convolution with the instruction that adds the products of neighbours: four bytes, or two of bf16.

Neighbours are channels here, which must not be added, so weights are spread: for each of the places in a group there
is a vector of weights that is zero at the others.  One vector of elements, read as it lies, then gives the sums of every
fourth (second) channel with one instruction:

    sums[j][i] += dot(x[4 i .. 4 i + 3], w[j][i]),  w[j][i] = (.., weight of channel 4 i + j at place j, ..)

The sums are finished in that order, with parameters packed in it, and the results are interleaved where they are
stored.  That uses a quarter (half) of the instruction's products, and still half of the instructions that conversion,
multiplication and addition would take.  An infinity of bf16 makes NaN of the channel beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.compute import Compute, acc_var
from ...ir.expr import Call, Expr, Load, Type, Var, as_expr, binary, cast, splat
from ...ir.kernel import Alloc, Block, Buffer, For, Kernel, Stmt, Store, axis, coefficient, nest
from ...ir.traverse import substitute, uses, walk
from ...ir.types import DTYPES
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, parallel, sink, split_evenly, unroll
from .axes import drop_unit_axes, size_of
from .image_shares import row_and_block
from .join import join_kernels
from .product import PAIRS, Dot, find_dot, operands
from .scheduled import Group, Pack, Scheduled

GROUP = 4  # bytes
WORD = 4  # bytes of a group
MAX_TAPS = 32  # taps of a window that are unrolled completely; of larger ones, one row is


@dataclass(frozen=True)
class Depthwise:
    """compute: over (*outer, x, channel) and the window.  parameters: what the finish reads, one element per channel."""

    compute: Compute
    left: Load
    right: Load
    dot: Dot
    parameters: tuple[Load, ...]

    @property
    def channel(self) -> Var:
        return self.compute.axes[-1]

    @property
    def group(self) -> int:
        """Neighbours that the instruction adds."""
        return self.dot.count


def find_depthwise(group: Group, c: Compute, machine: Machine) -> Depthwise | None:
    """The computation as a depthwise convolution of bytes, or of bf16, with constant weights, or None."""
    c = drop_unit_axes(c)
    pair = operands(c)
    if pair is None or len(c.axes) < 2 or not c.reduce:
        return None
    channel = c.axes[-1]
    left, right = pair if pair[1].buf.name in group.constants else pair[::-1]
    dot = find_dot(left.type.dtype, right.type.dtype, c.acc, machine)
    steps = [coefficient(b, i, channel) for b, i in ((left.buf, left.idx), (right.buf, right.idx), (c.out, c.out_index))]
    if dot is None or (dot.count != GROUP and dot != PAIRS) or steps != [1, 1, 1] or size_of(channel) % dot.count:
        return None
    if DTYPES[c.out.dtype].size * dot.count != WORD:
        return None
    if right.buf.name not in group.constants or any(uses(i, v) for i in right.idx for v in c.axes[:-1]):
        return None
    found = {e: None for root in (c.finish, c.init) if isinstance(root, Expr) for e in walk(root) if isinstance(e, Load)}
    plain = all(e.idx == (channel,) and e.buf.name in group.constants and e.buf.strides is None for e in found)
    return Depthwise(c, left, right, dot, tuple(found)) if plain else None


def schedule_depthwise(group: Group, d: Depthwise, machine: Machine) -> Scheduled:
    """Blocks of as many channels as a vector has elements, and one narrower block; or several pixels of few channels."""
    lanes = machine.lanes("i32")
    channels, width = size_of(d.channel), lanes * d.group
    whole, pixels = channels // width * width, neighbours(d, width)
    parts = [(0, whole, lanes)] * (whole > 0) + [(whole, channels - whole, (channels - whole) // d.group)] * (whole < channels)
    kernels, packs = [], []
    for n, (start, size, each) in enumerate(parts):
        part = _Part(d, n, start, size // (d.group * each), each, pixels)
        kernels.append(part.kernel(group, machine))
        packs += part.packs()
    note = f"{_pixels(d.group, machine)} pixels x {min(width, channels)} channels at once, weights spread over groups"
    return Scheduled(join_kernels("depthwise", kernels), tuple(packs), note)


def neighbours(d: Depthwise, width: int) -> int:
    """How many pixels that lie next to each other, in the input as in the output, fill a vector."""
    c, channels = d.compute, size_of(d.channel)
    x = c.axes[-2]
    steps = {coefficient(buf, idx, x) for buf, idx in ((d.left.buf, d.left.idx), (c.out, c.out_index))}
    if channels >= width or width % channels or steps != {channels}:
        return 1
    return next(n for n in range(width // channels, 0, -1) if size_of(x) % n == 0)


@dataclass(frozen=True)
class _Part:
    """Channels start .. start + blocks * neighbours * groups, of so many pixels in one vector."""

    d: Depthwise
    number: int
    start: int
    blocks: int
    groups: int
    pixels: int

    @property
    def lanes(self) -> int:
        return self.groups * self.pixels

    @property
    def weights(self) -> Buffer:
        taps = [size_of(v) for v in self.d.compute.reduce]
        return Buffer(f"w{self.number}", self.d.right.buf.dtype, (self.blocks, *taps, self.d.group, self.lanes, self.d.group))

    def parameter(self, n: int) -> Buffer:
        dtype = self.d.parameters[n].buf.dtype
        return Buffer(f"q{self.number}_{n}", dtype, (self.blocks, self.d.group, self.pixels, self.groups))

    def packs(self) -> list[tuple[str, Pack]]:
        """Spread weights, and parameters in the order [block][place in the group][group]."""
        d = self.d
        shape = tuple(int(n) for n in self.weights.shape)  # type: ignore[arg-type]
        taps = prod(size_of(v) for v in d.compute.reduce)
        spread = _Spread(self.start, self.blocks, taps, self.groups, self.pixels, d.group)
        steps = dense_steps(shape)
        made = [(self.weights.name, Pack(d.right.buf.name, shape, (0,), tuple((s,) for s in steps), spread))]
        for n, p in enumerate(d.parameters):
            order = ((d.group * self.groups,), (1,), (0,), (d.group,))
            pack = Pack(p.buf.name, (self.blocks, d.group, self.pixels, self.groups), (self.start,), order)
            made.append((self.parameter(n).name, pack))
        return made

    def kernel(self, group: Group, machine: Machine) -> Kernel:
        c = self.d.compute
        *outer, x = c.axes[:-1]
        rows = prod(size_of(v) for v in outer)
        p, px = axis("p", rows * self.blocks), axis("x", size_of(x) // self.pixels)
        flat, block = row_and_block(p, rows, self.blocks, WORD * self.groups, size_of(self.d.channel) * WORD // self.d.group)
        mapping: dict[Expr, Expr] = {x: px * self.pixels, c.axes[-1]: block * (self.d.group * self.groups) + self.start}
        for v in reversed(outer):
            mapping[v] = flat % size_of(v) if v is not outer[0] else flat
            flat = flat // size_of(v)
        taps = tuple(axis(f"k{n}", size_of(v)) for n, v in enumerate(c.reduce))
        mapping.update(zip(c.reduce, taps, strict=True))
        acc = Buffer("acc", c.acc, (self.d.group, self.lanes), "register")
        parameters = tuple(self.parameter(n) for n in range(len(self.d.parameters)))
        body = (Alloc(acc), *self.start_sums(acc, block), *nest(taps, self.step(acc, block, taps, mapping), attrs=("reduce",)),
                self.finish(acc, block, mapping))
        k = Kernel("depthwise", (*group.params, self.weights, *parameters), (For(p, (For(px, body),)),))
        k = _pixels_inside(k, _pixels(self.d.group, machine))
        k = unroll(k, *(v.name for v in (taps if prod(map(size_of, taps)) <= MAX_TAPS else taps[-1:])))
        k = legalize_math(parallel(k, "p"), machine)
        return fma_contract(k) if machine.fma else k

    def start_sums(self, acc: Buffer, block: Expr) -> list[Stmt]:
        c, wide = self.d.compute, Type(acc.dtype, self.lanes)
        start = c.init if isinstance(c.init, Expr) else as_expr(c.init or 0, Type(acc.dtype))
        return [Store(acc, _at(j), splat(self.with_parameters(start, block, j), wide.lanes)) for j in range(self.d.group)]

    def step(self, acc: Buffer, block: Expr, taps: tuple[Var, ...], mapping: dict[Expr, Expr]) -> Block:
        d, wide = self.d, Type("i32", self.lanes)
        x = Load.of(d.left.buf, tuple(substitute(i, mapping) for i in d.left.idx), wide)
        sums = Type(acc.dtype, self.lanes)
        return tuple(
            Store(acc, _at(j), Call.of(d.dot.fn, (
                Load.of(acc, _at(j), sums), x,
                Load.of(self.weights, (block, *taps, as_expr(j), as_expr(0), as_expr(0)), wide),
            ), sums))
            for j in range(d.group)
        )

    def finish(self, acc: Buffer, block: Expr, mapping: dict[Expr, Expr]) -> Stmt:
        c, n = self.d.compute, self.lanes
        results = []
        for j in range(self.d.group):
            value: Expr = Load.of(acc, _at(j), Type(acc.dtype, n))
            if c.finish is not None:
                value = substitute(self.with_parameters(c.finish, block, j), {acc_var(c.acc): value})
            results.append(splat(cast(_bits(splat(cast(value, c.out.dtype), n)), "i32"), n))
        together = results[0]
        for j in range(1, self.d.group):
            together = binary("or", together, binary("shl", results[j], 8 * WORD // self.d.group * j))
        interleaved = Call.of("bitcast", (together,), Type(c.out.dtype, self.d.group * n))
        return Store(c.out, tuple(substitute(i, mapping) for i in c.out_index), interleaved)

    def with_parameters(self, e: Expr, block: Expr, j: int) -> Expr:
        """The expression with its parameters as the vectors of one place in the groups."""
        return substitute(e, {
            p: Load.of(self.parameter(n), (block, as_expr(j), as_expr(0), as_expr(0)), p.type.with_lanes(self.lanes))
            for n, p in enumerate(self.d.parameters)
        })


@dataclass(frozen=True)
class _Spread:
    """Weights[*window, 1, C] as [block, tap, place, group, place of the byte], flat; zero where the places differ."""

    start: int
    blocks: int
    taps: int
    groups: int
    pixels: int
    group: int

    def __call__(self, array: np.ndarray) -> np.ndarray:
        w = array.reshape(self.taps, -1)[:, self.start : self.start + self.blocks * self.groups * self.group]
        w = w.reshape(self.taps, self.blocks, self.groups, self.group).transpose(1, 0, 3, 2)
        w = np.tile(w, self.pixels)
        spread = w[..., None] * np.eye(self.group, dtype=array.dtype)[:, None, :]
        return np.ascontiguousarray(spread).reshape(-1)


def _bits(x: Expr) -> Expr:
    """The bits of a result as an unsigned integer."""
    return Call.of("bitcast", (x,), Type("u16", x.type.lanes)) if x.type.dtype == "bf16" else cast(x, "u8")


def _pixels(group: int, machine: Machine) -> int:
    """Pixels of a row at once: for each, a vector of elements and those of the sums stay in registers."""
    return max(1, (machine.vector_registers - 6) // (group + 1))


def dense_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def _at(j: int) -> tuple[Expr, ...]:
    return (as_expr(j), as_expr(0))


def _pixels_inside(k: Kernel, most: int) -> Kernel:
    """Several pixels of a row at once."""
    k, tiles = split_evenly(k, "x", most, inner="xi")
    return unroll(sink(k, ["xi"]), "xi") if tiles else k
