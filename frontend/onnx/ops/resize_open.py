"""Resampling along an axis whose size is known when the model runs: where each element comes from is computed then."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.image import Resize
from ....ir.ops.movement import Iota
from ....ir.types import DTYPES, Dim
from ..builder import OnnxBuilder

WORK = "f64"  # of positions: as exact as those of sizes that are known while compiling

_Position = Callable[[OnnxBuilder, Value, Value, Value, Value], Value]
"""Of element i, for an axis of m elements that becomes `length` long before rounding, `scale` times as long."""


def _half_pixel(b: OnnxBuilder, i: Value, m: Value, length: Value, scale: Value) -> Value:
    return b.binary("sub", b.binary("div", b.binary("add", i, 0.5), scale), 0.5)


def _pytorch_half_pixel(b: OnnxBuilder, i: Value, m: Value, length: Value, scale: Value) -> Value:
    return b.select(b.binary("eq", length, 1), b.scalar(0, WORK), _half_pixel(b, i, m, length, scale))


def _align_corners(b: OnnxBuilder, i: Value, m: Value, length: Value, scale: Value) -> Value:
    last = b.binary("max", b.binary("sub", length, 1), 1)  # of a single element i is 0
    return b.binary("div", b.binary("mul", i, b.binary("sub", m, 1)), last)


def _asymmetric(b: OnnxBuilder, i: Value, m: Value, length: Value, scale: Value) -> Value:
    return b.binary("div", i, scale)


_POSITIONS: dict[str, _Position] = {
    "half_pixel": _half_pixel, "half_pixel_symmetric": _half_pixel, "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners, "asymmetric": _asymmetric,
}  # fmt: skip


def resampled(b: OnnxBuilder, x: Value, axis: int, size: Dim, scale: float | None, how: Resize) -> Value:
    """x with one axis resampled: in the type of x for nearest, else in a float type.  scale: None for the ratio of the sizes.

    Raises ModelError for what needs the sizes while compiling."""
    symmetric = how.coordinates == "half_pixel_symmetric" and scale is not None
    if how.coordinates not in _POSITIONS or symmetric or how.antialias or how.exclude_outside:
        what = "antialias" if how.antialias else "exclude_outside" if how.exclude_outside else how.coordinates
        raise ModelError(f"axis {axis} of {x.type} must be known to be resized with {what}; bind it (--shape, --dim)")
    m, n = (b.cast(b.dim_tensor((d,), 0), WORK) for d in (x.type.shape[axis], size))
    factor = b.binary("div", n, m) if scale is None else b.scalar(scale, WORK)
    length = n if scale is None else b.binary("mul", m, factor)
    i = b.cast(b.add(Iota(size, "i64")), WORK)
    at = _POSITIONS[how.coordinates](b, i, m, length, factor)
    last = b.binary("sub", m, 1)

    def element(index: Value) -> Value:
        inside = b.binary("min", b.binary("max", index, 0), last)
        return b.gather(x, b.cast(inside, "i64"), axis)

    if how.mode == "nearest":
        return element(_rounded(b, at, how.nearest))
    low = b.unary("floor", at)
    part = b.binary("sub", at, low)
    work = x.type.dtype if DTYPES[x.type.dtype].kind == "f" else "f64" if DTYPES[x.type.dtype].size > 2 else "f32"
    column = (size, *(1,) * (x.type.rank - 1 - axis))
    terms = []
    for offset, weight in _weights(b, part, how):
        factor = b.reshape(b.cast(weight, work), column)
        terms.append(b.binary("mul", b.cast(element(b.binary("add", low, offset)), work), factor))
    return reduce(lambda s, t: b.binary("add", s, t), terms)


def in_type(b: OnnxBuilder, x: Value, dtype: str) -> Value:
    """Floats as integers of a type: rounded, within its limits."""
    if x.type.dtype == dtype:
        return x
    limits = np.iinfo(DTYPES[dtype].numpy)
    inside = b.binary("min", b.binary("max", b.unary("rint", x), float(limits.min)), float(limits.max))
    return b.cast(inside, dtype)


def _rounded(b: OnnxBuilder, at: Value, rounding: str) -> Value:
    if rounding in ("floor", "ceil"):
        return b.unary(rounding, at)
    if rounding == "round_prefer_floor":
        return b.unary("ceil", b.binary("sub", at, 0.5))
    return b.unary("floor", b.binary("add", at, 0.5))


def _weights(b: OnnxBuilder, part: Value, how: Resize) -> list[tuple[int, Value]]:
    """Neighbours of a position by their distance from the one below, and their weights; part: what is behind that one."""
    rest = b.binary("sub", b.scalar(1, WORK), part)
    if how.mode == "linear":
        return [(0, rest), (1, part)]
    a = how.cubic

    def inner(d: Value) -> Value:
        return b.binary("add", _polynomial(b, d, (a + 2, -(a + 3), 0.0)), 1)

    def outer(d: Value) -> Value:
        return b.binary("sub", _polynomial(b, d, (a, -5 * a, 8 * a)), 4 * a)

    return [(-1, outer(b.binary("add", part, 1))), (0, inner(part)), (1, inner(rest)), (2, outer(b.binary("add", rest, 1)))]


def _polynomial(b: OnnxBuilder, d: Value, factors: tuple[float, float, float]) -> Value:
    """((p * d + q) * d + r) * d."""
    p, q, r = factors
    return b.binary("mul", b.binary("add", b.binary("mul", b.binary("add", b.binary("mul", d, p), q), d), r), d)
