"""Which elements of an axis, with which weights, make each element of the resized axis: the tables of ONNX's Resize.

Everything here is known at compile time: NumPy in f64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """One resized axis.  extent, size: elements before and after; roi: the part that is kept, in parts of the axis."""

    extent: int
    size: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def length(self) -> float:
        """The size before rounding."""
        return self.extent * self.scale


class Taps(NamedTuple):
    """out[i] = sum over k of weights[i, k] * x[index[i, k]]; indices lie inside of the axis."""

    index: np.ndarray
    weights: np.ndarray

    def dense(self, extent: int) -> np.ndarray:
        """The same as a matrix [size, extent]."""
        matrix = np.zeros((len(self.index), extent))
        np.add.at(matrix, (np.arange(len(self.index))[:, None], self.index), self.weights)
        return matrix


def _align_corners(a: Axis, i: np.ndarray) -> np.ndarray:
    return i * 0 if a.length == 1 else i * (a.extent - 1) / (a.length - 1)


def _half_pixel(a: Axis, i: np.ndarray) -> np.ndarray:
    return (i + 0.5) / a.scale - 0.5


def _pytorch_half_pixel(a: Axis, i: np.ndarray) -> np.ndarray:
    return i * 0 - 0.5 if a.length == 1 else _half_pixel(a, i)


def _half_pixel_symmetric(a: Axis, i: np.ndarray) -> np.ndarray:
    return a.extent / 2 * (1 - a.size / a.length) + _half_pixel(a, i)


def _crop_and_resize(a: Axis, i: np.ndarray) -> np.ndarray:
    start, end = a.roi
    if a.length == 1:
        return i * 0 + (start + end) / 2 * (a.extent - 1)
    return start * (a.extent - 1) + i * (end - start) * (a.extent - 1) / (a.length - 1)


COORDINATES: dict[str, Callable[[Axis, np.ndarray], np.ndarray]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": lambda a, i: i / a.scale,
    "tf_crop_and_resize": _crop_and_resize,
}
NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
CUBIC = -0.75


def source_positions(a: Axis, coordinates: str) -> np.ndarray:
    """Where on the axis each element of the resized axis lies, as fractional indices."""
    return COORDINATES[coordinates](a, np.arange(a.size, dtype=np.float64))


def nearest_index(a: Axis, coordinates: str, rounding: str) -> np.ndarray:
    """The index that each element of the resized axis takes."""
    return np.clip(NEAREST[rounding](source_positions(a, coordinates)), 0, a.extent - 1).astype(np.int64)


def triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE Trans. ASSP 29, 1981)."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def weighted_taps(a: Axis, coordinates: str, shape: Callable[[np.ndarray], np.ndarray], radius: int, antialias: bool,
                  exclude_outside: bool) -> Taps:
    """Taps under a filter of the given shape and radius.  antialias: the filter is widened when the axis shrinks.
    Elements outside of the axis repeat the border, or are left out (exclude_outside)."""
    x = source_positions(a, coordinates)
    stretch = min(a.scale, 1.0) if antialias else 1.0
    reach = int(np.ceil(radius / stretch))
    index = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weights = shape((index - x[:, None]) * stretch)
    if exclude_outside:
        weights = np.where((index >= 0) & (index < a.extent), weights, 0.0)
    if antialias or exclude_outside:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return Taps(np.clip(index, 0, a.extent - 1), weights)
