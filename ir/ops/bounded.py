"""Operators whose results fill a buffer of the largest size only in part, and say how far: the form in which results of a
size that only data tells (`data_sized.py`) are compiled.  What lies behind the valid part is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dims import as_dim, multiply_dims
from ..expr import Expr, all_of, as_expr, binary, cast, const, load, select
from ..kernel import Alloc, Block, Buffer, For, If, Kernel, Stmt, axis, nest, store
from ..types import Dim, TensorType, is_float
from .arithmetic import widen
from .base import Op
from .operands import require, require_count, require_scalar

_MOST_TURNS = 16  # of two rounds each: 2^32 rows


def _zeros(out: Buffer) -> Block:
    axes = tuple(axis(f"z{n}", d) for n, d in enumerate(out.shape))
    return nest(axes, (store(out, axes, const(0, out.dtype)),))


@dataclass(frozen=True)
class FindNonZero(Op):
    """The positions of what is not 0 in x, in row-major order, i64[rank, size of x], and how many there are, i64[]."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        return TensorType("i64", (x.rank, multiply_dims(x.shape))), TensorType("i64", ())

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        found = np.nonzero(np.atleast_1d(x))
        positions = np.zeros((x.ndim, x.size), np.int64)
        for d in range(x.ndim):
            positions[d, : len(found[0])] = found[d]
        return positions, np.array(len(found[0]), np.int64)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (positions, count), (x,) = outs, ins
        found = Buffer("found", "i64", (), "register")
        axes = tuple(axis(f"d{n}", size) for n, size in enumerate(x.shape))
        keep = [store(positions, (d, load(found)), i) for d, i in enumerate(axes)]
        taken = If(binary("ne", load(x, *axes), const(0, x.dtype)), (*keep, store(found, (), load(found) + 1)))
        body: tuple[Stmt, ...] = (
            Alloc(found), *_zeros(positions), store(found, (), 0), *nest(axes, (taken,)), store(count, (), load(found))
        )
        return Kernel("find_non_zero", (*outs, *ins), body)


