"""The sums of a sparse product of integers: instructions that add `count` products of neighbours in every lane.

Blocks of R x 1 are taken `count` at a time (four of bytes, two of 16 bits), whichever steps of the reduction they belong to.
The rows of those steps are interleaved in registers, so that a lane holds what one row multiplies, and serve R outputs:

    words[row] = copy[index[0], row], copy[index[1], row], ..        shuffles of `count` loaded vectors, or one load: below
    for r < R: sums[r, row] += dot(words[row], values[.., r])        one instruction for each vector of rows

Lists are filled up to a multiple of `count` by blocks of zeros (`SparseWeights`).

Of blocks R x 4, whose steps are neighbours, the copy has words already: they are read as they lie, and nothing is filled up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.expr import Call, Expr, Load, Shuffle, Type, Var, as_expr, binary, cast, const, load, splat
from ...ir.kernel import Alloc, Block, Buffer, For, Prefetch, Stmt, Store, axis
from ..machine import Machine
from ..schedule.vectors import ADDED_APART
from .product import Dot
from .sparse_weights import SparseWeights


def packed_values(w: SparseWeights, count: int) -> np.ndarray:
    """[blocks / count, R] in i32: the `count` neighbours of a word in the order of their steps, the first one lowest; count 1:
    words already."""
    values = w.values()
    groups = values.reshape(-1, count, w.layout.block).transpose(0, 2, 1)
    return np.ascontiguousarray(groups).view(np.int32).reshape(-1, w.layout.block)


@dataclass(frozen=True)
class IntegerSums:
    """copy: the left operand; at: number of a block -> element of it where its rows begin.  values, starts: of the weights,
    in groups of `count` blocks.  order: which group of a chunk stands where (None: in order).
    width: rows of a panel.  lanes: of a vector of sums."""

    w: SparseWeights
    dot: Dot
    copy: Buffer
    at: Callable[[Expr], Expr]
    values: Buffer
    starts: Buffer
    order: Buffer | None
    width: int
    lanes: int
    count: int

    def block(self, sums: Buffer, chunk: Expr) -> Block:
        """sums [outputs, rows] = the products of one chunk of outputs with one panel of rows."""
        w, height = self.w, self.w.layout.block
        t, g = axis("t", w.tiles), axis("g", w.groups)
        several = w.tiles > 1
        pitch = sums.static_shape[1]
        acc = Buffer("acc", "i32", (height, pitch), "register")
        tile: Expr = t if several else as_expr(0)
        first = cast(load(self.starts, chunk, tile, g), "i64")
        q = Var.of("q", cast(load(self.starts, chunk, tile, g + 1), "i64") - first)
        place: Expr = g if self.order is None else cast(load(self.order, chunk, tile, g), "i64")
        pieces = [(v, min(self.lanes, self.width - v)) for v in range(0, self.width, self.lanes)]

        def each(value: Callable[[int, int, int], Stmt]) -> list[Stmt]:
            return [value(r, v, n) for r in range(height) for v, n in pieces]

        def own(r: int, v: int) -> tuple[Expr, Expr]:
            return place * height + r, as_expr(v)

        def held(r: int, v: int, n: int) -> Expr:
            return Load.of(acc, (as_expr(r), as_expr(v)), Type("i32", n))

        zero = const(0, "i32")
        clear = each(lambda r, v, n: Store(
            acc, (as_expr(r), as_expr(v)), Load.of(sums, own(r, v), Type("i32", n)) if several else splat(zero, n)))
        words, made = self._words(q + first) if self.count > 1 else self._whole_words(q + first)
        for r in range(height):
            weight = Load.of(self.values, (q + first, as_expr(r)), Type("i32"))
            for v, n in pieces:
                x = Load.of(words, (as_expr(v),), Type("i32", n))
                made.append(Store(acc, (as_expr(r), as_expr(v)), self._added(held(r, v, n), x, splat(weight, n))))
        out = each(lambda r, v, n: Store(sums, own(r, v), held(r, v, n)))
        work = For(q, (Alloc(words), *made), "serial", ("reduce",))
        groups = For(g, (Alloc(acc), *clear, work, *out))
        if not several:
            return (groups,)
        z = axis("z", w.layout.chunk)
        zeros = For(z, tuple(Store(sums, (z, as_expr(v)), splat(zero, n)) for v, n in pieces))
        return zeros, For(t, (groups,), "serial", ("reduce",))

    def _added(self, total: Expr, x: Expr, w: Expr) -> Expr:
        if self.dot.fn in ADDED_APART:
            return binary("add", total, Call.of(self.dot.fn, (x, w), total.type))
        return Call.of(self.dot.fn, (total, x, w), total.type)

    def _whole_words(self, group: Expr) -> tuple[Buffer, list[Stmt]]:
        """The rows of one step, and those that are read soon asked for where the copy is not tiled."""
        words, begin = Buffer("words", "i32", (self.width,), "register"), self.at(group)
        made: list[Stmt] = []
        for v in range(0, self.width, self.lanes):
            n = min(self.lanes, self.width - v)
            made.append(Store(words, (as_expr(v),), Load.of(self.copy, (begin + v,), Type("i32", n))))
        made.append(Prefetch(self.values, (group + SOON // (4 * self.w.layout.block), as_expr(0)), 1))
        if self.w.tiles == 1:
            ahead = self.at(group + AHEAD)
            made += [Prefetch(self.copy, (ahead + v,), 1) for v in range(0, self.width, LINE)]
        return words, made

    def _words(self, group: Expr) -> tuple[Buffer, list[Stmt]]:
        """The rows of `count` steps, interleaved: two vectors of words from one load of each step where there are two."""
        count = self.count
        words = Buffer("words", "i32", (self.width,), "register")
        made: list[Stmt] = []
        begins = [self.at(group * count + i) for i in range(count)]
        v = 0
        while v < self.width:
            n = 2 * self.lanes if self.width - v >= 2 * self.lanes else min(self.lanes, self.width - v)
            type = Type(self.copy.dtype, n)
            vectors: list[Expr] = [Load.of(self.copy, (b + v,), type) for b in begins]
            joined = vectors
            while len(joined) > 1:  # halves side by side
                size = joined[0].type.lanes * 2
                wide = Type(type.dtype, size)
                joined = [Shuffle.of(a, b, tuple(range(size)), wide) for a, b in zip(joined[::2], joined[1::2], strict=True)]
            for start in range(0, n, self.lanes):
                lanes = min(self.lanes, n - start)
                mask = tuple(i * n + start + r for r in range(lanes) for i in range(count))
                mixed = Shuffle.of(joined[0], joined[0], mask, Type(type.dtype, lanes * count))
                made.append(Store(words, (as_expr(v + start),), Call.of("bitcast", (mixed,), Type("i32", lanes))))
            v += n
        return words, made


AHEAD = 8  # blocks: what a block reads is asked for so much earlier where it comes from the second-level cache
LINE = 16  # words in a cache line
SOON = 1536  # bytes: weights are asked for so much earlier, since they may come from memory
OVERHEAD = 1.1  # of a group of blocks over its instructions
COPY_CYCLES = 2.0  # per 16 elements of the left operand
SHAPES = {
    32: ((8, 2, 1), (4, 4, 1), (2, 4, 1), (1, 8, 1)), 16: ((4, 2, 1), (2, 4, 1), (1, 4, 1)), 8: ((2, 2, 1), (1, 2, 1)),
}
"""Registers of the machine -> (R, vectors of rows in a panel, 1), the coarsest blocks first."""


def cycles_of_group(block: int, vectors: int, count: int, machine: Machine) -> float:
    """Of `count` blocks: dot instructions, loads, and the shuffles that interleave (measured for each vector of words)."""
    cheap = count == 2 or machine.arch != "x86_64" or "vpermi2b" in machine.calls
    dots, shuffles = block * vectors, (2 if cheap else 5) * vectors
    return OVERHEAD * max((dots + shuffles / 2) / 2, (count * -(-vectors // 2) + block) / 2, 4.0)
