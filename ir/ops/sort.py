"""Selection: the k largest or smallest elements along an axis, in order.

The order is total: by value, then by position, the lower one first.  NaN counts as larger than every number, as in
NumPy's sort.  The kernel keeps the best k of a row in a binary heap whose root is the worst of them, held in the output
itself; a row of n elements costs n comparisons and at most n sifts of log2(k) steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dims import multiply_dims, normal_dim, split_index
from ..expr import Expr, Var, as_expr, binary, const, load
from ..kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, axis, store
from ..types import Dim, TensorType, is_float
from .arithmetic import widen
from .base import Op
from .operands import require, require_axis, require_count

MOST_LEVELS = 40  # of a heap, where how large it is, is open


@dataclass(frozen=True)
class TopK(Op):
    """The k best elements along an axis, best first, and their i64 positions.  k == the axis' size sorts."""

    axis: int
    k: Dim
    largest: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        require_axis(self, self.axis, x)
        require(x.dtype != "bool", self, "cannot order bools; cast {}", x)
        n = x.shape[self.axis]
        k = self.k
        fits = not isinstance(k, int) or (k >= 0 and (not isinstance(n, int) or k <= n))
        require(fits, self, "k = {} elements are not in axis {} of {}", self.k, self.axis, x)
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return TensorType(x.dtype, shape), TensorType("i64", shape)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0]
        assert isinstance(self.k, int)
        keys = np.moveaxis(widen(x), self.axis, -1)
        if self.largest:  # ascending and stable over the reversed row, read backwards
            order = keys.shape[-1] - 1 - np.argsort(keys[..., ::-1], -1, kind="stable")[..., ::-1]
        else:
            order = np.argsort(keys, -1, kind="stable")
        indices = np.moveaxis(order[..., : self.k], -1, self.axis).astype(np.int64)
        return np.take_along_axis(x, indices, self.axis), indices

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        x = ins[0]
        others = [n for d, n in enumerate(x.shape) if d != self.axis]
        row = axis("row", multiply_dims(others))
        here = split_index(others, row)
        body = _Heap(self, outs, x, here).select() if self.k != 0 else ()
        return Kernel("top_k", (*outs, *ins), (For(row, body, "parallel"),))


class _Heap:
    """Writes the loops of one row.  A candidate is a value and its position; `pending` is the one being placed."""

    def __init__(self, op: TopK, outs: tuple[Buffer, ...], x: Buffer, here: list[Expr]) -> None:
        self.op, self.x, self.here = op, x, here
        self.values, self.indices = outs
        self.value = Buffer("value", x.dtype, (), "register")
        self.index = Buffer("index", "i64", (), "register")
        self.hole = Buffer("hole", "i64", (), "register")
        self.child = Buffer("child", "i64", (), "register")

    def at(self, i: Expr) -> tuple[Expr, ...]:
        return (*self.here[: self.op.axis], i, *self.here[self.op.axis :])

    def better(self, a: Expr, b: Expr) -> Expr:
        """Whether value a comes strictly before value b."""
        first, second = (b, a) if self.op.largest else (a, b)
        less = binary("lt", first, second)
        if not is_float(self.x.dtype):
            return less
        return binary("or", less, binary("and", binary("eq", first, first), binary("ne", second, second)))

    def worse(self, a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> Expr:
        """Whether candidate a comes after candidate b."""
        later = binary("lt", b[1], a[1])
        undecided = binary("eq", self.better(a[0], b[0]), const(False, "bool"))
        return binary("or", self.better(b[0], a[0]), binary("and", undecided, later))

    def slot(self, i: Expr) -> tuple[Expr, Expr]:
        return load(self.values, *self.at(i)), load(self.indices, *self.at(i))

    def put(self, i: Expr, candidate: tuple[Expr, Expr]) -> Block:
        return store(self.values, self.at(i), candidate[0]), store(self.indices, self.at(i), candidate[1])

    def take(self, candidate: tuple[Expr, Expr]) -> Block:
        return store(self.value, (), candidate[0]), store(self.index, (), candidate[1])

    def sift(self, start: Expr, size: Expr) -> Block:
        """Place the pending candidate at `start` or below it, in a heap of `size` slots.  Later steps do nothing."""
        pending = (load(self.value), load(self.index))
        hole, child = load(self.hole), load(self.child)
        left, right = hole * 2 + 1, hole * 2 + 2
        right_is_worse = If(self.worse(self.slot(right), self.slot(left)), (store(self.child, (), right),))
        move_up = (*self.put(hole, self.slot(child)), store(self.hole, (), child))
        descend: Block = (
            store(self.child, (), left),
            If(binary("lt", right, size), (right_is_worse,)),
            If(self.worse(self.slot(child), pending), move_up),
        )
        k = self.op.k
        levels = axis("level", max(k - 1, 1).bit_length() if isinstance(k, int) else MOST_LEVELS)
        descent = For(levels, (If(binary("lt", left, size), descend),))
        return (store(self.hole, (), start), descent, *self.put(hole, pending))

    def select(self) -> Block:
        size = self.op.k
        k, n = as_expr(size), as_expr(self.x.shape[self.op.axis])
        extents = (size, normal_dim(k // 2), normal_dim(n - k), normal_dim(k - 1))
        fill, parent, rest, taken = (axis(*each) for each in zip(("fill", "parent", "rest", "taken"), extents, strict=True))
        last = k // 2 - 1  # the last slot that has a child
        registers: list[Stmt] = [Alloc(b) for b in (self.value, self.index, self.hole, self.child)]
        return (
            *registers,
            For(fill, self.put(fill, self.read(fill))),
            *self.loop(parent, (*self.take(self.slot(last - parent)), *self.sift(last - parent, k))),
            *self.loop(rest, self.replace_root(rest + k)),
            *self.loop(taken, (
                *self.take(self.slot(k - 1 - taken)),
                *self.put(k - 1 - taken, self.slot(as_expr(0))),
                *self.sift(as_expr(0), k - 1 - taken),
            )),
        )

    def read(self, i: Expr) -> tuple[Expr, Expr]:
        return load(self.x, *self.at(i)), i

    def replace_root(self, i: Expr) -> Block:
        """An element that equals the root comes later than it, so only a better value enters."""
        enters = self.better(self.read(i)[0], self.slot(as_expr(0))[0])
        return (If(enters, (*self.take(self.read(i)), *self.sift(as_expr(0), as_expr(self.op.k)))),)

    def loop(self, var: Var, body: Block) -> Block:
        return () if var.extent == 0 else (For(var, body),)