@dataclass(frozen=True)
class RowOrder(Op):
    """The order i64[m] that sorts the rows of x[m, n]: lexicographically, NaN last, equal rows by position.

    Sorted in place by merging runs of 1, 2, 4, ... rows, from one buffer into the other."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        require(types[0].rank == 2, self, "expected a matrix, got {}", types[0])
        return (TensorType("i64", types[0].shape[:1]),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        order = np.arange(x.shape[0])
        for column in range(x.shape[1] - 1, -1, -1):
            order = order[np.argsort(x[order, column], kind="stable")]
        return (order.astype(np.int64),)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (order,), (x,) = outs, ins
        m = x.shape[0]
        if not isinstance(m, int):
            return Kernel("row_order", (*outs, *ins), _sort_rows(x, order))
        rounds = max(m - 1, 0).bit_length()
        other = Buffer("other", "i64", (m,), "stack")
        first, i = (order, other)[rounds % 2], axis("i", m)
        registers = [Buffer(name, "i64", (), "register") for name in ("left", "right", "state")]
        body: list[Stmt] = [Alloc(buf) for buf in (other, *registers) if rounds]
        body.append(For(i, (store(first, (i,), i),)))
        source, target = first, (order, other)[1 - rounds % 2]
        for n in range(rounds):
            body += _merge_runs(as_expr(2**n), x, source, target, registers)
            source, target = target, source
        return Kernel("row_order", (*outs, *ins), tuple(body))


def _sort_rows(x: Buffer, order: Buffer) -> Block:
    """The same for an open number of rows: two rounds after each other, so that the result is where it began, as long as runs
    are shorter than all of it."""
    m = as_expr(x.shape[0])
    other, width = Buffer("other", "i64", (x.shape[0],), "stack"), Buffer("width", "i64", (), "register")
    registers = [Buffer(name, "i64", (), "register") for name in ("left", "right", "state")]
    i, turn, now = axis("i", x.shape[0]), axis("turn", _MOST_TURNS), load(width)
    two_rounds = (
        *_merge_runs(now, x, order, other, registers), *_merge_runs(now * 2, x, other, order, registers),
        store(width, (), now * 4),
    )
    return (
        *(Alloc(buf) for buf in (other, width, *registers)), For(i, (store(order, (i,), i),)), store(width, (), as_expr(1)),
        For(turn, (If(binary("lt", now, m), two_rounds),)),
    )


def _merge_runs(width: Expr, x: Buffer, source: Buffer, target: Buffer, registers: Sequence[Buffer]) -> Block:
    """Every two neighbouring sorted runs of `width` rows as one."""
    m, n = as_expr(x.shape[0]), x.shape[1]
    left, right, state = registers
    run, at, column = axis("run", as_dim((m + (width * 2 - 1)) / (width * 2))), axis("at", as_dim(width * 2)), axis("column", n)
    start = run * (width * 2)
    middle, end = binary("min", start + width, m), binary("min", start + width * 2, m)
    a, b = load(x, load(source, load(left)), column), load(x, load(source, load(right)), column)
    compare = If(
        binary("eq", load(state), 0),
        (If(_before(b, a, x.dtype), (store(state, (), 1),)), If(_before(a, b, x.dtype), (store(state, (), 2),))),
    )
    both = binary("and", binary("lt", load(left), middle), binary("lt", load(right), end))
    take_left = (store(target, (start + at,), load(source, load(left))), store(left, (), load(left) + 1))
    take_right = (store(target, (start + at,), load(source, load(right))), store(right, (), load(right) + 1))
    rest_left = binary("lt", load(left), middle)
    step = (
        store(state, (), select(rest_left, const(2, "i64"), const(1, "i64"))),
        If(both, (store(state, (), 0), For(column, (compare,)))),
        If(binary("eq", load(state), 1), take_right, take_left),
    )
    inside = If(binary("lt", start + at, m), step)
    return (For(run, (store(left, (), start), store(right, (), middle), For(at, (inside,)))),)


def _before(a: Expr, b: Expr, dtype: str) -> Expr:
    less = binary("lt", a, b)
    if not is_float(dtype):
        return less
    return binary("or", less, binary("and", binary("eq", a, a), binary("ne", b, b)))


@dataclass(frozen=True)
class SuppressBoxes(Op):
    """Greedy non-maximum suppression: corners[N, B, 4] as (low, low, high, high); scores[N, C, B], falling, and which box
    each belongs to, i64; the most boxes per class, i64; the thresholds of overlap and score, f32.  Gives the boxes that
    are kept, i64[N * C * most, 3] as (n, class, box), and how many they are, i64[].  most: a bound of that per class."""

    most: Dim

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 6)
        corners, scores, order = types[:3]
        require(corners.rank == scores.rank == 3 and corners.shape[2] == 4, self, "got {} and {}", corners, scores)
        require(order == TensorType("i64", scores.shape), self, "the order {} does not fit {}", order, scores)
        require_scalar(self, "number of boxes", types[3], "i64")
        for t in types[4:]:
            require_scalar(self, "threshold", t, "f32")
        rows = multiply_dims((*scores.shape[:2], self.most))
        return TensorType("i64", (rows, 3)), TensorType("i64", ())

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        corners, scores, order, most, overlap, threshold = arrays
        assert isinstance(self.most, int)
        kept: list[tuple[int, int, int]] = []
        for n, c in np.ndindex(*scores.shape[:2]):
            boxes: list[int] = []
            for i, score in zip(order[n, c], scores[n, c], strict=True):
                free = all(overlap_of(corners[n, i], corners[n, k]) <= float(overlap) for k in boxes)
                if len(boxes) < min(int(most), self.most) and score > threshold and free:
                    boxes.append(int(i))
            kept += [(n, c, i) for i in boxes]
        rows = np.zeros((int(prod(scores.shape[:2])) * self.most, 3), np.int64)
        rows[: len(kept)] = np.array(kept, np.int64).reshape(-1, 3)
        return rows, np.array(len(kept), np.int64)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (kept, count), (corners, scores, order, most, overlap, threshold) = outs, ins
        total, start, free = (Buffer(n, "i64", (), "register") for n in ("total", "start", "free"))
        batch, classes, boxes = scores.shape
        n, c, i, k = axis("n", batch), axis("c", classes), axis("i", boxes), axis("k", self.most)
        box = load(order, n, c, i)
        mine = [load(corners, n, box, d) for d in range(4)]
        other = [load(corners, n, load(kept, load(start) + k, 2), d) for d in range(4)]
        room = binary("lt", load(total) - load(start), binary("min", load(most), as_expr(self.most)))
        meets = binary("lt", cast(load(overlap), "f64"), _overlap_expr(mine, other))
        earlier = If(binary("lt", load(start) + k, load(total)), (If(meets, (store(free, (), 0),)),))
        row = load(total)
        keep = (
            store(kept, (row, 0), n), store(kept, (row, 1), c), store(kept, (row, 2), box), store(total, (), row + 1),
        )
        good = all_of([room, binary("lt", load(threshold), load(scores, n, c, i))])
        one = If(good, (store(free, (), 1), For(k, (earlier,)), If(binary("eq", load(free), 1), keep)))
        rows = nest((n, c), (store(start, (), load(total)), For(i, (one,))))
        registers = (Alloc(total), Alloc(start), Alloc(free))
        body = (*registers, *_zeros(kept), store(total, (), 0), *rows, store(count, (), load(total)))
        return Kernel("suppress_boxes", (*outs, *ins), body)


def overlap_of(a: np.ndarray, b: np.ndarray) -> float:
    """The area of the intersection over that of the union; 0 for boxes without area.  Areas are f32, their ratio is f64."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(np.prod(sides))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if shared > 0 else 0.0


