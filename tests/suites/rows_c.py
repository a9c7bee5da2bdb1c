"""Rows of the operators whose results fill a buffer in part: they run where programs are made of kernels."""

from __future__ import annotations

import numpy as np
from tilewright.ir.ops.bounded import FindNonZero, RowOrder, SuppressBoxes

from suites.row import Row, Spec

_NAN = float("nan")


def _some(*shape: int, dtype: str = "f32") -> Spec:
    return Spec(dtype, shape, -1, 1)


def _corners(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 4, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(-0.5, 3, (*shape, 2))], -1).astype(np.float32)


def _falling(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    order = np.argsort(-scores, -1, kind="stable").astype(np.int64)
    return np.take_along_axis(scores, order, -1), order


def _boxes(most: int, count: int, overlap: float, threshold: float) -> tuple[SuppressBoxes, tuple[np.ndarray, ...]]:
    limits = (np.array(count), np.array(overlap, np.float32), np.array(threshold, np.float32))
    return SuppressBoxes(most), (_corners(5, 2, 9), *_falling(2, 3, 9), *limits)


def _rows() -> list[Row]:
    rows = [Row(f"find-non-zero-{d}", FindNonZero(), (_some(3, 4, dtype=d),)) for d in ("i64", "u8", "bool", "i8")]
    holes = np.array([[0.0, _NAN, -0.0], [1e-40, 0, -2]])
    rows += [Row(f"find-non-zero-{d}", FindNonZero(), (holes.astype(d),)) for d in ("float32", "float16", "float64")]
    rows += [
        Row("find-non-zero-scalar", FindNonZero(), (np.array(3, np.int32),)),
        Row("find-non-zero-empty", FindNonZero(), (np.zeros((2, 0), np.int32),)),
    ]
    for m, n in ((1, 3), (2, 2), (7, 2), (8, 1), (13, 3), (6, 0)):
        rows.append(Row(f"row-order-{m}x{n}", RowOrder(), (_some(m, n, dtype="i32"),)))
    gaps = np.array([[1, _NAN], [_NAN, 0], [1, 2], [_NAN, 0], [0, _NAN], [-0.0, 1]])
    rows += [Row(f"row-order-nan-{d}", RowOrder(), (gaps.astype(d),)) for d in ("float32", "float64", "float16")]
    for name, parts in {
        "all": (9, 9, 0.5, -2.0), "few": (2, 9, 0.3, 0.0), "count": (9, 1, 0.5, 0.0), "none": (9, 0, 0.5, 0.0),
        "apart": (9, 9, 0.0, -2.0), "high": (9, 9, 0.5, 0.9),
    }.items():
        rows.append(Row(f"suppress-{name}", *_boxes(*parts)))
    return rows


ROWS: tuple[Row, ...] = tuple(_rows())

