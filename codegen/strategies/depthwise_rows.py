"""Depthwise convolution of bytes whose window has few rows: the instruction adds four rows of one channel.

Up to four rows of the input are interleaved byte by byte, so that a word holds one channel of one column in all of them; it
is multiplied with that channel's weights.  Several rows of the output share the words: of a window of three rows and stride
one, two of them use all four places.

    words[j] = interleave(x[y .. y + 3, column, channels])            eight shuffles for each column, and four words
    for each output row r, pixel, place of the column in its window, j:
        sums[r][pixel][j] += dot(words[j], w[place][r][j])            weights of row t - r at place t, 0 outside of the window

Beside spread weights (`depthwise`) that is a third of the products.  Interleaving runs in parts of sixteen bytes: word k of
part l of words[j] is channel 16 l + 4 j + k.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.compute import acc_var
from ...ir.expr import Call, Expr, Load, Shuffle, Type, as_expr, binary, cast, splat
from ...ir.kernel import Alloc, Buffer, For, Kernel, Stmt, Store, axis, coefficient
from ...ir.traverse import substitute
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, parallel
from .axes import size_of
from .depthwise import GROUP, Depthwise, dense_steps, neighbours
from .image_shares import row_and_block
from .join import join_kernels
from .scheduled import Group, Pack, Scheduled

PART = 16  # bytes within which shuffles interleave


@dataclass(frozen=True)
class DepthwiseRows:
    """d: over (*outer, y, x, channel) and a window of two axes.  stride: rows (in rows of the window) and columns from
    one output to the next.  rows: of the output, at once."""

    d: Depthwise
    stride: tuple[int, int]
    rows: int

    @property
    def window(self) -> tuple[int, int]:
        y, x = map(size_of, self.d.compute.reduce)
        return y, x


def find_rows(d: Depthwise, machine: Machine) -> DepthwiseRows | None:
    """Whether words of four rows serve: x86, a window of two to four rows, channels in whole parts, pixels that share columns
    (with a stride of two, interleaving took longer than spread weights)."""
    c = d.compute
    if machine.arch != "x86_64" or d.dot.fn != "vpdpbusd" or len(c.reduce) != 2 or len(c.axes) < 3 or machine.lanes("i32") < 8:
        return None
    strides = []
    for a, k in zip(c.axes[-3:-1], c.reduce, strict=True):
        outer, inner = (coefficient(d.left.buf, d.left.idx, v) for v in (a, k))
        if not isinstance(outer, int) or not isinstance(inner, int) or inner <= 0 or outer % inner:
            return None
        strides.append(outer // inner)
    height = size_of(c.reduce[0])
    if strides[1] != 1 or not 2 <= height <= GROUP or size_of(d.channel) % PART:
        return None
    rows = min((GROUP - height) // strides[0] + 1, size_of(c.axes[-3]))
    return DepthwiseRows(d, (strides[0], strides[1]), rows)


def schedule_depthwise_rows(group: Group, r: DepthwiseRows, machine: Machine) -> Scheduled:
    """Blocks of as many channels as a vector has bytes, and one narrower block; or several pixels of few channels."""
    d, lanes = r.d, machine.lanes("i32")
    channels, width = size_of(d.channel), lanes * GROUP
    whole, pixels = channels // width * width, neighbours(d, width)
    ranges = [(0, whole, width)] * (whole > 0) + [(whole, channels - whole, channels - whole)] * (whole < channels)
    height = size_of(d.compute.axes[-3])
    bands = [(0, height // r.rows, r.rows)] + [(height // r.rows * r.rows, 1, height % r.rows)] * (height % r.rows > 0)
    kernels, packs = [], {}
    for n, (start, size, each) in enumerate(ranges):
        for first, count, rows in bands:
            part = _Part(r, f"{n}_{rows}", start, size // each, each, pixels, first, count, rows)
            kernels.append(part.kernel(group, machine))
            packs |= dict(part.packs())
    note = f"{r.rows} rows x {_pixels(machine, r.rows)} pixels x {min(width, channels)} channels at once, four rows in a word"
    return Scheduled(join_kernels("depthwise", kernels), tuple(packs.items()), note)


def _pixels(machine: Machine, rows: int) -> int:
    """Pixels at once: their sums stay in registers, with a column's words and what interleaving takes."""
    return max(1, (machine.vector_registers - GROUP - 3) // (GROUP * rows))


@dataclass(frozen=True)
class _Part:
    """Channels start .. start + blocks * each and rows first .. first + count * rows of the output; `pixels` neighbours
    share a vector."""

    r: DepthwiseRows
    name: str
    start: int
    blocks: int
    each: int
    pixels: int
    first: int
    count: int
    rows: int

    @property
    def d(self) -> Depthwise:
        return self.r.d

    @property
    def bytes(self) -> int:
        return self.each * self.pixels

    @property
    def lanes(self) -> int:
        return self.bytes // GROUP

    @property
    def weights(self) -> Buffer:
        shape = (self.blocks, self.r.window[1], self.rows, GROUP, self.lanes, GROUP)
        return Buffer(f"w{self.name}", self.d.right.buf.dtype, shape)

    def parameter(self, n: int) -> Buffer:
        shape = (self.blocks, GROUP, self.pixels, self.each // PART, GROUP)
        return Buffer(f"q{self.name.split('_')[0]}_{n}", self.d.parameters[n].buf.dtype, shape)

    def packs(self) -> list[tuple[str, Pack]]:
        d, shape = self.d, tuple(int(n) for n in self.weights.shape)  # type: ignore[arg-type]
        spread = _Rows(self.start, self.blocks, self.each, self.pixels, self.rows, self.r.stride[0], self.r.window)
        made = [(self.weights.name, Pack(d.right.buf.name, shape, (0,), tuple((s,) for s in dense_steps(shape)), spread))]
        for n, p in enumerate(d.parameters):
            buf = self.parameter(n)
            steps = ((self.each,), (GROUP,), (0,), (PART,), (1,))
            made.append((buf.name, Pack(p.buf.name, buf.shape, (self.start,), steps)))
        return made

    def kernel(self, group: Group, machine: Machine) -> Kernel:
        c = self.d.compute
        *outer, y, x = c.axes[:-1]
        bands = prod(size_of(v) for v in outer) * self.count
        share = axis("p", bands * self.blocks)
        flat, block = row_and_block(share, bands, self.blocks, self.each, size_of(self.d.channel))
        place: dict[Expr, Expr] = {y: flat % self.count * self.rows + self.first,
                                   self.d.channel: block * self.each + self.start}
        flat = flat // self.count
        for v in reversed(outer):
            place[v] = flat % size_of(v) if v is not outer[0] else flat
            flat = flat // size_of(v)
        vectors, most = size_of(x) // self.pixels, _pixels(machine, self.rows)
        body: list[Stmt] = []
        if vectors >= most:
            tile = axis("x", vectors // most)
            at = {**place, x: tile * (most * self.pixels)}
            body.append(For(tile, tuple(self.tile(block, at, most))))
        if vectors % most:
            once, at = axis("once", 1), {**place, x: as_expr(vectors // most * most * self.pixels)}
            body.append(For(once, tuple(self.tile(block, at, vectors % most))))
        parameters = tuple(self.parameter(n) for n in range(len(self.d.parameters)))
        k = Kernel("depthwise", (*group.params, self.weights, *parameters), (For(share, tuple(body)),))
        k = legalize_math(parallel(k, "p"), machine)
        return fma_contract(k) if machine.fma else k

    def tile(self, block: Expr, at: dict[Expr, Expr], pixels: int) -> list[Stmt]:
        """`pixels` vectors of every row."""
        c, stride = self.d.compute, self.r.stride[1]
        acc = Buffer("acc", c.acc, (self.rows, pixels, GROUP, self.lanes), "register")
        start = c.init if isinstance(c.init, Expr) else as_expr(c.init or 0, Type(c.acc))
        cells = [(r, i, j) for r in range(self.rows) for i in range(pixels) for j in range(GROUP)]
        made: list[Stmt] = [Alloc(acc)]
        made += [Store(acc, _cell(*e), splat(self.with_parameters(start, block, e[2]), self.lanes)) for e in cells]
        step = self.pixels * stride
        places = {(i, k): i * step + k for i in range(pixels) for k in range(self.r.window[1])}
        for column in sorted(set(places.values())):
            words = Buffer(f"words{column}", "i32", (GROUP, self.lanes), "register")
            made += [Alloc(words), *self.interleave(words, at, column)]
            for (i, k), own in places.items():
                if own == column:
                    made += [self.multiply(acc, words, block, (r, i, j), k) for r in range(self.rows) for j in range(GROUP)]
        return [*made, *(self.finish(acc, block, at, r, i) for r in range(self.rows) for i in range(pixels))]

    def interleave(self, words: Buffer, at: dict[Expr, Expr], column: int) -> list[Stmt]:
        d, n = self.d, self.bytes
        ky, kx = d.compute.reduce
        used = (self.rows - 1) * self.r.stride[0] + self.r.window[0]
        type = Type(d.left.buf.dtype, n)

        def row(t: int) -> Expr:
            where = {**at, ky: as_expr(t if t < used else 0), kx: as_expr(column)}
            return Load.of(d.left.buf, tuple(substitute(i, where) for i in d.left.idx), type)

        rows = [row(t) for t in range(GROUP)]
        pairs = [[Shuffle.of(a, b, _unpack(n, 1, high), type) for high in (0, 1)] for a, b in (rows[:2], rows[2:])]
        made: list[Stmt] = []
        for j in range(GROUP):
            a, b = (p[j // 2] for p in pairs)
            word = Call.of("bitcast", (Shuffle.of(a, b, _unpack(n, 2, j % 2), type),), Type("i32", self.lanes))
            made.append(Store(words, (as_expr(j), as_expr(0)), word))
        return made

    def multiply(self, acc: Buffer, words: Buffer, block: Expr, cell: tuple[int, int, int], place: int) -> Stmt:
        wide, sums = Type("i32", self.lanes), Type(acc.dtype, self.lanes)
        r, _, j = cell
        zero = as_expr(0)
        w = Load.of(self.weights, (block, as_expr(place), as_expr(r), as_expr(j), zero, zero), wide)
        args = (Load.of(acc, _cell(*cell), sums), Load.of(words, (as_expr(j), zero), wide), w)
        return Store(acc, _cell(*cell), Call.of(self.d.dot.fn, args, sums))

    def finish(self, acc: Buffer, block: Expr, at: dict[Expr, Expr], r: int, i: int) -> Stmt:
        c, n = self.d.compute, self.lanes
        y, x = c.axes[-3:-1]
        together: Expr | None = None
        for j in range(GROUP):
            value: Expr = Load.of(acc, _cell(r, i, j), Type(acc.dtype, n))
            if c.finish is not None:
                value = substitute(self.with_parameters(c.finish, block, j), {acc_var(c.acc): value})
            one = splat(cast(cast(cast(value, c.out.dtype), "u8"), "i32"), n)
            together = one if together is None else binary("or", together, binary("shl", one, 8 * j))
        assert together is not None
        type = Type(c.out.dtype, self.bytes)
        mixed = Call.of("bitcast", (together,), type)
        order = tuple(part + 4 * k + j for part in range(0, self.bytes, PART) for j in range(GROUP) for k in range(GROUP))
        where = {**at, y: at[y] + r, x: at[x] + i * self.pixels}
        return Store(c.out, tuple(substitute(e, where) for e in c.out_index), Shuffle.of(mixed, mixed, order, type))

    def with_parameters(self, e: Expr, block: Expr, j: int) -> Expr:
        """The expression with its parameters as the vectors of words[j]."""
        return substitute(e, {
            p: Load.of(self.parameter(n), (block, as_expr(j), *(as_expr(0),) * 3), p.type.with_lanes(self.lanes))
            for n, p in enumerate(self.d.parameters)
        })


@dataclass(frozen=True)
class _Rows:
    """Weights[kh, kw, 1, C] as [block, column, output row, j, word, place], flat."""

    start: int
    blocks: int
    each: int
    pixels: int
    rows: int
    stride: int
    window: tuple[int, int]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        height, width = self.window
        w = array.reshape(height, width, -1)[:, :, self.start : self.start + self.blocks * self.each]
        places = np.zeros((self.rows, GROUP, width, w.shape[-1]), array.dtype)
        for r in range(self.rows):
            places[r, r * self.stride : r * self.stride + height] = w
        places = places.reshape(self.rows, GROUP, width, self.blocks, self.each // PART, GROUP, GROUP)
        places = np.moveaxis(places, (3, 2, 0, 5, 4, 6, 1), range(7))  # block, column, row, j, part, word, place
        places = np.tile(places, (1, 1, 1, 1, self.pixels, 1, 1))
        return np.ascontiguousarray(places).reshape(-1)


def _cell(r: int, i: int, j: int) -> tuple[Expr, ...]:
    return (as_expr(r), as_expr(i), as_expr(j), as_expr(0))


def _unpack(n: int, size: int, high: int) -> tuple[int, ...]:
    """Groups of `size` bytes of a and of b in turns, from the lower or the upper half of each part."""
    mask: list[int] = []
    for part in range(0, n, PART):
        first = part + high * (PART // 2)
        for k in range(first, first + PART // 2, size):
            mask += [*range(k, k + size), *range(n + k, n + k + size)]
    return tuple(mask)
