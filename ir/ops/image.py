"""Resampling of images: Resize to another size with constant weights, GridSample at positions read from data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ..dims import multiply_dims
from ..types import DTYPES, TensorType
from .base import Op
from .contract import MatMul
from .elementwise import Binary, Cast, Select, Unary
from .interpolation import (
    COORDINATES,
    CUBIC,
    NEAREST,
    Axis,
    Taps,
    cubic,
    nearest_index,
    source_positions,
    triangle,
    weighted_taps,
)
from .movement import Broadcast, Gather, Reshape, Slice
from .operands import require, require_axis, require_count

if TYPE_CHECKING:
    from ..graph import Builder, Value

_MOST_TAPS = 4  # more of them become a matrix product


@dataclass(frozen=True)
class Resize(Op):
    """x with some axes resampled, one after the other.

    axes, sizes, scales: the resized axes, their new sizes, and new / old size before rounding; these axes are static.
    mode: nearest, linear or cubic; coordinates, nearest: ONNX's coordinate_transformation_mode and nearest_mode;
    cubic: its coefficient; exclude_outside and antialias: as in ONNX, for linear and cubic; roi: starts, then ends, of
    the axes, and extrapolation: what lies outside of x, for tf_crop_and_resize.  Integers are rounded and saturated.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    mode: str
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = CUBIC
    exclude_outside: bool = False
    antialias: bool = False
    roi: tuple[float, ...] = ()
    extrapolation: float = 0.0

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_count(self, types, 1)
        (x,) = types
        require(self.mode in ("nearest", "linear", "cubic"), self, "unknown mode {!r}", self.mode)
        require(self.coordinates in COORDINATES, self, "unknown coordinate transformation {!r}", self.coordinates)
        require(self.nearest in NEAREST, self, "unknown nearest mode {!r}", self.nearest)
        require(not (self.antialias and self.mode == "nearest"), self, "antialias needs the mode linear or cubic")
        require(self.mode == "nearest" or x.dtype != "bool", self, "cannot interpolate {}; cast it", x)
        counts = len(self.axes) == len(self.sizes) == len(self.scales) == len(set(self.axes))
        require(counts and len(self.roi) in (0, 2 * len(self.axes)), self, "expected one size per axis, got {}", self)
        require(self.coordinates != "tf_crop_and_resize" or len(self.roi) > 0, self, "tf_crop_and_resize needs a roi")
        shape = list(x.shape)
        for d, size, scale in zip(self.axes, self.sizes, self.scales, strict=True):
            require_axis(self, d, x)
            known = isinstance(x.shape[d], int)
            require(known, self, "axis {} of {} must be known when the model is compiled; give its size", d, x)
            require(size == 0 or (x.shape[d] != 0 and scale > 0), self, "axis {} of {} cannot become {}", d, x, size)
            shape[d] = size
        return (TensorType(x.dtype, tuple(shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        out = x if self.mode == "nearest" else x.astype(np.float64)
        outside = np.zeros((), np.bool_)
        for d, axis in self._axes(x.shape):
            if self.mode == "nearest":
                out = np.take(out, nearest_index(axis, self.coordinates, self.nearest), d)
            else:
                out = np.moveaxis(np.tensordot(self._taps(axis).dense(axis.extent), out, (1, d)), 0, d)
            outside = outside | self._outside(axis).reshape(-1, *(1,) * (x.ndim - 1 - d))
        out = np.where(outside, np.array(self.extrapolation).astype(out.dtype), out)
        if x.dtype.kind in "iu" and self.mode != "nearest":
            limits = np.iinfo(x.dtype)
            out = np.clip(np.rint(out), limits.min, limits.max)
        return (out.astype(x.dtype),)

    def expand(self, b: Builder, *values: Value) -> tuple[Value, ...]:
        (x,) = values
        dtype = x.type.dtype
        work = dtype if self.mode == "nearest" else _work_dtype(dtype)
        y = x if work == dtype else b.add(Cast(work), x)
        outside = np.zeros((), np.bool_)
        for d, axis in self._axes(x.type.shape):
            if self.mode == "nearest":
                y = _pick(b, y, d, nearest_index(axis, self.coordinates, self.nearest))
            else:
                y = _interpolate(b, y, d, self._taps(axis), axis.extent)
            outside = outside | self._outside(axis).reshape(-1, *(1,) * (x.type.rank - 1 - d))
        if outside.any():
            value = np.array(self.extrapolation).astype(DTYPES[work].numpy)
            y = b.add(Select(), b.constant(outside), b.constant(value), y)
        return (y if work == dtype else _round_to(b, y, dtype),)

    def _axes(self, shape: Sequence[object]) -> list[tuple[int, Axis]]:
        n = len(self.axes)
        rois = list(zip(self.roi[:n], self.roi[n:], strict=True)) or [(0.0, 1.0)] * n
        rows = zip(self.axes, self.sizes, self.scales, rois, strict=True)
        return [(d, Axis(int(shape[d]), size, scale, roi)) for d, size, scale, roi in rows]  # type: ignore[call-overload]

    def _taps(self, axis: Axis) -> Taps:
        if self.mode == "linear":
            return weighted_taps(axis, self.coordinates, triangle, 1, self.antialias, self.exclude_outside)
        shape = lambda x: cubic(x, self.cubic)  # noqa: E731
        return weighted_taps(axis, self.coordinates, shape, 2, self.antialias, self.exclude_outside)

    def _outside(self, axis: Axis) -> np.ndarray:
        x = source_positions(axis, self.coordinates)
        return ((x < 0) | (x > axis.extent - 1)) & (self.coordinates == "tf_crop_and_resize")


def _work_dtype(dtype: str) -> str:
    """What an element type is interpolated in: f32 holds integers of up to 16 bits."""
    return "f64" if DTYPES[dtype].size > 2 and dtype != "f32" else "f32"


def _round_to(b: Builder, x: Value, dtype: str) -> Value:
    if DTYPES[dtype].kind in "iu":
        x = b.add(Unary("rint"), x)
        limits = np.iinfo(DTYPES[dtype].numpy)
        for fn, limit in (("max", limits.min), ("min", limits.max)):
            x = b.add(Binary(fn), x, b.constant(np.array(limit, DTYPES[x.type.dtype].numpy)))
    return b.add(Cast(dtype), x)


def _pick(b: Builder, x: Value, d: int, index: np.ndarray) -> Value:
    """Elements of axis d: by the cheapest operator that does it."""
    shape, size = x.type.shape, len(index)
    extent = int(shape[d])  # type: ignore[call-overload]
    if size == 0 or extent == 0:
        return b.add(Gather(d), x, b.constant(index))
    step = int(index[1] - index[0]) if size > 1 else 1
    if step and np.array_equal(index, index[0] + step * np.arange(size)):
        if size == extent and step == 1:
            return x
        starts = tuple(int(index[0]) if i == d else 0 for i in range(len(shape)))
        steps = tuple(step if i == d else 1 for i in range(len(shape)))
        return b.add(Slice(starts, (*shape[:d], size, *shape[d + 1 :]), steps), x)
    if size % extent == 0 and np.array_equal(index, np.arange(size) // (size // extent)):
        before, after = shape[: d + 1], shape[d + 1 :]
        y = b.add(Broadcast((*before, size // extent, *after)), b.add(Reshape((*before, 1, *after)), x))
        return b.add(Reshape((*shape[:d], size, *after)), y)
    return b.add(Gather(d), x, b.constant(index))


def _interpolate(b: Builder, x: Value, d: int, taps: Taps, extent: int) -> Value:
    """A few taps become a weighted sum of gathers, many a product with the matrix of weights."""
    used = [k for k in range(taps.index.shape[1]) if taps.weights[:, k].any()]
    shape = x.type.shape
    dtype = DTYPES[x.type.dtype].numpy
    if len(used) > _MOST_TAPS:
        folded = b.add(Reshape((multiply_dims(shape[:d]), extent, multiply_dims(shape[d + 1 :]))), x)
        y = b.add(MatMul(), b.constant(taps.dense(extent).astype(dtype)), folded)
        return b.add(Reshape((*shape[:d], len(taps.index), *shape[d + 1 :])), y)
    terms: list[Value] = []
    for k in used or [0]:
        term = _pick(b, x, d, taps.index[:, k])
        weights = taps.weights[:, k].reshape(-1, *(1,) * (len(shape) - 1 - d)).astype(dtype)
        if not (weights == 1).all():
            term = b.add(Binary("mul"), term, b.constant(weights))
        terms.append(term)
    return reduce(lambda x, y: b.add(Binary("add"), x, y), terms)