def _overlap_expr(a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
    zero = const(0.0, a[0].type.dtype)
    sides = [binary("max", binary("min", a[d + 2], b[d + 2]) - binary("max", a[d], b[d]), zero) for d in range(2)]
    shared = cast(sides[0] * sides[1], "f64")
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    total = cast(areas[0] + areas[1], "f64") - shared
    some = binary("lt", const(0.0, "f64"), shared)
    return select(some, shared / select(some, total, const(1.0, "f64")), const(0.0, "f64"))


@dataclass(frozen=True)
class Sized(Op):
    """The part of x that is valid, dense: x[: s[0], : s[1], ...] for the sizes s, i64[rank].  dims: what the sizes are
    called, numbers where they are known.  Only for outputs: their sizes are reported after the run."""

    dims: tuple[Dim, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 2)
        x, sizes = types
        fits = sizes == TensorType("i64", (x.rank,)) and len(self.dims) == x.rank
        require(fits, self, "the sizes {} do not fit {}", sizes, x)
        return (TensorType(x.dtype, self.dims),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, sizes = arrays
        return (np.ascontiguousarray(x[tuple(slice(0, int(n)) for n in sizes)]),)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        """Parameters (y, sizes of y, x, sizes): y has the largest size, its first elements are those of the result."""
        (y, told), (x, sizes) = outs, ins
        axes = tuple(axis(f"d{n}", size) for n, size in enumerate(x.shape))
        extents = [load(sizes, d) if isinstance(n, Expr) else as_expr(n) for d, n in enumerate(self.dims)]
        flat: Expr = as_expr(0)
        for i, n in zip(axes, extents, strict=True):
            flat = flat * n + i
        unknown = [(i, n) for i, n, d in zip(axes, extents, self.dims, strict=True) if isinstance(d, Expr)]
        move = If(all_of(binary("lt", i, n) for i, n in unknown), (store(y, (flat,), load(x, *axes)),))
        report = axis("d", len(x.shape))
        tell = For(report, (store(told, (report,), load(sizes, report)),))
        return Kernel("sized", (*outs, *ins), (*nest(axes, (move,)), tell))
