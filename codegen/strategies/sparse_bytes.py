"""Results of bytes, finished where the sums of a sparse product lie: before they are turned round, not after.

    sums[n, row]  ->  word[q][row] = f(sums[4 q, row]) | f(sums[4 q + 1, row]) << 8 | ..     vectors along the rows
    word[q][row]  ->  out[row, 4 q .. 4 q + 3]                                               tiles of words change places

A quarter of the shuffles that turning sums of 32 bits takes.  What finishes the sums may read numbers per output only: they are
broadcast here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.compute import Compute
from ...ir.expr import Call, Expr, Load, Type, as_expr, binary, cast, load
from ...ir.kernel import Alloc, Block, Buffer, For, Store, axis, coefficient
from ...ir.traverse import substitute, uses, walk
from ...ir.types import DTYPES
from .sparse_forms import IMAGE, ROW, SparseProduct

BYTES = 4  # of a word


def finishes_bytes(p: SparseProduct, outputs: int, lanes: int) -> bool:
    """Whether a chunk of so many outputs can be finished so."""
    c = p.compute
    fits = c.acc == "i32" and DTYPES[c.out.dtype].size == 1 and outputs % (BYTES * lanes) == 0 and lanes >= 4
    return fits and not p.line and coefficient(c.out, c.out_index, p.columns) == 1 and all(
        not any(uses(i, v) for i in read.idx for v in p.at) for read in _finishing(c)
    )


def _finishing(c: Compute) -> list[Load]:
    """What is read beside the operands."""
    return [e for root in (c.finish, c.init) if isinstance(root, Expr) for e in walk(root) if isinstance(e, Load)]


@dataclass(frozen=True)
class FinishedBytes:
    """pitch: rows for which there are sums.  lanes: of a vector of sums."""

    p: SparseProduct
    pitch: int
    lanes: int

    def block(self, sums: Buffer, first: Expr, image: Expr, width: int, row: Expr, outputs: int) -> Block:
        """out[row .. row + width, first .. first + outputs] from sums[outputs, pitch]."""
        size, words = self.lanes, outputs // BYTES
        turned = Buffer("turned", "i32", (self.pitch, words), "stack")
        ib, nb, ti, tj = axis("ib", self.pitch // size), axis("nb", words // size), axis("ti", size), axis("tj", size)
        word = self._word(sums, first, (nb * size + ti) * BYTES, ib * size + tj)
        moved = Store(turned, (ib * size + tj, nb * size + ti), word)
        tiles = For(ib, (For(nb, (For(ti, (For(tj, (moved,)),)),)),))
        i = axis("i", width)
        return Alloc(turned), tiles, For(i, (self._store(turned, first, image, row, i, outputs),))

    def _word(self, sums: Buffer, first: Expr, n: Expr, lane: Expr) -> Expr:
        c, word = self.p.compute, None
        for j in range(BYTES):
            total = load(sums, n + j, lane)
            if c.init is not None:
                total = total + (c.init if isinstance(c.init, Expr) else as_expr(c.init, total.type))
            value = substitute(c.result(total), {self.p.columns: first + n + j})
            byte = binary("and", cast(value, "i32"), 255)
            byte = binary("shl", byte, 8 * j) if j else byte
            word = byte if word is None else binary("or", word, byte)
        assert word is not None
        return word

    def _store(self, turned: Buffer, first: Expr, image: Expr, row: Expr, i: Expr, outputs: int) -> Store:
        c, p = self.p.compute, self.p
        place: dict[Expr, Expr] = {ROW: row + i, IMAGE: image}
        mapping: dict[Expr, Expr] = {v: substitute(e, place) for v, e in p.at.items()}
        mapping[p.columns] = first
        words = Load.of(turned, (i, as_expr(0)), Type("i32", outputs // BYTES))
        joined = Call.of("bitcast", (words,), Type(c.out.dtype, outputs))
        return Store(c.out, tuple(substitute(e, mapping) for e in c.out_index), joined)
