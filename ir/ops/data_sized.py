"""Operators whose results have a size that only their data tells: it is a symbolic dimension, `count`, a field of theirs.

They have no loops: targets with fixed sizes refuse them, the interpreter runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import Dim, TensorType
from .arithmetic import widen
from .base import Op
from .operands import require, require_axis, require_count, require_scalar


class DataSized:
    """Marks them: how many elements there are is known when they have run."""


@dataclass(frozen=True)
class NonZero(DataSized, Op):
    """The positions of what is not 0, i64[rank, count], in row-major order; NaN is not 0."""

    count: Dim

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        return (TensorType("i64", (types[0].rank, self.count)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = widen(arrays[0])
        found = np.nonzero(np.atleast_1d(x))
        return (np.array(found if x.ndim else [()] * 0, np.int64).reshape(x.ndim, len(found[0])),)


@dataclass(frozen=True)
class Unique(DataSized, Op):
    """The distinct elements of flat x, or slices along an axis; where each is first, which one every element is, how often
    each occurs.  sorted: in ascending order, else in that of their first occurrence."""

    axis: int | None
    sorted: bool
    count: Dim

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        if self.axis is None:
            require(x.is_static, self, "the size of {} must be known", x)
            shape, inverse = (self.count,), (x.size,)
        else:
            require_axis(self, self.axis, x)
            shape = (*x.shape[: self.axis], self.count, *x.shape[self.axis + 1 :])
            inverse = (x.shape[self.axis],)  # type: ignore[assignment]
        counts = TensorType("i64", (self.count,))
        return TensorType(x.dtype, shape), counts, TensorType("i64", inverse), counts

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = arrays[0].reshape(-1) if self.axis is None else arrays[0]
        axis = self.axis or 0
        _, first, inverse, counts = np.unique(widen(x), True, True, True, axis=axis)
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first, kind="stable")
            first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
        index = (a.astype(np.int64) for a in (first, inverse, counts))
        return (np.take(x, first, axis), *index)


@dataclass(frozen=True)
class NonMaxSuppression(DataSized, Op):
    """boxes[N, B, 4], scores[N, C, B], the most boxes per class (i64), the thresholds of overlap and score (f32): the boxes
    that are kept, i64[count, 3] as (n, class, box).  center: boxes are (x, y, width, height), else two corners (y, x, y, x)."""

    center: bool
    count: Dim

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
            if scores[i] > threshold and all(_overlap(corners[i], corners[k]) <= overlap for k in kept):
                kept.append(int(i))
        return kept


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The area of the intersection over that of the union; 0 for boxes without area."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(np.prod(sides))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if shared > 0 else 0.0
