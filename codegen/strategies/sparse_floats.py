"""The sums of a sparse product of floats: every kept weight is broadcast and multiplies the rows of its step.

Blocks of several outputs load a step's rows once for all of them, so that multiply-adds are the limit:

    for each block: rows = copy[index[block]];  for r < R: sums[r] += values[block, r] * rows

Blocks of one or two outputs read the rows for few multiply-adds, so that loads are the limit: `bundle` groups of outputs run in
lockstep.  Their numbers of blocks are equal (`SparseWeights`: sorted, and filled up to the longest), one load gives the steps
of all of them, one load their weights, which shuffles broadcast:

    for each step: places = index[step] (a word);  weights = values[step];
        for each group b: for r < R: sums[b, r] += weights[b, r] * copy[place b]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.expr import Expr, Load, Shuffle, Type, Var, as_expr, binary, cast, const, load, splat
from ...ir.kernel import Alloc, Block, Buffer, For, Prefetch, Stmt, Store, axis
from ...ir.types import DTYPES
from .sparse_integers import AHEAD, LINE, SOON
from .sparse_weights import SparseWeights

WORD = 8  # bytes of indices that one load gives
QUAD = 4  # weights that lie in one part of a vector, within which shuffles are cheap


@dataclass(frozen=True)
class FloatSums:
    """copy: the left operand; base: where the panel begins in it; each: elements of it per unit of `index`.  values, index,
    starts: of the weights (`starts` counts blocks; with bundles, steps of a bundle).  order: which group of a chunk stands
    where (None: in order).  width: rows of a panel.  lanes: of a vector."""

    w: SparseWeights
    copy: Buffer
    base: Expr
    each: int
    values: Buffer
    index: Buffer
    starts: Buffer
    order: Buffer | None
    width: int
    lanes: int

    def block(self, sums: Buffer, chunk: Expr) -> Block:
        """sums [outputs, rows] = the products of one chunk of outputs with one panel of rows."""
        w, size = self.w, self.w.layout
        several = w.tiles > 1
        t, g = axis("t", w.tiles), axis("g", w.groups // size.bundle)
        tile: Expr = t if several else as_expr(0)
        first = cast(load(self.starts, chunk, tile, g), "i64")
        q = Var.of("q", cast(load(self.starts, chunk, tile, g + 1), "i64") - first)
        acc = Buffer("acc", "f32", (size.bundle * size.block, sums.static_shape[1]), "register")
        places = [self._place(chunk, tile, g * size.bundle + b) for b in range(size.bundle)]

        def each(value: Callable[[int, int, int], Stmt]) -> list[Stmt]:
            return [value(r, v, n) for r in range(size.bundle * size.block) for v, n in self._pieces()]

        def own(r: int, v: int) -> tuple[Expr, Expr]:
            return places[r // size.block] * size.block + r % size.block, as_expr(v)

        def held(r: int, v: int, n: int) -> Expr:
            return Load.of(acc, (as_expr(r), as_expr(v)), Type("f32", n))

        zero = const(0.0, "f32")
        clear = each(lambda r, v, n: Store(
            acc, (as_expr(r), as_expr(v)), Load.of(sums, own(r, v), Type("f32", n)) if several else splat(zero, n)))
        begin = Buffer("begin", "i64", (1,), "register")  # not loaded again for every block
        at = q + load(begin, 0)
        step = self._bundle(at) if size.bundle > 1 else self._one(at)
        products: list[Stmt] = list(step.before)
        for r in range(size.bundle * size.block):
            for v, n in self._pieces():
                x = Load.of(self.copy, (step.rows[r // size.block] + v,), Type("f32", n))
                products.append(Store(acc, (as_expr(r), as_expr(v)), binary("add", held(r, v, n), step.weight(r, n) * x)))
        out = each(lambda r, v, n: Store(sums, own(r, v), held(r, v, n)))
        ahead = self._soon(begin) if size.bundle > 1 else ()
        work = For(q, tuple(products), "serial", ("reduce",))
        groups = For(g, (Alloc(acc), Alloc(begin), Store(begin, (as_expr(0),), first), *clear, *ahead, work, *out))
        if not several:
            return (groups,)
        z = axis("z", size.chunk)
        zeros = For(z, tuple(Store(sums, (z, as_expr(v)), splat(zero, n)) for v, n in self._pieces()))
        return zeros, For(t, (groups,), "serial", ("reduce",))

    def _pieces(self) -> list[tuple[int, int]]:
        """(first row, rows) of each vector."""
        return [(v, min(self.lanes, self.width - v)) for v in range(0, self.width, self.lanes)]

    def _place(self, chunk: Expr, tile: Expr, group: Expr) -> Expr:
        return group if self.order is None else cast(load(self.order, chunk, tile, group), "i64")

    def _at(self, unit: Expr) -> Expr:
        return self.base + cast(unit, "i64") * self.each

    def _one(self, block: Expr) -> _Step:
        """One block; the rows of a later one are asked for where they come from the second-level cache, and weights always."""
        before: list[Stmt] = [Prefetch(self.values, (block + SOON // (4 * self.w.layout.block), as_expr(0)), 1)]
        if self.w.tiles == 1:
            ahead = self._at(load(self.index, block + AHEAD))
            before += [Prefetch(self.copy, (ahead + v,), 1) for v in range(0, self.width, LINE)]
        rows = [self._at(load(self.index, block))]
        if self.w.layout.block != QUAD:
            return _Step(tuple(before), rows, lambda r, n: splat(load(self.values, block, as_expr(r)), n))
        spread, weight = self._weights(block)
        return _Step((*before, *spread), rows, weight)

    def _bundle(self, step: Expr) -> _Step:
        """One block of each group of a bundle."""
        size, bits = self.w.layout, 8 * DTYPES[self.index.dtype].size
        each = 8 * WORD // bits
        rows: list[Expr] = []
        for b in range(size.bundle):
            if size.bundle % each:
                rows.append(self._at(load(self.index, step * size.bundle + b)))
                continue
            word: Expr = Load.of(self.index, (step * size.bundle + b // each * each,), Type("u64"))
            word = binary("shr", word, b % each * bits) if b % each else word
            rows.append(self._at(binary("and", word, (1 << bits) - 1)))
        spread, weight = self._weights(step)
        return _Step(tuple(spread), rows, weight)

    def _weights(self, step: Expr) -> tuple[list[Stmt], Callable[[int, int], Expr]]:
        """(the weights of a step loaded at once, repeated over a vector; (which one, lanes) -> it in all lanes)."""
        count = self.w.layout.bundle * self.w.layout.block
        spread = max(count, self.lanes // count * count)
        wide = Type("f32", spread)
        weights = Buffer("weights", "f32", (spread,), "register")
        whole = Load.of(self.values, (step, as_expr(0)), Type("f32", count))
        repeated = Shuffle.of(whole, whole, tuple(i % count for i in range(spread)), wide)
        held = Load.of(weights, (as_expr(0),), wide)

        def weight(r: int, n: int) -> Expr:
            return Shuffle.of(held, held, tuple(r + i // count * count % spread for i in range(n)), Type("f32", n))

        return [Alloc(weights), Store(weights, (as_expr(0),), repeated)], weight

    def _soon(self, begin: Buffer) -> Block:
        """What a later bundle begins with asked for: the rest follows it, as the processor foresees."""
        size = self.w.layout
        each = 4 * size.bundle * size.block
        later = load(begin, 0) + SOON // each
        return Prefetch(self.values, (later, as_expr(0)), 1), Prefetch(self.index, (later * size.bundle,), 1)


@dataclass(frozen=True)
class _Step:
    """before: what is done first.  rows: where each group's rows begin in the copy.  weight: (output, lanes) -> its weight."""

    before: Block
    rows: list[Expr]
    weight: Callable[[int, int], Expr]
