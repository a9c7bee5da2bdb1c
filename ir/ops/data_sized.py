"""Operators whose results have a size that only their data tells: it is symbolic dimensions, fields of theirs.

They have no loops.  `bounded` says what they are made of where memory has a fixed size: results of the largest size, and
the count as a value (compiler/passes/bound_sizes.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..dims import as_dim, volume
from ..types import Dim, TensorType, is_float
from .arithmetic import widen
from .base import Op
from .bounded import FindNonZero, RowOrder, SuppressBoxes, overlap_of
from .dim_tensor import DimTensor
from .elementwise import Binary, Cast, Unary
from .movement import Broadcast, Concat, Gather, Iota, Reshape, Slice, Transpose
from .operands import require, require_axis, require_count, require_scalar
from .reduce import CumSum, Reduce
from .scatter import ScatterElements
from .sort import TopK
from .text import TextPieces, TextRank

if TYPE_CHECKING:
    from ..graph import Builder, Value


class DataSized:
    """Marks them: how large their results are is known when they have run."""

    counts: tuple[Dim, ...]
    """The sizes; those that are no symbols are known."""
    neutral: ClassVar[int | None] = None
    """An element of an operand that finds nothing, if there is one: it stands behind what is valid of the operand."""
    takes_open: ClassVar[bool] = False
    """Whether `bounded` takes operands of open dimensions."""

    @property
    def told(self) -> tuple[Dim, ...]:
        return self.counts

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        """The results in the largest size that they can have for these operands, of static types, and the counts, i64[]:
        what lies behind them is not to be read.  A copy of an operand's type has the operand's size."""
        raise NotImplementedError


class Counted(DataSized):
    """Those with one size."""

    count: Dim

    @property
    def counts(self) -> tuple[Dim, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.count,)


@dataclass(frozen=True)
class NonZero(Counted, Op):
    """The positions of what is not 0, i64[rank, count], in row-major order; NaN is not 0."""

    count: Dim
    neutral = 0
    takes_open = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        return (TensorType("i64", (types[0].rank, self.count)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        found = np.nonzero(np.atleast_1d(x))
        return (np.array(found if x.ndim else [()] * 0, np.int64).reshape(x.ndim, len(found[0])),)

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        positions, count = b.add_multi(FindNonZero(), *values)
        return (positions,), (count,)


@dataclass(frozen=True)
class Unique(Counted, Op):
    """The distinct elements of flat x, or slices along an axis; where each is first, which one every element is, how often
    each occurs.  sorted: in ascending order, else in that of their first occurrence."""

    axis: int | None
    sorted: bool
    count: Dim
    takes_open = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        if self.axis is None:
            shape, inverse = (self.count,), (volume(x.shape),)
        else:
            require_axis(self, self.axis, x)
            shape = (*x.shape[: self.axis], self.count, *x.shape[self.axis + 1 :])
            inverse = (x.shape[self.axis],)
        counts = TensorType("i64", (self.count,))
        return TensorType(x.dtype, shape), counts, TensorType("i64", inverse), counts

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(-1) if self.axis is None else arrays[0]
        axis = self.axis or 0
        keys = widen(x)
        if x.dtype == object:
            keys = TextRank().evaluate(x.reshape(-1))[0].reshape(x.shape)
        _, first, inverse, counts = np.unique(keys, True, True, True, axis=axis)
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first, kind="stable")
            first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
        index = (a.astype(np.int64) for a in (first, inverse, counts))
        return (np.take(x, first, axis), *index)

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        """Sort the rows; where one differs from that before, a group begins; its first row is the one of lowest position."""
        (x,) = values
        if self.axis is None:
            x = b.add(Reshape((volume(x.type.shape),)), x)
        axis = self.axis or 0
        m = x.type.shape[axis]
        rows = _rows(b, x, axis)
        order = b.add(RowOrder(), rows)
        group, count = _groups(b, b.add(Gather(0), rows, order))
        zeros, ones = (_full(b, m, n) for n in (0, 1))
        first = b.add(ScatterElements(0, "min"), _full(b, m, m), group, order)
        inverse = b.add(ScatterElements(0, "none"), zeros, order, group)
        counts = b.add(ScatterElements(0, "add"), zeros, group, ones)
        if not self.sorted:
            by_position = b.add(RowOrder(), b.add(Reshape((m, 1)), first))
            first, counts = (b.add(Gather(0), v, by_position) for v in (first, counts))
            rank = b.add(ScatterElements(0, "none"), zeros, by_position, b.add(Iota(m, "i64")))
            inverse = b.add(Gather(0), rank, inverse)
        return (b.add(Gather(axis), x, first), first, inverse, counts), (count,)


@dataclass(frozen=True)
class NonMaxSuppression(Counted, Op):
    """boxes[N, B, 4], scores[N, C, B], the most boxes per class (i64), the thresholds of overlap and score (f32): the boxes
    that are kept, i64[count, 3] as (n, class, box).  center: boxes are (x, y, width, height), else two corners (y, x, y, x)."""

    center: bool
    count: Dim
    takes_open = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 5)
        boxes, scores = types[:2]
        fits = boxes.rank == scores.rank == 3 and boxes.shape[2] == 4
        fits = fits and boxes.shape[0] == scores.shape[0] and boxes.shape[1] == scores.shape[2]
        require(fits, self, "expected boxes[N, B, 4] and scores[N, C, B], got {} and {}", boxes, scores)
        for what, t, dtype in zip(("number of boxes", "overlap", "score"), types[2:], ("i64", "f32", "f32"), strict=True):
            require_scalar(self, what, t, dtype)
        return (TensorType("i64", (self.count, 3)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        boxes, scores, most, overlap, threshold = arrays
        kept: list[tuple[int, int, int]] = []
        for n, c in np.ndindex(*scores.shape[:2]):
            corners = self._corners(boxes[n])
            kept += [(n, c, i) for i in self._select(corners, scores[n, c], int(most), float(overlap), float(threshold))]
        return (np.array(kept, np.int64).reshape(-1, 3),)

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        boxes, scores, most, overlap, threshold = values
        known = b.constants.get(most)
        largest = boxes.type.shape[1]
        if known is not None:
            largest = max(0, min(largest, int(known)) if isinstance(largest, int) else int(known))
        (n, count, _), full = boxes.type.shape, (1, 1, 1)
        first, second = (b.add(Slice((0, 0, d), (n, count, 2), full), boxes) for d in (0, 2))
        if self.center:
            half = b.add(Binary("div"), second, b.constant(np.array(2, np.float32)))
            first, second = b.add(Binary("sub"), first, half), b.add(Binary("add"), first, half)
        corners = b.add(Concat(2), b.add(Binary("min"), first, second), b.add(Binary("max"), first, second))
        ordered, order = b.add_multi(TopK(2, scores.type.shape[2], True), scores)
        kept, count = b.add_multi(SuppressBoxes(largest), corners, ordered, order, most, overlap, threshold)
        return (kept,), (count,)

    def _corners(self, boxes: np.ndarray) -> np.ndarray:
        """[B, 4]: the lower corner, then the upper one."""
        first, second = boxes[:, :2], boxes[:, 2:]
        if self.center:
            first, second = first - second / 2, first + second / 2
        return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)

    @staticmethod
    def _select(corners: np.ndarray, scores: np.ndarray, most: int, overlap: float, threshold: float) -> list[int]:
        """Boxes by falling score, without those that overlap with one before."""
        kept: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if len(kept) >= most:
                break
            if scores[i] > threshold and all(overlap_of(corners[i], corners[k]) <= overlap for k in kept):
                kept.append(int(i))
        return kept


@dataclass(frozen=True)
class SplitText(Counted, Op):
    """Strings cut at a delimiter, str[1], at white space if it is empty: the pieces str[*shape, count], "" behind the last
    of a string that has fewer, and how many each has, i64[*shape].  cuts: that many at most, -1: everywhere; the last
    piece is the rest.  More than `most` pieces are an error of the run."""

    cuts: int
    most: int
    count: Dim

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        pieces, counts = TextPieces(self.cuts, self.most).infer(*types)
        return TensorType("str", (*pieces.shape[:-1], self.count)), counts

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        pieces, counts = TextPieces(self.cuts, self.most).evaluate(*arrays)
        return pieces[..., : counts.max(initial=0)], counts

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        pieces, counts = b.add_multi(TextPieces(self.cuts, self.most), *values)
        widest = b.add(Reduce("max", tuple(range(counts.type.rank)), False), counts)
        return (pieces, counts), (b.add(Binary("max"), widest, b.constant(np.array(0, np.int64))),)


def _full(b: Builder, m: Dim, value: Dim) -> Value:
    """i64[m] of one number."""
    if isinstance(m, int) and isinstance(value, int):
        return b.constant(np.full(m, value, np.int64))
    one = b.constant(np.array(value, np.int64)) if isinstance(value, int) else b.add(DimTensor((value,), ()))
    return b.add(Broadcast((m,)), one)


def _rows(b: Builder, x: Value, axis: int) -> Value:
    """The slices along an axis as rows."""
    rank = x.type.rank
    if axis:
        x = b.add(Transpose((axis, *(d for d in range(rank) if d != axis))), x)
    m, *others = x.type.shape
    if x.type.dtype == "str":
        x = b.add(TextRank(), b.add(Reshape((volume(x.type.shape),)), x))
    rows = b.add(Reshape((m, volume(others))), x)
    return b.add(Cast("u8"), rows) if x.type.dtype == "bool" else rows


def _groups(b: Builder, rows: Value) -> tuple[Value, Value]:
    """Which group of equal rows each of the sorted rows is in, from 0, and how many groups there are."""
    m, n = rows.type.shape
    if m == 0:
        return b.constant(np.zeros(0, np.int64)), b.constant(np.array(0, np.int64))
    before, after = (b.add(Slice((start, 0), (as_dim(m - 1), n), (1, 1)), rows) for start in (0, 1))
    other = b.add(Binary("ne"), before, after)
    if is_float(rows.type.dtype):  # NaN equals NaN
        both = b.add(Binary("and"), b.add(Binary("ne"), before, before), b.add(Binary("ne"), after, after))
        other = b.add(Binary("and"), other, b.add(Unary("not"), both))
    zero = b.constant(np.array(0, np.int64))
    begins = b.add(Binary("max"), b.add(Reduce("max", (1,), False), b.add(Cast("i64"), other)), zero)  # without columns: 0
    group = b.add(CumSum(0, False, False), b.add(Concat(0), b.constant(np.zeros(1, np.int64)), begins))
    last = b.add(Reshape(()), b.add(Slice((as_dim(m - 1),), (1,), (1,)), group))
    return group, b.add(Binary("add"), last, b.constant(np.array(1, np.int64)))
